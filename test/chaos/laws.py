"""The laws of the design, section 2, as questions to a history.

Each law is a function that yields a Violation for what must not be.  It knows
what callers were told, when, and the events, each of which carries the call
that it comes of; of the implementation it knows nothing.

A call's answer about others is right if it was true at some moment within the call.
"""
import bisect
import collections
import math

from account import CHANGES, CONFIRMS, ENDS, HOLDS, ISSUES, REQUESTS, STORY, might, promised
from history import ABORTED, COMMITTED, UNKNOWN

LAWS = []
Violation = collections.namedtuple('Violation', 'law what witness')


def law(function):
    LAWS.append(function)
    return function


# ---- 1, 2, 3: stock and users ----

@law
def a_unit_is_one_users_at_a_time(account):
    """Each unit's events tell a possible story: law 1."""
    for (campaign, serial), events in account.of_unit.items():
        state, owner, last = 'free', None, None
        for event in events:
            before, after = STORY[event.type]
            if state not in before or (owner is not None and owner != event.user):
                yield Violation('never oversell', f'unit {serial} of campaign {campaign} was {state}'
                                f'{" of " + owner if owner else ""} when it was {event.type} for {event.user}', [last, event])
            state, owner, last = after, None if after == 'free' else event.user, event


@law
def units_exist(account):
    """No unit beyond the stock, as it was at the moment."""
    for (campaign, serial), events in account.of_unit.items():
        known = account.history.campaigns.get(campaign)
        if known is None:
            yield Violation('never oversell', f'campaign {campaign} is not known', events[:1])
            continue
        total = known['stock']
        source = None
        if serial > total:
            for added in account.of_campaign[campaign]:
                if added.type == 'campaign_stock_added' and added.step is not None:
                    total += added.payload['units']
                    if serial <= total:
                        source = added
                        break
        if not 1 <= serial <= total:
            yield Violation('never oversell', f'campaign {campaign} has {total} units, not {serial}', events[:1])
        elif source is not None:
            (first, _), = account.moments([source])
            (_, last), = account.moments(events[:1])
            if last < first:
                yield Violation('never oversell', f'unit {serial} of campaign {campaign} was used before it was added', [source, events[0]])


@law
def a_user_has_as_many_as_allowed(account):
    """Law 3, in the order of the events."""
    for (campaign, user), events in account.of_user.items():
        limit = account.history.campaigns.get(campaign, {}).get('limit', 1)
        units = {}
        for event in events:
            if STORY[event.type][1] == 'free':
                units.pop(event.serial, None)
            else:
                units[event.serial] = event
            if len(units) > limit:
                yield Violation('one per user', f'{user} has {len(units)} units of campaign {campaign}, and may have {limit}', list(units.values()))
                break


@law
def the_tables_are_what_the_events_tell(account):
    """Law 6, in the end: state by state."""
    told, last = {}, {}
    for unit, events in account.of_unit.items():
        after = STORY[events[-1].type][1]
        last[unit] = events[-1]
        if after != 'free':
            told[unit] = (events[-1].user, {'owned': 'issued'}.get(after, after))
    there = {}
    for campaign, serial, user, state in account.history.issuances + account.history.archived:
        if (campaign, serial) in there:
            yield Violation('one event for each change', f'unit {serial} of campaign {campaign} is in the archive, and there or again', [])
        there[campaign, serial] = (user, state)
    dropped = {step.args['campaign'] for step in account.history.steps() if step.way == 'drop'}
    for unit in sorted(set(told) | set(there)):
        if unit[0] not in dropped and told.get(unit) != there.get(unit):
            yield Violation('one event for each change', f'unit {unit[1]} of campaign {unit[0]} is {there.get(unit, "free")},'
                            f' by its events {told.get(unit, "free")}', [last[unit]] if unit in last else [])


# ---- 4, 5, 6: answers and events ----

@law
def events_match_answers(account):
    """A change that was answered has its one event, what was undone has none,
    and what nobody knows of happened as a whole or not at all: laws 5 and 6."""
    kept = collections.defaultdict(list)
    for event in account.events:
        kept[event.type, event.campaign, event.user, event.serial].append(event)
    for transaction in account.history.transactions:
        missing, found = [], []
        for step in transaction.steps:
            if step.way in REQUESTS + ENDS:
                continue
            events = list(account.of_step.get(step.id, ()))
            if step.end == ABORTED:
                for event in events:
                    yield Violation('nothing uncommitted is told', f'call {step.id} was undone, and has an event', [step, event])
                continue
            for kind, user, serial, repeated in promised(step):
                match = next((event for event in events if event.type == kind and (user is None or event.user == user or account.was_erased(event))
                              and (serial is None or event.serial == serial)), None)
                if match:
                    events.remove(match)
                    found.append(step)
                elif not (repeated and any(account.is_before(event, step) for event in kept[kind, step.args['campaign'], user, serial])):
                    missing.append((step, kind, user, serial))
            for event in events:
                if step.rows is not None:
                    yield Violation('one event for each change', f'call {step.id} has an event that its answer does not tell of', [step, event])
                elif event.type not in might(step):
                    yield Violation('one event for each change', f'call {step.id} cannot have caused this event', [step, event])
                else:
                    found.append(step)
        if missing and (transaction.end == COMMITTED or found):
            for step, kind, user, serial in missing:
                what = 'issued is durable' if transaction.end == COMMITTED else 'a transaction is whole'
                yield Violation(what, f'call {step.id} answered {kind} {user} {serial}, and there is no such event', [step, *account.about(step)])


@law
def every_event_has_a_cause(account):
    """Only time ends something without a call."""
    for event in account.events:
        if event.step is None:
            if event.type not in ('hold_expired', 'expired') and not event.type.startswith('campaign_') and not account.was_erased(event):
                yield Violation('one event for each change', 'an event of no call', [event])
        elif event.step not in account.step:
            yield Violation('one event for each change', 'an event of a call that was never made', [event])


@law
def events_are_in_order(account):
    """A call that began after another had been answered has the later ids."""
    latest, holder = -math.inf, None      # the latest start among the events so far
    for event in account.events:
        step = account.step.get(event.step)
        if step is None or step.way in REQUESTS:
            continue
        if step.end == COMMITTED and step.transaction.done < latest:
            yield Violation('events in order', 'its id is above that of an event whose call began after this one had been answered',
                            [holder, account.step[holder.step], event, step])
        if step.start > latest:
            latest, holder = step.start, event


@law
def the_broker_has_each_event_in_order(account):
    """At least once, and in order for each key: law 6."""
    if not account.history.published:
        return
    seen = {}
    for partition in account.history.published:
        last = collections.defaultdict(lambda: (-math.inf, None))
        for event in partition:
            if event.id in seen:
                continue
            seen[event.id] = event
            step = account.step.get(event.step)
            if step is None or step.way in REQUESTS:
                continue
            if step.end == COMMITTED and step.transaction.done < last[event.key][0]:
                yield Violation('events in order', f'the broker has key {event.key} out of order', [last[event.key][1], event, step])
            if step.start > last[event.key][0]:
                last[event.key] = (step.start, event)
    for event in account.events:
        if event.id not in seen:
            yield Violation('every event is published', 'the broker does not have it', [event])


# ---- what callers are told of others ----

@law
def answers_were_true(account):
    """already_issued, not_issued and their like: at some moment within the call."""
    periods = {}

    def units_of(campaign, user):
        """[(serial, state, from, to)]: what the user can have had, and when."""
        if (campaign, user) not in periods:
            mine = []
            for serial in {event.serial for event in account.of_user.get((campaign, user), ())}:
                events = account.of_unit[campaign, serial]
                mine += [(serial, *period) for period in
                         account.periods(events, lambda event: (STORY[event.type][1], event.user)) if period[0] and period[0][1] == user]
            periods[campaign, user] = mine
        return periods[campaign, user]

    for step in account.history.steps():
        campaign = step.args.get('campaign')
        if step.way in REQUESTS:
            continue
        own = {(row[0], str(row[2])) for other in step.transaction.steps if other.start <= step.start and other.way in CHANGES
               for row in other.rows or () if row[1] in ('issued', 'held', 'confirmed', 'redeemed')}
        for row in step.rows or ():
            if step.way not in ISSUES + HOLDS + CONFIRMS + ('redeem',):
                continue
            user, status, serial = row[:3]
            states = {'already_issued': ('owned', 'redeemed', 'expired'), 'already_held': ('held',), 'already_confirmed': ('owned', 'redeemed', 'expired'),
                      'already_redeemed': ('redeemed',), 'held': ('held',) if step.way in ISSUES + ('redeem',) else None}.get(status)
            if states is None or (user, str(serial)) in own or (serial and (campaign, int(serial)) in account.pseudonyms):
                continue
            if not any((serial is None or unit == int(serial)) and state[0] in states and start <= step.stop and stop >= step.start
                       for unit, state, start, stop in units_of(campaign, user)):
                yield Violation('no answer tells of what is not committed', f'{user} was told {status} {serial} of campaign {campaign}, and at no moment'
                                f' of call {step.id} this was so', [step, *(account.of_user.get((campaign, user), ())[-4:])])
    for step, outcome, serial, start, stop in decisions(account):
        campaign, user = step.args['campaign'], step.args['user']
        if outcome == 'already_issued' and not any(str(unit) == serial and state[0] != 'held' and lo <= stop and hi >= start
                                                   for unit, state, lo, hi in units_of(campaign, user)):
            yield Violation('no answer tells of what is not committed', f'the request of {user} ended {outcome} {serial}, and at no moment this was so',
                            [step, *(account.of_user.get((campaign, user), ())[-4:])])


@law
def limits_were_reached(account):
    """A hold is refused by the limit only if the user had so many units at some moment within the call."""
    for step in account.history.steps():
        if step.way not in HOLDS or step is not step.transaction.steps[0]:
            continue
        for row in step.rows or ():
            if row[1] != 'limit_reached':
                continue
            campaign, user = step.args['campaign'], row[0]
            units = {event.serial for event in account.of_user.get((campaign, user), ())}
            had = sum(any(event and STORY[event.type][1] != 'free' and event.user == user and start <= step.stop and stop >= step.start
                          for event, start, stop in account.periods(account.of_unit[campaign, unit], lambda event: event)) for unit in units)
            if had + len(step.rows) <= account.history.campaigns[campaign]['limit']:
                yield Violation('no answer tells of what is not committed', f'{user} was told limit_reached, and had {had} units of campaign {campaign}',
                                [step, *(account.of_user.get((campaign, user), ())[-4:])])
            break


@law
def nobody_is_forgotten(account):
    """Who had a unit all through a call is not told that there is none for them: a retry finds its unit."""
    had = collections.defaultdict(list)
    for (campaign, serial), events in account.of_unit.items():
        for event, start, stop in account.certain(events, lambda event: event):
            after = STORY[event.type][1]
            if after == 'held':
                stop = min(stop, account.history.lapse(event) - 2 * account.history.clock)
            if after != 'free':
                had[campaign, event.user].append((after, serial, start, stop, event))
    for step in account.history.steps():
        campaign = step.args.get('campaign')
        if step is not step.transaction.steps[0]:
            continue                    # what came before in the transaction may have changed that
        for row in step.rows or ():
            if step.way in ISSUES and row[1] in ('sold_out', 'closed', 'paused', 'not_open', 'not_admitted'):
                user, serial, states = row[0], None, ('owned', 'redeemed', 'expired')
                if account.history.campaigns[campaign]['limit'] > 1:
                    continue            # another one was asked for
            elif step.way == 'redeem' and row[1] == 'not_issued':
                user, serial, states = row[0], None, ('owned', 'redeemed')
            elif step.way == 'revoke' and row[0] == 'f':
                user, serial, states = step.args['user'], None, ('owned',)
            elif step.way == 'release' and row[0] == 'f' or step.way in CONFIRMS and row[1] == 'not_held':
                user, serial, states = step.args['user'], int(step.args['serial']), ('held',)
            else:
                continue
            for state, unit, start, stop, event in had[campaign, user]:
                if state in states and serial in (None, unit) and start < step.start and step.stop < min(stop, account.ends[campaign]):
                    yield Violation('a retry finds its unit', f'{user} had unit {unit} of campaign {campaign} ({state}) all through call {step.id}',
                                    [event, account.step.get(event.step), step])
                    break
    for step, outcome, _, first, last in decisions(account):
        campaign, user = step.args['campaign'], step.args['user']
        if outcome in ('sold_out', 'closed', 'paused', 'not_open', 'not_admitted') and account.history.campaigns[campaign]['limit'] == 1:
            for state, unit, start, stop, event in had[campaign, user]:
                if state != 'held' and start < first and last < stop:
                    yield Violation('a retry finds its unit', f'{user} had unit {unit} of campaign {campaign}, and their request ended {outcome}',
                                    [event, account.step.get(event.step), step])
                    break


@law
def taken_is_true(account):
    """A unit is another's only if it was at some moment of the call."""
    for step in account.history.steps():
        for row in step.rows or ():
            if step.way in HOLDS and row[1] == 'taken':
                events = account.of_unit.get((step.args['campaign'], int(row[2])), [])
                if not any(event and STORY[event.type][1] != 'free' and event.user != row[0] and start <= step.stop and stop >= step.start
                           for event, start, stop in account.periods(events, lambda event: event)):
                    yield Violation('no answer tells of what is not committed', f'unit {row[2]} was said to be taken', [step, *events[-3:]])


@law
def sold_out_is_true(account):
    """Only if at some moment within the call no unit was free or could come back: law 2."""
    taken = {}
    said = [(step, step.start, step.stop) for step in account.history.steps()
            if step.way in ISSUES + HOLDS and any(row[1] == 'sold_out' for row in step.rows or ())]
    said += [(step, start, stop) for step, outcome, _, start, stop in decisions(account) if outcome == 'sold_out']
    for step, start, stop in said:
        campaign = step.args['campaign']
        if campaign not in taken:
            taken[campaign] = Occupation(account, campaign)
        most, at = taken[campaign].most(start, stop)
        stock = taken[campaign].stock
        # what the transaction has taken itself is in flight for others alone
        own = sum(row[1] in ('issued', 'held') for other in step.transaction.steps if other.start <= step.start and other.args.get('campaign') == campaign
                  and other.end != COMMITTED and other.way in ISSUES + HOLDS for row in other.rows or ())
        if most + own + taken[campaign].withdrawn(stop) < stock:
            free = taken[campaign].free(at)
            yield Violation('never undersell', f'sold out was said of campaign {campaign}, of whose {stock} units at most {most} were taken'
                            f' at any moment of call {step.id}; unit {free} was not', [*account.of_unit.get((campaign, free), ())[-3:], step])


class Occupation:
    """How many units of a campaign can have been taken for sure, moment by moment."""

    def __init__(self, account, campaign):
        self.units = {}
        total = account.history.campaigns[campaign]['stock']
        limits = {}                     # serial -> until when it need not have been there
        for added in account.of_campaign[campaign]:
            if added.type == 'campaign_stock_added' and added.step is not None:
                (_, hi), = account.moments([added])
                for serial in range(total + 1, total + 1 + added.payload['units']):
                    limits[serial] = hi
                total += added.payload['units']
        self.stock = total
        reduced = [event for event in account.of_campaign[campaign] if event.type == 'campaign_stock_reduced']
        self.reductions = [(lo, event.payload['units']) for (lo, _), event in zip(account.moments(reduced), reduced)]
        changes = []
        for serial in range(1, total + 1):
            periods = []
            if serial in limits:
                periods.append((-math.inf, limits[serial]))
            for state, start, stop in account.periods(account.of_unit.get((campaign, serial), []), lambda event: event):
                if state is None or STORY[state.type][1] == 'free':
                    continue
                if STORY[state.type][1] == 'held':
                    stop = min(stop, account.history.lapse(state))
                if periods and start <= periods[-1][1]:
                    periods[-1] = (periods[-1][0], max(stop, periods[-1][1]))
                else:
                    periods.append((start, stop))
            self.units[serial] = periods
            for start, stop in periods:
                changes += [(start, 0, 1), (stop, 1, -1)]
        changes.sort()
        self.times, self.counts, count = [], [], 0
        for when, _, change in changes:
            count += change
            self.times.append(when)
            self.counts.append(count)

    def most(self, start, stop):
        """The highest count between the two, and a moment of it."""
        first = bisect.bisect_left(self.times, start) - 1
        last = bisect.bisect_right(self.times, stop)
        best = (self.counts[first] if first >= 0 else 0, start)
        for n in range(first + 1, last):
            best = max(best, (self.counts[n], self.times[n]), key=lambda found: found[0])
        return best

    def withdrawn(self, at):
        """How many units can have been taken off the sale by then; which, nobody says."""
        return sum(units for lo, units in self.reductions if lo <= at)

    def free(self, at):
        return next(serial for serial, periods in self.units.items() if not any(start <= at <= stop for start, stop in periods))


@law
def a_key_gets_one_answer(account):
    """The same key again finds the unit that it got: law 3, F27."""
    got = {}
    for event in account.events:
        step = account.step.get(event.step)
        if step is None or event.type not in ('issued', 'held'):
            continue
        key = step.args.get('key')
        if step.args.get('keys'):
            keys = [key for user, key in zip(step.args['users'], step.args['keys']) if user == event.user]
            key = keys[0] if len(keys) == 1 else None       # of two wishes nobody knows which it was
        if key is None:
            continue
        wish = (event.campaign, event.user, key)
        if wish in got and step.way not in ('hold_many',):
            yield Violation('a retry finds its unit', f'key {key} of {event.user} got two units of campaign {event.campaign}',
                            [got[wish], account.step[got[wish].step], event, step])
        got[wish] = event


@law
def a_key_is_told_of_its_own_unit(account):
    """A repeated call is answered with the unit that its key got, and no other one: F27."""
    units = collections.defaultdict(set)
    for event in account.events:
        step = account.step.get(event.step)
        if step is not None and event.type in ('issued', 'held'):
            keys = step.args.get('keys') or [step.args.get('key')] * len(step.args.get('users') or ('',))
            for user, key in zip(step.args.get('users') or (event.user,), keys):
                if user == event.user:
                    units[event.campaign, user, key].add(event.serial)
    for step in account.history.steps():
        key = step.args.get('key')
        for row in (step.rows or ()) if key and step.way in ISSUES and step.end == COMMITTED and len(step.transaction.steps) == 1 else ():
            if row[1] == 'issued' and int(row[2]) not in units[step.args['campaign'], row[0], key]:
                yield Violation('a retry finds its unit', f'{row[0]} was told that key {key} got unit {row[2]}, which it did not',
                                [step, *account.of_unit.get((step.args['campaign'], int(row[2])), ())[-3:]])


@law
def the_erased_are_forgotten(account):
    """Nobody knows the name of whose erasure had nothing to wait for, and who did nothing since."""
    history = account.history
    erasures, calls, names = {}, collections.defaultdict(list), collections.defaultdict(list)
    for step in history.steps():
        if step.way == 'erase' and step.end == COMMITTED and step.rows[0][1] == '0':
            erasures[step.args['user']] = step
        elif step.end != ABORTED:
            calls[step.args.get('user')].append(step)
    for name in [row[2] for row in history.issuances] + [row['user'] for row in history.requests + history.tickets]:
        names[name].append(name)
    for event in account.events if not history.published else ():
        if event.type != 'user_erased':
            names[event.key].append(event)
    for user, step in erasures.items():
        if names[user] and all(call.end == COMMITTED and call.transaction.done < step.start for call in calls[user]):
            yield Violation('who is erased is forgotten', f'{user} is still known', [step, *(part for part in names[user] if part != user)])


@law
def campaigns_are_known(account):
    """Unknown is only one that somebody takes away."""
    for step in account.history.steps():
        campaign = step.args.get('campaign')
        unknown = step.error == 'UC001' or any(row[1] == 'unknown_campaign' for row in step.rows or () if len(row) > 1)
        if campaign in account.history.campaigns and unknown and account.ends[campaign] > step.stop:
            yield Violation('no answer tells of what is not committed', f'campaign {campaign} was said to be unknown', [step])


# ---- payments ----

@law
def a_payment_is_refused_or_confirmed(account):
    """Not both, and each once: F26."""
    fate = {}
    for event in account.events:
        if event.type not in ('confirmed', 'confirm_refused'):
            continue
        payment = (event.campaign, event.serial, event.user, event.payload.get('ref'))
        earlier = fate.get(payment)
        if earlier is not None and not (earlier.type == 'confirmed' and account.was_returned(earlier, event)):
            yield Violation('refused xor confirmed', f'payment {payment[3]} of {event.user} was {earlier.type}, then {event.type}', [earlier, event])
        fate[payment] = event


# ---- requests ----

def decisions(account):
    """(step, outcome, serial, from, to): what became of requests, at their entry or
    later, and between which moments that was found out."""
    rows = {row['request_id']: row for row in account.history.requests}
    for step in account.history.steps():
        if step.way != 'request' or not step.rows:
            continue
        request, status, outcome, _, serial, repeated = step.rows[0]
        if status == 'REFUSED':
            yield step, outcome, serial, step.start, step.stop
        elif repeated == 'f' and step.end == COMMITTED and request in rows and rows[request]['decided_at']:
            row = rows[request]
            yield step, row['outcome'], row['serial'], step.start, min(account.seen[request], account.history.moment(row['decided_at']))


@law
def requests_end(account):
    """With a reason, which does not change, and positions never rise: laws 8 and 9."""
    accepted = {}
    for step in account.history.steps():
        if step.way == 'request' and step.rows and step.rows[0][0] and step.end == COMMITTED:
            accepted.setdefault(step.rows[0][0], step)      # the one that made it, unless that one's answer was lost
            if step.rows[0][5] == 'f':
                accepted[step.rows[0][0]] = step
    rows = {row['request_id']: row for row in account.history.requests}
    polls = collections.defaultdict(list)
    for step in account.history.steps():
        if step.way in ('request_status', 'request_wait') and step.rows:
            polls[step.args['request']].append(step)
    for request, step in accepted.items():
        row = rows.get(request)
        if step.rows[0][1] != 'REFUSED' and (row is None or row['outcome'] is None):
            yield Violation('every request ends', f'request {request} is {"lost" if row is None else "not decided"}', [step, *polls[request][-2:]])
        asked = sorted([step, *polls[request]], key=lambda poll: poll.start)
        for first, second in zip(asked, asked[1:]):
            if first.stop >= second.start:
                continue
            if first.rows[0][3] is not None and second.rows[0][3] is not None and int(second.rows[0][3]) > int(first.rows[0][3]):
                yield Violation('positions never rise', f'request {request}', [first, second])
            if first.rows[0][1] == 'COMPLETED' and second.rows[0][1:3] != first.rows[0][1:3] and second.rows[0][1] != 'NOT_REQUESTED':
                yield Violation('every request ends', f'the outcome of request {request} changed', [first, second])
        for poll in polls[request]:
            if poll.rows[0][1] == 'COMPLETED' and row is not None and poll.rows[0][2] != row['outcome']:
                yield Violation('every request ends', f'request {request} ended {row["outcome"]}, and was told otherwise', [step, poll])
    decided = collections.defaultdict(list)
    for event in account.events:
        step = account.step.get(event.step)
        if event.type == 'request_failed':
            decided[event.payload.get('request_id')].append(event)
        elif event.type == 'issued' and step is not None and step.way == 'request' and step.rows:
            decided[step.rows[0][0]].append(event)
    for request, row in rows.items():
        events = decided.get(request, [])
        if row['outcome'] is not None and request in accepted and accepted[request].rows[0][5] == 'f' and len(events) != 1 and not (row['request_key'] and not events):
            yield Violation('one event for each change', f'request {request} ended {row["outcome"]}, with {len(events)} events', [accepted[request], *events])
        for event in events:
            told = 'issued' if event.type == 'issued' else event.payload.get('outcome')
            if told != row['outcome'] or (told == 'issued' and str(event.serial) != row['serial']):
                yield Violation('one event for each change', f'request {request} ended {row["outcome"]} {row["serial"]}, its event says {told} {event.serial}',
                                [account.step.get(event.step), event])


@law
def first_come_first_served(account):
    """Of two requests that did not overlap the earlier one is not decided later,
    unless its user had another call open."""
    decided = {row['request_id']: row for row in account.history.requests if row['decided_at']}
    lines = collections.defaultdict(list)
    busy = collections.defaultdict(list)
    for step in account.history.steps():
        if step.way == 'request' and step.end == COMMITTED and step.rows and step.rows[0][0] in decided and step.rows[0][5] == 'f':
            lines[step.args['campaign']].append(step)
        elif step.args.get('user') and step.way not in REQUESTS:
            busy[step.args['campaign'] if 'campaign' in step.args else None, step.args['user']].append(step)
        for user in step.args.get('users') or ():
            busy[step.args['campaign'], user].append(step)
    for campaign, steps in lines.items():
        places = []
        for step in steps:
            when = decided[step.rows[0][0]]['decided_at']
            places.append((step, when, account.meddled(busy[campaign, step.args['user']], step, when)))
        yield from in_order(account, f'a later request of campaign {campaign} was decided earlier', places)


def in_order(account, what, places):
    """Of (the call that took the place, when it was served, whether it may have
    been passed by): whoever's call began after another's was answered is not
    served before.  Times of serving are the server's, whose clock may have been set."""
    answered = sorted((place for place in places if not place[2]), key=lambda place: place[0].transaction.done)
    n, latest = 0, None
    for step, when, _ in sorted(places, key=lambda place: place[0].start):
        while n < len(answered) and answered[n][0].transaction.done < step.start:
            if latest is None or answered[n][1] > latest[1]:
                latest = answered[n]
            n += 1
        if latest and when + account.history.clock < latest[1]:
            yield Violation('first come, first served', what, [latest[0], step])


# ---- rooms ----

@law
def rooms_keep_their_order(account):
    """Tickets are admitted in the order of arrival, positions never rise, and no
    more are in than there is room: law 8."""
    asked = collections.defaultdict(list)
    for step in account.history.steps():
        if step.way in ('join', 'position') and step.rows and step.end == COMMITTED:
            token = step.rows[0][0] or step.args.get('token')
            if token:
                asked[token].append(step)
    for token, steps in asked.items():
        steps.sort(key=lambda step: step.start)
        for first, second in zip(steps, steps[1:]):
            a, b = first.rows[0], second.rows[0]
            if first.stop < second.start and a[2] is not None and b[2] is not None and int(b[2]) > int(a[2]):
                yield Violation('positions never rise', f'ticket {token}', [first, second])
    lost = collections.defaultdict(lambda: math.inf)    # the first call of each whose token is not known, which may have made the ticket
    for step in account.history.steps():
        if step.way == 'http_join' or (step.way == 'join' and step.end == UNKNOWN):
            lost[step.args['room'], step.args['user']] = min(step.start, lost[step.args['room'], step.args['user']])
    joins = {token: steps[0] for token, steps in asked.items()
             if steps[0].way == 'join' and steps[0].start < lost[steps[0].args['room'], steps[0].args['user']]}
    places = collections.defaultdict(list)
    for ticket in account.history.tickets:
        if ticket['admitted_at'] is not None and ticket['token'] in joins:
            places[ticket['room']].append((joins[ticket['token']], ticket['admitted_at'], False))
    for room, found in places.items():
        yield from in_order(account, f'a later ticket of room {room} was admitted earlier', found)


@law
def rooms_have_no_more_in_than_fit(account):
    """Whoever is admitted finds room; a lower capacity sends nobody away."""
    for room, rules in account.history.rooms.items():
        # (from when on it may have been so, until when, capacity)
        calls = [step for step in account.history.steps() if step.way == 'room_alter' and step.args['room'] == room and step.end != ABORTED]
        capacities = [(start, min((step.transaction.done for step in calls if step.end == COMMITTED and step.start > done), default=math.inf), capacity)
                      for start, done, capacity in [(-math.inf, -math.inf, rules['capacity']),
                                                    *((step.start, step.transaction.done, step.args['capacity']) for step in calls)]]
        changes = []
        for ticket in account.history.tickets:
            if ticket['room'] == room and ticket['admitted_at'] is not None:
                changes.append((ticket['admitted_at'], 1))
                if ticket['ended_at'] is not None:
                    changes.append((ticket['ended_at'], -1))
        inside = 0
        for when, change in sorted(changes) if not account.history.clock_was_set else ():
            inside += change
            capacity = max(most for start, stop, most in capacities
                           if start <= account.history.moment(when) and account.history.earliest(when) <= stop)
            if change > 0 and inside > capacity:
                yield Violation('rooms have a capacity', f'{inside} were in room {room} at {account.history.moment(when):.6f}, for {capacity}', calls[-3:])
                break


@law
def rooms_are_asked(account):
    """Who gets a unit of a campaign with a room was in it at some moment of the call."""
    inside = collections.defaultdict(list)
    for ticket in account.history.tickets:
        if ticket['admitted_at'] is not None:
            inside[ticket['room'], ticket['user']].append(
                (account.history.earliest(ticket['admitted_at']), math.inf if ticket['ended_at'] is None else account.history.moment(ticket['ended_at'])))
    for (campaign, user), events in account.of_user.items():
        room = account.history.campaigns.get(campaign, {}).get('room')
        if room is None:
            continue
        for event in events:
            step = account.step.get(event.step)
            if event.type in ('issued', 'held') and step is not None and not any(
                    start <= step.stop and stop >= step.start for start, stop in inside[room, user]):
                yield Violation('rooms are asked', f'{user} was not in room {room}', [step, event])


# ---- the operator, and the server's own word ----

@law
def closed_is_final(account):
    """After a close or during a pause nobody gets a unit by a call that began then."""
    for campaign, events in account.of_campaign.items():
        changes = [event for event in events if event.type in ('campaign_paused', 'campaign_resumed', 'campaign_closed')]
        if not changes:
            continue
        bounds = account.moments(changes)
        for (_, serial), story in ((unit, story) for unit, story in account.of_unit.items() if unit[0] == campaign):
            for event in story:
                step = account.step.get(event.step)
                if event.type not in ('issued', 'held') or step is None or step.way in REQUESTS or step.end != COMMITTED:
                    continue
                for n, change in enumerate(changes):
                    over = bounds[n + 1][0] if n + 1 < len(changes) else math.inf
                    if change.type != 'campaign_resumed' and bounds[n][1] < step.start and step.transaction.done < over:
                        yield Violation('closed is closed', f'unit {serial} of campaign {campaign} was {event.type} after {change.type}',
                                        [change, event, step])


@law
def counts_add_up(account):
    """stock = issued + held + in_flight + remaining in every answer."""
    for step in account.history.steps():
        if step.way == 'status' and step.rows and step.rows[0][0] is not None:
            stock, issued, held, in_flight, remaining = map(int, step.rows[0])
            if stock != issued + held + in_flight + remaining or min(issued, held, in_flight, remaining) < 0:
                yield Violation('counters add up', f'status of campaign {step.args["campaign"]}', [step])


@law
def answers_are_counted(account):
    """Of who called alone: each once, by its way and its outcome; an ERROR is one, too."""
    calls = [step for transaction in account.history.transactions if transaction.session == account.history.counting for step in transaction.steps]
    told = collections.Counter((step.way, row[1]) for step in calls for row in ([[None, 'error']] if step.error else step.rows or ()))
    ways = {step.way for step in calls}
    counted = {wish: calls for wish, calls in account.history.counted.items() if wish[0] in ways}
    for way, outcome in sorted(set(told) | set(counted)):
        if told[way, outcome] != counted.get((way, outcome), 0):
            yield Violation('counters add up', f'{way} was answered {outcome} {told[way, outcome]} times, and counted {counted.get((way, outcome), 0)} times',
                            [step for step in calls if step.way == way and (step.error if outcome == 'error' else any(row[1] == outcome for row in step.rows or ()))])


@law
def the_server_agrees(account):
    """What coupon_verify() and the harness found when all was quiet."""
    for finding in account.history.findings:
        yield Violation(*finding, [])
