/* Draws what stands in data-chart: {start, step, unit, top, lines: [{name, values}]}, null being a gap. */

import uPlot from "uplot";

const HEIGHT = 170;
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const charts = new Map(); // place in the page -> its chart

const number = new Intl.NumberFormat(document.documentElement.lang || undefined, { maximumFractionDigits: 1 });

function bytes(value) {
  const power = value < 1 ? 0 : Math.min(Math.floor(Math.log2(value) / 10), UNITS.length - 1);
  return `${number.format(value / 1024 ** power)} ${UNITS[power]}`;
}

const TEXTS = {
  share: (value) => `${number.format(value * 100)} %`,
  size: bytes,
  rate: (value) => `${bytes(value)}/s`,
};

const moments = (options) => {
  const format = new Intl.DateTimeFormat(navigator.language, options);
  return (seconds) => format.format(new Date(seconds * 1000));
};
const timeOfDay = moments({ hour: "2-digit", minute: "2-digit" });
const day = moments({ day: "numeric", month: "short" });
const exact = moments({ dateStyle: "short", timeStyle: "medium" });
// A point of the month is two hours; an axis of days says which day it is.
const DAILY_S = 3600;

/** Steps of an axis that are round in bytes: 1, 2, 4 … 512 of a unit. */
const POWERS = Array.from({ length: 51 }, (_, power) => 2 ** power);
const SHARES = [0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1];

/** From nothing to the most there is, or to a little more than the most there was. */
function rangeOf(unit, top) {
  const least = unit === "rate" ? 1024 : 0;
  return (_chart, _low, high) => [0, Math.max(top, least, (high ?? 0) * (top ? 1 : 1.1))];
}

function colours(place) {
  const style = getComputedStyle(place);
  const of = (name) => style.getPropertyValue(name).trim();
  return { lines: [of("--chart-1"), of("--chart-2")], ink: of("--ink-2"), grid: of("--line"), font: style.fontFamily };
}

function optionsFor(place, { unit, top, step, lines }) {
  const { lines: strokes, ink, grid, font } = colours(place);
  const text = TEXTS[unit];
  const axis = {
    stroke: ink,
    font: `11px ${font}`,
    grid: { stroke: grid, width: 1 },
    ticks: { show: false },
  };
  return {
    width: place.clientWidth,
    height: HEIGHT,
    padding: [8, 8, 0, 0],
    cursor: { y: false, drag: { setScale: false, x: false, y: false } },
    legend: { live: true },
    scales: { x: { time: true }, y: { range: rangeOf(unit, top) } },
    axes: [
      { ...axis, space: 64, size: 28, values: (_chart, ticks) => ticks.map(step < DAILY_S ? timeOfDay : day) },
      {
        ...axis,
        size: unit === "share" ? 48 : 76,
        incrs: unit === "share" ? SHARES : POWERS,
        values: (_chart, ticks) => ticks.map(text),
      },
    ],
    series: [
      { label: gettext("Time"), value: (_chart, moment) => (moment == null ? "–" : exact(moment)) },
      ...lines.map(({ name }, place) => ({
        label: name,
        stroke: strokes[place],
        fill: place === 0 ? `${strokes[0]}22` : undefined,
        width: 1.5,
        dash: place === 0 ? undefined : [5, 3],
        points: { show: alone },
        value: (_chart, value) => (value == null ? "–" : text(value)),
      })),
    ],
  };
}

/** A point between two gaps has no line, and is drawn as a dot. */
function alone(chart, series) {
  const values = chart.data[series];
  return values.filter((value) => value != null).length < 3;
}

function dataOf({ start, step, lines }) {
  const count = lines[0].values.length;
  const moments = Array.from({ length: count }, (_, place) => start + place * step);
  return [moments, ...lines.map(({ values }) => values)];
}

/** What must be the same for a chart to take other numbers. */
const kindOf = ({ unit, top, step, lines }) => JSON.stringify([unit, top, step, lines.map(({ name }) => name)]);

function drawOne(figure) {
  const place = figure.querySelector(".chart-place");
  const told = JSON.parse(figure.dataset.chart);
  if (!place || !told.lines.length) {
    return;
  }
  const known = charts.get(place);
  if (known?.kind === kindOf(told)) {
    known.chart.setData(dataOf(told));
  } else {
    known?.chart.destroy();
    charts.set(place, { chart: new uPlot(optionsFor(place, told), dataOf(told), place), kind: kindOf(told) });
    resizes.observe(place);
  }
}

const resizes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const { chart } = charts.get(target) ?? {};
    if (chart && target.clientWidth && chart.width !== target.clientWidth) {
      chart.setSize({ width: target.clientWidth, height: HEIGHT });
    }
  }
});

/** Every chart of the page, as it is told now. */
export function draw() {
  for (const [place, { chart }] of charts) {
    if (!place.isConnected) {
      chart.destroy();
      resizes.unobserve(place);
      charts.delete(place);
    }
  }
  for (const figure of document.querySelectorAll("[data-chart]")) {
    drawOne(figure);
  }
}

/** Canvases know no colours of the page: they are painted anew when those change. */
new MutationObserver(() => {
  for (const { chart } of charts.values()) {
    chart.destroy();
  }
  charts.clear();
  draw();
}).observe(document.documentElement, { attributes: true, attributeFilter: ["data-bs-theme"] });
