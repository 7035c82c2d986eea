"""Delivered messages wait in order, and come out once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.client.delivery_buffer import DeliveryBuffer
from sluicemq.client.errors import ProtocolError
from sluicemq.wire.batch import encode_batch

OWNER = object()


def delivery(*sizes, first_tag=1, **columns):
    """Arguments of one DELIVER whose bodies name their tags."""
    numbers, tail, tag = [], b"", first_tag
    for size in sizes:
        data = encode_batch([b"%d" % (tag + offset) for offset in range(size)], **columns)
        numbers += [100 + tag, 3, size, len(data), 1000, 5, 9, 1, 0]
        tail += data
        tag += size
    return first_tag, numbers, memoryview(tail)


def taken_tags(slices):
    return [run.first_tag + offset for run, start, stop in slices for offset in range(start, stop)]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("deliver"), st.lists(st.integers(1, 5), min_size=1, max_size=4)),
        st.tuples(st.just("one"), st.none()),
        st.tuples(st.just("take"), st.integers(1, 12)),
        st.tuples(st.just("lose"), st.tuples(st.integers(1, 40), st.integers(0, 6))),
        st.tuples(st.just("clear"), st.none()),
    ),
    max_size=30,
)


@given(STEPS)
def test_every_tag_comes_out_once_in_order_unless_it_was_lost(steps):
    buffer, next_tag = DeliveryBuffer(OWNER), 1
    waiting: list[int] = []
    lost: set[int] = set()
    for kind, value in steps:
        if kind == "deliver":
            assert buffer.add(*delivery(*value, first_tag=next_tag)) == sum(value)
            waiting += range(next_tag, next_tag + sum(value))
            next_tag += sum(value)
        elif kind == "one":
            one = buffer.take_one()
            if waiting:
                assert one is not None
                run, offset = one
                assert run.first_tag + offset == waiting[0]
                assert run.bodies[offset] == b"%d" % waiting.pop(0)
            else:
                assert one is None
        elif kind == "take":
            slices = buffer.take(value)
            assert taken_tags(slices) == waiting[:value]
            del waiting[:value]
        elif kind == "lose":
            first, last = value[0], min(value[0] + value[1], next_tag - 1)
            # The book names each lost tag once; those that were handed out are ignored here.
            ranges = [number for tag in range(first, last + 1) if tag not in lost for number in (tag, tag)]
            lost.update(range(first, last + 1))
            gone = [tag for tag in waiting if first <= tag <= last]
            assert buffer.lose(ranges) == len(gone)
            waiting = [tag for tag in waiting if tag not in gone]
        else:
            buffer.clear()
            waiting = []
        assert buffer.count == len(waiting)
        assert buffer.last_tag == next_tag - 1


def test_columns_are_read_when_asked_for():
    buffer = DeliveryBuffer(OWNER)
    buffer.add(*delivery(2, keys=["k", None], subjects=[None, "s"], headers=[{"a": 1}, None], message_ids=["i", None]))
    ((run, start, stop),) = buffer.take(10)
    assert (start, stop, run.owner) == (0, 2, OWNER)
    assert (run.key(0), run.key(1), run.subject(1), run.message_id(0), run.message_id(1)) == ("k", None, "s", "i", None)
    assert dict(run.headers(0)) == {"a": 1}
    assert dict(run.headers(1)) == {}
    with pytest.raises(TypeError):
        run.headers(0)["a"] = 2  # type: ignore[index]


@pytest.mark.parametrize(
    "arguments",
    [
        (2, *delivery(1)[1:]),
        (1, delivery(1)[1], memoryview(b"")),
        (1, [], memoryview(b"")),
        (1, [100, 0, 0, 0, 0, 0, 0, 1, 0], memoryview(b"")),
    ],
    ids=["tags that skip", "tail too short", "no runs", "an empty run"],
)
def test_a_delivery_that_contradicts_itself_is_refused(arguments):
    with pytest.raises(ProtocolError):
        DeliveryBuffer(OWNER).add(*arguments)


def test_a_run_with_another_count_than_its_batch_is_refused():
    first, numbers, tail = delivery(3)
    numbers[2] = 2
    buffer = DeliveryBuffer(OWNER)
    buffer.add(first, numbers, tail)
    with pytest.raises(ProtocolError, match="a run of 2 messages came with a batch of 3"):
        buffer.take(2)
