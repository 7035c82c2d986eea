"""Messages about transactions and prepared ("half") messages; the others stand in `messages`.

As there: vocabulary only, and even field numbers must be understood. A prepared message is named by the zxid of the
entry that stored it.
"""

from __future__ import annotations

from typing import Any

from sluicemq.wire.fields import (
    NAME_BYTES_MAX,
    Message,
    binary,
    boolean,
    list_of,
    map_of_text,
    message,
    number,
    numbers,
    text,
    unsigned,
    wire_field,
)

__all__ = [
    "CHECK_AFTER_SECONDS_DEFAULT",
    "CHECK_AFTER_SECONDS_MAX",
    "TRANSACTIONS_PAGE_MAX",
    "TRANSACTION_PARTS_MAX",
    "TRANSACTION_SETTLED_MAX",
    "Check",
    "CheckerRegistered",
    "ListTransactions",
    "Prepare",
    "Prepared",
    "RegisterChecker",
    "Resolve",
    "Resolved",
    "ShowTransaction",
    "Transacted",
    "Transaction",
    "TransactionShown",
    "Transactions",
]

TRANSACTION_PARTS_MAX = 1_000
"""Most destinations of one transaction, each time that it changes from one to another."""
TRANSACTION_SETTLED_MAX = 10_000
"""Most messages that one transaction settles."""
TRANSACTIONS_PAGE_MAX = 1_000
"""Most rows in one TRANSACTIONS, whatever `count_max` asks for."""
CHECK_AFTER_SECONDS_DEFAULT = 6.0
CHECK_AFTER_SECONDS_MAX = 30 * 86_400.0

_name = text(NAME_BYTES_MAX)


@message(100)
class Transaction(Message):
    """Publish the batch in the tail to several destinations, and settle: all or nothing. Answered by TRANSACTED.

    The batch begins with `counts[0]` messages for `destinations[0]`, and so on. Settlements are flat: consumer, verdict
    (1 ack, 2 nack, 5 reject), for a nack the milliseconds until it comes again and 1 more (0: as the queue's retry
    policy says), how many ranges of tags, the ranges. *session* is the one that holds them, as OPENED named it: sent
    again on another connection, a transaction that was not done is void. Sequences count as those of PUBLISH do.
    """

    producer: int = wire_field(2, unsigned(64))
    sequence: int = wire_field(4, unsigned(64))
    destinations: list[str] = wire_field(6, list_of(_name, TRANSACTION_PARTS_MAX), default=[])
    counts: list[int] = wire_field(8, numbers(32, items_max=TRANSACTION_PARTS_MAX), default=[])
    session: int = wire_field(10, unsigned(64), default=0)
    settlements: list[int] = wire_field(12, numbers(64), default=[])
    reasons: list[str] = wire_field(14, list_of(text()), default=[])


@message(101)
class Transacted(Message):
    """All of it is done. *zxid* and the index within the batch are a message's position; 0 = forgotten.

    *known* and *known_bits* say which messages are duplicates by their ids, as those of PUBLISHED do. So does
    *id_base* say what ids the others have.
    """

    zxid: int = wire_field(2, unsigned(64))
    duplicate: bool = wire_field(4, boolean, default=False)
    known: list[int] = wire_field(6, numbers(64, multiple_of=4), default=[])
    known_bits: bytes = wire_field(8, binary(), default=b"")
    id_base: int = wire_field(10, unsigned(64), default=0)


@message(102)
class Prepare(Message):
    """Store the batch in the tail so that nobody sees it until it is decided. Answered by PREPARED.

    Members of *group* are asked what became of it, the first time after *check_after_seconds*.
    """

    destination: str = wire_field(2, _name)
    producer: int = wire_field(4, unsigned(64))
    sequence: int = wire_field(6, unsigned(64))
    group: str = wire_field(8, _name)
    check_after_seconds: float = wire_field(10, number(0, CHECK_AFTER_SECONDS_MAX), default=CHECK_AFTER_SECONDS_DEFAULT)


@message(103)
class Prepared(Message):
    """It is stored, under this number; 0 = it was stored before, and the number is forgotten."""

    transaction: int = wire_field(2, unsigned(64))
    duplicate: bool = wire_field(4, boolean, default=False)
    id_base: int = wire_field(6, unsigned(64), default=0)


@message(104)
class Resolve(Message):
    """Commit a prepared message, or roll it back; the first decision holds. Answered by RESOLVED."""

    transaction: int = wire_field(2, unsigned(64))
    commit: bool = wire_field(4, boolean)


@message(105)
class Resolved(Message):
    """It is decided as wanted; *again*: it was so before.

    *known* and *known_bits* say which messages are duplicates by their ids, as those of PUBLISHED do; *again*, only the
    first ones.
    """

    committed: bool = wire_field(2, boolean)
    again: bool = wire_field(4, boolean, default=False)
    known: list[int] = wire_field(6, numbers(64, multiple_of=4), default=[])
    known_bits: bytes = wire_field(8, binary(), default=b"")


@message(106)
class RegisterChecker(Message):
    """From now on this connection may be asked about prepared messages of *group*. Answered by CHECKER_REGISTERED."""

    group: str = wire_field(2, _name)


@message(107)
class CheckerRegistered(Message):
    """It may; so many of the group are undecided now."""

    undecided: int = wire_field(2, unsigned(32))


@message(108)
class Check(Message):
    """Broker to client, unasked: what became of this prepared message, whose batch is the tail? RESOLVE says so.

    Who does not know says nothing, and the group is asked again later.
    """

    transaction: int = wire_field(2, unsigned(64))
    group: str = wire_field(4, _name)
    destination: str = wire_field(6, _name)
    messages: int = wire_field(8, unsigned(32))
    prepared_ms: int = wire_field(10, unsigned(64))
    checks: int = wire_field(12, unsigned(32))
    producer: int = wire_field(14, unsigned(64))
    sequence: int = wire_field(16, unsigned(64))


@message(110)
class ListTransactions(Message):
    """List prepared messages that are undecided, oldest first, behind the one of number *after*. Answered by
    TRANSACTIONS; an empty *group* means all."""

    group: str = wire_field(2, _name, default="")
    after: int = wire_field(4, unsigned(64), default=0)
    count_max: int = wire_field(6, unsigned(32), default=TRANSACTIONS_PAGE_MAX)


@message(111)
class Transactions(Message):
    """A page of prepared messages, a map each; *more*: others follow behind *last*."""

    rows: list[dict[str, Any]] = wire_field(2, list_of(map_of_text, TRANSACTIONS_PAGE_MAX))
    more: bool = wire_field(4, boolean, default=False)
    last: int = wire_field(6, unsigned(64), default=0)


@message(112)
class ShowTransaction(Message):
    """Show one prepared message, or what was decided of it. Answered by TRANSACTION_SHOWN."""

    transaction: int = wire_field(2, unsigned(64))


@message(113)
class TransactionShown(Message):
    """What is known of it; the batch is the tail while it is undecided."""

    row: dict[str, Any] = wire_field(2, map_of_text)
