"""Accuracy and macro-F1 over training runs: mean, spread, what of it is more than the test set's chance, failed runs.

evaluate.load("metrics/seed_scores").compute(predictions=[[0, 1, 1], [0, 1, 0]], references=[0, 1, 1])
"""

import datasets
import evaluate
import numpy as np
from scipy import stats

_CITATION = """\
@inproceedings{reimers2017reporting, title={Reporting Score Distributions Makes a Difference},
  author={Reimers, Nils and Gurevych, Iryna}, booktitle={EMNLP}, year={2017}}
@inproceedings{mosbach2021stability, title={On the Stability of Fine-tuning BERT},
  author={Mosbach, Marius and Andriushchenko, Maksym and Klakow, Dietrich}, booktitle={ICLR}, year={2021}}
@inproceedings{jordan2024variance, title={On the Variance of Neural Network Training with Respect to Test Sets and
  Distributions}, author={Jordan, Keller}, booktitle={ICLR}, year={2024}}
"""

_DESCRIPTION = """\
Accuracy and macro-F1 of several training runs on one test set: mean, standard deviation, range and failed runs.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of R lists of n `int`):
        One list of class indices per run, all over the same items in the same order. R is at least 2.
    references (`list` of n `int`, or of R such lists):
        Gold labels.
    num_classes (`int`, *optional*):
        The number of classes; by default one more than the largest reference. Macro-F1 averages over the classes that
        the references hold; a class never predicted counts 0.
    return_items (`bool`, *optional*, defaults to `False`):
        Also return `accuracy_influence` and `macro_f1_influence`: how far each item moves the mean over runs, n figures
        that sum to zero. The difference of two arms' influences gives the item variance of their paired difference.
    confidence_level (`float`, *optional*, defaults to 0.95):
        Of all intervals.

Returns:
    `dict`: for each `score` of `accuracy` and `macro_f1`, all in [0, 1]
    - **{score}_mean** (`float`), **{score}_mean_interval** (`list` of 2 `float`): over runs and items together.
    - **{score}_sd** (`float`): over runs, ddof = 1; **{score}_sd_interval** (`list` of 2 `float`): chi-square.
    - **{score}_min**, **{score}_max** (`float`): the range grows with R: compare it at equal R only.
    - **{score}_runs** (`list` of R `float`)

    and
    - **per_class_f1_mean** (`list` of `float`), **per_class_f1_mean_interval** (`list` of pairs),
      **per_class_f1_seed_se**, **per_class_f1_item_se**: by class, nan for a class without gold; the two parts of the
      standard error. Where all or none of a class is right in every run, nothing varies and the interval says too much.
    - **accuracy_distribution_variance** (`float`), **accuracy_distribution_variance_interval**: the accuracy's variance
      over runs, less what the coin flips of this test set alone make (Jordan 2024, theorem 2). Signed: below zero there
      is no sign that runs differ in quality. ddof = 1.
    - **failed_runs** (`int`): runs whose accuracy is not above that of always giving the commonest class (Mosbach et
      al. 2021), **majority_accuracy** (`float`): that accuracy.
    - **chance_level_runs** (`int`): runs that agree with gold no more than labels given regardless of the item: Cohen's
      kappa is not above 0 by a one-sided test at .05 (Fleiss, Cohen & Everitt 1969). Unlike a failed run, one that
      gives rare classes too often counts as learnt, and one that gives the commonest a little less often does not.
    - **single_class_runs** (`int`): runs that predict one class throughout.
    - **ddof** (`int`), **R** (`int`), **n** (`int`), **confidence_level** (`float`)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class SeedScores(evaluate.Metric):
    def _info(self):
        per_run = datasets.Sequence(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": per_run, "references": per_run}),
        )

    def compute(self, *, predictions=None, references=None, **kwargs):
        """Of all runs at once without a detour through evaluate's cache, where casting takes most of the time."""
        if self.writer is not None or self.num_process > 1:
            return super().compute(predictions=predictions, references=references, **kwargs)
        return seed_scores(*runs_and_gold(predictions, references), **kwargs)

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Adds runs; references may be given once for all of them."""
        predictions, gold = runs_and_gold(predictions, references)
        super().add_batch(predictions=list(predictions), references=[gold] * len(predictions), **kwargs)

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Adds one run; `evaluate.combine` names the arguments in the plural."""
        prediction, reference = kwargs.pop("predictions", prediction), kwargs.pop("references", reference)
        self.add_batch(predictions=[prediction], references=reference, **kwargs)

    def _compute(self, predictions, references, **kwargs):
        return seed_scores(*runs_and_gold(predictions, references), **kwargs)


def runs_and_gold(predictions, references):
    """Predictions as an (R, n) array of class indices and references as an (n,) one."""
    if references is None:
        raise ValueError("references: scores need gold labels")
    predictions = class_indices("predictions", predictions)
    references = class_indices("references", np.atleast_2d(as_array("references", references)))
    if references.shape[1] != predictions.shape[1]:
        raise ValueError(f"references have {references.shape[1]} items, predictions {predictions.shape[1]}")
    if len(references) > 1 and (references != references[0]).any():
        raise ValueError("references differ between runs; all runs must be over the same items")
    return predictions, references[0]


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


def seed_scores(predictions, references, num_classes=None, return_items=False, confidence_level=0.95):
    """See `_KWARGS_DESCRIPTION`; predictions of shape (R, n), references of shape (n,)."""
    runs, items = predictions.shape
    if runs < 2:
        raise ValueError(f"a spread over seeds needs at least 2 runs, got {runs}")
    if not 0 < confidence_level < 1:
        raise ValueError(f"confidence_level: expected a number between 0 and 1, got {confidence_level}")
    classes = int(references.max()) + 1 if num_classes is None else num_classes
    if classes != int(classes):
        raise ValueError(f"num_classes: expected a whole number, got {num_classes}")
    if (largest := int(max(predictions.max(), references.max()))) >= classes:
        raise ValueError(f"a label is {largest}, but there are {classes} classes; if there are more, set num_classes")
    gold_counts = np.bincount(references, minlength=classes)
    correct = predictions == references
    accuracy = correct.mean(axis=1)
    f1, f1_influence, per_class = _macro_f1(predictions, references, gold_counts, confidence_level)
    majority = gold_counts.max() / items
    result = {
        **_summary("accuracy", accuracy, (correct - accuracy[:, None]).mean(axis=0), confidence_level),
        **_summary("macro_f1", f1, f1_influence, confidence_level),
        **per_class,
        **_distribution_variance(accuracy, correct, confidence_level),
        "failed_runs": int((accuracy <= majority).sum()),
        "majority_accuracy": float(majority),
        "chance_level_runs": int((~_above_chance(predictions, accuracy, gold_counts)).sum()),
        "single_class_runs": int((predictions == predictions[:, :1]).all(axis=1).sum()),
        "ddof": 1,
        "R": runs,
        "n": items,
        "confidence_level": confidence_level,
    }
    if return_items:
        result["accuracy_influence"] = ((correct - accuracy[:, None]).mean(axis=0) / items).tolist()
        result["macro_f1_influence"] = (f1_influence / items).tolist()
    return result


def _above_chance(predictions, accuracy, gold_counts):
    """Of each run, whether kappa is above 0 at .05: its agreement against that of independent labels of equal counts.

    The variance of the agreement is (p_e + p_e^2 - sum_k p_k q_k (p_k + q_k)) / n, with the shares p_k and q_k of class
    k in the run and in gold, and p_e = sum_k p_k q_k (Fleiss, Cohen & Everitt 1969). Less 1 / n for continuity: of two
    classes the agreement moves in steps of 2 / n, and one lucky hit of a rare class is no learning.
    """
    items, classes = predictions.shape[1], len(gold_counts)
    given = np.stack([np.bincount(run, minlength=classes) for run in predictions]) / items
    gold = gold_counts / items
    expected = given @ gold
    variance = (expected + expected**2 - (given * gold * (given + gold)).sum(axis=1)) / items
    return accuracy - expected - 1 / items > stats.norm.ppf(0.95) * np.sqrt(np.maximum(variance, 0))


def _macro_f1(predictions, references, gold_counts, level):
    """Macro-F1 of each run over the classes that occur in gold, the items' influence on its mean, and F1 by class.

    With TP, P, G the weighted counts of class k, F1 = 2 TP / (P + G), and an item that adds weight w changes it by
    w (2 [hit] - F1 ([predicted k] + [gold k])) / (P + G): the infinitesimal jackknife (Efron 1982). Scaled by n.
    """
    runs, items = predictions.shape
    present = np.flatnonzero(gold_counts)
    scores, influence = np.zeros(runs), np.zeros(items)
    means, intervals = np.full(len(gold_counts), np.nan), np.full((len(gold_counts), 2), np.nan)
    parts = np.full((2, len(gold_counts)), np.nan)
    for k in present:
        is_gold, is_predicted = references == k, predictions == k
        hits = is_predicted & is_gold
        sizes = is_predicted.sum(axis=1) + gold_counts[k]
        f1 = 2 * hits.sum(axis=1) / sizes
        scores += f1 / len(present)
        moves = (2 * hits - f1[:, None] * (is_predicted.astype(float) + is_gold)) / sizes[:, None]
        moved = moves.mean(axis=0) * items
        influence += moved / len(present)
        means[k], intervals[k] = f1.mean(), _mean_interval(f1, moved, level)
        parts[:, k] = np.sqrt(_variances(f1, moved))
    per_class = {
        **{"per_class_f1_mean": means.tolist(), "per_class_f1_mean_interval": intervals.tolist()},
        **{"per_class_f1_seed_se": parts[0].tolist(), "per_class_f1_item_se": parts[1].tolist()},
    }
    return scores, influence, per_class


def _variances(scores, influence):
    """Of a mean score, over runs and over items; `influence` is scaled by n."""
    items = len(influence)
    return scores.var(ddof=1) / len(scores), (influence**2).sum() / items / max(items - 1, 1)


def _mean_interval(scores, influence, level):
    runs = len(scores)
    over_runs, over_items = _variances(scores, influence)
    variance, half = over_runs + over_items, 0.0
    if variance > 0:
        freedom = (runs - 1) * variance / over_runs if over_runs else np.inf  # wider than Satterthwaite's: see the card
        half = stats.t.ppf(0.5 + level / 2, freedom) * np.sqrt(variance)
    return [float(max(scores.mean() - half, 0)), float(min(scores.mean() + half, 1))]


def _summary(name, scores, influence, level):
    runs, sd = len(scores), scores.std(ddof=1)
    high, low = stats.chi2.ppf([0.5 + level / 2, 0.5 - level / 2], runs - 1)
    return {
        f"{name}_mean": float(scores.mean()),
        f"{name}_mean_interval": _mean_interval(scores, influence, level),
        f"{name}_sd": float(sd),
        f"{name}_sd_interval": [float(sd * np.sqrt((runs - 1) / high)), float(sd * np.sqrt((runs - 1) / low))],
        f"{name}_min": float(scores.min()),
        f"{name}_max": float(scores.max()),
        f"{name}_runs": scores.tolist(),
    }


def _distribution_variance(accuracy, correct, level):
    """Jordan 2024, theorem 2: n / (n - 1) [Var_r(accuracy) - sum_i Var_r(correct_i) / n^2], both with ddof = 1.

    The interval is the chi-square one of the first variance; the second is a mean over items and as good as known.
    """
    runs, items = correct.shape
    right = correct.sum(axis=0)
    flips = (right * (runs - right)).sum() / (runs * (runs - 1)) / items**2
    unbias = items / (items - 1) if items > 1 else np.nan
    total = accuracy.var(ddof=1)
    high, low = stats.chi2.ppf([0.5 + level / 2, 0.5 - level / 2], runs - 1)
    return {
        "accuracy_distribution_variance": float(unbias * (total - flips)),
        "accuracy_distribution_variance_interval": [
            float(unbias * (total * (runs - 1) / bound - flips)) for bound in (high, low)
        ],
    }
