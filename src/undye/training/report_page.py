"""How report.html looks and what its script does; the page is readable without the script."""

STYLE = """
:root { color-scheme: light dark; --bg:#f6f7f9; --card:#fff; --ink:#1b1f27; --soft:#626b7a; --edge:#e1e5eb;
  --main:#1368ce; --raw:#9dbbe0; --second:#c2571a; --good:#157347; --bad:#b3261e; --ramp:45%; }
@media (prefers-color-scheme: dark) { :root { --bg:#12151a; --card:#1a1f26; --ink:#e6e9ee; --soft:#98a2b3;
  --edge:#2b323c; --main:#6cb0ff; --raw:#3a587c; --second:#f0965a; --good:#5fcf95; --bad:#ff8a80; --ramp:64%; } }
* { box-sizing:border-box }
body { margin:0; background:var(--bg); color:var(--ink); font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif }
main { max-width:1160px; margin:0 auto; padding:28px 20px 60px }
header { display:flex; flex-wrap:wrap; align-items:baseline; gap:4px 14px }
h1 { font-size:25px; margin:0; overflow-wrap:anywhere }
h2 { font-size:17px; margin:34px 0 12px }
.state { font-size:13px; font-weight:600; padding:2px 10px; border-radius:99px; border:1px solid currentColor }
.finished { color:var(--good) } .failed { color:var(--bad) }
.stopped { color:var(--second) } .running { color:var(--main) }
.sub { flex-basis:100%; color:var(--soft); overflow-wrap:anywhere }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(150px,1fr)); gap:12px; margin-top:20px }
.tile, .chart, .card { background:var(--card); border:1px solid var(--edge); border-radius:10px }
.tile { padding:10px 14px } .tile b { display:block; font-size:21px; font-variant-numeric:tabular-nums }
.tile span, .legend, figcaption small, .chart p, footer { color:var(--soft); font-size:13px }
.charts { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr)); gap:14px }
.chart { margin:0; padding:12px 14px 8px; position:relative } .chart.wide { grid-column:1/-1 }
figcaption { font-weight:600; font-size:14px }
.chart p { margin:2px 0 4px }
.legend { display:flex; flex-wrap:wrap; gap:2px 14px; margin:2px 0 }
.legend i, .tip i { display:inline-block; width:14px; height:3px; border-radius:2px; margin-right:6px;
  vertical-align:middle; background:var(--c) }
svg { display:block; width:100%; height:auto; overflow:visible }
svg text { fill:var(--soft); font-size:12px; font-variant-numeric:tabular-nums }
.grid { stroke:var(--edge); fill:none } .cursor { stroke:var(--soft); fill:none; stroke-dasharray:2 3 }
.mark { stroke:var(--bad); fill:none; stroke-dasharray:4 4; opacity:.8 }
.main { --c:var(--main) } .raw { --c:var(--raw) } .second { --c:var(--second) }
.line { fill:none; stroke:var(--c); stroke-width:2; stroke-linejoin:round } .line.raw { stroke-width:1 }
.dot { fill:var(--c) }
.tip { position:absolute; pointer-events:none; background:var(--card); border:1px solid var(--edge); border-radius:8px;
  padding:6px 10px; font-size:12.5px; box-shadow:0 4px 16px #0003; white-space:nowrap; z-index:2;
  font-variant-numeric:tabular-nums }
.card { padding:14px 16px } .card ul { margin:0; padding-left:18px } .card li { overflow-wrap:anywhere }
.gallery { display:flex; flex-wrap:wrap; gap:10px 24px; margin-top:10px }
.viewer { margin:0; flex:0 1 512px } .viewer[hidden] { display:none }
.viewer img { display:block; width:100%; image-rendering:pixelated; border-radius:6px }
.viewer input { width:100%; margin:10px 0 0; accent-color:var(--main) }
.strip { display:flex; gap:12px; overflow-x:auto; padding:4px 2px 8px; min-width:0 }
.strip figure { margin:0; flex:none } .strip img { display:block; height:150px; border-radius:6px; background:#fff }
.strip figcaption { font-weight:400; font-size:13px; color:var(--soft); margin-top:3px; text-align:center }
.scripted .strip { flex:1 1 300px; flex-wrap:wrap; align-content:flex-start }
.scripted .strip img { cursor:pointer; height:92px }
.strip .shown img { outline:2px solid var(--main); outline-offset:2px }
table { border-collapse:collapse; width:100%; font-size:13.5px }
th { text-align:left; font-weight:600; padding:12px 0 2px } tr:first-child th { padding-top:0 }
td { padding:2px 12px 2px 0; border-bottom:1px solid var(--edge); vertical-align:top; overflow-wrap:anywhere }
td:first-child { color:var(--soft); width:32%; } summary { cursor:pointer; font-weight:600 }
details[open] summary { margin-bottom:10px } footer { margin-top:34px }
code { font:13px ui-monospace,Menlo,Consolas,monospace; overflow-wrap:anywhere }
""" + "".join(f".t{k} {{ --c:hsl({265 - 26 * k} 72% var(--ramp)) }}\n" for k in range(10))

SCRIPT = """
"use strict";
document.documentElement.classList.add("scripted");
const show = v => Math.abs(v) >= 1000 ? Math.round(v).toLocaleString("en") : String(Number(v.toPrecision(4)));
for (const figure of document.querySelectorAll(".chart")) {
  const svg = figure.querySelector("svg"), cursor = svg.querySelector(".cursor");
  const data = JSON.parse(figure.querySelector("script").textContent);
  const [low, high, left, right, width] = data.x;
  const tip = document.createElement("div");
  tip.className = "tip"; tip.hidden = true; figure.append(tip);
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) / box.width * width;
    const x = low + (at - left) / (right - left) * (high - low);
    tip.replaceChildren();
    let step = null;
    for (const line of data.lines) {
      let best = line.points[0];
      for (const point of line.points) if (Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
      if (step === null) {
        step = best[0];
        const head = document.createElement("b");
        head.textContent = "step " + show(step); tip.append(head);
      }
      const row = document.createElement("div"), swatch = document.createElement("i");
      row.className = line.style;
      row.append(swatch, line.name + "  " + show(best[1])); tip.append(row);
    }
    const place = left + (step - low) / ((high - low) || 1) * (right - left);
    cursor.setAttribute("transform", "translate(" + place + ")"); cursor.setAttribute("visibility", "visible");
    tip.hidden = false;
    const inside = event.clientX - figure.getBoundingClientRect().left;
    tip.style.top = "34px";
    tip.style.left = Math.max(4, inside + 16 + tip.offsetWidth > figure.clientWidth
      ? inside - tip.offsetWidth - 16 : inside + 16) + "px";
  });
  svg.addEventListener("pointerleave", () => { tip.hidden = true; cursor.setAttribute("visibility", "hidden"); });
}
const viewer = document.querySelector(".viewer");
if (viewer) {
  const pictures = [...document.querySelectorAll(".strip figure")];
  const big = viewer.querySelector("img"), slider = viewer.querySelector("input");
  const label = viewer.querySelector("figcaption");
  const choose = i => {
    slider.value = i;
    big.src = pictures[i].querySelector("img").src;
    label.textContent = big.alt = pictures[i].querySelector("figcaption").textContent;
    pictures.forEach((picture, k) => picture.classList.toggle("shown", k === i));
  };
  slider.max = pictures.length - 1;
  slider.addEventListener("input", () => choose(Number(slider.value)));
  pictures.forEach((picture, i) => picture.addEventListener("click", () => choose(i)));
  viewer.hidden = false;
  choose(pictures.length - 1);
}
"""

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
<main>
{body}
</main>
<script>{script}</script>
</html>
"""
