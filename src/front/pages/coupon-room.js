/*
 * The visitor's waiting room.
 *
 * Opening the page is joining.  It learns of its place by an event stream, or,
 * where something on the way does not let one through, by asking.
 *
 * Who the visitor is: the user of the token, if there is one (#token=... by the
 * shop's link, or put in by a gateway that knows the visitor); else the user
 * that the shop names (#user=...); else a name that this browser makes up and
 * keeps.  What is behind the # does not leave the browser, and is taken out of
 * the address at once.
 *
 * Where the visitor goes when it is their turn: ?return=..., which is obeyed
 * only if it is of this origin or of one that coupon.http_cors_origins names.
 * It gets the ticket as #ticket=...
 */
'use strict';

const words = {
	en: {
		title: 'Waiting room', room: 'Waiting room', other: '한국어', other_lang: 'ko',
		joining: 'One moment, you are joining the line', waiting: 'You are in line', next: 'You are next',
		position: 'Your number in line', ahead: 'Before you', behind: 'Behind you', eta: 'Estimated wait',
		progress: 'How far you have come',
		keep: 'Keep this page open. If you close it, your place is kept only for a short while.',
		leave: 'Leave the line', sure: 'Leave the line?', sure_more: 'Your place goes to those behind you. If you come back, you start at the end.',
		stay: 'Keep my place', really: 'Leave',
		drawing: 'Lots have not been drawn yet',
		draw: 'Everybody who is here when the room opens has the same chance: places are drawn by lot then, and it does not matter who came first.',
		admitted: 'It is your turn', go: 'Go in', finish: 'I am done: free my place',
		now: 'Go in now: your place is kept for a limited time.', now_here: 'Go on where you came from. Your place is kept for a limited time.',
		left: 'You have left the line', left_more: 'Somebody else moves up. You may join again, at the end of the line.',
		done: 'Your place is free again', done_more: 'Thank you: somebody else is let in. You may join again, at the end of the line.',
		gone: 'Your place has ended', gone_more: 'Either your time in the room is over, or nothing was heard from this page for too long. You may join again.',
		again: 'Join again',
		closed: 'Nobody is let in', closed_more: 'This room lets nobody in at the moment. Try again later.',
		none: 'There is no such waiting room', none_more: 'Check the address, or go back to where you came from.',
		stranger: 'You are not signed in', stranger_more: 'Go back to the shop and come here again by its link.',
		trouble: 'The connection is disturbed. Your place is kept; trying again.',
		soon: 'less than a minute', minutes: n => n === '1' ? 'about 1 minute' : `about ${n} minutes`, hours: n => n === '1' ? 'about 1 hour' : `about ${n} hours`, unknown: 'not known yet',
		nobody: 'nobody', about: n => `about ${n}`, people: n => n,
		say: (n, eta) => `You are number ${n} in line. ${eta}`, say_eta: eta => `Estimated wait: ${eta}.`,
	},
	ko: {
		title: '대기실', room: '대기실', other: 'English', other_lang: 'en',
		joining: '대기열에 들어가는 중입니다', waiting: '순서를 기다리고 있습니다', next: '다음 차례입니다',
		position: '내 대기 순번', ahead: '내 앞', behind: '내 뒤', eta: '예상 대기 시간',
		progress: '진행 정도',
		keep: '이 페이지를 열어 두세요. 닫으면 순번은 잠시 동안만 유지됩니다.',
		leave: '대기열에서 나가기', sure: '대기열에서 나갈까요?', sure_more: '순번이 뒷사람에게 넘어갑니다. 다시 들어오면 맨 뒤에서 시작합니다.',
		stay: '계속 기다리기', really: '나가기',
		drawing: '아직 추첨 전입니다',
		draw: '대기실이 열릴 때 여기 있는 모두에게 같은 기회가 있습니다. 그때 추첨으로 순서를 정하므로 먼저 왔는지는 상관없습니다.',
		admitted: '입장할 차례입니다', go: '입장하기', finish: '이용을 마치고 자리 비우기',
		now: '지금 입장하세요. 자리는 제한된 시간 동안만 유지됩니다.', now_here: '처음 보던 화면에서 계속하세요. 자리는 제한된 시간 동안만 유지됩니다.',
		left: '대기열에서 나갔습니다', left_more: '다른 사람의 순서가 앞당겨집니다. 다시 들어오면 맨 뒤에서 기다립니다.',
		done: '자리를 비웠습니다', done_more: '다른 사람이 입장합니다. 다시 들어오면 맨 뒤에서 기다립니다.',
		gone: '순번이 끝났습니다', gone_more: '이용 시간이 끝났거나 이 페이지의 응답이 너무 오래 없었습니다. 다시 들어올 수 있습니다.',
		again: '다시 들어가기',
		closed: '지금은 입장할 수 없습니다', closed_more: '이 대기실은 현재 아무도 받지 않습니다. 나중에 다시 시도하세요.',
		none: '없는 대기실입니다', none_more: '주소를 확인하거나 이전 화면으로 돌아가세요.',
		stranger: '로그인되어 있지 않습니다', stranger_more: '쇼핑몰로 돌아가 그곳의 링크로 다시 들어오세요.',
		trouble: '연결이 불안정합니다. 순번은 유지되며 다시 시도하고 있습니다.',
		soon: '1분 미만', minutes: n => `약 ${n}분`, hours: n => `약 ${n}시간`, unknown: '아직 알 수 없음',
		nobody: '없음', about: n => `약 ${n}명`, people: n => `${n}명`,
		say: (n, eta) => `대기 순번은 ${n}번입니다. ${eta}`, say_eta: eta => `예상 대기 시간은 ${eta}입니다.`,
	},
};

const lang = document.documentElement.lang === 'ko' ? 'ko' : 'en';
const word = words[lang];
const number = new Intl.NumberFormat(lang);
const base = new URL('../', document.currentScript.src);
const room = decodeURIComponent(location.pathname.split('/').pop());
const query = new URLSearchParams(location.search);
const $ = id => document.getElementById(id);

const SILENCE_MS = 25000;		// a stream beats every 15 s
const STREAM_TRIES = 2;			// then it is asked instead

// ---- what the browser keeps ----

// storage may be forbidden; then a reload is a new visitor
function kept(storage, name)
{
	try {
		return JSON.parse(window[storage].getItem(`coupon ${base.pathname} ${room} ${name}`));
	} catch (error) {
		return null;
	}
}

function keep(storage, name, value)
{
	try {
		window[storage].setItem(`coupon ${base.pathname} ${room} ${name}`, JSON.stringify(value));
	} catch (error) {
		// see kept()
	}
}

function makeUpUser()
{
	let user = kept('localStorage', 'user');

	if (typeof user !== 'string') {
		user = 'visitor-' + Array.from(crypto.getRandomValues(new Uint8Array(16)), b => b.toString(16).padStart(2, '0')).join('');
		keep('localStorage', 'user', user);
	}
	return user;
}

function takeFragment()
{
	const fragment = new URLSearchParams(location.hash.slice(1));

	for (const name of ['token', 'user']) {
		if (!fragment.get(name))
			continue;
		keep('sessionStorage', name, fragment.get(name));
		keep('sessionStorage', 'left', false);	// who comes by a link wants to join
	}
	if (location.hash)
		history.replaceState(null, '', location.pathname + location.search);
}

takeFragment();
const token = kept('sessionStorage', 'token');
let user = kept('sessionStorage', 'user');
let ticket = null;				// {token, first}
let announced = Infinity;		// the position that was read out last
let attempt = 0;				// of which a stream or a poll is the latest

// ---- where to go then ----

function safeReturn()
{
	const allowed = document.querySelector('meta[name=coupon-origins]').content.split(/[ ,]+/);
	let url;

	try {
		url = new URL(query.get('return'), location.href);
	} catch (error) {
		return null;
	}
	if (!query.get('return') || !/^https?:$/.test(url.protocol) || url.username !== '' ||
		(url.origin !== location.origin && !allowed.includes(url.origin)))
		return null;
	return url;
}

// ---- showing ----

function show(part, headline)
{
	for (const id of ['waiting', 'draw', 'admitted', 'ended'])
		$(id).hidden = id !== part;
	if ($('headline').textContent !== headline) {
		$('headline').textContent = headline;
		document.title = (part === 'admitted' ? '● ' : '') + `${headline} · ${word.title}`;
	}
	if (part !== 'waiting' && $('sure').open)
		$('sure').close();
}

function say(text)
{
	if ($('said').textContent !== text)
		$('said').textContent = text;
}

function duration(seconds)
{
	if (seconds === undefined)
		return word.unknown;
	if (seconds < 55)
		return word.soon;
	return seconds < 5400 ? word.minutes(number.format(Math.ceil(seconds / 60))) : word.hours(number.format(Math.round(seconds / 3600)));
}

function people(n)
{
	return n === 0 ? word.nobody : n < 100 ? word.people(number.format(n)) : word.about(number.format(n));
}

function showWaiting(state)
{
	const position = state.position;

	if (position === undefined) {
		show('draw', word.drawing);
		return;
	}
	if (!(ticket.first >= position)) {
		ticket.first = position;
		keep('localStorage', 'ticket', ticket);
	}
	show('waiting', position === 1 ? word.next : word.waiting);
	$('position').textContent = number.format(position);
	$('progress').value = Math.round(100 * (1 - position / ticket.first));
	$('ahead').textContent = position === 1 ? word.nobody : word.people(number.format(position - 1));
	$('behind').textContent = state.behind === undefined ? '–' : people(state.behind);
	$('eta').textContent = duration(state.eta_seconds);
	document.title = `${number.format(position)} · ${word.title}`;
	// read out at first, and whenever the line before has become half as long
	if (position <= announced / 2) {
		announced = position;
		say(word.say(number.format(position), state.eta_seconds === undefined ? '' : word.say_eta(duration(state.eta_seconds))));
	}
}

function showAdmitted()
{
	const url = safeReturn();

	if (url !== null) {
		url.hash = new URLSearchParams({ ticket: ticket.token }).toString();
		$('go').href = url.href;
	}
	$('go').parentElement.hidden = url === null;
	$('what-now').textContent = url === null ? word.now_here : word.now;
	show('admitted', word.admitted);
	say(`${word.admitted}. ${$('what-now').textContent}`);
}

function showEnded(what, canJoin)
{
	attempt++;
	ticket = null;
	keep('localStorage', 'ticket', null);
	$('why').textContent = word[`${what}_more`];
	$('again').parentElement.hidden = !canJoin;
	trouble(false);
	show('ended', word[what]);
	say(`${word[what]}. ${word[`${what}_more`]}`);
}

function trouble(is)
{
	$('trouble').textContent = is ? word.trouble : '';
}

function showTicket(state)
{
	trouble(false);
	if (state.status === 'admitted')
		showAdmitted();
	else
		showWaiting(state);
}

// ---- asking ----

const pause = ms => new Promise(resolve => setTimeout(resolve, ms));

// a browser waits for minutes for a request that the network has swallowed
function patience()
{
	const controller = new AbortController();

	setTimeout(() => controller.abort(), SILENCE_MS);
	return controller.signal;
}

function ask(method, path, options = {})
{
	const headers = { Accept: 'application/json', ...options.headers };

	if (token !== null)
		headers.Authorization = `Bearer ${token}`;
	if (options.body !== undefined)
		headers['Content-Type'] = 'application/json';
	return fetch(new URL(path, base), {
		method, headers, cache: 'no-store', signal: options.signal || patience(),
		body: options.body === undefined ? undefined : JSON.stringify(options.body),
	});
}

const ticketPath = () => `rooms/${encodeURIComponent(room)}/tickets/${encodeURIComponent(ticket.token)}`;

// what an answer is that is no ticket; true: it was dealt with
function refused(status, problem)
{
	if (status === 410)
		showEnded('gone', true);
	else if (status === 401 || status === 403)
		showEnded('stranger', false);
	else if (status === 404)
		showEnded('none', false);
	else if (problem.code === 'rejected')
		showEnded('closed', true);
	else
		return false;
	return true;
}

async function problemOf(response)
{
	try {
		return await response.json();
	} catch (error) {
		return {};
	}
}

async function join()
{
	const mine = ++attempt;

	keep('sessionStorage', 'left', false);
	show('', word.joining);
	announced = Infinity;
	for (let wait = 1000; mine === attempt; wait = Math.min(wait * 1.5, 15000)) {
		try {
			const response = await ask('POST', `rooms/${encodeURIComponent(room)}/tickets`, { body: user === null ? {} : { user_id: user } });
			const answer = await problemOf(response);

			if (mine !== attempt)
				return;
			if (response.ok && answer.token) {
				const known = kept('localStorage', 'ticket');

				ticket = known !== null && known.token === answer.token ? known : { token: answer.token };
				keep('localStorage', 'ticket', ticket);
				showTicket(answer);
				follow(mine);
				return;
			}
			if (response.status === 400 && user === null) {
				user = makeUpUser();		// no token tells who it is
				continue;
			}
			if (response.status === 400 || refused(response.status, answer)) {
				if (response.status === 400)
					showEnded('none', false);
				return;
			}
		} catch (error) {
			// no answer: again
		}
		trouble(true);
		await pause(wait);
	}
}

// ---- following ----

async function* events(response, controller)
{
	const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
	let text = '';

	for (;;) {
		const silence = setTimeout(() => controller.abort(), SILENCE_MS);
		const { value, done } = await reader.read();

		clearTimeout(silence);
		if (done)
			return;
		text += value;
		for (let end; (end = text.indexOf('\n\n')) >= 0; text = text.slice(end + 2)) {
			const event = { data: '' };

			for (const line of text.slice(0, end).split('\n')) {
				const [, name, content] = /^(\w*): ?(.*)$/.exec(line) || [];

				if (name === 'data')
					event.data += content;
				else if (name)
					event[name] = content;
			}
			yield event;
		}
	}
}

async function follow(mine)
{
	let last = null;
	let tries = 0;

	while (mine === attempt && tries < STREAM_TRIES) {
		const controller = new AbortController();
		const silence = setTimeout(() => controller.abort(), SILENCE_MS);

		try {
			const response = await ask('GET', ticketPath(), {
				headers: { Accept: 'text/event-stream', ...(last === null ? {} : { 'Last-Event-ID': last }) }, signal: controller.signal });

			clearTimeout(silence);
			if (!response.ok && refused(response.status, await problemOf(response)))
				return;
			if (!response.ok || !/^text\/event-stream/.test(response.headers.get('Content-Type')))
				break;
			trouble(false);			// what is still true is not told again
			for await (const event of events(response, controller)) {
				if (mine !== attempt) {
					controller.abort();
					return;
				}
				if (!event.retry)
					tries = -1;			// more than its beginning comes through
				if (event.data === '')
					continue;
				last = event.id || last;
				const told = JSON.parse(event.data);

				if (event.event === 'problem') {
					if (refused(told.status, told))
						return;
				} else
					showTicket(told);
			}
		} catch (error) {
			clearTimeout(silence);
		}
		tries++;
		if (mine === attempt && tries > 0)
			trouble(true);
		await pause(500 + 1500 * Math.random());
	}
	poll(mine);
}

async function poll(mine)
{
	let lost = false;

	while (mine === attempt) {
		let wait = 5;

		try {
			const response = await ask('GET', ticketPath());
			const told = await problemOf(response);

			if (mine !== attempt)
				return;
			if (response.ok) {
				showTicket(told);
				if (lost) {			// it was the server or the network, not a stream that does not pass
					follow(mine);
					return;
				}
				wait = told.poll_after_seconds || wait;
			} else if (refused(response.status, told))
				return;
			else
				lost = true;
		} catch (error) {
			lost = true;
		}
		if (lost)
			trouble(true);
		await pause(wait * 1000);
	}
}

async function leave(what)
{
	const path = ticketPath();

	attempt++;
	$('sure').close();
	for (let wait = 1000; ; wait *= 2) {
		try {
			const response = await ask('DELETE', path);

			if (response.ok || response.status === 404 || response.status === 410 || wait > 8000)
				break;
		} catch (error) {
			if (wait > 8000)
				break;
		}
		trouble(true);
		await pause(wait);
	}
	keep('sessionStorage', 'left', true);	// of this tab: a reload is no wish to join
	showEnded(what, true);
	$('again').focus();
}

// ---- the page ----

for (const element of document.querySelectorAll('[data-word]'))
	element.textContent = word[element.dataset.word];
$('room').textContent = room;
$('progress').setAttribute('aria-label', word.progress);
query.set('lang', word.other_lang);
$('language').href = `?${query}`;
$('language').textContent = word.other;
$('language').lang = $('language').hreflang = word.other_lang;
$('leave').addEventListener('click', () => $('sure').showModal());
$('stay').addEventListener('click', () => $('sure').close());
$('really').addEventListener('click', () => leave('left'));
$('finish').addEventListener('click', () => leave('done'));
$('again').addEventListener('click', join);
if (kept('sessionStorage', 'left') === true)
	showEnded('left', true);
else
	join();
