"""Measure accuracy and macro-F1 over training runs: mean, spread, what is beyond the test set's chance, and failures.

evaluate.load("metrics/seed_scores").compute(predictions=[[0, 1, 1], [0, 1, 0]], references=[0, 1, 1])
"""

import datasets
import evaluate
import numpy as np
from scipy import stats

from .shared import (
    Direct,
    check_classes,
    check_level,
    check_runs,
    f1_by_class,
    item_variance,
    t_interval,
)

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
        that sum to zero. The difference of two variants' influences gives the item variance of their paired difference.
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
class SeedScores(Direct, evaluate.Metric):
    def _info(self):
        per_run = datasets.Sequence(datasets.Value("float64"))  # int64 would cast 0.7 to 0
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": per_run, "references": per_run}),
        )

    def _compute(self, **kwargs):
        return seed_scores(**kwargs)


def seed_scores(predictions, references, num_classes=None, return_items=False, confidence_level=0.95):
    """Compute what `_KWARGS_DESCRIPTION` lists."""
    predictions, references = check_runs(predictions, references)
    if references is None:
        raise ValueError("`references` must be gold labels. Got none. Try one label per item.")
    check_level(confidence_level)
    classes = check_classes(num_classes, references, predictions)
    runs, items = predictions.shape
    gold_counts = np.bincount(references, minlength=classes)
    correct = predictions == references
    accuracy = correct.mean(axis=1)
    accuracy_influence = (correct - accuracy[:, None]).mean(axis=0)
    f1, f1_influence, per_class = _macro_f1(predictions, references, classes, confidence_level)
    majority = gold_counts.max() / items
    result = {
        **_summary("accuracy", accuracy, accuracy_influence, confidence_level),
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
        result["accuracy_influence"] = (accuracy_influence / items).tolist()
        result["macro_f1_influence"] = (f1_influence / items).tolist()
    return result


def _above_chance(predictions, accuracy, gold_counts):
    """Test for each run whether kappa is above 0 at .05: its agreement against that of independent labels.

    The variance of the agreement is (p_e + p_e^2 - sum_k p_k q_k (p_k + q_k)) / n, with the shares p_k and q_k of class
    k in the run and in gold, and p_e = sum_k p_k q_k (Fleiss, Cohen & Everitt 1969). Less 1 / n for continuity: of two
    classes the agreement moves in steps of 2 / n, and one lucky hit of a rare class is no learning.
    """
    items, classes = predictions.shape[1], len(gold_counts)
    shares = np.stack([np.bincount(run, minlength=classes) for run in predictions]) / items
    gold_shares = gold_counts / items
    expected = shares @ gold_shares
    variance = (expected + expected**2 - (shares * gold_shares * (shares + gold_shares)).sum(axis=1)) / items
    return accuracy - expected - 1 / items > stats.norm.ppf(0.95) * np.sqrt(np.maximum(variance, 0))


def _macro_f1(predictions, references, classes, level):
    """Return macro-F1 of each run over the classes that gold has, the items' influence on its mean, and F1 by class."""
    f1_classes = list(f1_by_class(predictions, references))
    scores, influence = np.zeros(len(predictions)), np.zeros(len(references))
    means, intervals, parts = np.full(classes, np.nan), np.full((classes, 2), np.nan), np.full((2, classes), np.nan)
    for k, f1, moves in f1_classes:
        scores += f1 / len(f1_classes)
        influence += moves / len(f1_classes)
        means[k], intervals[k] = f1.mean(), _mean_interval(f1, moves, level)
        parts[:, k] = np.sqrt(_variances(f1, moves))
    names = ("mean", "mean_interval", "seed_se", "item_se")
    columns = zip(names, (means, intervals, *parts), strict=True)
    return scores, influence, {f"per_class_f1_{name}": values.tolist() for name, values in columns}


def _variances(scores, influence):
    """Return the variances of a mean score over runs and over items."""
    return scores.var(ddof=1) / len(scores), item_variance(influence)


def _mean_interval(scores, influence, level):
    return t_interval(scores.mean(), *_variances(scores, influence), len(scores), level, (0, 1))


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
    """Compute Jordan 2024, theorem 2: n / (n - 1) [Var_r(accuracy) - sum_i Var_r(correct_i) / n^2], with ddof = 1.

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
