"""Patterns of one topic as a trie over words: what a route costs follows from its words, not from how many patterns
there are.

All patterns that begin alike share the way there. A route is walked once, with the set of nodes that what was read so
far may have led to: a literal word leads to one of them, `*` to another, `#` to one that any further word leaves where
it is. Results are kept by route, because few routes make most of the messages; which ones are kept is never judged by.
This module must not know what a target is: a number.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from sluicemq.wire.routes import ANY_WORD, ANY_WORDS, words_of

if TYPE_CHECKING:
    from collections.abc import Iterable

CACHE_ROUTES_MAX = 10_000
"""Most routes whose targets are kept."""
CACHE_TARGETS_MAX = 1_000_000
"""Most targets of all these routes together: 8 MB."""


class _Node:
    """What follows behind some words.

    Attributes:
        words: Nodes by the literal word that leads there.
        one: Where any one word leads.
        many: Where any number of words leads.
        stays: Whether this is such a node: a further word does not leave it.
        targets: Those whose pattern ends here.

    """

    __slots__ = ("many", "one", "stays", "targets", "words")

    def __init__(self, stays: bool = False) -> None:
        self.words: dict[str, _Node] = {}
        self.one: _Node | None = None
        self.many: _Node | None = None
        self.stays = stays
        self.targets: set[int] = set()

    def child(self, word: str) -> _Node | None:
        """Return where the word of a pattern leads, if anywhere."""
        if word == ANY_WORD:
            return self.one
        return self.many if word == ANY_WORDS else self.words.get(word)

    def make_child(self, word: str) -> _Node:
        """Return where the word of a pattern leads, made if there was nothing."""
        child = self.child(word)
        if child is None:
            child = _Node(word == ANY_WORDS)
            if word == ANY_WORD:
                self.one = child
            elif word == ANY_WORDS:
                self.many = child
            else:
                self.words[word] = child
        return child

    def drop_child(self, word: str) -> None:
        """Forget where the word of a pattern leads."""
        if word == ANY_WORD:
            self.one = None
        elif word == ANY_WORDS:
            self.many = None
        else:
            del self.words[word]

    @property
    def empty(self) -> bool:
        """Whether no pattern ends here or behind."""
        return not (self.targets or self.words or self.one or self.many)


class PatternTrie:
    """Targets by pattern; a target has one pattern."""

    __slots__ = ("_cache", "_cached_targets", "_root")

    def __init__(self, pairs: Iterable[tuple[str, int]] = ()) -> None:
        self._root = _Node()
        self._cache: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self._cached_targets = 0
        for pattern, target in pairs:
            self.add(pattern, target)

    def add(self, pattern: str, target: int) -> None:
        """Let routes that match *pattern* lead to *target*."""
        node = self._root
        for word in words_of(pattern):
            node = node.make_child(word)
        node.targets.add(target)
        self._forget()

    def remove(self, pattern: str, target: int) -> None:
        """Undo `add`."""
        way = [self._root]
        words = words_of(pattern)
        for word in words:
            child = way[-1].child(word)
            assert child is not None, "a pattern that is removed was added"
            way.append(child)
        way[-1].targets.remove(target)
        while words and way[-1].empty:
            way.pop()
            way[-1].drop_child(words.pop())
        self._forget()

    def _forget(self) -> None:
        self._cache.clear()
        self._cached_targets = 0

    def match(self, route: str) -> tuple[int, ...]:
        """Return the targets whose patterns match *route*, ascending, each once."""
        found = self._cache.get(route)
        if found is None:
            found = self.find(route)
            self._keep(route, found)
        return found

    def _keep(self, route: str, found: tuple[int, ...]) -> None:
        cache = self._cache
        cache[route] = found
        self._cached_targets += len(found)
        while len(cache) > CACHE_ROUTES_MAX or (self._cached_targets > CACHE_TARGETS_MAX and len(cache) > 1):
            _, gone = cache.popitem(last=False)
            self._cached_targets -= len(gone)

    def find(self, route: str) -> tuple[int, ...]:
        """Return the same without looking at what is kept."""
        nodes: dict[_Node, None] = {}
        _reach(nodes, self._root)
        for word in words_of(route):
            reached: dict[_Node, None] = {}
            for node in nodes:
                if node.stays:
                    _reach(reached, node)
                if node.one is not None:
                    _reach(reached, node.one)
                following = node.words.get(word)
                if following is not None:
                    _reach(reached, following)
            if not reached:
                return ()
            nodes = reached
        targets: set[int] = set()
        for node in nodes:
            targets |= node.targets
        return tuple(sorted(targets))


def _reach(reached: dict[_Node, None], node: _Node | None) -> None:
    """Add *node*, and where no word at all leads from there."""
    while node is not None and node not in reached:
        reached[node] = None
        node = node.many
