"""Rounds: servers, sessions, faults, quiet, and the question whether all laws were kept.

	test/bin/chaos [options]; --help says which.

Exit status: 0 all laws kept, 1 a violation, 2 it could not be run.
"""
import argparse
import collections
import json
import os
import pickle
import random
import shutil
import sys
import threading
import time
import traceback

import checker
import faults
import pq
import server
import workload

from history import Event, History, Writer
from session import PooledSession, Session

SETTINGS = {
    'shared_preload_libraries': 'coupon', 'listen_addresses': '', 'restart_after_crash': 'on', 'max_connections': '300',
    'max_worker_processes': '32', 'shared_buffers': '32MB', 'wal_level': 'replica', 'max_wal_senders': '10', 'hot_standby': 'on',
    'max_prepared_transactions': '0', 'deadlock_timeout': '200ms', 'log_line_prefix': '%m [%p] %q%a ', 'log_min_messages': 'log',
    'autovacuum_naptime': '1s', 'statement_timeout': '0', 'client_connection_check_interval': '100ms', 'max_wal_size': '256MB', 'wal_keep_size': '64MB', 'wal_retrieve_retry_interval': '100ms',
    'coupon.databases': 'postgres', 'coupon.sweep_interval': '50ms', 'coupon.sold_out_wait': '20ms', 'coupon.queue_keep': '1d',
    'coupon.http_role': 'coupon_service', 'coupon.http_max_connections': '1000',
}
ATTEMPT = '''
CREATE FUNCTION chaos_attempt(c bigint, u text, fail boolean, OUT user_id text, OUT status text, OUT serial bigint)
LANGUAGE plpgsql AS $$
BEGIN
	SELECT i.user_id, i.status, i.serial INTO user_id, status, serial FROM coupon_issue(c, u) i;
	IF fail THEN RAISE division_by_zero; END IF;
EXCEPTION WHEN division_by_zero THEN NULL;
END $$'''
ARCHIVE = 'CREATE TABLE chaos_archive (LIKE coupon.archived_issuance)'
# errors that faults, locks and two users of one thing explain
EXPECTED_ERRORS = {'57014', '57P01', '57P02', '57P03', '40001', '40P01', '55P03', 'UC020', 'UC005', 'UC002', 'UC007', 'UC009', 'UC001', '55006', '40003', '53100', '53200',
                   '53300', '58030', '25006', '58000', '25P02', '55000'}


def template(home, options):
    """A data directory with coupon in it, to be copied for each round."""
    node = server.Node(home, 'template', options.patience, dict(os.environ))
    server.run('initdb', '-D', node.data, '-U', 'postgres', '-A', 'trust', '--no-locale', '-E', 'UTF8', '-N')
    node.configure({**SETTINGS, 'unix_socket_directories': home})
    node.start()
    node.query('CREATE EXTENSION coupon')
    node.query(ATTEMPT)
    node.query(ARCHIVE)
    if options.points:
        with open(options.points) as file:
            connection = pq.Connection(node.conninfo())
            connection.query(file.read())
            connection.close()
    node.stop()
    return node.data


def published_event(message):
    headers = dict(zip(message['headers'][::2], message['headers'][1::2]))
    return Event(headers['id'], message['key'], headers['ce_type'], json.loads(message['payload']), headers.get('traceparent'))


class Round:
    def __init__(self, home, seed, options):
        self.seed, self.options, self.home, self.patience = seed, options, home, options.patience
        self.random = random.Random(f'{seed}/faults')
        self.over = False
        self.errors, self.states = collections.Counter(), collections.Counter()
        self.done = collections.Counter()
        self.crashes = 0
        self.hits = collections.Counter()       # of fault points, by kind
        self.violations, self.sessions = [], []
        self.clock = self.events = 0
        self.doing, self.doing_since = 'start', time.monotonic()
        os.makedirs(home)
        self.writer = Writer(f'{home}/history')

    # ---- for sessions and faults ----

    def pace(self):
        if self.options.rate:
            time.sleep(self.pacer.expovariate(self.options.rate / len(self.sessions)))

    def choose_way(self, rng):
        return rng.choices(self.ways, self.way_weights)[0]

    def note_error(self, error, way):
        self.states[error.sqlstate] += 1
        if error.sqlstate not in EXPECTED_ERRORS:
            self.errors[f'{way}: {error}'] += 1

    def sql(self, *statements):
        """For faults: whatever becomes of it."""
        try:
            connection = pq.Connection(self.servers.primary.conninfo('fault'))
        except pq.Lost:
            return
        try:
            for statement in statements:
                connection.query(statement)
        except (pq.Lost, pq.Failed):
            pass
        finally:
            connection.close()

    def moved(self):
        """The primary is another one."""
        if self.pooler:
            self.servers.aim_pooler()
            os.kill(self.servers.pooler.pid, 1)

    # ---- a round ----

    def run(self, template):
        options = self.options
        on_disks = options.disks and self.seed % 4 == 1
        self.servers = server.Servers(self.home, template, self.seed, self.patience, options.disks if on_disks else None)
        threading.Thread(target=self.watch, daemon=True).start()
        try:
            self.pooler = self.servers.start_pooler()
            self.prepare()
            self.pacer = random.Random(self.seed)
            self.sessions = [(PooledSession if self.pooler and n % 5 == 4 else Session)(n, self) for n in range(options.sessions)]
            for session in self.sessions:
                session.start()
            self.storm()
            for do in (self.quiet, self.count, self.check):
                self.do(do.__name__)
                do()
        except Exception as error:      # what the harness itself asks for is answered, too
            self.end_badly(f'{self.doing}: {type(error).__name__} {error}\n{traceback.format_exc(limit=-3)}')
        finally:
            self.doing = None
            self.over = True
            self.servers.close()
            for session in self.sessions:
                session.join(10)
            self.writer.close()
        return self.violations

    def prepare(self):
        options, primary = self.options, self.servers.primary
        # where the clock is not set, times are known to a millisecond, and so much more is
        self.has = {'clock'} if self.servers.clock_file and self.seed % 3 == 0 else set()
        if options.broker and self.seed % 2 == 0:
            self.has.add('broker')
            self.servers.start_broker(options.broker, ['coupon-issued', 'own-events'])
        if self.servers.disks:
            self.has.add('small disks')
        elif not options.no_standby:
            self.has.add('standby')
            self.servers.add_standby()
        if options.points:
            self.has.add('fault points')
        wanted = options.faults.split(',') if options.faults else None
        self.faults = [fault for fault in faults.FAULTS if (fault[2] is None or fault[2] in self.has) and
                       (wanted is None or fault[0].__name__ in wanted)]
        ways = options.ways.split(',') if options.ways else None
        chosen = [(way, weight) for way, weight in workload.WAYS if ways is None or way.__name__ in ways]
        self.ways, self.way_weights = zip(*chosen)
        self.ids, self.campaigns, self.rooms = {}, {}, {}
        for name, room in workload.ROOMS.items():
            primary.query("SELECT coupon_room_create($1, $2::int, NULL, '5 s', '2 s', $3)", [name, room['capacity'], room['method']])
            self.rooms[name] = room
        for name, kind in workload.CAMPAIGNS.items():
            self.ids[name] = [self.create(name, **kind) for _ in range(kind.get('number', 1))]
        self.scarce = {campaign for name in workload.SCARCE for campaign in self.ids[name]}

    def create(self, name, stock=0, limit=1, seats=0, codes=0, room=None, number=1, most=0):
        query = self.servers.primary.query
        (campaign,), = query('SELECT coupon_campaign_create($1, $2::bigint, $3::int)', [name, stock, limit])
        for units, function in ((seats, 'coupon_units_import'), (codes, 'coupon_codes_import')):
            if units:
                query(f"SELECT {function}($1::bigint, ARRAY(SELECT 'U-' || g FROM generate_series(1, {units}) g))", [campaign])
        if room:
            query('SELECT coupon_campaign_require_room($1::bigint, $2)', [campaign, room])
        self.campaigns[int(campaign)] = {'stock': stock + seats + codes, 'limit': max(limit, most), 'room': room}
        return int(campaign)

    def storm(self):
        deadline = time.monotonic() + self.options.duration
        goal = 0
        while time.monotonic() < deadline:
            goal = self.writer.calls + self.options.between
            while self.writer.calls < goal and time.monotonic() < deadline:
                time.sleep(0.02)
                self.look_for_stuck()
            if not self.faults:
                continue
            function, _, _, crash = self.random.choices(self.faults, [weight for _, weight, _, _ in self.faults])[0]
            self.do(function.__name__)
            start = time.monotonic()
            what = function(self)
            self.do('storm')
            if function is faults.clock_step:
                self.clock = 20
            self.writer.fault(function.__name__, what, start)
            self.done[function.__name__] += 1
            self.crashes += crash and what != 'nobody'
            if self.options.verbose:
                print(f'# {start:.3f} {function.__name__}: {what}', flush=True)

    def look_for_stuck(self):
        for session in self.sessions:
            since = session.since
            if session.crash:
                raise session.crash
            if since is not None and time.monotonic() - since > self.patience:
                raise TimeoutError(f'{session.name} has waited for {self.patience:.0f} s for {session.waits_for()}')

    # ---- what does not end ----

    def do(self, what):
        self.doing, self.doing_since = what, time.monotonic()

    def watch(self):
        """Nothing that the harness does takes so long; if it waits, it is freed and the round ends."""
        while self.doing is not None:
            if self.doing != 'storm' and time.monotonic() - self.doing_since > 3 * self.patience + 60:
                self.end_badly(f'{self.doing} does not end')
                self.servers.primary.process.kill()
                return
            time.sleep(1)

    def end_badly(self, what):
        self.violations.append(checker.laws.Violation('what is begun ends', f'{what}\n{self.activity()}', []))

    def activity(self):
        """What everybody waits for, as the server tells or, if it does not, as the system does."""
        try:
            rows = self.servers.primary.query('SELECT pid, backend_type, state, wait_event_type, wait_event, pg_blocking_pids(pid), query'
                                              " FROM pg_stat_activity ORDER BY state IS NOT DISTINCT FROM 'idle', pid", patience=5)
        except (pq.Lost, pq.Failed) as error:
            rows = [error, *self.servers.primary.processes()]
        with open(self.servers.primary.log, errors='replace') as log:
            return '\n'.join(map(str, [*rows, 'The end of the log:', *(line.rstrip() for line in log.readlines()[-10:])]))

    def quiet(self):
        """All have gone, all that was begun has ended."""
        self.over = True
        if self.servers.clock_file:
            self.servers.set_clock(0)
        self.servers.ensure_up()
        deadline = time.monotonic() + self.patience
        for session in self.sessions:
            session.join(max(0, deadline - time.monotonic()))
            if session.crash:
                raise session.crash
            if session.is_alive():
                self.end_badly(f'{session.name} still waits for {session.waits_for()}')
        query = self.servers.primary.query
        # as they are in the file, whatever a fault has made of them
        for setting in faults.SETTINGS:
            query(f'ALTER SYSTEM RESET {setting}')
        query('SELECT pg_reload_conf()')
        for campaign in self.ids['paused']:
            query('SELECT coupon_campaign_resume($1::bigint)', [campaign])
        for campaign in self.ids['put_off']:
            query("SELECT coupon_campaign_alter($1::bigint, opens_at => '-infinity')", [campaign])
        query("SELECT coupon_room_resume('hall')")
        self.await_(
            'every request ends', 'requests are not decided', 'SELECT count(*) = 0 FROM coupon.request WHERE outcome IS NULL')
        self.await_('never undersell', 'units are in flight, and nobody is there',
                    'SELECT coalesce(sum(s.in_flight), 0) = 0 FROM coupon.campaign c, coupon_status(c.campaign_id) s')


    def count(self):
        """Of a quiet server: each answer is counted once, by its way and its outcome."""
        query = self.servers.primary.query
        self.counting = len(self.sessions)
        session = Session(self.counting, self)
        session.keyed = False           # what a key repeats is answered one way and counted another
        self.over = False
        self.await_('counters add up', 'no worker for grouped calls', 'SELECT workers > 0 FROM coupon_group_status()')
        query('SELECT coupon_stat_reset()')
        for _ in range(20):
            for way in (workload.issue, workload.grouped, workload.many, workload.hold, workload.hold_many, workload.hold_any, workload.redeem,
                        workload.cancel):
                try:
                    way(session)
                except pq.Failed:
                    pass            # of a campaign that is gone
        session.leave()
        self.over = True
        self.counted = {(way, outcome): int(calls) for way, outcome, calls in
                        query('SELECT way, outcome, calls FROM coupon.stat_call WHERE calls > 0')}

    def await_(self, law, what, query):
        try:
            server.poll(what, lambda: self.servers.primary.query(query) == [['t']], self.patience)
        except TimeoutError:
            self.violations.append(checker.laws.Violation(law, what, []))

    # ---- the question ----

    def check(self):
        history = History()
        history.epoch = time.time() - time.monotonic()
        history.clock, history.clock_was_set = self.clock + 0.001, self.clock > 0
        history.read(f'{self.home}/history')
        history.campaigns, history.rooms = self.campaigns, self.rooms
        history.counting, history.counted = self.counting, self.counted
        self.collect(history)
        self.sell_out(history)
        with open(f'{self.home}/history.pickle', 'wb') as file:
            pickle.dump(history, file)      # for checker.py to look again
        self.violations += checker.check(history)
        self.events = len(history.events)
        if self.options.verbose:
            kind = {campaign: name for name, campaigns in self.ids.items() for campaign in campaigns}
            print('# events: ' + ', '.join(f'{name} {type} {number}' for (name, type), number in sorted(collections.Counter(
                (kind.get(event.campaign, ''), event.type) for event in history.events).items())), flush=True)
        for words, number in self.errors.items():
            self.violations.append(checker.laws.Violation('misuse is an error, and nothing else is', f'{words} ({number} times)', []))
        self.look_into_logs()

    def sell_out(self, history):
        """Demand above the stock: nothing may be left, and nothing be stranded (law 2)."""
        query = self.servers.primary.query
        for campaign in (campaign for campaigns in self.ids.values() for campaign in campaigns):
            if query('SELECT closed_at IS NOT NULL FROM coupon.campaign WHERE campaign_id = $1::bigint', [campaign]) != [['f']]:
                continue                # closed, or gone
            query('SELECT coupon_campaign_require_room($1::bigint, NULL)', [campaign])
            def sold():
                query("SELECT count(*) FROM coupon_issue_many($1::bigint, ARRAY(SELECT 'last' || gen_random_uuid()"
                      ' FROM generate_series(1, (SELECT remaining + 1 FROM coupon_status($1::bigint)))))', [campaign])
                return query("SELECT remaining = 0 AND issued + held = stock AND i.status = 'sold_out' AND stock = ("
                             ' SELECT count(*) FROM coupon.issuance WHERE campaign_id = $1::bigint)'
                             " FROM coupon_status($1::bigint), coupon_issue($1::bigint, 'too late') i", [campaign]) == [['t']]
            try:
                server.poll('the last unit', sold, self.patience)
            except TimeoutError:
                history.findings.append(('never undersell', f'campaign {campaign} does not sell out: '
                                         + str(query('SELECT * FROM coupon_status($1::bigint)', [campaign]))))
        for row in query('SELECT * FROM coupon_verify()'):
            history.findings.append(('the server agrees', f'coupon_verify(): {row}'))

    def collect(self, history):
        # what time alone changes must not change between two looks
        self.await_('never undersell', 'holds that have run out stay',
                    "SELECT count(*) = 0 FROM coupon.issuance WHERE held_until < clock_timestamp() + '30 s'")
        if 'broker' in self.has:
            self.await_('every event is published', 'events stay in the outbox', 'SELECT count(*) = 0 FROM coupon.outbox')
        query = self.servers.primary.query
        history.issuances, history.archived = [[(int(c), int(s), u, state) for c, s, u, state in query(f'SELECT campaign_id, serial, user_id, state FROM {table}')]
                                               for table in ('coupon.issuance', 'chaos_archive')]
        for row in query('SELECT request_id, campaign_id, user_id, outcome, serial, request_key, extract(epoch FROM decided_at) FROM coupon.request'):
            history.requests.append(dict(zip(('request_id', 'campaign', 'user', 'outcome', 'serial', 'request_key', 'decided_at'), row)))
            history.requests[-1]['decided_at'] = float(row[6]) if row[6] else None
        for row in query("SELECT r.name, concat_ws('.', t.room_id, t.number, replace(t.secret::text, '-', '')), t.user_id, extract(epoch FROM t.admitted_at),"
                         ' extract(epoch FROM t.ended_at), t.reason FROM coupon.ticket t JOIN coupon.room r USING (room_id)'):
            history.tickets.append({'room': row[0], 'token': row[1], 'user': row[2], 'admitted_at': row[3] and float(row[3]),
                                    'ended_at': row[4] and float(row[4]), 'reason': row[5]})
        events = [Event(id, key, type, json.loads(payload), trace) for id, key, type, payload, trace in
                  query('SELECT id, key, type, payload, traceparent FROM coupon.outbox')]
        if 'broker' in self.has:
            history.published = [[published_event(message) for message in partition] for partition in self.servers.published()]
        history.events = list({event.id: event for events in [events, *history.published] for event in events}.values())

    def look_into_logs(self):
        for name in os.listdir(self.home):
            if name.endswith('.log') and name.startswith('node'):
                with open(f'{self.home}/{name}', errors='replace') as log:
                    for line in log:
                        bad = any(word in line for word in ('TRAP:', 'stuck spinlock', 'XX00', 'still referenced', 'Segmentation'))
                        bad = bad or ('terminated by signal' in line and 'signal 9:' not in line)
                        if bad:
                            self.violations.append(checker.laws.Violation('the server does not crash by itself', line.strip(), []))


def parse_options():
    parser = argparse.ArgumentParser(prog='test/bin/chaos', description='Breaks a sale in every way, and looks whether its laws were kept.')
    add = parser.add_argument
    add('-s', '--seed', type=int, help='repeats the choices of a run')
    add('-d', '--duration', type=float, default=30, help='seconds that a round is stormy (30)')
    add('-r', '--rounds', type=int, default=1, help='rounds, each with its own seed and servers (1)')
    add('-t', '--time', type=float, help='as many rounds as fit into so many seconds')
    add('-c', '--sessions', type=int, default=30, help='sessions, 20 to 200 (30)')
    add('--rate', type=float, help='calls a second of all sessions together, at most')
    add('--between', type=int, default=300, help='calls between two faults (300)')
    add('-f', '--faults', help='only these faults, or none')
    add('-w', '--ways', help='only these ways in')
    add('-k', '--keep', help='directory for what a failed round leaves')
    add('-v', '--verbose', action='store_true', help='say each fault')
    add('--no-standby', action='store_true', help='no standby, so no promotion')
    add('--points', help='the file that declares the fault points of this build')
    add('--point', help='of the fault points only this one')
    add('--disks', help='a directory with two small disks, data and wal')
    add('--release', action='store_true', help='hold the amounts against those of a release')
    add('--broker', help='the mock broker\'s program')
    add('--home', required=True, help='an empty directory to work in')
    options = parser.parse_args()
    options.patience = float(os.environ.get('PG_TEST_TIMEOUT_DEFAULT', 180))
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1, 2**31)
    return options


def command(options, seed):
    words = ['test/bin/chaos', *(['-p'] if options.points else []), f'-s {seed}', f'-d {options.duration:g}', f'-c {options.sessions}', f'--between {options.between}']
    words += [f'--rate {options.rate:g}'] if options.rate else []
    words += [f'-f {options.faults}'] if options.faults else []
    words += [f'-w {options.ways}'] if options.ways else []
    words += [f'--point {options.point}'] if options.point else []
    words += ['--no-standby'] if options.no_standby else []
    return ' '.join(words)


def enough(calls, crashes, promotions, hits):
    """What a release asks for."""
    wanted = [('recorded operations', calls, 1000000), ('crash and kill cycles', crashes, 300), ('promotions', promotions, 20)]
    wanted += [(f'fault point hits of kind {kind}', hits[kind], 100) for kind in ('error', 'fatal', 'kill', 'sleep', 'memory')]
    for what, measured, required in wanted:
        print(f'{what:36} {measured:9}  required {required:9}  {"pass" if measured >= required else "FAIL"}')
    return all(measured >= required for _, measured, required in wanted)


def main():
    options = parse_options()
    made = template(options.home, options)
    calls = answers = unknown = crashes = events = failed = 0
    hits, states = collections.Counter(), collections.Counter()
    done, begun, number = collections.Counter(), time.monotonic(), 0
    while number < options.rounds if options.time is None else time.monotonic() - begun < options.time:
        seed = options.seed + number
        number += 1
        round = Round(f'{options.home}/round{number}', seed, options)
        start = time.monotonic()
        violations = round.run(made)
        calls, answers, unknown = calls + round.writer.calls, answers + round.writer.answers, unknown + round.writer.unknown
        hits, states = hits + round.hits, states + round.states
        crashes, events, done = crashes + round.crashes, events + round.events, done + round.done
        print(f'round {number}, seed {seed}: {round.writer.calls} calls ({round.writer.unknown} unknown), {round.events} events, {round.crashes} crashes, '
              f'{sum(round.done.values())} faults, {len(violations)} violations, {time.monotonic() - start:.0f} s', flush=True)
        if violations:
            failed += 1
            print('\n'.join(checker.tell(violations, command(options, seed))), flush=True)
            if options.keep:
                os.makedirs(options.keep, exist_ok=True)
                shutil.copytree(round.home, f'{options.keep}/seed{seed}', symlinks=True,
                                ignore=shutil.ignore_patterns('node*[0-9]', 'clock*', '.s.*'))
        shutil.rmtree(round.home, ignore_errors=True)
    print(f'{number} rounds, {calls} calls with {answers} answers, {unknown} unknown, {events} events, {crashes} crashes and kills; '
          + ', '.join(f'{name} {times}' for name, times in sorted(done.items())))
    if options.verbose:
        print('SQLSTATEs: ' + ', '.join(f'{state} {times}' for state, times in sorted(states.items())))
    if hits:
        print('fault points: ' + ', '.join(f'{kind} {times}' for kind, times in sorted(hits.items())))
    print(f'{failed} rounds with violations' if failed else 'all laws kept')
    if options.release:
        failed += not enough(calls, crashes, done['promote'], hits)
    return 1 if failed else 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except Exception:               # of the harness: not to be taken for a violation
        traceback.print_exc()
        sys.exit(2)
