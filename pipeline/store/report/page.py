"""The page of a report as a template: what never changes of it, its looks and how its charts are drawn.

It asks no network for anything, and says so to the browser, which then refuses to: `default-src 'none'`, and no script
but the two that are named by their hashes.
"""

from string import Template
from typing import Final

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src "  # and the hashes
PAGE: Final = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
$body
</main>
<script type="application/json" id="charts">$charts</script>
<script>$plotly</script>
<script>$script</script>
</body>
</html>
""")

# Colours after Okabe and Ito, made darker or lighter so that each stands out from its ground.
STYLE: Final = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --page: #f4f5f7; --ink: #1b1f24; --faint: #57606a; --edge: #d5d9de; --grid: #e6e8eb;
  --one: #0067a5; --two: #b85300; --three: #00795a;
  --live: #8ab6d6; --idle: #e3e6ea; --down: #a4133c; --failover: #8a6d00; --mirror: #00795a;
  --good: #00694a; --bad: #a4133c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #181b20; --page: #0f1115; --ink: #e6e8eb; --faint: #9aa4af; --edge: #343a43; --grid: #2a2f37;
    --one: #6cb8ee; --two: #f2994a; --three: #3fcf9f;
    --live: #2c5877; --idle: #272c34; --down: #ff6b8a; --failover: #e5c100; --mirror: #3fcf9f;
    --good: #3fcf9f; --bad: #ff8fa5;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 20px 16px 48px; }
h1 { font-size: 24px; line-height: 1.25; margin: 8px 0 4px; }
h2 { font-size: 17px; line-height: 1.3; margin: 0 0 2px; }
h3 { font-size: 15px; margin: 14px 0 0; overflow-wrap: anywhere; }
p { margin: 4px 0; overflow-wrap: anywhere; }
.verdict { font-size: 17px; font-weight: 600; margin: 8px 0; }
.good { color: var(--good); }
.bad { color: var(--bad); }
.note, caption, figcaption { color: var(--faint); font-size: 13px; text-align: left; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px; margin: 16px 0; }
dl div, section {
  background: var(--ground); border: 1px solid var(--edge); border-radius: 8px; padding: 12px 14px; min-width: 0;
}
dt { color: var(--faint); font-size: 13px; }
dd { margin: 0; font-size: 20px; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
dd small { display: block; font-size: 13px; font-weight: 400; color: var(--faint); }
section { margin: 14px 0; }
.pair {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 14px; margin: 14px 0;
}
.pair section { margin: 0; }
.plot { width: 100%; }
.plot text { fill: var(--ink) !important; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { padding: 4px 10px 4px 0; text-align: left; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th { color: var(--faint); font-weight: 600; }
.n { text-align: right; }
footer { margin-top: 20px; }
"""

# A string that begins with `--` is the name of a colour.
SCRIPT: Final = """
"use strict";
const charts = JSON.parse(document.getElementById("charts").textContent);
const narrow = window.matchMedia("(max-width: 600px)");
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function coloured(value, style) {
  if (typeof value === "string") return value.startsWith("--") ? style.getPropertyValue(value).trim() : value;
  if (Array.isArray(value)) return typeof value[0] === "number" ? value : value.map((one) => coloured(one, style));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, coloured(one, style)]));
}
function draw() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = {
    gridcolor: colour("--grid"), linecolor: colour("--edge"), zerolinecolor: colour("--edge"), automargin: true,
    fixedrange: narrow.matches,
  };
  for (const [name, chart] of Object.entries(charts)) {
    const layout = coloured(chart.layout, style);
    for (const key of Object.keys(layout).filter((one) => /^[xy]axis/.test(one))) {
      layout[key] = { ...axis, ...layout[key] };
      if (narrow.matches && key.startsWith("x")) layout[key].nticks = 4;
    }
    const box = document.getElementById(name);
    if (narrow.matches && chart.data.length > 3) layout.height += 110;
    Plotly.react(box, coloured(chart.data, style), {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 12, color: colour("--ink") },
      margin: { l: 8, r: 12, t: 12, b: 8 },
      hoverlabel: { bgcolor: colour("--ground"), bordercolor: colour("--edge"), font: { color: colour("--ink") } },
      legend: narrow.matches
        ? { orientation: "h", x: 0, y: -0.3, yanchor: "top", font: { size: 11 } }
        : { orientation: "h", x: 0, y: 1, yanchor: "bottom" },
      hovermode: "closest", separators: ".,", showlegend: chart.data.length > 1, ...layout,
    }, { responsive: true, displaylogo: false, displayModeBar: false });
  }
  document.body.dataset.drawn = dark.matches ? "dark" : "light";
}
draw();
dark.addEventListener("change", draw);
narrow.addEventListener("change", draw);
"""
