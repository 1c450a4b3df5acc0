"""Format numbers for sentences and tables."""

from collections.abc import Sequence

from ..analysis.schema import Difference, EqualAccuracy


def number(value: float | None) -> str:
    """Return three digits without the leading zero, as .123; - for a value that is not defined."""
    if value is None:
        return "-"
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def interval(bounds: Sequence[float] | None) -> str:
    """Return the bounds in brackets."""
    return "[not defined]" if bounds is None or None in bounds else f"[{number(bounds[0])}, {number(bounds[1])}]"


def estimate(record: object, field: str, bounds: str = "") -> str:
    """Return a field of a record and its interval, which is the field `bounds`, by default `<field>_interval`."""
    return f"{number(getattr(record, field))} {interval(getattr(record, bounds or f'{field}_interval'))}"


def signed(value: float) -> str:
    """Return a number with its sign."""
    return f"{'+' if value >= 0 else ''}{number(value)}"


def signed_difference(comparison: Difference | EqualAccuracy) -> str:
    """Return a difference with its sign and its interval."""
    return f"{signed(comparison.difference)} {interval(comparison.interval)}"


def judge(comparison: Difference | EqualAccuracy) -> str:
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
