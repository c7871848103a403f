"use strict";
// Embeds the charts, colours them for the light or dark scheme, and updates the maps when the slider moves.
const lcaReport = (() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const at = (id) => document.getElementById(id);
  const data = read("data");
  const run = data.run; // of the page of one run: its layers over time, and the maps of single layers
  const maps = data.maps ?? {}; // of the page of several runs: one map of layers or groups and steps for each condition
  const intervals = run ? run.first.length : 0;
  const LEVELS = 127, EMPTY = -128;
  const totals = run ? new Float32Array(bytes(run.totals).buffer) : null; // (losses, 1 + intervals, layers); index 0 is the sum over all steps
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const model = {}; // Bokeh's models by name
  let codes = null; // of the selected detail map: (losses, 1 + intervals, height, width)
  let timer = null;

  function bytes(text) {
    return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  }

  // encode is lca.report.moments.encode; decode is its inverse.
  function encode(value, limit) {
    if (!limit) return 0;
    return LEVELS * Math.sign(value) * Math.log1p(Math.abs(value) / (data.linear * limit)) / Math.log1p(1 / data.linear);
  }
  function decode(code, limit) {
    return Math.sign(code) * data.linear * limit * Math.expm1(Math.abs(code) / LEVELS * Math.log1p(1 / data.linear));
  }

  const unit = run?.unit ?? data.unit; // what the steps are counted in
  const chosen = (id) => (at(id) ? Number(at(id).value) : 0);
  const total = (loss, frame, layer) => totals[(loss * (intervals + 1) + frame) * run.layers.length + layer];
  const minus = (text) => text.replaceAll("-", "−");
  const number = (v, digits = 3) => (v > 0 ? "+" : "") + minus(String(Number(v.toPrecision(digits))));
  const range = (name, from, past) => name + " " + from + (past - from > 1 ? "–" + (past - 1) : "");
  const steps = (from, to) => (from === to ? unit + " " + from : unit + "s " + from + "–" + to);
  const capital = (text) => text[0].toUpperCase() + text.slice(1);
  const when = (frame) => (frame ? steps(run.first[frame - 1], run.last[frame - 1]) : run.scope);

  function drawMap() {
    const [loss, layers] = [chosen("pick-loss"), run.layers.length];
    let limit = 0;
    for (let f = 1; f <= intervals; f++) for (let i = 0; i < layers; i++) limit = Math.max(limit, Math.abs(total(loss, f, i)));
    fill("map", layers, intervals, (row, col) => encode(total(loss, col + 1, row), limit));
    key("map", limit);
  }

  function fill(name, height, width, code) {
    const source = model[name + "-cells"];
    const image = new Float32Array(height * width);
    for (let r = 0; r < height; r++) for (let c = 0; c < width; c++) image[r * width + c] = code(r, c);
    const NDArray = source.data.image[0].constructor; // Bokeh's array class, which has a shape
    source.data = {image: [new NDArray(image, [height, width])], x: [0], y: [0], dw: [width], dh: [height]};
  }

  function drawInterval() {
    const [loss, frame] = [chosen("pick-loss"), chosen("interval")];
    model.interval.setv({visible: frame > 0, left: frame - 1, right: frame});
    const order = run.layers.map((name, i) => [total(loss, frame, i), name]).sort((a, b) => a[0] - b[0]);
    const sum = order.reduce((all, [value]) => all + value, 0);
    const named = ([value, name]) => name + " " + number(value);
    const [low, high] = [order[0], order.at(-1)];
    const lowest = low[0] < 0 ? "most helping: " : "least hurting: ", highest = high[0] > 0 ? "most hurting: " : "least helping: ";
    const ends = order.length > 1 ? "; " + lowest + named(low) + "; " + highest + named(high) : "";
    at("reading").textContent = capital(when(frame)) + ": LCA of the " + run.losses[loss] + " loss " + number(sum) + ends + ".";
    at("interval").setAttribute("aria-valuetext", when(frame));
    drawDetail();
  }

  function choose() {
    if (!run.details.length) return;
    codes = new Int8Array(bytes(run.details[chosen("pick-detail")].codes).buffer);
  }

  function drawDetail() {
    if (!codes) return;
    const shown = run.details[chosen("pick-detail")];
    const {height, width} = shown;
    fill("detail", height, width, (row, col) => {
      const code = detailCode(row, col);
      return code === EMPTY ? NaN : code;
    });
    model.detail.height = 90 + Math.min(240, 60 * height);
    model.detail.x_range.setv({start: 0, end: width});
    model.detail.y_range.setv({start: height, end: 0});
    const [rows, cols] = shown.axes;
    const cell = (edges, i) => [edges[i], edges[i + 1] - 1];
    if (cols) {
      model["detail-x"].axis_label = cols;
      model["detail-y"].axis_label = rows;
      ticks("detail-x", width, (i) => cell(shown.edges[1], i));
      ticks("detail-y", height, (i) => cell(shown.edges[0], i));
    } else { // a list: a row begins with the entry at its left, and continues to the right
      const edges = shown.edges[0], offset = (i) => cell(edges, i).map((entry) => entry - edges[0]);
      model["detail-x"].axis_label = height > 1 ? rows + ": the number on the left + this one" : rows;
      model["detail-y"].axis_label = height > 1 ? "first " + rows + " of the row" : " ";
      ticks("detail-x", width, offset, height > 1 ? "+" : "");
      const start = (row) => cell(edges, row * width);
      if (height > 1) eachRow("detail-y", height, (row) => String(start(row)[0]));
      else setTicks("detail-y", []);
    }
    nameDetail(shown);
    drawNumbers();
    key("detail", limit(shown));
  }

  // The titles: what a column of the map of layers is, and what a cell of the map below it is.
  function nameMap() {
    const single = unit === "step" ? run.first.every((first, i) => first === run.last[i]) : run.steps === intervals;
    const all = unit !== "step" ? "from each checkpoint to the next" : run.last.at(-1) - run.first[0] + 1 === intervals ? "every step" : "every measured step";
    at("map-title").textContent = "All layers, " + (single ? all : "every interval of steps");
  }
  function nameDetail(shown) {
    const frame = chosen("interval"), one = run.steps === 1 || (frame && run.first[frame - 1] === run.last[frame - 1]);
    const entry = shown.axes.length > 1 ? "weight" : shown.axes[0];
    const cell = pooled(shown) ? "each cell is the sum over a block of entries" : "one cell per " + entry;
    at("detail-title").textContent = shown.name + (one ? " at " + when(frame || 1) : ", " + when(frame)) + ": " + cell + (one ? "" : ", summed over the steps") + "; " + (isDark() ? "dark" : "white") + " = no effect";
  }

  const limit = (shown) => shown.limits[chosen("interval") ? 1 : 0];
  const pooled = (shown) => shown.edges.reduce((all, edge) => all * edge.at(-1), 1) > shown.edges.reduce((all, edge) => all * (edge.length - 1), 1);
  function detailCode(row, col) {
    const {height, width} = run.details[chosen("pick-detail")];
    const frame = chosen("interval"), size = height * width;
    return codes[(chosen("pick-loss") * (intervals + 1) + frame) * size + row * width + col];
  }

  // Write the values into the cells where there is room for them.
  function drawNumbers() {
    const shown = run.details[chosen("pick-detail")];
    const {height, width} = shown;
    const room = at("detail").clientWidth - 80;
    const text = {x: [], y: [], text: [], color: []};
    if (room / width >= 42 && 250 / height >= 14) {
      for (let row = 0; row < height; row++) for (let col = 0; col < width; col++) {
        const code = detailCode(row, col);
        if (code === EMPTY) continue;
        text.x.push(col + 0.5);
        text.y.push(row + 0.5);
        text.text.push(code ? number(decode(code, limit(shown)), 2) : "0");
        const strong = Math.abs(code) > (isDark() ? 0.75 : 0.88) * LEVELS;
        text.color.push(isDark() ? (strong ? "#14171c" : "#e6e9ee") : (strong ? "#ffffff" : "#1c2026"));
      }
    }
    model["detail-numbers"].data = text;
  }

  // Draw a map's colour scale with its numbers: the limit, a tenth of it, and 0.
  function key(name, limit) {
    const box = at(name + "-key"), short = (v) => minus(String(Number(v.toPrecision(2))));
    const [low, bar, high, scale] = ["span", "i", "span", "div"].map((tag) => document.createElement(tag));
    [low.textContent, high.textContent, scale.className] = ["helping", "hurting", "ticks"];
    bar.style.background = "linear-gradient(to right, " + palette().join() + ")";
    for (const part of limit ? [-1, -0.1, 0, 0.1, 1] : [0]) {
      const tick = document.createElement("span");
      tick.textContent = (part > 0 ? "+" : "") + short(part * limit);
      tick.style.left = 50 + 50 * encode(part, 1) / LEVELS + "%";
      scale.append(tick);
    }
    box.replaceChildren(low, bar, high, scale);
  }

  // Put labels at round numbers. Cell i of the axis holds the numbers from bounds(i)[0] to bounds(i)[1].
  function ticks(name, cells, bounds, sign = "") {
    const first = bounds(0)[0], last = bounds(cells - 1)[1];
    const space = roundSpace((last - first) / 5);
    const shown = [];
    for (let cell = 0, tick = Math.ceil(first / space) * space; tick <= last; tick += space) {
      while (cell < cells && bounds(cell)[1] < tick) cell += 1;
      const [from, to] = bounds(cell);
      if (from <= tick) shown.push([cell + (tick - from + 0.5) / (to - from + 1), sign + tick]);
    }
    // Where steps are missing, few round numbers may be among the measured ones.
    setTicks(name, shown.length > 1 ? shown : spread(cells, (cell) => sign + bounds(cell)[0]));
  }
  function roundSpace(least) {
    const power = 10 ** Math.floor(Math.log10(Math.max(least, 1)));
    return power * [1, 2, 5, 10].find((factor) => factor * power >= least);
  }
  function eachRow(name, cells, label) {
    setTicks(name, cells <= 10 ? Array.from({length: cells}, (_, i) => [i + 0.5, label(i)]) : spread(cells, label));
  }
  function spread(cells, label) {
    const count = Math.min(6, cells);
    return Array.from({length: count}, (_, i) => Math.floor(i * cells / count)).map((i) => [i + 0.5, label(i)]);
  }
  function setTicks(name, shown) {
    model[name].ticker.setv({ticks: shown.map(([place]) => place)});
    model[name].major_label_overrides = new Map(shown);
  }

  // The tooltip of the cell at (x, y).
  function describe(name, x, y) {
    const [col, row] = [Math.floor(x), Math.floor(y)];
    if (name in maps) return describeCompared(maps[name], row, col);
    const loss = chosen("pick-loss");
    if (name === "map") return run.layers[row] + ", " + when(col + 1) + ": " + number(total(loss, col + 1, row));
    const shown = run.details[chosen("pick-detail")];
    const cell = row * shown.width + col, code = detailCode(row, col);
    if (code === EMPTY) return "";
    const value = number(Number(decode(code, limit(shown)).toPrecision(2)));
    const places = shown.axes.length > 1 ? [row, col] : [cell];
    return places.map((p, i) => range(shown.axes[i], shown.edges[i][p], shown.edges[i][p + 1])).join(", ") + ": " + value;
  }

  // After a click on the map, select the interval and the first detail map of the layer.
  function pick(x, y) {
    const [frame, row] = [Math.floor(x) + 1, Math.floor(y)];
    if (frame < 1 || frame > intervals || row < 0 || row >= run.layers.length) return;
    at("interval").value = frame;
    const which = run.details.findIndex((each) => each.layer === run.layers[row]);
    if (which >= 0 && run.details[chosen("pick-detail")].layer !== run.layers[row]) at("pick-detail").value = which;
    choose();
    drawInterval();
  }

  function play() {
    const stop = () => { clearInterval(timer); timer = null; at("play").textContent = "Play"; };
    if (timer) return stop();
    if (chosen("interval") >= intervals) at("interval").value = 0;
    at("play").textContent = "Pause";
    timer = setInterval(() => {
      at("interval").value = chosen("interval") + 1;
      drawInterval();
      if (chosen("interval") >= intervals) stop();
    }, 120);
  }

  function drawCompared([name, each]) {
    const cells = new Int8Array(bytes(each.codes).buffer), {height, width} = each;
    each.cells = cells;
    model[name].x_range.setv({start: 0, end: width});
    fill(name, height, width, (row, col) => (cells[row * width + col] === EMPTY ? NaN : cells[row * width + col]));
    ticks(name + "-steps", width, (i) => [each.first[i], each.last[i]]);
  }
  function describeCompared(each, row, col) {
    const code = each.cells[row * each.width + col];
    if (code === EMPTY) return each.rows[row] + ", " + steps(each.first[col], each.last[col]) + ": not measured";
    return each.rows[row] + ", " + steps(each.first[col], each.last[col]) + ": " + number(decode(code, each.limit), 2);
  }

  let printing = false; // on paper, the page is light
  const isDark = () => dark.matches && !printing;
  const palette = () => data.palettes[isDark() ? "dark" : "light"];

  // Style sheets do not apply to Bokeh's canvases, so its colours are set here.
  function paint() {
    const style = getComputedStyle(document.documentElement);
    const paper = {"--ink": "#1c2026", "--soft": "#5b6470", "--line": "#d9dde2"};
    const [ink, soft, line] = Object.keys(paper).map((name) => (printing ? paper[name] : style.getPropertyValue(name).trim()));
    const colour = {
      Axis: {axis_line_color: soft, major_tick_line_color: soft, minor_tick_line_color: null, major_label_text_color: soft, axis_label_text_color: soft, axis_label_text_font_style: "normal"},
      Grid: {grid_line_color: line},
      Legend: {label_text_color: ink, inactive_fill_alpha: 0},
      LinearColorMapper: {palette: palette()},
    };
    for (const each of models()) {
      for (const [kind, values] of Object.entries(colour)) if (each.type.endsWith(kind)) each.setv(values);
      const inked = each.glyph ?? each; // setting it anew, even to the same colour, draws the legend again
      if (each.tags?.includes("ink") && inked.line_color?.value !== ink && inked.line_color !== ink) inked.line_color = ink;
    }
    if (run) { drawMap(); drawInterval(); }
    for (const box of document.querySelectorAll(".key[data-limit]")) key(box.id.slice(0, -4), Number(box.dataset.limit));
  }

  // Show everything on paper: folded tables, and the colours of the light scheme.
  function print(begins) {
    printing = begins;
    for (const each of document.querySelectorAll("details")) {
      if (begins && !each.open) each.dataset.folded = "yes";
      if (each.dataset.folded) each.open = begins;
      if (!begins) delete each.dataset.folded;
    }
    paint();
    if (begins && dark.matches) repaint();
  }

  // Bokeh paints at the next frame, and the browser prints this one.
  function repaint() {
    for (const root of Bokeh.index.roots) for (const view of [root, ...(root.child_views ?? [])]) {
      if (!view.repaint) continue;
      for (const each of view.computed_renderer_views) each.glyph?.set_visuals?.(each.model.data_source, each.all_indices);
      view.invalidate_painters();
      view.repaint();
    }
  }

  function* models() {
    for (const doc of Bokeh.documents) for (const root of doc.roots()) yield* root.references();
  }

  // Fade the right edge of a table that continues there.
  function markWide() {
    for (const each of document.querySelectorAll(".scroll"))
      each.classList.toggle("more", each.scrollLeft + each.clientWidth < each.scrollWidth - 2);
  }

  // Put as many names of a legend into one row as fit, and give its rows a height of their own.
  const heights = new Map();
  function wrapLegends() {
    const room = document.body.clientWidth - 80;
    for (const plot of models()) for (const each of plot.above ?? []) {
      if (each.type !== "Legend") continue;
      const widths = each.items.map((item) => 6.5 * item.label.value.length + 45);
      const all = widths.reduce((sum, width) => sum + width, 0) <= room;
      each.ncols = all ? widths.length : Math.max(1, Math.floor(room / Math.max(...widths)));
      if (!heights.has(plot)) heights.set(plot, plot.height);
      plot.height = heights.get(plot) + 23 * (Math.ceil(widths.length / each.ncols) - 1);
    }
  }

  async function start() {
    for (const item of read("charts")) await Bokeh.embed.embed_item(item);
    // Skip lines: they have the names of layers, which could equal one of the names used here.
    for (const each of models()) if (each.name && each.type !== "GlyphRenderer") model[each.name] = each;
    if (run) {
      nameMap();
      ticks("map-steps", intervals, (i) => [run.first[i], run.last[i]]);
      at("interval").addEventListener("input", drawInterval);
      at("play").addEventListener("click", play);
      at("pick-loss")?.addEventListener("change", () => { drawMap(); drawInterval(); });
      at("pick-detail")?.addEventListener("change", () => { choose(); drawInterval(); });
      choose();
    }
    Object.entries(maps).forEach(drawCompared);
    wrapLegends();
    markWide();
    paint();
    dark.addEventListener("change", paint);
    window.addEventListener("resize", () => { wrapLegends(); markWide(); if (codes) drawNumbers(); });
    for (const each of document.querySelectorAll(".scroll")) each.addEventListener("scroll", markWide);
    for (const each of document.querySelectorAll("details")) each.addEventListener("toggle", markWide);
    window.addEventListener("beforeprint", () => print(true));
    window.addEventListener("afterprint", () => print(false));
    document.documentElement.dataset.ready = "yes";
  }

  start();
  return {describe, pick};
})();
