"""Where to look for a broker that serves us: addresses, whose turn it is, and which of several handshakes goes through.

All addresses are tried beside each other, so that one that is silent costs no time; but only one session is opened at a
time, since the broker that leads may answer at two of them. A broker that does not lead says so at once, and names the
one that does where it knows: then that one is next. This module must not know requests, nor who waits for a session.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from math import inf

import anyio

from sluicemq.client.backoff import Backoff
from sluicemq.client.breaker import CircuitBreaker, State
from sluicemq.client.errors import InvalidRequest, NotLeader, SluiceError
from sluicemq.client.session import Session
from sluicemq.client.url import ADDRESSES_MAX, Address, parse_address

ATTEMPT_SECONDS_MAX = 5.0
"""Longest time that one address gets to take the connection and finish the handshake."""
ATTEMPT_SECONDS_FIRST = 1.0
"""Where there are several addresses, each gets this long at first, and twice as long the next time."""
NOT_LEADER_BACKOFF = Backoff(0.05, 0.25, floor_share=0.5)
"""Who answers that he does not lead is asked again so soon: an election takes no longer."""
ELECTION_REFUSALS = 10
"""After so many such answers in a row, nearly two seconds, it does take longer,"""
LEADERLESS_BACKOFF = Backoff(0.25, 1.0, floor_share=0.5)
"""and whoever asks is in the way of those who elect: a hundred clients that keep five brokers busy with handshakes
leave them no time for each other. No longer, for a leader waits two seconds for clients whose end closed a
connection."""
STABLE_SECONDS = 5.0
"""A session that lived so long was a success."""
STAGGER_SECONDS = 0.05
"""So long after one address the next one is tried beside it; at once where an attempt failed."""
OPEN_SECONDS = 0.5
"""So long the opening of one session keeps others waiting that could be opened too."""


class Place:
    """An address, and how it went there.

    Attributes:
        address: The address.
        scope: The attempt under way, or the session; None where there is neither.
        session: What came of it so far; None before.
        problem: How the last attempt ended; None before.

    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.scope: anyio.CancelScope | None = None
        self.session: Session | None = None
        self.problem: SluiceError | None = None
        self._breaker = CircuitBreaker(random.random)
        self._round = 0
        self._refusals = 0

    def is_open(self, now: float) -> bool:
        """Whether it failed so often that it is left alone for long, as long as there are others."""
        return self._breaker.state(now) is State.OPEN

    def due(self, *, alone: bool) -> float:
        """Return when this address may be tried (again); *alone*: every other one is left alone, too."""
        if self.scope is not None:
            return inf
        return self._breaker.not_before_alone if alone else self._breaker.not_before

    def hurry(self) -> None:
        """Let it be tried at once: somebody says that the leader is here.

        Unless it has said itself, again and again, that it is not: then it is elected and cannot serve yet, and all who
        follow it name it to everybody who asks. To take each of them at his word would keep it from ever serving.
        """
        if self._refusals < ELECTION_REFUSALS:
            self._breaker.hurry()

    def found(self) -> None:
        """Somebody leads: the next search begins anew."""
        self._refusals = 0

    def patience(self, places: int) -> float:
        """Return how long the next attempt may take."""
        if places == 1:
            return ATTEMPT_SECONDS_MAX
        return min(ATTEMPT_SECONDS_MAX, ATTEMPT_SECONDS_FIRST * 2.0 ** min(self._round, 10))

    def ended(self, now: float, problem: SluiceError | None, lived_seconds: float) -> None:
        """Note how an attempt, or the session that came of it, ended."""
        if problem is not None:
            self.problem = problem
        if lived_seconds > STABLE_SECONDS:
            self._round = 0
        self._round += 1
        breaker = self._breaker
        if isinstance(problem, NotLeader):  # it works
            self._refusals += 1
            late = self._refusals - ELECTION_REFUSALS
            backoff, times = (LEADERLESS_BACKOFF, late) if late > 0 else (NOT_LEADER_BACKOFF, self._round)
            breaker.succeeded()
            breaker.rest(now + backoff.delay(times, random.random))
            return
        if lived_seconds > STABLE_SECONDS:
            breaker.succeeded()
        breaker.failed(now)


class Places:
    """Every address that we know: those that the user gave, then those that brokers told."""

    def __init__(self, addresses: Iterable[Address]) -> None:
        self._given = {address: Place(address) for address in addresses}
        self._told: dict[Address, Place] = {}
        self._last_begun = -inf

    def __len__(self) -> int:
        return len(self._given) + len(self._told)

    def all(self) -> list[Place]:
        """Return all, those that the user gave first."""
        return [*self._given.values(), *self._told.values()]

    def told(self, texts: Iterable[str]) -> None:
        """Take over where the brokers of the cluster are; what was told before and is not told again is forgotten."""
        known, self._told = self._told, {}
        for text in texts:
            address = _read(text)
            if address is not None and address not in self._given and len(self) < ADDRESSES_MAX:
                self._told[address] = known.get(address) or Place(address)

    def leader_is(self, text: object) -> None:
        """Let this address be next, whether it was known or not."""
        address = _read(text)
        if address is None:
            return
        place = self._given.get(address) or self._told.get(address)
        if place is None and len(self) < ADDRESSES_MAX:
            place = self._told[address] = Place(address)
        if place is not None:
            place.hurry()
            self._last_begun = -inf

    def next(self, now: float) -> tuple[Place | None, float]:
        """Return whom to try now, if anybody; and when to ask again."""
        places = self.all()
        alone = all(place.is_open(now) for place in places)
        place = min(places, key=lambda place: place.due(alone=alone))
        at = max(place.due(alone=alone), self._last_begun + STAGGER_SECONDS)
        if at > now:
            return None, at
        self._last_begun = now
        return place, now

    def failed(self) -> None:
        """An attempt failed: the next one need not wait."""
        self._last_begun = -inf

    def give_up_all_but(self, kept: Session | None) -> None:
        """Give up every attempt but this one; who was spoken to hears a goodbye."""
        for place in self.all():
            place.found()
            if place.scope is None or (place.session is kept and kept is not None):
                continue
            if place.session is not None:
                place.session.close()
            else:
                place.scope.cancel()


class Openings:
    """Whose turn it is to open a session, of those whose handshake is so far."""

    def __init__(self) -> None:
        self._ready: list[Session] = []
        self._opening: Session | None = None
        self._since = 0.0

    def ready(self, session: Session) -> None:
        """This session could be opened."""
        self._ready.append(session)

    def next(self, now: float) -> Session | None:
        """Return which one to open now; None: the one under way has time, or there is none."""
        self._ready = [session for session in self._ready if session.error is None]
        opening = self._opening
        if opening is not None and opening.error is None and now < self._since + OPEN_SECONDS:
            return None
        if not self._ready:
            return None
        self._opening, self._since = self._ready.pop(0), now
        return self._opening

    def waits_until(self) -> float:
        """Return when to ask again; infinity where nobody waits."""
        return self._since + OPEN_SECONDS if self._ready and self._opening is not None else inf

    def clear(self) -> None:
        """One is open: no other is needed."""
        self._ready.clear()
        self._opening = None


def _read(text: object) -> Address | None:
    """Return the address that a broker told; None where it is none."""
    try:
        return parse_address(text) if isinstance(text, str) and text else None
    except InvalidRequest:
        return None
