"""Format numbers for sentences and tables."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...analysis.schema import Difference, EqualAccuracy

WIDE = 0.1  # of an interval: then two digits are shown


def number(value: float | None, bounds: Sequence[float] | None = None) -> str:
    """Return three digits, two where the interval is wider than 0.1; - for a value that is not defined."""
    if value is None:
        return "-"
    digits = 2 if bounds is not None and bounds[1] - bounds[0] > WIDE else 3
    return f"{round(value, digits) + 0.0:.{digits}f}"  # without the sign of -0.000


def interval(bounds: Sequence[float] | None) -> str:
    """Return the bounds in brackets."""
    return "[not defined]" if bounds is None else f"[{number(bounds[0], bounds)}, {number(bounds[1], bounds)}]"


def estimate(record: object, field: str, bounds: str = "") -> str:
    """Return a field of a record and its interval, which is the field `bounds`, by default `<field>_interval`."""
    low_high = getattr(record, bounds or f"{field}_interval")
    return f"{number(getattr(record, field), low_high)} {interval(low_high)}"


def signed(value: float, bounds: Sequence[float] | None = None) -> str:
    """Return a number with its sign."""
    return f"{'+' if value >= 0 else ''}{number(value, bounds)}"


def signed_difference(comparison: "Difference | EqualAccuracy") -> str:
    """Return a difference with its sign and its interval."""
    return f"{signed(comparison.difference, comparison.interval)} {interval(comparison.interval)}"


def points(share: float, bounds: Sequence[float] | None = None) -> str:
    """Return a share in points, hundredths; to a tenth where the interval is narrow."""
    digits = 0 if bounds is not None and bounds[1] - bounds[0] > WIDE else 1
    return f"{round(100 * share, digits) + 0.0:.{digits}f}"


def points_at_most(share: float, bounds: Sequence[float] | None = None) -> str:
    """Return an upper bound in points, rounded up."""
    scale = 1 if bounds is not None and bounds[1] - bounds[0] > WIDE else 10
    return f"{math.ceil(100 * scale * share - 1e-9) / scale:g}"


def judge(comparison: "Difference | EqualAccuracy") -> str:
    """Return whether a difference is above or below zero."""
    if comparison.interval is None:
        return f"without an interval, as R = {comparison.R}"
    if comparison.verdict == "inconclusive":
        low, high = comparison.interval
        corrected = " after the correction for several comparisons" if low > 0 or high < 0 else ""
        return f"inconclusive with R = {comparison.R}{corrected}"
    return f"clearly {'above' if comparison.verdict == 'higher' else 'below'} zero"


def mean(values: list[float | None]) -> float | None:
    """Return the mean of the values that are not None; None without such a value."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


def counted(counts: dict[str, int]) -> str:
    """Return names and their counts, as "ok 1,200, no_label 3"."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def listed(words: Sequence[str]) -> str:
    """Return words as "a, b and c"."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
