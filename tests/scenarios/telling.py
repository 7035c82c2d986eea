"""How messages, effects and nodes are written in a trace: short, and in the words of the protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.replication import effects
from sluicemq.broker.replication.history import Entry, EpochRecord, MembershipRecord, show_zxid
from sluicemq.broker.replication.membership import nodes_of
from sluicemq.broker.replication.messages import (
    Ack,
    AckEpoch,
    Commit,
    FollowerInfo,
    HandOver,
    Message,
    NewEpoch,
    Notification,
    Ping,
    Pong,
    Propose,
    Role,
    SnapshotInstalled,
    Synchronize,
    Vote,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sluicemq.broker.replication.membership import Configuration
    from tests.broker.replication.walks.shell import Shell


def voters(configuration: Configuration) -> str:
    """Write who votes."""
    groups = [" ".join(map(str, nodes_of(group))) for group in configuration.electorates]
    return f"voters {' -> '.join(groups)}"


def entry(one: Entry) -> str:
    """Write an entry: its place, and what it is."""
    place = show_zxid(one.zxid)
    if isinstance(one.body, EpochRecord):
        return f"{place} (epoch of {one.body.leader}, {voters(one.body.configuration)})"
    if isinstance(one.body, MembershipRecord):
        return f"{place} ({voters(one.body.configuration)})"
    return place if one.body == place else f"{place} {one.body}"


def entries(some: Iterable[Entry]) -> str:
    """Write entries."""
    return ", ".join(map(entry, some))


def _vote(vote: Vote) -> str:
    return f"{vote.leader} at {show_zxid(vote.zxid)}" if vote.leader else "nobody"


def message(one: Message) -> str:
    """Write a message without connection and session."""
    name = type(one).__name__
    if isinstance(one, Notification):
        if one.role is Role.LOOKING:
            damaged = ", damaged" if one.damaged else ""
            return f"{name}: round {one.round}, votes for {_vote(one.vote)}{damaged}"
        return f"{name}: {one.role.value} {one.vote.leader}, epoch {one.epoch}"
    if isinstance(one, FollowerInfo):
        return f"{name}: promised {one.epoch}"
    if isinstance(one, AckEpoch):
        word = "promised" if one.promised else "not promised, or not to you"
        return f"{name}: {one.epoch} {word}, log ends {' '.join(show_zxid(end.zxid) for end in one.ends)}"
    if isinstance(one, Synchronize):
        return f"{name}: {one.method.name} after {show_zxid(one.position.zxid)}, committed {show_zxid(one.commit)}"
    if isinstance(one, Propose):
        return f"{name}: {entries(one.entries)}; committed {show_zxid(one.commit)}"
    if isinstance(one, Ack):
        return f"{name}: {show_zxid(one.zxid)}"
    if isinstance(one, Commit):
        return f"{name}: {show_zxid(one.commit)}"
    if isinstance(one, SnapshotInstalled):
        return f"{name}: {show_zxid(one.position.zxid)}"
    if isinstance(one, Ping):
        return f"{name} {one.number}, committed {show_zxid(one.commit)}"
    if isinstance(one, Pong):
        return f"{name} {one.number}"
    if isinstance(one, HandOver):
        return f"{name}: to {one.leader}"
    return f"{name}: {one.epoch}" if isinstance(one, NewEpoch) else name


def write(effect: effects.Effect) -> str:
    """Write what the disk is to do."""
    if isinstance(effect, effects.Join):
        return "rest"
    if isinstance(effect, effects.SavePromise):
        return f"promise {effect.epoch}"
    if isinstance(effect, effects.Append):
        return f"append {entries(effect.entries)}"
    if isinstance(effect, effects.Truncate):
        return f"truncate after {show_zxid(effect.position.zxid)}"
    if isinstance(effect, effects.InstallSnapshot):
        return f"install the snapshot at {show_zxid(effect.position.zxid)}"
    if isinstance(effect, effects.NoteRepaired):
        return "the damage is mended"
    return type(effect).__name__


def telling(effect: effects.Effect) -> str | None:
    """Write an effect that a reader wants to see even of a long run; None for what is routine."""
    if isinstance(effect, effects.RoleChanged):
        leader = f" {effect.leader}" if effect.role in (Role.FOLLOWING, Role.OBSERVING) else ""
        epoch = f", epoch {effect.epoch}" if effect.epoch else ""
        phase = "" if effect.role is Role.LOOKING else f", {effect.phase.value}"
        why = "" if epoch else f" ({effect.reason})"
        return f"is {effect.role.value}{leader}{phase}{epoch}{why}"
    if isinstance(effect, effects.Committed):
        return f"commits {show_zxid(effect.zxid)}"
    if isinstance(effect, effects.Proposed):
        return f"proposes {effect.reference} at {show_zxid(effect.zxid)}"
    if isinstance(effect, effects.Refused):
        return f"refuses {effect.reference}: {type(effect.error).__name__}: {effect.error}"
    if isinstance(effect, effects.ReadReady):
        return f"may answer {effect.reference} once it has applied {show_zxid(effect.zxid)}"
    if isinstance(effect, effects.Done):
        return f"has done {effect.reference}"
    if isinstance(effect, effects.Fatal):
        return f"ENDS: {effect.reason}"
    if isinstance(effect, effects.Alarm):
        return f"ALARM: {effect.reason}"
    if isinstance(effect, effects.NoteRepaired):
        return "writes: the damage is mended"
    if isinstance(effect, effects.Truncate | effects.InstallSnapshot):
        return f"writes: {write(effect)}"
    if isinstance(effect, effects.SendSnapshot):
        return f"streams a snapshot to {effect.peer}"
    return None


def routine(effect: effects.Effect) -> str:
    """Write any effect."""
    told = telling(effect)
    if told is not None:
        return told
    if isinstance(effect, effects.Send):
        return f"to {effect.peer}: {message(effect.message)}"
    if isinstance(effect, effects.ReadEntries):
        return f"reads its log after {show_zxid(effect.after)} for {effect.peer}"
    if hasattr(effect, "token"):
        return f"writes: {write(effect)}"
    return type(effect).__name__ + (f": {effect.reason}" if hasattr(effect, "reason") else "")


def status(shell: Shell) -> str:
    """Write how a node stands."""
    log, replica = shell.disk.durable, shell.replica
    end = f"log to {show_zxid(log.last.zxid)}"
    if shell.disk.view != log:
        end += f" ({show_zxid(shell.disk.view.last.zxid)} under way)"
    if log.start.zxid:
        end += f" from {show_zxid(log.start.zxid)}"
    promise = f"promised {shell.disk.promised_epoch}"
    if shell.disk.damaged_from is not None:
        end += f", damaged from {show_zxid(shell.disk.damaged_from)}"
    if replica is None:
        return f"down, {end}, {promise}"
    leader = f" {replica.leader}" if replica.role in (Role.FOLLOWING, Role.OBSERVING) else ""
    role = f"{replica.role.value}{leader}"
    if replica.role is not Role.LOOKING:
        role += f", {replica.phase.value}"
    if replica.epoch:
        role += f", epoch {replica.epoch}"
    return f"{role}, {end}, committed {show_zxid(replica.committed_zxid)}, {promise}"
