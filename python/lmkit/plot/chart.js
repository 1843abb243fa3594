// Curves to an SVG: scales, ticks, lines, marks. A chart knows nothing of runs but colours and points.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function node(name, attributes = {}, ...children) {
  const made = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "colour") made.style.setProperty("--colour", value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// --- numbers as people read them -----------------------------------------------------------------

function short(value) {
  const size = Math.abs(value);
  for (const [unit, name] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (size >= unit) return trimmed(value / unit, 3) + name;
  }
  if (size && size < 1e-4) return value.toExponential(2).replace(/\.?0+e/, "e");
  return trimmed(value, 4);
}

function trimmed(value, digits) {
  return String(Number(value.toPrecision(digits)));
}

function duration(seconds) {
  const whole = Math.round(seconds), d = Math.floor(whole / 86400), h = Math.floor(whole / 3600) % 24;
  const m = Math.floor(whole / 60) % 60, s = whole % 60;
  if (d) return `${d}d` + (h ? ` ${h}h` : "");
  if (h) return `${h}h` + (m ? ` ${String(m).padStart(2, "0")}m` : "");
  if (m) return `${m}m` + (s ? ` ${String(s).padStart(2, "0")}s` : "");
  return seconds && seconds < 10 ? `${trimmed(seconds, 2)}s` : `${s}s`;
}

// --- ticks ---------------------------------------------------------------------------------------

function linearTicks(low, high, wanted, bases = [1, 2, 5, 10]) {
  const rough = (high - low) / Math.max(1, wanted), power = 10 ** Math.floor(Math.log10(rough));
  const step = power * bases.find((one) => one * power >= rough * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(Number((k * step).toPrecision(12)));
  return found;
}

function timeTicks(low, high, wanted) {
  const rough = (high - low) / Math.max(1, wanted);
  const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400].find((one) => one >= rough);
  if (high - low < 5 || !step) return linearTicks(low, high, wanted);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high; k++) found.push(k * step);
  return found;
}

function logTicks(low, high, wanted) {
  if (high / low < 8) return linearTicks(low, high, wanted);
  const found = [], spread = Math.log10(high / low), factors = spread < 2 ? [1, 2, 5] : [1];
  const every = Math.max(1, Math.ceil(spread / wanted));
  for (let p = Math.floor(Math.log10(low)); p <= Math.log10(high); p += every) {
    for (const factor of factors) {
      const tick = Number((factor * 10 ** p).toPrecision(6));
      if (tick >= low && tick <= high) found.push(tick);
    }
  }
  return found;
}

// --- what is visible -----------------------------------------------------------------------------

function quantile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.round(share * (sorted.length - 1))))];
}

function yRange(series, xs, log, fromZero) {
  let low = Infinity, high = -Infinity;
  const widen = (value) => {
    if (value === null || !Number.isFinite(value) || (log && value <= 0)) return;
    low = Math.min(low, value); high = Math.max(high, value);
  };
  for (const one of series) {
    const inside = (values) => values.filter((_, i) => one.x[i] !== null && one.x[i] >= xs[0] && one.x[i] <= xs[1]);
    inside(one.y).forEach(widen);
    for (const values of [one.raw, one.low, one.high]) {
      if (!values) continue;  // outliers of the raw curve may leave the chart
      const sorted = inside(values).filter((v) => v !== null && (!log || v > 0)).sort((a, b) => a - b);
      if (sorted.length) { widen(quantile(sorted, 0.01)); widen(quantile(sorted, 0.99)); }
    }
  }
  if (!(low <= high)) return log ? [0.1, 1] : [0, 1];
  if (fromZero && !log) low = Math.min(0, low);
  if (log) return low === high ? [low / 1.5, high * 1.5] : [low / (high / low) ** 0.04, high * (high / low) ** 0.04];
  const margin = (high - low || Math.abs(high) || 1) * 0.05;
  return [fromZero && low === 0 ? 0 : low - margin, high + margin];
}

class Chart {
  // options: caption, height, log, fromZero, format of y, formatX, isTime
  constructor(title) {
    this.figure = node("figure");
    this.svg = node("svg:svg", { tabindex: "0", role: "img" });
    this.title = node("h3", {}, title);
    this.key = node("span", { class: "key" });
    this.figure.append(node("figcaption", {}, this.title, this.key), this.svg);
  }

  // series: [{colour, x, y, raw?, low?, high?, dashed?, dots?, best?}]; events: [{colour, x, kind}]
  draw(series, events, xs, options) {
    const width = Math.max(120, this.svg.clientWidth || this.figure.clientWidth - 24), height = options.height;
    const [left, right, top, bottom] = [50, 12, 8, 24];
    const log = options.log, ys = yRange(series, xs, log, options.fromZero);
    const scale = (v) => (log ? Math.log(v) : v), [y0, y1] = [scale(ys[0]), scale(ys[1])];
    this.box = { left, top, width: width - left - right, height: height - top - bottom };
    const { box } = this;
    this.xOf = (v) => left + ((v - xs[0]) / (xs[1] - xs[0] || 1)) * box.width;
    this.vOf = (px) => xs[0] + ((px - left) / box.width) * (xs[1] - xs[0]);
    this.yOf = (v) => (log && v <= 0 ? top + box.height : top + box.height - ((scale(v) - y0) / (y1 - y0 || 1)) * box.height);
    this.series = series;
    const id = `clip${Chart.count++}`, parts = [
      node("svg:clipPath", { id }, node("svg:rect", { x: left, y: 0, width: box.width, height: top + box.height + 1 })),
    ];
    const ticksY = (log ? logTicks : linearTicks)(ys[0], ys[1], height / 55);
    for (const tick of ticksY) {
      const y = this.yOf(tick);
      parts.push(node("svg:line", { class: "grid", x1: left, x2: width - right, y1: y, y2: y }));
      parts.push(node("svg:text", { x: left - 7, y: y + 4, "text-anchor": "end" }, options.format(tick)));
    }
    const ticksX = (options.isTime ? timeTicks : linearTicks)(xs[0], xs[1], box.width / 90);
    for (const tick of ticksX) {
      const x = this.xOf(tick), anchor = x > width - right - 16 ? "end" : "middle";
      parts.push(node("svg:line", { class: "axis", x1: x, x2: x, y1: top + box.height, y2: top + box.height + 4 }));
      parts.push(node("svg:text", { x, y: height - 6, "text-anchor": anchor }, options.formatX(tick)));
    }
    parts.push(node("svg:line", { class: "axis", x1: left, x2: width - right, y1: top + box.height, y2: top + box.height }));
    const curves = node("svg:g", { "clip-path": `url(#${id})` });
    for (const one of series) curves.append(...this.lines(one));
    for (const one of events) curves.append(...this.mark(one));
    if (!series.some((one) => one.y.length)) {
      parts.push(node("svg:text", { class: "empty", x: left + box.width / 2, y: top + box.height / 2, "text-anchor": "middle" }, options.empty || "nothing yet"));
    }
    this.cursor = node("svg:g");
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.style.height = `${height}px`;
    this.svg.setAttribute("aria-label", `${this.title.textContent}: ${series.map((one) => one.label).join(", ")}`);
    this.svg.replaceChildren(...parts, curves, this.cursor);
  }

  path(x, y) {
    let d = "", pen = "M";
    for (let i = 0; i < x.length; i++) {
      if (x[i] === null || y[i] === null) { pen = "M"; continue; }
      d += `${pen}${this.xOf(x[i]).toFixed(1)} ${this.yOf(y[i]).toFixed(1)}`;
      pen = "L";
    }
    return d;
  }

  lines(one) {
    const { colour } = one, made = [];
    if (one.low) {
      const back = [...one.x].reverse(), lows = [...one.low].reverse();
      const d = `${this.path(one.x, one.high)}${this.path(back, lows).replace("M", "L")}Z`;
      made.push(node("svg:path", { class: "band", colour, d }));
    }
    if (one.raw) made.push(node("svg:path", { class: "raw", colour, d: this.path(one.x, one.raw) }));
    made.push(node("svg:path", { class: one.dashed ? "curve validation" : "curve", colour, d: this.path(one.x, one.y) }));
    if ((one.dots && one.x.length <= 80) || one.x.length === 1) {
      one.x.forEach((x, i) => {
        if (x !== null) made.push(node("svg:circle", { class: "dot", colour, cx: this.xOf(x), cy: this.yOf(one.y[i]), r: 2.6 }));
      });
    }
    if (one.best !== undefined && one.x[one.best] !== null) {
      made.push(node("svg:circle", { class: "best", colour, cx: this.xOf(one.x[one.best]), cy: this.yOf(one.y[one.best]), r: 4.5 }));
    }
    return made;
  }

  mark({ x, kind, colour, text }) {
    const at = this.xOf(x), { top, height } = this.box, title = node("svg:title", {}, text);
    if (kind === "skipped") {
      return [node("svg:path", { class: "skipped", d: `M${at - 4} ${top + 2}l8 8m0-8l-8 8` }, title)];
    }
    return [
      node("svg:line", { class: "resumed", colour, x1: at, x2: at, y1: top, y2: top + height }, title),
      node("svg:path", { class: "flag", colour, d: `M${at} ${top}h9l-3 3.5 3 3.5h-9z` }, title.cloneNode(true)),
    ];
  }

  // The point of a series that lies nearest to a place on the x axis; none before it begins or after it ends.
  nearest(one, value) {
    let low = 0, high = one.x.length - 1;
    const near = this.vOf(8) - this.vOf(0);
    if (high < 0 || value < one.x[0] - near || value > one.x[high] + near) return null;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (one.x[middle] <= value) low = middle; else high = middle;
    }
    return Math.abs(one.x[low] - value) <= Math.abs(one.x[high] - value) ? low : high;
  }

  point(value) {
    if (value === null || !this.box) { this.cursor?.replaceChildren(); return; }
    const at = this.xOf(value), { left, top, width, height } = this.box;
    if (at < left - 0.5 || at > left + width + 0.5) { this.cursor.replaceChildren(); return; }
    const parts = [node("svg:line", { class: "cursor", x1: at, x2: at, y1: top, y2: top + height })];
    for (const one of this.series) {
      const i = this.nearest(one, value);
      if (i === null || one.x[i] === null || one.y[i] === null) continue;
      parts.push(node("svg:circle", { class: "best", colour: one.colour, cx: this.xOf(one.x[i]), cy: this.yOf(one.y[i]), r: 3.5 }));
    }
    this.cursor.replaceChildren(...parts);
  }

  brush(from, to) {
    const { top, height } = this.box, [a, b] = [Math.min(from, to), Math.max(from, to)];
    this.cursor.replaceChildren(node("svg:rect", { class: "brush", x: a, y: top, width: b - a, height }));
  }
}
Chart.count = 0;
