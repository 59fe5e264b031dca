"""The report's look, and the script that shows, sorts and filters its rows."""

STYLE = """
:root { --ink: #1b1f24; --paper: #fff; --soft: #f2f4f7; --edge: #d4d9e0; --mark: #2f6fb3;
  --wrong: #b3261e; --missing: #8a5a00; --extra: #6b2fb3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --paper: #15181c; --soft: #20252b;
  --edge: #3a424c; --mark: #7fb2ea; --wrong: #ff8a80; --missing: #e9b44c; --extra: #c39bff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 16px; }
h1 { font-size: 1.4rem; margin: 0 0 8px; } h2 { font-size: 1.15rem; margin: 16px 0 8px; }
small { font-weight: normal; opacity: .75; }
table { border-collapse: collapse; } th, td { padding: 4px 10px; text-align: left;
  border-bottom: 1px solid var(--edge); vertical-align: top; font-variant-numeric: tabular-nums; }
.columns { display: flex; flex-wrap: wrap; gap: 24px; align-items: flex-start; }
svg { width: 360px; max-width: 100%; } svg text { font-size: 10px; fill: currentColor; }
.bar { fill: var(--mark); } .line { stroke: currentColor; stroke-opacity: .4; }
#controls { position: sticky; top: 0; background: var(--paper); padding: 8px 0; display: flex;
  flex-wrap: wrap; gap: 12px; align-items: center; z-index: 2; }
#controls input[type=search] { min-width: 16em; flex: 1; }
input, select, button { font: inherit; color: inherit; background: var(--soft);
  border: 1px solid var(--edge); border-radius: 4px; padding: 3px 8px; }
#rows { width: 100%; } #rows thead th { position: sticky; top: var(--controls, 0px);
  background: var(--paper); z-index: 1; }
#rows th button { border: 0; background: none; padding: 0; cursor: pointer;
  font-weight: 600; } #rows td.texts { width: 60%; overflow-wrap: anywhere; }
#rows td.id { min-width: 11em; max-width: 16em; overflow-wrap: anywhere; }
#rows th { white-space: nowrap; }
.pair { display: inline-flex; flex-direction: column; margin: 0 .25em .2em 0; }
.right { white-space: pre; }
.pair span:empty::before { content: "\\2217"; opacity: .5; }
.s span:last-child { color: var(--wrong); font-weight: 600; }
.d span:first-child { color: var(--missing); font-weight: 600; text-decoration: line-through; }
.i span:last-child { color: var(--extra); font-weight: 600; }
.raw { opacity: .75; font-size: .9em; margin-top: 4px; } audio { width: 220px; height: 32px; }
pre { background: var(--soft); padding: 8px; overflow: auto; max-height: 30em; }
details { margin-top: 16px; } .legend span { margin-right: 12px; }
"""

SCRIPT = """
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const STEP = 100;  // rows shown at a time
const hasErrors = data.rows.some(row => row.errors !== null);
const COLUMNS = [["id", "clip"], ["task", "task"], ["score", "score"], ["errors", "errors"],
  ["seconds", "audio, s"], ["tokens", "tokens"], ["stop", "ended by"]]
  .filter(([key]) => key !== "errors" || hasErrors);
const state = {key: "", down: true, shown: [], drawn: 0};

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function drawSteps(steps) {
  const line = make("div");
  for (const [kind, wanted, said] of steps)
    if (kind === "=")  // word by word, so that a line can end after each
      for (const word of wanted.split(" "))
        line.append(make("span", {class: "pair right"}, word + "\\n" + word));
    else
      line.append(make("span", {class: "pair " + kind}, make("span", {}, wanted),
        make("span", {}, said)));
  return line;
}

function drawCaption(row) {
  const said = make("div");
  for (const [kind, , word] of row.steps)
    said.append(make("span", {class: kind === "=" ? "right" : "i"}, make("span", {}, word + " ")));
  return make("div", {}, said);
}

function drawTexts(row) {
  const cell = make("td", {class: "texts"});
  if (row.steps && row.steps.length)
    cell.append(row.caption ? drawCaption(row) : drawSteps(row.steps));
  for (const text of row.refs) cell.append(make("div", {class: "raw"}, "reference: " + text));
  cell.append(make("div", {class: "raw"}, "answer: " + row.text));
  return cell;
}

function drawRow(row) {
  const score = row.score === null ? "" :
    row.percent ? (100 * row.score).toFixed(1) + "%" : row.score.toFixed(3);
  const id = make("td", {class: "id"}, row.id);
  if (row.audio) id.append(make("br"), make("audio", {controls: "", preload: "none",
    src: row.audio}));
  const texts = {task: row.task, score, errors: row.errors === null ? "" : String(row.errors),
    seconds: row.seconds.toFixed(1), tokens: String(row.tokens), stop: row.stop};
  return make("tr", {"data-n": row.n}, id,
    ...COLUMNS.slice(1).map(([key]) => make("td", {}, texts[key])), drawTexts(row));
}

function drawMore() {
  const rows = state.shown.slice(state.drawn, state.drawn + STEP);
  body.append(...rows.map(drawRow));
  state.drawn += rows.length;
}

function update() {
  const words = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
  state.shown = data.rows.filter(row =>
    (!task.value || row.task === task.value) && (!stop.value || row.stop === stop.value) &&
    (!wrong.checked || row.errors > 0 || (row.errors === null && row.score !== null)) &&
    words.every(word => row.words.includes(word)));
  if (state.key) {
    const sign = state.down ? -1 : 1, key = state.key;
    state.shown.sort((a, b) => {
      if (a[key] === null || b[key] === null) return (a[key] === null) - (b[key] === null);
      const order = typeof a[key] === "number" ? a[key] - b[key] : a[key].localeCompare(b[key]);
      return sign * order || a.n - b.n;
    });
  }
  body.replaceChildren();
  state.drawn = 0;
  drawMore();
  if (clips.getBoundingClientRect().top < 0) clips.scrollIntoView();
  count.textContent = state.shown.length + " of " + data.rows.length + " clips";
  for (const [key, header] of Object.entries(headers))
    header.setAttribute("aria-sort",
      key !== state.key ? "none" : state.down ? "descending" : "ascending");
}

function choose(label, values) {
  const box = make("select", {"aria-label": label}, make("option", {value: ""}, "all " + label));
  for (const value of values) box.append(make("option", {value}, value));
  return box;
}

const unique = key => [...new Set(data.rows.map(row => row[key]))].filter(Boolean).sort();
for (const row of data.rows)
  row.words = [row.id, row.text, ...row.refs].join(" ").toLowerCase();
const search = make("input", {type: "search", placeholder: "words in clip, reference or answer",
  "aria-label": "filter"});
const task = choose("tasks", unique("task")), stop = choose("endings", unique("stop"));
const wrong = make("input", {type: "checkbox", id: "wrong"});
const count = make("span", {id: "count", role: "status"});
const body = make("tbody"), headers = {}, head = make("tr");
for (const [key, title] of COLUMNS) {
  const button = make("button", {type: "button"}, title);
  button.addEventListener("click", () => {
    state.down = state.key === key ? !state.down : typeof (data.rows[0] || {})[key] !== "string";
    state.key = key;
    update();
  });
  head.append(headers[key] = make("th", {"data-key": key}, button));
}
head.append(make("th", {}, hasErrors ? "reference over answer" : "answer"));
const legend = make("p", {class: "legend"});
if (hasErrors)
  for (const [kind, wanted, said] of [["s", "", "another word"], ["d", "missing", ""],
    ["i", "", "too much"]])
    legend.append(make("span", {class: kind}, make("span", {}, wanted), make("span", {}, said)));
if (data.rows.some(row => row.caption))
  legend.append(make("span", {class: "i"}, make("span", {}, "in no reference (captions)")));
const clips = document.getElementById("clips");
const controls = make("div", {id: "controls"}, search, task, stop,
  ...(hasErrors ? [make("label", {for: "wrong"}, wrong, " with errors")] : []), count);
clips.append(make("h2", {}, "Clips"), legend, controls,
  make("table", {id: "rows"}, make("thead", {}, head), body), make("div", {id: "end"}));
new ResizeObserver(() =>  // the table's header stays in sight below the controls
  clips.style.setProperty("--controls", controls.offsetHeight + "px")).observe(controls);
let waiting = 0;
search.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(update, 120);
});
for (const control of [task, stop, wrong]) control.addEventListener("change", update);
clips.addEventListener("play", event => {
  for (const other of clips.querySelectorAll("audio")) if (other !== event.target) other.pause();
}, true);
update();
new IntersectionObserver(entries => {
  if (entries.some(entry => entry.isIntersecting)) drawMore();
}, {rootMargin: "600px"}).observe(document.getElementById("end"));
"""
