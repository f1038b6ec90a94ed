// Saving a picture: PNG and SVG out of the page, data from the server.
import { el, fill } from "./dom.js";
import { fileName } from "./words.js";

const PNG_SCALE = 3;

/** Hand a blob to the reader as a file. */
export function download(blob, name) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/**
 * Make a menu of a `<details>`. `entries`: [text, action], or [text, address] for what the server writes. An action
 * returns {blob, name}, and the menu closes.
 */
export function saveMenu(details, entries) {
  const rows = entries.map(([text, target]) => {
    if (typeof target === "string") return el("a", { href: target, download: "" }, text);
    const button = el("button", { type: "button" }, text);
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        const { blob, name } = await target();
        download(blob, name);
      } finally {
        button.disabled = false;
        details.open = false;
      }
    });
    return button;
  });
  fill(details, el("summary", {}, "Save"), el("div", {}, rows));
}

/** A plot as it is shown, as PNG or SVG. */
export async function plotFile(gd, format, ...name) {
  const { width, height } = gd.getBoundingClientRect();
  const url = await Plotly.toImage(gd, { format, width, height, scale: format === "png" ? PNG_SCALE : 1 });
  const blob =
    format === "svg"
      ? new Blob([decodeURIComponent(url.slice(url.indexOf(",") + 1))], { type: "image/svg+xml" })
      : bytes(url);
  return { blob, name: `${fileName(...name)}.${format}` };
}

/** Text as a file. */
export const textFile = (text, type, name) => ({ blob: new Blob([text], { type }), name });

// Without fetch(): the security policy lets the page connect to its server alone.
function bytes(url) {
  const [head, data] = url.split(",");
  return new Blob([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], {
    type: head.slice(5).split(";")[0],
  });
}
