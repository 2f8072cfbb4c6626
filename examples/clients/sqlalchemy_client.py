# SQLAlchemy: every kind of call.  The server is that of PGHOST, PGUSER and so on.
#
#     python sqlalchemy_client.py CAMPAIGN
import os
import sys
import uuid

from sqlalchemy import create_engine, func, select, text
from sqlalchemy.exc import DBAPIError

campaign = int(sys.argv[1])
engine = create_engine('postgresql+psycopg://', connect_args={'prepare_threshold': None} if os.environ.get('POOLER') else {})
# SQLAlchemy begins a transaction with the first statement, unless it is told otherwise
autocommit = engine.execution_options(isolation_level='AUTOCOMMIT')

issue = text('SELECT * FROM coupon_issue(:campaign, :user, :key)')

with autocommit.connect() as conn:
    def call(user, key=None):
        return conn.execute(issue, {'campaign': campaign, 'user': user, 'key': key}).one()

    first = call('sqlalchemy', 'click 1')
    print('issue', first.status)
    retry = call('sqlalchemy', 'click 1')
    print('the same key', retry.status, 'same' if retry.serial == first.serial else 'other')
    print('bigint', call(3001).status)
    print('uuid', call(uuid.uuid4()).status)
    rows = conn.execute(text('SELECT status FROM coupon_issue_many(:campaign, :users)'), {'campaign': campaign, 'users': ['sqlalchemy a', 'sqlalchemy b']})
    print('many', *(row.status for row in rows))
    rows = conn.execute(text('SELECT status FROM coupon_issue_many(:campaign, CAST(CAST(:users AS bigint[]) AS text[]))'), {'campaign': campaign, 'users': [3002, 3003]})
    print('many numbers', *(row.status for row in rows))
    print('prepared', *{call(f'sqlalchemy {n}').status for n in range(10)})

# payment, confirmation and one's own rows are one transaction; a function as a table
with engine.begin() as conn:
    held = func.coupon_hold_any(campaign, 'sqlalchemy holds').table_valued('status', 'serial')
    hold = conn.execute(select(held)).one()
    paid = conn.execute(text('SELECT status FROM coupon_confirm(:c, :s, :u, :r)'), {'c': campaign, 's': hold.serial, 'u': 'sqlalchemy holds', 'r': 'payment 1'}).one()
print('hold', hold.status, paid.status)

with autocommit.connect() as conn:
    wish = conn.execute(text("SELECT request_id FROM coupon_request(:c, 'sqlalchemy asks', 'click 1')"), {'c': campaign}).scalar_one()
    print('request', conn.execute(text("SELECT outcome FROM coupon_request_wait(:w, '30 s')"), {'w': wish}).scalar_one())
    print('grouped', conn.execute(text("SELECT status FROM coupon_issue_grouped(:c, 'sqlalchemy grouped')"), {'c': campaign}).scalar_one())

try:
    with engine.connect() as conn:
        conn.execute(text("SELECT * FROM coupon_issue_grouped(:c, 'batched')"), {'c': campaign})
except DBAPIError as error:
    print('grouped in a transaction', error.orig.sqlstate)
