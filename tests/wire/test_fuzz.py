"""Ten thousand conversations gone wrong, for each side: typed errors come out, and nothing else ever."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.wire import messages as m
from sluicemq.wire.batch import Batch, encode_batch
from sluicemq.wire.connection import Connection, Received, Role, State
from sluicemq.wire.errors import InvalidRequest, ProtocolError, SluiceError, error_from_wire
from sluicemq.wire.settings import check_name, check_queue_settings
from tests.wire.mutations import HANDSHAKE, MUTATORS, client_stream, frame, mutations, opening_of

STREAMS = 10_000
BATCHES_OF_STREAMS = 10

ANSWERS = {
    m.Hello: m.Welcome(1, 1 << 20, 10.0, ["ANONYMOUS"], bytes(16)),
    m.Authenticate: m.Authenticated("anonymous"),
    m.Open: m.Opened(5, 1, 8 << 20, 16 << 20, 100_000),
}
QUESTIONS = {
    m.Welcome: m.Authenticate("ANONYMOUS"),
    m.Authenticated: m.Open(),
    m.Challenge: m.Authenticate("ANONYMOUS"),
}


def read_as_broker(received: Received) -> None:
    """Look at everything that a broker looks at before it acts."""
    match received.message:
        case m.Publish():
            Batch(received.tail).check()
        case m.DeclareQueue(name=name, settings=settings):
            check_name(name)
            check_queue_settings(settings)
        case m.Close(error=error):
            assert isinstance(error_from_wire(error), SluiceError)


def read_as_client(received: Received) -> None:
    """Look at everything that a client looks at before it acts."""
    match received.message:
        case m.Deliver(runs=runs) | m.Peeked(runs=runs) | m.Replayed(runs=runs):
            start = 0
            for place in range(0, len(runs), m.RUN_NUMBERS):
                end = start + runs[place + 3]
                _ = Batch(received.tail[start:end]).bodies
                start = end
        case m.Error(error=error) | m.Close(error=error) | m.ConsumerEnded(error=error):
            assert isinstance(error_from_wire(error), SluiceError)


class Listener:
    """One side that answers the handshake and reads whatever comes."""

    def __init__(self, role: Role) -> None:
        self.connection = Connection(role)
        self.messages = 0
        if role is Role.CLIENT:
            self.connection.send(m.Hello(1, 1))
            self._read, self._answers = read_as_client, QUESTIONS
        else:
            self._read, self._answers = read_as_broker, ANSWERS

    def hear(self, data: bytes) -> None:
        for received in self.connection.receive(data):
            self.messages += 1
            try:
                self._read(received)
            except InvalidRequest:
                continue  # answered with ERROR; the connection goes on
            answer = self._answers.get(type(received.message))
            if answer is not None:
                self.connection.send(answer)


def hear_stream(role: Role, steps: list[bytes], rest: bytes) -> tuple[str, int]:
    """Return how it ended and how many messages were understood before."""
    listener = Listener(role)
    pieces = (
        [*steps, *(rest[place : place + 1] for place in range(200)), rest[200:]] if len(steps) < 3 else [*steps, rest]
    )
    try:
        for piece in pieces:
            if piece:
                listener.hear(piece)
    except ProtocolError as error:
        # Whoever broke the protocol can still be told, and hears nothing else.
        if listener.connection.state is not State.CLOSED:
            listener.connection.send(m.Close({"code": error.code}))
            assert listener.connection.receive(b"more") == []
        return type(error).__name__, listener.messages
    return listener.connection.state.value, listener.messages


# --- into the broker ----------------------------------------------------------------------------------------------


def test_an_unspoiled_stream_is_heard_to_its_end():
    for seed in range(20):
        steps, rest = opening_of(client_stream(seed))
        assert steps == list(HANDSHAKE)
        assert hear_stream(Role.BROKER, steps, rest) == ("open", len(HANDSHAKE) + 19)


@pytest.mark.parametrize("part", range(BATCHES_OF_STREAMS))
def test_a_client_gone_wrong_gets_a_typed_error(part):
    ends: Counter[str] = Counter()
    for name, stream in mutations(seed=part, count=STREAMS // BATCHES_OF_STREAMS):
        try:
            end, _ = hear_stream(Role.BROKER, *opening_of(stream))
        except Exception as error:
            raise AssertionError(f"stream {name}: {error!r}") from error
        ends[end] += 1
    assert set(ends) <= {"ProtocolError", "FrameTooLarge", *(state.value for state in State)}
    assert ends["ProtocolError"] > sum(ends.values()) / 3


def test_the_same_seed_gives_the_same_streams_and_another_one_others():
    assert list(mutations(7, 40)) == list(mutations(7, 40))
    assert not {stream for _, stream in mutations(7, 40)} & {stream for _, stream in mutations(8, 40)} - set(HANDSHAKE)


def test_streams_reach_beyond_the_handshake_and_every_mutator_finds_what_it_looks_for():
    ends: dict[str, Counter[str]] = {name: Counter() for name in MUTATORS}
    beyond = 0
    for name, stream in mutations(seed=1, count=40 * len(MUTATORS)):
        end, heard = hear_stream(Role.BROKER, *opening_of(stream))
        ends[name.split()[0]][end] += 1
        beyond += heard > len(HANDSHAKE)
    assert beyond > 10 * len(MUTATORS)
    for name, counts in ends.items():
        assert counts["ProtocolError"] + counts["FrameTooLarge"] or name == "truncate", f"{name}: {counts}"


# --- into the client ----------------------------------------------------------------------------------------------

WELCOMING = (
    frame(m.Welcome(1, 1 << 20, 10.0, ["ANONYMOUS"], bytes(16))),
    frame(m.Authenticated("anonymous")),
    frame(m.Opened(5, 1, 8 << 20, 16 << 20, 100_000)),
)


def broker_frames(rng: random.Random) -> list[bytes]:
    batches = [encode_batch([rng.randbytes(rng.randrange(50)) for _ in range(rng.randint(1, 5))]) for _ in range(3)]
    runs = [number for batch in batches for number in (1 << 33, 0, Batch(batch).count, len(batch), 1 << 40, 7, 1, 1, 0)]
    messages = [
        m.Declared("created", {"retry_delay": [None, 1.0]}),
        m.Queues([{"name": "a", "settings": {}, "ready": 3}], more=True),
        m.Published(rng.getrandbits(60)),
        m.Consuming(1),
        m.Settled([1, 5, 9, 9]),
        m.LeasesLost(1, [1, 5]),
        m.Error(
            {"code": "queue_not_found", "text": "t", "retryable": False, "retry_after": None, "fields": {"queue": "q"}}
        ),
        m.Blocked("memory", retry_after=1.0),
        m.Unblocked(),
        m.ConsumerEnded(1, {"code": "x"}),
        m.StatisticsResult({"connections": 5}),
        m.Ping(),
    ]
    tail = b"".join(batches)
    deliveries = [
        frame(m.Deliver(1, 1, runs), 0, tail),
        frame(m.Peeked(runs), 8, tail),
        frame(m.Replayed(runs, 9, 2, True, 10, 1), 8, tail),
    ]
    return [*(frame(message, 5) for message in messages), *deliveries]


@pytest.mark.parametrize("part", range(BATCHES_OF_STREAMS))
def test_a_broker_gone_wrong_gets_a_typed_error(part):
    names = [name for name in MUTATORS if name != "hostile-publish"]
    ends: Counter[str] = Counter()
    for number in range(STREAMS // BATCHES_OF_STREAMS):
        rng = random.Random(f"{part}/{number}")
        name = rng.choice(names)
        stream = MUTATORS[name](rng, [*WELCOMING, *broker_frames(rng)])
        steps = []
        for step in WELCOMING:
            if not stream.startswith(step):
                break
            steps.append(step)
            stream = stream[len(step) :]
        try:
            ends[hear_stream(Role.CLIENT, steps, stream)[0]] += 1
        except Exception as error:
            raise AssertionError(f"stream {name} {part}/{number}: {error!r}") from error
    assert set(ends) <= {"ProtocolError", "FrameTooLarge", *(state.value for state in State)}
    assert ends["ProtocolError"] > sum(ends.values()) / 3


def test_an_unspoiled_broker_is_heard_to_its_end():
    for seed in range(20):
        frames = broker_frames(random.Random(seed))
        assert hear_stream(Role.CLIENT, list(WELCOMING), b"".join(frames)) == ("open", len(WELCOMING) + len(frames))


# --- guided by hypothesis -----------------------------------------------------------------------------------------


@given(
    st.sampled_from(Role),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=60), st.binary(max_size=40)), max_size=4),
)
def test_frames_of_any_content_give_typed_errors_only(role, is_open, contents):
    steps = list(HANDSHAKE if role is Role.BROKER else WELCOMING) if is_open else []
    stream = b"".join(
        (12 + len(head) + len(tail)).to_bytes(4, "big")
        + bytes((type_, 0, 0, 0))
        + bytes(4)
        + len(head).to_bytes(4, "big")
        + head
        + tail
        for type_, head, tail in contents
    )
    hear_stream(role, steps, stream)
