"""The lease book against a dictionary, and its stories."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from sluicemq.client.leases import HAND_OVER_MARKS_MAX, LeaseBook
from sluicemq.client.tag_ranges import pairs

TAG = st.integers(1, 60)
SPAN = st.tuples(TAG, st.integers(0, 15)).map(lambda span: (span[0], span[0] + span[1]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("deliver"), st.integers(1, 8), st.integers(1, 30)),
        st.tuples(st.just("settle"), TAG),
        st.tuples(st.just("take"), SPAN),
        st.tuples(st.just("expire"), st.integers(0, 30)),
        st.tuples(st.just("renew"), SPAN, st.integers(1, 40)),
    ),
    max_size=40,
)


def tags_of(flat):
    return {tag for first, last in pairs(flat) for tag in range(first, last + 1)}


@given(STEPS)
def test_the_book_behaves_like_a_dictionary_of_ends(steps):
    book, model, next_tag = LeaseBook(), {}, 1
    for kind, *arguments in steps:
        match kind:
            case "deliver":
                count, end = arguments
                book.delivered(next_tag, next_tag + count - 1, float(end))
                model.update({tag: float(end) for tag in range(next_tag, next_tag + count)})
                next_tag += count
            case "settle":
                assert book.settle(arguments[0]) == (model.pop(arguments[0], None) is not None)
            case "take":
                ((first, last),) = arguments
                expected = {tag for tag in model if first <= tag <= last}
                assert tags_of(book.held(first, last)) == expected
                assert tags_of(book.take(first, last)) == expected
                for tag in expected:
                    del model[tag]
            case "expire":
                expected = {tag for tag, end in model.items() if end <= arguments[0]}
                assert tags_of(book.expire(arguments[0])) == expected
                for tag in expected:
                    del model[tag]
                assert book.safe_until == min(model.values(), default=inf)
            case "renew":
                (first, last), end = arguments
                book.renewed([first, last], float(end))
                model.update({tag: float(end) for tag in model if first <= tag <= last})
        assert book.count == len(model)
        assert bool(book) == bool(model)
        assert {tag: book.end_of(tag) for tag in range(1, next_tag) if tag in book} == model
        # Never too late, or an expired message would be yielded.
        assert book.safe_until <= min(model.values(), default=inf)
        assert tags_of(book.to_renew(-inf, inf)) == set(model)


def test_messages_in_order_are_one_range_for_renewal():
    book = LeaseBook()
    for start in range(1, 1001, 10):
        book.delivered(start, start + 9, float(start))
    assert book.to_renew(-inf, inf) == [1, 1000]
    book.renewed([1, 1000], 5000.0)
    assert book.safe_until == 5000.0


def test_renewal_of_a_handled_message_stops_after_the_longest_lease():
    book = LeaseBook()
    book.delivered(1, 10, 30.0)
    book.hand_over(4, 0.0)  # 1 to 3 are in user code
    book.hand_over(6, 10.0)
    book.hand_over(6, 20.0)  # nothing new was handed out
    assert book.to_renew(-1.0, 60.0) == [1, 10]
    assert book.to_renew(5.0, 60.0) == [4, 10]
    assert book.to_renew(15.0, 60.0) == [6, 10]


def test_a_lease_that_ends_later_anyway_is_not_shortened():
    book = LeaseBook()
    book.delivered(1, 3, 30.0)
    book.renewed([2, 2], 600.0)
    assert book.to_renew(-inf, 40.0) == [1, 1, 3, 3]


def test_the_memory_of_hand_overs_is_bounded():
    book = LeaseBook()
    book.delivered(1, 2 * HAND_OVER_MARKS_MAX, 30.0)
    for tag in range(2, 2 * HAND_OVER_MARKS_MAX):
        book.hand_over(tag, float(tag))
    assert book.to_renew(3.0, inf)[0] <= 3
