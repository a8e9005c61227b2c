// charts.js: lines over time, one colour per device, updated in place.
'use strict';

const palette = ['#1f8a84', '#c8792a', '#5b6fd6', '#b2467e', '#6a9a2d', '#8a6cc9', '#2d86c4', '#a1622f'];
const charts = {};
const colours = new Map();

function colourOf(name) {
  if (!colours.has(name)) colours.set(name, palette[colours.size % palette.length]);
  return colours.get(name);
}

function clock(ms) {
  return new Date(ms).toLocaleTimeString([], { hour12: false });
}

function style(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// lines: [{name, device, dash, points: [{x: ms, y}]}]; limits: [{name, y}]
function drawLines(id, lines, limits = []) {
  const plot = document.getElementById(id).parentElement;
  let none = plot.querySelector('.none');
  if (!none) {
    none = document.createElement('div');
    none.className = 'none';
    none.textContent = 'nothing measured yet';
    plot.append(none);
  }
  none.hidden = lines.length > 0;
  document.getElementById(id).style.visibility = lines.length ? '' : 'hidden';
  const all = lines.flatMap((line) => line.points.map((p) => p.x));
  const from = Math.min(...all), to = Math.max(...all);
  const datasets = lines.map((line) => ({
    label: line.name, data: line.points, borderColor: colourOf(line.device), backgroundColor: colourOf(line.device),
    borderDash: line.dash ? [5, 4] : [], borderWidth: 1.8, pointRadius: line.points.length > 40 ? 0 : 2.2, tension: 0.25,
  }));
  if (all.length)
    for (const limit of limits)
      datasets.push({ label: limit.name, data: [{ x: from, y: limit.y }, { x: to, y: limit.y }], borderColor: style('--bad'),
        borderDash: [3, 4], borderWidth: 1.2, pointRadius: 0 });
  let chart = charts[id];
  if (!chart) {
    chart = charts[id] = new Chart(document.getElementById(id), {
      type: 'line',
      data: { datasets: [] },
      options: {
        animation: false, maintainAspectRatio: false, parsing: false, normalized: true,
        interaction: { mode: 'nearest', axis: 'x', intersect: false },
        scales: {
          x: { type: 'linear', ticks: { maxTicksLimit: 6, callback: (v) => clock(v) } },
          y: { beginAtZero: true, ticks: { maxTicksLimit: 6 } },
        },
        plugins: {
          legend: { position: 'bottom', labels: { boxWidth: 12, boxHeight: 2 } },
          tooltip: { callbacks: { title: (items) => (items.length ? clock(items[0].parsed.x) : '') } },
        },
      },
    });
  }
  for (const axis of ['x', 'y']) {
    chart.options.scales[axis].grid = { color: style('--line') };
    chart.options.scales[axis].ticks.color = style('--soft');
  }
  chart.options.plugins.legend.labels.color = style('--soft');
  chart.data.datasets = datasets;
  chart.update();
}
