"""How much each source of chance contributes to the spread over seeds, by runs in which all sources are crossed."""

from collections.abc import Iterator
from itertools import chain, combinations
from typing import Any

import numpy as np
from scipy import stats

from .metric_modules import LEVEL

DRAWS = 20_000  # of the intervals of single variance components


def disagreement(labels: np.ndarray, sources: list[str], num_classes: int) -> dict[str, dict[str, Any]]:
    """Return the share of texts on which two runs disagree whose seeds differ in one source only, and in all.

    Args:
        labels (`np.ndarray` of shape `(L, ..., L, n)`):
            Class indices: an axis of L >= 2 levels for each source, then the test texts.
        sources (`list[str]`):
            The names of the axes.
        num_classes (`int`):
            K.

    Returns:
        `dict[str, dict]`: by source, and as `all` for pairs that differ in every source: `value` in [0, 1] and
        `interval`, the t form with the variance over texts and the delete-one-level jackknife variances of all sources
        added, and Satterthwaite's degrees of freedom; None below L = 3.
    """
    levels, axes = labels.shape[0], range(len(sources))
    by_source = {}
    for name, differing in [*((name, {axis}) for axis, name in enumerate(sources)), ("all", set(axes))]:
        by_text = _disagree(labels, differing, num_classes)
        value, spread = float(by_text.mean()), [(_item_variance(by_text), max(1, len(by_text) - 1))]
        interval = None
        if levels > 2:
            for axis in axes:
                without = [
                    _disagree(np.delete(labels, level, axis), differing, num_classes).mean() for level in range(levels)
                ]
                spread.append(((levels - 1) * float(np.var(without)), levels - 1))
            interval = _t_interval(value, spread)
        by_source[name] = {"value": value, "interval": interval}
    return by_source


def _disagree(labels: np.ndarray, differing: set[int], num_classes: int) -> np.ndarray:
    """Return for each text the share of pairs with unlike labels, among pairs that differ in just these axes.

    Pairs that agree on an axis and perhaps on others are counted from label counts; those that differ on it follow
    by inclusion and exclusion.
    """
    axes = range(labels.ndim - 1)
    hits = np.eye(num_classes, dtype=np.float32)[labels]  # (L, ..., L, n, K)
    agreeing = np.zeros(labels.shape[-1])
    pairs = 0.0
    for shared in _subsets(sorted(differing)):
        free = tuple(axis for axis in differing if axis not in shared)
        sign = (-1) ** len(shared)
        counts = hits.sum(axis=free)  # of labels, over pairs equal on all axes but the free ones
        groups = np.prod([labels.shape[axis] for axis in axes if axis not in free])
        agreeing += sign * np.square(counts).sum(axis=-1).sum(axis=tuple(range(counts.ndim - 2)))
        pairs += sign * groups * np.prod([labels.shape[axis] for axis in free]) ** 2
    return np.asarray(1 - agreeing / pairs)


def _item_variance(by_text: np.ndarray) -> float:
    return float(by_text.var(ddof=1)) / len(by_text) if len(by_text) > 1 else 0.0


def _t_interval(value: float, spread: list[tuple[float, int]]) -> list[float]:
    total = sum(variance for variance, _ in spread)
    if not total:
        return [value, value]
    freedom = total**2 / sum(variance**2 / degrees for variance, degrees in spread)
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * total**0.5
    return [max(0.0, value - half), min(1.0, value + half)]


def variances(scores: np.ndarray, sources: list[str]) -> dict[str, dict[str, Any]]:
    """Return variance components of a score under the crossed random-effects model, by the method of moments.

    A component's interval is fiducial: the quantiles of what it would be if each mean square were its expectation times
    a chi-square over its degrees of freedom (Hannig, Iyer & Patterson 2006). That of the total is by `_total_interval`.
    With few levels both are wide. They are conditional on these test texts.

    Args:
        scores (`np.ndarray` of shape `(L, ..., L)`):
            An axis of L >= 2 levels for each source; one run in each cell.
        sources (`list[str]`):
            The names of the axes.

    Returns:
        `dict[str, dict]`: by source, by interaction (`subset:init`), and as `total`: `variance`, which may be
        negative, its `interval`, and `sd` with `sd_interval`, where negative values count as 0. The interaction of all
        sources includes all other chance.
    """
    levels, axes = scores.shape[0], tuple(range(scores.ndim))
    effects = [subset for subset in _subsets(axes) if subset]
    squares, freedom = np.zeros(len(effects)), np.zeros(len(effects))
    for place, subset in enumerate(effects):
        effect = np.zeros(())
        for inner in _subsets(subset):
            other_axes = tuple(axis for axis in axes if axis not in inner)
            effect = effect + (-1) ** (len(subset) - len(inner)) * scores.mean(axis=other_axes, keepdims=True)
        freedom[place] = (levels - 1) ** len(subset)
        squares[place] = np.square(effect).sum() * levels ** (len(axes) - len(subset)) / freedom[place]
    # A mean square's expectation is the sum of the components of all effects that include its own, times their runs.
    inverse = np.array(
        [
            [
                (-1) ** (len(outer) - len(inner)) / levels ** (len(axes) - len(inner)) * (set(inner) <= set(outer))
                for outer in effects
            ]
            for inner in effects
        ]
    )
    chance = np.random.default_rng(0).chisquare(freedom, (DRAWS, len(effects)))
    possible = (freedom * squares / chance) @ inverse.T
    intervals = np.quantile(possible, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0).T.tolist()
    intervals.append(_total_interval(inverse.sum(axis=0) * squares, freedom))
    components = inverse @ squares
    result = {}
    names = [":".join(sources[axis] for axis in subset) for subset in effects]
    for name, value, (low, high) in zip(
        [*names, "total"], [*components.tolist(), float(components.sum())], intervals, strict=True
    ):
        result[name] = {
            "variance": value,
            "interval": [low, high],
            "sd": max(0.0, value) ** 0.5,
            "sd_interval": [max(0.0, low) ** 0.5, max(0.0, high) ** 0.5],
        }
    return result


def _total_interval(terms: np.ndarray, freedom: np.ndarray) -> list[float]:
    """Return the interval of the sum of all components, which is a sum of mean squares with weights of 0 or more.

    Fiducial draws of such a sum are too large: each divides by a chi-square, whose inverse has no mean below 3 degrees
    of freedom, and in the sum of several the large draws always win. Their lower limit is above the truth too often.

    The lower limit is Satterthwaite's (1946): if mean squares of few degrees of freedom are too large by chance, they
    dominate the sum, and the limit uses their few degrees of freedom. Where they are too small he would use too many,
    so the upper limit is that of Graybill & Wang (1980), in which each mean square has its own degrees of freedom.

    Args:
        terms (`np.ndarray`): mean squares by effect, each times its weight in the total.
        freedom (`np.ndarray`): their degrees of freedom.
    """
    total = float(terms.sum())
    if not total:
        return [0.0, 0.0]
    of_total = total**2 / (np.square(terms) / freedom).sum()
    low = total * of_total / stats.chi2.ppf((1 + LEVEL) / 2, of_total)
    excess = freedom / stats.chi2.ppf((1 - LEVEL) / 2, freedom) - 1
    return [float(low), total + float(np.sqrt(np.square(excess * terms).sum()))]


def _subsets(items: Any) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(items, size) for size in range(len(items) + 1))
