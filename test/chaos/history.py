"""What the sessions saw, written down outside the server.

A transaction is a line: its steps (calls of functions, each with start, end and
answer) and what is known of its end.  Times are seconds of the monotonic clock,
the same for all who write.  A line is written before its session goes on, so
whatever happens to the server cannot take it back.

	{"session": 3, "end": "committed", "start": 1.2, "done": 1.4, "steps": [
	  {"id": 17, "way": "issue", "campaign": 1, "user": "u5", "start": 1.2, "stop": 1.3,
	   "rows": [["u5", "issued", "12"]]}]}

The end of a transaction:
	committed	the server said so
	aborted		it was rolled back, an ERROR ended it, or COMMIT was never sent
	unknown		the answer was lost: it is committed as a whole, or not at all
A step that a ROLLBACK TO or an EXCEPTION has undone is "undone".

A fault is a line, too: {"fault": "kill", "what": "...", "start": 1.0, "done": 1.5}.
"""
import json
import threading
import time

from datetime import datetime

COMMITTED, ABORTED, UNKNOWN = 'committed', 'aborted', 'unknown'


class Writer:
    def __init__(self, path):
        self.file = open(path, 'w', buffering=1)
        self.lock = threading.Lock()
        self.calls = self.answers = self.unknown = 0

    def write(self, line):
        words = json.dumps(line, separators=(',', ':')) + '\n'
        with self.lock:
            self.file.write(words)
            for step in line.get('steps', ()):
                self.calls += 1
                self.answers += max(1, len(step.get('rows') or ()))
            self.unknown += line.get('end') == UNKNOWN

    def fault(self, name, what, start):
        self.write({'fault': name, 'what': what, 'start': round(start, 6), 'done': round(time.monotonic(), 6)})

    def close(self):
        self.file.close()


class Transaction:
    __slots__ = ('session', 'end', 'start', 'done', 'steps')

    def __init__(self, line):
        self.session, self.end, self.start, self.done = line.get('session', 0), line['end'], line['start'], line['done']
        self.steps = [Step(step, self) for step in line['steps']]


class Step:
    """One call: what was asked for (`args`), from when to when, and what was answered."""
    __slots__ = ('id', 'way', 'args', 'start', 'stop', 'rows', 'error', 'undone', 'transaction', 'seen')

    def __init__(self, line, transaction):
        line = dict(line)
        self.transaction = transaction
        self.id, self.way, self.start, self.stop = (line.pop(name) for name in ('id', 'way', 'start', 'stop'))
        self.rows, self.error, self.undone = line.pop('rows', None), line.pop('error', None), line.pop('undone', False)
        self.args = line
        self.seen = None

    @property
    def end(self):
        return ABORTED if self.undone else self.transaction.end

    def __str__(self):
        asked = ' '.join(f'{name}={value}' for name, value in self.args.items() if value is not None)
        told = self.error if self.error else '; '.join('|'.join('' if v is None else str(v) for v in row) for row in self.rows or [])
        return (f'{self.start:.6f}-{self.stop:.6f} session {self.transaction.session} call {self.id}: {self.way} {asked}'
                f' -> {told or "no answer"} ({self.end} at {self.transaction.done:.6f})')


class Event:
    """A row of the outbox, or what the broker has of it."""
    __slots__ = ('id', 'key', 'type', 'payload', 'step')

    def __init__(self, id, key, type, payload, trace):
        self.id, self.key, self.payload = id, key, payload
        self.type = type.removeprefix('coupon.')
        self.step = trace_step(trace) if trace else self.named_step()

    def named_step(self):
        """Of a call through the pooler, whose user is named after it."""
        user = self.user or ''
        return int(user.removeprefix('call-')) if self.type == 'issued' and user.startswith('call-') else None

    campaign = property(lambda self: self.payload.get('campaign_id'))
    user = property(lambda self: self.payload.get('user_id'))
    serial = property(lambda self: self.payload.get('serial'))

    def __str__(self):
        told = ' '.join(f'{name}={self.payload[name]}' for name in ('campaign_id', 'serial', 'user_id', 'ref', 'order_ref', 'reason',
                                                                    'request_id', 'outcome', 'held_until', 'units')
                        if name in self.payload)
        return f'event {self.id} {self.type} {told} (of call {self.step})'


def trace(step_id):
    """The trace context of a call, by which its events are known."""
    return f'00-{step_id:032x}-{step_id:016x}-01'


def trace_step(trace):
    return int(trace[3:35], 16)


class History:
    """All that the checker knows."""

    def __init__(self):
        self.transactions, self.faults, self.events = [], [], []
        self.published = []         # events as the broker has them, in its order, one list for each partition
        self.issuances = []         # (campaign, serial, user, state) in the end
        self.archived = []          # the same, of rows in the archive
        self.requests = []          # rows of coupon.request in the end
        self.tickets = []           # rows of coupon.ticket in the end
        self.campaigns = {}         # campaign -> {"stock", "limit", "room"} as they were created
        self.rooms = {}             # room -> {"capacity", "method"}
        self.counting = None        # the session that called when nobody else did
        self.counted = {}           # (way, outcome) -> how many calls of its the server has counted
        self.findings = []          # what the server itself says is wrong in the end
        self.epoch = 0.0            # what the wall clock is ahead of the monotonic one
        self.clock = 0.001          # seconds by which the server's clock was off at most
        self.clock_was_set = False

    def moment(self, seconds):
        """A time of the server, in seconds since 1970, as the latest moment here that it can be."""
        return seconds - self.epoch + self.clock

    def earliest(self, seconds):
        return seconds - self.epoch - self.clock

    def lapse(self, event):
        """Until when a hold can have been alive."""
        return self.moment(datetime.fromisoformat(event.payload['held_until'].replace('Z', '+00:00')).timestamp())

    def read(self, path):
        with open(path) as file:
            for line in file:
                line = json.loads(line)
                if 'fault' in line:
                    self.faults.append(line)
                elif 'steps' in line:
                    self.transactions.append(Transaction(line))

    def steps(self):
        for transaction in self.transactions:
            yield from transaction.steps
