// Layers as a tree of their names, and patterns over them.
import { el, fill } from "./dom.js";
import { whole } from "./words.js";

/** Whether a name fits a pattern: `*` and `?` stand for letters; without them, any name that holds the text fits. */
export function fits(name, pattern) {
  const wanted = pattern.trim().toLowerCase();
  if (!wanted) return true;
  const lower = name.toLowerCase();
  return /[*?]/.test(wanted) ? globs(lower, wanted) : lower.includes(wanted);
}

// By hand, without going back more than to the last star: a pattern from outside cannot make this slow.
function globs(text, pattern) {
  let [at, p, star, mark] = [0, 0, -1, 0];
  while (at < text.length) {
    if (pattern[p] === "*") {
      star = p++;
      mark = at;
    } else if (p < pattern.length && (pattern[p] === "?" || pattern[p] === text[at])) {
      at++;
      p++;
    } else if (star >= 0) {
      p = star + 1;
      at = ++mark;
    } else return false;
  }
  while (pattern[p] === "*") p++;
  return p === pattern.length;
}

/** Fill an element with the tree. `onLayer` gets a layer's name, `onBranch` a pattern for all below. */
export function showTree(parent, names, { onLayer, onBranch }) {
  const root = { children: new Map(), leaves: 0 };
  for (const name of names) {
    let node = root;
    const parts = name.split(".");
    for (const part of parts.slice(0, -1)) {
      node.leaves++;
      if (!node.children.has(part)) node.children.set(part, { children: new Map(), leaves: 0 });
      node = node.children.get(part);
    }
    node.leaves++;
    (node.own ??= []).push([parts.at(-1), name]);
  }
  const branch = (node, prefix, depth) => [
    ...[...node.children].map(([part, child]) => {
      const pattern = `${prefix}${part}.*`;
      const only = el("button", { type: "button", className: "quiet only", title: `Show ${pattern} alone` }, "only");
      only.addEventListener("click", (event) => {
        event.preventDefault();
        onBranch(pattern);
      });
      return el(
        "details",
        { open: depth === 0 && root.children.size <= 4 },
        el("summary", {}, part, el("span", { className: "dim" }, ` ${whole(child.leaves)}`), only),
        branch(child, `${prefix}${part}.`, depth + 1),
      );
    }),
    ...(node.own ?? []).map(([part, name]) => {
      const leaf = el("button", { type: "button", className: "quiet leaf", title: name }, part);
      leaf.addEventListener("click", () => onLayer(name));
      return leaf;
    }),
  ];
  fill(parent, branch(root, "", 0));
}
