/*
 * The operator's live board: asks for board.json once a second, keeps five
 * minutes of answers, and draws what has changed between them.
 *
 * Where board.json wants a token, it is given as #token=... in the address.
 */
'use strict';

const words = {
	en: {
		title: 'Live board', other: '한국어', other_lang: 'ko', campaign: 'Campaign', all: 'All campaigns',
		remaining: 'Remaining', issued_rate: 'Issued per second', answer_rate: 'Answers per second', p95: 'p95 over HTTP', waiting: 'Waiting', unpublished: 'Events to publish',
		of: n => `of ${n}`, in_all: n => `${n} in all`, by_http: n => `${n} by HTTP`, rooms_requests: (r, q) => `rooms ${r}, requests ${q}`, old: s => s < 60 ? `oldest ${s} s` : `oldest ${Math.round(s / 60)} min`, no_broker: 'no broker is set',
		alerts: 'Alerts', ok: 'OK', warning: 'Warning', critical: 'Critical', unknown: 'No data',
		average: 'Average latency', errors: 'Errors', sessions: 'Sessions', connections: 'HTTP connections', lag: 'Events to publish', publisher: 'Publisher',
		failing: 'fails', works: 'works', off: 'off',
		stock_chart: 'Stock', left: 'remaining', answer_chart: 'Answers per second, by outcome', time_chart: 'Latency over HTTP (ms)', flow_chart: 'Rooms and requests',
		issued: 'issued', already_issued: 'already issued', sold_out: 'sold out', busy: 'busy', not_admitted: 'not admitted', rest: 'others',
		waits_line: 'waiting', admitted_line: 'in the rooms', served_line: 'admitted per second',
		campaigns: 'Campaigns', rooms: 'Waiting rooms', workers: 'Workers', name: 'Name', state: 'State', stock: 'Stock', per_second: 'Per second', waits: 'Waiting', inside: 'Inside', kind: 'Kind', running: 'Running',
		open: 'open', not_open: 'not open', paused: 'paused', closed: 'closed', none: 'none',
		more: n => `${n} more are not shown.`,
		live: 'Live', standby: 'This server is a standby: it sells nothing.', lost: 'No connection. Trying again.', refused: 'This board wants a token of coupon_reader: add #token=... to the address.',
		of_chart: (name, last) => `${name}: ${last}`, said: (name, level) => `${name}: ${level}`, ago: n => `${n} min ago`, now: 'now',
	},
	ko: {
		title: '실시간 현황판', other: 'English', other_lang: 'en', campaign: '캠페인', all: '모든 캠페인',
		remaining: '남은 수량', issued_rate: '초당 발급', answer_rate: '초당 응답', p95: 'HTTP p95', waiting: '대기 중', unpublished: '미발행 이벤트',
		of: n => `전체 ${n}`, in_all: n => `누적 ${n}`, by_http: n => `HTTP ${n}`, rooms_requests: (r, q) => `대기실 ${r}, 요청 ${q}`, old: s => s < 60 ? `최장 ${s}초` : `최장 ${Math.round(s / 60)}분`, no_broker: '브로커 미설정',
		alerts: '경보', ok: '정상', warning: '주의', critical: '위험', unknown: '데이터 없음',
		average: '평균 응답 시간', errors: '오류율', sessions: 'DB 세션', connections: 'HTTP 연결', lag: '미발행 이벤트', publisher: '발행기',
		failing: '실패', works: '정상 동작', off: '꺼짐',
		stock_chart: '재고', left: '남은 수량', answer_chart: '결과별 초당 응답', time_chart: 'HTTP 응답 시간(ms)', flow_chart: '대기실과 요청',
		issued: '발급', already_issued: '이미 발급', sold_out: '품절', busy: '혼잡', not_admitted: '미입장', rest: '기타',
		waits_line: '대기', admitted_line: '입장 중', served_line: '초당 입장',
		campaigns: '캠페인', rooms: '대기실', workers: '워커', name: '이름', state: '상태', stock: '재고', per_second: '초당', waits: '대기', inside: '입장 중', kind: '종류', running: '실행 중',
		open: '진행 중', not_open: '시작 전', paused: '일시 중지', closed: '종료', none: '없음',
		more: n => `${n}개는 표시하지 않았습니다.`,
		live: '실시간', standby: '이 서버는 대기(standby) 서버라 판매하지 않습니다.', lost: '연결이 끊겼습니다. 다시 시도하는 중입니다.', refused: 'coupon_reader 권한의 토큰이 필요합니다. 주소 뒤에 #token=... 을 붙이세요.',
		of_chart: (name, last) => `${name}: ${last}`, said: (name, level) => `${name}: ${level}`, ago: n => `${n}분 전`, now: '지금',
	},
};

const lang = document.documentElement.lang === 'ko' ? 'ko' : 'en';
const word = words[lang];
const base = new URL('../', document.currentScript.src);
const $ = id => document.getElementById(id);
const whole = new Intl.NumberFormat(lang, { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat(lang, { maximumFractionDigits: 1 });
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 3 });

const ROWS = 8;				// of campaigns and of rooms in the tables
const KEEP = 300;				// answers, one a second
const WINDOW_MS = 10000;		// of percentiles
const ALERT_MS = 60000;			// of averages that alerts judge

const samples = [];				// the newest last
let token = null;
let chosen = 'all';
const levels = {};				// of alerts

// ---- numbers from two samples ----

const seconds = (a, b) => (b.at - a.at) / 1000;
const sum = (list, f) => list.reduce((total, x) => total + (f(x) || 0), 0);
const campaignsOf = sample => sample.campaigns.filter(c => chosen === 'all' || String(c.id) === chosen);
const requestsOf = sample => sample.requests.filter(r => chosen === 'all' || String(r.campaign) === chosen);
const OUTCOMES = ['issued', 'already_issued', 'sold_out', 'busy', 'not_admitted', 'rest'];

function outcome(campaign, name)
{
	if (name !== 'rest')
		return campaign.answers[name];
	return sum(Object.keys(campaign.answers).filter(key => !OUTCOMES.includes(key)), key => campaign.answers[key]);
}

// a counter's rate; a server that has restarted counts anew
function rate(a, b, f)
{
	const rise = f(b) - f(a);

	return rise < 0 || b.at <= a.at ? 0 : rise / seconds(a, b);
}

// campaigns that one of the samples does not know yet make no rate
function campaignRate(a, b, name)
{
	const before = new Map(a.campaigns.map(c => [c.id, c]));

	return sum(campaignsOf(b), c => {
		const old = before.get(c.id);

		return old === undefined ? 0 : rate({ at: a.at, c: old }, { at: b.at, c }, s => outcome(s.c, name));
	});
}

// the newest sample that is at least so much older than samples[i]
function before(i, ms)
{
	let k = i;

	while (k > 0 && samples[i].at - samples[k].at < ms)
		k--;
	return samples[k];
}

const answersOf = (sample, test) => sum(Object.entries(sample.http.answers), ([status, n]) => test(Number(status)) ? n : 0);

// the times of the calls between two samples, in ms
function percentile(a, b, p)
{
	const calls = b.http.calls.map((n, i) => n - a.http.calls[i]);
	const total = calls[calls.length - 1];
	const wanted = total * p;

	if (!(total > 0))
		return null;
	const i = calls.findIndex(n => n >= wanted);
	const low = i === 0 ? 0 : b.http.seconds[i - 1];
	const high = b.http.seconds[i] === null ? low : b.http.seconds[i];
	const under = i === 0 ? 0 : calls[i - 1];

	return 1000 * (low + (high - low) * (wanted - under) / Math.max(calls[i] - under, 1));
}

// ---- charts ----

function element(name, attributes, ...children)
{
	const made = document.createElementNS('http://www.w3.org/2000/svg', name);

	for (const [key, value] of Object.entries(attributes))
		made.setAttribute(key, value);
	made.append(...children);
	return made;
}

// 1, 2 or 5 times a power of ten, above
function roundUp(n)
{
	const power = 10 ** Math.floor(Math.log10(Math.max(n, 1e-9)));

	return [1, 2, 5, 10].find(m => m * power >= n) * power;
}

const DASHES = ['none', '6 3', '2 3', '8 3 2 3', '1 4', '10 4'];

// draw(id, series): each {name, color, values, area}, a value for each sample, null: none
function draw(id, series)
{
	const svg = $(id);
	const width = svg.clientWidth || 600;
	const height = svg.clientHeight || 192;
	const left = 44, bottom = height - 20, top = 8, right = width - 8;
	const end = samples[samples.length - 1].at;
	const span = Math.max(60000, Math.min(300000, end - samples[0].at));
	const highest = Math.max(...series.flatMap(s => s.values.filter(v => v !== null)), 0);
	const max = roundUp(Math.max(highest, 1));
	const x = at => right - (end - at) / span * (right - left);
	const y = value => bottom - value / max * (bottom - top);
	const parts = [];

	for (const share of [0, 0.5, 1]) {
		parts.push(element('line', { class: 'grid', x1: left, x2: right, y1: y(share * max), y2: y(share * max) }));
		parts.push(element('text', { x: left - 6, y: y(share * max) + 4, 'text-anchor': 'end' }, short.format(share * max)));
	}
	parts.push(element('text', { x: right, y: height - 4, 'text-anchor': 'end' }, word.now));
	parts.push(element('text', { x: left, y: height - 4 }, word.ago(tenths.format(span / 60000))));
	series.forEach((s, n) => {
		let path = '', under = '', first = null, last = null;

		s.values.forEach((value, i) => {
			if (value === null) {
				first = null;
				return;
			}
			const point = `${x(samples[i].at).toFixed(1)} ${y(value).toFixed(1)}`;

			path += `${first === null ? 'M' : 'L'}${point}`;
			under += first === null ? `M${x(samples[i].at).toFixed(1)} ${bottom}L${point}` : `L${point}`;
			first = last = i;
		});
		if (last === null)
			return;
		const curve = element('path', { class: 'curve', d: path, 'stroke-dasharray': DASHES[n] });

		curve.style.stroke = `var(--${s.color})`;
		if (s.area) {
			const area = element('path', { class: 'under', d: `${under}L${x(samples[last].at).toFixed(1)} ${bottom}Z` });

			area.style.fill = `var(--${s.color})`;
			parts.push(area);
		}
		parts.push(curve);
	});
	svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
	svg.replaceChildren(...parts);
	legend(svg, series);
}

// names the lines, with their last values, also for those who do not see them
function legend(svg, series)
{
	const said = [];
	const items = series.map((s, n) => {
		const last = s.values[s.values.length - 1];
		const value = last === null ? '–' : tenths.format(last);
		const item = document.createElement('li');
		const key = element('svg', { viewBox: '0 0 18 8', 'aria-hidden': 'true' },
			element('line', { class: 'curve', x1: 0, x2: 18, y1: 4, y2: 4, 'stroke-dasharray': DASHES[n] }));
		const bold = document.createElement('b');

		key.firstChild.style.stroke = `var(--${s.color})`;
		bold.textContent = value;
		item.append(key, `${s.name} `, bold);
		said.push(`${s.name} ${value}`);
		return item;
	});

	svg.parentElement.querySelector('.legend').replaceChildren(...items);
	svg.setAttribute('aria-label', word.of_chart(svg.parentElement.querySelector('h2').textContent, said.join(', ')));
}

function drawCharts()
{
	const each = f => samples.map((sample, i) => f(sample, i));
	const since = (i, ms) => before(i, ms);

	draw('stock-chart', [
		{ name: word.left, color: 'accent', area: true, values: each(s => sum(campaignsOf(s), c => c.remaining)) },
		{ name: word.issued, color: 'issued', values: each(s => sum(campaignsOf(s), c => c.issued)) },
	]);
	draw('answer-chart', OUTCOMES.map(name => ({
		name: word[name], color: name === 'rest' ? 'other' : name,
		values: each((s, i) => i === 0 ? null : campaignRate(since(i, 2000), s, name)),
	})).filter((s, i) => i < 3 || s.values.some(v => v > 0)));
	draw('time-chart', [['p50', 0.5, 'issued'], ['p95', 0.95, 'sold_out'], ['p99', 0.99, 'busy']].map(([name, p, color]) => ({
		name, color, values: each((s, i) => i === 0 ? null : percentile(since(i, WINDOW_MS), s, p)),
	})));
	draw('flow-chart', [
		{ name: word.waits_line, color: 'accent', area: true, values: each(s => sum(s.rooms, r => r.waiting) + sum(requestsOf(s), r => r.waiting)) },
		{ name: word.admitted_line, color: 'issued', values: each(s => sum(s.rooms, r => r.admitted)) },
		{ name: word.served_line, color: 'sold_out', values: each((s, i) => i === 0 ? null : rate(since(i, 3000), s, t => sum(t.rooms, r => r.served))) },
	]);
}

// ---- tiles, alerts, tables ----

function put(id, content)
{
	if ($(id).textContent !== content)
		$(id).textContent = content;
}

const old = s => s === null || s === undefined ? '' : word.old(Math.round(s));

function showTiles(now)
{
	const i = samples.length - 1;
	const earlier = before(i, 2000);
	const window = before(i, WINDOW_MS);
	const campaigns = campaignsOf(now);
	const [p50, p95, p99] = [0.5, 0.95, 0.99].map(p => percentile(window, now, p));
	const inRooms = sum(now.rooms, r => r.waiting);
	const requests = sum(requestsOf(now), r => r.waiting);

	put('remaining', whole.format(sum(campaigns, c => c.remaining)));
	put('of-stock', word.of(whole.format(sum(campaigns, c => c.stock))));
	put('issued-rate', whole.format(campaignRate(earlier, now, 'issued')));
	put('issued', word.in_all(whole.format(sum(campaigns, c => c.issued))));
	put('answer-rate', whole.format(sum(OUTCOMES, name => campaignRate(earlier, now, name))));
	put('http-rate', word.by_http(whole.format(rate(earlier, now, s => answersOf(s, () => true)))));
	put('p95', p95 === null ? '–' : `${tenths.format(p95)} ms`);
	put('p50-p99', p50 === null ? '' : `p50 ${tenths.format(p50)}, p99 ${tenths.format(p99)}`);
	put('waiting', whole.format(inRooms + requests));
	put('waiting-where', word.rooms_requests(whole.format(inRooms), whole.format(requests)));
	put('unpublished', now.outbox === null ? '–' : whole.format(now.outbox.unpublished));
	put('oldest', now.outbox === null ? '' : now.outbox.has_broker ? old(now.outbox.oldest_seconds) : word.no_broker);
}

// {name: [value, what it is called, level]}; the levels are those of the reference
function judge(now)
{
	const then = before(samples.length - 1, ALERT_MS);
	const calls = now.http.calls[now.http.calls.length - 1] - then.http.calls[then.http.calls.length - 1];
	const average = calls > 0 ? 1000 * (now.http.total_seconds - then.http.total_seconds) / calls : null;
	const answers = answersOf(now, () => true) - answersOf(then, () => true);
	const errors = answers > 0 ? 100 * (answersOf(now, s => s >= 500) - answersOf(then, s => s >= 500)) / answers : null;
	const sessions = 100 * now.sessions.open / now.sessions.max;
	const connections = 100 * now.http.connections / now.http.max_connections;
	const outbox = now.outbox;
	const level = (value, warning, critical) => value === null ? 'unknown' : value >= critical ? 'critical' : value >= warning ? 'warning' : 'ok';
	const publishes = outbox !== null && outbox.has_broker;

	return {
		average: [average === null ? '–' : `${tenths.format(average)} ms`, level(average, 100, 500)],
		errors: [errors === null ? '–' : `${tenths.format(errors)} %`, level(errors, 1, 5)],
		sessions: [`${tenths.format(sessions)} %`, level(sessions, 70, 90)],
		connections: [`${tenths.format(connections)} %`, level(connections, 70, 90)],
		lag: [publishes ? whole.format(outbox.unpublished) : word.off, level(publishes ? outbox.unpublished : null, 1000, 10000)],
		publisher: [publishes ? (outbox.failing ? word.failing : word.works) : word.off, publishes ? (outbox.failing ? 'critical' : 'ok') : 'unknown'],
	};
}

const SIGNS = { ok: '✓', warning: '!', critical: '✕', unknown: '–' };

function showAlerts(now)
{
	const changes = [];
	const lamps = Object.entries(judge(now)).map(([name, [value, level]]) => {
		const lamp = document.createElement('li');
		const [sign, title, is] = ['span', 'span', 'span'].map(tag => document.createElement(tag));

		lamp.className = level;
		sign.className = 'sign';
		sign.setAttribute('aria-hidden', 'true');
		sign.textContent = SIGNS[level];
		title.textContent = word[name];
		is.className = 'value';
		is.textContent = level === 'unknown' ? (value === '–' ? word.unknown : value) : `${value} · ${word[level]}`;
		lamp.append(sign, title, is);
		if (levels[name] !== undefined && levels[name] !== level && (level === 'warning' || level === 'critical'))
			changes.push(word.said(word[name], word[level]));
		levels[name] = level;
		return lamp;
	});

	$('lamps').replaceChildren(...lamps);
	if (changes.length > 0)
		put('said', changes.join('. '));
}

// rows: [[heading, cell, ...]]; cells from wide on are left out on a phone
function fill(id, rows, wide)
{
	$(id).replaceChildren(...rows.map(cells => {
		const row = document.createElement('tr');

		cells.forEach((cell, i) => {
			const made = document.createElement(i === 0 ? 'th' : 'td');

			if (i === 0)
				made.scope = 'row';
			if (i === wide)
				made.className = 'wide';
			made.textContent = cell;
			row.append(made);
		});
		return row;
	}));
}

function showTables(now)
{
	const i = samples.length - 1;
	const earlier = before(i, 3000);
	const known = new Map(earlier.campaigns.map(c => [c.id, c]));
	const shownCampaigns = now.campaigns.slice(0, ROWS);
	const rooms = new Map(earlier.rooms.map(r => [r.name, r]));

	fill('campaigns', shownCampaigns.map(c => [c.name, word[c.state], whole.format(c.remaining), whole.format(c.stock),
		known.has(c.id) ? whole.format(rate({ at: earlier.at, c: known.get(c.id) }, { at: now.at, c }, s => s.c.answers.issued)) : '–']), 3);
	put('more', now.campaigns_in_all > shownCampaigns.length ? word.more(whole.format(now.campaigns_in_all - shownCampaigns.length)) : '');
	fill('rooms', [...now.rooms].sort((a, b) => b.waiting - a.waiting).slice(0, ROWS).map(r => [r.name, word[r.state], whole.format(r.waiting), `${whole.format(r.admitted)} / ${whole.format(r.capacity)}`,
		rooms.has(r.name) ? tenths.format(rate({ at: earlier.at, r: rooms.get(r.name) }, { at: now.at, r }, s => s.r.served)) : '–']), 4);
	fill('workers', Object.entries(now.workers).sort().map(([kind, n]) => [kind, whole.format(n)]), -1);
}

// the list of campaigns, which is left alone while nothing is new in it
function showChoice(now)
{
	const options = [['all', word.all], ...now.campaigns.map(c => [String(c.id), `${c.name} (${c.id})`])];
	const is = JSON.stringify(options);

	if ($('campaign').dataset.is === is)
		return;
	$('campaign').dataset.is = is;
	$('campaign').replaceChildren(...options.map(([value, name]) => new Option(name, value, false, value === chosen)));
	if ($('campaign').value !== chosen)
		chosen = $('campaign').value = 'all';
}

function show()
{
	const now = samples[samples.length - 1];

	if (now === undefined)
		return;
	showChoice(now);
	showTiles(now);
	showAlerts(now);
	showTables(now);
	drawCharts();
}

// ---- asking ----

async function look()
{
	try {
		const response = await fetch(new URL('board.json', base), {
			cache: 'no-store', signal: AbortSignal.timeout(10000), headers: token === null ? {} : { Authorization: `Bearer ${token}` } });

		if (!response.ok) {
			put('state', response.status === 401 || response.status === 403 ? word.refused : word.lost);
			return;
		}
		const sample = await response.json();
		const last = samples[samples.length - 1];

		// restarted: all that it counted is gone
		if (last !== undefined && answersOf(sample, () => true) < answersOf(last, () => true))
			samples.length = 0;
		samples.push(sample);
		if (samples.length > KEEP)
			samples.shift();
		put('state', sample.standby ? word.standby : word.live);
		if (!document.hidden)
			show();
	} catch (error) {
		put('state', word.lost);
	}
}

async function watch()
{
	for (;;) {
		const began = Date.now();

		await look();
		await new Promise(resolve => setTimeout(resolve, Math.max(1000 - (Date.now() - began), 200)));
	}
}

function takeToken()
{
	const given = new URLSearchParams(location.hash.slice(1)).get('token');

	try {
		if (given)
			sessionStorage.setItem('coupon board token', given);
		token = sessionStorage.getItem('coupon board token');
	} catch (error) {
		token = given;
	}
	if (location.hash)
		history.replaceState(null, '', location.pathname + location.search);
}

for (const one of document.querySelectorAll('[data-word]'))
	one.textContent = word[one.dataset.word];
document.title = word.title;
$('language').href = `?lang=${word.other_lang}`;
$('language').textContent = word.other;
$('language').lang = $('language').hreflang = word.other_lang;
$('campaign').addEventListener('change', () => {
	chosen = $('campaign').value;
	show();
});
document.addEventListener('visibilitychange', show);
window.addEventListener('resize', show);
takeToken();
watch();
