"""Events as an account: which call each comes of, and when it took effect.

What can be known of time: a transaction takes effect at one moment between its
start and its answer; if the answer was lost, at any later one.  Of the events of
a unit the order is known, so each moment is bounded by its neighbours', too.
"""
import collections
import math

from history import ABORTED, COMMITTED, UNKNOWN

# ---- what a call promises ----

ISSUES = ('issue', 'grouped', 'many', 'attempt', 'http_issue')
HOLDS = ('hold', 'hold_many', 'hold_any', 'http_hold')
CONFIRMS = ('confirm', 'http_confirm')
REQUESTS = ('request', 'http_request')      # decided later
ENDS = ('drop', 'archive')                  # of a campaign, in steps that commit
# what each way may leave behind; confirming what was lost is a refusal
CHANGES = {
    **dict.fromkeys(ISSUES, {'issued': 'issued'}),
    **dict.fromkeys(HOLDS, {'held': 'held'}),
    **dict.fromkeys(CONFIRMS, {'confirmed': 'confirmed', 'lost': 'confirm_refused', 'other_ref': 'confirm_refused',
                               'limit_reached': 'confirm_refused'}),
    'redeem': {'redeemed': 'redeemed'},
    'cancel': {'cancelled': 'redeem_cancelled'},
    'http_release': {'released': 'hold_released'},
}
OPERATIONS = {'add_stock': 'campaign_stock_added', 'reduce': 'campaign_stock_reduced',
              'withdraw': 'campaign_stock_reduced', 'alter': 'campaign_altered', 'put_off': 'campaign_altered', 'import': 'campaign_stock_added', 'pause': 'campaign_paused', 'resume': 'campaign_resumed', 'close': 'campaign_closed',
              'emit': 'chaos.own'}


def promised(step):
    """The events of a step by its answer: (type, user, serial), and whether an
    earlier call may have them in its stead (a repeated payment, a key)."""
    for row in step.rows or ():
        if step.way in CHANGES:
            kind = CHANGES[step.way].get(row[1])
            if kind:
                serial = int(row[2]) if row[2] is not None else int(step.args['serial'])
                yield kind, row[0], serial, kind == 'confirm_refused' or bool(step.args.get('key') or step.args.get('keys'))
        elif step.way == 'revoke' and row[0] == 't':
            yield 'revoked', step.args['user'], None, False
        elif step.way == 'release' and row[0] == 't':
            yield 'hold_released', step.args['user'], int(step.args['serial']), False
        elif step.way == 'erase':
            yield 'user_erased', step.args['user'], None, False
        elif step.way in OPERATIONS and row[0] != ('0' if step.way == 'import' else 'f'):
            yield OPERATIONS[step.way], None, None, False


def might(step):
    """Types of events that a call without an answer may have."""
    if step.way in CHANGES:
        return set(CHANGES[step.way].values())
    return {'revoke': ('revoked',), 'release': ('hold_released',), 'erase': ('user_erased',)}.get(step.way, (OPERATIONS.get(step.way),))


# type of event -> the states of a unit before it, and after it
STORY = {
    'issued': (('free',), 'owned'),
    'held': (('free',), 'held'),
    'confirmed': (('free', 'held'), 'owned'),
    'hold_released': (('held',), 'free'),
    'hold_expired': (('held',), 'free'),
    'redeemed': (('owned',), 'redeemed'),
    'redeem_cancelled': (('redeemed',), 'owned'),
    'expired': (('owned',), 'expired'),
    'revoked': (('owned', 'held', 'expired'), 'free'),
}


class Account:
    """The events, in order, with the moments between which each took effect."""

    def __init__(self, history):
        self.history = history
        self.step = {step.id: step for step in history.steps()}
        self.events = sorted(history.events, key=lambda event: event.id)
        self.pseudonyms = {}            # (campaign, serial) -> that of whoever had it, and was erased
        self.put_pseudonyms()
        self.of_step = collections.defaultdict(list)
        self.of_unit = collections.defaultdict(list)
        self.of_user = collections.defaultdict(list)
        self.of_campaign = collections.defaultdict(list)
        for event in self.events:
            if event.step is not None:
                self.of_step[event.step].append(event)
            if event.type in STORY:
                self.of_unit[event.campaign, event.serial].append(event)
                self.of_user[event.campaign, event.user].append(event)
            elif event.type.startswith('campaign_'):
                self.of_campaign[event.campaign].append(event)
        self.ends = collections.defaultdict(lambda: math.inf)   # campaign -> from when on its rows may go
        for step in history.steps():
            if step.way in ENDS and step.error not in ('55000', '55006', 'UC001'):
                self.ends[step.args['campaign']] = min(self.ends[step.args['campaign']], step.start)
        self.seen = collections.defaultdict(lambda: math.inf)   # request -> when it was first known to be decided
        for step in history.steps():
            if step.way in ('request_status', 'request_wait') and step.rows and step.rows[0][1] == 'COMPLETED':
                self.seen[step.args['request']] = min(self.seen[step.args['request']], step.stop)

    def put_pseudonyms(self):
        """Of units whose owner was erased: in events that were published before, too.
        An erasure takes traces away, so calls are known by the unit, or the user."""
        for campaign, serial, user in [*((event.campaign, event.serial, event.user) for event in self.events),
                                       *((row[0], row[1], row[2]) for row in self.history.issuances)]:
            if user and user.startswith('erased-'):
                self.pseudonyms[campaign, serial] = user
        calls, erasures = {}, collections.defaultdict(list)
        for step in self.history.steps():
            if step.end == ABORTED:
                continue
            for kind, _, serial, _ in promised(step) if self.pseudonyms else ():
                # what was rolled back, unknown to its caller, has been given to another one since
                if step.end == COMMITTED or (kind, step.args.get('campaign'), serial) not in calls:
                    calls[kind, step.args.get('campaign'), serial] = step.id
            if step.way == 'erase':
                erasures[step.args['user']].insert(0 if step.rows else len(self.events), step.id)
        for event in self.events:
            if self.was_erased(event):
                event.payload['user_id'] = self.pseudonyms[event.campaign, event.serial]
                event.step = event.step or calls.get((event.type, event.campaign, event.serial))
            elif event.type == 'user_erased' and erasures[event.user]:
                event.step = erasures[event.user].pop(0)

    def was_erased(self, event):
        return (event.campaign, event.serial) in self.pseudonyms

    def moments(self, events):
        """(lo, hi) of each: between which moments it took effect."""
        bounds = []
        lo = -math.inf
        for event in events:
            step = self.step.get(event.step)
            if step:
                lo = max(lo, step.start)
            bounds.append([lo, self.latest(step)])
        hi = math.inf
        for bound in reversed(bounds):
            bound[1] = hi = min(hi, bound[1])
        return bounds

    def latest(self, step):
        if step is None:
            return math.inf
        if step.way in REQUESTS:
            return self.seen[step.rows[0][0]] if step.way == 'request' and step.rows else math.inf
        return step.transaction.done if step.end == COMMITTED else math.inf

    def is_before(self, event, step):
        """Whether it can have been there when the call was answered."""
        cause = self.step.get(event.step)
        return cause is None or cause.start <= step.stop

    def was_returned(self, first, second):
        """Whether the unit went back to stock between two of its events."""
        return any(event.type in ('revoked', 'hold_released', 'hold_expired') and first.id < event.id < second.id
                   for event in self.of_unit[first.campaign, first.serial])

    def about(self, step):
        """The last events of the users of a call."""
        users = {row[0] for row in step.rows or ()} | {step.args.get('user')}
        return [event for user in users for event in self.of_user.get((step.args.get('campaign'), user), ())[-3:]]

    def meddled(self, steps, request, decided_at):
        """Whether the request's user had another call open while it waited."""
        until = self.history.moment(decided_at)
        return any(step.start <= until and (step.end == UNKNOWN or step.transaction.done >= request.start) for step in steps)

    def periods(self, events, state):
        """(state, from, to) between the events: when the state can have been so.
        state(event) is what an event leaves behind; before the first it is None."""
        bounds = self.moments(events)
        yield None, -math.inf, bounds[0][1] if bounds else math.inf
        for n, event in enumerate(events):
            yield state(event), bounds[n][0], bounds[n + 1][1] if n + 1 < len(events) else math.inf


    def certain(self, events, state):
        """(state, from, to): when it must have been so."""
        bounds = self.moments(events)
        for n, event in enumerate(events):
            start, stop = bounds[n][1], bounds[n + 1][0] if n + 1 < len(events) else math.inf
            if start < stop:
                yield state(event), start, stop
