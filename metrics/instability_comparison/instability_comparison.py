"""Compare two sources of training labels on the same test items: which scores higher, and which varies more by seed.

evaluate.load("metrics/instability_comparison").compute(
    predictions1=[[0, 1, 1], [0, 1, 0], [1, 1, 1]], predictions2=[[0, 1, 1], [0, 1, 1], [0, 1, 1]], references=[0, 1, 1]
)
"""

import datasets
import evaluate
import numpy as np
from scipy import stats

from .shared import (
    Direct,
    check_classes,
    check_labels,
    check_level,
    check_runs,
    f1_by_class,
    freedom,
    item_variance,
    jackknife,
    t_interval,
)

_CITATION = """\
@inproceedings{du2023measuring, title={Measuring the Instability of Fine-Tuning}, author={Du, Yupei and Nguyen, Dong},
  booktitle={ACL}, year={2023}}
@article{brown1974robust, title={Robust Tests for the Equality of Variances}, author={Brown, Morton B. and Forsythe,
  Alan B.}, journal={JASA}, year={1974}}
"""

_DESCRIPTION = """\
Differences of two variants' mean scores and disagreement with intervals over seeds and items, the same at equal
accuracy, a test of their spread, and how small a difference this many runs could have shown.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions1, predictions2 (`list` of R lists of n `int`):
        Class indices of two variants' runs over the same items in the same order; run r of both has the same seed. R
        is at least 2, and 3 for an interval.
    references (`list` of n `int`, or of R such lists):
        Gold labels.
    num_classes (`int`, *optional*):
        The number of classes, by default one more than the largest reference.
    ladder (`list` of S such `predictions2`, *optional*):
        The second variant at S training sizes, the same seeds: asks for the comparison at equal accuracy.
    delta (`float`, *optional*):
        A difference that would matter: asks how many runs it takes to find it.
    confidence_level (`float`, *optional*, defaults to 0.95):
        Of all intervals.

Returns:
    `dict`: for each `figure` of `accuracy`, `macro_f1` and `pairwise_disagreement`
    - **{figure}_1**, **{figure}_2** (`float`): of each variant; **{figure}_difference** (`float`): the first less
      the second.
    - **{figure}_interval** (`list` of 2 `float`), **{figure}_p_value** (`float`): of the difference, by t over seeds
      and items together; what decides. nan at R = 2.
    - **{figure}_verdict** (`str`): `higher` or `lower` if the interval leaves out 0, else `cannot tell`.
    - **{figure}_item_se**, **{figure}_seed_se** (`float`): the parts of the standard error.
    - **{figure}_detectable** (`float`): the true difference that R runs and n items like these find in 80 studies of
      100.
    - **{figure}_runs_needed** (`int` or None): the runs that it takes to find delta as often; None if 1,000 do not,
      most often as the items are too few, or at R = 2. Only with delta.

    for `accuracy` and `macro_f1`
    - **{score}_spread_ratio** (`float`): the first variant's SD over runs by the second's; **{score}_spread_p_value**
      (`float`): Brown-Forsythe. **{score}_spread_verdict** (`str`): `cannot tell` below R = 20 whatever the p-value, as
      the test seldom finds even a doubled SD there.

    with ladder
    - **iso_accuracy** (`dict`): `status` (`ok`, or `no overlap` if the second variant is nowhere as accurate as the
      first), `accuracy`, `pairwise_disagreement1`, `pairwise_disagreement2` (interpolated in accuracy between the two
      sizes on either side), `difference`, `interval`, `p_value`, `verdict`, `sizes` (which two of the ladder).

    and **R**, **n**, **confidence_level**
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class InstabilityComparison(Direct, evaluate.Comparison):
    def _info(self):
        per_run = datasets.Sequence(datasets.Value("float64"))  # int64 would cast 0.7 to 0
        return evaluate.ComparisonInfo(
            module_type="comparison",
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions1": per_run, "predictions2": per_run, "references": per_run}),
        )

    def _compute(self, **kwargs):
        return instability_comparison(**kwargs)

    def holm(self, p_values):
        """See the function `holm`."""
        return holm(p_values)


MIN_RUNS = 20  # of a verdict on spread: see the card
POWER = 0.8
MAX_RUNS = 1000


def instability_comparison(
    predictions1, predictions2, references, num_classes=None, ladder=None, delta=None, confidence_level=0.95
):
    """Compute what `_KWARGS_DESCRIPTION` lists."""
    predictions1, references = check_runs(predictions1, references, "predictions1")
    if references is None:
        raise ValueError("`references` must be gold labels. Got none. Try one label per item.")
    runs, items = predictions1.shape
    predictions2 = check_labels("predictions2", predictions2, runs, items)
    check_level(confidence_level)
    if delta is not None and not delta > 0:
        raise ValueError(f"`delta` must be a difference above 0. Got {delta}. Try 0.01.")
    steps = [check_labels("ladder", step, runs, items) for step in (() if ladder is None else ladder)]
    check_classes(num_classes, references, predictions1, predictions2, *steps)
    first, second = variants = [_Variant(predictions, references) for predictions in (predictions1, predictions2)]
    result = {"R": runs, "n": items, "confidence_level": confidence_level}
    for figure in ("accuracy", "macro_f1", "pairwise_disagreement"):
        values = [variant.values[figure] for variant in variants]
        over_items = item_variance(first.influence[figure] - second.influence[figure])
        if figure == "pairwise_disagreement":
            over_runs = jackknife(first.without - second.without)
        else:
            over_runs = (values[0] - values[1]).var(ddof=1) / runs
        means = [value.mean() for value in values]
        difference = _difference(means[0] - means[1], over_runs, over_items, runs, confidence_level)
        result |= {f"{figure}_1": float(means[0]), f"{figure}_2": float(means[1])}
        result |= {f"{figure}_{name}": value for name, value in difference.items()}
        result |= {f"{figure}_item_se": float(np.sqrt(over_items)), f"{figure}_seed_se": float(np.sqrt(over_runs))}
        result[f"{figure}_detectable"] = _detectable(over_runs * runs, over_items, runs, confidence_level)
        if delta is not None:
            result[f"{figure}_runs_needed"] = _runs_needed(delta, over_runs * runs, over_items, confidence_level)
        if figure != "pairwise_disagreement":
            result |= _spread(figure, *values, 1 - confidence_level)
    if ladder is not None:
        result["iso_accuracy"] = _iso_accuracy(first, [_Variant(step, references) for step in steps], confidence_level)
    return result


class _Variant:
    """Compute the figures of one variant's runs.

    Attributes:
        values (`dict`): `accuracy` and `macro_f1` by run, `pairwise_disagreement` by item.
        influence (`dict`): of each item on the mean of these figures; its mean is zero, and it is scaled by n.
        without (`np.ndarray` of shape `(R,)`): the disagreement without each run in turn.
    """

    def __init__(self, predictions, references):
        self.shape = runs, items = predictions.shape
        right = predictions == references
        accuracy, f1, f1_influence = right.mean(axis=1), np.zeros(runs), np.zeros(items)
        classes = list(f1_by_class(predictions, references))
        for _, class_f1, moves in classes:
            f1 += class_f1 / len(classes)
            f1_influence += moves / len(classes)
        num_labels = int(predictions.max()) + 1
        cells = predictions + np.arange(0, items * num_labels, num_labels)
        company = np.bincount(cells.ravel(), minlength=items * num_labels).take(cells)  # runs that give the same label
        agreeing = (company - 1).sum(axis=0)
        disagreement = 1 - agreeing / (runs * (runs - 1))
        agreeing_without = agreeing.sum() - 2 * (company - 1).sum(axis=1)
        pairs = items * (runs - 1) * (runs - 2)
        self.without = 1 - agreeing_without / pairs if runs > 2 else np.full(runs, np.nan)
        self.values = {"accuracy": accuracy, "macro_f1": f1, "pairwise_disagreement": disagreement}
        self.influence = {
            "accuracy": (right - accuracy[:, None]).mean(axis=0),
            "macro_f1": f1_influence,
            "pairwise_disagreement": disagreement - disagreement.mean(),
        }


def _difference(difference, over_runs, over_items, runs, level):
    """Test a difference by t, with the variances over runs and over items added; nan at R = 2."""
    over_runs = over_runs if runs > 2 else np.nan
    variance = over_runs + over_items
    low, high = interval = t_interval(difference, over_runs, over_items, runs, level, (-1, 1))
    p_value = float(difference == 0) if variance == 0 else float("nan")
    if variance > 0:
        p_value = float(2 * stats.t.sf(abs(difference) / np.sqrt(variance), freedom(over_runs, over_items, runs)))
    verdict = "higher" if low > 0 else "lower" if high < 0 else "cannot tell"
    return {"difference": float(difference), "interval": interval, "p_value": p_value, "verdict": verdict}


def _detectable(run_variance, over_items, runs, level):
    """Return (t_level + t_power) x the standard error, for `run_variance` / R over seeds."""
    over_runs = run_variance / runs
    quantiles = stats.t.ppf([0.5 + level / 2, POWER], freedom(over_runs, over_items, runs))
    return float(quantiles.sum() * np.sqrt(over_runs + over_items))


def _runs_needed(delta, run_variance, over_items, level):
    """Return the fewest runs that find a difference of delta, by bisection."""
    if not _detectable(run_variance, over_items, MAX_RUNS, level) <= delta:
        return None
    low, high = 2, MAX_RUNS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _detectable(run_variance, over_items, middle, level) <= delta else (middle, high)
    return high


def _spread(name, first, second, alpha):
    sds = first.std(ddof=1), second.std(ddof=1)
    if max(sds) == 0 or len(first) < 3:
        ratio, p_value = float("nan"), float("nan")
    else:
        ratio = float(sds[0] / sds[1]) if sds[1] > 0 else float("inf")
        with np.errstate(divide="ignore", invalid="ignore"):  # runs that do not spread: nan
            p_value = float(stats.levene(first, second, center="median").pvalue)
    is_clear = len(first) >= MIN_RUNS and p_value < alpha
    return {
        f"{name}_spread_ratio": ratio,
        f"{name}_spread_p_value": p_value,
        f"{name}_spread_verdict": ("higher" if ratio > 1 else "lower") if is_clear else "cannot tell",
    }


def _iso_accuracy(variant, steps, level):
    """Compare the disagreement of a variant with another's where that is as accurate: delta method and jackknife.

    Weaker classifiers disagree more whatever their labels come from; this compares at equal strength.
    """
    runs = variant.shape[0]
    accuracies = np.array([step.values["accuracy"].mean() for step in steps])
    order = np.argsort(accuracies)
    accuracies = accuracies[order]
    mean = variant.values["accuracy"].mean()
    if len(steps) < 2 or not accuracies[0] <= mean <= accuracies[-1]:
        return {"status": "no overlap", "accuracy": float(mean), "verdict": "cannot tell"}
    upper = max(int(np.searchsorted(accuracies, mean)), 1)
    low, high = steps[order[upper - 1]], steps[order[upper]]
    gap = accuracies[upper] - accuracies[upper - 1]
    weight = (mean - accuracies[upper - 1]) / gap if gap > 0 else 0.5
    own = variant.values["pairwise_disagreement"].mean()
    ends = [step.values["pairwise_disagreement"].mean() for step in (low, high)]
    interpolated = (1 - weight) * ends[0] + weight * ends[1]
    slope = (ends[1] - ends[0]) / gap if gap > 0 else 0.0

    def combine(values):
        """Return what changes of the three variants' figures make of the difference: linear at the estimate."""
        return values(variant) - (1 - weight) * values(low) - weight * values(high)

    influence = combine(lambda part: part.influence["pairwise_disagreement"])
    influence = influence - slope * combine(lambda part: part.influence["accuracy"])
    without = combine(lambda part: part.without)
    without = without + slope * combine(lambda part: part.values["accuracy"]) / (runs - 1)
    return {
        "status": "ok",
        "accuracy": float(mean),
        "pairwise_disagreement1": float(own),
        "pairwise_disagreement2": float(interpolated),
        "sizes": [int(order[upper - 1]), int(order[upper])],
        **_difference(own - interpolated, jackknife(without), item_variance(influence), runs, level),
    }


def holm(p_values):
    """Return Holm's (1979) adjusted p-values in their order; nan counts as a comparison and remains nan.

    Use it to compare several variants with one: what is below .05 after it holds for all of them together.
    """
    values = np.asarray(p_values, dtype=float)
    if values.ndim != 1 or ((values < 0) | (values > 1)).any():
        raise ValueError(f"`p_values` must be numbers in [0, 1]. Got {values.tolist()}. Try [0.01, 0.04].")
    order = np.argsort(np.where(np.isnan(values), 2, values))
    adjusted = np.empty(len(values))
    stepped = np.nan_to_num(values[order], nan=1) * (len(values) - np.arange(len(values)))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return np.where(np.isnan(values), np.nan, adjusted).tolist()
