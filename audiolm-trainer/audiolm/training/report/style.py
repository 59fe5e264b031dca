"""The look of a report's page, and the script that reads numbers out under the pointer."""

STYLE = """
:root{--page:#f6f7f9;--card:#fff;--ink:#1b1f24;--soft:#59636e;--rule:#d5dae0;--grid:#e6e9ed;
--c0:#1f6fd0;--c1:#d4550b;--c2:#0b8466;--c3:#8f4bc2;--c4:#9a6f00;--c5:#c5316b;--bad:#c62828;
--ok:#1a7f37;--wait:#1f6fd0;--hold:#9a6700}
@media (prefers-color-scheme:dark){:root{--page:#0f1317;--card:#181d23;--ink:#e6eaee;
--soft:#9aa5b1;--rule:#39424c;--grid:#272e36;--c0:#69a8ff;--c1:#ff9a5c;--c2:#45d0a5;--c3:#c79bf2;
--c4:#e2b53e;--c5:#ff7fae;--bad:#ff7b72;--ok:#56d364;--wait:#69a8ff;--hold:#e2b53e}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Noto Sans KR",sans-serif}
main{max-width:1400px;margin:auto;padding:20px}
h1{margin:0;font-size:1.6rem;overflow-wrap:anywhere}
h2{margin:28px 0 10px;font-size:1.15rem}
h3{margin:0;font-size:.95rem}
header p{margin:6px 0 14px;color:var(--soft)}
.state{display:inline-block;padding:1px 10px;margin-right:4px;border:1px solid;border-radius:99px;
font-weight:600;font-size:.85rem}
.finished{color:var(--ok)}.running{color:var(--wait)}.stopped{color:var(--hold)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(165px,1fr));gap:12px;margin:0}
.tiles div,.chart,table,pre{background:var(--card);border:1px solid var(--rule);border-radius:8px}
.tiles div{padding:10px 14px}
dt{color:var(--soft);font-size:.82rem}
dd{margin:0;font-size:1.35rem;font-weight:600;font-variant-numeric:tabular-nums}
small{display:block;color:var(--soft);font-size:.78rem;font-weight:400}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,370px),1fr));gap:14px}
.chart{margin:0;padding:12px 12px 10px;min-width:0;display:flex;flex-direction:column}
.chart>svg{width:100%;height:auto;overflow:visible;touch-action:pan-y;margin-top:auto}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:2px 14px;margin:4px 0 6px;padding:0;
font-size:.8rem;color:var(--soft)}
.legend svg{width:22px;height:10px;margin-right:5px;vertical-align:middle}
figcaption{margin:4px 0 0;font-size:.78rem;color:var(--soft);font-variant-numeric:tabular-nums;
position:relative;min-height:2.9em}
.many figcaption{min-height:4.4em}
.readout{display:none;position:absolute;inset:0 0 auto;z-index:1;border-radius:0 0 8px 8px;
color:var(--ink);background:var(--card)}
.reading .readout{display:block}
.reading figcaption span:first-child{visibility:hidden}
.c0{color:var(--c0)}.c1{color:var(--c1)}.c2{color:var(--c2)}
.c3{color:var(--c3)}.c4{color:var(--c4)}.c5{color:var(--c5)}
.line{fill:none;stroke:currentColor;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
.dashed{stroke-dasharray:5 4;stroke-linecap:butt}
.band{fill:currentColor;opacity:.2}
.bars{fill:none;stroke:currentColor;stroke-width:1.2;opacity:.75}
circle{fill:currentColor}
.chart>svg text{fill:var(--soft);font-size:11px;font-variant-numeric:tabular-nums}
text.y{text-anchor:end}text.x{text-anchor:middle}
.grid{stroke:var(--grid)}.tick,.axis{stroke:var(--soft);fill:none}
.resume{stroke:var(--soft);stroke-dasharray:2 3;fill:none}
.legend .resume{stroke-dasharray:2 2;stroke-width:2}
.skip{fill:var(--bad)}
.cursor{stroke:var(--ink);opacity:.5;visibility:hidden}
.scroll{overflow-x:auto}
table{border-collapse:separate;border-spacing:0;width:100%;font-size:.86rem}
th{text-align:left;color:var(--soft);font-weight:600}
th,td{padding:7px 12px;vertical-align:top;overflow-wrap:anywhere}
tbody td{border-top:1px solid var(--grid)}
.scroll td,.scroll th{white-space:nowrap;font-variant-numeric:tabular-nums}
.scroll td:last-child{white-space:normal;min-width:200px}
.samples td{white-space:pre-wrap;width:24%}
.samples td:first-child{width:28%}
.id{font-weight:600;overflow-wrap:anywhere}
audio{display:block;width:100%;max-width:300px;height:36px;margin-top:6px}
summary{cursor:pointer;font-weight:600;padding:8px 0}
section>details{margin-top:20px}
pre{margin:0;padding:12px 14px;overflow-x:auto;font-size:.82rem}
footer{margin-top:28px;color:var(--soft);font-size:.82rem}
@media (max-width:640px){main{padding:12px}
.tiles{grid-template-columns:repeat(auto-fit,minmax(135px,1fr));gap:8px}
.samples thead{display:none}
.samples tr,.samples td,.samples td:first-child{display:block;width:auto}
.samples td{padding:4px 12px;border:0}
.samples tr{padding:8px 0}.samples tr+tr{border-top:1px solid var(--rule)}
.samples td[data-label]::before{content:attr(data-label);display:block;color:var(--soft);
font-size:.75rem}audio{max-width:none}}
@media print{.chart,tr{break-inside:avoid}}
"""

SCRIPT = """
"use strict";
for (const figure of document.querySelectorAll("figure[data-chart]")) {
  const chart = JSON.parse(figure.dataset.chart);
  const svg = figure.querySelector(":scope > svg");
  const cursor = svg.querySelector(".cursor");
  const readout = figure.querySelector(".readout");
  const show = (number) => number.toLocaleString("en", {maximumSignificantDigits: 4});
  const nearest = (numbers, target) => numbers.reduce((best, number, i) =>
    Math.abs(number - target) < Math.abs(numbers[best] - target) ? i : best, 0);
  const hide = () => {
    figure.classList.remove("reading");
    cursor.style.visibility = "hidden";
    readout.textContent = "";
  };
  const move = (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * chart.width;
    const step = (x - chart.left) / (chart.right - chart.left) * chart.steps;
    if (step < 0 || step > chart.steps * 1.02) { hide(); return; }
    const found = chart.series.filter((series) => series.x.length).map((series) => {
      const i = nearest(series.x, step);
      const range = series.low ? ` (${show(series.low[i])} to ${show(series.high[i])})` : "";
      return {step: series.x[i], text: `${series.name} ${show(series.y[i])}${range}`};
    });
    if (!found.length) return;
    const at = found[nearest(found.map((entry) => entry.step), step)].step;
    const place = chart.left + at / chart.steps * (chart.right - chart.left);
    cursor.setAttribute("x1", place);
    cursor.setAttribute("x2", place);
    cursor.style.visibility = "visible";
    figure.classList.add("reading");
    readout.textContent = "step " + at.toLocaleString("en") + ": " + found.map((entry) =>
      entry.step === at ? entry.text : `${entry.text} at ${entry.step.toLocaleString("en")}`
    ).join("; ");
  };
  svg.addEventListener("pointermove", move);
  svg.addEventListener("pointerdown", move);
  svg.addEventListener("pointerleave", hide);
}
document.documentElement.classList.add("scripted");
"""
