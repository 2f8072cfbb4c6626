/*
 * browse.js URL [DIRECTORY]
 *
 * Looks at the pages of a front in Chromium while a sale runs: campaign 1, and
 * the room "hall", which lets one in.  Prints a line "ok WHAT" or "not ok WHAT"
 * for each check; with a directory also pictures of what it saw.
 * The front may be called without a token, for any user; the environment's TOKEN,
 * if it is not empty, is one of the user "signed-in".
 */
'use strict';

const path = require('path');
const tools = path.join(__dirname, '..', '..', 'tmp_pages', 'node_modules');
const { chromium } = require(path.join(tools, 'playwright-core'));
const axe = require.resolve(path.join(tools, 'axe-core', 'axe.min.js'));

const [url, pictures] = process.argv.slice(2);
const PATIENCE = 1000 * Number(process.env.PG_TEST_TIMEOUT_DEFAULT || 180);
const sizes = { phone: { width: 360, height: 740 }, desktop: { width: 1280, height: 900 } };
const told = [];				// by the browser's console, and refused by the policy

function check(is, what, why)
{
	console.log(`${is ? 'ok' : 'not ok'} ${what}`);
	if (!is && why !== undefined)
		console.log(`# ${JSON.stringify(why).slice(0, 3000)}`);
}

async function call(method, where, body)
{
	const response = await fetch(url + where, {
		method, headers: { 'Content-Type': 'application/json' }, body: body === undefined ? undefined : JSON.stringify(body) });

	return response.status === 204 ? null : response.json();
}

async function until(what, f)
{
	const deadline = Date.now() + PATIENCE;

	for (;;) {
		const is = await f();

		if (is)
			return is;
		if (Date.now() > deadline) {
			check(false, what, 'it did not come');
			throw new Error(`timed out: ${what}`);
		}
		await new Promise(resolve => setTimeout(resolve, 100));
	}
}

async function open(browser, where, { lang = 'en', scheme = 'light', size = 'desktop' } = {})
{
	const context = await browser.newContext({ locale: lang === 'ko' ? 'ko-KR' : 'en-US', colorScheme: scheme, viewport: sizes[size], reducedMotion: 'reduce' });
	const page = await context.newPage();

	page.setDefaultTimeout(PATIENCE);
	page.on('console', message => {
		if (message.type() === 'error' && !/status of (400|410|503)/.test(message.text()))
			told.push(message.text());
	});
	page.on('pageerror', error => told.push(String(error)));
	await page.goto(url + where);
	return page;
}

// closes it, whatever its answers to requests are about
async function closePage(page)
{
	await page.unrouteAll({ behavior: 'ignoreErrors' });
	await page.context().close();
}

async function findings(page)
{
	// as an extension would: the page's own policy lets no foreign script in
	const session = await page.context().newCDPSession(page);
	const script = require('fs').readFileSync(axe, 'utf8');

	await session.send('Runtime.evaluate', { expression: script });
	const { result } = await session.send('Runtime.evaluate', {
		expression: 'axe.run(document, {resultTypes: ["violations"]}).then(r => JSON.stringify(r.violations.map(v => [v.id, v.nodes.map(n => n.html + " " + n.failureSummary)])))',
		awaitPromise: true, returnByValue: true });

	return JSON.parse(result.value);
}

async function inspect(page, name)
{
	const found = await findings(page);
	const sideways = await page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);

	check(found.length === 0, `axe finds nothing: ${name}`, found);
	check(!sideways, `nothing stands out to the side: ${name}`);
	if (pictures)
		await page.screenshot({ path: path.join(pictures, `${name.replace(/\W+/g, '-')}.png`), fullPage: true });
}

const text = (page, id) => page.locator(`#${id}`).textContent();
const shown = (page, id) => page.locator(`#${id}`).isVisible();

// ---- the waiting room ----

async function visitRoom(browser)
{
	const first = await call('POST', '/rooms/hall/tickets', { user_id: 'first' });

	await until('the first is admitted', async () => (await call('GET', `/rooms/hall/tickets/${first.token}`)).status === 'admitted');
	// one page for each of the ways to look, all in line
	const pages = [];
	for (const [lang, scheme, size] of [['en', 'light', 'desktop'], ['ko', 'dark', 'phone'], ['ko', 'light', 'desktop'], ['en', 'dark', 'phone']]) {
		const page = await open(browser, `/rooms/hall?return=${encodeURIComponent('/board?campaign=1')}#user=${lang}-${scheme}`, { lang, scheme, size });

		await until('a place in line', () => shown(page, 'waiting'));
		pages.push([page, `room waiting ${lang} ${scheme} ${size}`]);
	}
	const [page] = pages[0];
	check(await text(page, 'position') === '1', 'the first page is next');
	await until('those behind are counted', async () => await text(page, 'behind') === '3');
	check(true, 'the page tells how many are behind');
	await until('Korean', async () => await text(pages[1][0], 'position') === '2' && await text(pages[1][0], 'ahead') === '1명');
	check(await pages[1][0].evaluate(() => document.documentElement.lang) === 'ko' &&
		/순서를 기다리고/.test(await text(pages[1][0], 'headline')), 'Korean, by Accept-Language');
	check(!/#/.test(page.url()) && !/user/.test(page.url()), 'who the visitor is does not stay in the address');
	for (const [one, name] of pages)
		await inspect(one, name);

	// by keyboard alone: to the button, and back out of the question
	await page.keyboard.press('Tab');
	check(await page.evaluate(() => document.activeElement.id) === 'leave', 'Tab reaches the button');
	await page.keyboard.press('Enter');
	check(await shown(page, 'sure'), 'leaving is asked about');
	await inspect(page, 'room leaving en light desktop');
	await page.keyboard.press('Escape');
	check(!await shown(page, 'sure') && await shown(page, 'waiting'), 'Escape stays in line');

	// a reload keeps the place
	await page.reload();
	await until('the place after a reload', async () => await shown(page, 'waiting') && await text(page, 'position') === '1');
	check(true, 'a reload keeps the place');

	// the first goes: the next is let in, by the stream
	await call('DELETE', `/rooms/hall/tickets/${first.token}`);
	await until('admission', () => shown(page, 'admitted'));
	const link = new URL(await page.locator('#go').getAttribute('href'));
	check(link.origin === url && link.pathname === '/board' && /^#ticket=\d+\.\d+\.[0-9a-f]{32}$/.test(link.hash), 'the way in, with the ticket', link.href);
	check(/your turn/.test(await text(page, 'headline')) && /your turn/.test(await page.title()) && /your turn/.test(await text(page, 'said')), 'the turn is told, and said');
	await inspect(page, 'room admitted en light desktop');

	// leaving in Korean
	const korean = pages[1][0];
	await until('the one behind moves up', async () => await text(korean, 'position') === '1');
	check(true, 'those behind move up');
	await korean.locator('#leave').click();
	await inspect(korean, 'room leaving ko dark phone');
	await korean.locator('#really').click();
	await until('the end', () => shown(korean, 'ended'));
	check(/나갔습니다/.test(await text(korean, 'headline')), 'one who leaves is told so');
	await inspect(korean, 'room left ko dark phone');
	await korean.reload();
	check(await shown(korean, 'ended'), '  and is not in line again by a reload');

	// the same browser, by the shop's link: somebody else, or the next sale
	const later = await korean.context().newPage();
	await later.goto(`${url}/rooms/lobby#user=later`);
	await until('admission', () => shown(later, 'admitted'));
	await later.locator('#finish').click();
	await until('the end', () => shown(later, 'ended'));
	await later.goto(`${url}/rooms/lobby?again#user=another`);
	await until('somebody else', () => shown(later, 'admitted'));
	check(true, '  but by the shop\'s link');
	await later.close();
	await korean.locator('#again').click();
	await until('in line again', () => shown(korean, 'waiting'));
	check(await text(korean, 'position') === '3', '  but by their own wish, at the end', await text(korean, 'position'));

	// a session that ends elsewhere: the page says so, and the next is let in
	await call('DELETE', `/rooms/hall/tickets/${new URLSearchParams(link.hash.slice(1)).get('ticket')}`);
	await until('the end of the session', () => shown(page, 'ended'));
	check(/has ended/.test(await text(page, 'headline')), 'a session that has ended is told of');
	await until('the next', () => shown(pages[2][0], 'admitted'));
	check(true, '  and the next is let in');
	for (const [one] of pages)
		await closePage(one);
}

async function visitWithoutStream(browser)
{
	const page = await browser.newPage();
	let asked = 0;

	page.setDefaultTimeout(PATIENCE);
	await page.route('**/rooms/hall/tickets/*', route => {
		if (/event-stream/.test(route.request().headers().accept))
			return route.abort();
		asked++;
		return route.continue();
	});
	await page.goto(`${url}/rooms/hall?return=https://example.com/`);
	await until('asking', async () => asked > 1 && (await shown(page, 'waiting') || await shown(page, 'admitted')));
	check(true, 'where no stream comes through it asks');
	check(/^visitor-[0-9a-f]{32}$/.test(JSON.parse(await page.evaluate(() => Object.entries(localStorage).find(([k]) => / user$/.test(k))[1]))),
		'a visitor whom nobody names gets a name');
	await closePage(page);
}

// the first event of a stream: what nothing new is told after
async function firstEvent(ticket)
{
	const controller = new AbortController();
	const response = await fetch(`${url}/rooms/quiet/tickets/${ticket}`, { headers: { Accept: 'text/event-stream' }, signal: controller.signal });
	let text = '';

	for await (const bytes of response.body) {
		text += Buffer.from(bytes).toString();
		if (/^id: [^]*\n\n$/m.test(text))
			break;
	}
	controller.abort();
	return text;
}

// the network goes and comes back, in a room in which nothing happens
async function visitDisturbed(browser)
{
	const { token } = await call('POST', '/rooms/quiet/tickets', { user_id: 'disturbed' });
	const told = await firstEvent(token);
	const page = await browser.newPage();
	let down = false;			// the network, or the server
	let swallowed = 0;			// requests that are never answered
	let joins = 0, streams = 0, polls = 0;

	page.setDefaultTimeout(PATIENCE);
	// the first time it has no patience
	await page.addInitScript('{ const wait = window.setTimeout; let n = 0; window.setTimeout = (f, ms) => wait(f, ms === 25000 && n++ === 0 ? 1000 : ms); }');
	await page.route('**/rooms/quiet/tickets', route => {
		if (++joins > 1)
			return route.continue();
		swallowed++;			// and not answered
	});
	await page.route('**/rooms/quiet/tickets/*', route => {
		const streaming = /event-stream/.test(route.request().headers().accept);

		streaming ? streams++ : polls++;
		if (streams === 1)		// a stream that is cut
			return route.fulfill({ status: 200, contentType: 'text/event-stream', body: told });
		return down || streams === 2 ? route.abort() : route.continue();
	});
	await page.goto(`${url}/rooms/quiet#user=disturbed`);
	await until('a second try to join', () => shown(page, 'waiting'));
	check(swallowed === 1, 'who is not answered asks again');
	await until('the end of a disturbance', async () => streams > 2 && await text(page, 'trouble') === '');
	check(await text(page, 'position') === '1' && polls === 0, 'a disturbance that is over is not told of any more, though nothing is new');

	down = true;
	await page.reload();
	await until('asking', () => polls > 0);
	check(/disturbed/.test(await text(page, 'trouble')), 'where no answer comes the page says so');
	down = false;
	const before = streams;
	await until('a stream again', () => streams > before);
	await until('the end of that', async () => await text(page, 'trouble') === '');
	check(true, '  and comes back to its stream');
	await closePage(page);
}

// with a token nobody needs to be named, and without one that is needed nobody is
async function visitWithToken(browser)
{
	if (process.env.TOKEN)
	{
		const page = await open(browser, `/rooms/lobby#token=${process.env.TOKEN}`);

		await until('admission by a token', () => shown(page, 'admitted'));
		check(!page.url().includes('#') && !await page.evaluate(t => JSON.stringify({ ...localStorage }).includes(t), process.env.TOKEN), 'the token is in no address and in nothing that stays');
		await closePage(page);
	}

	const stranger = await (await browser.newContext({ locale: 'ko-KR' })).newPage();
	await stranger.route('**/tickets', route => route.fulfill({ status: 401, contentType: 'application/problem+json', body: '{"code":"token"}' }));
	await stranger.goto(`${url}/rooms/lobby`);
	await until('who is not signed in', () => shown(stranger, 'ended'));
	check(/로그인/.test(await text(stranger, 'headline')) && !await shown(stranger, 'again'), 'who is not signed in is told so');
	await closePage(stranger);
}

// the way out is of this origin, or there is none
async function visitReturns(browser)
{
	await call('POST', '/rooms/lobby/tickets', { user_id: 'returns' });
	for (const target of ['https://example.com/', '//example.com/', 'javascript:alert(1)', '/\\example.com', 'data:text/html,x', 'http://x@example.com', '']) {
		const page = await open(browser, `/rooms/lobby?return=${encodeURIComponent(target)}#user=returns`);

		await until('admission', () => shown(page, 'admitted'));
		check(!await shown(page, 'go'), `there is no way to ${target || 'nowhere'}`);
		await closePage(page);
	}
	const allowed = await open(browser, `/rooms/lobby?return=${encodeURIComponent('https://shop.example/in')}#user=returns`);
	await until('admission', () => shown(allowed, 'admitted'));
	check(await shown(allowed, 'go') && /^https:\/\/shop\.example\/in#ticket=/.test(await allowed.locator('#go').getAttribute('href')), '  but to an origin that may call');
	await closePage(allowed);
	const nowhere = await open(browser, '/rooms/nowhere', { lang: 'ko' });
	await until('no such room', () => shown(nowhere, 'ended'));
	check(/없는 대기실/.test(await text(nowhere, 'headline')), 'a room that is not there');
	told.splice(0, told.length, ...told.filter(line => !/status of 404/.test(line)));
	await closePage(nowhere);
}

// ---- the board ----

async function watchBoard(browser)
{
	const looks = [['en', 'light', 'desktop'], ['ko', 'dark', 'desktop'], ['en', 'dark', 'phone'], ['ko', 'light', 'phone']];
	const pages = [];
	let user = 0;
	let selling = true;

	const sale = (async () => {
		while (selling)
			await Promise.all(Array.from({ length: 8 }, () => call('POST', '/campaigns/1/issues', { user_id: `buyer-${user++ % 3 ? user : 'again'}` })));
	})();
	for (const [lang, scheme, size] of looks)
		pages.push([await open(browser, '/board', { lang, scheme, size }), `board ${lang} ${scheme} ${size}`]);
	const [page] = pages[0];
	const left = async () => Number((await text(page, 'remaining')).replace(/\D/g, ''));

	await until('the board', async () => /\d/.test(await text(page, 'remaining')));
	const before = await left();
	await until('the stock runs down', async () => await left() < before);
	check(true, 'the stock runs down');
	await until('rates', async () => Number(await text(page, 'issued-rate')) > 0 && Number((await text(page, 'answer-rate')).replace(/\D/g, '')) > 0);
	check(true, 'issued and answers per second');
	await until('percentiles', async () => /\d ms/.test(await text(page, 'p95')) && /p50 .*p99 /.test(await text(page, 'p50-p99')));
	check(true, 'p50, p95, p99');
	await until('curves', async () => await page.locator('#stock-chart .curve').count() > 0 && await page.locator('#time-chart .curve').count() === 3);
	check(true, 'curves are drawn');
	check(await page.locator('#lamps li').count() === 6, 'six alerts');
	check(/이미 발급/.test(await pages[1][0].locator('.charts').textContent()) && await pages[1][0].title() === '실시간 현황판', 'the board in Korean');
	check((await page.locator('#workers').textContent()).includes('front'), 'the workers');
	check((await page.locator('#rooms').textContent()).includes('hall'), 'the rooms');
	if (pictures)
		await new Promise(resolve => setTimeout(resolve, 15000));	// so that there is something to see
	for (const [one, name] of pages)
		await inspect(one, name);

	// one campaign: another one, which nobody wants
	await page.locator('#campaign').selectOption('2');
	await until('one campaign', async () => await text(page, 'remaining') === '7');
	check(true, 'one campaign alone');
	selling = false;
	await sale;
	for (const [one] of pages)
		await closePage(one);
}

// alerts that are lit, by a board.json that is worse than the real one
async function watchAlerts(browser)
{
	for (const [lang, scheme] of [['en', 'light'], ['ko', 'dark']]) {
		const context = await browser.newContext({ locale: lang === 'ko' ? 'ko-KR' : 'en-US', colorScheme: scheme, viewport: sizes.phone });
		const page = await context.newPage();
		let asked = 0;

		page.setDefaultTimeout(PATIENCE);
		await page.route('**/board.json', async route => {
			const response = await route.fetch();
			const board = await response.json();

			asked++;
			board.outbox = { ...board.outbox, has_broker: true, unpublished: asked > 2 ? 20000 : 10, failing: asked > 2, oldest_seconds: 90 };
			board.http.answers[500] = 10 * asked;
			board.http.answers[200] = 1000 + 500 * asked;
			board.sessions.open = board.sessions.max * 0.75;
			await route.fulfill({ response, json: board });
		});
		await page.goto(`${url}/board`);
		await until('an alert', async () => await page.locator('#lamps .critical').count() === 2);
		check(await page.locator('#lamps .warning').count() === 2, `warnings are told from what is critical: ${lang}`, await page.locator('#lamps').innerHTML());
		check(/\S/.test(await text(page, 'said')), `  and what has become worse is said: ${lang}`);
		await inspect(page, `board alerts ${lang} ${scheme} phone`);
		await closePage(page);
	}
}

(async () => {
	const browser = await chromium.launch({
		executablePath: process.env.CHROMIUM || '/usr/bin/chromium', timeout: PATIENCE,
		args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu'] });

	try {
		await visitRoom(browser);
		await visitWithoutStream(browser);
		await visitWithToken(browser);
		await visitReturns(browser);
		await Promise.all([watchBoard(browser), visitDisturbed(browser)]);
		await watchAlerts(browser);
		check(told.length === 0, 'the browser has nothing to complain of', told);
	} finally {
		await browser.close();
	}
	console.log('done');
})().catch(error => {
	console.log(`not ok ${error.message}`);
	process.exitCode = 1;
});
