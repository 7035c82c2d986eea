"""What a step may be told, in one table for both who choose: hypothesis, which shrinks, and a seed, which is fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from hypothesis import strategies as st

if TYPE_CHECKING:
    import random
    from collections.abc import Callable


class One:
    """One of so many options, the first of which is the simplest."""

    def __init__(self, *options: Any) -> None:
        self.options = options

    def strategy(self) -> st.SearchStrategy[Any]:
        return st.sampled_from(self.options)

    def random(self, rng: random.Random) -> Any:
        return rng.choice(self.options)


class Tuple:
    """One of each."""

    def __init__(self, *parts: One) -> None:
        self.parts = parts

    def strategy(self) -> st.SearchStrategy[Any]:
        return st.tuples(*(part.strategy() for part in self.parts))

    def random(self, rng: random.Random) -> Any:
        return tuple(part.random(rng) for part in self.parts)


class Some:
    """One or a few."""

    def __init__(self, each: One | Tuple, most: int) -> None:
        self.each = each
        self.most = most

    def strategy(self) -> st.SearchStrategy[Any]:
        return st.lists(self.each.strategy(), min_size=1, max_size=self.most)

    def random(self, rng: random.Random) -> Any:
        return [self.each.random(rng) for _ in range(rng.randint(1, self.most))]


Choice = One | Tuple | Some


class Step(NamedTuple):
    """A step that a life can take.

    Attributes:
        take: The method.
        weight: How often, beside the others.
        choices: What it may be told.

    """

    take: Callable[..., None]
    weight: int
    choices: dict[str, Choice]


STEPS: dict[str, Step] = {}
"""All steps by name; a module that knows more of them adds its own by `step`."""


def step(weight: int, /, **choices: Choice) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a method of a life one of its steps."""

    def note(method: Callable[..., None]) -> Callable[..., None]:
        STEPS[method.__name__] = Step(method, weight, choices)
        return method

    return note
