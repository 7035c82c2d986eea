"""From samples to figures: quantiles, medians with ranges, ratios. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SAMPLES_MAX = 20_000


def thinned(samples: Sequence[float], most: int = SAMPLES_MAX) -> list[float]:
    """Return at most *most* of the samples, evenly chosen by rank, extremes included, sorted."""
    ordered = sorted(samples)
    if len(ordered) <= most:
        return ordered
    step = (len(ordered) - 1) / (most - 1)
    return [ordered[round(number * step)] for number in range(most)]


def quantile(ordered: Sequence[float], part: float) -> float | None:
    """Return the smallest of sorted values that *part* (0 to 1) of them do not exceed; None without any."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(len(ordered) * part) - 1)]


def summary(values: Iterable[float | None]) -> dict[str, Any] | None:
    """Return median, least and largest of the values that exist; None without any."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"median": statistics.median(known), "least": min(known), "largest": max(known), "runs": len(known)}


def spread(figure: Mapping[str, Any]) -> float:
    """Return how far the range of a `summary` reaches from its median, as a part of the median."""
    median = figure["median"]
    return max(figure["largest"] - median, median - figure["least"]) / median if median else 0.0


def paired_ratios(ours: Sequence[float | None], theirs: Sequence[float | None]) -> dict[str, Any] | None:
    """Return the `summary` of ours / theirs, round by round: what disturbed a round disturbed both."""
    return summary(mine / other for mine, other in zip(ours, theirs, strict=False) if mine is not None and other)


def per_million(seconds: float | None, messages: int) -> float | None:
    """Return CPU seconds for a million messages."""
    return None if seconds is None or not messages else seconds * 1e6 / messages
