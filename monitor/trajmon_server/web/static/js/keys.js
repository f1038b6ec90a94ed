// Keys that work everywhere on a page, and the list of them.
import { $, el, fill } from "./dom.js";

/** `bindings`: key, what it does in words, action. Keys typed into a field, or with Ctrl, Alt or Meta, are left alone. */
export function keys(bindings) {
  const dialog = el("dialog", { className: "keys", "aria-label": "Keys" });
  const rows = [...bindings, ["?", "this list", null]];
  fill(
    dialog,
    el("h2", {}, "Keys"),
    el(
      "table",
      {},
      rows.map(([key, words]) => el("tr", {}, el("td", {}, el("kbd", {}, key)), el("td", {}, words))),
    ),
    el("form", { method: "dialog" }, el("button", { className: "quiet" }, "Close")),
  );
  document.body.append(dialog);
  $("help").hidden = false;
  $("help").addEventListener("click", () => dialog.showModal());
  addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input:not([type=range], [type=checkbox]), select, textarea, dialog[open]");
    if (typing || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "?") {
      event.preventDefault();
      dialog.showModal();
      return;
    }
    const found = bindings.find(([key, , action]) => key === event.key && action);
    if (found) {
      event.preventDefault();
      found[2]();
    }
  });
}
