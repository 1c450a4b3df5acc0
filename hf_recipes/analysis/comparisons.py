"""Comparisons of variants: paired differences, the choice of a mitigation, and the gain of more training texts."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..data import Rows
from ..hashing import hash_order
from ..variants import CONTROLS, VARIANTS
from .metric_modules import LEVEL, Predictions, compare, difference, load_metric
from .verdict import freedom

DELTA = 0.01  # of macro-F1: the gain that would still be worth doubling the training texts for
MIN_SEEDS, MIN_TEXTS = 6, 40  # to choose a mitigation on one half and to judge it on the other


def compare_variants(predictions: Predictions, with_gold: Predictions, test: Rows) -> list[dict[str, Any]]:
    """Compare each variant with its counterparts at each size: same seeds, same training rows, same test texts.

    Macro-F1 and disagreement at the largest size are primary: LLM labels against gold, and every other variant that is
    no diagnosis against LLM labels and against its own control. Their p-values are corrected for each other (Holm
    1979). All other comparisons are exploratory.

    Args:
        predictions (`Predictions`):
            The runs' labels of all test texts, for disagreement, which requires no gold.
        with_gold (`Predictions`), test (`Rows`):
            The test texts with gold, and the runs' labels of them, for scores; empty without gold.
    """
    comparisons, num_classes = [], len(test.label_names)
    pairs = [(variant.name, against) for variant in VARIANTS.values() for against in variant.comparisons]
    for size in dict.fromkeys(size for _, size in predictions):
        for variant, against in pairs:
            if not {(variant, size), (against, size)} <= predictions.keys():
                continue
            labels, num_texts = predictions[variant, size], predictions[variant, size].shape[1]
            by_figure = {}
            if with_gold:
                scores = compare(with_gold[variant, size], with_gold[against, size], test.gold, num_classes)
                by_figure = dict.fromkeys(("accuracy", "macro_f1", "pairwise_disagreement"), scores)
            if not with_gold or num_texts != len(test):
                no_gold = np.zeros(num_texts, int)
                stability = compare(labels, predictions[against, size], no_gold, num_classes)
                by_figure["pairwise_disagreement"] = stability
            for figure, comparison in by_figure.items():
                record = {"size": size, "variant": variant, "against": against, "figure": figure}
                comparisons.append({**record, **difference(comparison, figure), "primary": False, "p_holm": None})

    top = max(size for _, size in predictions)
    primary = [record for record in comparisons if _is_primary(record, top)]
    p_values = load_metric("instability_comparison").holm([record["p_value"] for record in primary])
    for record, p_value in zip(primary, p_values, strict=True):
        record |= {"primary": True, "p_holm": float(p_value)}
    return comparisons


def _is_primary(record: dict[str, Any], top: int) -> bool:
    if record["size"] != top or record["figure"] == "accuracy":
        return False
    variant, against = record["variant"], record["against"]
    return (variant, against) == ("llm", "gold") or against in ("llm", CONTROLS.get(variant))


def match_gold(predictions: Predictions, test: Rows) -> Iterator[dict[str, Any]]:
    """Compare gold labels of each size with all LLM labels: how many gold labels make classifiers as good."""
    top = max((size for _, size in predictions), default=0)
    for size in sorted(size for variant, size in predictions if variant == "gold"):
        comparison = compare(predictions["gold", size], predictions["llm", top], test.gold, len(test.label_names))
        yield {"size": size, **difference(comparison, "macro_f1")}


def better_than_chance(variants: list[dict[str, Any]]) -> set[tuple[str, int]]:
    """Return the variants and sizes of which every run is better than chance."""
    return {(variant["variant"], variant["size"]) for variant in variants if not variant["chance_level_runs"]}


def best_mitigation(variants: list[dict[str, Any]], predictions: Predictions, test: Rows) -> dict[str, Any] | None:
    """Judge the mitigation with the best macro-F1 on half of the seeds and texts by the other halves.

    Where it was chosen, the best of many looks better than it is. Texts are halved at random within each class. None
    without mitigations that are better than chance, with fewer than `MIN_SEEDS` seeds or `MIN_TEXTS` texts.
    """
    top = max((size for _, size in predictions), default=0)
    above_chance = better_than_chance(variants) & predictions.keys()
    among = [variant for variant in CONTROLS if (variant, top) in above_chance]
    if not among or len(predictions["llm", top]) < MIN_SEEDS or len(test) < MIN_TEXTS:
        return None
    num_classes, order = len(test.label_names), hash_order(test.ids, "halves")
    by_class = [order[test.gold[order] == k] for k in range(num_classes)]
    texts = [np.concatenate([places[start::2] for places in by_class]) for start in range(2)]

    def half(variant: str, which: int) -> np.ndarray:
        return predictions[variant, top][which::2][:, texts[which]]

    def score(variant: str) -> float:
        scores = load_metric("seed_scores").compute(
            predictions=half(variant, 0), references=test.gold[texts[0]], num_classes=num_classes
        )
        return float(scores["macro_f1_mean"])

    best = max(among, key=score)
    comparison = compare(half(best, 1), half("llm", 1), test.gold[texts[1]], num_classes)
    return {"variant": best, "among": among, **difference(comparison, "macro_f1")}


def regained_shares(variants: list[dict[str, Any]], predictions: Predictions, test: Rows) -> Iterator[dict[str, Any]]:
    """Yield the share of the macro-F1 loss that each mitigation regains: (variant - llm) / (gold - llm).

    Its interval is Fieller's, by t with the gap's degrees of freedom and the variances over runs and over texts added;
    the covariance of the two differences follows from the variance of gold - variant. Nothing is yielded where
    the gap's own interval includes zero: the share of nothing is not defined.
    """
    from scipy import stats

    top, above_chance = max((size for _, size in predictions), default=0), better_than_chance(variants)
    if not {("gold", top), ("llm", top)} <= above_chance & predictions.keys():
        return
    runs = len(predictions["llm", top])

    def compare_at_top(variant: str, against: str) -> tuple[float, float, float]:
        """Return the difference in macro-F1, its variance and its degrees of freedom."""
        labels, baseline = predictions[variant, top], predictions[against, top]
        comparison = compare(labels, baseline, test.gold, len(test.label_names))
        errors = comparison["macro_f1_seed_se"], comparison["macro_f1_item_se"]
        return comparison["macro_f1_difference"], float(np.square(errors).sum()), freedom(*errors, runs)

    gap, gap_variance, degrees = compare_at_top("gold", "llm")
    quantile = stats.t.ppf(1 - (1 - LEVEL) / 2, degrees) ** 2
    square = gap**2 - quantile * gap_variance
    if runs < 3 or gap <= 0 or square <= 0:
        return
    for variant in CONTROLS:
        if (variant, top) not in above_chance:
            continue
        gain, variance, _ = compare_at_top(variant, "llm")
        covariance = (variance + gap_variance - compare_at_top("gold", variant)[1]) / 2
        middle = gain * gap - quantile * covariance
        half = np.sqrt(max(middle**2 - square * (gain**2 - quantile * variance), 0.0))
        interval = [float((middle - half) / square), float((middle + half) / square)]
        yield {"variant": variant, "size": top, "R": runs, "n": len(test), "share": gain / gap, "interval": interval}


def equal_accuracy(variants: list[dict[str, Any]], predictions: Predictions, test: Rows) -> dict[str, Any] | None:
    """Compare the disagreement of LLM labels with that of gold labels at the same accuracy; None if it is not defined.

    Sizes at which runs are not better than chance are left out: their agreement is no stability.
    """
    above_chance, top = better_than_chance(variants), max(variant["size"] for variant in variants)
    sizes = sorted(size for variant, size in above_chance if variant == "gold")
    if len(sizes) < 2 or ("llm", top) not in above_chance:
        return None
    ladder = [predictions["gold", size] for size in sizes]
    comparison = compare(predictions["llm", top], ladder[-1], test.gold, len(test.label_names), ladder=ladder)
    record = dict(comparison["iso_accuracy"])
    if record.pop("status") != "ok":
        return None
    if np.isnan(record["p_value"]):
        record["interval"] = None
    return {**record, "R": comparison["R"], "sizes": sorted(sizes[step] for step in record["sizes"])}


def plateaus(variants: list[dict[str, Any]], predictions: Predictions, test: Rows) -> Iterator[dict[str, Any]]:
    """Yield what the last doubling of the training texts gains each variant in macro-F1, and whether gold gains more.

    Where half the largest size was trained, intervals are over runs and test texts, otherwise over runs.
    """
    sizes = sorted({size for _, size in predictions})
    if not sizes or sizes[-1] < 2 * sizes[0]:
        return
    scores = {(variant["variant"], variant["size"]): variant["macro_f1_runs"] for variant in variants}
    names = [
        name for name, size in predictions if size == sizes[-1] and all((name, small) in scores for small in sizes)
    ]
    curves = {name: [scores[name, size] for size in sizes] for name in names}
    # How much each text moves the gain of the last doubling.
    moves = {name: np.zeros(len(test)) for name in names}
    if sizes[-1] / 2 in sizes:
        moves = {
            name: _influence(predictions[name, sizes[-1]], test) - _influence(predictions[name, sizes[-1] // 2], test)
            for name in names
        }
    for name in names:
        settings: dict[str, Any] = {"item_se": _item_se(moves[name])}
        if name != "gold" and "gold" in names:
            settings |= {"against": curves["gold"], "against_item_se": _item_se(moves["gold"])}
            settings["difference_item_se"] = _item_se(moves["gold"] - moves[name])
        plateau = load_metric("learning_plateau").compute(sizes=sizes, scores=curves[name], delta=DELTA, **settings)
        yield {"variant": name, "figure": "macro_f1", "n": len(test), "item_se": settings["item_se"], **plateau}


def _influence(labels: np.ndarray, test: Rows) -> np.ndarray:
    scores = load_metric("seed_scores").compute(
        predictions=labels, references=test.gold, num_classes=len(test.label_names), return_items=True
    )
    return np.array(scores["macro_f1_influence"])


def _item_se(influence: np.ndarray) -> float:
    """Return the standard error over texts of a mean that each of them moves by its influence."""
    return float(np.sqrt(np.square(influence).sum() * len(influence) / max(len(influence) - 1, 1)))
