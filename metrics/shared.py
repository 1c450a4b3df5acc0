"""Input checks and intervals that the metric modules share.

The folder of each module links to this file, because `evaluate.load` copies only what lies in the folder.
"""

import numpy as np
from scipy import stats

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
    return array.astype(np.int64, copy=False)


def check_gold(references, items, num_classes=MAX_CLASSES + 1):
    """Return gold labels, which may be repeated for each run, as an array of shape (n,); None if there are none."""
    if references is None or (isinstance(references, list) and all(row is None for row in references)):
        return None
    rows = np.atleast_2d(check_numbers("references", references))
    rows = check_labels("references", rows, "R runs", items, num_classes=num_classes)
    if (rows != rows[0]).any():
        raise ValueError("`references` must be equal for all runs. Got different ones. Try one list for all runs.")
    return rows[0]


def check_runs(predictions, references, key="predictions"):
    """Return labels of shape (R, n), R >= 2, and gold labels of shape (n,) or None."""
    predictions = check_labels(key, predictions, "R runs", "n items")
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
    """Yield each class that gold has, with F1 by run and the influence of each item on the mean F1, scaled by n.

    With TP, P, G the weighted counts of class k, F1 = 2 TP / (P + G), and an item that adds weight w changes it by
    w (2 [hit] - F1 ([predicted k] + [gold k])) / (P + G): the infinitesimal jackknife (Efron 1982).
    """
    for k in np.unique(references):
        is_gold, is_predicted = references == k, predictions == k
        hits = is_predicted & is_gold
        sizes = is_predicted.sum(axis=1) + is_gold.sum()
        f1 = 2 * hits.sum(axis=1) / sizes
        moves = (2 * hits - f1[:, None] * (is_predicted.astype(float) + is_gold)) / sizes[:, None]
        yield k, f1, moves.mean(axis=0) * len(references)


def item_variance(influence):
    """Return the variance over items of a figure, from each item's influence on it, scaled by n."""
    items = len(influence)
    return (influence**2).sum() / items / max(items - 1, 1)


def jackknife(without):
    """Return the variance over runs of a figure, from its value without each run in turn."""
    runs = len(without)
    return (runs - 1) / runs * ((without - without.mean()) ** 2).sum()


def freedom(over_runs, over_items, runs):
    """Return degrees of freedom that are wider than Satterthwaite's, which are too narrow at R = 3: see the card."""
    return (runs - 1) * (over_runs + over_items) / over_runs if over_runs > 0 else np.inf


def t_interval(estimate, over_runs, over_items, runs, level, bounds=(-np.inf, np.inf)):
    """Return the interval for the sum of both variances, cut to the bounds; nan where one is not defined.

    The part over items contains a share of the part over runs, so the interval errs on the wide side.
    """
    variance = over_runs + over_items
    if not np.isfinite(variance):
        return [float("nan"), float("nan")]
    half = stats.t.ppf(0.5 + level / 2, freedom(over_runs, over_items, runs)) * np.sqrt(variance)
    return [float(max(estimate - half, bounds[0])), float(min(estimate + half, bounds[1]))]
