// The colours of maps, the same as in `trajmon show`: client/trajmon/plot/colors.py has the reasons.

export const UNDEFINED_COLOR = "#e2b160";
export const SWITCH_COLOR = "#d6336c";
export const STEPS = 256;

/** [256 x 3] bytes, pale to dark blue; lightness falls linearly in the Oklab space. */
export const TABLE = colormap(STEPS);

/** The same for plotly.js: [[0, "rgb(...)"], ..., [1, "rgb(...)"]]. */
export const COLORSCALE = Array.from({ length: STEPS }, (_, i) => [
  i / (STEPS - 1),
  `rgb(${TABLE.subarray(3 * i, 3 * i + 3).join(",")})`,
]);

function colormap(steps) {
  const table = new Uint8ClampedArray(3 * steps);
  for (let i = 0; i < steps; i++) {
    const x = i / (steps - 1);
    const lightness = 0.975 - 0.705 * x;
    const chroma = 0.008 + 0.105 * Math.sin(Math.PI * x ** 0.9) ** 0.9 + 0.06 * x;
    const hue = ((228 + 34 * x) * Math.PI) / 180;
    table.set(oklab(lightness, chroma * Math.cos(hue), chroma * Math.sin(hue)), 3 * i);
  }
  return table;
}

// Constants: Ottosson, "A perceptual color space", 2020.
function oklab(lightness, a, b) {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  return linear.map((value) => {
    const clipped = Math.min(1, Math.max(0, value));
    return Math.round(255 * (clipped <= 0.0031308 ? 12.92 * clipped : 1.055 * clipped ** (1 / 2.4) - 0.055));
  });
}

/**
 * The scale for some maps together, [low, high]. `fixed` ends at 1, `fitted` spans the entries off the diagonal; `low`, if
 * given, replaces the lower end. Without a defined entry: 0 to 1.
 */
export function chooseScale(maps, kind, low = null) {
  let least = Infinity;
  let most = -Infinity;
  for (const { values, n } of maps) {
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) {
        if (i === j && n > 1) continue;
        const value = values[i * n + j];
        if (!Number.isFinite(value)) continue;
        if (value < least) least = value;
        if (value > most) most = value;
      }
    }
  }
  if (least > most) return [low ?? 0, 1];
  const top = kind === "fixed" ? 1 : most;
  return [Math.min(low ?? least, top), top];
}

/** Digits that it takes to tell the ends of a scale apart. */
export function scaleDigits([low, high]) {
  return high > low ? Math.min(12, Math.max(2, Math.floor(1 - Math.log10(high - low)))) : 2;
}

/** Draw a map [n x n] on a canvas of n x n pixels; the page stretches it. */
export function paint(canvas, values, n, [low, high]) {
  canvas.width = canvas.height = Math.max(n, 1);
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const pixels = image.data;
  const undefinedColor = [1, 3, 5].map((at) => Number.parseInt(UNDEFINED_COLOR.slice(at, at + 2), 16));
  for (let k = 0; k < canvas.width * canvas.height; k++) {
    const value = n ? values[k] : NaN;
    const fraction = high > low ? Math.min(1, Math.max(0, (value - low) / (high - low))) : 1;
    const at = 3 * Math.round(fraction * (STEPS - 1));
    for (let c = 0; c < 3; c++) pixels[4 * k + c] = Number.isFinite(value) ? TABLE[at + c] : undefinedColor[c];
    pixels[4 * k + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}
