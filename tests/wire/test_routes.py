"""What may be a pattern, and what lies below a topic."""

from __future__ import annotations

import pytest

from sluicemq.wire.errors import InvalidRequest
from sluicemq.wire.messages import NAME_BYTES_MAX
from sluicemq.wire.routes import WORDS_MAX, below, check_pattern, check_route, destination_of, literal_prefix


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ("orders", "orders"),
        ("orders.*.paid", "orders.*.paid"),
        ("#", "#"),
        ("orders.#", "orders.#"),
        ("orders.#.#.#.paid", "orders.#.paid"),
        ("*.#.*", "*.#.*"),
        ("orders..paid", "orders..paid"),
    ],
)
def test_a_pattern_has_one_form(pattern: str, kept: str) -> None:
    assert check_pattern(pattern) == kept


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "ord*",
        "orders.#s",
        "**",
        "orders.\n",
        " orders",
        "a" * (NAME_BYTES_MAX + 1),
        ".".join("*" * (WORDS_MAX + 1)),
    ],
)
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest):
        check_pattern(pattern)


def test_no_text_is_no_pattern() -> None:
    with pytest.raises(InvalidRequest, match="must be text, not int"):
        check_pattern(7)  # type: ignore[arg-type]


def test_a_route_has_as_many_words_as_a_pattern_may_have() -> None:
    assert check_route(".".join("a" * WORDS_MAX)) == ".".join("a" * WORDS_MAX)
    with pytest.raises(InvalidRequest, match="65 words"):
        check_route(".".join("a" * (WORDS_MAX + 1)))


def test_what_lies_below_a_topic() -> None:
    assert below("orders", "orders") == ""
    assert below("orders", "orders.eu.paid") == "eu.paid"
    assert below("orders", "ordersheet.eu") is None
    assert below("orders", "order") is None
    assert destination_of("orders", "") == "orders"
    assert destination_of("orders", "eu.paid") == "orders.eu.paid"


@pytest.mark.parametrize(
    ("pattern", "prefix"), [("orders.eu", "orders.eu"), ("orders.eu.*.x", "orders.eu"), ("#.a", ""), ("a.#", "a")]
)
def test_the_words_before_the_first_wildcard(pattern: str, prefix: str) -> None:
    assert literal_prefix(pattern) == prefix
