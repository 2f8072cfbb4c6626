# asyncpg: every kind of call.  The server is that of PGHOST, PGUSER and so on.
#
#     python asyncpg_client.py CAMPAIGN
import asyncio
import os
import sys
import uuid

import asyncpg

campaign = int(sys.argv[1])


async def main():
    # asyncpg prepares every statement and keeps it; behind a pooler that gives
    # away the connection, it must not
    pool = await asyncpg.create_pool(min_size=1, max_size=1, statement_cache_size=0 if os.environ.get('POOLER') else 100)

    # asyncpg asks the server for the types of parameters, and takes no others: a
    # user is a text unless a cast says otherwise
    first = await pool.fetchrow('SELECT * FROM coupon_issue($1, $2, $3)', campaign, 'asyncpg', 'click 1')
    print('issue', first['status'])
    retry = await pool.fetchrow('SELECT * FROM coupon_issue($1, $2, $3)', campaign, 'asyncpg', 'click 1')
    print('the same key', retry['status'], 'same' if retry['serial'] == first['serial'] else 'other')
    print('bigint', await pool.fetchval('SELECT status FROM coupon_issue($1, $2::bigint)', campaign, 2001))
    print('uuid', await pool.fetchval('SELECT status FROM coupon_issue($1, $2::uuid)', campaign, uuid.uuid4()))
    rows = await pool.fetch('SELECT status FROM coupon_issue_many($1, $2)', campaign, ['asyncpg a', 'asyncpg b'])
    print('many', *(row['status'] for row in rows))
    rows = await pool.fetch('SELECT status FROM coupon_issue_many($1, $2::bigint[]::text[])', campaign, [2002, 2003])
    print('many numbers', *(row['status'] for row in rows))
    statuses = {await pool.fetchval('SELECT status FROM coupon_issue($1, $2)', campaign, f'asyncpg {n}') for n in range(10)}
    print('prepared', *statuses)

    async with pool.acquire() as conn, conn.transaction():
        hold = await conn.fetchrow('SELECT * FROM coupon_hold_any($1, $2)', campaign, 'asyncpg holds')
        paid = await conn.fetchval('SELECT status FROM coupon_confirm($1, $2, $3, $4)', campaign, hold['serial'], 'asyncpg holds', 'payment 1')
    print('hold', hold['status'], paid)

    wish = await pool.fetchval('SELECT request_id FROM coupon_request($1, $2, $3)', campaign, 'asyncpg asks', 'click 1')
    print('request', await pool.fetchval("SELECT outcome FROM coupon_request_wait($1, '30 s')", wish))

    print('grouped', await pool.fetchval('SELECT status FROM coupon_issue_grouped($1, $2)', campaign, 'asyncpg grouped'))
    try:
        # one transaction for all of them
        await pool.executemany('SELECT coupon_issue_grouped($1, $2)', [(campaign, 'batched'), (campaign, 'batched too')])
    except asyncpg.PostgresError as error:
        print('grouped in a batch', error.sqlstate)
    await pool.close()


asyncio.run(main())
