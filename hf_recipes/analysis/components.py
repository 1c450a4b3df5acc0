"""How much each source of chance contributes to the spread over seeds, by runs in which all sources are crossed."""

from collections.abc import Iterator
from itertools import chain, combinations
from typing import Any

import numpy as np
from scipy import stats

from .metric_modules import LEVEL

DRAWS = 20_000  # of the intervals of variance components


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
    a chi-square over its degrees of freedom (Hannig, Iyer & Patterson 2006). With few levels it is wide.
    It is conditional on these test texts.

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
    squares, freedom = [], []
    for subset in effects:
        effect = np.zeros(())
        for inner in _subsets(subset):
            other_axes = tuple(axis for axis in axes if axis not in inner)
            effect = effect + (-1) ** (len(subset) - len(inner)) * scores.mean(axis=other_axes, keepdims=True)
        freedom.append((levels - 1) ** len(subset))
        squares.append(float(np.square(effect).sum()) * levels ** (len(axes) - len(subset)) / freedom[-1])
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
    inverse = np.vstack([inverse, inverse.sum(axis=0)])
    chance = np.random.default_rng(0).chisquare(freedom, (DRAWS, len(effects)))
    possible = (np.array(freedom) * np.array(squares) / chance) @ inverse.T
    low, high = np.quantile(possible, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    names = [":".join(sources[axis] for axis in subset) for subset in effects]
    return {
        name: {
            "variance": float(value),
            "interval": [float(below), float(above)],
            "sd": float(np.sqrt(max(0.0, value))),
            "sd_interval": [float(np.sqrt(max(0.0, below))), float(np.sqrt(max(0.0, above)))],
        }
        for name, value, below, above in zip([*names, "total"], inverse @ np.array(squares), low, high, strict=True)
    }


def _subsets(items: Any) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(items, size) for size in range(len(items) + 1))
