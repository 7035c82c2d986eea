"""On how many rounds each figure rests, and which were left out because other work disturbed them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

Record = dict[str, Any]
OTHERS_MAX = 0.3
"""In processors. A round in which others took more is left out of figures, where the same was measured without them."""
NAMED_MAX = 12
"""So many are named, each with its system, before they are only counted."""
_WHAT = ("scenario", "system", "size", "vary", "fault", "spot")
"""Records that agree in these are rounds of the same."""


def what_of(record: Record) -> tuple[Any, ...]:
    """Return what was measured, the same for all rounds of it."""
    return tuple(record.get(name) for name in _WHAT)


def is_disturbed(record: Record) -> bool:
    """Return whether others took more than `OTHERS_MAX` while it was measured; False where nobody noted it."""
    return bool(record.get("others_processors", 0.0) > OTHERS_MAX)


def left_out(records: Sequence[Record]) -> set[int]:
    """Return the indexes of the disturbed rounds that have an undisturbed one of the same beside them."""
    measured = [record for record in records if "error" not in record]
    quiet = {what_of(record) for record in measured if not is_disturbed(record)}
    return {
        index
        for index, record in enumerate(records)
        if "error" not in record and is_disturbed(record) and what_of(record) in quiet
    }


def disturbance_lines(records: Sequence[Record], titles: dict[str, str]) -> list[str]:
    """Return what to say of disturbed rounds: which are left out, and which had to stay for want of others.

    Args:
        records: Of a whole run.
        titles: Of systems, by name.

    """
    if not any("others_processors" in record for record in records):
        return ["how much of the processors other work took was not noted in this run"]
    dropped = left_out(records)
    kept = [
        record
        for index, record in enumerate(records)
        if index not in dropped and "error" not in record and is_disturbed(record)
    ]
    limit = f"because other work took more than {OTHERS_MAX} of a processor meanwhile"
    lines = [f"left out of all figures, {limit}: {len(dropped) or 'none'} of {len(records)} rounds"]
    if dropped:
        lines[0] += f": {_named([records[index] for index in sorted(dropped)], titles)}"
    if kept:
        kept_text = (
            f"disturbed in the same way, but kept, as there is no other round: {len(kept)} of {len(records)} rounds"
        )
        lines.append(f"{kept_text}: {_named(kept, titles)}")
    return lines


def _named(records: Iterable[Record], titles: dict[str, str]) -> str:
    counted = Counter(f"{titles[record['system']]}, {_scenario(record)}" for record in records)
    named = [name if count == 1 else f"{name} ({count} rounds)" for name, count in sorted(counted.items())]
    if len(named) > NAMED_MAX:
        named[NAMED_MAX:] = [f"and {len(named) - NAMED_MAX} others like these"]
    return "; ".join(named)


def _scenario(record: Record) -> str:
    if record["scenario"] == "failover":
        return f"leader {record['fault']}"
    words = "publish and consume" if record["scenario"] == "rates" else str(record["scenario"])
    size = record.get("size")
    return f"{words} {size_text(size)}" if record["scenario"] == "rates" and size else words


def size_text(size: int) -> str:
    """Return the size of a body as readers know it."""
    return f"{size // 1024} KiB" if size >= 1024 else f"{size} B"


def counts_text(parts: Sequence[tuple[str, dict[str, int]]]) -> str:
    """Return on how many rounds figures rest, and whose on fewer.

    Args:
        parts: What was measured, and of each system's title how many rounds count.

    """
    said = []
    for words, counts in parts:
        known = {title: count for title, count in counts.items() if count}
        if not known:
            continue
        usual = max(known.values())
        fewer = ", ".join(f"{title}: {count}" for title, count in known.items() if count < usual)
        said.append(f"{words} {usual}" + (f" ({fewer})" if fewer else ""))
    return f"Rounds: {'; '.join(said)}." if said else "Not measured in this run."
