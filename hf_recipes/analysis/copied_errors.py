"""Errors that the LLM and the classifiers share: which of the LLM's errors classifiers copy."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..labels.votes import NO_VOTE
from ..metric_loading import load_metric
from ..variants import VARIANTS
from .metric_modules import difference
from .texts import Texts, compare

#: Variants all of whose labels are the first pass's: their classifiers may copy the LLM's errors. Classifiers on gold,
#: and on gold made wrong at random with the LLM's confusion matrix, show how many they would repeat in any case.
COPYING = ("gold", "noise-fixed", *(variant.name for variant in VARIANTS.values() if variant.labels == "llm"))


def error_cells(teacher: np.ndarray, texts: Texts) -> Iterator[dict[str, Any]]:
    """Yield how the LLM's errors pass to classifiers: LLM right or wrong x classifier equal or not, by test text.

    Intervals of shares are those of a mean accuracy in `seed_scores`, over runs and texts; None where nothing varies.
    Differences are paired by text.

    Args:
        teacher (`np.ndarray` of shape `(n,)`):
            The LLM's labels; texts with `NO_VOTE` do not count.
        texts (`Texts`):
            The test texts with gold.
    """
    places = np.flatnonzero(teacher != NO_VOTE)
    if len(places) < 2:
        return
    texts, teacher, num_classes = texts.take(places), teacher[places], texts.num_classes
    gold, predictions = texts.rows.gold, texts.labels
    is_wrong = teacher != gold
    has_wrong = is_wrong.sum() > 1
    teacher_scores = load_metric("annotation_uncertainty").compute(
        predictions=np.eye(num_classes)[teacher], references=gold, clusters=texts.clusters
    )

    def share(name: str, labels: np.ndarray, references: np.ndarray, clusters: np.ndarray) -> dict[str, Any]:
        """Return how often labels of shape `(R, n)` equal the references of shape `(n,)`."""
        if len(references) < 2:
            return {name: None, f"{name}_interval": None}
        scores = load_metric("seed_scores").compute(
            predictions=labels, references=references, num_classes=num_classes, clusters=clusters
        )
        low, high = scores["accuracy_mean_interval"]
        return {name: scores["accuracy_mean"], f"{name}_interval": [low, high] if low < high else None}

    def gain(
        labels: np.ndarray, baseline: np.ndarray, where: np.ndarray, references: np.ndarray, paired: bool = False
    ) -> dict[str, Any]:
        """Return how much more often labels equal the references than those of a baseline, on some texts."""
        comparison = compare(
            labels[:, where], baseline[:, where], references[where], texts.clusters[where], paired=paired
        )
        return difference(comparison, "accuracy")

    every = np.ones(len(places), dtype=bool)

    for variant, size in predictions:
        if variant not in COPYING:
            continue
        labels = predictions[variant, size]
        is_same = labels == teacher
        cells = {
            "right_same": ~is_wrong & is_same,
            "right_other": ~is_wrong & ~is_same,
            "wrong_same": is_wrong & is_same,
            "wrong_other": is_wrong & ~is_same,
        }
        record = {
            "variant": variant,
            "size": size,
            "R": len(labels),
            "n": len(places),
            "n_wrong": int(is_wrong.sum()),
            "teacher_accuracy": teacher_scores["accuracy"],
            "teacher_accuracy_interval": teacher_scores["accuracy_interval"],
        }
        for name, is_in_cell in cells.items():
            record |= share(name, is_in_cell * 1, np.ones(len(places), int), texts.clusters)
        record |= share("agreement", labels, teacher, texts.clusters) | share("accuracy", labels, gold, texts.clusters)
        record |= share("copied", labels[:, is_wrong], teacher[is_wrong], texts.clusters[is_wrong])

        # Against gold and random errors of this size, and against this variant at the next smaller size.
        record |= {"copied_above_gold": None, "copied_above_noise": None, "since": None}
        for field, baseline in (("copied_above_gold", "gold"), ("copied_above_noise", "noise-fixed")):
            if variant not in ("gold", "noise-fixed") and (baseline, size) in predictions and has_wrong:
                record[field] = gain(labels, predictions[baseline, size], is_wrong, teacher)
        smaller = [other for name, other in predictions if name == variant and other < size]
        if smaller:
            before = predictions[variant, max(smaller)]
            record["since"] = {
                "size": max(smaller),
                # The smaller subset is part of the larger one.
                "agreement": gain(labels, before, every, teacher, paired=True),
                "accuracy": gain(labels, before, every, gold, paired=True),
                "copied": gain(labels, before, is_wrong, teacher, paired=True) if has_wrong else None,
            }
        yield record
