"""A session: it calls, writes down what it was told, and comes again."""
import itertools
import json
import random
import http.client
import threading
import time

import pq

from contextlib import contextmanager
from history import ABORTED, COMMITTED, UNKNOWN, trace

# way -> the statement, the names of its arguments
FUNCTIONS = {
    'issue': ('SELECT user_id, status, serial FROM coupon_issue($1::bigint, $2::text, $3::text)', 'campaign user key'),
    'grouped': ('SELECT user_id, status, serial FROM coupon_issue_grouped($1::bigint, $2::text, $3::text)', 'campaign user key'),
    'many': ('SELECT user_id, status, serial FROM coupon_issue_many($1::bigint, $2::text[], $3::text[])', 'campaign users keys'),
    'attempt': ('SELECT user_id, status, serial FROM chaos_attempt($1::bigint, $2::text, $3::boolean)', 'campaign user fail'),
    'hold': ('SELECT user_id, status, serial, held_until FROM coupon_hold($1::bigint, $2::bigint, $3::text, $4::interval, $5::text)',
             'campaign serial user ttl key'),
    'hold_many': ('SELECT user_id, status, serial, held_until FROM coupon_hold_many($1::bigint, $2::bigint[], $3::text, $4::interval, $5::text)',
                  'campaign serials user ttl key'),
    'hold_any': ('SELECT user_id, status, serial, held_until FROM coupon_hold_any($1::bigint, $2::text, $3::interval, $4::text)',
                 'campaign user ttl key'),
    'confirm': ('SELECT user_id, status, serial FROM coupon_confirm($1::bigint, $2::bigint, $3::text, $4::text)', 'campaign serial user ref'),
    'release': ('SELECT coupon_release($1::bigint, $2::bigint, $3::text)', 'campaign serial user'),
    'redeem': ('SELECT user_id, status, serial, order_ref FROM coupon_redeem($1::bigint, $2::text, $3::text)', 'campaign user order'),
    'cancel': ('SELECT user_id, status, serial, order_ref FROM coupon_redeem_cancel($1::bigint, $2::text, $3::text)', 'campaign user order'),
    'revoke': ("SELECT coupon_revoke($1::bigint, $2::text, 'chaos')", 'campaign user'),
    'add_stock': ('SELECT coupon_campaign_add_stock($1::bigint, $2::bigint)', 'campaign units'),
    'reduce': ('SELECT coupon_campaign_reduce_stock($1::bigint, $2::bigint)', 'campaign units'),
    'withdraw': ('SELECT coupon_units_withdraw($1::bigint, $2::bigint[])', 'campaign serials'),
    'alter': ('SELECT coupon_campaign_alter($1::bigint, per_user_limit => $2::int)', 'campaign limit'),
    'put_off': ('SELECT coupon_campaign_alter($1::bigint, opens_at => $2::timestamptz)', 'campaign opens_at'),
    'import': ('SELECT coupon_codes_import($1::bigint, $2::text[])', 'campaign codes'),
    'drop': ('CALL coupon_campaign_drop($1::bigint)', 'campaign'),
    'archive': ("CALL coupon_campaign_archive($1::bigint, 'chaos_archive')", 'campaign'),
    'erase': ('SELECT issuances, waiting FROM coupon_user_erase($1::text)', 'user'),
    'room_alter': ('SELECT coupon_room_alter($1::text, capacity => $2::int)', 'room capacity'),
    'room_pause': ('SELECT coupon_room_pause($1::text)', 'room'),
    'room_resume': ('SELECT coupon_room_resume($1::text)', 'room'),
    'pause': ('SELECT coupon_campaign_pause($1::bigint)', 'campaign'),
    'resume': ('SELECT coupon_campaign_resume($1::bigint)', 'campaign'),
    'close': ('SELECT coupon_campaign_close($1::bigint)', 'campaign'),
    'request': ('SELECT request_id, status, outcome, queue_position, (issuance).serial, repeated FROM coupon_request($1::bigint, $2::text, $3::text)',
                'campaign user key'),
    'request_status': ('SELECT request_id, status, outcome, queue_position, (issuance).serial FROM coupon_request_status($1::uuid)', 'request'),
    'request_wait': ('SELECT request_id, status, outcome, queue_position, (issuance).serial FROM coupon_request_wait($1::uuid, $2::interval)',
                     'request timeout'),
    'join': ('SELECT token, status, queue_position FROM coupon_queue_join($1::text, $2::text)', 'room user'),
    'position': ('SELECT token, status, queue_position FROM coupon_queue_position($1::text)', 'token'),
    'leave': ("SELECT coupon_queue_leave($1::text, 'chaos')", 'token'),
    'emit': ("SELECT coupon_emit('own-events', $1::text, 'chaos.own', jsonb_build_object('n', $2::bigint))", 'key n'),
    'status': ('SELECT stock, issued, held, in_flight, remaining FROM coupon_status($1::bigint)', 'campaign'),
}

# what an ERROR of a grouped call leaves open; of all others it means that nothing was done
GROUPED_UNKNOWN = ('57014', '40003', '08')
ids = itertools.count(1)


class Stop(Exception):
    """The round is over."""


class Session(threading.Thread):
    scope = 'SESSION'
    pooled = False
    keyed = True                    # whether calls may have a key

    def __init__(self, number, round):
        super().__init__(daemon=True, name=f'session {number}')
        self.number, self.round, self.writer = number, round, round.writer
        self.random = random.Random(f'{round.seed}/{number}')
        self.connection = self.front = None
        self.open = None            # the steps of the open transaction
        self.since = None           # when the call began that runs
        self.running = None         # which it is, for others to do the same
        self.memory = {}            # what ways want to come back to, by name
        self.crash = None

    # ---- life ----

    def run(self):
        try:
            while not self.round.over:
                self.round.pace()
                try:
                    self.round.choose_way(self.random)(self)
                except (pq.Failed, pq.Lost, OSError, http.client.HTTPException):
                    pass            # it is written down
                except Stop:
                    break
        except BaseException as error:      # a mistake of the harness, which must not pass for silence
            self.crash = error
            raise
        finally:
            self.leave()

    def connect(self):
        while self.connection is None:
            if self.round.over:
                raise Stop
            try:
                self.connection = pq.Connection(self.conninfo())
            except pq.Lost:
                time.sleep(0.02)

    def waits_for(self):
        return f'{self.running or "an answer"} of backend {self.connection.pid() if self.connection else None}'

    def conninfo(self):
        return self.round.servers.primary.conninfo()

    def leave(self):
        for connection in filter(None, (self.connection, self.front)):
            connection.close()
        self.connection = self.front = None

    # ---- choices ----

    def pick(self, *kinds):
        """A campaign of one of these kinds."""
        return self.random.choice(self.round.ids[self.random.choice(kinds)])

    def next_number(self):
        self.number_of_events = getattr(self, 'number_of_events', 0) + 1
        return self.number_of_events

    # ---- calls ----

    def call(self, way, **args):
        """A call by itself, or a step of the open transaction.  Returns its rows."""
        return self.transact([(way, args)]) if self.open is None else self.step(way, args)

    def transact(self, calls):
        """One statement in autocommit mode."""
        (way, args), = calls
        self.connect()
        steps = []
        end = UNKNOWN
        try:
            rows = self.step(way, args, steps)
            end = UNKNOWN if self.connection.sync_was_given_up() else COMMITTED
            return rows
        except pq.Failed as error:
            end = UNKNOWN if way == 'grouped' and error.sqlstate.startswith(GROUPED_UNKNOWN) else ABORTED
            raise
        finally:
            self.record(steps, end)

    def abandon(self, way, **args):
        """Asks, and is gone before there is an answer."""
        self.connect()
        sql, values = self.statement(way, args)
        step = {'id': next(ids), 'way': way, **args, 'start': time.monotonic()}
        try:
            self.connection.query(f"SET {self.scope} coupon.traceparent = '{trace(step['id'])}'")
            self.connection.send_and_leave(sql, values)
        finally:
            step['stop'] = time.monotonic()
            self.leave()
            self.record([step], UNKNOWN)

    @staticmethod
    def statement(way, args):
        sql, names = FUNCTIONS[way]
        return sql, [pq.array(args[name]) if isinstance(args.get(name), list) else args.get(name) for name in names.split()]

    def step(self, way, args, steps=None):
        sql, values = self.statement(way, args)
        steps = self.open if steps is None else steps
        step = {'id': self.named(args) or next(ids), 'way': way, **args}
        self.running = (way, args)
        step['start'] = step['stop'] = self.since = time.monotonic()
        steps.append(step)
        try:
            if not self.named(args):
                self.connection.query(f"SET {self.scope} coupon.traceparent = '{trace(step['id'])}'")
            step['rows'] = self.connection.query(sql, values)
            if args.get('fail'):
                step['undone'] = True
            self.learn(way, args, step['rows'])
            return step['rows']
        except pq.Failed as error:
            step['error'] = error.sqlstate
            self.round.note_error(error, way)
            raise
        except pq.Lost:
            self.leave()
            raise
        finally:
            step['stop'] = time.monotonic()
            self.since = self.running = None

    def learn(self, way, args, rows):
        """Who has what there is little of, so that they can give it back."""
        units = self.memory.setdefault('units', [])
        units += [(args['campaign'], row[0]) for row in rows if args.get('campaign') in self.round.scarce and len(row) > 2 and row[1] in ('issued', 'confirmed')]
        del units[:-50]

    @staticmethod
    def named(args):
        """The number of a call that its user is named after, in place of a trace."""
        return None

    def record(self, steps, end):
        if steps:
            self.writer.write({'session': self.number, 'end': end, 'start': steps[0]['start'], 'done': time.monotonic(), 'steps': steps})
        if end == UNKNOWN:
            # who does not know asks again
            self.memory.setdefault('unknown', []).extend(
                (step['way'], {name: value for name, value in step.items() if name not in ('id', 'way', 'start', 'stop', 'rows', 'error', 'undone')})
                for step in steps)

    @contextmanager
    def transaction(self, isolation='READ COMMITTED', fate='commit'):
        """An open transaction, which ends by its fate: commit, rollback, or the
        client goes away before, during or after the COMMIT."""
        self.connect()
        steps, end = [], ABORTED
        self.committing = False
        try:
            self.connection.query(f'BEGIN ISOLATION LEVEL {isolation}')
            self.open = steps
            yield
            end = self.finish(fate)
        except pq.Failed:
            end = ABORTED
            if self.connection:
                try:
                    self.connection.query('ROLLBACK')
                except (pq.Lost, pq.Failed):
                    self.leave()
            raise
        except pq.Lost:
            end = UNKNOWN if self.committing else ABORTED
            self.leave()
            raise
        finally:
            self.open = None
            self.record(steps, end)

    def finish(self, fate):
        if fate == 'rollback':
            self.connection.query('ROLLBACK')
            return ABORTED
        if fate == 'leave before':
            self.leave()
            return ABORTED
        self.committing = True
        if fate == 'leave during':
            self.connection.send_and_leave('COMMIT')
            self.connection = None
            return UNKNOWN
        self.connection.query('COMMIT')
        end = COMMITTED if self.connection.tag == 'COMMIT' else ABORTED
        if self.connection.sync_was_given_up():
            end = UNKNOWN
        if fate == 'leave after':
            self.leave()
        return end

    @contextmanager
    def savepoint(self, keep):
        """What is done in it stays, or is undone."""
        before = len(self.open)
        self.connection.query('SAVEPOINT s')
        yield
        self.connection.query('RELEASE s' if keep else 'ROLLBACK TO s')
        if not keep:
            for step in self.open[before:]:
                step['undone'] = True

    # ---- HTTP ----

    def http(self, way, method, path, body=None, key=None, **args):
        """A call to the front, as a transaction of one step."""
        step = {'id': next(ids), 'way': way, **args}
        if key is not None:
            step['key'] = key
        end = UNKNOWN
        step['start'] = step['stop'] = self.since = time.monotonic()
        try:
            if self.front is None:
                self.front = http.client.HTTPConnection('127.0.0.1', self.round.servers.primary.front_port, timeout=self.round.patience)
                self.front.connect()
            headers = {'traceparent': trace(step['id']), 'Content-Type': 'application/json'}
            if key is not None:
                headers['Idempotency-Key'] = key
            self.front.request(method, path, None if body is None else json.dumps(body), headers)
            response = self.front.getresponse()
            answer = response.read()
            answer = json.loads(answer) if answer else {}
            status = answer.get('status' if response.status < 400 else 'code')
            if response.status < 500 or status in ('paused', 'busy'):
                step['rows'], end = [[args.get('user'), status, answer.get('serial'), answer]], COMMITTED
                self.learn(way, args, step['rows'])
            else:
                step['error'] = f'{response.status} {status}'
            return answer
        except (OSError, http.client.HTTPException):
            if self.front:
                self.front.close()
            self.front = None
            time.sleep(0.02)
            raise
        finally:
            step['stop'] = time.monotonic()
            self.since = None
            self.record([step], end)


class PooledSession(Session):
    """Through PgBouncer, which gives each transaction another server session."""
    scope = 'LOCAL'
    pooled = True

    def conninfo(self):
        return f'host=127.0.0.1 port={self.round.servers.pooler_port} dbname=postgres user=postgres gssencmode=disable'

    def call(self, way, **args):
        if self.open is not None:
            return super().call(way, **args)
        if way == 'grouped' and not args['user'].startswith('call-'):
            # it is alone, and a setting would stay with another's session: its user tells of it
            return self.transact([(way, {**args, 'user': f'call-{next(ids)}'})])
        with self.transaction():
            return self.call('issue' if way == 'grouped' else way, **args)

    def named(self, args):
        return int(args['user'].removeprefix('call-')) if self.open is None else None

    def abandon(self, way, **args):
        with self.transaction(fate='leave during'):
            self.call('issue' if way == 'grouped' else way, **args)
