# psycopg 3: every kind of call.  The server is that of PGHOST, PGUSER and so on.
#
#     python psycopg_client.py CAMPAIGN
import os
import sys
import time
import uuid

import psycopg
from psycopg.rows import namedtuple_row

campaign = int(sys.argv[1])
# psycopg prepares a statement that comes for the sixth time, on one connection;
# behind a pooler that gives away the connection, it must not
threshold = None if os.environ.get('POOLER') else 5
again = {'40001', '40P01', '55P03', 'UC007', 'UC020'}
stopped = {'57P01', '57P02'}


def connect():
    return psycopg.connect(autocommit=True, prepare_threshold=threshold, row_factory=namedtuple_row)


def repeat(work):
    """Does all of it again until there is an answer; with a request_key nothing is done twice."""
    global conn
    for wait in (0, 0.1, 0.5, 2, None):
        try:
            if conn.closed:
                conn = connect()
            return work()
        except psycopg.Error as error:
            lost = conn.closed or error.sqlstate in stopped or (
                isinstance(error, psycopg.OperationalError) and (error.sqlstate or '08')[:2] == '08')
            if wait is None or not lost and error.sqlstate not in again:
                raise
            if lost:
                conn.close()
            time.sleep(wait)


def call(sql, *arguments):
    return repeat(lambda: conn.execute(sql, arguments).fetchall())


conn = connect()

first = call('SELECT * FROM coupon_issue(%s, %s, %s)', campaign, 'psycopg', 'click 1')[0]
print('issue', first.status)
retry = call('SELECT * FROM coupon_issue(%s, %s, %s)', campaign, 'psycopg', 'click 1')[0]
print('the same key', retry.status, 'same' if retry.serial == first.serial else 'other')

# the connection is lost, and the call is repeated
try:
    conn.execute('SELECT pg_terminate_backend(pg_backend_pid())')
except psycopg.OperationalError:
    pass
retry = call('SELECT * FROM coupon_issue(%s, %s, %s)', campaign, 'psycopg', 'click 1')[0]
print('a lost connection', retry.status, 'same' if retry.serial == first.serial else 'other')

print('bigint', call('SELECT status FROM coupon_issue(%s, %s)', campaign, 1001)[0].status)
print('uuid', call('SELECT status FROM coupon_issue(%s, %s)', campaign, uuid.uuid4())[0].status)
rows = call('SELECT user_id, status FROM coupon_issue_many(%s, %s)', campaign, ['psycopg a', 'psycopg b'])
print('many', *(row.status for row in rows))
rows = call('SELECT status FROM coupon_issue_many(%s, %s::bigint[]::text[])', campaign, [1002, 1003])
print('many numbers', *(row.status for row in rows))
print('prepared', *{call('SELECT status FROM coupon_issue(%s, %s)', campaign, f'psycopg {n}')[0].status for n in range(10)})

# payment, confirmation and one's own rows are one transaction, which is repeated as a
# whole; the first time this one loses its connection
tries = 0


def pay():
    global tries
    tries += 1
    with conn.transaction():
        hold = conn.execute('SELECT * FROM coupon_hold_any(%s, %s)', (campaign, 'psycopg holds')).fetchone()
        if tries == 1:
            conn.execute('SELECT pg_terminate_backend(pg_backend_pid())')
        paid = conn.execute('SELECT status FROM coupon_confirm(%s, %s, %s, %s)', (campaign, hold.serial, 'psycopg holds', 'payment 1')).fetchone()
    return hold, paid


hold, paid = repeat(pay)
print('hold', hold.status, paid.status)

wish = call('SELECT request_id FROM coupon_request(%s, %s, %s)', campaign, 'psycopg asks', 'click 1')[0].request_id
print('request', call("SELECT outcome FROM coupon_request_wait(%s, '30 s')", wish)[0].outcome)

print('grouped', call('SELECT status FROM coupon_issue_grouped(%s, %s)', campaign, 'psycopg grouped')[0].status)
try:
    with conn.pipeline():
        conn.execute('SELECT * FROM coupon_issue_grouped(%s, %s)', (campaign, 'batched'))
        conn.execute('SELECT 1')
except psycopg.Error as error:
    print('grouped in a pipeline', error.sqlstate)
