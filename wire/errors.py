"""The error tree that broker and client share, and how an error crosses the wire.

The tree::

    SluiceError                     anything that SluiceMQ raises on purpose
    |- ProtocolError                the peer sent bytes that make no sense: the connection ends
    |  `- FrameTooLarge             one frame beyond the negotiated limit
    |- VersionMismatch              the two sides share no protocol version
    |- AuthenticationFailed         identity not proven, or mechanism not offered
    |- NotAuthorized                identity known, action not allowed
    |- InvalidRequest (ValueError)  well-formed, but a value is wrong; nothing was changed
    |  |- UnknownOption             an option or column that this broker does not know
    |  |- MessageTooLarge           one message beyond the limit
    |  `- BatchTooLarge             one batch beyond the limit
    |- NotFound (LookupError)       what was named does not exist
    |  |- QueueNotFound, TopicNotFound, ConsumerNotFound, SessionNotFound, ProducerNotFound, MessageNotFound
    |  |- TransactionNotFound       no message was prepared under that name
    |  `- PositionExpired           messages from that position or time on were retained, and are not any more
    |- Conflict                     what was asked contradicts what exists
    |  |- QueueConflict             a declaration differs and cannot be applied live
    |  |- ConsumerConflict          the queue is exclusive, and has its consumer
    |  |- NameConflict              the name is that of something else, or lies below or above it
    |  |- TopicInUse                subscriptions get what is published to the topic
    |  |- ProducerFenced            a newer producer of that name has taken over
    |  |- SequenceGap               a batch arrived ahead of its predecessors
    |  |- RetentionOff              the queue retains no messages, so there is nothing to replay
    |  |- ClusterMismatch           two brokers belong to different clusters
    |  |- NodeMismatch              a broker is not the one that was meant, or one of its number is there already
    |  |- TransactionDecided        the prepared message was decided before, the other way round
    |  |- LeaseLost                 the message is no longer yours to settle
    |  `- AlreadySettled            another verdict was given before
    |- Unavailable                  try again later; `retryable` is True
    |  |- NotLeader, StaleEpoch, BrokerStopping, ResourceLow, LimitReached
    |  |- QueueFull                 the queue's own limit, and it refuses what is beyond
    |  |- PublishLimited            more is published than the queue or topic takes for now
    |  `- QueuePaused               somebody paused publishing to the queue
    |- OutcomeUnknown               it may or may not have happened; a resend with the same identity is safe
    |- ConnectionFailed (ConnectionError)   no broker could be reached, or the connection broke
    |  `- HeartbeatLost             the peer fell silent
    |- ClientClosed                 the client or the producer or the consumer was closed
    |- RequestTimeout (TimeoutError)
    |- RequestFailed                whoever served the request says that it failed
    |  `- RequestDied               its last attempt failed: it became a dead letter
    `- InternalError                our bug: please report it

Catch by what you can do next: `error.retryable` says that the same call may succeed later, `error.retry_after`
(seconds or None) when. Fields of an error stand in `error.fields` and as attributes. All errors pickle.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import msgpack

__all__ = [
    "AlreadySettled",
    "AuthenticationFailed",
    "BatchTooLarge",
    "BrokerStopping",
    "ClientClosed",
    "ClusterMismatch",
    "Conflict",
    "ConnectionFailed",
    "ConsumerConflict",
    "ConsumerNotFound",
    "FrameTooLarge",
    "HeartbeatLost",
    "InternalError",
    "InvalidRequest",
    "LeaseLost",
    "LimitReached",
    "MessageNotFound",
    "MessageTooLarge",
    "NameConflict",
    "NodeMismatch",
    "NotAuthorized",
    "NotFound",
    "NotLeader",
    "OutcomeUnknown",
    "PositionExpired",
    "ProducerFenced",
    "ProducerNotFound",
    "ProtocolError",
    "PublishLimited",
    "QueueConflict",
    "QueueFull",
    "QueueNotFound",
    "QueuePaused",
    "RequestDied",
    "RequestFailed",
    "RequestTimeout",
    "ResourceLow",
    "RetentionOff",
    "SequenceGap",
    "SessionNotFound",
    "SluiceError",
    "StaleEpoch",
    "TopicInUse",
    "TopicNotFound",
    "TransactionDecided",
    "TransactionNotFound",
    "Unavailable",
    "UnknownOption",
    "VersionMismatch",
    "error_from_wire",
    "error_to_wire",
]

ERROR_TEXT_CHARACTERS_MAX = 2_000
"""Longer error texts are cut before they cross the wire, so that an error never exceeds a frame."""
ERROR_FIELDS_MAX = 32
"""Most fields of an error that cross the wire."""
ERROR_FIELD_CHARACTERS_MAX = 400
"""Longer texts and binaries in the fields of an error are cut before they cross the wire."""
ERROR_FIELD_ITEMS_MAX = 64
"""Most items of a list or map in the fields of an error."""
ERROR_FIELD_DEPTH_MAX = 2
"""How deep lists and maps nest in the fields of an error; what is deeper crosses the wire as text."""
ERROR_FIELDS_BYTES_MAX = 16 * 1024
"""Most bytes that the fields of an error take together."""
_CUT = "…"


class SluiceError(Exception):
    """Root of all errors that SluiceMQ raises on purpose.

    Args:
        text: What was wrong, with which value, and what the caller can do; one sentence or two.
        retryable: Overrides the class's own answer to "may the same call succeed later?".
        retry_after: Seconds after which a retry makes sense, or None when nobody knows.
        fields: The values that the text mentions, by name; plain msgpack types only. They are attributes too.

    """

    code: ClassVar[str] = "error"
    retryable: bool = False

    def __init__(
        self, text: str = "", *, retryable: bool | None = None, retry_after: float | None = None, **fields: Any
    ) -> None:
        super().__init__(text)
        self.text = text
        self.fields = fields
        self.retry_after = retry_after
        if retryable is not None:
            self.retryable = retryable

    def __str__(self) -> str:
        return self.text

    def __getattr__(self, name: str) -> Any:
        # Only reached when the normal look-up failed; `fields` itself must not recurse while unpickling. Names with
        # two underscores are Python's (`__deepcopy__`, `__notes__`): a peer's fields must not answer for them.
        fields = self.__dict__.get("fields", {})
        if name in fields and not name.startswith("__"):
            return fields[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.text, self.retryable, self.retry_after, self.fields))


def _rebuild(
    cls: type[SluiceError], text: str, retryable: bool, retry_after: float | None, fields: dict[str, Any]
) -> SluiceError:
    # The fields are no keyword arguments here: a peer may have named one "text" or "self".
    error = cls(text, retryable=retryable, retry_after=retry_after)
    error.fields = fields
    return error


class ProtocolError(SluiceError):
    """The peer broke the protocol; its connection is closed and nothing else is touched."""

    code = "protocol"


class FrameTooLarge(ProtocolError):
    """A frame announces more bytes than the handshake allowed."""

    code = "frame_too_large"


class VersionMismatch(SluiceError):
    """The two sides have no protocol version in common; upgrade the older one."""

    code = "version_mismatch"


class AuthenticationFailed(SluiceError):
    """The identity was not proven."""

    code = "authentication_failed"


class NotAuthorized(SluiceError):
    """The identity may not do this to that."""

    code = "not_authorized"


class InvalidRequest(SluiceError, ValueError):
    """A value in a well-formed request is wrong; nothing was changed."""

    code = "invalid_request"


class UnknownOption(InvalidRequest):
    """An option, column or feature that this side does not know and must not ignore."""

    code = "unknown_option"


class MessageTooLarge(InvalidRequest):
    """One message is larger than allowed."""

    code = "message_too_large"


class BatchTooLarge(InvalidRequest):
    """One batch is larger than allowed; send it in smaller parts."""

    code = "batch_too_large"


class NotFound(SluiceError, LookupError):
    """What was named does not exist."""

    code = "not_found"


class QueueNotFound(NotFound):
    """No queue of that name; declare it first."""

    code = "queue_not_found"


class TopicNotFound(NotFound):
    """No topic of that name, or none that owns it; declare it first."""

    code = "topic_not_found"


class ConsumerNotFound(NotFound):
    """No consumer of that number in this session."""

    code = "consumer_not_found"


class SessionNotFound(NotFound):
    """The session has ended."""

    code = "session_not_found"


class ProducerNotFound(NotFound):
    """The producer was closed, or forgotten after a long silence; open a new one."""

    code = "producer_not_found"


class MessageNotFound(NotFound):
    """The messages at that position are gone, because a repair of the log gave them up.

    Fields: `position`; `next_position`, where what follows begins, or later.
    """

    code = "message_not_found"


class TransactionNotFound(NotFound):
    """No message was prepared under that name, or it was decided more than a day ago."""

    code = "transaction_not_found"


class PositionExpired(NotFound):
    """Not everything from that position or time on is retained any more; nothing was skipped in silence.

    Fields: `queue`; `oldest_position`, from which everything is retained (begin there, and know what is missing), and
    `oldest_published_at`, in milliseconds since 1970, None when nothing is retained.
    """

    code = "position_expired"


class Conflict(SluiceError):
    """The request contradicts what exists."""

    code = "conflict"


class QueueConflict(Conflict):
    """The declaration differs from the existing queue in a way that cannot be applied live."""

    code = "queue_conflict"


class ConsumerConflict(Conflict):
    """The queue is exclusive and has its only consumer; fields: `queue`, `session`, `consumer`, `client_name`.

    Another one may come once that one has gone, also when it is the same client's, whose old connection is not known to
    be broken yet: so a consumer that was there before a reconnect asks again.
    """

    code = "consumer_conflict"
    retryable = True


class NameConflict(Conflict):
    """Queues, subscriptions and topics share one namespace, and the name is taken, or lies where it must not.

    Fields: `name`, and `taken_by`, the name that stands in the way.
    """

    code = "name_conflict"


class TopicInUse(Conflict):
    """The topic has subscriptions: unsubscribe them first, or delete it with `force`, and they go with it.

    Fields: `topic`; `subscriptions`, how many.
    """

    code = "topic_in_use"


class ProducerFenced(Conflict):
    """A newer producer of the same name has taken over; this one must stop."""

    code = "producer_fenced"


class SequenceGap(Conflict):
    """A batch arrived ahead of its predecessors; the client resends from `expected`."""

    code = "sequence_gap"


class TransactionDecided(Conflict):
    """The prepared message was decided before, the other way round; `committed` and `decided_at` (milliseconds since
    1970) say how and when."""

    code = "transaction_decided"


class RetentionOff(Conflict):
    """The queue retains no messages: declare it with `retention`, and what is published from then on can be read."""

    code = "retention_off"


class ClusterMismatch(Conflict):
    """Two brokers belong to different clusters, or groups, and never talk.

    Fields: `cluster_id` and `peer_cluster_id`, as hexadecimal text.
    """

    code = "cluster_mismatch"


class NodeMismatch(Conflict):
    """A broker is not the one that was meant, or another one of its number is connected; fields: `node`."""

    code = "node_mismatch"


class LeaseLost(Conflict):
    """The lease of the message is over: it belongs to another delivery now, or is gone."""

    code = "lease_lost"


class AlreadySettled(Conflict):
    """The message got another verdict before."""

    code = "already_settled"


class Unavailable(SluiceError):
    """Not now; the same call may succeed later."""

    code = "unavailable"
    retryable = True


class NotLeader(Unavailable):
    """This broker does not lead; `leader` names the one that does, where known."""

    code = "not_leader"


class StaleEpoch(Unavailable):
    """The request belongs to an epoch that is over."""

    code = "stale_epoch"


class BrokerStopping(Unavailable):
    """The broker is shutting down and takes no new work."""

    code = "broker_stopping"


class ResourceLow(Unavailable):
    """Disk or memory is low; publishing resumes when there is room."""

    code = "resource_low"


class LimitReached(Unavailable):
    """A configured limit is reached; `limit` and `value` say which."""

    code = "limit_reached"


class QueueFull(Unavailable):
    """The batch does not fit the queue's `max_length` or `max_bytes`; nothing of it is stored.

    `queue`, `messages` (that the queue holds), `max_length` and `max_bytes` say which. Not retryable where the batch
    alone is larger than the queue may ever be.
    """

    code = "queue_full"


class PublishLimited(Unavailable):
    """The `publish_limit` of the queue or topic does not take the batch now; nothing of it is stored.

    `retry_after` says when it would. `destination` says where, `messages_now` how many messages would be taken at once,
    `messages_max` how many ever are (None: any number), `waiting` how many are ready there (None: it is a topic), and
    `drain_seconds` how long those take at the present pace (None: nobody knows). Not retryable where the batch alone
    is beyond `messages_max`.
    """

    code = "publish_limited"


class QueuePaused(Unavailable):
    """Publishing to the queue is paused; nothing of the batch is stored. `queue` says which."""

    code = "queue_paused"


class OutcomeUnknown(SluiceError):
    """It may or may not have happened. Carries the identity with which a resend is safe."""

    code = "outcome_unknown"
    retryable = True


class ConnectionFailed(SluiceError, ConnectionError):
    """No broker could be reached, or the connection broke; each address stands in the text with its cause."""

    code = "connection_failed"
    retryable = True


class HeartbeatLost(ConnectionFailed):
    """The peer was silent for longer than the heartbeat allows."""

    code = "heartbeat_lost"


class ClientClosed(SluiceError):
    """The client, producer or consumer that was used is closed."""

    code = "client_closed"


class RequestTimeout(SluiceError, TimeoutError):
    """No answer within the time that the caller allowed."""

    code = "request_timeout"
    retryable = True


class RequestFailed(SluiceError):
    """Whoever served the request replied that it failed; the text is theirs."""

    code = "request_failed"


class RequestDied(RequestFailed):
    """The request's last attempt failed, and it became a dead letter of `queue`; `reason` is what that attempt said."""

    code = "request_died"


class InternalError(SluiceError):
    """A bug of ours; please report it with the text."""

    code = "internal"


def _all_classes(root: type[SluiceError]) -> list[type[SluiceError]]:
    found = [root]
    for child in root.__subclasses__():
        found.extend(_all_classes(child))
    return found


_CLASS_BY_CODE: dict[str, type[SluiceError]] = {cls.code: cls for cls in _all_classes(SluiceError)}


def _cut_text(text: str, characters_max: int) -> str:
    if not text.isascii():  # half a surrogate pair (from a file name, for one) cannot be sent as it is
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= characters_max else text[: characters_max - 1] + _CUT


def _plain(value: Any, depth_max: int = ERROR_FIELD_DEPTH_MAX) -> Any:
    """Return *value* as msgpack can carry it: scalars, and lists and maps of them; anything else as text."""
    if value is None or type(value) in (bool, float):
        return value
    if type(value) is int:
        return value if -(1 << 63) <= value < 1 << 64 else str(value)
    if type(value) is bytes:
        return value[:ERROR_FIELD_CHARACTERS_MAX]
    if depth_max and isinstance(value, (list, tuple)):
        return [_plain(item, depth_max - 1) for item in value[:ERROR_FIELD_ITEMS_MAX]]
    if depth_max and isinstance(value, dict):
        items = list(value.items())[:ERROR_FIELD_ITEMS_MAX]
        return {_cut_text(str(name), ERROR_FIELD_CHARACTERS_MAX): _plain(item, depth_max - 1) for name, item in items}
    return _cut_text(str(value), ERROR_FIELD_CHARACTERS_MAX)


def _plain_fields(fields: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    room = ERROR_FIELDS_BYTES_MAX
    for name, value in list(fields.items())[:ERROR_FIELDS_MAX]:
        cut = {_cut_text(str(name), ERROR_FIELD_CHARACTERS_MAX): _plain(value)}
        room -= len(msgpack.packb(cut))
        if room >= 0:
            plain.update(cut)
    return plain


def error_to_wire(error: SluiceError) -> dict[str, Any]:
    """Return the plain map that carries *error* in an ERROR or CLOSE frame.

    It always fits the smallest frame limit before the handshake is through: texts are cut, and fields that have no
    room are left out.
    """
    retry_after = error.retry_after
    return {
        "code": error.code,
        "text": _cut_text(error.text, ERROR_TEXT_CHARACTERS_MAX),
        "retryable": bool(error.retryable),
        "retry_after": retry_after if retry_after is not None and 0 <= retry_after < math.inf else None,
        "fields": _plain_fields(error.fields),
    }


def error_from_wire(value: object) -> SluiceError:
    """Return the error that a peer sent.

    An unknown code (from a newer peer) becomes a plain `SluiceError` with the code among its fields. A map that is
    not an error at all is a `ProtocolError`, which is returned too: the caller raises whatever it gets.
    """
    problem = _problem_of_error(value)
    if problem is not None:
        return ProtocolError(f"an error frame {problem}")
    assert isinstance(value, dict)
    fields = dict(value["fields"])
    cls = _CLASS_BY_CODE.get(value["code"])
    if cls is None:
        cls, fields = SluiceError, {**fields, "code": value["code"]}
    return _rebuild(cls, value["text"], value["retryable"], value.get("retry_after"), fields)


def _problem_of_error(value: object) -> str | None:
    if type(value) is not dict:
        return f"holds {type(value).__name__} instead of a map"
    code, text, fields = value.get("code"), value.get("text"), value.get("fields")
    if type(code) is not str or type(text) is not str or type(fields) is not dict:
        return "lacks code, text or fields"
    if (
        len(code) > ERROR_FIELD_CHARACTERS_MAX
        or len(text) > ERROR_TEXT_CHARACTERS_MAX
        or len(fields) > ERROR_FIELDS_MAX
    ):
        return f"is too long: {len(code)} and {len(text)} characters and {len(fields)} fields"
    if not all(type(name) is str for name in fields):
        return "holds a field whose name is no text"
    retryable, retry_after = value.get("retryable"), value.get("retry_after")
    if type(retryable) is not bool:
        return "holds a retryable that is neither true nor false"
    if retry_after is not None and (
        type(retry_after) not in (int, float) or not math.isfinite(retry_after) or retry_after < 0
    ):
        return "holds a retry_after that is no number of seconds"
    return None
