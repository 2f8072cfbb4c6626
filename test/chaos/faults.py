"""The faults.  A fault is a function of the round that does harm, undoes what
would stay, and says what it did; it is chosen by its weight.  To add one:

	@fault(2)
	def full_table_scan(round):
	    round.sql('SELECT count(*) FROM coupon.issuance')
	    return 'a scan'

needs= names what a round may lack: a standby, a clock, a broker, small disks, fault points.
crash=True counts as a crash or kill cycle.
"""
import os
import signal
import time

import pq
import server

FAULTS = []
TABLES = ['issuance', 'campaign', 'shard', 'unit', 'lapsed_hold', 'request_key', 'request_0', 'request_1', 'ticket_0', 'ticket_1',
          'outbox_0', 'outbox_1', 'outbox_2', 'outbox_parked', 'dead_letter', 'refusal', 'room', 'route']
SETTINGS = {
    'coupon.sold_out_wait': ['0', '5ms', '100ms'],
    'coupon.sweep_interval': ['20ms', '1s'],
    'coupon.issuers': ['1', '2'],
    'coupon.group_workers': ['1', '2', '0'],
    'coupon.request_depth': ['10', '100000'],
    'coupon.publish_interval': ['50ms', '1s'],
    'synchronous_commit': ['on', 'on', 'remote_apply'],
    'default_transaction_isolation': ['read committed', 'repeatable read'],
    'wal_sync_method': ['fdatasync', 'fsync'],
}
# points of a sale on several nodes, which a round is not; and of publishing
ELSEWHERE = ('peer_', 'slots_', 'units_come', 'units_sent')
PUBLISHING = ('event_delivered', 'event_removed', 'event_sent')
SESSIONS = "backend_type = 'client backend' AND application_name = 'chaos'"
WORKERS = "backend_type LIKE 'coupon%'"


def fault(weight, needs=None, crash=False):
    def add(function):
        FAULTS.append((function, weight, needs, crash))
        return function
    return add


def pids(round, where):
    try:
        return [(int(pid), kind) for pid, kind in
                round.servers.primary.query(f'SELECT pid, backend_type FROM pg_stat_activity WHERE {where} ORDER BY pid')]
    except pq.Failed:
        return []


def strike(round, where, sig, most=1):
    """Signals some of the processes; what was hit."""
    found = pids(round, where)
    hit = round.random.sample(found, min(len(found), most))
    for pid, _ in hit:
        try:
            os.kill(pid, sig)
        except ProcessLookupError:
            pass
    return ', '.join(f'{kind} {pid}' for pid, kind in hit) or 'nobody'


def recover(round, what, before):
    """After a SIGKILL: until the server has noticed, which takes a moment."""
    if what != 'nobody':
        try:
            server.poll('the crash to be noticed', lambda: not round.servers.primary.answers() or checkpointer(round) != before, 10)
        except TimeoutError:
            pass                    # it was gone by itself before
    round.servers.ensure_up()
    return what


def checkpointer(round):
    return pids(round, "backend_type = 'checkpointer'")


@fault(10, crash=True)
def kill_session(round):
    before = checkpointer(round)
    return recover(round, strike(round, SESSIONS + " AND (state <> 'idle' OR random() < 0.1)", signal.SIGKILL), before)


@fault(5, crash=True)
def kill_worker(round):
    before = checkpointer(round)
    return recover(round, strike(round, WORKERS, signal.SIGKILL), before)


@fault(6, crash=True)
def stop_immediately(round):
    round.servers.primary.stop(signal.SIGQUIT)
    round.servers.ensure_up()
    return 'an immediate shutdown'


@fault(3, crash=True)
def kill_postmaster(round):
    round.servers.primary.kill()
    round.servers.ensure_up()
    return 'SIGKILL of the postmaster'


@fault(1)
def restart(round):
    round.servers.primary.stop()
    round.servers.ensure_up()
    return 'a fast shutdown'


@fault(5, needs='standby', crash=True)
def promote(round):
    if round.servers.standby is None:
        round.servers.add_standby()
    round.servers.promote()
    round.moved()
    round.servers.ensure_up()
    round.servers.add_standby()
    return 'the standby is the primary'


@fault(6)
def cancel_storm(round):
    for _ in range(round.random.randint(1, 10)):
        hit = strike(round, SESSIONS + " AND state <> 'idle'", signal.SIGINT, 6)
        time.sleep(round.random.random() * 0.02)
    return f'SIGINT of sessions, the last: {hit}'


@fault(6)
def terminate_storm(round):
    return 'SIGTERM: ' + strike(round, SESSIONS, signal.SIGTERM, 8)


@fault(6)
def stop_workers(round):
    sig = round.random.choice([signal.SIGTERM, signal.SIGINT])
    return f'{sig.name}: ' + strike(round, WORKERS, sig, 3)


@fault(6)
def freeze(round):
    """SIGSTOP, and SIGCONT a moment later."""
    found = pids(round, f"{SESSIONS} OR {WORKERS} OR backend_type IN ('walwriter', 'checkpointer', 'walsender')")
    if not found:
        return 'nobody'
    hit = round.random.sample(found, min(len(found), round.random.randint(1, 3)))
    seconds = round.random.choice([0.02, 0.2, 1])
    try:
        for pid, _ in hit:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
    except ProcessLookupError:
        pass
    finally:
        for pid, _ in hit:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass
    return f'for {seconds} s: ' + ', '.join(f'{kind} {pid}' for pid, kind in hit)


@fault(2)
def checkpoint(round):
    round.sql('CHECKPOINT')
    return ''


@fault(3)
def maintenance(round):
    table = round.random.choice(TABLES)
    what = round.random.choice(['VACUUM (FULL, ANALYZE)', 'VACUUM (FREEZE)', 'REINDEX TABLE CONCURRENTLY', 'REINDEX TABLE', 'ANALYZE'])
    round.sql(f"SET lock_timeout = '5s'; SET statement_timeout = '20s'", f'{what} coupon.{table}')
    return f'{what} coupon.{table}'


@fault(4)
def ddl_lock(round):
    table, seconds = round.random.choice(TABLES), round.random.choice([0.05, 0.3, 1.5])
    round.sql("SET lock_timeout = '5s'", f'BEGIN; LOCK TABLE coupon.{table} IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep({seconds}); COMMIT')
    return f'coupon.{table} for {seconds} s'


@fault(3)
def settings(round):
    name = round.random.choice(sorted(SETTINGS))
    value = round.random.choice(SETTINGS[name])
    if name == 'coupon.group_workers' and value == '0':
        round.sql(f"ALTER SYSTEM SET {name} = '0'", 'SELECT pg_reload_conf()', 'SELECT pg_sleep(0.5)', f"ALTER SYSTEM SET {name} = '1'")
    else:
        round.sql(f"ALTER SYSTEM SET {name} = '{value}'")
    round.sql('SELECT pg_reload_conf()')
    return f'{name} = {value}'


@fault(3, needs='clock')
def clock_step(round):
    seconds = round.random.choice([-10, -3, 0, 3, 10])
    round.servers.set_clock(seconds)
    return f'{seconds} s'


@fault(3, needs='broker')
def broker(round):
    seconds = round.random.choice([0.2, 1, 3])
    round.servers.tell_broker('down all')
    time.sleep(seconds)
    round.servers.tell_broker('up all')
    return f'down for {seconds} s'


@fault(2, needs='small disks', crash=True)
def disk_full(round):
    """No room for data, or for WAL (which is a crash), until there is again."""
    what = round.random.choice(['data', 'wal'])
    ballast = f'{round.servers.disk(what)}/ballast'
    try:
        with open(ballast, 'wb', buffering=0) as file:
            while file.write(bytes(65536)):
                pass
    except OSError:
        pass
    time.sleep(round.random.choice([0.3, 1]))
    os.unlink(ballast)
    round.servers.ensure_up()
    return what


@fault(35, needs='fault points')
def point(round):
    """A named point in the C code (src/base/fault.h) fails whoever reaches it."""
    points = [found for found in round.servers.primary.query('SELECT point, throws FROM fault.points()')
              if found[0] == round.options.point or (round.options.point is None and not found[0].startswith(ELSEWHERE)
                                                     and ('broker' in round.has or found[0] not in PUBLISHING))]
    # an allocation is many points
    name, throws = round.random.choices(points, [10 if name == 'allocation' else 1 for name, _ in points])[0]
    kinds = ['error', 'fatal', 'kill', 'sleep', 'memory'] if throws == 't' else ['kill', 'sleep']
    kind = min(kinds, key=lambda kind: (round.hits[kind], round.random.random()))
    before = checkpointer(round)
    # who sleeps long is met by all; many short naps widen each gap a little
    times, ms = round.random.choice([(1, 200), (100, 5)]) if kind == 'sleep' else (1, 0)
    skip = round.random.choice([0, 0, 3, 20])
    round.sql(f"SELECT fault.arm('{name}', '{kind}', skip => {skip}, times => {times}, ms => {ms})")

    def fired():
        try:
            return round.servers.primary.query(f"SELECT fired > 0 OR kind IS NULL FROM fault.points() WHERE point = '{name}'", patience=0) == [['t']]
        except (pq.Lost, pq.Failed):
            return True             # by the crash that it was
    try:
        server.poll(name, fired, 1)
        hit = True
        if times > 1:
            time.sleep(0.3)
    except TimeoutError:
        hit = False
    round.sql('SELECT fault.disarm()')
    if kind == 'kill' and hit:
        recover(round, name, before)
        round.crashes += 1
    round.servers.ensure_up()
    if hit:
        round.hits[kind] += 1
    return f'{kind} at {name}: {"hit" if hit else "nobody came by"}'
