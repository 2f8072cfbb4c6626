// node-postgres: every kind of call. The server is that of PGHOST, PGUSER and so on.
//
//     node node_postgres.js CAMPAIGN
const { randomUUID } = require('node:crypto')
const { Pool } = require('pg')

const campaign = process.argv[2]
// behind a pooler that gives away the connection, statements must not have names
const name = process.env.POOLER ? undefined : 'issue'

async function main() {
	const pool = new Pool({ max: 2 })
	// bigint comes as text: serials are below 2^53
	const issue = async (user, key) => (await pool.query({
		name, text: 'SELECT * FROM coupon_issue($1, $2, $3)', values: [campaign, user, key] })).rows[0]
	const all = async (text, values) => (await pool.query(text, values)).rows

	const first = await issue('node', 'click 1')
	console.log('issue', first.status)
	const retry = await issue('node', 'click 1')
	console.log('the same key', retry.status, retry.serial === first.serial ? 'same' : 'other')
	// numbers are sent as text, and so are UUIDs: of each user write one form only
	console.log('bigint', (await issue(4001)).status)
	console.log('uuid', (await issue(randomUUID())).status)
	console.log('many', ...(await all('SELECT status FROM coupon_issue_many($1, $2)', [campaign, ['node a', 'node b']])).map(row => row.status))
	console.log('many numbers', ...(await all('SELECT status FROM coupon_issue_many($1, $2)', [campaign, [4002, 4003]])).map(row => row.status))
	const statuses = new Set()
	for (let n = 0; n < 10; n++)
		statuses.add((await issue(`node ${n}`)).status)
	console.log('prepared', ...statuses)

	// payment, confirmation and one's own rows are one transaction, on one client
	const client = await pool.connect()
	try {
		await client.query('BEGIN')
		const hold = (await client.query('SELECT * FROM coupon_hold_any($1, $2)', [campaign, 'node holds'])).rows[0]
		const paid = (await client.query('SELECT status FROM coupon_confirm($1, $2, $3, $4)', [campaign, hold.serial, 'node holds', 'payment 1'])).rows[0]
		await client.query('COMMIT')
		console.log('hold', hold.status, paid.status)
		client.release()
	} catch (error) {
		// the pool closes it, which rolls back
		client.release(error)
		throw error
	}

	const wish = (await all('SELECT request_id FROM coupon_request($1, $2, $3)', [campaign, 'node asks', 'click 1']))[0].request_id
	console.log('request', (await all("SELECT outcome FROM coupon_request_wait($1, '30 s')", [wish]))[0].outcome)

	console.log('grouped', (await all('SELECT status FROM coupon_issue_grouped($1, $2)', [campaign, 'node grouped']))[0].status)
	try {
		// several statements in a string are one transaction
		await pool.query(`SELECT coupon_issue_grouped(${Number(campaign)}, 'batched'); SELECT 1`)
	} catch (error) {
		console.log('grouped in a batch', error.code)
	}
	await pool.end()
}

main().catch(error => { console.error(error); process.exitCode = 1 })
