"""The stage on which scenarios play: nodes, links and one clock, and the commands that move them.

Who is there
    cluster N                   nodes 1 to N, told to form a cluster; empty disks
    node N                      one more node, told of nobody
    option NAME VALUE           of the replicas that are started from now on
    listed N M ...              node N was told to form a cluster with these
    disk N Z-Z Z ... [promised E] [begins Z] [voters N ...] [led N]
                                give a node that is down a log; equal names are equal entries on all nodes, but what
                                bears a ! is damaged and differs
    damage N Z                  it loses what its log held from Z on, and knows it
    wipe N                      take the disk of a node that is down, and put in an empty one
    start N ...                 start, and connect with everybody who lives
    crash N [keep K]            end it; of what the disk was given but has not done, the first K effects survive
    pause N / resume N          it does nothing for a while, and does not know

What moves
    deliver A->B [K | NAME]     the next message of the link, the next K, or all up to one of that name
    persist N [K]               let the disk do the next effect, or K
    sync N                      let it do all that it was given, with one answer for the last
    drop N                      let the disk, which is to come to rest, drop what is older
    settle [all [but votes]]    let everything happen that needs no time, in turns; tells only what stands out, or all
    tick SECONDS                the same while time passes
    quietly COMMAND             do it, and tell nothing
    hold A->B | disk N | stream A->B, release ...
                                what `settle` and `tick` leave alone, until it is released

What fails
    cut A B / heal A B          silence on an open connection; healed by a new one
    reset A B / connect A B     the connection ends and both notice; what was under way is lost. A new one
    late A->B                   what was lost so arrives after all
    refused A B                 A is told that nobody listens at B
    fail N / fail-stream A->B   a write fails; a snapshot could not be sent
    compact N Z                 put everything up to Z into a snapshot

What is asked
    propose N BODY ...          read N NAME
    state N Z TEXT              its machine says what the state is at Z, as the other machines do at the same place
    add-voter L N, remove-voter L N, transfer L N
    status, log N
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from typing import TYPE_CHECKING

from sluicemq.broker.replication import effects, events
from sluicemq.broker.replication.agreement import StateHash
from sluicemq.broker.replication.history import EpochRecord, counter_of, epoch_of, zxid_of
from sluicemq.broker.replication.membership import Configuration, Member
from sluicemq.broker.replication.messages import Notification
from sluicemq.broker.replication.options import Options
from tests.broker.replication.walks.shell import Broken, Log, Shell, sealed
from tests.scenarios import telling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sluicemq.broker.replication.messages import Message

# The stories count on these times, whatever the defaults are.
STEPS_MAX = 20_000
"""A scenario that does not settle within so many steps never will."""
Way = tuple[int, int]


class Stage:
    """Plays the commands of one scenario."""

    def __init__(self) -> None:
        self._shells: dict[int, Shell] = {}
        # A commit is told at once: what a story settles, it settles in one moment.
        self._options = Options(ping_seconds=0.25, leader_seconds=1.0, follower_seconds=1.5, tell_commit_seconds=0.0)
        self._now = 0.0
        self._begun = 0.0
        self._channels: dict[Way, deque[events.Event]] = {}
        self._streams: dict[Way, deque[tuple[effects.SendSnapshot, Log]]] = {}
        self._lost: dict[Way, list[events.Event]] = {}
        self._links: dict[frozenset[int], int] = {}
        self._numbers = itertools.count(1)
        self._cut: set[frozenset[int]] = set()
        self._held: set[str] = set()
        self._paused: set[int] = set()
        self._committed: dict[int, bytes] = {}
        self._lines: list[str] = []
        self._all = True
        self._votes = True
        self._stamp = False

    def play(self, line: str) -> list[str]:
        """Do what *line* says; return the trace."""
        self._lines, self._all, self._votes, self._stamp = [], True, True, False
        self._command(line.split())
        return self._lines

    def _command(self, words: list[str]) -> None:
        name = words[0].replace("-", "_")
        command: Callable[..., None] | None = getattr(self, f"_do_{name}", None)
        if command is None:
            raise ValueError(f"there is no command {words[0]}")
        command(*words[1:])

    def _do_quietly(self, *words: str) -> None:
        self._command(list(words))
        self._lines.clear()

    # --- who is there

    def _do_cluster(self, count: str) -> None:
        listed = tuple(range(1, int(count) + 1))
        for node in listed:
            self._shells[node] = Shell(Member(node, b"first"), listed, self._options, Log(), 0)

    def _do_node(self, node: str) -> None:
        self._shells[int(node)] = Shell(Member(int(node), b"first"), (), self._options, Log(), 0)

    def _do_option(self, name: str, value: str) -> None:
        kind = type(getattr(self._options, name))
        self._options = dataclasses.replace(self._options, **{name: kind(value)})
        for shell in self._shells.values():
            shell.options = self._options

    def _do_disk(self, node: str, *words: str) -> None:
        shell = self._shells[int(node)]
        assert not shell.alive
        left = deque(words)
        names: list[str] = []
        while left and left[0][0].isdigit():
            names.append(left.popleft())
        said: dict[str, list[str]] = {}
        while left:
            word = left.popleft()
            if word[0].isdigit():
                said[list(said)[-1]].append(word)
            else:
                said[word] = []
        nodes = [int(one) for one in said.get("voters", [])] or sorted(shell.listed)
        configuration = Configuration(frozenset(Member(one, b"first") for one in nodes))
        leader = int(said.get("led", ["1"])[0])
        log = Log()
        for name in names:
            first, _, last = name.removesuffix("!").partition("-")
            for zxid in range(_zxid(first), _zxid(last or first) + 1):
                body: object = f"{epoch_of(zxid)}.{counter_of(zxid)}"
                if counter_of(zxid) == 0:
                    body = EpochRecord(leader, configuration)
                elif name.endswith("!"):
                    body = "damaged"
                log = Log(entries=(*log.entries, sealed(zxid, log.last, body)))
        promised = [int(one) for one in said.get("promised", [])] or [epoch_of(log.last.zxid)]
        if "begins" in said:
            log = log.beginning_at(_zxid(said["begins"][0]))
        self._shells[int(node)] = Shell(shell.member, shell.listed, self._options, log, promised[0])

    def _do_damage(self, node: str, place: str) -> None:
        disk = self._shells[int(node)].disk
        kept = tuple(entry for entry in disk.durable.entries if entry.zxid < _zxid(place))
        disk.durable = disk.view = dataclasses.replace(disk.durable, entries=kept)
        disk.damaged_from = _zxid(place)

    def _do_wipe(self, node: str) -> None:
        shell = self._shells[int(node)]
        assert not shell.alive
        member = Member(shell.node, shell.member.incarnation + b" wiped")
        self._shells[shell.node] = Shell(member, shell.listed, self._options, Log(), 0)

    def _do_start(self, *nodes: str) -> None:
        for node in map(int, nodes):
            self._show(node, "starts", self._shells[node].start(self._now))
            for peer in sorted(self._shells):
                if peer != node and self._shells[peer].alive:
                    self._do_connect(str(node), str(peer))

    def _do_crash(self, name: str, keep: str = "", count: str = "0") -> None:
        assert keep in ("", "keep")
        node = int(name)
        shell = self._shells[node]
        kept = shell.disk.queue[: int(count)]
        lost = shell.disk.queue[int(count) :]
        shell.crash(int(count))
        for what, some in (("had been written", kept), ("is lost", lost)):
            for effect in some:
                if not isinstance(effect, effects.Join):
                    self._tell(f"{node}: {what}: {telling.write(effect)}")
        self._paused.discard(node)
        for link in [link for link in self._links if node in link]:
            self._end(link)
        for way in self._channels:
            if way[1] == node:
                self._lose(way)

    def _do_pause(self, node: str) -> None:
        self._paused.add(int(node))

    def _do_resume(self, node: str) -> None:
        self._paused.discard(int(node))

    def _do_listed(self, node: str, *nodes: str) -> None:
        self._shells[int(node)].listed = tuple(map(int, nodes))

    # --- links

    def _do_connect(self, one: str, other: str) -> None:
        link = frozenset((int(one), int(other)))
        assert link not in self._links, f"{one} and {other} are connected"
        number = self._links[link] = next(self._numbers)
        for way in itertools.permutations(sorted(link), 2):
            self._channels.setdefault(way, deque()).append(events.PeerUp(way[0], number))
            self._streams.setdefault(way, deque())

    def _end(self, link: frozenset[int]) -> None:
        number = self._links.pop(link)
        for way in itertools.permutations(sorted(link), 2):
            self._lose(way)
            if self._shells[way[1]].alive:
                self._channels[way].append(events.PeerDown(way[0], number))

    def _lose(self, way: Way) -> None:
        channel = self._channels[way]
        self._lost[way] = [one for one in channel if isinstance(one, events.Received)]
        self._channels[way] = deque(one for one in channel if not isinstance(one, events.Received))
        self._streams[way].clear()

    def _do_reset(self, one: str, other: str) -> None:
        self._end(frozenset((int(one), int(other))))

    def _do_cut(self, one: str, other: str) -> None:
        link = frozenset((int(one), int(other)))
        self._cut.add(link)
        for way in itertools.permutations(sorted(link), 2):
            self._lose(way)

    def _do_heal(self, one: str, other: str) -> None:
        link = frozenset((int(one), int(other)))
        self._cut.discard(link)
        if link in self._links:
            self._end(link)
        self._do_connect(one, other)

    def _do_late(self, name: str) -> None:
        way = _way(name)
        for event in self._lost.pop(way):
            self._hand(way, event)

    def _do_refused(self, one: str, other: str) -> None:
        self._step(int(one), f"is refused by {other}", events.PeerRefused(int(other)))

    # --- what moves

    def _do_deliver(self, name: str, what: str = "1") -> None:
        way = _way(name)
        channel = self._channels[way]
        if what.isdigit():
            for _ in range(int(what)):
                self._hand(way, channel.popleft())
            return
        while channel:
            event = channel.popleft()
            self._hand(way, event)
            if isinstance(event, events.Received) and type(event.message).__name__ == what:
                return
        raise AssertionError(f"no {what} is on its way from {way[0]} to {way[1]}")

    def _hand(self, way: Way, event: events.Event) -> None:
        sender, receiver = way
        if isinstance(event, events.Received):
            told = f"gets from {sender} {telling.message(event.message)}"
        else:
            told = f"is {'connected with' if isinstance(event, events.PeerUp) else 'cut off from'} {sender}"
        self._step(receiver, told, event)

    def _do_persist(self, name: str, count: str = "1") -> None:
        for _ in range(int(count)):
            self._write_next(int(name))

    def _write_next(self, node: int) -> None:
        shell = self._shells[node]
        told = f"has written: {telling.write(shell.disk.queue[0])}"
        self._show(node, told, shell.persist(self._now))

    def _do_sync(self, name: str) -> None:
        shell = self._shells[int(name)]
        done = [shell.disk.do_next() for _ in shell.disk.queue[:-1]]
        for effect in done:
            self._tell(f"{name} has written: {telling.write(effect)}")
        self._write_next(int(name))

    def _do_drop(self, name: str) -> None:
        shell = self._shells[int(name)]
        before = shell.disk.queue
        shell.disk.drop_old()
        for effect in before:
            if effect not in shell.disk.queue and not isinstance(effect, effects.Join):
                kept = "done all the same" if isinstance(effect, effects.SavePromise) else "dropped"
                self._tell(f"{name}: {kept}: {telling.write(effect)}")

    def _do_settle(self, *how: str) -> None:
        assert how in ((), ("all",), ("all", "but", "votes"))
        self._all, self._votes = bool(how), how == ("all",)
        for _ in range(STEPS_MAX):
            if not self._turn():
                return
        raise AssertionError("it does not settle")

    def _turn(self) -> bool:
        """Let everybody do one thing."""
        did = False
        for way, channel in list(self._channels.items()):
            if channel and f"{way[0]}->{way[1]}" not in self._held and self._acts(way[1]):
                did = True
                self._hand(way, channel.popleft())
        for node, shell in self._shells.items():
            if shell.disk.queue and f"disk {node}" not in self._held and self._acts(node):
                did = True
                self._write_next(node)
        for way, stream in list(self._streams.items()):
            if stream and f"stream {way[0]}->{way[1]}" not in self._held and self._acts(way[1]):
                did = True
                self._hand_snapshot(way)
        return did

    def _acts(self, node: int) -> bool:
        return self._shells[node].alive and node not in self._paused

    def _hand_snapshot(self, way: Way) -> None:
        told, log = self._streams[way].popleft()
        where = f"{epoch_of(log.start.zxid)}.{counter_of(log.start.zxid)}"
        made = self._shells[way[1]].receive_snapshot(way[0], told, log, self._now)
        self._show(way[1], f"has the whole snapshot at {where} from {way[0]}", made)

    def _do_tick(self, seconds: str) -> None:
        self._all, self._stamp, self._begun = False, True, self._now
        end = self._now + float(seconds)
        for _ in range(STEPS_MAX):
            while self._turn():
                pass
            due = [
                (shell.replica.wake_at, node)
                for node, shell in self._shells.items()
                if shell.replica is not None and shell.replica.wake_at is not None and node not in self._paused
            ]
            if not due or min(due)[0] > end:
                self._now = end
                return
            wake_at, node = min(due)
            self._now = max(self._now, wake_at)
            self._step(node, "wakes", events.Wake())
        raise AssertionError("time stands still")

    def _do_hold(self, *words: str) -> None:
        self._held.add(" ".join(words))

    def _do_release(self, *words: str) -> None:
        self._held.remove(" ".join(words))

    # --- what fails, what is asked

    def _do_fail(self, node: str) -> None:
        self._step(int(node), "cannot write", events.DiskFailed("no space left on the device"))

    def _do_fail_stream(self, name: str) -> None:
        way = _way(name)
        told, _ = self._streams[way].popleft()
        failed = events.SnapshotFailed(way[1], told.session, "the stream broke off")
        self._step(way[0], f"could not send the snapshot to {way[1]}", failed)

    def _do_compact(self, node: str, place: str) -> None:
        disk = self._shells[int(node)].disk
        assert not disk.queue
        disk.durable = disk.view = disk.durable.beginning_at(_zxid(place))

    def _do_propose(self, node: str, *bodies: str) -> None:
        for body in bodies:
            self._step(int(node), None, events.Propose(body, body))

    def _do_read(self, node: str, name: str) -> None:
        self._step(int(node), None, events.Read(name))

    def _do_state(self, node: str, place: str, text: str) -> None:
        state = StateHash(_zxid(place), text.encode(), (("queues", text.encode()),))
        self._step(int(node), None, events.StateHashed(state))

    def _do_add_voter(self, leader: str, node: str) -> None:
        self._step(int(leader), None, events.AddVoter(f"add-voter {node}", int(node)))

    def _do_remove_voter(self, leader: str, node: str) -> None:
        self._step(int(leader), None, events.RemoveVoter(f"remove-voter {node}", int(node)))

    def _do_transfer(self, leader: str, node: str) -> None:
        self._step(int(leader), None, events.TransferLeadership(f"transfer {node}", int(node)))

    def _do_status(self) -> None:
        for node, shell in sorted(self._shells.items()):
            self._tell(f"{node}: {telling.status(shell)}")

    def _do_log(self, node: str) -> None:
        log = self._shells[int(node)].disk.durable
        for entry in log.entries:
            self._tell(telling.entry(entry))

    # --- steps and what they leave

    def _step(self, node: int, told: str | None, event: events.Event) -> None:
        self._show(node, told, self._shells[node].step(event, self._now))

    def _show(self, node: int, told: str | None, made: Iterable[effects.Effect]) -> None:
        """Carry out *made* and write it into the trace."""
        lead = "  " if self._all and told is not None else ""
        head = len(self._lines)
        for effect in made:
            what = telling.routine(effect) if self._all else telling.telling(effect)
            if what is not None and (self._votes or not _is_vote(effect)):
                self._tell(f"{lead}{node} {what}" if not lead else f"{lead}{what}")
            self._perform(node, effect)
        if lead and told is not None and (self._votes or "Notification" not in told or len(self._lines) > head):
            self._lines.insert(head, f"{node} {told}")
        shell = self._shells[node]
        while shell.alive and shell.reads:
            wanted = shell.reads[0]
            self._show(node, f"has read its log for {wanted.peer}", shell.read(self._now))

    def _perform(self, node: int, effect: effects.Effect) -> None:
        shell = self._shells[node]
        if isinstance(effect, effects.Send):
            self._carry(node, effect.peer, effect.message)
        elif isinstance(effect, effects.SendSnapshot):
            link = frozenset((node, effect.peer))
            if self._links.get(link) == effect.connection and link not in self._cut:
                log = shell.disk.durable
                self._streams[node, effect.peer].append((effect, Log(log.start, log.base)))
        elif isinstance(effect, effects.Committed):
            chain = shell.disk.durable.chain_at(effect.zxid)
            assert chain is not None
            if self._committed.setdefault(effect.zxid, chain) != chain:
                raise Broken(f"I4: node {node} commits another entry than others did before")
        elif isinstance(effect, effects.Fatal):
            self._do_crash(str(node))

    def _carry(self, sender: int, receiver: int, message: Message) -> None:
        link = frozenset((sender, receiver))
        if self._links.get(link) == message.connection and link not in self._cut:
            self._channels[sender, receiver].append(events.Received(sender, message))

    def _tell(self, line: str) -> None:
        self._lines.append(f"+{self._now - self._begun:.2f} s  {line}" if self._stamp else line)


def _is_vote(effect: effects.Effect) -> bool:
    return isinstance(effect, effects.Send) and isinstance(effect.message, Notification)


def _zxid(place: str) -> int:
    epoch, _, counter = place.partition(".")
    return zxid_of(int(epoch), int(counter))


def _way(name: str) -> Way:
    sender, _, receiver = name.partition("->")
    return int(sender), int(receiver)
