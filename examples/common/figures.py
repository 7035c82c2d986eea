"""Figures that the demonstrations tell."""

from __future__ import annotations

import statistics


def percentile(values: list[float], percent: int) -> float:
    """Return the value that *percent* of all do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else sum(values)
