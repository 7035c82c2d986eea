"""Money moves once: `python -m tests.e2e.bank --seconds 300 --seed 1 [--database sqlite|postgres]`.

Tellers debit accounts and add transfers to the outbox, relays send them through a broker, clerks credit accounts
through the inbox; each is a process, and all of them, the broker included, are killed with -9 at random and started
again. At the end every transfer must have been applied exactly once, in order by account and teller, the sum of the
money must be what it was, the broker must have stored each message once, and outbox and inbox must agree. Prints what
happened, and exits with 1 when a promise was broken. The database itself is not killed: PostgreSQL is a cluster of the
run's own, SQLite a file.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.bank_process import ACCOUNTS, OPENING_BALANCE, QUEUE, Bank
from tests.e2e.broker_process import BrokerFailed, BrokerProcess, unused_port
from tests.e2e.wire_client import WireClient
from tests.postgres import start_cluster

CREW = {"teller": 2, "relay": 2, "clerk": 3}
PAUSE_SECONDS = (0.2, 1.0)
"""Between two kills."""
SETTLE_SECONDS_MAX = 120.0
"""How long everything may take to arrive once nobody is killed any more."""
POLL_SECONDS = 0.1
OPTIONS = ("--segment-bytes", "1MiB", "--log-level", "warning")


@dataclass
class Result:
    """What a run showed."""

    violations: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    transfers: int = 0
    repeats: int = 0
    settle_seconds: float = 0.0


class Crew:
    """The processes beside the broker."""

    def __init__(self, url: str, bank: Bank, directory: Path, chance: random.Random) -> None:
        self._url = url
        self._bank = bank
        self._errors = directory / "crew.stderr"
        self._chance = chance
        self._members: dict[tuple[str, int], subprocess.Popen[bytes]] = {}

    def names(self) -> list[tuple[str, int]]:
        """Return who there is."""
        return [(role, number) for role, count in CREW.items() for number in range(count)]

    def start(self, name: tuple[str, int]) -> None:
        """Start one."""
        role, number = name
        with self._errors.open("ab") as errors:
            self._members[name] = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.e2e.bank_process", role, str(number), self._url),
                    *(self._bank.address, str(self._chance.getrandbits(32))),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=Path(__file__).resolve().parents[2],
                env=dict(os.environ),
            )

    def kill(self, name: tuple[str, int]) -> None:
        """Kill one with -9."""
        member = self._members.pop(name, None)
        if member is not None:
            member.kill()
            member.wait()
            assert member.stdin is not None
            member.stdin.close()

    def finish(self, role: str) -> None:
        """Let all of a role end what they do, and check that they end well."""
        mine = [name for name in self._members if name[0] == role]
        for name in mine:
            stdin = self._members[name].stdin
            assert stdin is not None
            stdin.close()
        for name in mine:
            code = self._members.pop(name).wait(SETTLE_SECONDS_MAX)
            if code != 0:
                raise BrokerFailed(f"{name} ended with {code}:\n{self.errors}")

    def check(self) -> None:
        """Nobody may have ended by itself, whatever happened to the others."""
        for name, member in self._members.items():
            if member.poll() is not None:
                raise BrokerFailed(f"{name} ended with {member.returncode}:\n{self.errors}")

    @property
    def errors(self) -> str:
        """What they wrote to standard error, its end."""
        return self._errors.read_text(errors="replace")[-8000:]

    def kill_all(self) -> None:
        """Leave nobody behind."""
        for name in list(self._members):
            self.kill(name)


def run_bank(directory: Path, *, seconds: float, seed: int, address: str) -> Result:
    """Run the bank in *directory* on the database at *address* and judge it."""
    chance, result, bank = random.Random(seed), Result(), Bank(address)
    bank.found()
    broker = BrokerProcess(directory / "data", port=unused_port(), options=OPTIONS)
    broker.start()
    crew = Crew(broker.url, bank, directory, chance)
    try:
        with WireClient(broker.url) as operator:
            # One message of an account at a time, in order; what a relay sends again is recognised by its id.
            operator.declare(QUEUE, ordering="key", retry=[0.05], dedup_window=3600)
        for name in crew.names():
            crew.start(name)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            threading.Event().wait(chance.uniform(*PAUSE_SECONDS))
            crew.check()
            victim = chance.choice([*crew.names(), ("broker", 0)])
            result.kills[victim[0]] += 1
            if victim[0] == "broker":
                broker.kill()
                broker.start()
            else:
                crew.kill(victim)
                crew.start(victim)
        crew.finish("teller")
        began = time.monotonic()
        stored = _wait_until_settled(bank, broker, crew)
        result.settle_seconds = time.monotonic() - began
        crew.finish("relay")
        crew.finish("clerk")
        broker.stop()
    finally:
        crew.kill_all()
        broker.kill()
    _judge(bank, result)
    if stored != result.transfers:
        result.violations.append(f"the broker stored {stored} messages for {result.transfers} transfers")
    return result


def _wait_until_settled(bank: Bank, broker: BrokerProcess, crew: Crew) -> int:
    """Wait until nothing is under way; return how many messages the queue ever stored."""
    deadline = time.monotonic() + SETTLE_SECONDS_MAX
    while True:
        crew.check()
        waiting = bank.ask("SELECT COUNT(*) FROM sluicemq_outbox")[0][0]
        with WireClient(broker.url) as operator:
            state = operator.queue_info(QUEUE)
        if not waiting and not any(state[what] for what in ("ready", "leased", "delayed")):
            return int(state["published_total"])
        if time.monotonic() > deadline:
            raise BrokerFailed(f"{waiting} messages in the outbox after {SETTLE_SECONDS_MAX} s, the queue: {state}")
        threading.Event().wait(POLL_SECONDS)


def _judge(bank: Bank, result: Result) -> None:
    sent = {row[0]: row[1:] for row in bank.ask("SELECT message_id, amount, creditor FROM transfers")}
    applied = bank.ask("SELECT message_id, teller, number, creditor, amount FROM applied ORDER BY place")
    ids = {row[0] for row in bank.ask("SELECT message_id FROM sluicemq_inbox WHERE consumer = 'clerks'")}
    result.transfers = len(sent)
    result.repeats = bank.ask("SELECT COUNT(*) FROM repeats")[0][0]
    times = Counter(row[0] for row in applied)
    complain = result.violations.append
    for what, found in (
        ("applied more than once", [one for one, count in times.items() if count > 1]),
        ("never applied", sent.keys() - times.keys()),
        ("applied and never sent", times.keys() - sent.keys()),
        ("in the inbox and not applied, or the other way round", ids ^ times.keys()),
        ("applied with another amount", [row[0] for row in applied if sent.get(row[0], row[4:])[0] != row[4]]),
    ):
        if found:
            complain(f"{len(found)} transfers {what}: {sorted(found)[:5]}")
    last: dict[Any, int] = {}
    for _, teller, number, creditor, _ in applied:
        if number <= last.get((teller, creditor), 0):
            complain(f"transfer {number} of teller {teller} to account {creditor} came after {last[teller, creditor]}")
        last[teller, creditor] = number
    money = bank.ask("SELECT SUM(balance) FROM accounts")[0][0]
    if money != ACCOUNTS * OPENING_BALANCE:
        complain(f"there are {money} in all accounts; there were {ACCOUNTS * OPENING_BALANCE}")


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    chosen = parser.parse_args(arguments)
    cluster = start_cluster() if chosen.database == "postgres" else None
    with tempfile.TemporaryDirectory(prefix="sluicemq-bank-") as temporary:
        directory = Path(temporary)
        address = f"sqlite:///{directory}/bank.db" if cluster is None else cluster.address
        try:
            result = run_bank(directory, seconds=chosen.seconds, seed=chosen.seed, address=address)
        finally:
            if cluster is not None:
                cluster.stop()
    print(f"{chosen.database}, seed {chosen.seed}, {chosen.seconds:g} s and {result.settle_seconds:.1f} s to settle")
    print(f"{result.transfers:,} transfers; {result.repeats} came again and were known to the inbox")
    print("killed: " + ", ".join(f"{count} {role}" for role, count in sorted(result.kills.items())))
    for violation in result.violations:
        print(f"VIOLATED {violation}")
    print("FAILED" if result.violations else "every transfer was applied exactly once")
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
