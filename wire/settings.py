"""The settings of queues and topics: names, types, defaults and limits, shared: a typo fails on both sides alike.

This module owns the names, and what a declaration would change. What a setting does stands in the broker's queue
machine; what its value may be, in `setting_values`. Defaults and limits are frozen by the log's format: brokers judge
declarations again whenever they read their log.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

from sluicemq.wire import setting_values as values
from sluicemq.wire import shaping
from sluicemq.wire.batch import MESSAGE_BYTES_MAX
from sluicemq.wire.errors import InvalidRequest, QueueConflict, UnknownOption
from sluicemq.wire.messages import SECONDS_MAX
from sluicemq.wire.setting_values import (
    OUTER_BLANKS,
    RETENTION_BYTES_MAX,
    RETENTION_SECONDS_MAX,
    RETENTION_SECONDS_MIN,
    RETRY_DELAY_SECONDS_MAX,
    ValueCheck,
    check_name,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "DEDUP_IDS_DEFAULT",
    "DEDUP_IDS_MAX",
    "DEDUP_SCOPES",
    "NOT_YET",
    "OUTER_BLANKS",
    "QUEUE_SETTINGS",
    "QUEUE_SETTINGS_DEFAULT",
    "RETENTION_BYTES_MAX",
    "RETENTION_SECONDS_MAX",
    "RETENTION_SECONDS_MIN",
    "RETRY_DELAY_SECONDS_MAX",
    "TOPIC_SETTINGS",
    "TOPIC_SETTINGS_DEFAULT",
    "AdaptiveRate",
    "GrowingDelay",
    "QueueSettings",
    "Retention",
    "Setting",
    "SettingsPlan",
    "TopicSettings",
    "check_name",
    "check_own_dead_letter",
    "check_queue_settings",
    "check_topic_settings",
    "compare_settings",
    "effective_settings",
]

COUNT_MAX = 1 << 48
BYTES_MAX = 1 << 60
DELIVERIES_MAX = 65_535
KEY_IN_FLIGHT_MAX = 10_000
DEDUP_SECONDS_MIN = 0.001
DEDUP_IDS_DEFAULT = 1_000_000
DEDUP_IDS_MAX = 50_000_000
"""Most message ids that one window holds: 0.5 GB of memory, and 3.2 GB of the disk."""
DEDUP_SCOPES = ("queue", "key")
"""Within what message ids are unique. The order is frozen by the log's format: entries name a scope by its place."""


class Retention(TypedDict, total=False):
    """How long messages can be replayed; at least one of the two.

    Attributes:
        seconds: So long after it was published, about a second more; 1 to ten years.
        bytes: Until what was published since takes more than so many bytes, as batches; 1 or more.

    """

    seconds: float
    bytes: int


class GrowingDelay(TypedDict, total=False):
    """A retry policy whose delays grow; `initial` is needed.

    Attributes:
        initial: Seconds before the second attempt; 0.001 to a year.
        factor: By what each delay is longer than the one before; 1 to 100, default 2.
        max: Seconds that no delay exceeds; default an hour, or `initial` if that is longer.
        jitter: Up to which share each delay is shortened, by a chance that follows from the message and the attempt;
            0 to 1, default 0.

    """

    initial: float
    factor: float
    max: float
    jitter: float


class AdaptiveRate(TypedDict, total=False):
    """How a queue finds by itself how fast it may deliver; all optional.

    Attributes:
        min: Messages a second that it never goes below; 0.00001 to 10,000,000, default 1.
        max: Messages a second that it never goes beyond; likewise, default 1,000,000.
        latency: Seconds from delivery to settlement beyond which a service has too much to do, 0.001 to a day; default
            None: however long it takes.
        failures: Share of nacks and lost leases among all deliveries beyond which it has; 0.001 to 1, default 0.02.

    """

    min: float
    max: float
    latency: float | None
    failures: float


class QueueSettings(TypedDict, total=False):
    """Settings of a queue, all optional.

    Attributes:
        retry_delay: Seconds that a message waits after a nack that names no delay, where `retry` is None; default 1.0.
        retry: How long it waits instead: a list of seconds, one for each attempt, of which the last one repeats, or
            delays that grow (`GrowingDelay`); default None.
        max_deliveries: Attempts after which a message that was not acknowledged dies, 1 to 65,535; default None: never.
        dead_letter: Name of the queue that messages which die go to; default None: they are kept aside in this queue.
        ttl: Seconds after which a ready message expires, unless it brings a shorter time of its own; default None.
        expires: Seconds without consumers and use after which the queue is deleted; default None.
        max_length: Most messages, leased ones included; default None.
        max_bytes: Most bytes of messages, as batches; default None.
        overflow: What happens to a batch that does not fit: "reject" (default) refuses it, "drop_head" drops the oldest
            messages of the lowest priority instead, "dead_letter" lets those die.
        mode: Who gets messages: "shared" (default) all consumers, "exclusive" the only one that may be there,
            "failover" one of them, and the next when it goes.
        ordering: "fifo" (default), or "key": messages of one key one after the other.
        key_in_flight_max: Most messages of one key out at a time, with ordering="key"; default 1.
        poison_key: What happens to a key whose message dies: "dead_letter" (default) goes on with its next message,
            "park" stops the key until it is unparked, "skip" puts the message behind the last of its key.
        dispatch: Which consumer comes next: "round_robin" (default), "weighted", "random", "least_in_flight" or
            "two_choices".
        message_bytes_max: Largest body of a message; default None: what the broker takes.
        retention: Keep every message that is published from now on for replay, also when it is settled or purged
            (`Retention`); default None: what is settled goes at once.
        dedup_window: For so many seconds a message with the id of an earlier one is confirmed as its duplicate and
            stored nowhere; default 0: never. Messages without an id of their own are never duplicates.
        dedup_count: Most ids that this looks back at; default 1,000,000. 0: as many as there may be, 50,000,000.
        dedup_scope: Within what an id is unique: "queue" (default), or "key": among messages of one key.
        settled_window: For so many seconds after a message was acknowledged another one with its id is settled
            without being delivered; default 0: never. At most 50,000,000 ids are remembered.
        delivery_rate: Most messages delivered a second, redeliveries included, or when how many: "50/s from 9 to 18 on
            mon-fri; 500/s; in Europe/Berlin", of which the first that holds counts; default None: no limit.
        delivery_burst: Most messages at once after a quiet time, 1 to a billion; default None: those of 0.01 seconds.
        delivery_bytes_rate: Most bytes delivered a second, as batches; default None: no limit.
        max_concurrency: Most messages that all consumers together may hold unsettled; default None: no limit.
        delivery_adaptive: Find by nacks and by how long messages take how many a second are not too many, within
            `delivery_rate` (`AdaptiveRate`); default None: do not.
        publish_limit: How many messages may be published: "token_bucket 1000/s burst 5000", "leaky_bucket 50/s",
            "fixed_window 1000/min" or "sliding_window 100/10s"; default None: no limit.

    """

    retry_delay: float
    retry: list[float] | GrowingDelay | None
    max_deliveries: int | None
    dead_letter: str | None
    ttl: float | None
    expires: float | None
    max_length: int | None
    max_bytes: int | None
    overflow: Literal["reject", "drop_head", "dead_letter"]
    mode: Literal["shared", "exclusive", "failover"]
    ordering: Literal["fifo", "key"]
    key_in_flight_max: int
    poison_key: Literal["dead_letter", "park", "skip"]
    dispatch: Literal["round_robin", "weighted", "random", "least_in_flight", "two_choices"]
    message_bytes_max: int | None
    retention: Retention | None
    dedup_window: float
    dedup_count: int
    dedup_scope: Literal["queue", "key"]
    settled_window: float
    delivery_rate: float | str | None
    delivery_burst: int | None
    delivery_bytes_rate: float | None
    max_concurrency: int | None
    delivery_adaptive: AdaptiveRate | None
    publish_limit: str | None


class TopicSettings(TypedDict, total=False):
    """Settings of a topic, all optional.

    Attributes:
        ttl: Seconds after which a message expires in the subscriptions, see `QueueSettings`.
        message_bytes_max: Largest body of a message; default None: what the broker takes.
        retention: Keep every message for replay, and for subscriptions that begin in the past, from when it is ready;
            default None.
        dedup_window: How long a message with the id of an earlier one is a duplicate, see `QueueSettings`; what is one
            goes to no subscription.
        dedup_count: Most ids that this looks back at, likewise.
        dedup_scope: Within what an id is unique, likewise.
        publish_limit: How many messages may be published to it, likewise.

    """

    ttl: float | None
    message_bytes_max: int | None
    retention: Retention | None
    dedup_window: float
    dedup_count: int
    dedup_scope: Literal["queue", "key"]
    publish_limit: str | None


QUEUE, TOPIC = "queue", "topic"


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        name: Its name.
        default: Its value where nothing says otherwise.
        check: Returns a value in its one form, or raises `InvalidRequest`.
        live: Whether it can change while the queue holds messages.
        applies_to: Kinds of objects that have it.

    """

    name: str
    default: Any
    check: ValueCheck
    live: bool = True
    applies_to: tuple[str, ...] = (QUEUE,)


_TABLE = (
    Setting("retry_delay", 1.0, values.seconds(0, RETRY_DELAY_SECONDS_MAX)),
    Setting("retry", None, values.retry),
    Setting("max_deliveries", None, values.integer(1, DELIVERIES_MAX, or_none=True)),
    Setting("dead_letter", None, values.queue_name),
    Setting("ttl", None, values.seconds(0.001, SECONDS_MAX, or_none=True), applies_to=(QUEUE, TOPIC)),
    Setting("expires", None, values.seconds(1, SECONDS_MAX, or_none=True)),
    Setting("max_length", None, values.integer(1, COUNT_MAX, or_none=True)),
    Setting("max_bytes", None, values.integer(1, BYTES_MAX, or_none=True)),
    Setting("overflow", "reject", values.one_of("reject", "drop_head", "dead_letter")),
    Setting("mode", "shared", values.one_of("shared", "exclusive", "failover")),
    Setting("ordering", "fifo", values.one_of("fifo", "key"), live=False),
    Setting("key_in_flight_max", 1, values.integer(1, KEY_IN_FLIGHT_MAX)),
    Setting("poison_key", "dead_letter", values.one_of("dead_letter", "park", "skip")),
    Setting(
        "dispatch",
        "round_robin",
        values.one_of("round_robin", "weighted", "random", "least_in_flight", "two_choices"),
    ),
    Setting("message_bytes_max", None, values.integer(1, MESSAGE_BYTES_MAX, or_none=True), applies_to=(QUEUE, TOPIC)),
    Setting("retention", None, values.retention, applies_to=(QUEUE, TOPIC)),
    Setting("dedup_window", 0.0, values.seconds_or_off(DEDUP_SECONDS_MIN, SECONDS_MAX), applies_to=(QUEUE, TOPIC)),
    Setting("dedup_count", DEDUP_IDS_DEFAULT, values.integer(0, DEDUP_IDS_MAX), applies_to=(QUEUE, TOPIC)),
    Setting("dedup_scope", "queue", values.one_of(*DEDUP_SCOPES), applies_to=(QUEUE, TOPIC)),
    Setting("settled_window", 0.0, values.seconds_or_off(DEDUP_SECONDS_MIN, SECONDS_MAX)),
    Setting("delivery_rate", None, shaping.delivery_rate),
    Setting("delivery_burst", None, values.integer(1, shaping.LIMIT_COUNT_MAX, or_none=True)),
    Setting("delivery_bytes_rate", None, shaping.bytes_rate),
    Setting("max_concurrency", None, values.integer(1, shaping.LIMIT_COUNT_MAX, or_none=True)),
    Setting("delivery_adaptive", None, shaping.adaptive),
    Setting("publish_limit", None, shaping.publish_limit, applies_to=(QUEUE, TOPIC)),
)

QUEUE_SETTINGS: dict[str, Setting] = {setting.name: setting for setting in _TABLE if QUEUE in setting.applies_to}
"""Every setting of queues by name."""
TOPIC_SETTINGS: dict[str, Setting] = {setting.name: setting for setting in _TABLE if TOPIC in setting.applies_to}
"""Every setting of topics by name."""
QUEUE_SETTINGS_DEFAULT: dict[str, Any] = {name: setting.default for name, setting in QUEUE_SETTINGS.items()}
"""Every setting of queues with its default."""
TOPIC_SETTINGS_DEFAULT: dict[str, Any] = {name: setting.default for name, setting in TOPIC_SETTINGS.items()}
"""Every setting of topics with its default."""

NOT_YET: frozenset[str] = frozenset(QUEUE_SETTINGS_DEFAULT) - {
    "dead_letter",
    "dedup_count",
    "dedup_scope",
    "dedup_window",
    "delivery_adaptive",
    "delivery_burst",
    "delivery_bytes_rate",
    "delivery_rate",
    "dispatch",
    "expires",
    "key_in_flight_max",
    "max_bytes",
    "max_concurrency",
    "max_deliveries",
    "max_length",
    "message_bytes_max",
    "mode",
    "ordering",
    "overflow",
    "poison_key",
    "publish_limit",
    "retention",
    "retry",
    "retry_delay",
    "settled_window",
    "ttl",
}
"""Settings that no broker acts upon yet: any value but the default is refused, never half obeyed."""


def check_queue_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return *settings* as plain values, checked one by one; missing ones are not filled in.

    Raises:
        UnknownOption: A name that no queue has, or that this version does not act upon.
        InvalidRequest: A value of the wrong type or out of range.

    """
    return _checked(QUEUE_SETTINGS, "queues", settings)


def check_topic_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the *settings* of a topic likewise. Raises as `check_queue_settings`."""
    return _checked(TOPIC_SETTINGS, "topics", settings)


def _checked(table: Mapping[str, Setting], whose: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    for name, value in settings.items():
        setting = table.get(name)
        if setting is None:
            known = ", ".join(sorted(table.keys() - NOT_YET))
            raise UnknownOption(f"{whose} have no setting {name!r:.80}; known are: {known}", option=str(name)[:80])
        checked[name] = setting.check(name, value)
        if name in NOT_YET and checked[name] != setting.default:
            raise UnknownOption(
                f"{name} is known, but this version does not act upon it yet: leave it at {setting.default!r}",
                option=name,
            )
    return checked


def check_own_dead_letter(queue: str, settings: Mapping[str, Any]) -> None:
    """Refuse a queue as its own dead-letter queue: what dies there would come back for ever.

    Raises:
        InvalidRequest: It is.

    """
    if settings.get("dead_letter") == queue:
        raise InvalidRequest(
            f"dead_letter of queue {queue!r:.300} names the queue itself: name another one, or leave it at None, which "
            "keeps dead letters aside in this queue"
        )


def effective_settings(declared: Mapping[str, Any], policy: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return every setting of a queue: what was declared, before what a policy says, before the default."""
    return {**QUEUE_SETTINGS_DEFAULT, **(policy or {}), **declared}


class SettingsPlan(NamedTuple):
    """What a declaration would do.

    Attributes:
        outcome: `created`, `changed` or `unchanged`.
        changes: Each change as name -> [before, after]; a queue that is created differs from the defaults.
        refusal: Why it cannot be done, and what to do instead; None where it can.

    """

    outcome: str
    changes: dict[str, list[Any]]
    refusal: QueueConflict | None = None


def compare_settings(
    existing: Mapping[str, Any] | None, settings: Mapping[str, Any], *, name: str = "", messages: int = 0
) -> SettingsPlan:
    """Return what declaring *settings* would do.

    Args:
        existing: All settings that the queue has now; None: there is no queue.
        settings: What is declared, checked. A setting that is not named keeps its value.
        name: The queue's name, for the refusal.
        messages: How many messages the queue holds in all.

    """
    before = QUEUE_SETTINGS_DEFAULT if existing is None else existing
    changes = {key: [before[key], value] for key, value in settings.items() if before[key] != value}
    if existing is None:
        return SettingsPlan("created", changes)
    fixed = [key for key in changes if messages and not QUEUE_SETTINGS[key].live]
    if fixed:
        return SettingsPlan("changed", changes, _refusal(name, messages, {key: changes[key] for key in fixed}))
    return SettingsPlan("changed" if changes else "unchanged", changes)


def _refusal(name: str, messages: int, changes: dict[str, list[Any]]) -> QueueConflict:
    what = ", ".join(f"{key} from {before!r} to {after!r}" for key, (before, after) in changes.items())
    plan = [
        f"declare a new queue beside {name!r:.300} with the settings wanted, and publish to that one",
        f"consume {name!r:.300} until it is empty, or purge it, delayed messages and dead letters included",
        f"declare {name!r:.300} again: an empty queue takes the change",
    ]
    return QueueConflict(
        f"queue {name!r:.300} holds {messages} messages, so {what} cannot be changed: empty the queue first, or "
        "declare another one beside it; everything else can be changed at any time",
        queue=name,
        messages=messages,
        changes=changes,
        plan=plan,
    )
