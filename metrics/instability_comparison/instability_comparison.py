"""Two sources of training labels on the same test items: which scores higher, and which varies more from seed to seed.

evaluate.load("metrics/instability_comparison").compute(
    predictions1=[[0, 1, 1], [0, 1, 0], [1, 1, 1]], predictions2=[[0, 1, 1], [0, 1, 1], [0, 1, 1]], references=[0, 1, 1]
)
"""

import datasets
import evaluate
import numpy as np
from scipy import stats

_CITATION = """\
@inproceedings{du2023measuring, title={Measuring the Instability of Fine-Tuning}, author={Du, Yupei and Nguyen, Dong},
  booktitle={ACL}, year={2023}}
@article{brown1974robust, title={Robust Tests for the Equality of Variances}, author={Brown, Morton B. and Forsythe,
  Alan B.}, journal={JASA}, year={1974}}
"""

_DESCRIPTION = """\
Differences of two arms' mean scores and disagreement with intervals over seeds and items, the same at equal accuracy,
a test of their spread, and how small a difference this many runs could have shown.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions1, predictions2 (`list` of R lists of n `int`):
        Class indices of two arms' runs over the same items in the same order; run r of both has the same seed. R is at
        least 2, and 3 for an interval.
    references (`list` of n `int`, or of R such lists):
        Gold labels.
    num_classes (`int`, *optional*):
        The number of classes, by default one more than the largest reference.
    ladder (`list` of S such `predictions2`, *optional*):
        The second arm at S training sizes, the same seeds: asks for the comparison at equal accuracy.
    delta (`float`, *optional*):
        A difference that would matter: asks how many runs it takes to find it.
    confidence_level (`float`, *optional*, defaults to 0.95):
        Of all intervals.

Returns:
    `dict`: for each `figure` of `accuracy`, `macro_f1` and `pairwise_disagreement`
    - **{figure}_1**, **{figure}_2** (`float`): of each arm; **{figure}_difference** (`float`): the first less the
      second.
    - **{figure}_interval** (`list` of 2 `float`), **{figure}_p_value** (`float`): of the difference, by t over seeds
      and items together; what decides. nan at R = 2.
    - **{figure}_verdict** (`str`): `higher` or `lower` if the interval leaves out 0, else `cannot tell`.
    - **{figure}_item_se**, **{figure}_seed_se** (`float`): the parts of the standard error.
    - **{figure}_detectable** (`float`): the true difference that R runs and n items like these find in 80 studies of
      100.
    - **{figure}_runs_needed** (`int` or None): the runs that it takes to find delta as often; None if 1,000 do not,
      most often as the items are too few, or at R = 2. Only with delta.

    for `accuracy` and `macro_f1`
    - **{score}_spread_ratio** (`float`): the first arm's SD over runs by the second's; **{score}_spread_p_value**
      (`float`): Brown-Forsythe. **{score}_spread_verdict** (`str`): `cannot tell` below R = 20 whatever the p-value, as
      the test seldom finds even a doubled SD there.

    with ladder
    - **iso_accuracy** (`dict`): `status` (`ok`, or `no overlap` if the second arm is nowhere as accurate as the first),
      `accuracy`, `pairwise_disagreement1`, `pairwise_disagreement2` (interpolated in accuracy between the two sizes on
      either side), `difference`, `interval`, `p_value`, `verdict`, `sizes` (which two of the ladder).

    and **R**, **n**, **confidence_level**
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class InstabilityComparison(evaluate.Comparison):
    def _info(self):
        per_run = datasets.Sequence(datasets.Value("int64"))
        return evaluate.ComparisonInfo(
            module_type="comparison",
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions1": per_run, "predictions2": per_run, "references": per_run}),
        )

    def compute(self, *, predictions1=None, predictions2=None, references=None, **kwargs):
        """Of all runs at once without a detour through evaluate's cache, or of those that were added."""
        if self.writer is not None or self.num_process > 1:
            given = {"predictions1": predictions1, "predictions2": predictions2}
            return super().compute(references=references, **given, **kwargs)
        return instability_comparison(*arms_and_gold(predictions1, predictions2, references), **kwargs)

    def add_batch(self, *, predictions1=None, predictions2=None, references=None, **kwargs):
        """Adds runs of both arms; references may be given once for all of them."""
        one, other, gold = arms_and_gold(predictions1, predictions2, references)
        super().add_batch(predictions1=list(one), predictions2=list(other), references=[gold] * len(one), **kwargs)

    def add(self, *, predictions1=None, predictions2=None, references=None, **kwargs):
        """Adds one run of both arms."""
        self.add_batch(predictions1=[predictions1], predictions2=[predictions2], references=references, **kwargs)

    def _compute(self, predictions1, predictions2, references, **kwargs):
        return instability_comparison(*arms_and_gold(predictions1, predictions2, references), **kwargs)

    def holm(self, p_values):
        """See the function `holm`."""
        return holm(p_values)


def arms_and_gold(predictions1, predictions2, references):
    """Both arms as (R, n) arrays of class indices and references as an (n,) one."""
    one, other = class_indices("predictions1", predictions1), class_indices("predictions2", predictions2)
    if one.shape != other.shape:
        raise ValueError(f"predictions1 has shape {one.shape}, predictions2 {other.shape}; runs and items are paired")
    if references is None:
        raise ValueError("references: a comparison needs gold labels")
    gold = class_indices("references", np.atleast_2d(as_array("references", references)))
    if gold.shape[1] != one.shape[1]:
        raise ValueError(f"references have {gold.shape[1]} items, predictions1 {one.shape[1]}")
    if (gold != gold[0]).any():
        raise ValueError("references differ between runs; all runs must be over the same items")
    return one, other, gold[0]


def as_array(name, values):
    try:
        return np.asarray(values)
    except ValueError:
        raise ValueError(f"{name}: runs differ in length; each needs one label per item") from None


def class_indices(name, values):
    """The values as an (R, n) array of integers; evaluate itself would cast 0.7 to 0 without a word."""
    array = as_array(name, values)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name}: expected R runs x n items, got shape {array.shape}")
    if array.dtype.kind not in "iu" and not (array.dtype.kind == "f" and np.all(array == np.floor(array))):
        raise ValueError(f"{name}: expected class indices (whole numbers), got {array.dtype}")
    if array.min() < 0:
        raise ValueError(f"{name}: class indices start at 0, got {array.min()}")
    if array.max() > MOST_CLASSES:
        raise ValueError(f"{name}: class indices are at most {MOST_CLASSES}, got {array.max()}")
    return array.astype(np.int64, copy=False)


MOST_CLASSES = 65_535
LEAST_RUNS = 20  # of a verdict on spread: see the card
POWER = 0.8
MOST_RUNS = 1000


def instability_comparison(
    predictions1,
    predictions2,
    references,
    num_classes=None,
    ladder=None,
    delta=None,
    confidence_level=0.95,
):
    """See `_KWARGS_DESCRIPTION`; predictions of shape (R, n), references of shape (n,)."""
    runs, items = predictions1.shape
    if runs < 2:
        raise ValueError(f"a comparison over seeds needs at least 2 runs, got {runs}")
    if not 0 < confidence_level < 1:
        raise ValueError(f"confidence_level: expected a number between 0 and 1, got {confidence_level}")
    if delta is not None and not delta > 0:
        raise ValueError(f"delta: expected a difference above 0, got {delta}")
    steps = [class_indices("ladder", step) for step in (() if ladder is None else ladder)]
    if bad := [step.shape for step in steps if step.shape != (runs, items)]:
        raise ValueError(f"ladder: a size has shape {bad[0]}, predictions1 {(runs, items)}; runs and items are paired")
    classes = int(references.max()) + 1 if num_classes is None else num_classes
    if classes != int(classes):
        raise ValueError(f"num_classes: expected a whole number, got {num_classes}")
    if (largest := int(max(values.max() for values in (predictions1, predictions2, references, *steps)))) >= classes:
        raise ValueError(f"a label is {largest}, but there are {classes} classes; if there are more, set num_classes")
    arms = [_Arm(predictions, references) for predictions in (predictions1, predictions2)]
    result = {"R": runs, "n": items, "confidence_level": confidence_level}
    one, other = arms
    for figure, values, influences, without in (
        ("accuracy", [arm.accuracy for arm in arms], [arm.accuracy_influence for arm in arms], None),
        ("macro_f1", [arm.f1 for arm in arms], [arm.f1_influence for arm in arms], None),
        (
            "pairwise_disagreement",
            [arm.disagreement for arm in arms],
            [arm.disagreement - arm.disagreement.mean() for arm in arms],
            one.without - other.without,
        ),
    ):
        means = [value.mean() for value in values]
        if without is None:
            over_runs = (values[0] - values[1]).var(ddof=1) / runs
        else:
            over_runs = (runs - 1) / runs * ((without - without.mean()) ** 2).sum()
        over_items = ((influences[0] - influences[1]) ** 2).sum() / items / max(items - 1, 1)
        difference = _difference(means[0] - means[1], over_runs, over_items, runs, confidence_level)
        result |= {f"{figure}_1": float(means[0]), f"{figure}_2": float(means[1])}
        result |= {f"{figure}_{name}": value for name, value in difference.items()}
        result |= {f"{figure}_item_se": float(np.sqrt(over_items)), f"{figure}_seed_se": float(np.sqrt(over_runs))}
        result[f"{figure}_detectable"] = _detectable(over_runs * runs, over_items, runs, confidence_level)
        if delta is not None:
            result[f"{figure}_runs_needed"] = _runs_needed(delta, over_runs * runs, over_items, confidence_level)
    for score, scores in (("accuracy", [a.accuracy for a in arms]), ("macro_f1", [a.f1 for a in arms])):
        result |= _spread(score, *scores, 1 - confidence_level)
    if ladder is not None:
        result["iso_accuracy"] = _iso_accuracy(one, [_Arm(step, references) for step in steps], confidence_level)
    return result


class _Arm:
    """One arm: per run `accuracy` and `f1`, per item the influences on their means and `disagreement`, and `without`,
    the disagreement without each run in turn. Influences have mean zero and are scaled by n."""

    def __init__(self, predictions, references):
        self.shape, self.predictions = predictions.shape, predictions
        runs, items = predictions.shape
        self.right = predictions == references
        self.accuracy = self.right.mean(axis=1)
        self.accuracy_influence = (self.right - self.accuracy[:, None]).mean(axis=0)
        present = np.unique(references)
        self.f1, self.f1_influence = np.zeros(runs), np.zeros(items)
        for k in present:  # the infinitesimal jackknife, as in seed_scores
            gold, given = references == k, predictions == k
            sizes = given.sum(axis=1) + gold.sum()
            hits = given & gold
            f1 = 2 * hits.sum(axis=1) / sizes
            self.f1 += f1 / len(present)
            moves = (2 * hits - f1[:, None] * (given.astype(float) + gold)) / sizes[:, None]
            self.f1_influence += moves.mean(axis=0) * items / len(present)
        classes = int(predictions.max()) + 1
        cells = predictions + np.arange(0, items * classes, classes)
        company = np.bincount(cells.ravel(), minlength=items * classes).take(cells)  # how many runs say the same
        agreeing = (company - 1).sum(axis=0)
        self.disagreement = 1 - agreeing / (runs * (runs - 1))
        rest = agreeing.sum() - 2 * (company - 1).sum(axis=1)
        pairs = items * (runs - 1) * (runs - 2)
        self.without = 1 - rest / pairs if runs > 2 else np.full(runs, np.nan)


def _difference(difference, over_runs, over_items, runs, level):
    """By t, the variances over runs and over items added; the items' part holds a share of the runs' part."""
    variance = over_runs + over_items
    if runs == 2 or not np.isfinite(variance):
        undefined = {"interval": [float("nan"), float("nan")], "p_value": float("nan"), "verdict": "cannot tell"}
        return {"difference": float(difference), **undefined}
    freedom = _freedom(over_runs, over_items, runs)
    half = stats.t.ppf(0.5 + level / 2, freedom) * np.sqrt(variance)
    low, high = float(difference - half), float(difference + half)
    if variance > 0:
        p_value = float(2 * stats.t.sf(abs(difference) / np.sqrt(variance), freedom))
    else:
        p_value = float(difference == 0)
    return {
        "difference": float(difference),
        "interval": [max(low, -1.0), min(high, 1.0)],
        "p_value": p_value,
        "verdict": "higher" if low > 0 else "lower" if high < 0 else "cannot tell",
    }


def _freedom(over_runs, over_items, runs):
    """Wider than Satterthwaite's, which is too narrow at R = 3: see the card."""
    return (runs - 1) * (over_runs + over_items) / over_runs if over_runs > 0 else np.inf


def _detectable(run_variance, over_items, runs, level):
    """(t_level + t_power) x the standard error, for `run_variance` / R over seeds."""
    over_runs = run_variance / runs
    freedom = _freedom(over_runs, over_items, runs)
    quantiles = stats.t.ppf(0.5 + level / 2, freedom) + stats.t.ppf(POWER, freedom)
    return float(quantiles * np.sqrt(over_runs + over_items))


def _runs_needed(delta, run_variance, over_items, level):
    """By bisection, as more runs find smaller differences."""
    if not _detectable(run_variance, over_items, MOST_RUNS, level) <= delta:
        return None
    low, high = 2, MOST_RUNS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _detectable(run_variance, over_items, middle, level) <= delta else (middle, high)
    return high


def _spread(name, one, other, alpha):
    sds = one.std(ddof=1), other.std(ddof=1)
    if max(sds) == 0 or len(one) < 3:
        ratio, p_value = float("nan"), float("nan")
    else:
        ratio = float(sds[0] / sds[1]) if sds[1] > 0 else float("inf")
        with np.errstate(divide="ignore", invalid="ignore"):  # runs that do not spread: nan
            p_value = float(stats.levene(one, other, center="median").pvalue)
    told = len(one) >= LEAST_RUNS and p_value < alpha
    return {
        f"{name}_spread_ratio": ratio,
        f"{name}_spread_p_value": p_value,
        f"{name}_spread_verdict": ("higher" if ratio > 1 else "lower") if told else "cannot tell",
    }


def _iso_accuracy(arm, steps, level):
    """The disagreement of an arm against another's where that is as accurate, by the delta method and a jackknife.

    Weaker classifiers disagree more whatever their labels come from; this compares at equal strength.
    """
    runs, items = arm.shape
    order = np.argsort([step.accuracy.mean() for step in steps])
    accuracies = np.array([steps[i].accuracy.mean() for i in order])
    mean = arm.accuracy.mean()
    at = int(np.searchsorted(accuracies, mean))
    if len(steps) < 2 or not accuracies[0] <= mean <= accuracies[-1]:
        return {"status": "no overlap", "accuracy": float(mean), "verdict": "cannot tell"}
    at = max(at, 1)
    low, high = steps[order[at - 1]], steps[order[at]]
    gap = accuracies[at] - accuracies[at - 1]
    weight = (mean - accuracies[at - 1]) / gap if gap > 0 else 0.5
    ours = arm.disagreement.mean()
    ends = low.disagreement.mean(), high.disagreement.mean()
    theirs = (1 - weight) * ends[0] + weight * ends[1]
    slope = (ends[1] - ends[0]) / gap if gap > 0 else 0.0

    def moves(of_arm, of_low, of_high, values):
        """What a change of the three arms' figures makes of the difference: linear at the estimate."""
        a, b, c = (values(one) for one in (of_arm, of_low, of_high))
        return a - (1 - weight) * b - weight * c

    influence = moves(arm, low, high, lambda one: one.disagreement - one.disagreement.mean())
    influence = influence - slope * moves(arm, low, high, lambda one: one.accuracy_influence)
    without = moves(arm, low, high, lambda one: one.without)
    without = without + slope * moves(arm, low, high, lambda one: one.accuracy) / (runs - 1)
    over_items = (influence**2).sum() / items / max(items - 1, 1)
    over_runs = (runs - 1) / runs * ((without - without.mean()) ** 2).sum()
    return {
        "status": "ok",
        "accuracy": float(mean),
        "pairwise_disagreement1": float(ours),
        "pairwise_disagreement2": float(theirs),
        "sizes": [int(order[at - 1]), int(order[at])],
        **_difference(ours - theirs, over_runs, over_items, runs, level),
    }


def holm(p_values):
    """Holm's (1979) adjusted p-values for several comparisons, in their order; nan counts as a comparison and stays.

    You would want it when several arms are set against one: what is below .05 after it holds for all of them together.
    """
    values = np.asarray(p_values, dtype=float)
    if values.ndim != 1 or ((values < 0) | (values > 1)).any():
        raise ValueError(f"p_values: expected a list of numbers in [0, 1], got {values.tolist()}")
    order = np.argsort(np.where(np.isnan(values), 2, values))
    adjusted = np.empty(len(values))
    stepped = np.nan_to_num(values[order], nan=1) * (len(values) - np.arange(len(values)))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return np.where(np.isnan(values), np.nan, adjusted).tolist()
