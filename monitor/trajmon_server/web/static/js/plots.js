// What all plots share: the page's colours, fonts and margins, and being drawn again when these change.

const drawn = new Map();

/** A colour or length of the page's style sheet. */
export const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Colours of curves, told apart in light and dark, with full colour vision or without. */
export const lineColors = () => [1, 2, 3, 4, 5, 6].map((n) => style(`--line-${n}`));

/** A layout with the page's colours. */
export function layout(extra = {}) {
  const ink = style("--ink");
  const axis = {
    color: ink,
    gridcolor: style("--grid"),
    linecolor: style("--rule"),
    zeroline: false,
    tickfont: { size: 11 },
    showline: true,
    ticks: "outside",
    ticklen: 3,
    tickcolor: style("--rule"),
    automargin: false,
  };
  const axes = Object.fromEntries(
    Object.entries(extra)
      .filter(([name]) => /^[xy]axis/.test(name))
      .map(([name, own]) => [name, { ...axis, ...own }]),
  );
  return {
    font: { family: 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif', size: 12, color: ink },
    paper_bgcolor: style("--panel"),
    plot_bgcolor: style("--panel"),
    showlegend: false,
    hoverlabel: { bgcolor: style("--raised"), bordercolor: style("--rule"), font: { color: ink, size: 12 } },
    ...extra,
    ...axes,
  };
}

/**
 * Draw, or draw again with the least change. `make` returns {data, layout}; it is called once more whenever the theme
 * changes.
 */
export async function draw(div, make) {
  drawn.set(div, make);
  const { data, layout: shape } = make();
  await Plotly.react(div, data, shape, {
    displayModeBar: false,
    responsive: true,
    doubleClick: "reset",
    scrollZoom: false,
    displaylogo: false,
  });
}

/** Take a plot away. */
export function clear(div) {
  drawn.delete(div);
  if (div._fullLayout) Plotly.purge(div);
}

document.addEventListener("themechange", () => {
  for (const [div, make] of drawn) draw(div, make);
});
