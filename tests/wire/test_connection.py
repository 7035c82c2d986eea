"""Client and broker walk through the handshake; whoever steps out of line is stopped, and blamed by type."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.wire import messages as m
from sluicemq.wire.connection import (
    MAY_HAVE_TAIL,
    MUST_CORRELATE,
    OPEN_TYPES,
    REQUESTS,
    TRANSITIONS,
    Connection,
    Role,
    State,
)
from sluicemq.wire.errors import FrameTooLarge, InternalError, InvalidRequest, ProtocolError
from sluicemq.wire.frames import FRAME_BYTES_BEFORE_OPEN, FRAME_BYTES_DEFAULT, PREFACE, pack_frame
from tests.wire.strategies import ALL_MESSAGES, smallest_of

CLIENT, BROKER = Role.CLIENT, Role.BROKER

HELLO = m.Hello(1, 1, client_name="story")
WELCOME = m.Welcome(1, FRAME_BYTES_DEFAULT, 10.0, ["ANONYMOUS"], bytes(16))
AUTHENTICATE = m.Authenticate("ANONYMOUS")
AUTHENTICATED = m.Authenticated("anonymous")
OPEN = m.Open()
OPENED = m.Opened(5, 1, 8 << 20, 16 << 20, 100_000)

HAPPY_PATH = [
    # who sends, what, from where, to where; written by hand from the protocol's description, not from the code
    (CLIENT, HELLO, "start", "greeted"),
    (BROKER, WELCOME, "greeted", "welcomed"),
    (CLIENT, AUTHENTICATE, "welcomed", "authenticating"),
    (BROKER, AUTHENTICATED, "authenticating", "authenticated"),
    (CLIENT, OPEN, "authenticated", "opening"),
    (BROKER, OPENED, "opening", "open"),
]
DETOUR = (BROKER, m.Challenge(b"once more"), "authenticating", "welcomed")
ASIDE = [
    (CLIENT, m.ClusterStatus(), "authenticated", "authenticated"),
    (BROKER, m.ClusterState(1, 1, "", []), "authenticated", "authenticated"),
    (CLIENT, m.LookAtQueues(), "authenticated", "authenticated"),
    (BROKER, m.QueuesSeen([], {}), "authenticated", "authenticated"),
    (CLIENT, m.LookAtMessages(name="orders"), "authenticated", "authenticated"),
    (BROKER, m.MessagesSeen([], {}), "authenticated", "authenticated"),
]
"""How the cluster is, and what any broker has, is told without a session."""

CLIENT_SENDS_WHEN_OPEN = {
    "ClusterStatus",
    "LookAtQueues",
    "LookAtMessages",
    "AddNode",
    "RemoveNode",
    "PromoteNode",
    "TransferLead",
    "ResumeConsumer",
    "Resumed",
    "DeclareQueue",
    "DeleteQueue",
    "ListQueues",
    "QueueInfo",
    "PurgeQueue",
    "Peek",
    "Replay",
    "OpenProducer",
    "CloseProducer",
    "Publish",
    "Consume",
    "Credit",
    "Settle",
    "Extend",
    "CancelConsumer",
    "Statistics",
    "DeclareTopic",
    "DeleteTopic",
    "Subscribe",
    "Unsubscribe",
    "ListTopics",
    "AlterQueue",
    "ListDelayed",
    "CancelDelayed",
    "Reschedule",
    "ListDead",
    "Redrive",
    "Discard",
    "Policy",
    "Schedule",
    "ListPolicies",
    "ListSchedules",
    "Transaction",
    "Prepare",
    "Resolve",
    "RegisterChecker",
    "ListTransactions",
    "ShowTransaction",
    "OpenMailbox",
    "Reply",
    "Explain",
    "Search",
    "Move",
    "Ping",
    "Pong",
    "Close",
}
BROKER_SENDS_WHEN_OPEN = {
    "ClusterState",
    "QueuesSeen",
    "MessagesSeen",
    "ClusterChanged",
    "Declared",
    "Deleted",
    "Queues",
    "Purged",
    "Peeked",
    "Replayed",
    "ProducerOpened",
    "ProducerClosed",
    "Published",
    "Consuming",
    "Settled",
    "Extended",
    "ConsumerCancelled",
    "StatisticsResult",
    "Subscribed",
    "Unsubscribed",
    "Topics",
    "Altered",
    "Delayed",
    "Cancelled",
    "Rescheduled",
    "Dead",
    "Redriven",
    "PolicySet",
    "Scheduled",
    "Policies",
    "Schedules",
    "Transacted",
    "Prepared",
    "Resolved",
    "CheckerRegistered",
    "Check",
    "Transactions",
    "TransactionShown",
    "MailboxOpened",
    "Replied",
    "Explained",
    "Found",
    "Moved",
    "ReplyArrived",
    "Deliver",
    "LeasesLost",
    "ConsumerEnded",
    "Blocked",
    "Unblocked",
    "Brokers",
    "ConsumerResumed",
    "Error",
    "Ping",
    "Pong",
    "Close",
}


class Pair:
    """A client and a broker with a wire between them."""

    def __init__(self) -> None:
        self.sides = {CLIENT: Connection(CLIENT), BROKER: Connection(BROKER)}
        self.sides[BROKER].receive(PREFACE)

    def pass_over(self, sender: Role, message, *, correlation: int = 0, tail: bytes = b""):
        """Send *message* from *sender* to the other side, and return what arrives there."""
        data = self.sides[sender].send(message, correlation=correlation, tail_length=len(tail)) + tail
        (received,) = self.sides[self.other(sender)].receive(data)
        return received

    @staticmethod
    def other(role: Role) -> Role:
        return BROKER if role is CLIENT else CLIENT

    @property
    def states(self) -> set[State]:
        return {side.state for side in self.sides.values()}


def pair_in(state: State) -> Pair:
    """Return two sides that have come as far as *state*."""
    pair = Pair()
    if state is State.CLOSED:
        pair.pass_over(CLIENT, m.Close())
        return pair
    for sender, message, before, _after in HAPPY_PATH:
        if before == state.value:
            break
        pair.pass_over(sender, message)
    assert pair.states == {state}
    return pair


def allowed(state: State, sender: Role, cls) -> bool:
    """Whether the handwritten description allows it."""
    if state is State.CLOSED:
        return False
    if cls is m.Close:
        return True
    if state is State.OPEN:
        return cls.__name__ in (CLIENT_SENDS_WHEN_OPEN if sender is CLIENT else BROKER_SENDS_WHEN_OPEN)
    return any(
        (sender, cls, state.value) == (who, type(what), before)
        for who, what, before, _ in [*HAPPY_PATH, DETOUR, *ASIDE]
    )


def sample_of(cls):
    for _, message, _, _ in [*HAPPY_PATH, DETOUR]:
        if type(message) is cls:
            return message
    values = smallest_of(cls)
    return cls(**{field.name: values[field.number] for field in cls.FIELDS if field.required})


# --- the road that everybody takes --------------------------------------------------------------------------------


def test_the_happy_path_leads_both_sides_to_open():
    pair = Pair()
    for sender, message, before, after in HAPPY_PATH:
        assert pair.states == {State(before)}
        assert pair.pass_over(sender, message).message == message
        assert pair.states == {State(after)}


def test_a_challenge_asks_for_another_response():
    pair = pair_in(State.AUTHENTICATING)
    pair.pass_over(*DETOUR[:2])
    pair.pass_over(CLIENT, m.Authenticate("SCRAM", b"proof"))
    pair.pass_over(BROKER, AUTHENTICATED)
    assert pair.states == {State.AUTHENTICATED}


def test_the_table_of_transitions_is_the_happy_path_and_the_detour():
    described = {
        (State(before), sender, type(message)): State(after)
        for sender, message, before, after in [*HAPPY_PATH, DETOUR, *ASIDE]
    }
    assert described == TRANSITIONS


def test_the_sets_of_the_open_state_are_as_described():
    for role, names in ((CLIENT, CLIENT_SENDS_WHEN_OPEN), (BROKER, BROKER_SENDS_WHEN_OPEN)):
        assert {m.MESSAGES[type_].__name__ for type_ in OPEN_TYPES[role]} == names - {"Close"}
    handshake = {type(message).__name__ for _, message, _, _ in [*HAPPY_PATH, DETOUR]}
    everything = handshake | CLIENT_SENDS_WHEN_OPEN | BROKER_SENDS_WHEN_OPEN
    assert {cls.__name__ for cls in ALL_MESSAGES} == everything


# --- every state x sender x message -------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ALL_MESSAGES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("sender", Role, ids=lambda role: role.value)
@pytest.mark.parametrize("state", State, ids=lambda state: state.value)
def test_every_message_in_every_state_from_either_side(state, sender, cls):
    message = sample_of(cls)
    correlation = 3 if cls.TYPE in MUST_CORRELATE else 0
    pair = pair_in(state)
    receiver = pair.other(sender)
    data = pack_frame(cls.TYPE, message.encode(), correlation=correlation)
    if allowed(state, sender, cls):
        received = pair.pass_over(sender, message, correlation=correlation)
        assert (received.message, received.correlation, bytes(received.tail)) == (message, correlation, b"")
        assert len(pair.states) == 1
        return
    with pytest.raises(InternalError, match=cls.__name__):
        pair.sides[sender].send(message, correlation=correlation)
    if state is State.CLOSED and receiver is CLIENT:
        assert pair.sides[CLIENT].receive(data) == []  # it had said CLOSE itself: what was under way is dropped
        return
    with pytest.raises(ProtocolError, match=cls.__name__):
        pair.sides[receiver].receive(data)
    assert pair.states == {state}


@pytest.mark.parametrize(
    "state", [state for state in State if state is not State.CLOSED], ids=lambda state: state.value
)
def test_an_unknown_frame_type_is_refused_in_every_state(state):
    for type_ in sorted(set(range(256)) - set(m.MESSAGES)):
        pair = pair_in(state)
        for side in pair.sides.values():
            with pytest.raises(ProtocolError, match=f"frame type {type_} is unknown"):
                side.receive(pack_frame(type_, b"\x80"))


# --- correlation and tails ----------------------------------------------------------------------------------------


def test_requests_and_replies_need_a_correlation():
    pair = pair_in(State.OPEN)
    for request, reply in REQUESTS.items():
        for sender, cls in ((CLIENT, request), (BROKER, reply)):
            if cls is None or reply is None:
                continue
            fresh = pair_in(State.OPEN)
            with pytest.raises(InternalError, match="correlation"):
                pair.sides[sender].send(sample_of(cls))
            with pytest.raises(ProtocolError, match="correlation"):
                fresh.sides[pair.other(sender)].receive(pack_frame(cls.TYPE, sample_of(cls).encode()))


@pytest.mark.parametrize("cls", ALL_MESSAGES, ids=lambda cls: cls.__name__)
def test_only_messages_with_batches_have_a_tail(cls):
    sender = CLIENT if cls.TYPE in OPEN_TYPES[CLIENT] else BROKER
    state = next((state for state in State if allowed(state, sender, cls)), None)
    if state is None:
        sender = pair_in(State.OPEN).other(sender)
        state = next(state for state in State if allowed(state, sender, cls))
    pair = pair_in(state)
    if cls.TYPE in MAY_HAVE_TAIL:
        of_transactions = {m.Transaction, m.Prepare, m.Check, m.TransactionShown, m.Reply, m.ReplyArrived, m.Found}
        assert cls in {m.Publish, m.Deliver, m.Peeked, m.Replayed, m.MessagesSeen, m.Dead, m.Schedule} | of_transactions
        assert bytes(pair.pass_over(sender, sample_of(cls), correlation=1, tail=b"batches").tail) == b"batches"
        return
    with pytest.raises(InternalError, match="tail of 7 bytes"):
        pair.sides[sender].send(sample_of(cls), correlation=1, tail_length=7)
    data = pack_frame(cls.TYPE, sample_of(cls).encode(), 7, correlation=1) + b"batches"
    with pytest.raises(ProtocolError, match="tail of 7 bytes"):
        pair.sides[pair.other(sender)].receive(data)


# --- the preface --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", range(len(PREFACE) + 1))
def test_the_preface_may_come_in_pieces(cut):
    broker = Connection(BROKER)
    assert broker.receive(PREFACE[:cut]) == []
    data = PREFACE[cut:] + Connection(CLIENT).send(HELLO)
    assert [received.message for received in broker.receive(data)] == [HELLO]


@pytest.mark.parametrize(
    "opening", [b"GET / HTTP/1.1\r\n", b"AMQP\x00\x00\x09\x01", b"\x16\x03\x01\x02\x00", b"\x8fSluice\x02", b"\x00"]
)
def test_another_protocol_is_told_apart_at_its_first_wrong_byte(opening):
    with pytest.raises(ProtocolError, match="preface"):
        Connection(BROKER).receive(opening)
    broker = Connection(BROKER)
    wrong = next(place for place in range(len(opening)) if opening[: place + 1] != PREFACE[: place + 1])
    assert broker.receive(opening[:wrong]) == []
    with pytest.raises(ProtocolError, match="preface"):
        broker.receive(opening[wrong : wrong + 1])


# --- limits -------------------------------------------------------------------------------------------------------


def test_strangers_get_no_large_frames_and_members_the_agreed_ones():
    pair = pair_in(State.OPENING)
    large = pack_frame(m.Publish.TYPE, m.Publish("q", 1, 1).encode(), FRAME_BYTES_BEFORE_OPEN, correlation=1)
    with pytest.raises(FrameTooLarge):
        pair_in(State.OPENING).sides[BROKER].receive(large)
    pair.pass_over(BROKER, OPENED)
    assert pair.pass_over(CLIENT, m.Publish("q", 1, 1), correlation=1, tail=bytes(1_000_000)).tail.nbytes == 1_000_000


def test_a_large_message_is_received_where_it_stays():
    pair = pair_in(State.OPEN)
    broker = pair.sides[BROKER]
    publish = m.Publish("q", 1, 1)
    data = pair.sides[CLIENT].send(publish, correlation=3, tail_length=1_000_000)
    assert broker.writable(1000) is None
    assert broker.receive(data) == []
    received = []
    while (room := broker.writable(300_000)) is not None:
        room[:] = b"x" * len(room)
        received += broker.filled(len(room))
    assert [(message, correlation) for message, correlation, _ in received] == [(publish, 3)]
    assert bytes(received[0].tail) == b"x" * 1_000_000


def test_nothing_more_of_a_large_message_is_wanted_after_our_close():
    pair = pair_in(State.OPEN)
    broker = pair.sides[BROKER]
    broker.receive(pair.sides[CLIENT].send(m.Publish("q", 1, 1), correlation=3, tail_length=1_000_000))
    room = broker.writable(1_000_000)
    assert room is not None
    broker.send(m.Close(None))
    assert broker.filled(len(room)) == []
    assert broker.writable(1000) is None
    assert broker.receive(b"whatever") == []


def test_a_large_message_that_must_not_be_breaks_the_connection():
    broker = pair_in(State.OPEN).sides[BROKER]
    broker.receive(pack_frame(m.Ping.TYPE, m.Ping().encode(), 1_000_000))
    with pytest.raises(ProtocolError, match="Ping with a tail of 1000000 bytes"):  # noqa: PT012 - the last piece raises
        while (room := broker.writable(1_000_000)) is not None:
            broker.filled(len(room))
    assert broker.writable(1) is None


def test_the_smaller_limit_holds_for_both():
    pair = pair_in(State.GREETED)
    pair.pass_over(BROKER, m.Welcome(1, 5000, 10.0, ["ANONYMOUS"], bytes(16)))
    pair.sides[BROKER].agree(5000)
    for sender, message, _, _ in HAPPY_PATH[2:]:
        pair.pass_over(sender, message)
    with pytest.raises(InternalError, match="the peer takes 5000"):
        pair.sides[CLIENT].send(m.Publish("q", 1, 1), correlation=1, tail_length=5000)
    with pytest.raises(FrameTooLarge):
        pair.sides[BROKER].receive(pack_frame(m.Publish.TYPE, b"\x80", 5000, correlation=1))


def test_a_limit_too_small_to_work_with_is_refused():
    with pytest.raises(ProtocolError, match="below 4096"):
        pair_in(State.GREETED).pass_over(BROKER, m.Welcome(1, 4095, 10.0, [], bytes(16)))


# --- the end ------------------------------------------------------------------------------------------------------


def test_a_send_that_fails_changes_nothing():
    pair = pair_in(State.START)
    client = pair.sides[CLIENT]
    with pytest.raises(InvalidRequest, match=r"Hello\.client_name"):
        client.send(m.Hello(1, 1, client_name="x" * 300))
    assert client.state is State.START
    pair.pass_over(CLIENT, HELLO)
    assert pair.states == {State.GREETED}


def test_after_a_breach_nothing_more_is_read_but_close_can_be_sent():
    pair = pair_in(State.OPEN)
    broker = pair.sides[BROKER]
    with pytest.raises(ProtocolError):
        broker.receive(b"\xff" * 100)
    with pytest.raises(ProtocolError, match="before"):
        broker.receive(pack_frame(m.Ping.TYPE, b"\x80"))
    goodbye = broker.send(m.Close({"code": "protocol"}))
    assert pair.sides[CLIENT].receive(goodbye)[0].message == m.Close({"code": "protocol"})


def test_what_follows_the_peers_close_is_a_breach():
    pair = pair_in(State.OPEN)
    data = pack_frame(m.Close.TYPE, b"\x80") + pack_frame(m.Ping.TYPE, b"\x80")
    with pytest.raises(ProtocolError, match="Ping after CLOSE"):
        pair.sides[BROKER].receive(data)


@given(st.binary(max_size=60))
def test_what_the_peer_had_under_way_when_we_closed_is_dropped(garbage):
    pair = pair_in(State.OPEN)
    pair.sides[BROKER].send(m.Close())
    assert pair.sides[BROKER].receive(garbage) == []
    with pytest.raises(InternalError, match="after CLOSE"):
        pair.sides[BROKER].send(m.Ping())
