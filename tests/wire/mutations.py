"""Byte streams of clients gone wrong: what a broker must survive, made from a seed.

`mutations` begins with a conversation as a real client would have it (preface, handshake, requests) and spoils it in
one of many ways, from a flipped bit to msgpack that asks for gigabytes. The same seed gives the same streams, whatever
the machine, so that a failure has a name: (seed, number). The unit tests feed them to `Connection`; the end-to-end test
throws them at a live broker.

How to throw them: in a real handshake the client waits for each answer. Sent without waiting, a stream already ends at
its second frame, which comes out of order. So send `opening_of(stream)` step by step, waiting for one answer after each
step, and then the rest at once: where the handshake itself was spoiled, there are fewer steps.
"""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import msgpack

from sluicemq.wire import messages as m
from sluicemq.wire.batch import Column, encode_batch
from sluicemq.wire.frames import PREFACE, pack_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sluicemq.wire.fields import Message

QUEUE = "fuzz"
"""The only queue that an unspoiled request names."""


def frame(message: Message, correlation: int = 0, tail: bytes = b"") -> bytes:
    """Return the bytes of one frame."""
    return pack_frame(message.TYPE, message.encode(), len(tail), correlation=correlation) + tail


HANDSHAKE = (
    PREFACE + frame(m.Hello(1, 1, client_name="mutations", heartbeat_seconds=5.0), 1),
    frame(m.Authenticate("ANONYMOUS"), 2),
    frame(m.Open(), 3),
)
"""What an unspoiled client sends before it may ask for anything; the broker answers each step with one frame."""


def opening_of(stream: bytes) -> tuple[list[bytes], bytes]:
    """Split *stream* into the steps of the handshake that are unspoiled, and the rest."""
    steps = []
    for step in HANDSHAKE:
        if not stream.startswith(step):
            break
        steps.append(step)
        stream = stream[len(step) :]
    return steps, stream


def client_requests(rng: random.Random) -> list[bytes]:
    """Return the frames of one of each request, unspoiled, with values that *rng* chooses."""
    bodies = [rng.randbytes(rng.choice((0, 10, 100))) for _ in range(rng.randint(1, 5))]
    plain = encode_batch(bodies)
    full = encode_batch(
        bodies,
        keys=[rng.choice((None, "key")) for _ in bodies],
        message_ids=[f"id-{rng.getrandbits(32)}" for _ in bodies],
        subjects=["subject" for _ in bodies],
        headers=[{"a": [1, {"b": None}]} for _ in bodies],
    )
    producer, consumer, tag = rng.getrandbits(40), rng.randint(0, 3), rng.randint(1, 1000)
    requests: list[tuple[Message, bytes]] = [
        (m.DeclareQueue(QUEUE, {"retry_delay": rng.choice((0.0, 0.5))}), b""),
        (m.OpenProducer(rng.choice(("", "fuzz-producer"))), b""),
        (m.Publish(QUEUE, producer, 1), plain),
        (m.Publish(QUEUE, producer, 2), full),
        (m.Consume(QUEUE, rng.randint(0, 20), 1000, 30.0), b""),
        (m.Credit(consumer, rng.randint(0, 20), 1000), b""),
        (m.Settle(consumer, rng.randint(1, 4), [tag, tag + rng.randint(0, 10)], reason="why"), b""),
        (m.Extend(consumer, [tag, tag, tag + 5, 2**64 - 1], 30.0), b""),
        (m.QueueInfo(QUEUE), b""),
        (m.ListQueues(count_max=5), b""),
        (m.Peek(QUEUE, 0, 5), b""),
        (m.Replay(QUEUE, 0, 0, tag, messages_max=5, wait_seconds=0.1), b""),
        (m.Ping(), b""),
        (m.Pong(), b""),
        (m.Statistics(), b""),
        (m.CancelConsumer(consumer), b""),
        (m.CloseProducer(producer), b""),
        (m.PurgeQueue(QUEUE), b""),
        (m.DeleteQueue(QUEUE), b""),
    ]
    first = rng.randint(4, 2**32 - 100)
    return [frame(message, first + place, tail) for place, (message, tail) in enumerate(requests)]


def client_stream(seed: int) -> bytes:
    """Return a whole conversation that nothing is wrong with."""
    return b"".join((*HANDSHAKE, *client_requests(random.Random(seed))))


# --- hostile pieces -----------------------------------------------------------------------------------------------


def _hostile_values(rng: random.Random) -> bytes:
    """Return msgpack that is wrong, greedy or strange."""
    return rng.choice(
        (
            b"",
            b"\xc1",
            b"\xc0",
            b"\x90",
            b"\x80",
            b"\x81\x90\x01",
            b"\x81\x02",
            b"\x82\x02\x01\x02\x01",
            b"\xdd\xff\xff\xff\xff",
            b"\xdf\xff\xff\xff\xff",
            b"\x81\x02\xc6\xff\xff\xff\xff",
            b"\x81\x06" + b"\xdd\x7f\xff\xff\xff" * rng.randint(1, 1200),
            b"\x81\x06" + b"\xdc\xff\xff" * rng.randint(1, 1200) + bytes(rng.randint(0, 30_000)),
            b"\x81\x06\xdd\x00\x00\xff\xff" + b"\x90" * 65_535,
            b"\x81\xcc\xc9" + b"\x91" * rng.randint(1, 60_000) + b"\xc0",
            b"\x81\xcc\xc9" + b"\x81\x01" * rng.randint(1, 30_000) + b"\xc0",
            msgpack.packb({2: msgpack.Timestamp(rng.getrandbits(33), 5)}),
            msgpack.packb({2: msgpack.ExtType(rng.randint(0, 127), rng.randbytes(rng.randint(0, 20)))}),
            msgpack.packb({2: float("nan"), 4: float("inf"), 6: -0.0, 8: -1.0}),
            msgpack.packb({2: True, 4: False, 6: [True], 8: True}),
            msgpack.packb({2: -1, 4: -(2**63), 6: [-1, -1], 8: 2**64 - 1}),
            msgpack.packb({2: QUEUE, 4: {"retry_delay": rng.choice((float("nan"), None, -1, "1", [], 1e300))}}),
            msgpack.packb({2: QUEUE, 4: {"no_such_setting": 1}}),
            msgpack.packb({2: rng.choice(("", " ", "a\nb", "x" * 255, "orders.#", "ü" * 200)), 4: 1, 6: 1}),
            msgpack.packb({2: 0, 4: 1, 6: [rng.randint(0, 9) for _ in range(rng.randint(0, 6))]}),
            msgpack.packb({2: 0, 4: 1, 6: [0, 2**64 - 1]}),
            msgpack.packb({2: 0, 4: 255, 6: [1, 1]}),
            msgpack.packb(dict.fromkeys(range(2, 80, 2), 1)),
            msgpack.packb({1: 1, 3: 1, 5: 1}),
            msgpack.packb({"2": 1, b"4": 2, None: 3}),
            msgpack.packb({2.0: 1, 4.0: 1}),
            b"\x81\x02\xa3\xed\xa0\x80",
            rng.randbytes(rng.randint(1, 200)),
        )
    )


def _hostile_batch(rng: random.Random) -> bytes:
    """Return a batch whose header or columns lie."""
    bodies = [b"abc", b"de"]
    column = msgpack.packb(bodies)
    count, size, body_bytes, version, codec, bits, length = 2, len(column), 5, 1, 0, int(Column.BODIES), len(column)
    match rng.randrange(12):
        case 0:
            count = rng.choice((0, 1, 3, 2**31, 2**32 - 1))
        case 1:
            body_bytes = rng.choice((0, 4, 6, 2**32 - 1))
        case 2:
            size = rng.choice((0, len(column) + 1, 2**32 - 1))
        case 3:
            version = rng.choice((0, 2, 255))
        case 4:
            codec = rng.randint(1, 255)
        case 5:
            bits = rng.choice((0, 1, 0x7FFF, 0xFFFF, 0x8008, 0x8040, 0x8080))
        case 6:
            length = rng.choice((0, length - 1, length + 1, 2**32 - 1))
        case 7:
            column = msgpack.packb(
                rng.choice((["abc", "de"], [None, None], [[], []], [{}, {}], [1, 2], [b"abc", msgpack.Timestamp(1)]))
            )
            size = length = len(column)
        case 8:
            count = body_bytes = rng.choice((2, 1000, 100_000))
            column = b"\xdd" + count.to_bytes(4, "big") + b"\x90" * count
            size = length = len(column)
        case 9:
            count = 100_000
            column = (b"\xdd" + count.to_bytes(4, "big")) * rng.randint(2, 1100) + bytes(100_000)
            size = length = len(column)
        case 10:
            column = b"\x92\xc6\xff\xff\xff\xff" + bytes(20)
            size = length = len(column)
        case _:
            return rng.randbytes(rng.randint(0, 60))
    return struct.pack(">BBHIII", version, codec, bits, count, size, body_bytes) + struct.pack(">I", length) + column


def _frame_with(rng: random.Random, types: list[int], head: bytes, tail: bytes = b"") -> bytes:
    return pack_frame(rng.choice(types), head, len(tail), correlation=rng.choice((0, 1, 2**32 - 1))) + tail


# --- ways to spoil a conversation ---------------------------------------------------------------------------------

Frames = list[bytes]


def _flip_bits(rng: random.Random, frames: Frames) -> bytes:
    stream = bytearray(b"".join(frames))
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        stream[rng.randrange(len(stream))] ^= 1 << rng.randrange(8)
    return bytes(stream)


def _truncate(rng: random.Random, frames: Frames) -> bytes:
    stream = b"".join(frames)
    return stream[: rng.randrange(len(stream))]


def _cut_out(rng: random.Random, frames: Frames) -> bytes:
    stream = b"".join(frames)
    start = rng.randrange(len(stream))
    return stream[:start] + stream[start + rng.randint(1, 40) :]


def _insert_garbage(rng: random.Random, frames: Frames) -> bytes:
    frames.insert(rng.randrange(len(frames) + 1), rng.randbytes(rng.randint(1, 300)))
    return b"".join(frames)


def _only_garbage(rng: random.Random, frames: Frames) -> bytes:
    return rng.randbytes(rng.randint(1, len(b"".join(frames))))


def _garbage_after_handshake(rng: random.Random, frames: Frames) -> bytes:
    return b"".join(frames[: len(HANDSHAKE)]) + rng.randbytes(rng.randint(16, 2000))


def _other_protocol(rng: random.Random, frames: Frames) -> bytes:
    openings = (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"AMQP\x00\x00\x09\x01",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        PREFACE[:-1] + b"\x02",
    )
    return rng.choice(openings) + b"".join(frames)[rng.choice((0, 8)) :]


def _duplicate_frame(rng: random.Random, frames: Frames) -> bytes:
    place = rng.randrange(len(frames))
    frames[place:place] = [frames[place]] * rng.choice((1, 1, 2, 100))
    return b"".join(frames)


def _drop_frame(rng: random.Random, frames: Frames) -> bytes:
    del frames[rng.randrange(len(frames))]
    return b"".join(frames)


def _swap_frames(rng: random.Random, frames: Frames) -> bytes:
    left, right = rng.sample(range(len(frames)), 2)
    frames[left], frames[right] = frames[right], frames[left]
    return b"".join(frames)


def _shuffle_frames(rng: random.Random, frames: Frames) -> bytes:
    rng.shuffle(frames)
    return b"".join(frames)


def _close_in_the_middle(rng: random.Random, frames: Frames) -> bytes:
    frames.insert(rng.randrange(1, len(frames)), frame(m.Close({"code": "x"})))
    return b"".join(frames)


def _spoil_header(rng: random.Random, frames: Frames) -> bytes:
    place = rng.randrange(1, len(frames))
    header = bytearray(frames[place][:16])
    match rng.randrange(6):
        case 0:
            header[0:4] = rng.choice((0, 1, 11, 12, 2**16, 2**25, 2**32 - 1)).to_bytes(4, "big")
        case 1:
            header[4] = rng.randrange(256)
        case 2:
            header[5] = rng.randint(1, 255)
        case 3:
            header[6 + rng.randrange(2)] = rng.randint(1, 255)
        case 4:
            header[8:12] = bytes(4)
        case _:
            header[12:16] = rng.choice((0, 1, 2**16, 2**32 - 1)).to_bytes(4, "big")
    frames[place] = bytes(header) + frames[place][16:]
    return b"".join(frames)


def _hostile_head(rng: random.Random, frames: Frames) -> bytes:
    frames.insert(rng.randrange(1, len(frames) + 1), _frame_with(rng, sorted(m.MESSAGES), _hostile_values(rng)))
    return b"".join(frames)


def _hostile_publish(rng: random.Random, frames: Frames) -> bytes:
    head = m.Publish(QUEUE, rng.getrandbits(40), 1).encode()
    frames.insert(
        rng.randrange(len(HANDSHAKE), len(frames) + 1), _frame_with(rng, [m.Publish.TYPE], head, _hostile_batch(rng))
    )
    return b"".join(frames)


def _tail_where_none_belongs(rng: random.Random, frames: Frames) -> bytes:
    frames.insert(
        rng.randrange(1, len(frames) + 1),
        _frame_with(rng, sorted(m.MESSAGES), b"\x80", rng.randbytes(rng.randint(1, 100))),
    )
    return b"".join(frames)


def _the_brokers_words(rng: random.Random, frames: Frames) -> bytes:
    words: tuple[Message, ...] = (
        m.Welcome(1, 1 << 20, 1.0, ["ANONYMOUS"], bytes(16)),
        m.Authenticated("root"),
        m.Challenge(b"x"),
        m.Opened(1, 1, 1, 1, 1),
        m.Deliver(1, 1, [1, 0, 1, 0, 0, 0, 0, 1, 0]),
        m.Published(5),
        m.Error({"code": "x"}),
        m.Blocked("no"),
    )
    frames.insert(rng.randrange(1, len(frames) + 1), frame(rng.choice(words), 1))
    return b"".join(frames)


def _flood_of_small_frames(rng: random.Random, frames: Frames) -> bytes:
    flood = frame(rng.choice((m.Ping(), m.Pong(), m.Statistics(), m.QueueInfo("no-such-queue"))), 9) * rng.randint(
        100, 2000
    )
    return b"".join(frames) + flood + rng.randbytes(40)


MUTATORS: dict[str, Callable[[random.Random, Frames], bytes]] = {
    function.__name__.removeprefix("_").replace("_", "-"): function
    for function in (
        _flip_bits,
        _truncate,
        _cut_out,
        _insert_garbage,
        _only_garbage,
        _garbage_after_handshake,
        _other_protocol,
        _duplicate_frame,
        _drop_frame,
        _swap_frames,
        _shuffle_frames,
        _close_in_the_middle,
        _spoil_header,
        _hostile_head,
        _hostile_publish,
        _tail_where_none_belongs,
        _the_brokers_words,
        _flood_of_small_frames,
    )
}
"""Ways to spoil a list of frames, by name."""


def mutations(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield *count* streams of bytes that a client gone wrong may send, each with a name that tells what was done.

    Not every stream is wrong: a flipped bit may hit a body. A stream may also just stop in the middle.
    """
    names = list(MUTATORS)
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        name = names[number % len(names)]
        frames = [*HANDSHAKE, *client_requests(rng)]
        if name in {"hostile-head", "hostile-publish"} and rng.random() < 0.5:
            frames = frames[: len(HANDSHAKE)]
        yield f"{name} {seed}/{number}", MUTATORS[name](rng, frames)
