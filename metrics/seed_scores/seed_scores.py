"""Measure accuracy and macro-F1 over training runs: mean, spread, what is beyond the test set's chance, and failures.

evaluate.load("metrics/seed_scores").compute(predictions=[[0, 1, 1], [0, 1, 0]], references=[0, 1, 1])
"""

from dataclasses import replace

import datasets
import evaluate
import numpy as np
from scipy import stats

from .shared import (
    Crossed,
    Direct,
    by_cluster,
    check_classes,
    check_clusters,
    check_level,
    check_runs,
    crossed_variance,
    f1_by_class,
    item_variance,
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
        One list of class indices per run, all over the same items in the same order. R is at least 2. -1 where a run
        did not classify an item, as it trained on it.
    references (`list` of n `int`, or of R such lists):
        Gold labels.
    num_classes (`int`, *optional*):
        The number of classes; by default one more than the largest reference. Macro-F1 averages over the classes that
        the references hold; a class never predicted counts 0.
    clusters (`list` of n `int` or `str`, *optional*):
        The document, thread or author of each item: intervals of means count clusters, not items.
    return_items (`bool`, *optional*, defaults to `False`):
        Also return `accuracy_influence` and `macro_f1_influence`: how far each item moves the mean over runs, n figures
        that sum to zero. The difference of two variants' influences gives the item variance of their paired difference.
    confidence_level (`float`, *optional*, defaults to 0.95):
        Of all intervals.

Returns:
    `dict`: for each `score` of `accuracy` and `macro_f1`, all in [0, 1]
    - **{score}_mean** (`float`), **{score}_mean_interval** (`list` of 2 `float`): over runs and items together.
    - **{score}_sd** (`float`): over runs, ddof = 1; **{score}_sd_interval** (`list` of 2 `float`): chi-square,
      nan where all scores are equal.
    - **{score}_min**, **{score}_max** (`float`): the range grows with R: compare it at equal R only.
    - **{score}_runs** (`list` of R `float`)

    and
    - **per_class_f1_mean** (`list` of `float`), **per_class_f1_mean_interval** (`list` of pairs): by class, nan for a
      class without gold. **per_class_f1_variance** (`list` of `dict` or None): its parts, see `instability_comparison`.
    - **accuracy_distribution_variance** (`float`), **accuracy_distribution_variance_interval**: the accuracy's variance
      over runs, less what the coin flips of this test set alone make (Jordan 2024, theorem 2). Signed: below zero there
      is no sign that runs differ in quality. ddof = 1; nan where a run did not classify an item.
    - **failed_runs** (`int`): runs whose accuracy is not above that of always giving the commonest class (Mosbach et
      al. 2021), **majority_accuracy** (`float`): that accuracy.
    - **chance_level_runs** (`int`): runs that agree with gold no more than labels given regardless of the item: Cohen's
      kappa is not above 0 by a one-sided test at .05 (Fleiss, Cohen & Everitt 1969). Unlike a failed run, one that
      gives rare classes too often counts as learnt, and one that gives the commonest a little less often does not.
    - **above_chance** (`bool`): the mean over runs of that agreement beyond chance is above 0, by a one-sided test at
      .05 over items. It judges all runs together; more runs make it more certain.
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

    def item_se(self, influence, clusters):
        """Return the standard error over clusters of a mean that each item moves by its influence, of shape (n,)."""
        by_unit = by_cluster(len(influence) * influence[None], clusters)[0]
        return float(np.sqrt(item_variance(by_unit)))

    def mean_interval(self, values, clusters, level, bounds):
        """Return the interval of the mean of values by run and item, of shape (R, n), as of a mean accuracy."""
        figure = Crossed(values, np.ones(values.shape, dtype=bool), clusters)
        return crossed_variance(figure).interval(figure.mean, level, bounds)


def seed_scores(predictions, references, num_classes=None, clusters=None, return_items=False, confidence_level=0.95):
    """Compute what `_KWARGS_DESCRIPTION` lists."""
    predictions, references = check_runs(predictions, references, min_label=-1)
    if references is None:
        raise ValueError("`references` must be gold labels. Got none. Try one label per item.")
    check_level(confidence_level)
    classes = check_classes(num_classes, references, predictions)
    runs, items = predictions.shape
    clusters = check_clusters(clusters, items)
    gold_counts = np.bincount(references, minlength=classes)
    is_seen, is_right = predictions >= 0, predictions == references
    accuracy = Crossed(is_right.astype(float), is_seen, clusters)
    by_item, per_class = _macro_f1(predictions, references, classes, clusters, confidence_level)
    macro_f1 = Crossed(by_item, is_seen, clusters)
    majority = gold_counts.max() / items
    result = {
        **_summary("accuracy", accuracy, confidence_level),
        **_summary("macro_f1", macro_f1, confidence_level),
        **per_class,
        **_distribution_variance(accuracy.by_run, predictions, references, confidence_level),
        "failed_runs": int((accuracy.by_run <= majority).sum()),
        "majority_accuracy": float(majority),
        **_chance(predictions, references, gold_counts / items, clusters),
        "single_class_runs": sum(len(np.unique(run[run >= 0])) == 1 for run in predictions),
        "ddof": 1,
        "R": runs,
        "n": items,
        "confidence_level": confidence_level,
    }
    if return_items:
        result["accuracy_influence"] = _influence(is_right.astype(float), is_seen)
        result["macro_f1_influence"] = _influence(by_item, is_seen)
    return result


def _influence(by_item, is_seen):
    items = by_item.shape[1]
    return (Crossed(by_item, is_seen, np.arange(items)).influence / items).tolist()


def _chance(predictions, references, gold_shares, clusters):
    """Test whether agreement with gold is above that of independent labels, for each run and for all together.

    The variance of a run's agreement is (p_e + p_e^2 - sum_k p_k q_k (p_k + q_k)) / n, with the shares p_k and q_k of
    class k in the run and in gold, and p_e = sum_k p_k q_k (Fleiss, Cohen & Everitt 1969). Less 1 / n for continuity:
    of two classes the agreement moves in steps of 2 / n, and one lucky hit of a rare class is no learning. Together,
    the test is that of their mean over the items, at the same level: where no run learns, only items vary.
    """
    is_seen = predictions >= 0
    num_seen = is_seen.sum(axis=1)
    counts = np.stack([(predictions == k).sum(axis=1) for k in range(len(gold_shares))], axis=1)
    shares = counts / num_seen[:, None]
    expected = shares @ gold_shares
    variance = (expected + expected**2 - (shares * gold_shares * (shares + gold_shares)).sum(axis=1)) / num_seen
    agreement = predictions == references
    beyond = agreement.sum(axis=1) / num_seen - expected - 1 / num_seen
    num_above = (beyond > stats.norm.ppf(0.95) * np.sqrt(np.maximum(variance, 0))).sum()

    # An item with label p and gold g moves the expected agreement by q_p + p_g - 2 p_e.
    by_item = agreement - gold_shares[predictions] - shares[:, references] + expected[:, None] - 1 / num_seen[:, None]
    together = Crossed(by_item, is_seen, clusters)
    low, _ = replace(crossed_variance(together), runs=0.0).interval(together.mean, 0.9)
    return {"chance_level_runs": int(len(predictions) - num_above), "above_chance": bool(low > 0)}


def _macro_f1(predictions, references, classes, clusters, level):
    """Return pseudo-values of macro-F1 over the classes that gold has, by run and item, and F1 by class."""
    means, intervals, variances = [float("nan")] * classes, [[float("nan")] * 2] * classes, [None] * classes
    is_seen, values = predictions >= 0, []
    for k, by_item in f1_by_class(predictions, references):
        values.append(by_item)
        # One cluster of the class moves F1 by about one over their number, and only these clusters show how F1 varies.
        count, figure = len(np.unique(clusters[references == k])), Crossed(by_item, is_seen, clusters)
        variance = crossed_variance(figure, floor=len(figure.influence) / count)
        variance = replace(variance, item_freedom=float(min(variance.item_freedom, max(count - 1, 1))))
        means[k], intervals[k] = figure.mean, variance.interval(figure.mean, level, (0, 1))
        variances[k] = variance.to_dict()
    per_class = {"mean": means, "mean_interval": intervals, "variance": variances}
    return sum(values) / len(values), {f"per_class_f1_{name}": of_class for name, of_class in per_class.items()}


def _summary(name, figure, level):
    scores = figure.by_run
    runs, sd = len(scores), scores.std(ddof=1)
    high, low = stats.chi2.ppf([0.5 + level / 2, 0.5 - level / 2], runs - 1)
    sd_interval = [float("nan")] * 2  # Equal scores do not prove that the spread is zero.
    if sd > 0:
        sd_interval = [float(sd * np.sqrt((runs - 1) / high)), float(sd * np.sqrt((runs - 1) / low))]
    return {
        f"{name}_mean": float(scores.mean()),
        f"{name}_mean_interval": crossed_variance(figure).interval(figure.mean, level, (0, 1)),
        f"{name}_sd": float(sd),
        f"{name}_sd_interval": sd_interval,
        f"{name}_min": float(scores.min()),
        f"{name}_max": float(scores.max()),
        f"{name}_runs": scores.tolist(),
    }


def _distribution_variance(accuracy, predictions, references, level):
    """Compute Jordan 2024, theorem 2: n / (n - 1) [Var_r(accuracy) - sum_i Var_r(correct_i) / n^2], with ddof = 1.

    The interval is the chi-square one of the first variance; the second is a mean over items and as good as known.
    """
    runs, items = predictions.shape
    if (predictions < 0).any():
        names = ("accuracy_distribution_variance", "accuracy_distribution_variance_interval")
        return dict(zip(names, (float("nan"), [float("nan")] * 2), strict=True))
    right = (predictions == references).sum(axis=0)
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
