// Elements without markup: whatever comes from outside goes in as text.

/** The element with this id. */
export const $ = (id) => document.getElementById(id);

/** A new element. `properties` are properties of it, `data-*`, `aria-*`, `role` and `for` attributes; children are nodes or texts. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.includes("-") || ["role", "for", "scope", "list"].includes(name)) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** A new SVG element with attributes. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Replace all children; the same children again change nothing that has the focus. */
export function fill(parent, ...children) {
  parent.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
}

/** Make the options of a select: [value, text] each, or {label, options} for a group. Keeps what is chosen if it is still there. */
export function options(select, entries, chosen = select.value) {
  const one = ([value, text]) => el("option", { value, textContent: text });
  fill(
    select,
    entries.map((entry) =>
      Array.isArray(entry) ? one(entry) : el("optgroup", { label: entry.label }, entry.options.map(one)),
    ),
  );
  select.value = chosen;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}

/** Call `action` once, `milliseconds` after the last call. */
export function later(action, milliseconds) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...given), milliseconds);
  };
}

/** Show or hide a paragraph that says what is wrong. */
export function say(element, text) {
  element.textContent = text ?? "";
  element.hidden = !text;
}
