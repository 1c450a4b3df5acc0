"""Input checks and intervals that the metric modules share.

The folder of each module links to this file, because `evaluate.load` copies only what lies in the folder.
"""

from copy import copy
from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy import special

MAX_CLASSES = 65_535


class Direct:
    """Compute from the arguments instead of evaluate's cache, where casting takes most of the time."""

    def compute(self, **kwargs):
        """Compute all figures from the arguments, or from what was added before."""
        if self.writer is None and self.num_process == 1:
            return self._compute(**dict.fromkeys(self._feature_names()) | kwargs)
        return super().compute(**kwargs)


def check_numbers(key, values, *axes):
    """Return the values as an array of numbers; `axes` has the length of each axis, or its name where it is free."""
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(f"`{key}` must have rows of equal length. Got unequal ones. Try one value per item.") from None
    if array.dtype.kind not in "iuf" or not array.size:
        got = f"{array.dtype} of shape {array.shape}"
        raise ValueError(f"`{key}` must be numbers. Got {got}. Try lists of numbers without gaps.")
    matches = [isinstance(axis, str) or axis == length for axis, length in zip(axes, array.shape, strict=False)]
    if axes and (array.ndim != len(axes) or not all(matches)):
        wanted = " x ".join(map(str, axes))
        raise ValueError(f"`{key}` must have the shape {wanted}. Got the shape {array.shape}. Try one list per row.")
    return array


def check_labels(key, values, *axes, min_label=0, num_classes=MAX_CLASSES + 1):
    """Return the values as class indices. evaluate itself would cast 0.7 to 0 and report nothing."""
    array = check_numbers(key, values, *axes)
    if array.dtype.kind == "f" and (parts := array[array != np.floor(array)]).size:
        raise ValueError(f"`{key}` must be class indices. Got {parts[0]:g}. Try whole numbers.")
    if array.min() < min_label or array.max() >= num_classes:
        label = array.min() if array.min() < min_label else array.max()
        wanted = f"class indices from {min_label} to {num_classes - 1}"
        raise ValueError(f"`{key}` must be {wanted}. Got {label:g}. Try one index per class, counted from 0.")
    return np.ascontiguousarray(array, dtype=np.int64)  # the order in memory would change the last digit of sums


def check_gold(references, items, num_classes=MAX_CLASSES + 1):
    """Return gold labels, which may be repeated for each run, as an array of shape (n,); None if there are none."""
    if references is None or (isinstance(references, list) and all(row is None for row in references)):
        return None
    rows = np.atleast_2d(check_numbers("references", references))
    rows = check_labels("references", rows, "R runs", items, num_classes=num_classes)
    if (rows != rows[0]).any():
        raise ValueError("`references` must be equal for all runs. Got different ones. Try one list for all runs.")
    return rows[0]


def check_runs(predictions, references, key="predictions", min_label=0):
    """Return labels of shape (R, n), R >= 2, and gold labels of shape (n,) or None."""
    predictions = check_labels(key, predictions, "R runs", "n items", min_label=min_label)
    if len(predictions) < 2:
        raise ValueError(f"`{key}` must have at least 2 runs. Got 1. Try runs with other seeds.")
    return predictions, check_gold(references, predictions.shape[1])


def check_probabilities(values, *axes):
    """Return the values as an array whose last axis has probabilities of two classes or more."""
    array = check_numbers("predictions", values, *axes).astype(np.float64)
    if array.shape[-1] < 2:
        raise ValueError("`predictions` must have at least 2 classes. Got 1. Try one probability per class.")
    sums, lowest = array.sum(axis=-1), array.min(axis=-1)
    is_bad = ~((np.abs(sums - 1) <= 1e-3) & (lowest >= 0))  # also where nan
    if is_bad.any():
        place = np.unravel_index(is_bad.argmax(), is_bad.shape)
        got = f"sum {sums[place]:g} and lowest {lowest[place]:g} at {[int(i) for i in place]}"
        raise ValueError(f"`predictions` must be probabilities that sum to 1. Got {got}. Try a softmax of the scores.")
    return array


def check_classes(num_classes, references, *predictions):
    """Return the number of classes, by default one more than the largest reference."""
    classes = int(references.max()) + 1 if num_classes is None else num_classes
    largest = max(int(labels.max()) for labels in (references, *predictions))
    if classes % 1 or largest >= classes:
        got = f"{classes} with the label {largest}"
        raise ValueError(f"`num_classes` must be whole and above all labels. Got {got}. Try {largest + 1}.")
    return int(classes)


def check_clusters(clusters, items):
    """Return the number of each item's cluster, of shape (n,); each item is a cluster where None is given."""
    if clusters is None:
        return np.arange(items)
    names = np.asarray(clusters)
    if names.shape != (items,):
        raise ValueError(f"`clusters` must have one value per item, {items}. Got the shape {names.shape}.")
    return np.unique(names if names.dtype.kind in "iu" else names.astype(str), return_inverse=True)[1]


def check_level(confidence_level):
    if not 0 < confidence_level < 1:
        raise ValueError(f"`confidence_level` must be between 0 and 1. Got {confidence_level}. Try 0.95.")


def check_bins(bins):
    if bins % 1 or bins < 1:
        raise ValueError(f"`bins` must be a whole number from 1 on. Got {bins}. Try 10.")
    return int(bins)


def sum_by_rank(ranks, values, at):
    """Sum values over the rows of the lowest ranks. Rows that tie, or are cut by `at`, count with their mean."""
    _, group, counts = np.unique(ranks, return_inverse=True, return_counts=True)
    ends, sums = np.cumsum(counts), np.cumsum(np.bincount(group, values))
    return np.interp(at, np.append(0, ends), np.append(0, sums))


def f1_by_class(predictions, references):
    """Yield each class of which all runs saw gold, with each item's pseudo-value of each run's F1, of shape (R, n).

    With TP, P, G the weighted counts of class k, F1 = 2 TP / (P + G), and an item that adds weight w changes it by
    w (2 [hit] - F1 ([predicted k] + [gold k])) / (P + G): the infinitesimal jackknife (Efron 1982). The mean of a run's
    pseudo-values over the items that it saw (not -1) is its F1.
    """
    is_seen = predictions >= 0
    for k in np.unique(references):
        is_gold, is_predicted = is_seen & (references == k), predictions == k
        if not is_gold.any(axis=1).all():
            continue
        hits = is_predicted & is_gold
        sizes = np.maximum(is_predicted.sum(axis=1) + is_gold.sum(axis=1), 1)[:, None]
        f1 = 2 * hits.sum(axis=1, keepdims=True) / sizes
        moves = (2 * hits - f1 * (is_predicted.astype(float) + is_gold)) / sizes
        yield k, f1 + moves * is_seen.sum(axis=1, keepdims=True)


def disagreement_by_item(predictions):
    """Return each item's pseudo-value of each run's disagreement, of shape (R, n), and which of them count.

    With m runs that saw an item and d the share of unlike labels among their pairs, a run's pseudo-value is m d -
    (m - 1) d without the run (Quenouille 1956); the mean over runs is d. An item that fewer than two runs saw does not
    count.
    """
    items = predictions.shape[1]
    is_seen, num_labels = predictions >= 0, int(predictions.max()) + 2
    cells = predictions + 1 + np.arange(0, items * num_labels, num_labels)
    company = np.bincount(cells.ravel(), minlength=items * num_labels).take(cells)  # runs that give the same label
    num_seen = is_seen.sum(axis=0)
    return pair_values(is_seen * (num_seen - company), num_seen), is_seen & (num_seen > 1)


def pair_values(sums, num_seen):
    """Return each item's pseudo-value of each run, of a figure of pairs of runs; see `disagreement_by_item`.

    Args:
        sums (`np.ndarray` of shape `(R, n)`): the figure of an item, added over a run's pairs with other runs.
        num_seen (`np.ndarray` of shape `(n,)`): the runs that saw the item.
    """
    by_item = sums.sum(axis=0) / np.maximum(num_seen * (num_seen - 1), 1)
    return by_item + 2 * (sums - (num_seen - 1) * by_item) / np.maximum(num_seen - 2, 1) * (num_seen > 2)


class Crossed:
    """A figure of R runs over items, as a mean of values by run and item.

    Attributes:
        mean (`float`), by_run (`np.ndarray` of shape `(R,)`): over the items that each run saw.
        influence (`np.ndarray` of shape `(G,)`): of each cluster of items on the mean, scaled by G.
        deviations (`np.ndarray` of shape `(R,)`): of each run from the other runs on the items that both saw.
        residuals (`np.ndarray` of shape `(R, G)`): what neither runs nor items explain, scaled by G.
    """

    def __init__(self, values, is_seen, clusters, min_runs=2):
        """Sum up values of shape `(R, n)`, where `is_seen`, by clusters of shape `(n,)`.

        Items that fewer than `min_runs` runs saw show no difference between runs; for pairs of runs it is 3.
        """
        runs, items = values.shape
        num_seen = is_seen.sum(axis=1, keepdims=True)
        by_run = (values * is_seen).sum(axis=1, keepdims=True) / num_seen
        self.by_run, self.mean = by_run.ravel(), float(by_run.mean())
        scale = is_seen * (items / num_seen)
        self.influence = by_cluster(((values - by_run) * scale).mean(axis=0, keepdims=True), clusters)[0]

        # A run's deviation from the mean of the m runs that saw an item is 1 - 1 / m of that from all other runs.
        num_runs = is_seen.sum(axis=0)
        by_item = (values * is_seen).sum(axis=0) / np.maximum(num_runs, 1)
        is_shared = is_seen & (num_runs >= min_runs)
        kept = (is_shared * (1 - 1 / np.maximum(num_runs, 1))).sum(axis=1, keepdims=True)
        residuals = (values - by_item) * is_shared * ((1 - 1 / runs) * items / np.maximum(kept, 1e-9))
        self.deviations = residuals.mean(axis=1)
        num_shared = np.maximum(is_shared.sum(axis=1, keepdims=True), 1)
        residuals -= self.deviations[:, None] * is_shared * (items / num_shared)
        self.residuals = by_cluster(residuals, clusters)


def combine(weights, parts):
    """Return the `Crossed` of a linear combination of figures of the same runs and items."""
    result = copy(parts[0])
    for name in vars(result):
        terms = [weight * getattr(part, name) for weight, part in zip(weights, parts, strict=True)]
        setattr(result, name, sum(terms))
    return result


def by_cluster(values, clusters):
    """Return values by cluster, scaled by the number of clusters G: (R, n) becomes (R, G)."""
    num_clusters, items = int(clusters.max()) + 1, values.shape[1]
    if num_clusters == items:
        return values
    sums = np.stack([np.bincount(clusters, run_values, num_clusters) for run_values in values])
    return sums * (num_clusters / items)


@dataclass(frozen=True)
class CrossedVariance:
    """The variance of an estimate over runs that are crossed with items, and how well it is known.

    In the model of two crossed random effects a mean over R runs and n items has the variance
    s_run^2 / R + s_item^2 / n + s_both^2 / (R n).

    Attributes:
        runs, items, both (`float`): the three parts.
        run_freedom, item_freedom (`float`): degrees of freedom of the variances over runs and over items.
        skew (`float`): third cumulant of the estimate over runs by the 1.5th power of the variance. Disagreement has
            some: a bad run that few studies contain disagrees with all others.
    """

    runs: float
    items: float
    both: float
    run_freedom: float
    item_freedom: float
    skew: float = 0.0

    @property
    def total(self):
        return self.runs + self.items + self.both

    @property
    def freedom(self):
        """Degrees of freedom, fewer than Satterthwaite's, which are too many at R = 3."""
        over_runs = self.runs + self.both
        of_runs = self.run_freedom * max(self.total / over_runs, 1) if over_runs else np.inf
        inverse = 1 / of_runs + 1 / self.item_freedom
        return min(1 / inverse, 1e6) if inverse else 1e6  # as good as infinite, which the noncentral t has not

    def widening(self, quantile):
        """Return by how much the skew widens an interval on its side, in standard errors; negative on the left.

        It is the first term of the Cornish-Fisher expansion of a studentised mean (Johnson 1978).
        """
        return self.skew * (2 * quantile**2 + 1) / 6

    def interval(self, estimate, level, bounds=(-np.inf, np.inf)):
        """Return the t interval, cut to the bounds; nan where a part is nan.

        On the side of the skew it is wider (see `widening`); it is never narrower.
        """
        if not np.isfinite(self.total):
            return [float("nan"), float("nan")]
        quantile, error = special.stdtrit(self.freedom, 0.5 + level / 2), np.sqrt(self.total)
        extra = self.widening(quantile)
        low, high = estimate - (quantile + max(-extra, 0)) * error, estimate + (quantile + max(extra, 0)) * error
        return [float(max(low, bounds[0])), float(min(high, bounds[1]))]

    def p_value(self, estimate):
        """Return the p-value of zero, two-sided: 1 - the level of the interval that ends at zero."""
        if not np.isfinite(self.total):
            return float("nan")
        if self.total == 0:
            return float(estimate == 0)
        distance, skew = abs(estimate) / np.sqrt(self.total), max(-np.sign(estimate) * self.skew, 0)
        if skew:  # solves distance = quantile + skew (2 quantile^2 + 1) / 6
            root = np.sqrt(max(1 - 4 * skew / 3 * (skew / 6 - distance), 1))
            distance = max(2 * (distance - skew / 6) / (root + 1), 0.0)
        return float(2 * special.stdtr(self.freedom, -distance))

    def scaled(self, runs=1.0, items=1.0):
        """Return the variance in a study with that many times as many runs and items."""
        result = replace(
            self,
            runs=self.runs / runs,
            items=self.items / items,
            both=self.both / runs / items,
            run_freedom=(self.run_freedom + 1) * runs - 1,
            item_freedom=(self.item_freedom + 1) * items - 1,
        )
        third = self.skew * self.total**1.5 / runs**2
        return replace(result, skew=third / result.total**1.5) if third else result

    def power(self, distance, level):
        """Return the probability that the interval leaves out a value at this distance from the true one."""
        if self.total == 0:
            return float(distance > 0)
        freedom = self.freedom
        quantile = special.stdtrit(freedom, 0.5 + level / 2)
        quantile += abs(self.widening(quantile))
        # Farther than 30 standard errors the noncentral t is not computed.
        return float(1 - special.nctdtr(freedom, np.clip(distance / np.sqrt(self.total), -30, 30), quantile))

    def to_dict(self):
        return {name: float(value) for name, value in asdict(self).items()}


UNKNOWN = CrossedVariance(*[float("nan")] * 5)  # of a difference, or of pairs, of two runs


def crossed_variance(figure, floor=1.0, with_skew=False):
    """Return the variance of a figure's mean over runs and items.

    Args:
        figure (`Crossed`): of three runs or more for `with_skew`.
        floor (`float`): how far one item may move the mean, scaled by G, where none does: see `item_variance`.
        with_skew (`bool`): whether to take the skew over runs into account.
    """
    runs = len(figure.deviations)
    over_runs = np.square(figure.deviations).sum() / (runs - 1) / runs
    third = third_cumulant(figure.deviations) if with_skew else 0.0
    return variance_from_squares(over_runs, runs - 1, *_over_items(figure.influence, figure.residuals, floor), third)


def variance_of_difference(first, second, paired=False, floor=1.0, with_skew=False):
    """Return the variance of the first mean less the second, on the same items; see `crossed_variance`.

    Args:
        paired (`bool`): whether runs of one seed are correlated, as those of variants that share most training labels.
            Then the variance over runs is that of differences by seed, with R - 1 degrees of freedom; else it is
            Welch's (1947), with up to twice as many. Welch's errs on the wide side if they are correlated.
    """
    deviations = np.stack([first.deviations, second.deviations])
    if paired:
        deviations = deviations[:1] - deviations[1:]
    runs = deviations.shape[1]
    variances = np.square(deviations).sum(axis=1) / (runs - 1) / runs
    over_runs = variances.sum()
    run_freedom = (runs - 1) * (over_runs**2 / (variances**2).sum() if over_runs else 1.0)
    third = 0.0
    if with_skew:
        third = third_cumulant(deviations[0]) - sum(third_cumulant(of_second) for of_second in deviations[1:])
    parts = _over_items(first.influence - second.influence, first.residuals - second.residuals, floor)
    return variance_from_squares(over_runs, run_freedom, *parts, third)


def _over_items(influence, residuals, floor):
    """Return the variance over items of the mean over runs, the part of it that is run x item, and G - 1."""
    runs, items = residuals.shape
    both = (residuals**2).sum() / (runs * (runs - 1) * items * max(items - 1, 1))
    return item_variance(influence, floor), both, max(items - 1, 1)


def variance_from_squares(over_runs, run_freedom, over_items, both, item_freedom, third=0.0):
    """Return the variance by its mean squares: the variance over runs and that over items both contain run x item."""
    both = min(both, over_items)
    result = CrossedVariance(max(over_runs - both, 0.0), over_items - both, both, run_freedom, item_freedom)
    return replace(result, skew=third / result.total**1.5) if third else result


def third_cumulant(deviations):
    """Return the third cumulant of the mean of R deviations; 0 where it is not defined."""
    runs = len(deviations)
    if runs < 3:
        return 0.0
    return ((deviations - deviations.mean()) ** 3).sum() / ((runs - 1) * (runs - 2) * runs)


def item_variance(influence, floor=1.0):
    """Return the variance over items of a figure, from each item's influence on it, scaled by n.

    Few items without an error do not prove a rate of zero. The variance is at least that of one item each way like the
    one that moves the figure most, or by `floor` where none does.
    """
    items = len(influence)
    largest = np.abs(influence).max()
    largest = largest if largest > 1e-9 else floor  # rounding errors move nothing
    return max((influence**2).sum() / items / max(items - 1, 1), 2 * largest**2 / (items * (items + 1)))


def wilson(share, trials, z):
    """Return Wilson's (1927) score interval; nan without trials."""
    share, trials = np.clip(share, 0, 1), np.asarray(trials, dtype=float)
    middle, half = share * trials + z**2 / 2, z * np.sqrt(share * (1 - share) * trials + z**2 / 4)
    return np.clip(np.stack([middle - half, middle + half], axis=-1) / (trials + z**2)[..., None], 0, 1).tolist()


def jackknife(without):
    """Return the variance over runs of a figure, from its value without each run in turn."""
    runs = len(without)
    return (runs - 1) / runs * ((without - without.mean()) ** 2).sum()
