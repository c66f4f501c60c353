"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const hidden = new Set();
  const state = { x: "epoch", range: null };
  const DASHES = { "-": "", "--": "7 4", ":": "2 3", "-.": "7 3 2 3" };
  const NS = "http://www.w3.org/2000/svg";
  const MOST_ROWS = 12;
  const MARGIN = { left: 58, right: 12, top: 8, bottom: 34 };

  // Above seven runs, colours come again, paler.
  const colour = (run) => {
    const share = [100, 60, 35][Math.floor(run / 7) % 3];
    return share === 100 ? `var(--c${run % 7})` : `color-mix(in srgb, var(--c${run % 7}) ${share}%, var(--ground))`;
  };
  const make = (parent, name, attributes = {}, text = "") => {
    const node = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    parent.appendChild(node);
    return node;
  };
  const shown = (value) => {
    if (value === null) return "–";
    const size = Math.abs(value);
    if (value === 0) return "0";
    const text = size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
    return text.replace(/\.?0+e/, "e");
  };
  const short = (name) => (name.length > 30 ? `${name.slice(0, 12)}…${name.slice(-16)}` : name);
  const ticks = (low, high, count, least = 0) => {
    const span = high - low || 1;
    const power = 10 ** Math.floor(Math.log10(span / count));
    const step = Math.max(least, [1, 2, 5, 10].map((m) => m * power).find((s) => span / s <= count));
    const found = [];
    for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step) found.push(Number(tick.toPrecision(12)));
    return found;
  };
  const logTicks = (low, high) => {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1)
      for (const m of [1, 2, 5]) { const tick = m * 10 ** power; if (tick >= low * 0.999 && tick <= high * 1.001) found.push(tick); }
    return found.length > 9 ? found.filter((tick) => Math.abs(Math.log10(tick) % 1) < 1e-6) : found;
  };

  class Chart {
    constructor(figure, panel) {
      this.figure = figure;
      this.panel = panel;
      this.log = panel.log;
      this.svg = figure.querySelector("svg");
      this.tip = figure.querySelector(".tip");
      const box = figure.querySelector("input");
      if (box) { box.checked = this.log; box.addEventListener("change", () => { this.log = box.checked; this.draw(); }); }
      this.svg.addEventListener("pointermove", (event) => this.move(event));
      this.svg.addEventListener("pointerleave", () => this.leave());
      this.svg.addEventListener("pointerdown", (event) => { this.from = this.place(event); });
      this.svg.addEventListener("pointerup", (event) => this.release(event));
      this.svg.addEventListener("dblclick", () => zoom(null));
    }

    lines() {
      const found = [];
      data.runs.forEach((run, index) => {
        if (hidden.has(index)) return;
        for (const line of this.panel.lines) {
          const values = run.columns[line.metric];
          if (values) found.push({ run, index, line, x: state.x === "time" ? values.t : values.x, y: values.y });
        }
      });
      return found;
    }

    draw() {
      this.svg.replaceChildren();
      const width = Math.max(this.svg.clientWidth, 240);
      const height = Number(this.svg.dataset.height);
      this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      this.svg.setAttribute("height", height);
      const lines = this.lines();
      const all = lines.flatMap((each) => each.x.filter((value) => value !== null));
      const [x0, x1] = state.range || [Math.min(...limits(all)), Math.max(...limits(all))];
      const seen = [];
      for (const each of lines) each.x.forEach((x, i) => { const y = each.y[i]; if (y !== null && x >= x0 && x <= x1 && (!this.log || y > 0)) seen.push(y); });
      let [low, high] = limits(seen);
      if (!seen.length) { low = 0; high = 1; }
      if (this.log && low <= 0) { low = 1e-3; high = Math.max(high, 1); }
      if (low === high) { low -= Math.abs(low) / 2 || 1; high += Math.abs(high) / 2 || 1; }
      const pad = this.log ? 0 : 0.05 * (high - low);
      const [yLow, yHigh] = [low - pad, high + pad];
      const warp = this.log ? Math.log10 : (value) => value;
      const [left, right, top, bottom] = [MARGIN.left, width - MARGIN.right, MARGIN.top, height - MARGIN.bottom];
      const margin = x0 === x1 ? 1 : 0;
      this.scale = {
        x: (value) => left + ((value - x0 + margin) / (x1 - x0 + 2 * margin)) * (right - left),
        y: (value) => bottom - ((warp(value) - warp(yLow)) / (warp(yHigh) - warp(yLow))) * (bottom - top),
        back: (pixel) => x0 - margin + ((pixel - left) / (right - left)) * (x1 - x0 + 2 * margin),
        left, right, top, bottom,
      };
      for (const tick of this.log ? logTicks(yLow, yHigh) : ticks(yLow, yHigh, 5)) {
        const y = this.scale.y(tick);
        make(this.svg, "line", { class: "grid", x1: left, x2: right, y1: y, y2: y });
        make(this.svg, "text", { x: left - 6, y: y + 4, "text-anchor": "end" }, shown(tick));
      }
      for (const tick of x0 === x1 ? [x0] : ticks(x0, x1, Math.max(2, Math.floor((right - left) / 80)), state.x === "time" ? 0 : 1)) {
        const x = this.scale.x(tick);
        make(this.svg, "line", { class: "grid", x1: x, x2: x, y1: top, y2: bottom });
        make(this.svg, "text", { x, y: bottom + 15, "text-anchor": "middle" }, shown(tick));
      }
      make(this.svg, "line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom });
      const label = state.x === "time" ? `time of the training (${data.time_unit})` : "epoch (from 0)";
      make(this.svg, "text", { x: (left + right) / 2, y: height - 4, "text-anchor": "middle" }, label);
      for (const each of lines) this.curve(each, x0, x1);
      if (this.panel.selection) data.runs.forEach((run, index) => this.star(run, index));
      this.cursor = make(this.svg, "line", { class: "cursor", y1: top, y2: bottom, visibility: "hidden" });
      this.zoomed = make(this.svg, "rect", { class: "zoom", y: top, height: bottom - top, width: 0, visibility: "hidden" });
    }

    curve(each, x0, x1) {
      let path = "";
      let pen = false;
      const dots = [];
      each.x.forEach((x, i) => {
        const y = each.y[i];
        if (y === null || x < x0 || x > x1 || (this.log && y <= 0)) { pen = false; return; }
        path += `${pen ? "L" : "M"}${this.scale.x(x).toFixed(1)} ${this.scale.y(y).toFixed(1)}`;
        pen = true;
        dots.push([x, y]);
      });
      const style = { fill: "none", "stroke-width": data.runs.length > 5 ? 1.3 : 1.9, "stroke-dasharray": DASHES[each.line.style] };
      make(this.svg, "path", { d: path, ...style, style: `stroke:${colour(each.index)}`, "data-run": each.index });
      if (dots.length <= 30)
        for (const [x, y] of dots) make(this.svg, "circle", { cx: this.scale.x(x), cy: this.scale.y(y), r: 2.4, style: `fill:${colour(each.index)}` });
    }

    star(run, index) {
      if (hidden.has(index) || !run.best) return;
      const x = state.x === "time" ? run.best.t : run.best.epoch;
      if (state.range && (x < state.range[0] || x > state.range[1])) return;
      const [cx, cy] = [this.scale.x(x), this.scale.y(run.best.value)];
      const points = [...Array(10).keys()].map((i) => {
        const [radius, angle] = [i % 2 ? 3 : 7, (Math.PI * i) / 5 - Math.PI / 2];
        return `${(cx + radius * Math.cos(angle)).toFixed(1)},${(cy + radius * Math.sin(angle)).toFixed(1)}`;
      });
      const star = make(this.svg, "polygon", { points: points.join(" "), style: `fill:${colour(index)};stroke:var(--text)` });
      make(star, "title", {}, `best of ${run.name}`);
    }

    place(event) {
      const box = this.svg.getBoundingClientRect();
      return ((event.clientX - box.left) / box.width) * this.svg.viewBox.baseVal.width;
    }

    height(event) {
      const box = this.svg.getBoundingClientRect();
      return ((event.clientY - box.top) / box.height) * this.svg.viewBox.baseVal.height;
    }

    move(event) {
      if (!this.scale) return;
      const pixel = Math.min(Math.max(this.place(event), this.scale.left), this.scale.right);
      if (this.from !== undefined && event.buttons) {
        const [a, b] = [Math.min(this.from, pixel), Math.max(this.from, pixel)];
        this.zoomed.setAttribute("x", a);
        this.zoomed.setAttribute("width", b - a);
        this.zoomed.setAttribute("visibility", "visible");
      }
      const at = this.scale.back(pixel);
      let nearest = null;
      const lines = this.lines();
      for (const each of lines) each.x.forEach((x, i) => { if (each.y[i] !== null && (nearest === null || Math.abs(x - at) < Math.abs(nearest - at))) nearest = x; });
      if (nearest === null) return;
      const x = this.scale.x(nearest);
      this.cursor.setAttribute("x1", x);
      this.cursor.setAttribute("x2", x);
      this.cursor.setAttribute("visibility", "visible");
      const rows = [];
      for (const each of lines) {
        let best = -1;
        each.x.forEach((value, i) => { if (each.y[i] !== null && (best < 0 || Math.abs(value - nearest) < Math.abs(each.x[best] - nearest))) best = i; });
        if (best >= 0 && Math.abs(this.scale.x(each.x[best]) - x) < 6) rows.push([each, each.y[best]]);
      }
      // Those nearest to the pointer, from top to bottom.
      const distance = ([, value]) => Math.abs(this.scale.y(value) - this.height(event)) || 0;
      rows.sort((a, b) => distance(a) - distance(b));
      const nearby = rows.slice(0, MOST_ROWS).sort((a, b) => b[1] - a[1]);
      this.tip.replaceChildren();
      const title = document.createElement("div");
      title.textContent = state.x === "time" ? `${shown(nearest)} ${data.time_unit}` : `epoch ${shown(nearest)}`;
      this.tip.appendChild(title);
      for (const [each, value] of nearby) {
        const row = document.createElement("div");
        const dot = document.createElement("span");
        dot.textContent = "■ ";
        dot.style.color = colour(each.index);
        const name = data.runs.length > 1 ? ` ${short(each.run.name)}` : "";
        row.append(dot, `${shown(value)} ${each.line.label}${name}`);
        this.tip.appendChild(row);
      }
      this.tip.hidden = false;
      const box = this.figure.getBoundingClientRect();
      const ratio = this.svg.getBoundingClientRect().width / this.svg.viewBox.baseVal.width;
      const wanted = x * ratio + 14;
      this.tip.style.left = `${wanted + this.tip.offsetWidth > box.width ? Math.max(0, x * ratio - this.tip.offsetWidth - 6) : wanted}px`;
      this.tip.style.top = "34px";
    }

    release(event) {
      const to = this.place(event);
      const from = this.from;
      this.from = undefined;
      if (from === undefined || Math.abs(to - from) < 8) return;
      const ends = [this.scale.back(from), this.scale.back(to)].sort((a, b) => a - b);
      zoom(ends);
    }

    leave() {
      this.tip.hidden = true;
      this.from = undefined;
      if (this.cursor) this.cursor.setAttribute("visibility", "hidden");
      if (this.zoomed) this.zoomed.setAttribute("visibility", "hidden");
    }
  }

  const limits = (values) => {
    let [low, high] = [Infinity, -Infinity];
    for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
    return values.length ? [low, high] : [0, 1];
  };
  const charts = [...document.querySelectorAll("figure.chart")].map((figure) => new Chart(figure, data.panels[Number(figure.dataset.panel)]));
  const redraw = () => charts.forEach((chart) => chart.draw());
  const zoom = (range) => {
    state.range = range;
    document.getElementById("reset").hidden = range === null;
    charts.forEach((chart) => chart.leave());
    redraw();
  };
  document.getElementById("reset").addEventListener("click", () => zoom(null));
  document.getElementById("x").addEventListener("change", (event) => { state.x = event.target.value; zoom(null); });
  document.querySelectorAll(".legend button").forEach((button) => {
    button.querySelector(".swatch").style.borderColor = colour(Number(button.dataset.run));
    button.addEventListener("click", () => {
      const run = Number(button.dataset.run);
      if (!hidden.delete(run)) hidden.add(run);
      button.setAttribute("aria-pressed", String(!hidden.has(run)));
      redraw();
    });
  });
  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
  });
  new ResizeObserver(redraw).observe(document.body);
  addEventListener("beforeprint", redraw);
  redraw();
})();
