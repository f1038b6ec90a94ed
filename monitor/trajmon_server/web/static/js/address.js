// What a view shows stands in its address: the same address restores it, and the browser's back button undoes.

/**
 * The state of a view: names with their defaults. Values that equal the default are left out of the address. Lists stand
 * there once for each entry.
 */
export class Address {
  #defaults;
  #listeners = [];

  constructor(defaults) {
    this.#defaults = defaults;
    addEventListener("popstate", () => this.#listeners.forEach((action) => action()));
  }

  /** One value: text, or a list where the default is one. */
  get(name) {
    const query = new URLSearchParams(location.search);
    const initial = this.#defaults[name];
    if (Array.isArray(initial)) return query.has(name) ? query.getAll(name) : initial;
    return query.get(name) ?? initial;
  }

  /** Change some values. `push` leaves the address before in the history. */
  set(values, { push = false } = {}) {
    const query = new URLSearchParams(location.search);
    for (const [name, value] of Object.entries(values)) {
      query.delete(name);
      if (Array.isArray(value)) value.forEach((one) => query.append(name, one));
      else if (value !== null && String(value) !== String(this.#defaults[name])) query.set(name, value);
    }
    const text = query.toString();
    const target = location.pathname + (text ? `?${text}` : "") + location.hash;
    if (target === location.pathname + location.search + location.hash) return;
    history[push ? "pushState" : "replaceState"](null, "", target);
  }

  /** Call `action` when the reader goes back or forward. */
  onMove(action) {
    this.#listeners.push(action);
  }
}
