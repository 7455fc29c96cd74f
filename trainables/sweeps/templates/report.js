"use strict";
(() => {
  const { data, byId, colour, unpackAll, figures, draw } = page;
  data.figures.curves = data.figures.curves && unpackAll(data.figures.curves);
  figures.curves = () => data.figures.curves;

  /* One trial's curve on top of the others. */
  function highlight(number, scroll) {
    const element = document.querySelector('[data-figure="curves"]');
    const figure = data.figures.curves;
    if (!element || !figure) return;
    const x = [], y = [];
    for (const trace of figure.data) {
      if (trace.mode !== "lines" || trace.legendgroup === undefined || !trace.customdata) continue;
      trace.customdata.forEach((owner, index) => {
        if (owner === number) {
          x.push(trace.x[index]);
          y.push(trace.y[index]);
        }
      });
    }
    figure.data = figure.data.filter((trace) => trace.legendgroup !== "highlight");
    if (x.length) {
      figure.data.push({
        type: "scatter", mode: "lines+markers", x, y, customdata: x.map(() => number), legendgroup: "highlight", name: `trial ${number}`,
        line: { color: "@ink", width: 2.5 }, marker: { size: 4, color: "@ink" }, hovertemplate: figure.data[0].hovertemplate,
      });
    }
    draw(element);
    const row = data.table.rows.find((cells) => cells[0][0] === number);
    const note = byId("highlighted");
    note.hidden = false;
    note.textContent = row ? row.map((cell, index) => `${data.table.columns[index]} ${cell[1]}`).join(" · ") : "";
    if (scroll) element.scrollIntoView({ block: "center" });
  }

  function fill(select, labels, chosen) {
    labels.forEach((text, index) => select.add(new Option(text, String(index), index === chosen, index === chosen)));
  }

  /* The map of two parameters. */
  if (data.pairs) {
    const { pairs } = data;
    const [across, up] = [byId("pair-x"), byId("pair-y")];
    const names = pairs.parameters.map((parameter) => parameter.name);
    fill(across, names, 0);
    fill(up, names, 1);
    figures.pair = () => {
      const [a, b] = [Number(across.value), Number(up.value)];
      const [first, second] = [pairs.parameters[a], pairs.parameters[b]];
      const colours = { colorscale: "@scale", reversescale: pairs.better_is_less, ...pairs.limits };
      const traces = [];
      const surface = pairs.surfaces[`${Math.min(a, b)},${Math.max(a, b)}`];
      if (surface && a !== b) {
        const { x, y, z } = unpackAll(surface);
        traces.push({
          type: "contour", ...(a < b ? { x, y, z } : { x: y, y: x, z, transpose: true }), colorscale: "@scale",
          reversescale: pairs.better_is_less, zmin: pairs.limits.cmin, zmax: pairs.limits.cmax, opacity: 0.55, ncontours: 14,
          line: { width: 0 }, showscale: false, hoverinfo: "skip", connectgaps: false,
        });
      }
      for (const stopped of [true, false]) {
        const rows = pairs.numbers.map((_, row) => row).filter((row) => pairs.stopped[row] === stopped);
        if (!rows.length) continue;
        traces.push({
          type: "scatter", mode: "markers", name: stopped ? "stopped early" : "others",
          x: rows.map((row) => first.values[row]), y: rows.map((row) => second.values[row]), customdata: rows.map((row) => pairs.numbers[row]),
          text: rows.map((row) => Number(pairs.values[row].toPrecision(4)).toString()),
          hovertemplate: "trial %{customdata}<br>%{x}, %{y}<br>%{text}<extra></extra>",
          marker: {
            color: rows.map((row) => pairs.values[row]), ...colours, size: stopped ? 7 : 10, symbol: stopped ? "x" : "circle",
            line: { color: "@ink", width: 0.6 }, showscale: !stopped || rows.length === pairs.numbers.length,
            colorbar: { title: { text: pairs.label, side: "right" }, thickness: 12, outlinewidth: 0 },
          },
        });
      }
      const best = pairs.numbers.indexOf(pairs.winner);
      if (best >= 0) {
        traces.push({
          type: "scatter", mode: "markers", x: [first.values[best]], y: [second.values[best]], customdata: [pairs.winner], name: "winner",
          marker: { color: "rgba(0,0,0,0)", size: 20, symbol: "star-open", line: { color: "@winner", width: 2.5 } },
          hovertemplate: "winner: trial %{customdata}<br>%{x}, %{y}<extra></extra>",
        });
      }
      return { data: traces, layout: { xaxis: first.axis, yaxis: second.axis, showlegend: false } };
    };
    for (const select of [across, up]) select.addEventListener("change", () => draw(document.querySelector('[data-figure="pair"]')));
  }

  /* The lineage of a population. */
  if (data.lineage) {
    const { lineage } = data;
    const select = byId("lineage-parameter");
    fill(select, lineage.parameters.map((parameter) => parameter.name), 0);
    select.addEventListener("change", () => draw(document.querySelector('[data-figure="lineage"]')));
    figures.lineage = () => {
      const parameter = lineage.parameters[Number(select.value)];
      const values = parameter ? parameter.values : [];
      const numbers = values.filter((value) => typeof value === "number");
      const numeric = numbers.length > 0 && values.every((value) => value === null || typeof value === "number");
      const positive = numeric && numbers.every((value) => value > 0) && Math.max(...numbers) > 10 * Math.min(...numbers);
      const place = positive ? Math.log10 : Number;
      const [low, high] = numeric ? [place(Math.min(...numbers)), place(Math.max(...numbers))] : [0, 1];
      const kinds = numeric ? [] : [...new Set(values.filter((value) => value !== null).map((value) => JSON.stringify(value)))];
      const bins = numeric ? 10 : Math.max(1, kinds.length);
      const binOf = (value) =>
        value === null || value === undefined ? -1 : numeric ? Math.min(bins - 1, Math.floor((bins * (place(value) - low)) / (high - low || 1))) : kinds.indexOf(JSON.stringify(value));
      const shades = ["scale-low", "scale-high"].map((name) => [1, 3, 5].map((start) => parseInt(colour(name).slice(start, start + 2), 16)));
      const mix = (share) => `rgb(${shades[0].map((part, index) => Math.round(part + share * (shades[1][index] - part)))})`;
      const line = (wanted, style) => {
        const x = [], y = [], text = [];
        lineage.segments.forEach(([number, start, end], index) => {
          if (!wanted(index)) return;
          x.push(start, end, null);
          y.push(number, number, null);
          const value = values[index];
          const words = `trial ${number}, ${start.toLocaleString("en")} to ${end.toLocaleString("en")}`;
          const told = `${words}<br>${value === null || value === undefined ? "value not recorded" : JSON.stringify(value)}`;
          text.push(told, told, "");
        });
        return { type: "scatter", mode: "lines", x, y, text, hovertemplate: "%{text}<extra></extra>", ...style };
      };
      const descent = { x: [], y: [] };
      for (const [number, start, end] of lineage.descent) {
        descent.x.push(start, end, null);
        descent.y.push(number, number, null);
      }
      const traces = [
        { type: "scatter", mode: "lines", ...descent, name: "how the winner's policy came about", line: { color: "@winner", width: 15 }, opacity: 0.35, hoverinfo: "skip" },
      ];
      for (let bin = -1; bin < bins; bin++) {
        const inside = (index) => binOf(values[index]) === bin;
        if (!lineage.segments.some((_, index) => inside(index))) continue;
        const shade = bin < 0 ? colour("rung") : mix(bins === 1 ? 1 : bin / (bins - 1));
        traces.push(line(inside, { line: { color: shade, width: bin < 0 ? 2 : 6 }, showlegend: false }));
      }
      const arrows = { x: [], y: [] }, feet = { x: [], y: [] }, heads = { x: [], y: [], text: [], customdata: [], symbol: [] };
      for (const [number, donor, progress, donorProgress, changes] of lineage.clones) {
        arrows.x.push(donorProgress, progress, null);
        arrows.y.push(donor, number, null);
        feet.x.push(donorProgress);
        feet.y.push(donor);
        heads.x.push(progress);
        heads.y.push(number);
        heads.customdata.push(number);
        heads.symbol.push(number > donor ? "triangle-up" : "triangle-down");
        heads.text.push(`trial ${number} copied trial ${donor}<br>${changes}`);
      }
      traces.push({ type: "scatter", mode: "lines", ...arrows, line: { color: "@muted", width: 1 }, opacity: 0.75, hoverinfo: "skip", name: "clone" });
      traces.push({
        type: "scatter", mode: "markers", x: heads.x, y: heads.y, text: heads.text, customdata: heads.customdata, showlegend: false,
        hovertemplate: "%{text}<extra></extra>", marker: { symbol: heads.symbol, size: 9, color: "@ink" },
      });
      traces.push({ type: "scatter", mode: "markers", ...feet, marker: { size: 5, color: "@ink" }, hoverinfo: "skip", showlegend: false });
      if (numeric && high > low) {
        const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => low + share * (high - low));
        const shownTick = (tick) => Number((positive ? 10 ** tick : tick).toPrecision(2)).toString();
        traces.push({
          type: "scatter", mode: "markers", x: [null], y: [null], hoverinfo: "skip", showlegend: false,
          marker: { color: [low], cmin: low, cmax: high, colorscale: "@scale", showscale: true, colorbar: { title: { text: parameter.label, side: "right" }, thickness: 12, outlinewidth: 0, tickvals: ticks, ticktext: ticks.map(shownTick) } },
        });
      }
      if (lineage.winner) {
        traces.push({ type: "scatter", mode: "markers", x: [lineage.winner[1]], y: [lineage.winner[0]], name: "the winner's best report", marker: { symbol: "star", size: 15, color: "@winner", line: { color: "@panel", width: 1 } }, hoverinfo: "skip" });
      }
      const rows = Math.max(...lineage.segments.map(([number]) => number));
      return {
        data: traces,
        layout: { height: Math.min(1600, 130 + 26 * rows), title: { text: "trial" }, xaxis: { title: { text: lineage.unit }, exponentformat: "SI" }, yaxis: { range: [rows + 0.7, 0.3], dtick: rows > 40 ? 10 : 1, zeroline: false, showgrid: false } },
      };
    };
  }

  /* The table of trials. */
  const table = byId("table");
  const { columns, rows, hidden } = data.table;
  const words = rows.map((cells, row) => {
    const named = cells.map((cell, index) => (cell[0] === null ? "" : `${columns[index]}=${cell[0]} ${columns[index]}=${cell[1]} ${cell[1]}`));
    return ` #${cells[0][0]} ${named.join(" ")} ${hidden[row]}`.toLowerCase();
  });
  let order = rows.map((_, row) => row), sorted = null, limit = 100;
  function matches(row, term) {
    if (/^#\d+$/.test(term)) return term === `#${rows[row][0][0]}`;
    const comparison = term.match(/^(.+?)(<=|>=|<|>)(.+)$/);
    if (comparison && Number.isFinite(Number(comparison[3]))) {
      const [, name, operator] = comparison;
      const limitValue = Number(comparison[3]);
      return columns.some((column, index) => {
        const value = rows[row][index][0];
        if (!column.toLowerCase().endsWith(name) || typeof value !== "number") return false;
        return { "<": value < limitValue, ">": value > limitValue, "<=": value <= limitValue, ">=": value >= limitValue }[operator];
      });
    }
    return words[row].includes(term);
  }
  function element(tag, text, className) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }
  function show() {
    const terms = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = order.filter((row) => terms.every((term) => matches(row, term)));
    const body = document.createDocumentFragment();
    for (const row of found.slice(0, limit)) {
      const line = element("tr");
      rows[row].forEach((cell, index) => {
        const made = element("td", index === 0 ? undefined : cell[1], typeof cell[0] === "number" ? "figure" : "");
        if (index === 0) {
          const link = made.appendChild(element("button", cell[1], "trial"));
          link.type = "button";
          link.dataset.trial = cell[0];
        }
        if (columns[index] === "status") made.prepend(element("span", "", `dot fill-${cell[1] === "stopped early" ? "stopped" : cell[1]}`));
        line.append(made);
      });
      body.append(line);
    }
    table.tBodies[0].replaceChildren(body);
    byId("found").textContent = terms.length ? `${found.length} of ${rows.length}` : `${rows.length} in all`;
    const more = byId("more");
    more.hidden = found.length <= limit;
    more.textContent = `Show all ${found.length}`;
  }
  const head = table.tHead.insertRow();
  columns.forEach((name, index) => {
    const cell = head.appendChild(element("th"));
    cell.scope = "col";
    const button = cell.appendChild(element("button"));
    button.type = "button";
    for (const part of name.split(/(?<=[._/])/)) button.append(part, document.createElement("wbr"));
    button.addEventListener("click", () => {
      const down = sorted && sorted.index === index ? !sorted.down : index > 1;
      sorted = { index, down };
      for (const other of head.cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
      order.sort((a, b) => {
        const [first, second] = [rows[a][index][0], rows[b][index][0]];
        if (first === null || second === null) return (first === null) - (second === null);
        return down ? compare(second, first) : compare(first, second);
      });
      show();
    });
  });
  byId("search").addEventListener("input", show);
  byId("more").addEventListener("click", () => {
    limit = Infinity;
    show();
  });
  show();

  document.addEventListener("click", (event) => {
    const trial = event.target.closest("[data-trial]");
    if (trial) highlight(Number(trial.dataset.trial), true);
  });
  page.start({
    buttons: ["curves", "pair", "lineage"],
    clicked: (point) => {
      if (Number.isInteger(point.customdata)) highlight(point.customdata, false);
    },
  });
})();
