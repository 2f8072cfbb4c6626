"""Holds a history against the laws, and tells of what broke one.

	python3 checker.py FILE		that of a round which was kept (-k): history.pickle

Of all violations of a law the one is told whose witness is the shortest part of
the history: laws hand out what they concluded from, and nothing else.
"""
import collections
import pickle
import sys

import laws

from account import Account


def check(history):
    """All violations."""
    account = Account(history)
    return [violation for law in laws.LAWS for violation in law(account)]


def tell(violations, command):
    """In words: each law that was broken, by its shortest witness."""
    of_law = collections.defaultdict(list)
    for violation in violations:
        of_law[violation.law].append(violation)
    lines = []
    for law, broken in of_law.items():
        shortest = min(broken, key=lambda violation: len(violation.witness))
        lines.append(f'VIOLATION of "{law}" ({len(broken)} in all): {shortest.what}')
        witness = {id(part): part for part in shortest.witness if part is not None}.values()
        lines += [f'    {part}' for part in sorted(witness, key=lambda part: getattr(part, 'start', -1))]
    if lines:
        lines.append(f'Again: {command}')
    return lines


if __name__ == '__main__':
    with open(sys.argv[1], 'rb') as kept:
        print('\n'.join(tell(check(pickle.load(kept)), 'as it was made')) or 'all laws kept')
