"""The ways in.  A way is a function of a session that calls, by its weight, as
often as it should be seen; `s.call` records.  To add one:

	@way(5)
	def seat_map(s):
	    s.call('units', campaign=s.pick('seats'))

with its statement in FUNCTIONS (session.py) and, if it changes units, what it
promises in CHANGES or promised() (account.py).
"""
import time

WAYS = []

# name: stock, units a user may have, number of campaigns, what else
CAMPAIGNS = {
    'edge': dict(stock=4, number=3),
    'plain': dict(stock=3000),
    'two': dict(stock=300, limit=2, most=3),
    'keyed': dict(stock=2000, limit=10000),
    'seats': dict(stock=0, seats=60, limit=4),
    'any': dict(stock=40, limit=2),
    'line': dict(stock=300),
    'line_edge': dict(stock=25),
    'room': dict(stock=200, room='hall'),
    'paused': dict(stock=150),
    'put_off': dict(stock=150),
    'grows': dict(stock=10),
    'shrinks': dict(stock=150),
    'codes': dict(stock=0, codes=80),
    'closing': dict(stock=20, number=6),
    'archived': dict(stock=2500, number=3),
    'forgetful': dict(stock=2000),
}
# whose units are to change hands all the time
SCARCE = ('edge', 'any', 'seats', 'line_edge', 'room')
ROOMS = {'hall': dict(capacity=15, method='fifo')}
ISSUING = ['edge', 'edge', 'plain', 'two', 'any', 'line_edge', 'grows', 'shrinks', 'codes', 'paused', 'put_off', 'closing', 'archived', 'room']
ISOLATION = ['READ COMMITTED'] * 3 + ['REPEATABLE READ', 'SERIALIZABLE']
FATES = ['commit'] * 10 + ['rollback'] * 4 + ['leave before', 'leave during', 'leave during', 'leave after']
# what a user does twice at once
TWICE = ('issue', 'grouped', 'hold', 'hold_many', 'hold_any', 'confirm', 'release', 'redeem', 'cancel', 'request')
TTLS = ['0.05 s', '0.3 s', '1 s', '5 s', '5 min']


def way(weight):
    def add(function):
        WAYS.append((function, weight))
        return function
    return add


def user(s):
    """Few enough to meet, and now and then somebody new."""
    return f'u{s.random.randrange(120)}' if s.random.random() < 0.85 else f'new{s.number}-{s.random.randrange(10**6)}'


def key(s):
    return f'k{s.random.randrange(40)}'


def maybe_key(s, campaign):
    return key(s) if s.keyed and (campaign in s.round.ids['keyed'] or s.random.random() < 0.1) else None


# ---- issuing ----

@way(20)
def issue(s):
    campaign = s.pick(*ISSUING, 'keyed')
    s.call('issue', campaign=campaign, user=user(s), key=maybe_key(s, campaign))


@way(15)
def grouped(s):
    campaign = s.pick(*ISSUING, 'keyed')
    s.call('grouped', campaign=campaign, user=user(s), key=maybe_key(s, campaign))


@way(8)
def many(s):
    campaign = s.pick(*ISSUING, 'keyed')
    users = [user(s) for _ in range(s.random.randint(1, 8))]
    users.append(s.random.choice(users))
    keys = [maybe_key(s, campaign) for _ in users]
    s.call('many', campaign=campaign, users=users, keys=keys if any(keys) else None)


@way(4)
def attempt(s):
    """In a block with an EXCEPTION clause, which is raised or not."""
    s.call('attempt', campaign=s.pick(*ISSUING), user=user(s), fail=s.random.random() < 0.5)


@way(12)
def mixed(s):
    """Several in a transaction, at any isolation level, some of them undone."""
    with s.transaction(s.random.choice(ISOLATION), s.random.choice(FATES)):
        for _ in range(s.random.randint(1, 4)):
            if s.random.random() < 0.4:
                with s.savepoint(s.random.random() < 0.5):
                    change(s)
            else:
                change(s)
        if s.random.random() < 0.1:
            time.sleep(s.random.random() * 0.3)     # somebody who thinks, with units in hand


def change(s):
    kind = s.random.random()
    campaign = s.pick(*ISSUING)
    if kind < 0.4:
        s.call('issue', campaign=campaign, user=user(s), key=maybe_key(s, campaign))
    elif kind < 0.5:
        s.call('many', campaign=campaign, users=[user(s), user(s)], keys=None)
    elif kind < 0.65:
        s.call('revoke', campaign=campaign, user=user(s))
    elif kind < 0.75:
        s.call('redeem', campaign=campaign, user=user(s), order='o1')
    elif kind < 0.85:
        s.call('hold_any', campaign=s.pick('any', 'seats', 'edge'), user=user(s), ttl=s.random.choice(TTLS), key=None)
    elif kind < 0.95:
        s.call('emit', key=f'own{s.number}', n=s.next_number())
    else:
        s.call('add_stock', campaign=s.pick('grows'), units=1)


@way(8)
def again(s):
    """Who was not told what became of a call repeats it."""
    unknown = s.memory.get('unknown')
    if unknown:
        way, args = unknown.pop(s.random.randrange(len(unknown)))
        del unknown[:-20]
        if not way.startswith('http'):
            s.call(way, **args)


@way(20)
def double_click(s):
    """The call that somebody else is in the middle of."""
    running = [other.running for other in s.round.sessions if other is not s and other.running]
    running = [(way, args) for way, args in running if way in TWICE and not args.get('fail')]
    if running:
        way, args = s.random.choice(running)
        s.call(way, **args)


@way(4)
def leave(s):
    """Gone before the answer."""
    s.abandon(s.random.choice(['issue', 'grouped', 'grouped']), campaign=s.pick(*ISSUING), user=user(s), key=None)


# ---- after issuing ----

@way(16)
def revoke(s):
    units = s.memory.get('units')
    if units and s.random.random() < 0.6:
        campaign, who = units.pop(s.random.randrange(len(units)))
        s.call('revoke', campaign=campaign, user=who)
        return
    s.call('revoke', campaign=s.pick('edge', 'edge', 'two', 'any', 'line_edge', 'shrinks', 'seats', 'codes', 'keyed', 'room'), user=user(s))


@way(6)
def leave_the_line(s):
    s.call('revoke', campaign=s.pick('line'), user=f'q{s.random.randrange(500)}')


@way(6)
def redeem(s):
    campaign, who, order = s.pick('edge', 'plain', 'two', 'codes', 'seats', 'archived'), user(s), f'o{s.random.randrange(3)}'
    units = s.memory.get('units')
    if units and s.random.random() < 0.3:
        campaign, who = s.random.choice(units)
    (row,) = s.call('redeem', campaign=campaign, user=who, order=order)
    if row[1] == 'redeemed':
        s.memory.setdefault('redeemed', []).append((campaign, who, order))


@way(6)
def cancel(s):
    campaign, who, order = s.pick('edge', 'plain', 'two', 'codes', 'seats'), user(s), f'o{s.random.randrange(3)}'
    redeemed = s.memory.get('redeemed')
    if redeemed and s.random.random() < 0.7:
        campaign, who, order = redeemed.pop(s.random.randrange(len(redeemed)))
        s.memory.setdefault('units', []).append((campaign, who))
    s.call('cancel', campaign=campaign, user=who, order=order)


@way(2)
def forget(s):
    """Who comes once, and is to be forgotten."""
    campaign = s.pick('forgetful')
    (row,) = s.call(s.random.choice(['issue', 'grouped']), campaign=campaign, user=f'e{s.number}-{s.next_number()}', key=None)
    if s.random.random() < 0.3:
        s.call('redeem', campaign=campaign, user=row[0], order='o1')
    s.call('erase', user=row[0])


@way(1)
def status(s):
    s.call('status', campaign=s.pick(*ISSUING, 'seats', 'line'))


# ---- holding ----

@way(8)
def hold(s):
    campaign, who, seat = s.pick('seats'), user(s), s.random.randint(1, 60)
    rows = s.call('hold', campaign=campaign, serial=seat, user=who, ttl=s.random.choice(TTLS), key=maybe_key(s, campaign))
    remember(s, campaign, rows)


@way(4)
def hold_many(s):
    campaign = s.pick('seats')
    seats = s.random.sample(range(1, 61), s.random.randint(1, 3))
    remember(s, campaign, s.call('hold_many', campaign=campaign, serials=seats, user=user(s), ttl=s.random.choice(TTLS), key=None))


@way(8)
def hold_any(s):
    campaign = s.pick('seats', 'any', 'edge', 'put_off', 'closing')
    remember(s, campaign, s.call('hold_any', campaign=campaign, user=user(s), ttl=s.random.choice(TTLS), key=maybe_key(s, campaign)))


def remember(s, campaign, rows):
    holds = s.memory.setdefault('holds', [])
    holds += [(campaign, int(serial), who) for who, status, serial, *_ in rows if status in ('held', 'already_held')]
    del holds[:-30]


@way(12)
def pay(s):
    """In time or late, by the same payment twice, for one's own seat or another's."""
    holds = s.memory.get('holds')
    if not holds:
        return
    campaign, serial, who = s.random.choice(holds)
    if s.random.random() < 0.05:
        who = user(s)
    args = dict(campaign=campaign, serial=serial, user=who, ref=f'p{s.random.randrange(3)}-{who}')
    if s.random.random() < 0.3:
        with s.transaction(fate=s.random.choice(FATES)):
            s.call('confirm', **args)
            s.call('emit', key=who, n=s.next_number())
    else:
        s.call('confirm', **args)


@way(5)
def release(s):
    holds = s.memory.get('holds')
    if holds:
        campaign, serial, who = holds.pop(s.random.randrange(len(holds)))
        s.call('release', campaign=campaign, serial=serial, user=who)


# ---- requests ----

@way(12)
def request(s):
    campaign = s.pick('line', 'line', 'line_edge', 'paused', 'put_off', 'keyed')
    # in one line there are only those who have nothing else to do with it
    who = f'q{s.random.randrange(500)}' if campaign in s.round.ids['line'] else user(s)
    rows = s.call('request', campaign=campaign, user=who, key=maybe_key(s, campaign))
    if campaign in s.round.ids['line_edge']:
        s.memory.setdefault('units', []).append((campaign, who))
    wishes = s.memory.setdefault('requests', [])
    wishes += [row[0] for row in rows if row[0]]
    del wishes[:-20]


@way(12)
def ask(s):
    wishes = s.memory.get('requests')
    if wishes:
        wish = s.random.choice(wishes)
        if s.random.random() < 0.3:
            s.call('request_wait', request=wish, timeout='0.3 s')
        else:
            s.call('request_status', request=wish)


# ---- rooms ----

@way(10)
def visit(s):
    tickets = s.memory.setdefault('tickets', {})
    who = f'v{s.random.randrange(60)}'
    if tickets and s.random.random() < 0.7:
        who = s.random.choice(list(tickets)[-3:])       # who is silent loses their place
    if who not in tickets or s.random.random() < 0.2:
        (token, *_), = s.call('join', room='hall', user=who)
        if token:
            tickets[who] = token
    elif s.random.random() < 0.5:
        s.call('position', token=tickets[who])
    elif s.random.random() < 0.7:
        s.call(s.random.choice(['issue', 'grouped']), campaign=s.pick('room'), user=who, key=None)
    else:
        s.call('leave', token=tickets.pop(who))


# ---- the operator ----

@way(1)
def pause(s):
    campaign = s.pick('paused')
    s.call('pause', campaign=campaign)
    time.sleep(s.random.random() * 0.2)
    s.call('resume', campaign=campaign)


@way(1)
def put_off(s):
    """An open sale is to open later, and then at once."""
    campaign = s.pick('put_off')
    s.call('put_off', campaign=campaign, opens_at='infinity')
    time.sleep(s.random.random() * 0.2)
    s.call('put_off', campaign=campaign, opens_at='-infinity')


@way(1)
def change_stock(s):
    kind = s.random.random()
    if kind < 0.5:
        s.call('add_stock', campaign=s.pick('grows'), units=s.random.randint(1, 3))
    elif kind < 0.7:
        s.call('reduce', campaign=s.pick('shrinks'), units=s.random.randint(1, 3))
    elif kind < 0.8:
        s.call('withdraw', campaign=s.pick('shrinks'), serials=[s.random.randint(1, 150)])
    else:
        s.call('import', campaign=s.pick('codes'), codes=[f'N-{s.number}-{s.next_number()}'])


@way(0.6)
def operate(s):
    kind = s.random.random()
    if kind < 0.25:
        s.call('room_pause', room='hall')
        time.sleep(s.random.random() * 0.2)
        s.call('room_resume', room='hall')
    elif kind < 0.4:
        s.call('room_alter', room='hall', capacity=s.random.choice([5, 10, 15, 20]))
    elif kind < 0.8:
        s.call('alter', campaign=s.pick('two'), limit=s.random.choice([2, 3]))
    elif kind < 0.9:
        s.call('close', campaign=s.pick('closing', 'archived'))
    elif not s.pooled:
        # those that were closed by then, in many transactions
        kind = s.random.choice(['closing', 'archived'])
        s.call('drop' if kind == 'closing' else 'archive', campaign=s.pick(kind))


@way(3)
def emit(s):
    s.call('emit', key=f'own{s.number}', n=s.next_number())


# ---- HTTP ----

@way(10)
def http_issue(s):
    campaign, who = s.pick(*ISSUING, 'keyed'), user(s)
    s.http('http_issue', 'POST', f'/campaigns/{campaign}/issues', {'user_id': who}, key=maybe_key(s, campaign), campaign=campaign, user=who)


@way(4)
def http_hold(s):
    campaign, who = s.pick('seats', 'any'), user(s)
    answer = s.http('http_hold', 'POST', f'/campaigns/{campaign}/holds', {'user_id': who, 'ttl': s.random.choice(TTLS)},
                    campaign=campaign, user=who)
    if answer.get('status') == 'held':
        remember(s, campaign, [[who, 'held', answer['serial']]])


@way(4)
def http_pay(s):
    holds = s.memory.get('holds')
    if holds:
        campaign, serial, who = s.random.choice(holds)
        ref = f'p{s.random.randrange(3)}-{who}'
        s.http('http_confirm', 'POST', f'/campaigns/{campaign}/holds/{serial}/confirmation', {'user_id': who, 'ref': ref},
               campaign=campaign, serial=serial, user=who, ref=ref)


@way(4)
def http_request(s):
    campaign, who = s.pick('line', 'line_edge', 'paused'), user(s)
    s.http('http_request', 'POST', f'/campaigns/{campaign}/requests', {'user_id': who}, campaign=campaign, user=who)


@way(2)
def http_release(s):
    holds = s.memory.get('holds')
    if holds:
        campaign, serial, who = holds.pop()
        s.http('http_release', 'DELETE', f'/campaigns/{campaign}/holds/{serial}?user_id={who}', campaign=campaign, serial=serial, user=who)


@way(3)
def http_visit(s):
    who = f'v{s.random.randrange(60)}'
    token = s.memory.setdefault('tickets', {}).get(who)
    if token is None:
        answer = s.http('http_join', 'POST', '/rooms/hall/tickets', {'user_id': who}, room='hall', user=who)
        if answer.get('token'):
            s.memory['tickets'][who] = answer['token']
    else:
        s.http('http_position', 'GET', f'/rooms/hall/tickets/{token}', token=token)
