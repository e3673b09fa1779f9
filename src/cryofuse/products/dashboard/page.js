"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { months, mascons, series, layers, palettes, colours, sources, tables, unit } = data;
  const by = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const NULL_TEXT = "no value";
  const UNIT = unit[0].toUpperCase() + unit.slice(1);
  const OUTSIDE_TEXT = `the ${unit} is not in the totals`;
  const EARLIER_TEXT = "predicted from earlier altimetry alone";
  // Records shorter than this have their axis labelled by months.
  const SHORT_MONTHS = 24;
  const state = { layer: layers[0], month: months.length - 1, mascon: 0, focus: 0 };
  const shapes = mascons.map((mascon) => by(`mascon-${mascon.id}`));

  // ---------------------------------------------------------------- small helpers

  function svg(name, attributes, parent, text) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  }

  function html(name, attributes, parent, text) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  }

  /** Return a number as people read it: a true minus, no minus before a zero, null in words. */
  function say(value, digits, unit) {
    if (value === null) return NULL_TEXT;
    let text = value.toFixed(digits);
    if (Number(text) === 0) text = text.replace("-", "");
    return text.replace("-", "−") + (unit ? ` ${unit}` : "");
  }

  function place(mascon) {
    const north = `${Math.abs(mascon.latitude).toFixed(1)}° ${mascon.latitude < 0 ? "S" : "N"}`;
    const east = `${Math.abs(mascon.longitude).toFixed(1)}° ${mascon.longitude < 0 ? "W" : "E"}`;
    return `${north}, ${east}`;
  }

  function luminance(hex) {
    const part = (from) => parseInt(hex.slice(from, from + 2), 16) / 255;
    return 0.299 * part(1) + 0.587 * part(3) + 0.114 * part(5);
  }

  // ---------------------------------------------------------------- layers

  function valueOf(layer, index, month) {
    return layer.monthly ? series[layer.column][index][month] : layer.values[index];
  }

  function colourOf(layer, value) {
    if (value === null) return "url(#null)";
    if (layer.classes) return layer.classes.find((one) => one.value === value).colour;
    const palette = palettes[layer.palette];
    const share = (value - layer.low) / (layer.high - layer.low);
    const clipped = Math.min(Math.max(share, 0), 1);
    return palette[Math.round(clipped * (palette.length - 1))];
  }

  /** Return why a value is missing: what the tables say, or that nothing is asked of the mascon. */
  function reasonOf(layer, index, month) {
    return tableReason(layer, index, month) || (mascons[index].selected ? null : OUTSIDE_TEXT);
  }

  function tableReason(layer, index, month) {
    if (!layer.monthly) return layer.reasons[index];
    if (layer.column.startsWith("observed")) {
      return `no GRACE solution in ${data.has_gravimetry[index][month] ? "the month before" : "this month"}`;
    }
    const number = data.reasons.index[index][month];
    if (number !== null) return data.reasons.texts[number];
    return layer.column === "dh_m" ? "no elevation in this month" : null;
  }

  function describe(layer, index, month) {
    const value = valueOf(layer, index, month);
    if (value === null) {
      const reason = reasonOf(layer, index, month);
      return NULL_TEXT + (reason ? ` (${reason.replaceAll("_", " ")})` : "");
    }
    if (layer.classes) {
      return `${value}, ${layer.classes.find((one) => one.value === value).label}`;
    }
    const notes = layer.texts && layer.texts[index] ? [layer.texts[index]] : [];
    if (layer.column === "predicted_change_gt" && onlyEarlier(index, month)) notes.push(EARLIER_TEXT);
    const more = notes.length ? ` (${notes.join(", ")})` : "";
    return (layer.symbol ? `${layer.symbol} ` : "") + say(value, layer.digits, layer.unit) + more;
  }

  /** Return whether a month without elevation of its own has a prediction. */
  function onlyEarlier(index, month) {
    const predicted = ["predicted_change_gt", "predicted_mass_gt"];
    return (
      series.dh_m[index][month] === null &&
      predicted.some((name) => series[name][index][month] !== null)
    );
  }

  function scaleName(layer, before, after) {
    const name = layer.symbol || layer.unit;
    return name ? before + name + after : "";
  }

  function layerTitle() {
    return state.layer.title + (state.layer.monthly ? `, ${months[state.month]}` : "");
  }

  // ---------------------------------------------------------------- map

  function drawMap() {
    const { layer, month } = state;
    const map = by("map");
    const { width, height } = map.viewBox.baseVal;
    map.style.setProperty("--ratio", width / height);
    const scale = width / Math.max(map.getBoundingClientRect().width, 1);
    map.style.setProperty("--label", `${(11 * scale).toFixed(1)}px`);
    by("dots").replaceChildren();
    mascons.forEach((mascon, index) => {
      const shape = shapes[index];
      const value = valueOf(layer, index, month);
      const colour = colourOf(layer, value);
      const [land, ice, , label] = shape.children;
      land.style.fill = colour;
      ice.style.fill = colour;
      const text = value === null ? "" : layer.classes ? String(value) : say(value, layer.digits);
      const room = Number(label.dataset.room);
      label.textContent = room > text.length * 3.3 * scale && room > 7 * scale ? text : "";
      label.style.fill = value !== null && luminance(colour) < 0.55 ? "#fff" : "#1a1a1a";
      shape.setAttribute(
        "aria-label",
        `${UNIT} ${mascon.id}, ${place(mascon)}: ${describe(layer, index, month)}`,
      );
      if (layer.marked && layer.marked[index]) {
        const y = Number(label.getAttribute("y")) - (label.textContent ? 11 * scale : 0);
        svg("circle", { cx: label.getAttribute("x"), cy: y, r: 3.5 * scale }, by("dots"));
      }
    });
    by("layer-title").textContent = layerTitle() + scaleName(layer, " (", ")");
    by("layer-note").textContent = layer.note + (layer.monthly ? "" : " The same for all months.");
    by("month-control").classList.toggle("still", !layer.monthly);
    by("month-scope").textContent = layer.monthly
      ? "Moves the map, the mark in the series and the totals."
      : "This map is the same for all months; the slider moves only the mark in the series and the totals.";
    by("map").setAttribute("aria-label", layerTitle());
    drawLegend();
    readOut(state.mascon);
  }

  function drawLegend() {
    const { layer } = state;
    const box = by("legend");
    box.replaceChildren();
    if (layer.classes) {
      const list = html("ul", { class: "keys" }, box);
      for (const one of layer.classes) {
        key(list, `${one.value}  ${one.label}`, (swatch) =>
          svg("rect", { width: 20, height: 12, fill: one.colour }, swatch),
        );
      }
      return;
    }
    const width = Math.min(box.clientWidth || 440, 440);
    const [low, middle, high] = [layer.low, (layer.low + layer.high) / 2, layer.high];
    const label = `Colours from ${plain(low)} to ${plain(high)}${scaleName(layer, " ", "")}`;
    const legend = svg(
      "svg",
      { viewBox: `0 0 ${width} 38`, role: "img", "aria-label": label },
      box,
    );
    legend.style.maxWidth = `${width}px`;
    const palette = palettes[layer.palette];
    const [left, inner] = [34, width - 100];
    palette.forEach((colour, step) => {
      const x = left + (step * inner) / palette.length;
      svg("rect", { x, y: 2, width: inner / palette.length + 0.6, height: 13, fill: colour }, legend);
    });
    const ends = outside(layer);
    [low, middle, high].forEach((value, step) => {
      const x = left + (step * inner) / 2;
      svg("text", { x, y: 31, "text-anchor": "middle" }, legend, ends[step] + plain(value));
    });
    svg("text", { x: left + inner + 8, y: 13 }, legend, layer.symbol || layer.unit);
  }

  const plain = (value) => String(Number(value.toPrecision(3))).replace("-", "−");

  /** Return the signs at the ends of the legend beyond which values lie. */
  function outside(layer) {
    const values = layer.monthly ? series[layer.column].flat() : layer.values;
    const known = values.filter((value) => value !== null);
    const below = known.some((value) => value < layer.low);
    const above = known.some((value) => value > layer.high);
    return [below ? "≤ " : "", "", above ? "≥ " : ""];
  }

  function readOut(index) {
    const text = describe(state.layer, index, state.month);
    by("readout").textContent = `${UNIT} ${mascons[index].id}: ${text}`;
  }

  function focusMascon(index) {
    shapes[state.focus].tabIndex = -1;
    state.focus = index;
    shapes[index].tabIndex = 0;
    shapes[index].focus();
  }

  function ring(id, index) {
    const d = index === null ? "" : shapes[index].querySelector(".footprint").getAttribute("d");
    by(id).setAttribute("d", d);
  }

  /** Return the mascon nearest in the direction of an arrow key. */
  function neighbour(index, key) {
    const at = (one) => {
      const label = shapes[one].lastElementChild;
      return [Number(label.getAttribute("x")), Number(label.getAttribute("y"))];
    };
    const [dx, dy] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[
      key
    ];
    const [x, y] = at(index);
    let best = index;
    let least = Infinity;
    mascons.forEach((_, other) => {
      const [a, b] = at(other);
      const along = (a - x) * dx + (b - y) * dy;
      const across = Math.abs((a - x) * dy) + Math.abs((b - y) * dx);
      const cost = along + 2 * across;
      if (along > 0 && across <= 2 * along && cost < least) [best, least] = [other, cost];
    });
    return best;
  }

  function onMapKey(event) {
    const last = mascons.length - 1;
    if (event.key.startsWith("Arrow")) focusMascon(neighbour(state.focus, event.key));
    else if (event.key === "Home") focusMascon(0);
    else if (event.key === "End") focusMascon(last);
    else if (event.key === "PageDown") focusMascon(Math.min(state.focus + 1, last));
    else if (event.key === "PageUp") focusMascon(Math.max(state.focus - 1, 0));
    else if (event.key === "Enter" || event.key === " ") choose(state.focus);
    else return;
    event.preventDefault();
  }

  // ---------------------------------------------------------------- charts

  function niceStep(span, wanted) {
    const raw = span / wanted;
    const power = 10 ** Math.floor(Math.log10(raw));
    return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= raw);
  }

  function key(list, text, draw) {
    const item = html("li", {}, list);
    draw(svg("svg", { width: 22, height: 12, "aria-hidden": "true" }, item));
    item.append(text);
  }

  /**
   * Draw lines over months with their bands; a missing value breaks both.
   *
   * lines: [{name, values, lower, upper, colour, dash}], values by month of `axis`; `zero`: where
   * it lies, said beside the unit; `close`: whether the scale may leave it out.
   */
  function chart(parent, title, measure, axis, lines, cursor, { zero = "", close = false } = {}) {
    const box = html("div", { class: "chart" }, parent);
    html("h3", {}, box, `${title} (${measure}${zero && `; zero: ${zero}`})`);
    const width = Math.max(Math.min(parent.clientWidth || 640, 900), 260);
    const height = 190;
    const [left, right, top, bottom] = [58, 8, 8, 24];
    const known = lines.flatMap((line) =>
      [...line.values, ...(line.lower || []), ...(line.upper || [])].filter((v) => v !== null),
    );
    if (!known.length) {
      html("p", {}, box, `${NULL_TEXT[0].toUpperCase()}${NULL_TEXT.slice(1)} in any month.`);
      return;
    }
    const least = close ? known : [0, ...known];
    let low = Math.min(...least);
    let high = Math.max(...least);
    if (low === high) high = low + 1;
    const step = niceStep(high - low, 5);
    low = Math.floor(low / step) * step;
    high = Math.ceil(high / step) * step;
    const x = (index) => left + ((width - left - right) * (index + 0.5)) / axis.length;
    const y = (value) => top + ((height - top - bottom) * (high - value)) / (high - low);
    const names = lines.map((line) => line.name).join(", ");
    const picture = svg(
      "svg",
      {
        viewBox: `0 0 ${width} ${height}`,
        width,
        role: "img",
        "aria-label": `${title}, ${measure}, ${axis[0]} to ${axis.at(-1)}: ${names}`,
      },
      box,
    );
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    for (let value = low; value <= high + step / 2; value += step) {
      const kind = Math.abs(value) < step / 2 ? "zero" : "grid";
      const at = y(value);
      svg("line", { class: kind, x1: left, x2: width - right, y1: at, y2: at }, picture);
      const where = { x: left - 6, y: at + 4, "text-anchor": "end" };
      svg("text", where, picture, say(value, digits));
    }
    for (const { at, text } of timeTicks(axis, x, width - left - right)) {
      svg("line", { class: "grid", x1: at, x2: at, y1: top, y2: height - bottom }, picture);
      const where = { x: Math.min(at, width - 24), y: height - 8, "text-anchor": "middle" };
      svg("text", where, picture, text);
    }
    for (const line of lines) drawLine(picture, line, x, y);
    if (cursor >= 0) {
      const at = { x1: x(cursor), x2: x(cursor), y1: top, y2: height - bottom };
      svg("line", { class: "cursor", ...at }, picture);
    }
    const list = html("ul", { class: "keys" }, box);
    for (const line of lines) {
      key(list, line.name, (swatch) => {
        if (line.lower) {
          const band = { class: "band", width: 22, height: 12, fill: line.colour, opacity: 0.22 };
          svg("rect", band, swatch);
        }
        const stroke = { stroke: line.colour, "stroke-width": 2, "stroke-dasharray": line.dash || "" };
        svg("line", { x1: 0, x2: 22, y1: 6, y2: 6, ...stroke }, swatch);
      });
    }
  }

  /** Return where an axis has a line and what it says: starts of years, or middles of months. */
  function timeTicks(axis, x, room) {
    if (axis.length < SHORT_MONTHS) {
      const every = Math.ceil((axis.length * 72) / room);
      return axis
        .map((text, index) => ({ at: x(index), text }))
        .filter((_, index) => index % every === Math.floor(((axis.length - 1) % every) / 2));
    }
    const years = axis.filter((month) => month.endsWith("-01"));
    const every = Math.ceil((years.length * 44) / room);
    return axis
      .map((month, index) => ({ at: x(index - 0.5), month, text: month.slice(0, 4) }))
      .filter(({ month, text }) => month.endsWith("-01") && Number(text) % every === 0);
  }

  function drawLine(picture, line, x, y) {
    for (const run of runs(line.values)) {
      if (line.lower) {
        const inside = run.filter((i) => line.lower[i] !== null && line.upper[i] !== null);
        for (const part of consecutive(inside)) {
          const half = part.length === 1 ? 2 : 0;
          const along = (i, shift, value) => `${(x(i) + shift).toFixed(1)} ${y(value).toFixed(1)}`;
          const over = part.map((i) => along(i, -half, line.upper[i]));
          const under = part.map((i) => along(i, half, line.lower[i])).reverse();
          if (half) {
            over.push(along(part[0], half, line.upper[part[0]]));
            under.push(along(part[0], -half, line.lower[part[0]]));
          }
          const d = `M${[...over, ...under].join("L")}z`;
          svg("path", { class: "band", d, fill: line.colour }, picture);
        }
      }
      const points = run.map((i) => `${x(i).toFixed(1)} ${y(line.values[i]).toFixed(1)}`);
      if (run.length === 1) {
        const at = { cx: x(run[0]), cy: y(line.values[run[0]]), r: 2 };
        svg("circle", { ...at, fill: line.colour }, picture);
        continue;
      }
      const look = { stroke: line.colour, "stroke-dasharray": line.dash || "" };
      svg("path", { class: "line", d: `M${points.join("L")}`, ...look }, picture);
    }
  }

  function consecutive(indices) {
    const found = [];
    for (const index of indices) {
      const last = found.at(-1);
      if (last && last.at(-1) === index - 1) last.push(index);
      else found.push([index]);
    }
    return found;
  }

  function runs(values) {
    return consecutive([...values.keys()].filter((index) => values[index] !== null));
  }

  const apart = (values, sigmas, sign) =>
    values.map((value, i) => (value === null || sigmas[i] === null ? null : value + sign * sigmas[i]));

  function withSigma(name, values, sigmas, colour, dash) {
    const [lower, upper] = [apart(values, sigmas, -1), apart(values, sigmas, 1)];
    return { name, values, lower, upper, colour, dash };
  }

  // ---------------------------------------------------------------- the chosen mascon

  function drawSeries() {
    const index = state.mascon;
    const mascon = mascons[index];
    const take = (name) => series[name][index];
    const box = by("series");
    box.replaceChildren();
    by("mascon-name").textContent = mascon.id;
    by("mascon-place").textContent =
      `${place(mascon)}; ${say(mascon.ice_area_km2, 0)} km² of ice` +
      (mascon.selected ? "." : "; not in the totals.");
    const elevation = withSigma("ICESat-2, ±1σ", take("dh_m"), take("dh_sigma_m"), colours.elevation);
    chart(box, "Elevation anomaly", "m", months, [elevation], state.month);
    const percent = Math.round(100 * data.coverage);
    const kinds = [
      ["change", "Mass change of each month", ""],
      ["mass", "Mass anomaly", "mean of the first twelve months with GRACE"],
    ];
    for (const [kind, title, zero] of kinds) {
      const observed = take(`observed_${kind}_gt`);
      const sigma = take(`observed_${kind}_sigma_gt`);
      const lines = [
        withSigma("observed by GRACE, ±1σ", observed, sigma, colours.observed),
        {
          name: `predicted from elevation, ${percent} % interval${heldText(kind)}`,
          values: take(`predicted_${kind}_gt`),
          lower: take(`predicted_${kind}_lower_gt`),
          upper: take(`predicted_${kind}_upper_gt`),
          colour: colours.predicted,
          dash: "6 3",
        },
      ];
      chart(box, title, "Gt", months, lines, state.month, { zero });
    }
    const { change, mass } = data.inside;
    by("inside").textContent =
      `Intervals are meant to hold ${percent} % of GRACE's values. Over all ${unit}s they hold ` +
      `${change.held} of ${change.n} monthly changes and ${mass.held} of ${mass.n} anomalies.`;
    drawMonthValues();
    fillTable(by("mascon-table"), () => seriesTable(index));
    fillTable(by("mascon-values"), () => ({
      columns: ["layer", "value"],
      rows: layers
        .filter((layer) => !layer.monthly)
        .map((layer) => [layer.title, describe(layer, index, state.month)]),
    }));
  }

  /** Return the share of GRACE's values that the intervals hold, over all of the page. */
  function heldText(kind) {
    const { held, n } = data.inside[kind];
    return n ? ` (holds ${say((100 * held) / n, 0)} %)` : "";
  }

  function drawMonthValues() {
    const [index, month] = [state.mascon, state.month];
    const take = (name, digits) => say(series[name][index][month], digits);
    const predicted = series.predicted_change_gt[index][month];
    const range =
      predicted === null
        ? ""
        : ` (${take("predicted_change_lower_gt", 2)} to ${take("predicted_change_upper_gt", 2)})`;
    const number = data.reasons.index[index][month];
    const notes = number === null ? [] : [data.reasons.texts[number]];
    if (onlyEarlier(index, month)) notes.push(EARLIER_TEXT);
    const reason = notes.length ? ` Note: ${notes.join("; ")}.` : "";
    by("month-values").textContent =
      `${months[month]}: elevation anomaly ${take("dh_m", 2)} (m); mass change observed ` +
      `${take("observed_change_gt", 2)}, predicted ${take("predicted_change_gt", 2)}${range} (Gt).` +
      reason.replaceAll("_", " ");
  }

  function seriesTable(index) {
    const names = Object.keys(series);
    const columns = ["mascon_id", "month", ...names, "has_gravimetry", "reason"];
    const rows = months.map((month, at) => {
      const number = data.reasons.index[index][at];
      const values = names.map((name) => series[name][index][at]);
      const reason = number === null ? null : data.reasons.texts[number];
      return [mascons[index].id, month, ...values, data.has_gravimetry[index][at], reason];
    });
    return { columns, rows };
  }

  /** Fill a table behind a summary when it is opened, and again when what it shows changes. */
  function fillTable(details, make) {
    const fill = () => {
      if (details.open) writeTable(details.querySelector(".scroll"), make());
    };
    details.ontoggle = fill;
    fill();
  }

  const heading = (name) =>
    name.replace("mascon", unit).replaceAll("_", " ").replace("km2", "km²").replace("km3", "km³").replace(" gt", " Gt");

  function writeTable(box, { columns, rows }) {
    const table = html("table", {});
    const head = html("tr", {}, html("thead", {}, table));
    const numeric = columns.map((_, i) =>
      rows.every((row) => row[i] === null || typeof row[i] === "number"),
    );
    const date = columns.map((_, i) =>
      rows.every((row) => row[i] === null || /^\d{4}-\d\d$/.test(row[i])),
    );
    const kind = (i) => ({ class: numeric[i] ? "number" : date[i] ? "figures" : "text" });
    columns.forEach((name, i) =>
      html("th", { ...kind(i), scope: "col" }, head, heading(name)),
    );
    const body = html("tbody", {}, table);
    for (const row of rows) {
      const line = html("tr", {}, body);
      row.forEach((value, i) => {
        const whole = Number.isInteger(value);
        const text =
          typeof value === "number" ? say(value, whole ? 0 : 3) : value === null ? "–" : String(value);
        html("td", kind(i), line, text);
      });
    }
    box.replaceChildren(table);
  }

  // ---------------------------------------------------------------- totals

  function records(name) {
    const { columns, rows } = tables[name];
    return rows.map((row) => Object.fromEntries(columns.map((column, i) => [column, row[i]])));
  }

  function monthsBetween(first, last) {
    const found = [];
    let [year, month] = first.split("-").map(Number);
    for (let text = first; text <= last; ) {
      found.push(text);
      [year, month] = month === 12 ? [year + 1, 1] : [year, month + 1];
      text = `${year}-${String(month).padStart(2, "0")}`;
    }
    return found;
  }

  const totals = records("totals");

  function drawTotals() {
    const box = by("totals");
    box.replaceChildren();
    if (!totals.length) {
      html("p", {}, box, "No value.");
      return;
    }
    const quantity = by("quantity").value;
    const sigma = quantity.replace(/_(gt|mm)$/, "_sigma_$1");
    const altimetry = totals.filter((row) => row.source !== "gravity");
    const close = by("span").value === "altimetry" && altimetry.length > 0;
    const stamps = (close ? altimetry : totals).map((row) => row.month).sort();
    const axis = monthsBetween(stamps[0], stamps.at(-1));
    const lines = Object.entries(sources).map(([source, { name, colour }], i) => {
      const rows = totals.filter((row) => row.source === source);
      const at = new Map(rows.map((row) => [row.month, row]));
      const take = (name) => axis.map((month) => at.get(month)?.[name] ?? null);
      const dash = ["", "7 3", "2 3", "9 3 2 3"][i % 4];
      return withSigma(`${name}, ±1σ`, take(quantity), take(sigma), colour, dash);
    });
    const [title, measure] =
      quantity === "mass_gt" ? ["Mass anomaly", "Gt"] : ["Global mean sea level", "mm"];
    chart(box, title, measure, axis, lines, axis.indexOf(months[state.month]), { close });
    drawTotalsValues();
  }

  function drawTotalsValues() {
    const month = months[state.month];
    const rows = totals.filter((row) => row.month === month);
    const texts = rows.map((row) => {
      const [mass, sea] = [say(row.mass_gt, 0, "Gt"), say(row.sea_level_mm, 2, "mm")];
      return `${sources[row.source].name} ${row.mass_gt === null ? NULL_TEXT : `${mass} (${sea})`}`;
    });
    by("totals-values").textContent = `${month}: ${texts.join("; ") || NULL_TEXT}.`;
  }

  // ---------------------------------------------------------------- downloads

  function toCsv({ columns, rows }) {
    const cell = (value) => {
      const text = value === null ? "" : String(value);
      return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return [columns, ...rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
  }

  function save(name, table) {
    const url = URL.createObjectURL(new Blob([toCsv(table)], { type: "text/csv" }));
    const link = html("a", { href: url, download: `${name}.csv` }, document.body);
    link.click();
    link.remove();
    // The browser reads the blob after the click returns.
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  function layerTable() {
    const { layer, month } = state;
    const when = layer.monthly ? ["month"] : [];
    const named = layer.classes ? [`${layer.column}_name`] : [];
    const columns = ["mascon_id", "latitude", "longitude", ...when, layer.column, ...named];
    const rows = mascons.map((mascon, index) => {
      const value = valueOf(layer, index, month);
      const one = layer.classes && layer.classes.find((each) => each.value === value);
      const start = [mascon.id, mascon.latitude, mascon.longitude];
      if (layer.monthly) start.push(months[month]);
      return [...start, value, ...(named.length ? [one ? one.label : null] : [])];
    });
    return { columns, rows };
  }

  // ---------------------------------------------------------------- what people do

  function choose(index) {
    state.mascon = index;
    shapes.forEach((shape, i) => shape.setAttribute("aria-selected", String(i === index)));
    shapes[state.focus].tabIndex = -1;
    state.focus = index;
    shapes[index].tabIndex = 0;
    by("mascon").value = String(index);
    ring("selection", index);
    readOut(index);
    drawSeries();
  }

  function labelMonth() {
    const text =
      months[state.month] + (data.gravimetry[state.month] ? "" : ", no GRACE solution");
    by("month-label").textContent = text;
    by("month").setAttribute("aria-valuetext", text);
  }

  function changeMonth() {
    state.month = Number(by("month").value);
    labelMonth();
    if (state.layer.monthly) drawMap();
    drawSeries();
    drawTotals();
  }

  function drawAll() {
    drawMap();
    drawSeries();
    drawTotals();
  }

  function fillSelects() {
    const groups = new Map();
    layers.forEach((layer, index) => {
      if (!groups.has(layer.group)) {
        groups.set(layer.group, html("optgroup", { label: layer.group }, by("layer")));
      }
      html("option", { value: index }, groups.get(layer.group), layer.title);
    });
    mascons.forEach((mascon, index) => {
      const text = `${mascon.id} (${place(mascon)})`;
      html("option", { value: index }, by("mascon"), text);
    });
  }

  function listen() {
    by("layer").addEventListener("change", () => {
      state.layer = layers[Number(by("layer").value)];
      drawMap();
    });
    by("month").addEventListener("input", changeMonth);
    by("mascon").addEventListener("change", () => choose(Number(by("mascon").value)));
    by("quantity").addEventListener("change", drawTotals);
    by("span").addEventListener("change", drawTotals);
    shapes.forEach((shape, index) => {
      shape.addEventListener("click", () => choose(index));
      shape.addEventListener("pointerenter", () => readOut(index));
      shape.addEventListener("pointerleave", () => readOut(state.mascon));
      shape.addEventListener("focus", () => {
        if (shape.matches(":focus-visible")) ring("focus-ring", index);
        readOut(index);
      });
      shape.addEventListener("blur", () => {
        ring("focus-ring", null);
        readOut(state.mascon);
      });
    });
    by("mascons").addEventListener("keydown", onMapKey);
    by("save-layer").addEventListener("click", () => {
      const when = state.layer.monthly ? `_${months[state.month]}` : "";
      save(`layer_${state.layer.id}${when}`, layerTable());
    });
    by("save-series").addEventListener("click", () => {
      save(`${unit}_${mascons[state.mascon].id}`, seriesTable(state.mascon));
    });
    for (const button of document.querySelectorAll("[data-table]")) {
      const name = button.dataset.table;
      button.addEventListener("click", () => save(name, tables[name]));
    }
    let waiting = 0;
    window.addEventListener("resize", () => {
      clearTimeout(waiting);
      waiting = setTimeout(drawAll, 150);
    });
    window.addEventListener("beforeprint", drawAll);
    window.addEventListener("afterprint", drawAll);
  }

  /** Return the mascon to start with: the one that loses the most volume, or the first. */
  function largestLoss() {
    const volumes = layers[0].values.map((rate, i) => (rate ?? 0) * mascons[i].ice_area_km2);
    return volumes.indexOf(Math.min(...volumes));
  }

  fillSelects();
  listen();
  labelMonth();
  if (tables.lakes.rows.length) writeTable(by("lakes"), tables.lakes);
  choose(largestLoss());
  drawMap();
  drawTotals();
})();
