"""How good the LLM's labels of the pool are, against gold and against the annotators' labels."""

from typing import Any

import numpy as np

from ..annotation.annotations import count_examples
from ..data import NO_GOLD
from ..labels.audit import MIN_LABELS
from ..labels.pool import Pool, StudyLabels
from ..metric_loading import load_metric
from ..study import Study
from .metric_modules import LEVEL
from .near_duplicates import cluster_codes

#: The fields that `metrics/annotation_uncertainty` computes under the same name; null with fewer gold labels than
#: `MIN_LABELS`, but for the counts.
FIELDS = (
    *("n", "n_gold", "accuracy", "accuracy_interval", "majority_accuracy"),
    *("macro_f1", "macro_f1_interval", "entropy_auroc"),
)


def measure_annotator(study: Study, labels: StudyLabels) -> dict[str, Any]:
    """Return the fields of `AnnotatorResult`."""
    pool, status, names = labels.training_pool, labels.annotations[0].status, labels.training_pool.label_names
    scores = load_metric("annotation_uncertainty").compute(
        predictions=pool.probs, references=pool.gold, label_mass=pool.label_mass, clusters=clusters_of_pool(pool)
    )
    recall, gold_share, nll, confusion = dict.fromkeys(names), dict.fromkeys(names), None, None
    has_gold = np.flatnonzero(pool.gold != NO_GOLD)
    if len(has_gold) < MIN_LABELS:
        scores = {name: scores[name] for name in ("n", "n_gold", "label_share", "label_mass_mean")}
    else:
        recall = dict(zip(names, map(float, scores["per_class_recall"]), strict=True))
        gold_share = dict(zip(names, (np.array(scores["per_class_n"]) / len(has_gold)).tolist(), strict=True))
        pairs = np.stack([pool.gold[has_gold], pool.llm[has_gold]])
        confusion = np.zeros((len(names), len(names)), dtype=int)
        np.add.at(confusion, tuple(pairs), 1)
        gold_probs = pool.probs[has_gold, pool.gold[has_gold]]
        nll = float(-np.log(np.clip(gold_probs, 1e-300, None)).mean())
    section = labels.annotations[0].section
    if not section.has_probabilities:
        scores["entropy_auroc"] = nll = None
    return {
        "model": section.model,
        "column": section.columns and section.columns.label,
        "calibration": pool.calibrations[0].method,
        "demonstrations": count_examples(study, labels.annotations[:1]),
        "calibration_gold": pool.calibration_gold,
        **{field: scores.get(field) for field in FIELDS},
        "recall": recall,
        "gold_share": gold_share,
        "llm_share": dict(zip(names, scores["label_share"], strict=True)),
        "confusion": None if confusion is None else confusion.tolist(),
        "nll": nll,
        **divergence(pool.raters, pool.probs),
        "gold_error": None if pool.raters is None else estimate_gold_error(pool.raters, pool.gold),
        "one_annotator": None if pool.raters is None else one_rater_agreement(pool.raters),
        "label_mass": None if section.columns else scores["label_mass_mean"],
        "status": {name: status.count(name) for name in sorted(set(status))},
        "truncated": int(labels.annotations[0].truncated.sum()),
    }


def clusters_of_pool(pool: Pool) -> np.ndarray | None:
    """Return the clusters that intervals count, of shape `(n,)`; None where the recipe names no column of clusters."""
    return None if pool.clusters is None else cluster_codes(pool.texts, pool.clusters)


def one_rater_agreement(raters: np.ndarray) -> float | None:
    """Return how often a rater drawn at random gives the most frequent label of a text's other raters.

    Args:
        raters (`np.ndarray` of shape `(n, K)`): how many gave each class; texts with fewer than two do not count.

    Returns:
        `float` in [0, 1]: tied most frequent labels count in equal shares. None if no text has two raters.
    """
    counts = raters[raters.sum(axis=1) > 1].astype(float)
    if not len(counts):
        return None
    num_agreeing = np.zeros(len(counts))
    for k in range(counts.shape[1]):
        without_rater = counts - np.eye(counts.shape[1])[k]
        is_best = without_rater == without_rater.max(axis=1, keepdims=True)
        num_agreeing += counts[:, k] * is_best[:, k] / is_best.sum(axis=1)
    return float((num_agreeing / counts.sum(axis=1)).mean())


def estimate_gold_error(raters: np.ndarray, gold: np.ndarray) -> float | None:
    """Estimate the share of wrong gold labels by the votes of annotators whose errors depend on the true class alone.

    By the model of Dawid & Skene 1979 with one confusion matrix for all annotators, who have no names here: the mean
    probability that the true class is not the gold one, after 100 steps of expectation-maximisation.

    Args:
        raters (`np.ndarray` of shape `(n, K)`): how many gave each class; texts with fewer than three do not count.
        gold (`np.ndarray` of shape `(n,)`): class indices; texts with `NO_GOLD` do not count.

    Returns:
        `float` in [0, 1]; None if no text counts.
    """
    places = np.flatnonzero((raters.sum(axis=1) > 2) & (gold != NO_GOLD))
    if not len(places):
        return None
    counts = raters[places].astype(float)
    posterior = counts / counts.sum(axis=1, keepdims=True)
    for _ in range(100):
        shares = posterior.mean(axis=0)
        confusion = posterior.T @ counts + 1e-6
        confusion /= confusion.sum(axis=1, keepdims=True)
        scores = np.log(shares + 1e-12) + counts @ np.log(confusion).T
        posterior = np.exp(scores - scores.max(axis=1, keepdims=True))
        posterior /= posterior.sum(axis=1, keepdims=True)
    return float(1 - posterior[np.arange(len(places)), gold[places]].mean())


def divergence(raters: np.ndarray | None, probs: np.ndarray) -> dict[str, Any]:
    """Return how far the LLM's probabilities are from the raters' shares: the mean KL(raters || LLM) over rated texts.

    Args:
        raters (`np.ndarray` of shape `(n, K)`, *optional*), probs (`np.ndarray` of shape `(n, K)`)

    Returns:
        `dict` with `kl` in nats, at least 0, infinite where the LLM gives no probability to a rater's label;
        `kl_interval`, by t over texts; `kl_n`, the texts. None where no text has raters.
    """
    from scipy import stats
    from scipy.special import rel_entr

    is_rated = np.zeros(len(probs), dtype=bool) if raters is None else raters.sum(axis=1) > 0
    if raters is None or not is_rated.any():
        return {"kl": None, "kl_interval": None, "kl_n": 0}
    shares = raters[is_rated] / raters[is_rated].sum(axis=1, keepdims=True)
    by_text = rel_entr(shares, probs[is_rated]).sum(axis=1)
    mean, interval = float(by_text.mean()), None
    if len(by_text) > 1 and np.isfinite(mean):
        half = float(stats.t.ppf(0.5 + LEVEL / 2, len(by_text) - 1) * by_text.std(ddof=1) / len(by_text) ** 0.5)
        interval = [max(mean - half, 0.0), mean + half]
    return {"kl": mean, "kl_interval": interval, "kl_n": len(by_text)}
