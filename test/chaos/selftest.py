"""The checker, tried: a history that keeps the laws, and for each law short ones
that break it.  Each must be found, and by that law; the rest finds nothing.

	python3 selftest.py
"""
import sys

import checker

from history import COMMITTED, ABORTED, UNKNOWN, Event, History, Transaction, trace

ids = iter(range(1, 10**6))


class Story:
    """A history in the making: each call takes a second, unless it says otherwise."""

    def __init__(self, **campaigns):
        self.history = History()
        self.history.campaigns = {1: {'stock': 2, 'limit': 1, 'room': None}, **campaigns.get('campaigns', {})}
        self.now = 0.0

    def transaction(self, *steps, end=COMMITTED, start=None, done=None):
        lines = []
        start = self.now if start is None else start
        done = start + 1 if done is None else done
        for way, args, rows, *undone in steps:
            lines.append({'id': next(ids), 'way': way, 'start': start, 'stop': done - 0.1, 'rows': rows, 'undone': bool(undone), **args})
        self.history.transactions.append(Transaction({'session': 1, 'end': end, 'start': start, 'done': done, 'steps': lines}))
        self.now = max(self.now, done) + 0.5
        return self.history.transactions[-1].steps

    def call(self, way, rows, end=COMMITTED, start=None, done=None, **args):
        return self.transaction((way, {'campaign': 1, **args}, rows), end=end, start=start, done=done)[0]

    def event(self, type, step, user='a', serial=1, **payload):
        number = len(self.history.events) + 1
        told = {'campaign_id': 1, 'user_id': user, 'serial': serial, **payload}
        self.history.events.append(Event(f'{number:032x}', user or '1', type, told, step and trace(step.id)))
        return self.history.events[-1]

    def issue(self, user='a', serial=1, way='issue', start=None, done=None, **args):
        step = self.call(way, [[user, 'issued', str(serial)]], start=start, done=done, user=user, **args)
        self.event('coupon.issued', step, user, serial)
        return step

    def owns(self, *owners):
        self.history.issuances = [(1, serial, user, 'issued') for serial, user in owners]


CASES = []


def case(law):
    """A story that breaks a law, or none: law is None."""
    def add(function):
        CASES.append((function, law))
        return function
    return add


# ---- what is as it should be ----

@case(None)
def a_sale(s):
    s.issue('a', 1)
    s.call('issue', [['a', 'already_issued', '1']], user='a')
    s.issue('b', 2)
    s.call('issue', [['c', 'sold_out', None]], user='c')
    s.event('coupon.revoked', s.call('revoke', [['t']], user='a'), 'a', 1)
    s.issue('c', 1)
    s.owns((1, 'c'), (2, 'b'))


@case(None)
def lost_answers(s):
    """Of two lost calls one was carried out, and is seen later."""
    s.call('issue', None, UNKNOWN, user='b')
    lost = s.call('issue', None, UNKNOWN, user='a')
    s.event('coupon.issued', lost, 'a', 1)
    s.call('issue', [['a', 'already_issued', '1']], user='a')
    s.owns((1, 'a'))


@case(None)
def undone(s):
    s.transaction(('issue', {'campaign': 1, 'user': 'a'}, [['a', 'issued', '1']], True), ('issue', {'campaign': 1, 'user': 'a'}, [['a', 'issued', '2']]))
    s.event('coupon.issued', s.history.transactions[0].steps[1], 'a', 2)
    s.owns((2, 'a'))


@case(None)
def sold_out_beside_a_revocation(s):
    """The unit came back while the call ran: it may have looked before."""
    s.issue('a', 1)
    s.issue('b', 2)
    step = s.call('revoke', [['t']], user='a', start=10, done=12)
    s.event('coupon.revoked', step, 'a', 1)
    s.call('issue', [['c', 'sold_out', None]], user='c', start=11, done=13)
    s.owns((2, 'b'))


# ---- laws 1 to 3 ----

@case('never oversell')
def a_unit_twice(s):
    s.issue('a', 1)
    s.issue('b', 1)
    s.owns((1, 'b'))


@case('never oversell')
def a_unit_beyond_the_stock(s):
    s.issue('a', 3)
    s.owns((3, 'a'))


@case('never oversell')
def a_unit_before_it_was_added(s):
    s.issue('a', 3)
    s.event('coupon.campaign_stock_added', s.call('add_stock', [['3']], units=1), None, None, units=1)
    s.owns((3, 'a'))


@case('never undersell')
def sold_out_too_early(s):
    s.issue('a', 1)
    s.call('issue', [['b', 'sold_out', None]], user='b')
    s.owns((1, 'a'))


@case('never undersell')
def sold_out_while_one_was_rolled_back(s):
    """The second unit was in a transaction that failed, so it could come back."""
    s.issue('a', 1)
    s.call('issue', [['b', 'issued', '2']], ABORTED, user='b', start=10, done=12)
    s.call('issue', [['c', 'sold_out', None]], user='c', start=10.5, done=11)
    s.owns((1, 'a'))


@case('never undersell')
def sold_out_after_a_return(s):
    s.issue('a', 1)
    s.issue('b', 2)
    s.event('coupon.revoked', s.call('revoke', [['t']], user='b'), 'b', 2)
    s.call('issue', [['c', 'sold_out', None]], user='c')
    s.owns((1, 'a'))


@case('one per user')
def two_for_one(s):
    s.issue('a', 1)
    s.issue('a', 2)
    s.owns((1, 'a'), (2, 'a'))


@case('a retry finds its unit')
def a_key_twice(s):
    s.history.campaigns[1]['limit'] = 5
    s.issue('a', 1, key='k')
    s.issue('a', 2, key='k')
    s.owns((1, 'a'), (2, 'a'))


@case('a retry finds its unit')
def a_key_of_another_unit(s):
    s.history.campaigns[1]['limit'] = 5
    s.issue('a', 1, key='k')
    s.issue('a', 2, key='l')
    s.call('issue', [['a', 'issued', '2']], user='a', key='k')
    s.owns((1, 'a'), (2, 'a'))


@case('no answer tells of what is not committed')
def the_limit_of_nobody(s):
    s.call('hold', [['a', 'limit_reached', '1', None]], user='a', serial=1)


@case('a retry finds its unit')
def a_key_twice_in_batches(s):
    s.history.campaigns[1]['limit'] = 5
    for serial in (1, 2):
        step = s.call('many', [['b', 'not_open', None], ['a', 'issued', str(serial)]], users=['b', 'a'], keys=['l', 'k'])
        s.event('coupon.issued', step, 'a', serial)
    s.owns((1, 'a'), (2, 'a'))


@case('a retry finds its unit')
def a_unit_is_forgotten(s):
    s.issue('a', 1)
    s.call('issue', [['a', 'sold_out', None]], user='a')
    s.owns((1, 'a'))


@case('a retry finds its unit')
def a_hold_is_forgotten(s):
    held(s)
    s.call('release', [['f']], user='a', serial=1)
    s.history.issuances = [(1, 1, 'a', 'held')]


@case('no answer tells of what is not committed')
def taken_by_nobody(s):
    s.call('hold', [['b', 'taken', '1', None]], user='b', serial=1)


# ---- laws 5 and 6 ----

@case('issued is durable')
def a_lost_commit(s):
    s.call('issue', [['a', 'issued', '1']], user='a')


@case('nothing uncommitted is told')
def an_abort_with_an_event(s):
    s.event('coupon.issued', s.call('issue', [['a', 'issued', '1']], ABORTED, user='a'))
    s.owns((1, 'a'))


@case('nothing uncommitted is told')
def a_savepoint_with_an_event(s):
    step, = s.transaction(('issue', {'campaign': 1, 'user': 'a'}, [['a', 'issued', '1']], True))
    s.event('coupon.issued', step)
    s.owns((1, 'a'))


@case('a transaction is whole')
def half_a_transaction(s):
    first, _ = s.transaction(('issue', {'campaign': 1, 'user': 'a'}, [['a', 'issued', '1']]),
                             ('issue', {'campaign': 1, 'user': 'b'}, [['b', 'issued', '2']]), end=UNKNOWN)
    s.event('coupon.issued', first)
    s.owns((1, 'a'))


@case('no answer tells of what is not committed')
def told_of_a_rollback(s):
    s.call('issue', [['a', 'issued', '1']], ABORTED, user='a', start=0, done=5)
    s.call('issue', [['a', 'already_issued', '1']], user='a', start=1, done=2)


@case('no answer tells of what is not committed')
def told_of_the_past(s):
    s.issue('a', 1)
    s.event('coupon.revoked', s.call('revoke', [['t']], user='a'))
    s.call('issue', [['a', 'already_issued', '1']], user='a')


@case('one event for each change')
def two_events(s):
    step = s.issue('a', 1)
    s.event('coupon.redeemed', step)
    s.history.issuances = [(1, 1, 'a', 'redeemed')]


@case('one event for each change')
def an_event_of_another_kind(s):
    s.event('coupon.redeemed', s.call('issue', None, UNKNOWN, user='a'))


@case('one event for each change')
def an_event_of_a_call_that_was_never_made(s):
    s.event('coupon.issued', s.call('issue', [['a', 'issued', '1']], user='a'))
    s.history.transactions.pop()
    s.owns((1, 'a'))


@case('one event for each change')
def an_event_of_nobody(s):
    s.event('coupon.issued', None)
    s.owns((1, 'a'))


@case('one event for each change')
def a_row_without_an_event(s):
    s.owns((1, 'a'))


@case('one event for each change')
def an_event_without_a_row(s):
    s.issue('a', 1)


@case('events in order')
def ids_against_time(s):
    first = s.call('emit', [['x']], key='k', n=1)
    second = s.call('emit', [['x']], key='k', n=2)
    s.event('chaos.own', second, None, None)
    s.event('chaos.own', first, None, None)


@case('events in order')
def the_broker_against_time(s):
    first = s.event('chaos.own', s.call('emit', [['x']], key='k', n=1), None, None)
    second = s.event('chaos.own', s.call('emit', [['x']], key='k', n=2), None, None)
    s.history.published = [[second, first, second]]


@case('every event is published')
def lost_on_the_way(s):
    first = s.event('chaos.own', s.call('emit', [['x']], key='k', n=1), None, None)
    s.event('chaos.own', s.call('emit', [['x']], key='k', n=2), None, None)
    s.history.published = [[first]]


# ---- the end of campaigns and of users ----

@case(None)
def codes_that_are_there(s):
    s.call('import', [['0']], codes=['X'])


@case(None)
def an_archived_sale(s):
    s.issue('a', 1)
    s.event('coupon.campaign_closed', s.call('close', [['t']]), None, None)
    s.event('coupon.campaign_archived', s.call('archive', []), None, None)
    s.call('issue', [['a', 'unknown_campaign', None]], user='a')
    s.history.archived = [(1, 1, 'a', 'issued')]


@case('one event for each change')
def archived_and_there(s):
    s.issue('a', 1)
    s.call('archive', [])
    s.owns((1, 'a'))
    s.history.archived = s.history.issuances


@case('one event for each change')
def lost_in_the_archive(s):
    s.issue('a', 1)
    s.call('archive', [])


@case('no answer tells of what is not committed')
def an_unknown_campaign(s):
    s.call('issue', [['a', 'unknown_campaign', None]], user='a')


def erased(s, waiting='0'):
    """Two units, one of which is renamed; the event has lost its trace."""
    s.issue('a', 1)
    s.history.events[-1].payload['user_id'] = 'erased-1'
    s.history.events[-1].step = None
    s.call('erase', [['1', waiting]], user='a')
    s.event('coupon.user_erased', None, 'a', None)


@case(None)
def a_user_is_forgotten(s):
    erased(s)
    s.issue('a', 2)                 # as somebody new
    s.owns((1, 'erased-1'), (2, 'a'))


@case('who is erased is forgotten')
def a_name_is_kept(s):
    erased(s)
    s.owns((1, 'erased-1'))
    s.history.tickets.append({'room': 'hall', 'token': 't', 'user': 'a', 'admitted_at': None, 'ended_at': None, 'reason': None})


@case('issued is durable')
def consumers_are_not_told(s):
    erased(s)
    s.history.events.pop()
    s.owns((1, 'erased-1'))


@case('one event for each change')
def a_unit_goes_with_its_user(s):
    erased(s)


# ---- payments ----

def held(s):
    s.event('coupon.held', s.call('hold', [['a', 'held', '1', None]], user='a', serial=1), held_until='1970-01-01T00:01:00Z')


@case('refused xor confirmed')
def refused_and_confirmed(s):
    held(s)
    args = dict(user='a', serial=1, ref='p')
    s.event('coupon.confirm_refused', s.call('confirm', [['a', 'lost', '1']], **args), ref='p')
    s.event('coupon.confirmed', s.call('confirm', [['a', 'confirmed', '1']], **args), ref='p')
    s.owns((1, 'a'))


@case('refused xor confirmed')
def refused_twice(s):
    args = dict(user='a', serial=1, ref='p')
    for _ in range(2):
        s.event('coupon.confirm_refused', s.call('confirm', [['a', 'lost', '1']], **args), ref='p')


@case('never undersell')
def sold_out_behind_a_hold_that_ran_out(s):
    held(s)
    s.issue('b', 2)
    s.call('issue', [['c', 'sold_out', None]], user='c', start=61, done=62)
    s.history.issuances = [(1, 1, 'a', 'held'), (1, 2, 'b', 'issued')]


# ---- laws 8 and 9 ----

def wish(s, request, outcome, decided_at, user, polls=()):
    step = s.call('request', [[request, 'WAITING', None, '1', None, 'f']], user=user)
    s.history.requests.append({'request_id': request, 'campaign': '1', 'user': user, 'outcome': outcome, 'serial': None, 'request_key': None,
                               'decided_at': decided_at})
    for status, position in polls:
        s.call('request_status', [[request, status, None, position, None]], request=request)
    return step


def ended(s, outcome, serial=None, told=None):
    """The request of a, which ended so; its event says `told`."""
    step = wish(s, 'r', outcome, 5.0, 'a')
    s.history.requests[-1]['serial'] = serial
    if outcome == 'issued' and told is None:
        s.event('coupon.issued', step, 'a', int(serial))
    else:
        s.event('coupon.request_failed', step, 'a', None, request_id='r', outcome=told or outcome)


@case(None)
def a_request_that_was_issued(s):
    s.now = 4.0
    ended(s, 'issued', '1')
    s.call('request_status', [['r', 'COMPLETED', 'issued', '0', '1']], request='r')
    s.call('request', [[None, 'REFUSED', 'already_issued', None, '1', 'f']], user='a')
    s.owns((1, 'a'))


@case('never undersell')
def a_request_is_refused_too_early(s):
    s.issue('b', 1)
    s.call('request', [[None, 'REFUSED', 'sold_out', None, None, 'f']], user='a')
    s.owns((1, 'b'))


@case('never undersell')
def a_request_ends_too_early(s):
    s.issue('b', 1)
    ended(s, 'sold_out')
    s.owns((1, 'b'))


@case('no answer tells of what is not committed')
def a_request_of_somebody_who_has_nothing(s):
    ended(s, 'already_issued', '1')


@case('a retry finds its unit')
def a_request_of_an_owner(s):
    s.issue('a', 1)
    s.call('request', [[None, 'REFUSED', 'closed', None, None, 'f']], user='a')
    s.owns((1, 'a'))


@case('every request ends')
def a_poll_against_the_row(s):
    ended(s, 'paused')
    s.call('request_status', [['r', 'COMPLETED', 'closed', '0', None]], request='r')


@case('one event for each change')
def an_event_against_the_row(s):
    ended(s, 'paused', told='closed')


@case('one event for each change')
def an_event_of_another_unit(s):
    ended(s, 'issued', '1')
    s.history.requests[-1]['serial'] = '2'
    s.owns((1, 'a'))


@case('every request ends')
def a_request_waits_for_ever(s):
    wish(s, 'r', None, None, 'a')


@case('every request ends')
def a_request_is_lost(s):
    wish(s, 'r', None, None, 'a')
    s.history.requests.clear()


@case('every request ends')
def an_outcome_changes(s):
    s.event('coupon.request_failed', wish(s, 'r', 'sold_out', 5.0, 'a', [('COMPLETED', '0'), ('WAITING', '0')]), serial=None, request_id='r')


@case('one event for each change')
def a_decision_without_an_event(s):
    wish(s, 'r', 'sold_out', 5.0, 'a')


@case('positions never rise')
def a_position_rises(s):
    s.event('coupon.request_failed', wish(s, 'r', 'sold_out', 9.0, 'a', [('WAITING', '3'), ('WAITING', '4')]), serial=None, request_id='r')


@case('first come, first served')
def a_later_request_first(s):
    for request, decided_at, user in (('r1', 9.0, 'a'), ('r2', 8.0, 'b')):
        s.event('coupon.request_failed', wish(s, request, 'sold_out', decided_at, user), user, None, request_id=request)


@case(None)
def a_request_is_passed_by(s):
    """Its user had another call open."""
    s.call('issue', [['a', 'sold_out', None]], user='a', start=0, done=9.5)
    s.now = 0.5
    for unit, user in ((1, 'c'), (2, 'd')):
        s.issue(user, unit, start=0, done=0.1)
    s.owns((1, 'c'), (2, 'd'))
    for request, decided_at, user in (('r1', 9.0, 'a'), ('r2', 8.0, 'b')):
        s.event('coupon.request_failed', wish(s, request, 'sold_out', decided_at, user), user, None, request_id=request, outcome='sold_out')


def ticket(s, token, user, admitted_at, ended_at=None):
    s.call('join', [[token, 'WAITING', '1']], room='hall', user=user)
    s.history.tickets.append({'room': 'hall', 'token': token, 'user': user, 'admitted_at': admitted_at, 'ended_at': ended_at, 'reason': None})


@case('first come, first served')
def a_later_ticket_first(s):
    ticket(s, 't1', 'a', 9.0)
    ticket(s, 't2', 'b', 8.0)


@case('positions never rise')
def a_place_is_lost(s):
    ticket(s, 't', 'a', None)
    s.call('position', [['t', 'WAITING', '2']], token='t')


@case('rooms have a capacity')
def too_many_inside(s):
    s.history.rooms = {'hall': {'capacity': 1}}
    ticket(s, 't1', 'a', 8.0)
    ticket(s, 't2', 'b', 9.0)


def altered(s, capacity, second):
    """The first is in when the room is made smaller or larger."""
    s.history.rooms = {'hall': {'capacity': 1}}
    ticket(s, 't1', 'a', 1.0)
    s.now = 3.0
    s.call('room_alter', [['']], room='hall', capacity=capacity)
    ticket(s, 't2', 'b', second)


@case(None)
def more_room(s):
    altered(s, 2, 5.0)


@case('rooms have a capacity')
def more_room_later(s):
    altered(s, 2, 2.5)


@case('rooms are asked')
def past_the_room(s):
    s.history.campaigns[1]['room'] = 'hall'
    ticket(s, 't', 'a', 1.0, 2.0)
    s.now = 5.0
    s.issue('a', 1)
    s.owns((1, 'a'))


# ---- the operator ----

@case('closed is closed')
def issued_after_the_close(s):
    s.event('coupon.campaign_closed', s.call('close', [['t']]), None, None)
    s.issue('a', 1)
    s.owns((1, 'a'))


@case('closed is closed')
def issued_in_a_pause(s):
    s.event('coupon.campaign_paused', s.call('pause', [['t']]), None, None)
    s.issue('a', 1)
    s.event('coupon.campaign_resumed', s.call('resume', [['t']]), None, None)
    s.owns((1, 'a'))


@case('the server agrees')
def a_finding_of_the_server(s):
    s.history.findings.append(('the server agrees', 'coupon_verify(): a row'))


@case('never oversell')
def a_campaign_of_nobody(s):
    s.event('coupon.issued', s.call('issue', [['a', 'issued', '1']], user='a', campaign=7), campaign_id=7)
    s.history.issuances = [(7, 1, 'a', 'issued')]


@case('counters add up')
def a_status_that_does_not_add_up(s):
    s.call('status', [['10', '3', '0', '0', '6']])


def counted(s, **calls):
    """Of one who was told not_open once, and an ERROR once."""
    s.history.counting = 1
    s.call('issue', [['a', 'not_open', None]], user='a')
    s.call('issue', None, ABORTED, user='a')
    s.history.transactions[-1].steps[0].error = '22023'
    s.history.counted = {('issue', outcome): number for outcome, number in calls.items()}


@case(None)
def all_is_counted(s):
    counted(s, not_open=1, error=1)


@case('counters add up')
def an_answer_is_counted_twice(s):
    counted(s, not_open=2, error=1)


@case('counters add up')
def an_error_is_not_counted(s):
    counted(s, not_open=1)


def main():
    failed = 0
    for function, law in CASES:
        story = Story()
        function(story)
        violations = checker.check(story.history)
        found = {violation.law for violation in violations}
        # a broken law may break others, but what is whole breaks none
        if (law is None and found) or (law is not None and law not in found):
            failed += 1
            print(f'not ok - {function.__name__}: wants {law}, found {found or "nothing"}')
            print('\n'.join(checker.tell(violations, '')))
        else:
            lines = checker.tell(violations, 'selftest')
            print(f'ok - {function.__name__}: {lines[0] if lines else "nothing"}')
    names = {law for _, law in CASES}
    print(f'{len(CASES)} histories, {len(names) - 1} laws, {failed} failed')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
