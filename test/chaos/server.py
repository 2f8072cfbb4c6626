"""The servers of a round: a primary, perhaps a standby, PgBouncer, a broker.

Everything lives in one directory and listens on Unix sockets there; the front,
PgBouncer and the broker on the loopback address.
"""
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time

import pq

DATABASE = 'postgres'
# what a round's seed chooses: other paths through the code, or more traffic on them
CHOSEN = {
    'wal_level': ['replica', 'replica', 'logical'],
    'shared_buffers': ['32MB', '32MB', '2MB'],
    'coupon.max_campaigns': ['16384', '16384', '16'],       # of more that are in use, so that one has to go
    'coupon.http_workers': ['1', '2'],
    'coupon.group_workers': ['1', '2'],
    'coupon.issuers': ['1', '2'],
}
# of a topic: the mock keeps the last 5 MB of each
PARTITIONS = 24


OURS = []


def free_port():
    """Not one of those that the kernel gives to clients, and no other test's, as
    free_port() of test/perl/CouponNginx.pm says."""
    while True:
        port = random.SystemRandom().randrange(10240, 32240)
        mine, probe = socket.socket(socket.AF_UNIX), socket.socket()
        try:
            mine.bind(f'\0coupon test port {port}')
            probe.bind(('127.0.0.1', port))
            OURS.append(mine)
            return port
        except OSError:
            mine.close()
        finally:
            probe.close()


def kept_port():
    """A port that stays ours while the server that listens there is down: the
    front shares it, and nobody else can have it."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(('127.0.0.1', 0))
    return s


def run(*command, **options):
    done = subprocess.run(command, timeout=300, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **options)
    if done.returncode != 0:
        raise RuntimeError(f'{" ".join(command)}: {done.stdout.decode(errors="replace")[-2000:]}')
    return done.stdout.decode(errors='replace')


def poll(what, check, patience):
    """Until check() is true; how long is said by the caller, who knows the machine."""
    deadline = time.monotonic() + patience
    while not check():
        if time.monotonic() > deadline:
            raise TimeoutError(f'timed out: {what}')
        time.sleep(0.02)


class Node:
    """One PostgreSQL server: its data directory and its socket."""

    def __init__(self, home, name, patience, environment):
        self.name, self.data, self.home, self.patience = name, f'{home}/{name}', home, patience
        self.log = f'{home}/{name}.log'
        self.port, self.front = free_port(), kept_port()
        self.front_port = self.front.getsockname()[1]
        self.environment = environment
        self.process = None

    def conninfo(self, application='chaos'):
        return (f'host={self.home} port={self.port} dbname={DATABASE} user=postgres application_name={application} '
                'gssencmode=disable')

    def start(self):
        """Returns when it answers.  Not by pg_ctl, which goes by the clock."""
        with open(self.log, 'a') as log:
            self.process = subprocess.Popen(['postgres', '-D', self.data, '-p', str(self.port)], env=self.environment, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True)
        poll('the server to answer', lambda: self.answers() or not self.is_running(), self.patience)
        if not self.is_running():
            raise RuntimeError(f'{self.name} does not start')

    def stop(self, sig=signal.SIGINT):
        """SIGINT is a fast shutdown, SIGQUIT an immediate one."""
        if self.is_running():
            self.process.send_signal(sig)
            self.process.wait(self.patience)

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """SIGKILL of the postmaster; its children notice, and are waited for."""
        self.process.kill()
        self.process.wait()
        poll('the children of a killed postmaster', lambda: not self.children(), self.patience)

    def children(self):
        """Processes that work in the data directory."""
        found = []
        for entry in os.listdir('/proc'):
            try:
                if entry.isdigit() and os.readlink(f'/proc/{entry}/cwd') == os.path.realpath(self.data) and not self.is_zombie(entry):
                    found.append(int(entry))
            except OSError:
                pass
        return found

    def processes(self):
        """What the system says of them: number, state, what it does, what it waits for in the kernel."""
        told = []
        for pid in self.children():
            try:
                words = [open(f'/proc/{pid}/{name}', errors='replace').read() for name in ('stat', 'cmdline', 'wchan')]
                told.append((pid, words[0].rsplit(')', 1)[1].split()[0], words[1].replace('\0', ' ').strip(), words[2]))
            except OSError:
                pass
        return told

    @staticmethod
    def is_zombie(pid):
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rsplit(')', 1)[1].split()[0] == 'Z'

    def configure(self, settings):
        with open(f'{self.data}/postgresql.conf', 'a') as file:
            for name, value in settings.items():
                file.write(f"{name} = '{value}'\n")

    def query(self, sql, parameters=None, patience=None):
        """One statement of the harness itself; again while there is no server."""
        deadline = time.monotonic() + (self.patience if patience is None else patience)
        while True:
            try:
                connection = pq.Connection(self.conninfo('harness'))
                try:
                    return connection.query(sql, parameters)
                finally:
                    connection.close()
            except (pq.Lost, pq.Failed) as error:
                again = isinstance(error, pq.Lost) or error.sqlstate in ('57P01', '57P02', '57P03', '53300')
                if not again or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def answers(self):
        try:
            return self.query('SELECT 1', patience=0) == [['1']]
        except (pq.Lost, pq.Failed):
            return False


class Servers:
    """What a round runs on; `primary` is whom the sessions are to call."""

    def __init__(self, home, template, seed, patience, disks=None):
        self.home, self.seed, self.patience = home, seed, patience
        self.names = iter(f'node{n}' for n in range(1000))
        self.lock = threading.Lock()
        self.standby = self.disks = None
        self.helpers = []
        self.pooler_port = free_port()
        self.clock_file = None
        self.environment = dict(os.environ)
        self.clock_preload()
        self.primary = self.node()
        shutil.copytree(template, self.primary.data, symlinks=True)
        if disks:
            # both on small disks, in place of where they would be
            self.disks = disks
            for directory, disk in ((self.primary.data, 'data'), (f'{self.primary.data}/pg_wal', 'wal')):
                shutil.move(directory, f'{disks}/{disk}/postgres')
                os.symlink(f'{disks}/{disk}/postgres', directory)
        self.primary.configure(self.settings())
        self.primary.start()

    def node(self):
        return Node(self.home, next(self.names), self.patience, self.environment)

    def settings(self):
        chosen = random.Random(f'{self.seed}/settings')
        return {
            # who kills processes loses nothing that the system has; so most rounds save the wait for the disk
            'fsync': 'on' if self.seed % 4 == 0 else 'off',
            'unix_socket_directories': self.home,
            'coupon.http_listen': f'127.0.0.1:{self.primary.front_port}',
            **{name: chosen.choice(values) for name, values in CHOSEN.items()},
        }

    def clock_preload(self):
        """The servers' clock is ours to set, if there is a compiler."""
        source = f'{os.path.dirname(os.path.abspath(__file__))}/clock.c'
        library = f'{self.home}/clock.so'
        made = subprocess.run([os.environ.get('CC', 'cc'), '-shared', '-fPIC', '-O2', '-o', library, source],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if made.returncode != 0:
            return
        self.clock_file = f'{self.home}/clock'
        with open(self.clock_file, 'wb') as file:
            file.write(bytes(8))
        self.environment['LD_PRELOAD'] = ':'.join(filter(None, [os.environ.get('LD_PRELOAD'), library]))
        self.environment['COUPON_CHAOS_CLOCK'] = self.clock_file

    def set_clock(self, seconds):
        with open(self.clock_file, 'r+b') as file:
            file.write(seconds.to_bytes(8, 'little', signed=True))

    # ---- a standby ----

    def add_standby(self):
        """A new one, to which every commit goes from now on."""
        node = self.node()
        run('pg_basebackup', '-D', node.data, '-R', '-c', 'fast', '-X', 'stream', '-d', self.primary.conninfo('standby'),
            env=self.environment)
        node.configure({'coupon.http_listen': f'127.0.0.1:{node.front_port}'})      # a front answers on a standby, too
        node.start()
        self.standby = node
        poll('the standby to stream', self.standby_is_level, self.patience)
        self.primary.query("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.primary.query('SELECT pg_reload_conf()')

    def standby_is_level(self):
        """It has all that the primary has at this moment."""
        try:
            return self.primary.query(
                "SELECT coalesce(bool_or(replay_lsn >= $1::pg_lsn), false) FROM pg_stat_replication WHERE state = 'streaming'",
                self.primary.query('SELECT pg_current_wal_flush_lsn()')[0], patience=1) == [['t']]
        except (pq.Lost, pq.Failed):
            return False

    def promote(self):
        """The primary is fenced, then the standby takes over: never two of them."""
        old, new = self.primary, self.standby
        poll('the standby to be level', self.standby_is_level, self.patience)
        self.standby = None
        old.stop(signal.SIGQUIT)
        new.configure({'synchronous_standby_names': ''})
        with open(f'{new.data}/postgresql.auto.conf', 'a') as file:
            file.write("synchronous_standby_names = ''\n")
        run('pg_ctl', '-s', '-W', '-D', new.data, 'promote')
        poll('the promotion', lambda: new.query('SELECT pg_is_in_recovery()') == [['f']], self.patience)
        self.primary = new
        shutil.rmtree(old.data, ignore_errors=True)

    # ---- what stands in front, and behind ----

    def start_pooler(self):
        """False where there is none."""
        program = shutil.which('pgbouncer', path=os.environ['PATH'] + ':/usr/sbin')
        if program is None:
            return False
        self.pooler_file = f'{self.home}/pgbouncer.ini'
        self.aim_pooler()
        with open(f'{self.home}/pgbouncer.log', 'w') as log:
            self.pooler = subprocess.Popen([program, self.pooler_file], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.helpers.append(self.pooler)
        return True

    def aim_pooler(self):
        with open(self.pooler_file, 'w') as file:
            file.write(f'''[databases]
{DATABASE} = host={self.home} port={self.primary.port} dbname={DATABASE} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.pooler_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 8
server_login_retry = 1
query_wait_timeout = 10
''')

    def start_broker(self, program, topics):
        """A Kafka of librdkafka's."""
        self.broker = subprocess.Popen([program, '-b', '3', *[word for topic in topics for word in ('-t', f'{topic}:{PARTITIONS}')]],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.helpers.append(self.broker)
        self.brokers = self.broker.stdout.readline().decode().strip()
        self.topics = topics
        self.primary.query(f"ALTER SYSTEM SET coupon.kafka_brokers = '{self.brokers}'")
        self.primary.query(f'ALTER SYSTEM SET coupon.kafka_partitions = {PARTITIONS}')
        self.primary.query('SELECT pg_reload_conf()')

    def tell_broker(self, command):
        self.broker.stdin.write(f'{command}\n'.encode())
        self.broker.stdin.flush()
        answer = self.broker.stdout.readline().decode().strip()
        if answer != 'ok':
            raise RuntimeError(f'the broker: {command}: {answer}')

    def published(self):
        """What the broker has: the messages of each partition, in order."""
        partitions = {}
        for topic in self.topics:
            messages = run('kcat', '-C', '-q', '-J', '-e', '-b', self.brokers, '-t', topic, '-o', 'beginning')
            for line in messages.splitlines():
                message = json.loads(line)
                partitions.setdefault((topic, message['partition']), []).append(message)
        return list(partitions.values())

    # ---- the end ----

    def ensure_up(self):
        """A server that answers, whatever was done to it."""
        def up():
            if not self.primary.is_running():
                try:
                    self.primary.start()
                except RuntimeError:
                    return False    # what is left of the last one is not gone yet, or its disk is full
            return self.primary.answers()
        poll('the server to answer again', up, self.patience)

    def disk(self, what):
        return f'{self.disks}/{what}'

    def close(self):
        for helper in self.helpers:
            helper.kill()
            helper.wait()
        for node in filter(None, (self.standby, self.primary)):
            node.stop(signal.SIGQUIT)
        for disk in ('data', 'wal') if self.disks else ():
            shutil.rmtree(f'{self.disks}/{disk}/postgres')
