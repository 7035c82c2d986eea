"""The errors that the client raises, under the name by which users import them.

The tree itself lives in `sluicemq.wire.errors`, because the broker raises the same classes. This module adds only what
a client needs around it: one error that several waiting tasks must raise, and what an error holds for a resend.
"""

from sluicemq.wire.errors import (
    AlreadySettled as AlreadySettled,
)
from sluicemq.wire.errors import (
    AuthenticationFailed as AuthenticationFailed,
)
from sluicemq.wire.errors import (
    BatchTooLarge as BatchTooLarge,
)
from sluicemq.wire.errors import (
    BrokerStopping as BrokerStopping,
)
from sluicemq.wire.errors import (
    ClientClosed as ClientClosed,
)
from sluicemq.wire.errors import (
    ClusterMismatch as ClusterMismatch,
)
from sluicemq.wire.errors import (
    Conflict as Conflict,
)
from sluicemq.wire.errors import (
    ConnectionFailed as ConnectionFailed,
)
from sluicemq.wire.errors import (
    ConsumerConflict as ConsumerConflict,
)
from sluicemq.wire.errors import (
    ConsumerNotFound as ConsumerNotFound,
)
from sluicemq.wire.errors import (
    FrameTooLarge as FrameTooLarge,
)
from sluicemq.wire.errors import (
    HeartbeatLost as HeartbeatLost,
)
from sluicemq.wire.errors import (
    InternalError as InternalError,
)
from sluicemq.wire.errors import (
    InvalidRequest as InvalidRequest,
)
from sluicemq.wire.errors import (
    LeaseLost as LeaseLost,
)
from sluicemq.wire.errors import (
    LimitReached as LimitReached,
)
from sluicemq.wire.errors import (
    MessageNotFound as MessageNotFound,
)
from sluicemq.wire.errors import (
    MessageTooLarge as MessageTooLarge,
)
from sluicemq.wire.errors import (
    NameConflict as NameConflict,
)
from sluicemq.wire.errors import (
    NodeMismatch as NodeMismatch,
)
from sluicemq.wire.errors import (
    NotAuthorized as NotAuthorized,
)
from sluicemq.wire.errors import (
    NotFound as NotFound,
)
from sluicemq.wire.errors import (
    NotLeader as NotLeader,
)
from sluicemq.wire.errors import (
    OutcomeUnknown as OutcomeUnknown,
)
from sluicemq.wire.errors import (
    PositionExpired as PositionExpired,
)
from sluicemq.wire.errors import (
    ProducerFenced as ProducerFenced,
)
from sluicemq.wire.errors import (
    ProducerNotFound as ProducerNotFound,
)
from sluicemq.wire.errors import (
    ProtocolError as ProtocolError,
)
from sluicemq.wire.errors import (
    PublishLimited as PublishLimited,
)
from sluicemq.wire.errors import (
    QueueConflict as QueueConflict,
)
from sluicemq.wire.errors import (
    QueueFull as QueueFull,
)
from sluicemq.wire.errors import (
    QueueNotFound as QueueNotFound,
)
from sluicemq.wire.errors import (
    QueuePaused as QueuePaused,
)
from sluicemq.wire.errors import (
    RequestDied as RequestDied,
)
from sluicemq.wire.errors import (
    RequestFailed as RequestFailed,
)
from sluicemq.wire.errors import (
    RequestTimeout as RequestTimeout,
)
from sluicemq.wire.errors import (
    ResourceLow as ResourceLow,
)
from sluicemq.wire.errors import (
    RetentionOff as RetentionOff,
)
from sluicemq.wire.errors import (
    SequenceGap as SequenceGap,
)
from sluicemq.wire.errors import (
    SessionNotFound as SessionNotFound,
)
from sluicemq.wire.errors import (
    SluiceError as SluiceError,
)
from sluicemq.wire.errors import (
    StaleEpoch as StaleEpoch,
)
from sluicemq.wire.errors import (
    TopicInUse as TopicInUse,
)
from sluicemq.wire.errors import (
    TopicNotFound as TopicNotFound,
)
from sluicemq.wire.errors import (
    TransactionDecided as TransactionDecided,
)
from sluicemq.wire.errors import (
    TransactionNotFound as TransactionNotFound,
)
from sluicemq.wire.errors import (
    Unavailable as Unavailable,
)
from sluicemq.wire.errors import (
    UnknownOption as UnknownOption,
)
from sluicemq.wire.errors import (
    VersionMismatch as VersionMismatch,
)


class ClientForked(ClientClosed):
    """The process was forked while the client was open: the child must call `connect` itself."""

    code = "client_forked"


class RetriesExhausted(Unavailable):
    """The client has used up its budget of repeats: too many of its requests fail. Try again later."""

    code = "retries_exhausted"


class TransactionRequired(InvalidRequest):
    """The SQL connection commits every statement by itself, or its transaction has failed: nothing was changed."""

    code = "transaction_required"


class TableMissing(NotFound):
    """The database lacks a table of inbox or outbox; the text says how to make it."""

    code = "table_missing"


class Undecodable(InvalidRequest):
    """A body does not mean what the codec expects: no attempt will ever succeed."""

    code = "undecodable"


def another(error: SluiceError) -> SluiceError:
    """Return an error equal to *error* with a traceback of its own.

    One failure may wake many tasks. Were they to raise one object, each would append its frames to the same traceback.
    """
    copy = type(error)(error.text, retryable=error.retryable, retry_after=error.retry_after, **error.fields)
    copy.__cause__ = error.__cause__
    copy.__suppress_context__ = True
    if _KEPT in error.__dict__:
        keep(copy, error.__dict__[_KEPT])
    return copy


def keep(error: SluiceError, what: object) -> None:
    """Let *error* hold *what* for this process: it crosses neither the wire nor a pickle."""
    error.__dict__[_KEPT] = what


def kept(error: SluiceError) -> object | None:
    """Return what `keep` gave to *error*, or None."""
    what: object | None = error.__dict__.get(_KEPT)
    return what


_KEPT = "_kept"
