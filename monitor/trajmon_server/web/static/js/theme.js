// Before the page is drawn: the theme that was chosen last. Light, dark, or (none chosen) as the system has it.
"use strict";
{
  const root = document.documentElement;
  const known = ["light", "dark"];
  let kept = null;
  try {
    kept = localStorage.getItem("trajmon.theme");
  } catch {
    // A browser may keep nothing; the system's theme it is.
  }
  if (known.includes(kept)) root.dataset.theme = kept;
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const show = () => {
      button.textContent = `◐ ${{ dark: "Dark", light: "Light" }[root.dataset.theme] ?? "Auto"}`;
    };
    const announce = () => document.dispatchEvent(new Event("themechange"));
    button.addEventListener("click", () => {
      const next = { "": "light", light: "dark", dark: "" }[root.dataset.theme ?? ""];
      if (next) root.dataset.theme = next;
      else delete root.dataset.theme;
      try {
        if (next) localStorage.setItem("trajmon.theme", next);
        else localStorage.removeItem("trajmon.theme");
      } catch {
        // Then it holds for this page alone.
      }
      show();
      announce();
    });
    dark.addEventListener("change", announce);
    show();
  });
}
