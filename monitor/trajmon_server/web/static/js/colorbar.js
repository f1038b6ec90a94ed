// A colour bar that several maps share.
import { el, fill } from "./dom.js";
import { STEPS, TABLE, UNDEFINED_COLOR, scaleDigits } from "./colors.js";

/** Fill an element with the bar for a scale, in words at both ends. */
export function showBar(parent, scale, words, someUndefined) {
  const canvas = el("canvas", { width: STEPS, height: 1 });
  const context = canvas.getContext("2d");
  const image = context.createImageData(STEPS, 1);
  for (let i = 0; i < STEPS; i++) image.data.set([...TABLE.subarray(3 * i, 3 * i + 3), 255], 4 * i);
  context.putImageData(image, 0, 0);
  const digits = scaleDigits(scale);
  const swatch = el("span", { className: "swatch" });
  swatch.style.background = UNDEFINED_COLOR;
  fill(
    parent,
    el("span", {}, words),
    el("span", { className: "end" }, scale[0].toFixed(digits)),
    canvas,
    el("span", { className: "end" }, scale[1].toFixed(digits)),
    someUndefined ? el("span", { className: "key-undefined" }, swatch, "undefined") : null,
  );
}
