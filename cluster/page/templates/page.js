"use strict";
/* What all pages share: data, colours of the theme, Plotly charts that are drawn when they come near the window, buttons that copy.

   page.start({ buttons, clicked }): names of the charts that have buttons, and what a click on a point does. */
const page = (() => {
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const byId = (id) => document.getElementById(id);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const scale = () => [[0, colour("scale-low")], [1, colour("scale-high")]];
  const arrays = { i4: Int32Array, f4: Float32Array, f8: Float64Array };

  /* {dtype, bdata, shape} -> typed array, or rows of one. */
  function unpack(item) {
    const bytes = Uint8Array.from(atob(item.bdata), (character) => character.charCodeAt(0));
    const flat = new arrays[item.dtype](bytes.buffer);
    if (!item.shape) return flat;
    const width = Number(item.shape.split(",")[1]);
    return Array.from({ length: flat.length / width }, (_, row) => flat.subarray(row * width, (row + 1) * width));
  }
  function unpackAll(item) {
    if (Array.isArray(item)) return item.map(unpackAll);
    if (item === null || typeof item !== "object") return item;
    if (item.bdata !== undefined) return unpack(item);
    return Object.fromEntries(Object.entries(item).map(([key, value]) => [key, unpackAll(value)]));
  }
  /* Names of colours -> those of the theme; typed arrays are shared, not copied. */
  function painted(item) {
    if (item === "@scale") return scale();
    if (typeof item === "string") return /^@[a-z-]+$/.test(item) ? colour(item.slice(1)) : item;
    if (Array.isArray(item)) return item.length && typeof item[0] !== "object" && typeof item[0] !== "string" ? item : item.map(painted);
    if (item === null || typeof item !== "object" || ArrayBuffer.isView(item)) return item;
    return Object.fromEntries(Object.entries(item).map(([key, value]) => [key, painted(value)]));
  }

  const webgl = (() => {
    try {
      return Boolean(document.createElement("canvas").getContext("webgl"));
    } catch {
      return false;
    }
  })();
  const figures = Object.fromEntries(Object.entries(data.figures).map(([name, figure]) => [name, () => figure]));
  const options = { buttons: [], clicked: null };

  /* The look that all charts share. */
  function layoutOf(figure, element) {
    const axis = { gridcolor: colour("line"), zerolinecolor: colour("line"), linecolor: colour("line"), automargin: true, exponentformat: "e" };
    const own = figure.layout;
    const narrow = element.clientWidth < 520;
    return {
      ...own,
      title: own.title && { ...own.title, x: 0, xref: "container", xanchor: "left", y: 0.99, yanchor: "top", pad: { l: 4, t: 4 }, font: { size: 13 } },
      xaxis: { ...axis, ...own.xaxis },
      yaxis: { ...axis, ...own.yaxis },
      height: own.height || element.clientHeight || 300,
      margin: own.margin || { l: narrow ? 46 : 64, r: 14, t: own.title ? 52 : options.buttons.includes(element.dataset.figure) ? 36 : 14, b: own.showlegend === false ? 48 : 84 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("ink") },
      hoverlabel: { bgcolor: colour("panel"), bordercolor: colour("line"), font: { color: colour("ink") }, align: "left" },
      hovermode: "closest",
      legend: { orientation: "h", x: 0, xref: "paper", y: 0, yref: "container", yanchor: "bottom", ...own.legend },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("muted"), activecolor: colour("ink") },
      dragmode: own.dragmode || (narrow ? false : "zoom"),
    };
  }
  const shown = new Set();
  function draw(element) {
    const make = figures[element.dataset.figure];
    const figure = make && make();
    if (!figure) return;
    let traces = painted(figure.data);
    if (!webgl) traces = traces.map((trace) => (trace.type === "scattergl" ? { ...trace, type: "scatter" } : trace));
    // Only these buttons: one of Plotly's others would send the chart to its maker's server.
    const config = { responsive: true, displaylogo: false, plotlyServerURL: "", modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] };
    config.displayModeBar = options.buttons.includes(element.dataset.figure) && element.clientWidth >= 520 ? "hover" : false;
    Plotly.react(element, traces, painted(layoutOf(figure, element)), config);
    if (!shown.has(element)) {
      shown.add(element);
      if (options.clicked) element.on("plotly_click", (event) => options.clicked(event.points[0]));
    }
  }

  document.addEventListener("click", async (event) => {
    const copy = event.target.closest(".copy");
    if (!copy) return;
    const text = copy.parentElement.querySelector("code").textContent;
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(copy.parentElement.querySelector("code"));
      copy.textContent = "Selected";
    }
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });

  /* The first charts at once, however long the page. */
  function start(given) {
    Object.assign(options, given);
    const charts = [...document.querySelectorAll(".chart")];
    const watcher = new IntersectionObserver(
      (entries) => {
        for (const entry of entries.filter((item) => item.isIntersecting)) {
          watcher.unobserve(entry.target);
          draw(entry.target);
        }
      },
      { rootMargin: "300px" },
    );
    charts.forEach((chart) => watcher.observe(chart));
    const redraw = () => shown.forEach(draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    addEventListener("beforeprint", () => charts.filter((chart) => !shown.has(chart)).forEach(draw));
  }

  return { data, byId, colour, unpackAll, figures, draw, start };
})();
