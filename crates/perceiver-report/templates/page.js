"use strict";
// The page is complete without this script; it adds readouts, controls, sorting and dialogs.
const all = (selector, of = document) => [...of.querySelectorAll(selector)];
const escaped = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const json = (element) => JSON.parse(element.textContent);

// Charts: values under the pointer, the finger or the arrow keys; other axes, smoothing, log scale.
let timelines = [];
function readTimelines(root) {
  const element = root.querySelector("#timelines");
  if (element) timelines = json(element);
}

// Converts a position in epochs by linear interpolation between the ends of the epochs.
function converted(curve, epoch, unit) {
  const timeline = timelines[curve.timeline];
  if (unit === "epoch" || !timeline || timeline[unit].length === 0) return epoch;
  const { epochs } = timeline;
  let after = epochs.findIndex((end) => end >= epoch);
  if (after < 0) after = epochs.length - 1;
  if (after === 0) return timeline[unit][0];
  const share = (epoch - epochs[after - 1]) / (epochs[after] - epochs[after - 1]);
  return timeline[unit][after - 1] + share * (timeline[unit][after] - timeline[unit][after - 1]);
}

// An exponential moving average, corrected for its start at zero, as TensorBoard smooths.
function smoothed(points, weight) {
  let [sum, norm] = [0, 0];
  return points.map(([x, y]) => {
    sum = weight * sum + (1 - weight) * y;
    norm = weight * norm + (1 - weight);
    return [x, sum / norm];
  });
}

function format(value, digits) {
  if (value !== 0 && (Math.abs(value) < 0.1 ** digits || Math.abs(value) >= 1e9)) return value.toExponential(2);
  return value.toFixed(digits);
}

function ticks([low, high], count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const found = [];
  for (let tick = Math.ceil(low / step); tick * step <= high + 1e-9 * step && found.length < 20; tick++) found.push(tick * step);
  return found.map((at) => [at, step < 1e-3 || step >= 1e6 ? Number(at.toPrecision(3)).toExponential() : at.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)))]);
}

function logTicks([low, high]) {
  const found = [];
  for (let power = Math.floor(low); power <= high; power++) {
    for (const factor of high - low < 3 ? [1, 2, 5] : [1]) {
      const at = power + Math.log10(factor);
      if (at >= low && at <= high) found.push([at, String(Number((factor * 10 ** power).toPrecision(1)))]);
    }
  }
  return found.length > 1 ? found : ticks([low, high], 4).map(([at]) => [at, Number((10 ** at).toPrecision(2)).toString()]);
}

class Chart {
  constructor(figure) {
    this.figure = figure;
    this.plot = figure.querySelector(".plot");
    this.svg = figure.querySelector("svg");
    this.output = figure.querySelector("output");
    this.cursor = document.createElementNS("http://www.w3.org/2000/svg", "g");
    this.cursor.setAttribute("class", "cursor");
    this.options = { unit: "epoch", weight: 0, log: false };
    this.read();
    this.plot.tabIndex = 0;
    this.plot.addEventListener("pointermove", (event) => this.hover(event));
    this.plot.addEventListener("pointerdown", (event) => this.hover(event));
    this.plot.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") this.hide(); });
    this.plot.addEventListener("blur", () => this.hide());
    this.plot.addEventListener("keydown", (event) => this.key(event));
  }

  // Reads values, ranges and the drawing as the page has them.
  read() {
    this.data = json(this.figure.querySelector("script"));
    const overlay = this.svg.querySelector(".overlay");
    this.box = overlay.dataset.plot.split(" ").map(Number);
    const [left, right, bottom, top] = overlay.dataset.range.split(" ").map(Number);
    this.x = [left, right];
    this.y = [bottom, top];
    this.svg.append(this.cursor);
    this.isPositive = this.data.curves.every(({ points }) => points.every(([, y]) => y === null || y > 0));
    this.curves = this.points();
  }

  // A value of 0 or less has no logarithm: a chart with one stays linear, and says so.
  get isLog() {
    return this.options.log && this.isPositive;
  }

  // Takes the values of a newer figure, and keeps the axes and the readout as they are set.
  update(figure) {
    const { shown } = this;
    this.svg.innerHTML = figure.querySelector("svg").innerHTML;
    for (const part of ["script", "figcaption", ".values .scroll"]) this.figure.querySelector(part).replaceWith(figure.querySelector(part));
    this.figure.className = figure.className;
    this.read();
    const { unit, weight, log } = this.options;
    if (unit !== "epoch" || weight > 0 || log) this.redraw(this.options);
    if (shown !== null && shown !== undefined) this.show(shown);
  }

  points() {
    const { unit } = this.options;
    const isEpoch = this.data.x === "epoch";
    return this.data.curves.map((curve) => curve.points
      .map(([x, y], at) => [isEpoch ? converted(curve, x, unit) : x, y, at])
      .filter(([x, y]) => x !== null && y !== null && Math.abs(y) <= 1e100));
  }

  at(x, y) {
    const [left, top, right, bottom] = this.box;
    const value = this.isLog ? Math.log10(y) : y;
    return [left + ((x - this.x[0]) / (this.x[1] - this.x[0])) * (right - left),
      bottom - ((value - this.y[0]) / (this.y[1] - this.y[0])) * (bottom - top)];
  }

  redraw(options) {
    this.options = options;
    const { isLog } = this;
    this.curves = this.points();
    const flat = this.curves.flat();
    this.hide();
    if (flat.length === 0) return;
    const range = (values, room) => {
      const [low, high] = values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
      const half = high > low ? room * (high - low) : Math.abs(low) / 2 || 0.5;
      return [low - half, high + half];
    };
    this.x = range(flat.map(([x]) => x), 0);
    const intervals = this.data.curves.flatMap((curve) => (curve.intervals || []).flat()).filter((y) => y !== null && (!isLog || y > 0));
    this.y = range(flat.map(([, y]) => y).concat(intervals).map((y) => (isLog ? Math.log10(y) : y)), 0.05);
    const [left, top, right, bottom] = this.box;
    const parts = [];
    const place = (value) => bottom - ((value - this.y[0]) / (this.y[1] - this.y[0])) * (bottom - top);
    for (const [value, label] of isLog ? logTicks(this.y) : ticks(this.y, 6)) {
      parts.push(`<line class="grid" x1="${left}" x2="${right}" y1="${place(value)}" y2="${place(value)}"/><text class="axis" x="${left - 8}" y="${place(value) + 4}" text-anchor="end">${label}</text>`);
    }
    for (const [value, label] of ticks(this.x, 8)) {
      const x = left + ((value - this.x[0]) / (this.x[1] - this.x[0])) * (right - left);
      parts.push(`<text class="axis" x="${x}" y="${bottom + 17}" text-anchor="middle">${label}</text>`);
    }
    parts.push(`<line class="grid" x1="${left}" x2="${right}" y1="${bottom}" y2="${bottom}"/>`);
    const unit = this.data.x === "epoch" ? { epoch: "epoch", steps: "step", minutes: "minutes" }[options.unit] : this.data.x;
    parts.push(`<text class="axis" x="${(left + right) / 2}" y="${bottom + 36}" text-anchor="middle">${escaped(unit)}</text>`);
    const path = (points) => points.map(([x, y]) => this.at(x, y).map((v) => v.toFixed(1)).join(",")).join(" ");
    this.curves.forEach((points, index) => {
      const ends = this.data.curves[index].intervals;
      if (ends) {
        const clip = (y) => (isLog ? Math.max(y, 1e-12) : y);
        const outline = points.map(([x, , at]) => [x, clip(ends[at][0])]).concat(points.map(([x, , at]) => [x, clip(ends[at][1])]).reverse());
        parts.push(`<polygon class="band fill-${index + 1}" points="${path(outline)}"/>`);
      }
      if (options.weight > 0) parts.push(`<polyline class="line faint curve-${index + 1}" points="${path(points)}"/>`);
      const line = options.weight > 0 ? smoothed(points, options.weight) : points;
      parts.push(`<polyline class="line curve-${index + 1}" points="${path(line)}"/>`);
    });
    this.data.marks.forEach(([epoch, text]) => {
      const [x] = this.at(converted({ timeline: 0 }, epoch, options.unit), 1);
      parts.push(`<g class="mark"><title>${escaped(text)}</title><line x1="${x}" x2="${x}" y1="${top}" y2="${bottom}"/><path d="M${x} ${top}l-6 -10h12z"/></g>`);
    });
    if (options.log && !isLog) parts.push(`<text class="axis" x="${right}" y="${top - 3}" text-anchor="end">linear: has values of 0 or less</text>`);
    this.svg.innerHTML = parts.join("");
    this.svg.append(this.cursor);
  }

  // All positions with a point, from left to right.
  positions() {
    return [...new Set(this.curves.flat().map(([x]) => x))].sort((a, b) => a - b);
  }

  hover(event) {
    const box = this.svg.getBoundingClientRect();
    const pixel = ((event.clientX - box.left) / box.width) * this.svg.viewBox.baseVal.width;
    const [left, , right] = this.box;
    const x = this.x[0] + ((pixel - left) / (right - left)) * (this.x[1] - this.x[0]);
    const positions = this.positions();
    if (positions.length === 0) return;
    this.show(positions.reduce((a, b) => (Math.abs(b - x) < Math.abs(a - x) ? b : a)));
  }

  key(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") this.hide();
    if (!by) return;
    event.preventDefault();
    const positions = this.positions();
    const now = positions.indexOf(this.shown);
    this.show(positions[Math.min(positions.length - 1, Math.max(0, now < 0 ? (by > 0 ? 0 : positions.length - 1) : now + by))]);
  }

  show(x) {
    this.shown = x;
    const { data, options } = this;
    const [, top, , bottom] = this.box;
    const [at] = this.at(x, 1);
    const lines = [];
    let marks = `<line x1="${at}" x2="${at}" y1="${top}" y2="${bottom}"/>`;
    const spacing = (this.x[1] - this.x[0]) / 60;
    this.curves.forEach((points, index) => {
      const nearest = points.reduce((a, b) => (a === null || Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a), null);
      if (nearest === null || Math.abs(nearest[0] - x) > spacing) return;
      const curve = data.curves[index];
      const ends = curve.intervals && curve.intervals[nearest[2]];
      const range = ends ? ` (${format(ends[0], data.digits)} to ${format(ends[1], data.digits)})` : "";
      const note = curve.notes && curve.notes[nearest[2]] ? `, ${curve.notes[nearest[2]]}` : "";
      lines.push(`<span><i class="curve-${index + 1}"></i>${escaped(curve.name)} <b>${format(nearest[1], data.digits)}</b>${escaped(range + note)}</span>`);
      const [cx, cy] = this.at(nearest[0], nearest[1]);
      marks += `<circle class="curve-${index + 1}" cx="${cx}" cy="${cy}" r="4.5"/>`;
    });
    const unit = data.x === "epoch" ? { epoch: "epoch", steps: "step", minutes: "minute" }[options.unit] : data.x;
    const digits = data.x !== "epoch" || options.unit === "epoch" ? data.x_digits : options.unit === "steps" ? 0 : 2;
    this.output.innerHTML = `<span>${escaped(unit)} ${format(x, digits)}</span>${lines.join("")}`;
    this.output.classList.add("shown");
    this.output.classList.toggle("left", at > (this.box[0] + this.box[2]) / 2);
    this.cursor.innerHTML = marks;
  }

  hide() {
    this.shown = null;
    this.output.classList.remove("shown");
    this.output.textContent = "";
    this.cursor.innerHTML = "";
  }
}

function startCharts(section) {
  const figures = () => all(".chart", section).filter((figure) => figure.chart);
  for (const figure of all(".chart", section)) if (!figure.chart && figure.querySelector("script")) figure.chart = new Chart(figure);
  const form = section.querySelector("form.controls");
  if (!form || figures().length === 0) return;
  const options = () => ({ unit: form.elements.unit ? form.elements.unit.value : "epoch", weight: Number(form.elements.weight.value), log: form.elements.log.checked });
  const redraw = (charts) => {
    const now = options();
    form.querySelector(".value").textContent = now.weight.toFixed(2);
    for (const { chart } of charts) {
      const { unit, weight, log } = chart.options;
      if (now.unit !== unit || now.weight !== weight || now.log !== log) chart.redraw(now);
    }
  };
  if (form.isStarted) return redraw(figures()); // the form was kept, and there may be new charts
  form.isStarted = true;
  if (timelines.length === 0) form.querySelector("fieldset").remove();
  else if (timelines.some((timeline) => timeline.steps.length === 0)) form.querySelector("[value=steps]").parentElement.remove();
  form.addEventListener("input", () => redraw(all(".chart", form.closest("section")).filter((figure) => figure.chart)));
  form.addEventListener("submit", (event) => event.preventDefault());
}

// Cells of the confusion matrix: a dialog with the images behind a cell, as far as the page has them.
function openCell(cell, says) {
  const dialog = document.querySelector("dialog.cell");
  const names = new Set();
  const figures = all(`figure[data-cell="${cell}"]`).filter((figure) => !dialog.contains(figure)).filter((figure) => {
    const name = figure.querySelector(".name").textContent;
    return !names.has(name) && names.add(name);
  });
  dialog.querySelector("h3").textContent = says;
  const pictures = dialog.querySelector(".pictures");
  pictures.replaceChildren(...figures.map((figure) => figure.cloneNode(true)));
  dialog.querySelector("p").textContent = figures.length === 0 ? "None of these images is in this page; predictions.csv lists them." : "The images that this page has; predictions.csv lists all.";
  dialog.showModal();
}
// The arrow keys move in a matrix, Enter opens a cell.
const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

// Starts what a part of the page has: all of it, or a part that has replaced an older one.
function start(root) {
  for (const element of all("[data-script]", root)) element.hidden = false;
  readTimelines(root);
  for (const section of root === document ? all("section") : [root]) startCharts(section);

  for (const table of all("table.matrix", root)) {
    const rows = [...table.tBodies[0].rows].map((row) => [...row.cells].filter((cell) => cell.tagName === "TD" && cell.hasAttribute("data-x")));
    rows[0][0].tabIndex = 0;
    rows.forEach((cells, y) => cells.forEach((cell, x) => {
      const open = () => { if (cell.dataset.cell) openCell(cell.dataset.cell, cell.title); };
      cell.addEventListener("click", open);
      cell.addEventListener("keydown", (event) => {
        if (event.key === "Enter") open();
        const move = moves[event.key];
        const next = move && rows[y + move[0]] && rows[y + move[0]][x + move[1]];
        if (!next) return;
        event.preventDefault();
        for (const other of rows.flat()) other.removeAttribute("tabindex");
        next.tabIndex = 0;
        next.focus();
      });
    }));
  }

  for (const map of all(".map", root)) {
    const { classes, order, totals, cells } = json(document.getElementById(map.dataset.cells));
    const counts = new Map(cells.map(([label, predicted, count]) => [label * classes.length + predicted, count]));
    const plane = map.querySelector(".plane");
    const [row, column] = plane.querySelectorAll("i");
    const output = map.querySelector("output");
    let now = [0, 0];
    const last = order.length - 1;
    const show = (y, x) => {
      now = [y, x];
      const [label, predicted] = [order[y], order[x]];
      const count = counts.get(label * classes.length + predicted) || 0;
      const says = label === predicted ? "predicted correctly" : `predicted as ${classes[predicted]}`;
      const share = totals[label] ? ` (${((100 * count) / totals[label]).toFixed(1)}%)` : "";
      output.textContent = `${classes[label]} ${says}: ${count} of ${totals[label]}${share}`;
      const percent = (n) => `${(100 * n) / order.length}%`;
      Object.assign(row.style, { display: "block", top: percent(y), height: percent(1) });
      Object.assign(column.style, { display: "block", left: percent(x), width: percent(1) });
      return count;
    };
    const at = (event) => {
      const box = plane.getBoundingClientRect();
      const place = (share) => Math.min(last, Math.max(0, Math.floor(share * order.length)));
      return show(place((event.clientY - box.top) / box.height), place((event.clientX - box.left) / box.width));
    };
    const open = () => { if (show(...now) > 0) openCell(now.map((place) => order[place]).join("-"), output.textContent); };
    plane.addEventListener("pointermove", at);
    plane.addEventListener("click", (event) => { at(event); open(); });
    plane.addEventListener("keydown", (event) => {
      if (event.key === "Enter") open();
      const move = moves[event.key];
      if (!move) return;
      event.preventDefault();
      show(...move.map((by, axis) => Math.min(last, Math.max(0, now[axis] + by))));
    });
    const zoom = map.querySelector("input[name=zoom]");
    const view = map.querySelector(".view");
    zoom.addEventListener("input", () => {
      const centre = (view.scrollLeft + view.clientWidth / 2) / plane.clientWidth;
      const middle = (view.scrollTop + view.clientHeight / 2) / plane.clientHeight;
      map.style.setProperty("--zoom", zoom.value);
      view.scrollLeft = centre * plane.clientWidth - view.clientWidth / 2;
      view.scrollTop = middle * plane.clientHeight - view.clientHeight / 2;
    });
  }

  // A table's head sorts by its column: by data-sort where a cell has it, else by number, else by text.
  for (const table of all("table.sortable", root)) {
    const heads = [...table.tHead.rows[0].cells];
    const key = (row, index) => {
      const cell = row.cells[index];
      const text = cell.dataset.sort || cell.textContent;
      return text.trim() === "" || isNaN(text) ? text : Number(text);
    };
    const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
    heads.forEach((head, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => (down ? -1 : 1) * compare(key(a, index), key(b, index)));
        table.tBodies[0].append(...rows);
      });
    });
  }

  // A search field hides the rows whose names do not contain its text.
  for (const search of all("input[type=search]", root)) {
    const rows = all(search.dataset.rows);
    search.addEventListener("input", () => {
      const text = search.value.toLowerCase();
      for (const row of rows) row.hidden = !row.dataset.name.toLowerCase().includes(text);
    });
  }
  for (const button of all("button.more", root)) {
    const table = document.getElementById(button.getAttribute("aria-controls"));
    button.addEventListener("click", () => {
      const open = table.classList.toggle("tall") === false;
      button.setAttribute("aria-expanded", open);
      button.textContent = open ? "Show fewer rows" : "Show all rows";
    });
  }

  for (const slider of all("input[name=strength]", root)) {
    const section = slider.closest("section");
    slider.addEventListener("input", () => section.style.setProperty("--strength", slider.value));
  }

  for (const button of all("button.copy", root)) {
    const text = button.parentElement.querySelector("code").textContent;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(button.parentElement.querySelector("code"));
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }

  // Tables that scroll can be reached with the keyboard.
  for (const box of all(".scroll, .view", root)) {
    if (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight) box.tabIndex = 0;
  }
}
start(document);

// Details open when a link leads to them.
const opened = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === "DETAILS") target.open = true;
};
addEventListener("hashchange", opened);
opened();
