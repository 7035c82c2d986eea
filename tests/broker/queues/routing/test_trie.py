"""The matcher of patterns against a regular expression, for every short pattern and route, and what a match costs."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.queues.routing import trie
from sluicemq.broker.queues.routing.trie import PatternTrie

WORDS = ("a", "b")
SIGNS = ("a", "b", "*", "#")


def oracle(pattern: str) -> re.Pattern[str]:
    """What the pattern means, said naively: each word is followed by a dot."""
    parts = {"*": r"[^.]*\.", "#": r"(?:[^.]*\.)*"}
    words = pattern.split(".") if pattern else []
    return re.compile("".join(parts.get(word, re.escape(word) + r"\.") for word in words))


def matches(pattern: str, route: str) -> bool:
    return oracle(pattern).fullmatch(route + "." if route else "") is not None


def dotted(alphabet: tuple[str, ...], words_max: int) -> list[str]:
    return [".".join(words) for count in range(words_max + 1) for words in itertools.product(alphabet, repeat=count)]


def test_every_short_pattern_matches_what_it_says() -> None:
    patterns = dotted(SIGNS, 4)
    found = PatternTrie((pattern, number) for number, pattern in enumerate(patterns))
    compiled = [oracle(pattern) for pattern in patterns]
    routes = dotted(WORDS, 5)
    assert len(patterns) * len(routes) == 341 * 63
    for route in routes:
        said = route + "." if route else ""
        expected = tuple(number for number, regex in enumerate(compiled) if regex.fullmatch(said))
        assert found.match(route) == expected == found.match(route), route


@given(
    st.lists(st.lists(st.sampled_from((*SIGNS, "ä", "")), min_size=1, max_size=7).map(".".join), max_size=20),
    st.lists(st.lists(st.sampled_from((*WORDS, "ä", "", "*", "#")), min_size=1, max_size=9).map(".".join), max_size=20),
    st.data(),
)
def test_long_patterns_that_come_and_go(patterns: list[str], routes: list[str], data: st.DataObject) -> None:
    found = PatternTrie(enumerate_pairs(patterns))
    left = dict(enumerate(patterns))
    for number in data.draw(st.lists(st.sampled_from(range(len(patterns))), unique=True)) if patterns else ():
        found.remove(left.pop(number), number)
        for route in routes:
            assert found.match(route) == tuple(n for n, pattern in left.items() if matches(pattern, route))
    for number, pattern in left.items():
        found.remove(pattern, number)
    assert all(found.match(route) == () for route in routes)


def enumerate_pairs(patterns: list[str]) -> list[tuple[str, int]]:
    return [(pattern, number) for number, pattern in enumerate(patterns)]


def test_nothing_is_left_of_patterns_that_went() -> None:
    found = PatternTrie()
    for pattern in dotted(SIGNS, 3):
        found.add(pattern, 1)
    for pattern in dotted(SIGNS, 3):
        found.remove(pattern, 1)
    assert found._root.empty


def test_what_is_kept_is_bounded_in_routes_and_in_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trie, "CACHE_ROUTES_MAX", 10)
    monkeypatch.setattr(trie, "CACHE_TARGETS_MAX", 12)
    found = PatternTrie((f"{word}.#", number) for number, word in enumerate("aaabc"))
    for number in range(100):
        assert found.match(f"a.{number}") == (0, 1, 2)
    assert len(found._cache) == 4
    for number in range(100):
        assert found.match(f"c.{number}") == (4,)
    assert len(found._cache) == 10
    for number in range(100):
        assert found.match(f"z.{number}") == ()
    assert len(found._cache) == 10
    assert found._cached_targets == 0


def test_a_new_pattern_counts_for_routes_that_were_asked_for_before() -> None:
    found = PatternTrie([("a.*", 1)])
    assert found.match("a.b") == (1,)
    found.add("#", 2)
    assert found.match("a.b") == (1, 2)
    found.remove("a.*", 1)
    assert found.match("a.b") == (2,)
