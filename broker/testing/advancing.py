"""How time is moved on within a running broker: from one due time to the next, until the wanted time has come.

In one leap, three days would look like a broker that was away: schedules would skip their times, messages would expire
before anybody could have had them. Only unused queues are not looked at every few seconds, but when something else is
due, and at the end. Runs within the broker's event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import trio.testing

from sluicemq.wire.connection import State

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.server.listener import Server
    from sluicemq.broker.testing.clock import VirtualClock

STEP_SECONDS = 0.001
"""Log time has milliseconds: so long after a due time it is surely due."""
BUSY_SECONDS_MAX = 1.0
"""So long is waited until a broker that clients keep busy has nothing to do."""
LOOK_SECONDS = 0.001
ANSWER_SECONDS_MAX = 0.25
"""So long is waited for the clients' sign of life: one whose event loop stands still gives none."""
QUIET_ROUNDS = 3
"""Clients have done what they do at once when they have given so many signs of life and nothing else,"""
QUIET_SECONDS = 0.01
"""for so long at least,"""
CLIENTS_SECONDS_MAX = 1.0
"""or when so much time has passed."""
KEPT_SECONDS = 30.0
"""So long after the move leases end that are kept: enough for clients to renew them."""
ROUNDS_MAX = 1_000
"""Timers that may go off at one moment; those that are left go off at the next."""


class Advance:
    """One move of a broker's time.

    Args:
        clock: What the broker goes by.
        road: Its road.
        server: Its server.

    """

    def __init__(self, clock: VirtualClock, road: Road, server: Server) -> None:
        self._clock = clock
        self._road = road
        self._server = server

    async def run(self, seconds: float, *, keep_leases: bool) -> None:
        """Move the time on by so many seconds; *keep_leases* of whoever is connected, as if they had been renewed."""
        clock, road = self._clock, self._road
        target = clock.current_time() + seconds
        # Who gets a lease on the way has it for the whole time: the client's clock stands still.
        road.settle.leases_begin = lambda: max(target, clock.current_time())
        try:
            await self._rest()
            await self._let_clients_act()  # what they have settled, but not sent yet, must not count as late
            if keep_leases:
                for session in self._server.sessions:
                    road.settle.renew_all(session.session, KEPT_SECONDS)
            while (due := road.next_due()) is not None and due + STEP_SECONDS < target:
                self._jump(due + STEP_SECONDS)
                await self._step()
            self._jump(target)
            await self._step()
        finally:
            road.settle.leases_begin = clock.current_time

    def _jump(self, to: float) -> None:
        seconds = self._clock.jump(to)
        for session in self._server.sessions:
            # Whether a client is alive shows in real time.
            session.pass_over(seconds)

    async def _step(self) -> None:
        sent = self._sent()
        await self._rest()
        if self._sent() != sent:
            await self._let_clients_act()

    def _sent(self) -> tuple[int, int]:
        return self._road.dispatch.delivered_messages_total, self._road.checks.asked_total

    async def _rest(self) -> None:
        """Wait until the broker has done what it can do now."""
        ground = self._road.ground
        with trio.move_on_after(BUSY_SECONDS_MAX):
            for _ in range(ROUNDS_MAX):
                await trio.testing.wait_all_tasks_blocked()
                if len(ground.commit):
                    await ground.wait_idle()
                    continue
                due = self._road.next_due()
                if due is None or due > self._clock.current_time():
                    return

    async def _let_clients_act(self) -> None:
        """Wait until clients have done what they do at once about what they got, however busy the machine is."""
        ground, clock = self._road.ground, self._clock
        quiet, quiet_since = 0, clock.current_time()
        with trio.move_on_after(CLIENTS_SECONDS_MAX):
            while self._server.sessions and (
                quiet < QUIET_ROUNDS or clock.current_time() < quiet_since + QUIET_SECONDS
            ):
                entries = ground.entries_total
                await self._hear_clients()
                await self._rest()
                quiet += 1
                if ground.entries_total != entries:
                    quiet, quiet_since = 0, clock.current_time()

    async def _hear_clients(self) -> None:
        """Wait for a sign of life of each client: what it has said before that has come then."""
        sessions = [session for session in self._server.sessions if session.connection.state is State.OPEN]
        asked_at = self._clock.current_time()
        for session in sessions:
            session.ping()
        self._server.hub.flush()
        with trio.move_on_after(ANSWER_SECONDS_MAX):
            while True:
                await trio.sleep(LOOK_SECONDS)
                living = self._server.sessions
                if not any(session.received_at <= asked_at and session in living for session in sessions):
                    return
