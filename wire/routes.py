"""Dotted names of what is published to topics, and the patterns by which subscriptions choose among them.

A topic owns its name and all below it. What follows behind the topic is the **route**: of what is published to
`orders.eu.paid`, where the topic is `orders`, it is `eu.paid`; of what is published to `orders` itself, it is empty,
unless the message has a subject, which is the route then.

A **pattern** is a dotted name in which `*` stands for exactly one word and `#` for any number of words, none included;
both anywhere, and as often as one likes. This module owns the rules; it must not know who matches what.
"""

from __future__ import annotations

from sluicemq.wire.errors import InvalidRequest
from sluicemq.wire.setting_values import check_name

ANY_WORD = "*"
ANY_WORDS = "#"
WORDS_MAX = 64
"""Most words of a route or a pattern. Frozen by the log's format, as is all that `check_pattern` judges by."""
_STAND_IN = "x"  # for a wildcard, where the rest of a pattern is judged like a name


def words_of(route: str) -> list[str]:
    """Return the words of a route or a pattern; an empty one has none."""
    return route.split(".") if route else []


def check_pattern(pattern: str) -> str:
    """Return *pattern* in its one form: `#.#` says no more than `#`.

    Raises:
        InvalidRequest: It is no dotted name with wildcards, is too long, or has a wildcard within a word.

    """
    if type(pattern) is not str:
        raise InvalidRequest(f"a pattern must be text, not {type(pattern).__name__}")
    words: list[str] = []
    for word in words_of(pattern):
        if word not in (ANY_WORD, ANY_WORDS) and (ANY_WORD in word or ANY_WORDS in word):
            raise InvalidRequest(
                f"the pattern {pattern!r:.300} has a wildcard within the word {word!r:.80}: * stands for a whole word, "
                "# for any number of words"
            )
        if not (word == ANY_WORDS and words and words[-1] == ANY_WORDS):
            words.append(word)
    if len(words) > WORDS_MAX:
        raise InvalidRequest(f"a pattern of {len(words)} words; allowed are {WORDS_MAX}")
    plain = ".".join(_STAND_IN if word in (ANY_WORD, ANY_WORDS) else word for word in words)
    check_name(plain, "pattern")
    return ".".join(words)


def check_route(route: str) -> str:
    """Return *route* if it has no more words than a route may have.

    Raises:
        InvalidRequest: It has more.

    """
    if route.count(".") >= WORDS_MAX:
        raise InvalidRequest(
            f"{route!r:.80}... has {route.count('.') + 1} words behind the topic; allowed are {WORDS_MAX}"
        )
    return route


def literal_prefix(pattern: str) -> str:
    """Return the words of a pattern before the first wildcard: the topic can only be among them."""
    words = words_of(pattern)
    for position, word in enumerate(words):
        if word in (ANY_WORD, ANY_WORDS):
            return ".".join(words[:position])
    return pattern


def below(topic: str, name: str) -> str | None:
    """Return what of *name* follows behind *topic*: "" for the topic itself; None where it is not below it."""
    if name == topic:
        return ""
    if name.startswith(topic) and name[len(topic)] == ".":
        return name[len(topic) + 1 :]
    return None


def destination_of(topic: str, route: str) -> str:
    """Return the whole name of *route* within *topic*."""
    return f"{topic}.{route}" if route else topic
