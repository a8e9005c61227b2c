// app.js: the dashboard: reads /api/1 every two seconds and shows it; orders go to the same API.
'use strict';

const EVERY_MS = 2000;
const views = ['overview', 'devices', 'rollouts', 'telemetry', 'drift', 'bench', 'files', 'decisions'];
const state = { view: 'overview', device: null, rollout: null, names: new Map(), timer: 0, busy: false };
const $ = (id) => document.getElementById(id);

// --- talking to the controller ---------------------------------------------------------------

// A link may carry the token behind '#token=': it is kept for this tab and taken out of the address.
function takeToken() {
  const hash = new URLSearchParams(location.hash.slice(1));
  if (hash.get('token')) {
    sessionStorage.setItem('token', hash.get('token'));
    hash.delete('token');
    history.replaceState(null, '', location.pathname + (hash.toString() ? '#' + hash : ''));
  }
  if (views.includes(hash.get('view'))) state.view = hash.get('view');
}

async function ask(path, method = 'GET', body) {
  const answer = await fetch('/api/1/' + path, {
    method, body: body ? JSON.stringify(body) : undefined,
    headers: { Authorization: 'Bearer ' + (sessionStorage.getItem('token') || '') },
  });
  const document = await answer.json().catch(() => ({ error: 'the answer is not JSON' }));
  if (answer.status === 401) throw Object.assign(new Error(document.error), { isToken: true });
  if (!answer.ok) throw new Error(document.error || answer.statusText);
  return document;
}

async function order(path, body, question) {
  if (question && !confirm(question)) return;
  try {
    await ask(path, 'POST', body || {});
    toast('done');
  } catch (problem) {
    toast(problem.message);
  }
  refresh();
}

function toast(text) {
  $('toast').textContent = text;
  $('toast').hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { $('toast').hidden = true; }, 4000);
}

// --- making elements: text is always text, never markup --------------------------------------

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes))
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? '' : value);
  for (const child of children.flat())
    if (child !== null && child !== undefined) node.append(child);
  return node;
}

function table(node, columns, rows, empty) {
  if (!rows.length) return node.replaceChildren(el('tbody', {}, el('tr', {}, el('td', { class: 'empty' }, empty))));
  node.replaceChildren(
    el('thead', {}, el('tr', {}, columns.map((c) => el('th', { class: c.number ? 'number' : null }, c.title)))),
    el('tbody', {}, rows.map((row) => {
      const line = el('tr', row.pick ? { class: 'pick' + (row.picked ? ' picked' : ''), tabindex: 0, onclick: row.pick,
        onkeydown: (e) => { if (e.key === 'Enter') row.pick(); } } : {});
      columns.forEach((c, i) => line.append(el('td', { class: [c.number && 'number', c.wide && 'wide'].filter(Boolean).join(' ') || null }, row.cells[i] ?? '')));
      return line;
    })));
}

function facts(pairs) {
  return el('dl', { class: 'facts' }, pairs.filter(([, v]) => v !== '' && v !== undefined && v !== null)
    .map(([k, v]) => el('div', {}, el('dt', {}, k), el('dd', {}, v))));
}

const short = (hex) => (hex ? el('code', { title: hex }, hex.slice(0, 8)) : '');
const fixed = (x, digits) => (typeof x === 'number' ? x.toFixed(digits) : '');
const mib = (bytes) => (bytes ? (bytes / 1048576).toFixed(bytes < 10485760 ? 1 : 0) + ' MiB' : '');
const when = (s) => (s ? new Date(s * 1000).toLocaleTimeString([], { hour12: false }) : '');
const day = (s) => (s ? new Date(s * 1000).toLocaleString([], { hour12: false }) : '');
const nameOf = (id) => state.names.get(id) || id.slice(0, 8);

function pill(text, kind) {
  return el('span', { class: 'pill ' + (kind || '') }, text);
}
const statusKind = { approved: 'good', pending: 'busy', revoked: 'bad' };
const rolloutKind = { running: 'busy', preparing: 'busy', done: 'good', halted: 'bad', reverting: 'bad', reverted: 'bad', failed: 'bad' };
const phaseKind = { committed: 'good', active: 'busy', offered: 'busy', deferred: 'busy', undone: 'bad', rejected: 'bad' };

// --- views -----------------------------------------------------------------------------------

function stages(rollout) {
  return el('div', { class: 'stages' }, rollout.stages.map((s, i) => {
    const part = (n, kind) => (n ? el('i', { class: kind, style: `width:${(100 * n) / Math.max(1, s.devices)}%`, title: `${n} ${kind}` }) : null);
    const future = i > rollout.stage || rollout.state === 'preparing';
    return el('div', { class: 'stage' + (future ? ' future' : '') },
      el('div', { class: 'track' }, part(s.committed, 'committed'), part(s.restored, 'restored'), part(s.failed, 'failed'), part(s.active, 'active')),
      el('small', {}, `stage ${i + 1} · ${Math.round(s.percent)} % · ${s.committed}/${s.devices}`));
  }));
}

function rolloutHead(r) {
  return [el('p', {}, el('b', {}, `${r.id} · ${r.name} `), pill(r.state, rolloutKind[r.state]), ' ',
    el('span', { class: 'note' }, `${r.goal || ''}, ${r.method_name || ''} · by ${r.trigger} · ${day(r.created)}`)), stages(r),
  r.reason ? el('p', { class: 'note' }, r.reason) : null,
  r.progress ? el('p', { class: 'note' }, `${r.progress.what}: ${Math.round(100 * r.progress.share)} %`) : null];
}

function trail(node, decisions) {
  if (!decisions.length) return node.replaceChildren(el('li', { class: 'empty' }, 'nothing was decided yet'));
  node.replaceChildren(...decisions.map((d) => el('li', { class: d.kind },
    el('div', { class: 'when' }, `${day(d.time)} · ${d.kind} ${d.kind === 'rollout' || d.kind === 'drift' ? d.subject : nameOf(d.subject)}`),
    el('div', { class: 'changed' }, d.changed),
    el('dl', {}, el('dt', {}, 'seen'), el('dd', {}, d.seen), el('dt', {}, 'rule'), el('dd', {}, d.rule), el('dt', {}, 'sent'), el('dd', {}, d.sent)))));
}

async function showOverview() {
  const [status, { devices }, { rollouts }, { decisions }] = await Promise.all([ask('status'), ask('devices'), ask('rollouts'), ask('decisions?limit=8')]);
  const count = (f) => devices.filter(f).length;
  const running = rollouts.filter((r) => ['running', 'preparing', 'reverting', 'paused'].includes(r.state)).length;
  const pending = count((d) => d.status === 'pending');
  const tile = (value, text, alarm) => el('div', { class: 'tile' + (alarm ? ' alarm' : '') }, el('b', {}, String(value)), el('span', {}, text));
  $('tiles').replaceChildren(tile(count((d) => d.status === 'approved'), 'devices approved'), tile(count((d) => d.online), 'online now'),
    tile(pending, 'wait for approval', pending > 0), tile(running, 'rollouts under way'),
    tile(status.telemetry_records.toLocaleString(), 'telemetry records kept'), tile(status.files, 'files registered'));
  $('newest').replaceChildren(...(rollouts.length ? rolloutHead(rollouts[0]).filter(Boolean) : [el('p', { class: 'empty' }, 'no rollout yet: tare fleet deploy RECIPE --model NAME')]));
  table($('overview-devices'), [{ title: 'Device' }, { title: 'Standing' }, { title: 'Plugin' }, { title: 'Variant' }, { title: 'Job' }, { title: 'Last seen' }],
    devices.slice(0, 12).map((d) => ({ cells: [deviceName(d), pill(d.status, statusKind[d.status]), d.plugin, short(d.variant), d.job_state, when(d.last_seen)] })), 'no device has shown itself yet');
  trail($('latest'), decisions);
}

function deviceName(d) {
  return el('span', {}, el('i', { class: 'dot' + (d.online ? ' on' : ''), title: d.online ? 'online' : 'offline' }), el('b', {}, d.name), ' ', short(d.id));
}

function deviceDetail(d) {
  const box = $('device-detail');
  box.hidden = !d;
  if (!d) return;
  box.replaceChildren(el('h2', {}, d.name),
    facts([['id', el('code', {}, d.id)], ['key', el('code', {}, d.key)], ['processor', d.cpu], ['cores', d.cores], ['memory', mib(d.memory_bytes)],
      ['memory bandwidth', d.read_gb_s ? fixed(d.read_gb_s, 1) + ' GB/s' : ''], ['int8', d.int8_gops ? fixed(d.int8_gops, 0) + ' GOP/s' : ''],
      ['agent', d.agent_version], ['boot epoch', d.epoch], ['first seen', day(d.first_seen)], ['last seen', day(d.last_seen)], ['plan version', d.plan_version]]),
    el('h3', {}, 'plugins'),
    el('table', {}, el('tbody', {}, (d.plugins || []).map((p) => el('tr', {}, el('td', {}, p.name), el('td', {}, p.path), el('td', { class: 'number' }, String(p.score)),
      el('td', { class: 'wide' }, p.refused ? pill(p.refused, 'bad') : pill('serves', 'good')))))),
    el('h3', {}, 'slots'),
    el('table', {}, el('tbody', {}, (d.slots || []).map((s) => el('tr', {}, el('td', {}, short(s.variant)), el('td', {}, mib(s.bytes)), el('td', {}, s.active ? pill('active', 'good') : 'spare'))))));
}

async function showDevices() {
  const { devices } = await ask('devices');
  table($('device-table'), [{ title: 'Device' }, { title: 'Standing' }, { title: 'Hardware' }, { title: 'Plugin' }, { title: 'Variant' }, { title: 'Job' }, { title: 'Last seen' }, { title: '' }],
    devices.map((d) => ({
      pick: () => { state.device = state.device === d.id ? null : d.id; refresh(); }, picked: state.device === d.id,
      cells: [deviceName(d),
        pill(d.status, statusKind[d.status]), `${d.arch}, ${d.cores} cores, ${mib(d.memory_bytes)}`, d.plugin, short(d.variant), d.job_state, when(d.last_seen),
        el('div', { class: 'actions' },
          d.status !== 'approved' ? el('button', { class: 'primary', onclick: (e) => { e.stopPropagation(); order(`devices/${d.id}/approve`, {}, `Let ${d.name} into the fleet? Its key: ${d.key}`); } }, 'Approve') : null,
          d.status === 'approved' ? el('button', { class: 'danger', onclick: (e) => { e.stopPropagation(); order(`devices/${d.id}/revoke`, {}, `Refuse everything ${d.name} says from now on?`); } }, 'Revoke') : null)],
    })), 'no device has shown itself yet');
  deviceDetail(devices.find((d) => d.id === state.device));
}

function rolloutDetail(r) {
  const box = $('rollout-detail');
  box.hidden = !r;
  if (!r) return;
  const columns = ['Device', 'Stage', 'Phase', 'State', 'Plugin', 'Variant', 'bpw', 'ΔPPL %', 'KLD', 'Top-1 %', 'Decode tok/s', 'RSS', 'Digest'];
  const rows = (r.devices || []).map((j) => {
    const m = j.measured || {};
    const digest = !j.variant || !j.expected ? '' : j.variant === j.expected ? pill('as predicted', 'good') : pill('differs', 'bad');
    return el('tr', {}, el('td', {}, j.name), el('td', { class: 'number' }, String(j.stage + 1)), el('td', {}, pill(j.phase, phaseKind[j.phase])),
      el('td', { class: 'wide' }, (j.state || '') + (j.reason ? ': ' + j.reason : '')), el('td', {}, j.plugin), el('td', {}, short(j.variant)),
      ...[fixed(m.bits_per_weight, 2), fixed(m.dppl_percent, 2), fixed(m.kld_mean, 4), fixed(m.top1_percent, 1), fixed(m.decode_tok_s, 0), mib(m.rss_bytes)]
        .map((x) => el('td', { class: 'number' }, x)), el('td', {}, digest));
  });
  box.replaceChildren(...rolloutHead(r).filter(Boolean),
    facts([['base', short(r.base)], ['profile', short(r.profile)], ['recipe', short(r.recipe)], ['silence deadline', r.rules.silence_s + ' s'],
      ['failure threshold', Math.round(100 * r.rules.failure_ratio) + ' %'], ['minimum sample', r.rules.min_sample], ['variant', short((r.classes || [{}])[0].variant)],
      ['size', mib((r.classes || [{}])[0].bytes)], ['plan', r.classes ? r.classes[0].plan_bytes + ' bytes' : '']]),
    el('h3', {}, 'devices'),
    el('table', {}, el('thead', {}, el('tr', {}, columns.map((c) => el('th', {}, c)))), el('tbody', {}, rows)));
}

function rolloutButtons(r) {
  const button = (verb, kind, question) => el('button', { class: kind, onclick: (e) => { e.stopPropagation(); order(`rollouts/${r.id}/${verb}`, {}, question); } }, verb);
  const can = { preparing: ['abort'], running: ['pause', 'abort', 'revert'], paused: ['resume', 'abort', 'revert'], done: ['revert'], halted: ['revert', 'abort'], aborted: ['revert'] }[r.state] || [];
  const waits = r.state === 'preparing' && r.approvals > (r.approved_by || []).length;
  return el('div', { class: 'actions' }, waits ? button('approve', 'primary') : null,
    can.map((v) => button(v, v === 'revert' || v === 'abort' ? 'danger' : '', v === 'revert' ? `Take every device of rollout ${r.id} back to what it ran before?` : v === 'abort' ? `Abort rollout ${r.id}?` : null)));
}

async function showRollouts() {
  const { rollouts } = await ask('rollouts');
  if (!state.rollout && rollouts.length) state.rollout = rollouts[0].id;
  table($('rollout-table'), [{ title: 'Rollout' }, { title: 'State' }, { title: 'Stages', wide: true }, { title: 'By' }, { title: 'Created' }, { title: 'Reason', wide: true }, { title: '' }],
    rollouts.map((r) => ({
      pick: () => { state.rollout = r.id; refresh(); }, picked: state.rollout === r.id,
      cells: [el('b', {}, `${r.id} · ${r.name}`), pill(r.state, rolloutKind[r.state]), stages(r), r.trigger, day(r.created), r.reason, rolloutButtons(r)],
    })), 'no rollout yet: tare fleet deploy RECIPE --model NAME');
  rolloutDetail(state.rollout && rollouts.length ? await ask('rollouts/' + state.rollout) : null);
}

function series(records, pick) {
  const lines = new Map();
  for (const r of records) {
    for (const point of pick(r) || []) {
      const key = nameOf(r.device) + (point.suffix || '');
      if (!lines.has(key)) lines.set(key, { name: key, device: r.device, dash: Boolean(point.suffix), points: [] });
      lines.get(key).points.push({ x: r.time * 1000, y: point.y });
    }
  }
  for (const line of lines.values()) line.points.sort((a, b) => a.x - b.x);
  return [...lines.values()];
}

async function showTelemetry() {
  const select = $('telemetry-device');
  const wanted = select.value;
  if (select.options.length !== state.names.size + 1)
    select.replaceChildren(el('option', { value: '' }, 'all'), ...[...state.names].map(([id, name]) => el('option', { value: id, selected: id === wanted }, name)));
  const where = wanted ? '&device=' + wanted : '';
  const [sketches, memory, shadow, heat] = await Promise.all([`kind=sketch&limit=1500`, `kind=memory&limit=300`, `kind=shadow&limit=300`, `kind=heat&limit=300`]
    .map((q) => ask('telemetry?' + q + where).then((a) => a.records)));
  const metric = (name, value) => series(sketches, (r) => (r.value.metric === name ? value(r.value) : null));
  drawLines('chart-decode', metric('decode_millitok_s', (v) => [{ y: v.mean / 1000 }]));
  drawLines('chart-prefill', metric('prefill_millitok_s', (v) => [{ y: v.mean / 1000 }]));
  drawLines('chart-ttft', metric('ttft_us', (v) => [{ y: v.p50 / 1000 }, { y: v.p95 / 1000, suffix: ' p95' }]));
  drawLines('chart-memory', series(memory, (r) => [{ y: r.value.rss_bytes / 1048576 }]));
  drawLines('chart-shadow', series(shadow, (r) => [{ y: r.value.kld_mean }]));
  drawLines('chart-heat', series(heat, (r) => [{ y: r.value.celsius }]));
}

async function showDrift() {
  const { cohorts, rule } = await ask('calibration');
  const lines = cohorts.filter((c) => c.history).map((c) => ({ name: nameOf(c.device), device: c.device, points: c.history.map((h) => ({ x: h.time * 1000, y: h.score })) }));
  drawLines('chart-drift', lines, [{ name: 'limit', y: rule.drift_limit }, { name: 'armed again below', y: rule.drift_rearm }]);
  $('drift-rule').textContent = `${rule.on ? 'A device' : 'Switched off; a device would be recompressed that'} above ${rule.drift_limit} in ${rule.confirm} looks in a row, with at least ${rule.rows} rows of activations, ${rule.on ? 'is recompressed' : ''} at most once in ${rule.interval_s} s.`;
  table($('drift-table'), [{ title: 'Device' }, { title: 'Variant' }, { title: 'Rollout' }, { title: 'Drift', number: true }, { title: 'Moved most' }, { title: 'Rows', number: true }, { title: 'Shadow KLD', number: true }, { title: 'Rule' }, { title: '' }],
    cohorts.map((c) => ({ cells: [el('b', {}, nameOf(c.device)), short(c.variant), c.rollout, fixed(c.score, 4), c.worst_name ? el('code', {}, c.worst_name) : '', fixed(c.rows, 0), c.shadow_kld ? fixed(c.shadow_kld, 4) : '',
      pill(c.state, c.score > rule.drift_limit ? 'bad' : 'good'),
      c.rollout ? el('button', { onclick: () => order('recalibrate', { rollout: c.rollout }, `Recompress the cohort of rollout ${c.rollout} from its live traffic?`) }, 'Recalibrate') : null] })),
    'no device has sent statistics yet');
}

async function showBench() {
  const { bench } = await ask('bench?limit=100');
  const rows = bench.flatMap((b) => (b.rows && b.rows.length ? b.rows : [null]).map((row) => ({
    cells: [el('b', {}, b.name), pill(b.state, { done: 'good', failed: 'bad', asked: 'busy' }[b.state]), b.model_text || '', row ? `${row.plugin} ${row.path || ''}` : '', row ? row.test : '',
      row ? fixed(row.tok_s, 1) : '', row ? '± ' + fixed(row.tok_s_deviation, 1) : '', row ? mib(row.rss_bytes) : '', day(b.asked), b.reason || ''] })));
  table($('bench-table'), [{ title: 'Device' }, { title: 'State' }, { title: 'Model' }, { title: 'Plugin' }, { title: 'Test' }, { title: 'tok/s', number: true }, { title: '' }, { title: 'RSS', number: true }, { title: 'Asked' }, { title: 'Reason', wide: true }],
    rows, 'no benchmark yet');
}

async function showFiles() {
  const { files } = await ask('models');
  table($('file-table'), [{ title: 'Name' }, { title: 'Kind' }, { title: 'Digest' }, { title: 'Size', number: true }, { title: 'What it is' }, { title: 'Registered' }],
    files.sort((a, b) => a.kind.localeCompare(b.kind) || a.name.localeCompare(b.name)).map((f) => ({ cells: [el('b', {}, f.name), pill(f.kind), short(f.digest), mib(f.bytes) || f.bytes + ' B',
      f.kind === 'base' ? `${f.architecture}, ${(f.parameters / 1e6).toFixed(1)} M parameters, ${f.tensors} tensors` : f.kind === 'profile' ? `${f.entries || ''} inputs` : '', day(f.registered)] })),
    'nothing registered: tare fleet models FILE');
}

async function showDecisions() {
  trail($('trail'), (await ask('decisions?limit=200')).decisions);
}

const show = { overview: showOverview, devices: showDevices, rollouts: showRollouts, telemetry: showTelemetry, drift: showDrift, bench: showBench, files: showFiles, decisions: showDecisions };

// --- the loop --------------------------------------------------------------------------------

function setView(view) {
  state.view = view;
  for (const v of views) $(v).hidden = v !== view;
  for (const tab of document.querySelectorAll('nav button')) tab.setAttribute('aria-selected', tab.dataset.view === view);
  const hash = new URLSearchParams({ view });
  history.replaceState(null, '', location.pathname + '#' + hash);
}

function setLive(kind, text) {
  $('live').className = 'live ' + kind;
  $('live').lastElementChild.textContent = text;
}

async function refresh() {
  clearTimeout(state.timer);
  if (!state.busy) {
    state.busy = true;
    try {
      const [status, { devices }] = await Promise.all([ask('status'), ask('devices')]);
      state.names = new Map(devices.map((d) => [d.id, d.name]));
      $('fleet').textContent = `fleet ${status.fleet}`;
      $('login').hidden = true;
      $(state.view).hidden = false;
      await show[state.view]();
      setLive(status.connected ? 'on' : 'off', status.connected ? `live · ${when(status.time)}` : 'no broker');
    } catch (problem) {
      if (problem.isToken) askToken(sessionStorage.getItem('token') ? problem.message : '');
      setLive('off', problem.isToken ? 'no token' : 'no answer');
    }
    state.busy = false;
  }
  state.timer = setTimeout(refresh, EVERY_MS);
}

function askToken(message) {
  for (const v of views) $(v).hidden = true;
  $('login').hidden = false;
  $('login').querySelector('.error').textContent = message;
}

$('login').querySelector('form').addEventListener('submit', (e) => {
  e.preventDefault();
  sessionStorage.setItem('token', new FormData(e.target).get('token').trim());
  refresh();
});
$('bench-ask').addEventListener('click', () => order('bench', {}, 'Ask every approved device to measure its variant?'));
$('telemetry-device').addEventListener('change', refresh);
for (const tab of document.querySelectorAll('nav button')) tab.addEventListener('click', () => { setView(tab.dataset.view); refresh(); });
document.addEventListener('visibilitychange', () => { if (!document.hidden) refresh(); });
takeToken();
setView(state.view);
refresh();
