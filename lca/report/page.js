"use strict";
// Embeds the charts, colours them for the light or dark scheme, and updates the maps when the slider moves.
const lcaReport = (() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const at = (id) => document.getElementById(id);
  const data = read("data");
  const intervals = data.first.length;
  const LEVELS = 127, EMPTY = -128;
  const totals = new Float32Array(bytes(data.totals).buffer); // (losses, 1 + intervals, layers); index 0 is the whole run
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

  const chosen = (id) => (at(id) ? Number(at(id).value) : 0);
  const total = (loss, frame, layer) => totals[(loss * (intervals + 1) + frame) * data.layers.length + layer];
  const number = (v) => (v > 0 ? "+" : "") + Number(v.toPrecision(3)).toString().replaceAll("-", "−");
  const range = (name, from, past) => name + " " + from + (past - from > 1 ? "–" + (past - 1) : "");
  function when(frame) {
    if (!frame) return "The whole run";
    const [from, to] = [data.first[frame - 1], data.last[frame - 1]];
    return from === to ? "Step " + from : "Steps " + from + "–" + to;
  }

  function drawMap() {
    const [loss, layers] = [chosen("pick-loss"), data.layers.length];
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
    const order = data.layers.map((name, i) => [total(loss, frame, i), name]).sort((a, b) => a[0] - b[0]);
    const sum = order.reduce((all, [value]) => all + value, 0);
    const named = ([value, name]) => name + " " + number(value);
    const ends = order.length > 1 ? "; lowest: " + named(order[0]) + ", highest: " + named(order.at(-1)) : "";
    at("reading").textContent = when(frame) + ": LCA of the " + data.losses[loss] + " loss " + number(sum) + ends + ".";
    at("interval").setAttribute("aria-valuetext", when(frame));
    drawDetail();
  }

  function choose() {
    if (!data.details.length) return;
    codes = new Int8Array(bytes(data.details[chosen("pick-detail")].codes).buffer);
  }

  function drawDetail() {
    if (!codes) return;
    const shown = data.details[chosen("pick-detail")];
    const frame = chosen("interval"), size = shown.height * shown.width;
    const from = (chosen("pick-loss") * (intervals + 1) + frame) * size;
    fill("detail", shown.height, shown.width, (row, col) => {
      const code = codes[from + row * shown.width + col];
      return code === EMPTY ? NaN : code;
    });
    model.detail.x_range.setv({start: 0, end: shown.width});
    model.detail.y_range.setv({start: shown.height, end: 0});
    const [rows, cols] = shown.axes;
    model["detail-x"].axis_label = cols || rows + ", row by row";
    model["detail-y"].axis_label = cols ? rows : " ";
    ticks("detail-x", shown.width, cols ? shown.edges[1] : null);
    ticks("detail-y", shown.height, cols ? shown.edges[0] : null);
    at("detail-caption").textContent = shown.name + ", " + when(frame).toLowerCase();
    key("detail", shown.limits[frame ? 1 : 0]);
  }

  // Label the two ends of a map's colour scale.
  function key(name, limit) {
    const [low, high] = at(name + "-key").querySelectorAll("span");
    low.textContent = "helping −" + Number(limit.toPrecision(2));
    high.textContent = "+" + Number(limit.toPrecision(2)) + " hurting";
  }

  // Put up to six labels at the centres of cells.
  function ticks(name, cells, labels) {
    const count = labels ? Math.min(6, cells) : 0;
    const shown = Array.from({length: count}, (_, i) => Math.floor(i * cells / count));
    model[name].ticker.setv({ticks: shown.map((t) => t + 0.5)});
    model[name].major_label_overrides = new Map(shown.map((t) => [t + 0.5, String(labels[t])]));
  }

  // The tooltip of the cell at (x, y).
  function describe(name, x, y) {
    const [col, row] = [Math.floor(x), Math.floor(y)];
    const loss = chosen("pick-loss");
    if (name === "map") return data.layers[row] + ", " + when(col + 1).toLowerCase() + ": " + number(total(loss, col + 1, row));
    const shown = data.details[chosen("pick-detail")], frame = chosen("interval");
    const cell = row * shown.width + col;
    const code = codes[(loss * (intervals + 1) + frame) * shown.height * shown.width + cell];
    if (code === EMPTY) return "";
    const value = number(Number(decode(code, shown.limits[frame ? 1 : 0]).toPrecision(2)));
    const places = shown.axes.length > 1 ? [row, col] : [cell];
    return places.map((p, i) => range(shown.axes[i], shown.edges[i][p], shown.edges[i][p + 1])).join(", ") + ": " + value;
  }

  // After a click on the map, select the interval and the first detail map of the layer.
  function pick(x, y) {
    const [frame, row] = [Math.floor(x) + 1, Math.floor(y)];
    if (frame < 1 || frame > intervals || row < 0 || row >= data.layers.length) return;
    at("interval").value = frame;
    const which = data.details.findIndex((each) => each.layer === data.layers[row]);
    if (which >= 0 && data.details[chosen("pick-detail")].layer !== data.layers[row]) at("pick-detail").value = which;
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

  // Style sheets do not apply to Bokeh's canvases, so its colours are set here.
  function paint() {
    const style = getComputedStyle(document.documentElement);
    const [ink, soft, line] = ["--ink", "--soft", "--line"].map((name) => style.getPropertyValue(name).trim());
    const palette = data.palettes[dark.matches ? "dark" : "light"];
    for (const bar of document.querySelectorAll(".key i")) bar.style.background = "linear-gradient(to right, " + palette.join() + ")";
    const colour = {
      Axis: {axis_line_color: soft, major_tick_line_color: soft, minor_tick_line_color: null, major_label_text_color: soft, axis_label_text_color: soft, axis_label_text_font_style: "normal"},
      Grid: {grid_line_color: line},
      Legend: {label_text_color: ink, inactive_fill_alpha: 0},
      LinearColorMapper: {palette},
    };
    for (const each of models()) {
      for (const [kind, values] of Object.entries(colour)) if (each.type.endsWith(kind)) each.setv(values);
      if (each.tags?.includes("ink")) (each.glyph ?? each).line_color = ink;
    }
  }

  function* models() {
    for (const doc of Bokeh.documents) for (const root of doc.roots()) yield* root.references();
  }

  // Put as many names of a legend into one row as fit.
  function wrapLegends() {
    for (const each of models()) {
      if (each.type !== "Legend") continue;
      const widths = each.items.map((item) => 6.5 * item.label.value.length + 45), room = document.body.clientWidth - 80;
      const all = widths.reduce((sum, width) => sum + width, 0) <= room;
      each.ncols = all ? widths.length : Math.max(1, Math.floor(room / Math.max(...widths)));
    }
  }

  async function start() {
    for (const item of read("charts")) await Bokeh.embed.embed_item(item);
    // Skip lines: they have the names of layers, which could equal one of the names used here.
    for (const each of models()) if (each.name && each.type !== "GlyphRenderer") model[each.name] = each;
    ticks("map-steps", intervals, data.first);
    wrapLegends();
    paint();
    dark.addEventListener("change", paint);
    window.addEventListener("resize", wrapLegends);
    at("interval").addEventListener("input", drawInterval);
    at("play").addEventListener("click", play);
    at("pick-loss")?.addEventListener("change", () => { drawMap(); drawInterval(); });
    at("pick-detail")?.addEventListener("change", () => { choose(); drawInterval(); });
    choose();
    drawMap();
    drawInterval();
    document.documentElement.dataset.ready = "yes";
  }

  start();
  return {describe, pick};
})();
