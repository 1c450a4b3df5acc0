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
    UNKNOWN,
    Crossed,
    CrossedVariance,
    Direct,
    check_classes,
    check_clusters,
    check_labels,
    check_level,
    check_runs,
    combine,
    crossed_variance,
    disagreement_by_item,
    f1_by_class,
    variance_of_difference,
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
        is at least 2, and 3 for an interval. -1 where run r of both did not classify an item, as it trained on it.
    references (`list` of n `int`, or of R such lists):
        Gold labels.
    num_classes (`int`, *optional*):
        The number of classes, by default one more than the largest reference.
    clusters (`list` of n `int` or `str`, *optional*):
        The document, thread or author of each item: intervals count clusters, not items.
    paired (`bool`, *optional*, defaults to `False`):
        Whether runs of one seed are correlated, as those of variants that share most training labels are.
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
    - **{figure}_verdict** (`str`): `higher` or `lower` if the interval leaves out 0, else `inconclusive`.
    - **{figure}_variance** (`dict`): of the difference, by parts: `runs`, `items`, `both`, with degrees of freedom
      and skew. `module.variance(**parts)` gives intervals at other levels, and the power of more runs or items.
    - **{figure}_detectable** (`float`): the true difference that R runs and n items like these find in 80 studies of
      100.
    - **{figure}_runs_needed** (`int` or None): the runs that it takes to find delta as often; None if 1,000 do not,
      most often as the items are too few, or at R = 2. Only with delta.

    for `accuracy` and `macro_f1`
    - **{score}_spread_ratio** (`float`): the first variant's SD over runs by the second's; **{score}_spread_p_value**
      (`float`): Brown-Forsythe. **{score}_spread_verdict** (`str`): `inconclusive` below R = 20 whatever the p-value,
      as the test seldom finds even a doubled SD there.

    with ladder
    - **iso_accuracy** (`dict`): `status` (`ok`; `no overlap` if the second variant is nowhere as accurate as the
      first; `gap` if the two sizes on either side differ by more than 0.1 in accuracy), `accuracy`,
      `pairwise_disagreement1`, `pairwise_disagreement2` (interpolated in accuracy between these sizes), `difference`,
      `interval`, `p_value`, `verdict`, `sizes` (which two of the ladder).

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

    def variance(self, **parts):
        """Return the `CrossedVariance` of a `{figure}_variance`: intervals at other levels, power at other R and n."""
        return CrossedVariance(**parts)


MIN_RUNS = 20  # of a verdict on spread: see the card
POWER = 0.8
MAX_RUNS = 1000
MAX_GAP = 0.1  # in accuracy, between the two steps of a ladder: disagreement is not linear in accuracy over more
#: By figure the options of its variance: an item is right or wrong, and at most about half of all pairs differ on it.
FIGURES = {
    "accuracy": {"floor": 1.0},
    "macro_f1": {"floor": 1.0},
    "pairwise_disagreement": {"floor": 0.5, "with_skew": True},
}


def instability_comparison(
    predictions1,
    predictions2,
    references,
    num_classes=None,
    clusters=None,
    paired=False,
    ladder=None,
    delta=None,
    confidence_level=0.95,
):
    """Compute what `_KWARGS_DESCRIPTION` lists."""
    predictions1, references = check_runs(predictions1, references, "predictions1", min_label=-1)
    if references is None:
        raise ValueError("`references` must be gold labels. Got none. Try one label per item.")
    runs, items = predictions1.shape
    predictions2 = check_labels("predictions2", predictions2, runs, items, min_label=-1)
    if ((predictions1 < 0) != (predictions2 < 0)).any():
        raise ValueError(
            "`predictions2` must have -1 where `predictions1` has. Got other places. Try one mask by seed."
        )
    check_level(confidence_level)
    if delta is not None and not delta > 0:
        raise ValueError(f"`delta` must be a difference above 0. Got {delta}. Try 0.01.")
    steps = [check_labels("ladder", step, runs, items) for step in (() if ladder is None else ladder)]
    check_classes(num_classes, references, predictions1, predictions2, *steps)
    clusters = check_clusters(clusters, items)
    first, second = (_figures(predictions, references, clusters) for predictions in (predictions1, predictions2))
    result = {"R": runs, "n": items, "confidence_level": confidence_level}
    for figure, options in FIGURES.items():
        of_first, of_second = first[figure], second[figure]
        error = variance_of_difference(of_first, of_second, paired, **options) if runs > 2 else UNKNOWN
        result |= {f"{figure}_1": of_first.mean, f"{figure}_2": of_second.mean}
        difference = _difference(of_first.mean - of_second.mean, error, confidence_level)
        result |= {f"{figure}_{name}": value for name, value in difference.items()}
        result |= {f"{figure}_variance": error.to_dict(), f"{figure}_detectable": _detectable(error, confidence_level)}
        if delta is not None:
            result[f"{figure}_runs_needed"] = _runs_needed(delta, error, runs, confidence_level)
        if figure != "pairwise_disagreement":
            result |= _spread(figure, of_first.by_run, of_second.by_run, 1 - confidence_level)
    if ladder is not None:
        steps = [_figures(step, references, clusters) for step in steps]
        result["iso_accuracy"] = _iso_accuracy(first, steps, confidence_level)
    return result


def _figures(predictions, references, clusters):
    """Return `FIGURES` of one variant's runs, each as a `Crossed`."""
    is_seen, classes = predictions >= 0, list(f1_by_class(predictions, references))
    values = {
        "accuracy": (predictions == references).astype(float),
        "macro_f1": sum(by_item for _, by_item in classes) / len(classes),
    }
    figures = {figure: Crossed(by_item, is_seen, clusters) for figure, by_item in values.items()}
    return figures | {"pairwise_disagreement": Crossed(*disagreement_by_item(predictions), clusters, min_runs=3)}


def _difference(difference, error, level):
    """Test a difference by t; nan at R = 2."""
    low, high = interval = error.interval(difference, level, (-1, 1))
    verdict = "higher" if low > 0 else "lower" if high < 0 else "inconclusive"
    return {
        "difference": float(difference),
        "interval": interval,
        "p_value": error.p_value(difference),
        "verdict": verdict,
    }


def _detectable(error, level):
    """Return the distance from zero at which the power is `POWER`: (t_level + skew + t_power) x the standard error."""
    quantile, of_power = stats.t.ppf([0.5 + level / 2, POWER], error.freedom)
    return float((quantile + abs(error.widening(quantile)) + of_power) * np.sqrt(error.total))


def _runs_needed(delta, error, runs, level):
    """Return the fewest runs that find a difference of delta, by bisection."""

    def is_found(count):
        return _detectable(error.scaled(runs=count / runs), level) <= delta

    if not is_found(MAX_RUNS):
        return None
    low, high = 2, MAX_RUNS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_found(middle) else (middle, high)
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
        f"{name}_spread_verdict": ("higher" if ratio > 1 else "lower") if is_clear else "inconclusive",
    }


def _iso_accuracy(variant, steps, level):
    """Compare the disagreement of a variant with another's where that is as accurate: delta method and jackknife.

    Weaker classifiers disagree more whatever their labels come from; this compares at equal strength.
    """
    accuracies = np.array([step["accuracy"].mean for step in steps])
    order = np.argsort(accuracies)
    accuracies, mean = accuracies[order], variant["accuracy"].mean
    undefined = {"accuracy": mean, "verdict": "inconclusive"}
    if len(steps) < 2 or not accuracies[0] <= mean <= accuracies[-1]:
        return {"status": "no overlap", **undefined}
    upper = max(int(np.searchsorted(accuracies, mean)), 1)
    gap = accuracies[upper] - accuracies[upper - 1]
    if gap > MAX_GAP:
        return {"status": "gap", "gap": float(gap), **undefined}
    weight = (mean - accuracies[upper - 1]) / gap if gap > 0 else 0.5
    weights = np.array([1, weight - 1, -weight])
    entries = [variant, steps[order[upper - 1]], steps[order[upper]]]
    disagreement = [entry["pairwise_disagreement"] for entry in entries]
    slope = (disagreement[2].mean - disagreement[1].mean) / gap if gap > 0 else 0.0
    difference = float(weights @ [figure.mean for figure in disagreement])

    # The difference is linear in all figures at the estimate.
    figures = disagreement + [entry["accuracy"] for entry in entries]
    change = combine(np.concatenate([weights, -slope * weights]), figures)
    error = crossed_variance(change, **FIGURES["pairwise_disagreement"]) if len(change.by_run) > 2 else UNKNOWN
    return {
        "status": "ok",
        "accuracy": mean,
        "pairwise_disagreement1": disagreement[0].mean,
        "pairwise_disagreement2": disagreement[0].mean - difference,
        "sizes": [int(order[upper - 1]), int(order[upper])],
        **_difference(difference, error, level),
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
