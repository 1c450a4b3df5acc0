"""Comparisons of variants: paired differences, the choice of a mitigation, and the gain of more training texts."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ..hashing import hash_order
from ..metric_loading import load_metric
from ..variants import CONTROLS, VARIANTS
from .metric_modules import LEVEL, correct, difference
from .texts import Texts

DELTA = 0.01  # of macro-F1: the gain that would still be worth doubling the training texts for
FIGURES = ("accuracy", "macro_f1", "pairwise_disagreement")
MIN_SEEDS, MIN_TEXTS = 6, 40  # to choose a mitigation on one half and to judge it on the other


def compare_variants(all_test: Texts, with_gold: Texts, test_with_gold: Texts) -> list[dict[str, Any]]:
    """Compare each variant with its counterparts at each size: same seeds, same training rows, same texts.

    Macro-F1 and disagreement at the largest size are primary: LLM labels against gold, and every other variant that is
    no diagnosis against LLM labels and against its own control. Their p-values are corrected for each other (Holm
    1979). All other comparisons are exploratory.

    Args:
        all_test (`Texts`):
            All test texts, for disagreement where not all of them have gold.
        with_gold (`Texts`):
            The test texts with gold, and out-of-bag texts of the pool where they count; without runs without gold.
        test_with_gold (`Texts`):
            The test texts with gold alone.
    """
    comparisons = []
    pairs = [(variant.name, against) for variant in VARIANTS.values() for against in variant.comparisons]
    for size in dict.fromkeys(size for _, size in all_test.labels):
        for variant, against in pairs:
            first, second = (variant, size), (against, size)
            if not {first, second} <= all_test.labels.keys():
                continue
            by_figure, on_test = {}, {}
            if with_gold.labels:
                by_figure = dict.fromkeys(FIGURES, with_gold.compare(first, second))
            if len(with_gold.rows) > len(test_with_gold.rows):
                on_test = dict.fromkeys(FIGURES, test_with_gold.compare(first, second))
            if not with_gold.labels or len(test_with_gold.rows) < len(all_test.rows):
                by_figure["pairwise_disagreement"] = all_test.compare(first, second)
            for figure, comparison in by_figure.items():
                record = {"size": size, "variant": variant, "against": against, "figure": figure, "test_only": None}
                if figure in on_test:
                    record["test_only"] = difference(on_test[figure], figure)
                comparisons.append({**record, **difference(comparison, figure), "primary": False})
    primary = [record for record in comparisons if _is_primary(record, all_test.top)]
    correct(primary)
    for record in primary:
        record["primary"] = True
    return comparisons


def _is_primary(record: dict[str, Any], top: int) -> bool:
    if record["size"] != top or record["figure"] == "accuracy":
        return False
    variant, against = record["variant"], record["against"]
    return (variant, against) == ("llm", "gold") or against in ("llm", CONTROLS.get(variant))


def match_gold(texts: Texts) -> Iterator[dict[str, Any]]:
    """Compare gold labels of each size with all LLM labels: how many gold labels make classifiers as good.

    That of the largest size is the primary comparison turned round, see `find_claims`.
    """
    for size in sorted(size for variant, size in texts.labels if variant == "gold"):
        yield {"size": size, **difference(texts.compare(("gold", size), ("llm", texts.top)), "macro_f1")}


def better_than_chance(variants: list[dict[str, Any]]) -> set[tuple[str, int]]:
    """Return the variants and sizes whose runs, all together, are better than chance."""
    return {(variant["variant"], variant["size"]) for variant in variants if variant["above_chance"]}


def best_mitigation(variants: list[dict[str, Any]], texts: Texts) -> dict[str, Any] | None:
    """Judge the mitigation with the best macro-F1 on half of the seeds and texts by the other halves.

    Where it was chosen, the best of many looks better than it is. Clusters are halved at random. None without
    mitigations that are better than chance, with fewer than `MIN_SEEDS` seeds or `MIN_TEXTS` texts.
    """
    top, gold = texts.top, texts.rows.gold
    above_chance = better_than_chance(variants) & texts.labels.keys()
    among = [variant for variant in CONTROLS if (variant, top) in above_chance]
    if not among or len(texts.labels["llm", top]) < MIN_SEEDS or len(texts.rows) < MIN_TEXTS:
        return None
    # Every second cluster, class by class, in the order of a salted hash; a cluster has the class of its first text.
    first_texts = np.unique(texts.clusters, return_index=True)[1]
    order = hash_order([texts.rows.ids[i] for i in first_texts], "halves")
    order = np.concatenate([order[gold[first_texts[order]] == k] for k in range(texts.num_classes)])
    halves = []
    for start in range(2):
        half = texts.take(np.flatnonzero(np.isin(texts.clusters, order[start::2])))
        if len(half.rows) < MIN_TEXTS / 2 or half.clusters.max() == 0:
            return None
        labels = {variant: half.labels[variant, top][start::2] for variant in [*among, "llm"]}
        halves.append(replace(half, labels={(variant, top): classes for variant, classes in labels.items()}))
    best = max(among, key=lambda variant: halves[0].score((variant, top))["macro_f1_mean"])
    return {"variant": best, "among": among, **difference(halves[1].compare((best, top), ("llm", top)), "macro_f1")}


def regained_shares(variants: list[dict[str, Any]], texts: Texts) -> Iterator[dict[str, Any]]:
    """Yield the share of the macro-F1 loss that each mitigation regains: (variant - llm) / (gold - llm).

    Its interval is Fieller's, by t with the gap's degrees of freedom and the variances over runs and over texts added;
    the covariance of the two differences follows from the variance of gold - variant. Nothing is yielded where
    the gap's own interval includes zero: the share of nothing is not defined.
    """
    from scipy import stats

    top, above_chance = texts.top, better_than_chance(variants) & texts.labels.keys()
    if not {("gold", top), ("llm", top)} <= above_chance or len(texts.labels["llm", top]) < 3:
        return
    module = load_metric("instability_comparison")

    def compare_at_top(variant: str, against: str) -> tuple[float, Any]:
        """Return the difference in macro-F1 and its variance."""
        comparison = texts.compare((variant, top), (against, top))
        return comparison["macro_f1_difference"], module.variance(**comparison["macro_f1_variance"])

    gap, gap_variance = compare_at_top("gold", "llm")
    quantile = stats.t.ppf(1 - (1 - LEVEL) / 2, gap_variance.freedom) ** 2
    square = gap**2 - quantile * gap_variance.total
    if gap <= 0 or square <= 0:
        return
    counts = {"R": len(texts.labels["llm", top]), "n": len(texts.rows)}
    for variant in CONTROLS:
        if (variant, top) not in above_chance:
            continue
        gain, variance = compare_at_top(variant, "llm")
        covariance = (variance.total + gap_variance.total - compare_at_top("gold", variant)[1].total) / 2
        middle = gain * gap - quantile * covariance
        half = np.sqrt(max(middle**2 - square * (gain**2 - quantile * variance.total), 0.0))
        interval = [float((middle - half) / square), float((middle + half) / square)]
        yield {"variant": variant, "size": top, **counts, "share": gain / gap, "interval": interval}


def equal_accuracy(variants: list[dict[str, Any]], texts: Texts) -> dict[str, Any] | None:
    """Compare the disagreement of LLM labels with that of gold labels at the same accuracy; None if it is not defined.

    Sizes at which runs are not better than chance are left out: their agreement is no stability.
    """
    above_chance, top = better_than_chance(variants) & texts.labels.keys(), texts.top
    sizes = sorted(size for variant, size in above_chance if variant == "gold")
    if len(sizes) < 2 or ("llm", top) not in above_chance:
        return None
    ladder = [texts.labels["gold", size] for size in sizes]
    comparison = texts.compare(("llm", top), ("gold", sizes[-1]), ladder=ladder)
    record = dict(comparison["iso_accuracy"])
    if record.pop("status") != "ok":
        return None
    if np.isnan(record["p_value"]):
        record["interval"] = None
    return {**record, "R": comparison["R"], "sizes": sorted(sizes[step] for step in record["sizes"])}


def plateaus(variants: list[dict[str, Any]], texts: Texts) -> Iterator[dict[str, Any]]:
    """Yield what the last doubling of the training texts gains each variant in macro-F1, and whether gold gains more.

    Intervals are over runs and test texts. Nothing is yielded of runs that are not better than chance at the largest
    size: what did not start cannot have ended.
    """
    sizes = sorted({size for _, size in texts.labels})
    if not sizes or sizes[-1] < 2 * sizes[0]:
        return
    scores = {(variant["variant"], variant["size"]): variant["macro_f1_runs"] for variant in variants}
    above_chance = better_than_chance(variants)
    names = [name for name, size in texts.labels if size == sizes[-1] and (name, size) in above_chance]
    names = [name for name in names if all((name, small) in scores for small in sizes)]
    curves = {name: [scores[name, size] for size in sizes] for name in names}
    # How much each text moves the gain of the last doubling, in which the score at half the largest size is that of the
    # sizes around it, weighted by their distance in logarithms.
    half = sizes[-1] / 2
    weights = [np.interp(np.log(half), np.log(sizes), unit) for unit in np.eye(len(sizes))]
    module, moves = load_metric("seed_scores"), {}
    for name in names:
        at_half = [w * _influence(texts, (name, size)) for w, size in zip(weights, sizes, strict=True) if w > 0]
        moves[name] = _influence(texts, (name, sizes[-1])) - np.sum(at_half, axis=0)
    errors = {name: module.item_se(influence, texts.clusters) for name, influence in moves.items()}
    for name in names:
        settings: dict[str, Any] = {"item_se": errors[name]}
        if name != "gold" and "gold" in names:
            settings |= {"against": curves["gold"], "against_item_se": errors["gold"]}
            settings["difference_item_se"] = module.item_se(moves["gold"] - moves[name], texts.clusters)
        plateau = load_metric("learning_plateau").compute(sizes=sizes, scores=curves[name], delta=DELTA, **settings)
        record = {"variant": name, "figure": "macro_f1", "n": len(texts.rows), "item_se": errors[name]}
        yield {**record, "is_interpolated": half not in sizes, **plateau}


def _influence(texts: Texts, variant: tuple[str, int]) -> np.ndarray:
    return np.array(texts.score(variant, return_items=True)["macro_f1_influence"])
