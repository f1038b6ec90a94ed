// All small maps on one sheet, as SVG or PNG.
import { el, svg } from "./dom.js";

const CELL = { width: 120, height: 138, map: 108, left: 6, top: 4, gap: 12 };
const COLUMNS = 8;
const HEAD = 30;
const PNG_SCALE = 2;

/** `tiles`: [{canvas, name, words}]. Returns the SVG's text and its size. */
function sheetSvg(title, tiles) {
  const columns = Math.min(COLUMNS, Math.max(1, tiles.length));
  const width = columns * CELL.width + 2 * CELL.gap;
  const height = HEAD + Math.ceil(tiles.length / columns) * CELL.height + CELL.gap;
  const text = (x, y, size, words) => {
    const made = svg("text", { x, y, "font-size": size, "font-family": "system-ui, sans-serif", fill: "#1c2733" });
    made.textContent = words;
    return made;
  };
  const sheet = svg(
    "svg",
    { width, height, viewBox: `0 0 ${width} ${height}` },
    svg("rect", { width, height, fill: "#ffffff" }),
    text(CELL.gap, 20, 13, title),
  );
  sheet.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  tiles.forEach(({ canvas, name, words }, at) => {
    const x = CELL.gap + (at % columns) * CELL.width + CELL.left;
    const y = HEAD + Math.floor(at / columns) * CELL.height + CELL.top;
    const image = svg("image", {
      x,
      y,
      width: CELL.map,
      height: CELL.map,
      href: canvas.toDataURL("image/png"),
      "image-rendering": "pixelated",
    });
    const shown = name.length > 20 ? `…${name.slice(-19)}` : name;
    sheet.append(image, text(x, y + CELL.map + 11, 9, shown), text(x, y + CELL.map + 21, 9, words));
  });
  return { text: new XMLSerializer().serializeToString(sheet), width, height };
}

/** The sheet as a blob of SVG or PNG. */
export async function sheet(title, tiles, format) {
  const { text, width, height } = sheetSvg(title, tiles);
  const blob = new Blob([text], { type: "image/svg+xml" });
  if (format === "svg") return blob;
  const picture = new Image();
  picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await picture.decode();
  const canvas = el("canvas", { width: width * PNG_SCALE, height: height * PNG_SCALE });
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
