// The page: its data to charts, tables and samples, and what its switches do.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const { runs } = data;
const by = (id) => document.getElementById(id);
const colourOf = (run) => `var(--run${runs.indexOf(run) % 8})`;

// --- what the reader has chosen, kept over a refresh ---------------------------------------------

const state = { x: "step", unit: "nats", log: false, smoothing: 0.8, theme: "auto", hidden: [], zoom: null, ...data.options };
const memory = {
  read() { try { return JSON.parse(sessionStorage.getItem(memory.key)) || {}; } catch { return {}; } },
  write() { try { sessionStorage.setItem(memory.key, JSON.stringify(state)); } catch { /* a page from a file may have no storage */ } },
  // A page that was asked to look otherwise begins as it was asked.
  key: `lmkit plot ${location.pathname} ${JSON.stringify(data.options)}`,
};
Object.assign(state, memory.read());

function set(changes) {
  Object.assign(state, changes);
  memory.write();
  draw();
}

// --- curves --------------------------------------------------------------------------------------

function smoothed(values, keep) {
  let average = 0, weight = 0;
  return values.map((value) => {
    average = keep * average + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return average / weight;
  });
}

const AXES = { step: "step", tokens: "tokens", time: "time" };
const UNITS = { nats: "nats a token", bits: "bits a byte", perplexity: "perplexity" };

function inUnit(values, factor) {
  if (state.unit === "bits") return values.map((v) => v * factor);
  if (state.unit === "perplexity") return values.map(Math.exp);
  return values;
}

function seriesOf(run, name, look = {}) {
  const curve = run.curves[name];
  if (!curve) return [];
  const isLoss = name === "loss" || name === "val_loss", factor = name === "loss" ? run.train_bits : run.val_bits;
  if (isLoss && state.unit === "bits" && !factor) return [];
  const x = curve[state.x];
  if (x.every((one) => one === null)) return [];
  const convert = (values) => values && (isLoss ? inUnit(values, factor) : values);
  const one = { run, name, x, label: run.name, colour: colourOf(run), y: convert(curve.value), low: convert(curve.low), high: convert(curve.high), ...look };
  if (look.smooth && state.smoothing > 0) {
    one.raw = one.y;
    one.y = convert(smoothed(curve.value, state.smoothing));
  }
  if (name === "val_loss") one.best = curve.value.indexOf(Math.min(...curve.value));
  return [one];
}

const SMOOTH = { smooth: true }, VALIDATION = { dashed: true, dots: true };
const CHARTS = [
  { title: "Loss", names: [["loss", SMOOTH], ["val_loss", VALIDATION]], tall: true, log: true, isLoss: true },
  { title: "Learning rate", names: [["lr", {}]], fromZero: true },
  { title: "Gradient norm", names: [["grad_norm", SMOOTH]], log: true, fromZero: true },
  { title: "Tokens a second", names: [["tokens_per_second", {}]], fromZero: true },
  { title: "Share of peak (MFU)", names: [["mfu", {}]], fromZero: true, share: true },
].filter((one, i) => i < 4 || runs.some((run) => run.curves.mfu));
for (const one of CHARTS) {
  one.chart = new Chart(one.title);
  by("charts").append(one.chart.figure);
}

const shown = () => runs.filter((run) => !state.hidden.includes(run.name));
const formatX = (value) => (state.x === "time" ? duration(value) : short(value));
const format = (one) => (value) => (one.share ? `${trimmed(value * 100, 3)}%` : short(value));

function wholeRange() {
  let high = 0;
  for (const run of shown()) for (const curve of Object.values(run.curves)) for (const x of curve[state.x]) if (x > high) high = x;
  return [0, high || 1];
}

function draw() {
  drawSwitches();
  const xs = state.zoom || wholeRange();
  for (const one of CHARTS) {
    const series = shown().flatMap((run) => one.names.flatMap(([name, look]) => seriesOf(run, name, look)));
    const events = shown().flatMap((run) => run.events.filter((event) => event[state.x] !== null)
      .filter((event) => one.tall || event.kind !== "skipped")
      .map((event) => ({ ...event, x: event[state.x], colour: colourOf(run), text: `${run.name}: ${event.text}` })));
    const phone = innerWidth < 640;
    one.chart.draw(series, events, xs, {
      height: one.tall ? (phone ? 260 : 380) : phone ? 190 : 210,
      log: state.log && one.log, fromZero: one.fromZero && !(state.log && one.log), isTime: state.x === "time",
      format: format(one), formatX,
      empty: one.isLoss && state.unit === "bits" ? "these runs do not tell the bytes of their tokens" : "nothing to draw yet",
    });
    if (one.isLoss) drawKey(one.chart);
  }
  drawNotes();
}

function drawKey(chart) {
  chart.title.textContent = `Loss, ${UNITS[state.unit]}`;
  const sample = (kind) => node("svg:svg", { viewBox: "0 0 26 10" }, node("svg:path", { class: `curve ${kind}`, d: "M0 5H26", colour: "var(--soft)" }));
  const told = [node("span", {}, sample(""), "training")];
  if (runs.some((run) => run.curves.val_loss)) told.push(node("span", {}, sample("validation"), "validation, the best filled"));
  const kinds = new Set(shown().flatMap((run) => run.events.map((event) => event.kind)));
  if (kinds.has("resumed")) told.push(node("span", {}, "\u2691 resumed"));
  if (kinds.has("rolled back")) told.push(node("span", {}, "\u2691 went back"));
  if (kinds.has("skipped")) told.push(node("span", {}, "\u2715 update skipped"));
  chart.key.replaceChildren(...told);
}

function drawNotes() {
  const notes = runs.filter((run) => run.torn_lines).map((run) => `${run.name}: ${run.torn_lines === 1 ? "1 line of its metrics was not whole and is" : `${run.torn_lines} lines of its metrics were not whole and are`} left out.`);
  const without = shown().filter((run) => Object.values(run.curves).length && Object.values(run.curves).every((curve) => curve[state.x].every((x) => x === null)));
  if (without.length) notes.push(`Not drawn, because their metrics do not tell ${state.x === "time" ? "the time" : "tokens"}: ${without.map((run) => run.name).join(", ")}.`);
  by("notes").textContent = notes.join(" ");
  by("notes").hidden = !notes.length;
}

// --- switches ------------------------------------------------------------------------------------

function buttons(place, choices, name, able = () => true) {
  for (const [value, text] of Object.entries(choices)) {
    const button = node("button", { "data-value": value }, text);
    button.disabled = !able(value);
    button.onclick = () => set({ [name]: value, ...(name === "x" ? { zoom: null } : {}) });
    by(place).append(button);
  }
}

const THEMES = { auto: "auto", light: "light", dark: "dark" };
const darkOutside = matchMedia("(prefers-color-scheme: dark)");

function drawSwitches() {
  for (const place of ["x", "unit"]) {
    for (const button of by(place).children) button.setAttribute("aria-pressed", String(button.dataset.value === state[place]));
  }
  by("smoothing").value = state.smoothing;
  by("smoothness").textContent = Number(state.smoothing).toFixed(2);
  by("log").checked = state.log;
  by("whole").hidden = !state.zoom;
  by("theme").textContent = `${{ auto: "\u25D0", light: "\u2600", dark: "\u263E" }[state.theme]} ${state.theme}`;
  by("theme").setAttribute("aria-label", `colours: ${state.theme}`);
  const dark = state.theme === "dark" || (state.theme === "auto" && darkOutside.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  for (const button of by("runs").children) button.setAttribute("aria-pressed", String(!state.hidden.includes(button.dataset.value)));
}

function makeSwitches() {
  const tells = (axis) => runs.some((run) => Object.values(run.curves).some((curve) => curve[axis].some((x) => x !== null)));
  buttons("x", AXES, "x", tells);
  buttons("unit", UNITS, "unit", (unit) => unit !== "bits" || runs.some((run) => run.train_bits || run.val_bits));
  if (!tells(state.x)) state.x = "step";
  by("smoothing").oninput = (event) => set({ smoothing: Number(event.target.value) });
  by("log").onchange = (event) => set({ log: event.target.checked });
  by("whole").onclick = () => set({ zoom: null });
  by("theme").onclick = () => {
    const names = Object.keys(THEMES);
    set({ theme: names[(names.indexOf(state.theme) + 1) % names.length] });
  };
  darkOutside.addEventListener("change", draw);
  state.hidden = state.hidden.filter((name) => runs.some((run) => run.name === name));
  for (const run of runs) {
    const button = node("button", { "data-value": run.name, title: run.path, colour: colourOf(run) }, node("span", { class: "swatch" }), run.name);
    button.onclick = () => {
      const others = state.hidden.filter((name) => name !== run.name);
      set({ hidden: others.length < state.hidden.length ? others : [...others, run.name] });
    };
    by("runs").append(button);
  }
  by("runs").hidden = runs.length < 2;
}

// --- tables --------------------------------------------------------------------------------------

const told = (value, way) => (value === null || value === undefined ? "\u2013" : way(value));

function table(place, rows) {
  const names = runs.map((run) => node("th", { scope: "col", class: run.name.length > 20 ? "long" : "", colour: colourOf(run) }, node("span", { class: "swatch" }), run.name));
  const head = node("thead", {}, node("tr", {}, node("th", {}), ...names)), body = node("tbody");
  for (const { name, values, texts, lowest, differs } of rows) {
    const known = values.filter((value) => typeof value === "number"), least = Math.min(...known);
    const cells = texts.map((text, i) => {
      const isLowest = lowest && known.length > 1 && values[i] === least;
      const classes = [text.length > 24 ? "long" : "", isLowest ? "lowest" : ""].join(" ").trim();
      return node("td", classes ? { class: classes } : {}, text);
    });
    body.append(node("tr", differs ? { class: "differs" } : {}, node("th", { scope: "row" }, name), ...cells));
  }
  const whole = place.appendChild(node("table", {}, head, body));
  whole.style.setProperty("--count", runs.length);
}

function tiles(place, rows) {
  place.className = "tiles";
  for (const { name, texts } of rows) place.append(node("div", {}, node("span", {}, name), node("strong", {}, texts[0])));
}

function drawTables() {
  const row = (name, key, way, more = {}) => ({ name, values: runs.map((run) => run[key]), texts: runs.map((run) => told(run[key], way)), ...more });
  const four = (value) => value.toFixed(4), whole = (value) => value.toLocaleString("en-US");
  const rows = [
    row("training loss", "loss", four, { lowest: true }),
    row("best validation loss", "best_val_loss", four, { lowest: true }),
    row("at step", "best_step", whole),
    row("bits a byte there", "best_bits_per_byte", four, { lowest: true }),
    { ...row("steps", "steps", whole), texts: runs.map((run) => whole(run.steps) + (run.max_iters && run.max_iters !== run.steps ? ` of ${whole(run.max_iters)}` : "")) },
    row("tokens", "tokens", short),
    row("time", "seconds", duration),
    row("tokens a second", "tokens_per_second", short),
    row("parameters", "parameters", short),
    row("device", "device", String),
    row("updates skipped", "skipped", whole),
    row("times resumed", "resumed", whole),
  ];
  const known = rows.filter((one) => one.values.some((value) => value !== null && value !== 0));
  if (runs.length > 1) table(by("summary"), known);
  else tiles(by("summary"), known);
  by("came").textContent = runs.length > 1 ? "What they came to" : "What it came to";
  by("write").textContent = runs.length > 1 ? "What they write" : "What it writes";
  drawSettings();
}

function drawSettings() {
  const rows = data.settings.map(([name, ...values]) => ({ name, values: [], texts: values.map((value) => told(value, String)), differs: runs.length > 1 && data.differing.includes(name) }));
  const place = by("settings"), different = rows.filter((one) => one.differs);
  if (!rows.length) { place.hidden = true; return; }
  place.append(node("h2", {}, runs.length > 1 ? "Where their settings differ" : "Settings"));
  if (runs.length > 1 && !different.length) place.append(node("p", { class: "note" }, "Nowhere."));
  if (different.length) {
    const box = place.appendChild(node("div", { class: "wide" }));
    table(box, different);
  }
  const all = place.appendChild(node("details", {}, node("summary", {}, `all ${rows.length} settings`)));
  table(all.appendChild(node("div", { class: "wide" })), rows);
}

// --- samples -------------------------------------------------------------------------------------

function drawSamples() {
  const writing = runs.filter((run) => run.samples.length);
  by("writing").hidden = !writing.length;
  for (const run of writing) {
    const last = run.samples.length - 1, place = node("p"), at = node("span");
    const slider = node("input", { type: "range", min: 0, max: last, value: last, "aria-label": `evaluation of ${run.name}` });
    const show = () => {
      const { step, prompt, text } = run.samples[Number(slider.value)];
      at.textContent = `step ${step.toLocaleString("en-US")}`;
      place.replaceChildren(node("b", {}, prompt), text.slice(prompt.length));
    };
    slider.oninput = show;
    const label = node("label", {}, at, ...(last ? [slider] : []));
    by("samples").append(node("article", { colour: colourOf(run) }, node("header", {}, node("h3", {}, run.name), label), place));
    show();
  }
}

// --- looking closer ------------------------------------------------------------------------------

const tip = by("tip");

function tell(one, value, px, py) {
  for (const other of CHARTS) other.chart.point(value);
  const rows = one.chart.series.flatMap((series) => {
    const i = one.chart.nearest(series, value);
    if (i === null || series.y[i] === null) return [];
    const name = series.name === "val_loss" ? `${series.label}, validation` : series.label;
    const steps = series.low ? ` (${format(one)(series.low[i])} \u2013 ${format(one)(series.high[i])})` : series.raw ? ` (${format(one)(series.raw[i])})` : "";
    return [{ x: series.x[i], run: series.run, row: node("tr", { colour: series.colour }, node("td", {}, node("span", { class: "swatch" }), name), node("td", {}, node("strong", {}, format(one)(series.y[i])), steps)) }];
  });
  if (!rows.length) { tip.hidden = true; return; }
  const near = (event) => Math.abs(one.chart.xOf(event[state.x]) - one.chart.xOf(value)) < 6;
  const events = shown().flatMap((run) => run.events.filter((event) => event[state.x] !== null && near(event)).map((event) => node("p", {}, `${run.name}: ${event.text}`)));
  const heading = `${state.x} ${state.x === "time" ? duration(rows[0].x) : Math.round(rows[0].x).toLocaleString("en-US")}`;
  tip.replaceChildren(node("strong", {}, heading), node("table", {}, ...rows.map(({ row }) => row)), ...events.slice(0, 4));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = px + 18 + width > innerWidth ? px - width - 18 : px + 18;
  tip.style.left = `${Math.max(4, Math.min(left, innerWidth - width - 4))}px`;
  tip.style.top = `${Math.max(4, Math.min(py - height / 2, innerHeight - height - 4))}px`;
}

function leave() {
  tip.hidden = true;
  for (const one of CHARTS) one.chart.point(null);
}

function watch(one) {
  const { svg } = one.chart;
  let from = null;
  const place = (event) => {
    const { left, width } = one.chart.box, at = event.clientX - svg.getBoundingClientRect().left;
    return Math.max(left, Math.min(at, left + width));
  };
  svg.onpointerdown = (event) => {
    if (event.pointerType === "touch" || event.button) return;
    from = place(event);
    svg.setPointerCapture(event.pointerId);
  };
  svg.onpointermove = (event) => {
    const at = place(event);
    if (from !== null && Math.abs(at - from) > 4) { tip.hidden = true; one.chart.brush(from, at); return; }
    tell(one, one.chart.vOf(at), event.clientX, event.clientY);
  };
  svg.onpointerup = (event) => {
    const at = place(event), begun = from;
    from = null;
    if (begun === null || Math.abs(at - begun) < 8) return;
    set({ zoom: [begun, at].sort((a, b) => a - b).map(one.chart.vOf) });
  };
  svg.onpointercancel = () => { from = null; };
  svg.onpointerleave = leave;
  svg.ondblclick = () => set({ zoom: null });
  svg.onblur = leave;
  svg.onkeydown = (event) => {
    if (event.key === "Escape") { leave(); set({ zoom: null }); return; }
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], first = one.chart.series[0];
    if (!step || !first || !first.x.length) return;
    event.preventDefault();
    const i = one.at === undefined ? first.x.length - 1 : one.at + step * (event.shiftKey ? 10 : 1);
    one.at = Math.max(0, Math.min(first.x.length - 1, i));
    const box = svg.getBoundingClientRect(), value = first.x[one.at];
    tell(one, value, box.left + one.chart.xOf(value), box.top + box.height / 2);
  };
}

// --- the page ------------------------------------------------------------------------------------

function keepFresh(seconds) {
  if (!seconds) return;
  const again = () => {
    // Whoever is looking closely is not disturbed; the next round comes soon.
    if (!tip.hidden || document.hidden) { setTimeout(again, 1000); return; }
    location.reload();
  };
  setTimeout(again, seconds * 1000);
}

makeSwitches();
drawTables();
drawSamples();
draw();
CHARTS.forEach(watch);
by("when").textContent = data.live ? `live, as of ${data.made}` : data.made;
by("when").className = data.live ? "live" : "";
let width = innerWidth;
new ResizeObserver(() => { if (innerWidth !== width) { width = innerWidth; leave(); draw(); } }).observe(document.documentElement);
keepFresh(data.live);
