"""Errors that the LLM and the classifiers share: which of the LLM's errors classifiers copy."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..data import Rows
from ..labels.votes import NO_VOTE
from ..variants import VARIANTS
from .metric_modules import Predictions, compare, difference, load_metric

#: Variants all of whose labels are the first pass's, and gold: their classifiers may copy the LLM's errors.
COPYING = ("gold", *(variant.name for variant in VARIANTS.values() if variant.labels == "llm"))


def error_cells(teacher: np.ndarray, predictions: Predictions, test: Rows) -> Iterator[dict[str, Any]]:
    """Yield how the LLM's errors pass to classifiers: LLM right or wrong x classifier equal or not, by test text.

    Intervals of shares are those of a mean accuracy in `seed_scores`, over runs and texts; None where nothing varies.
    Differences are paired by seed and text.

    Args:
        teacher (`np.ndarray` of shape `(n,)`):
            The LLM's labels; texts with `NO_VOTE` do not count.
        predictions (`Predictions`), test (`Rows`):
            The test texts with gold, and the runs' labels of them.
    """
    places = np.flatnonzero(teacher != NO_VOTE)
    if len(places) < 2:
        return
    teacher, gold, num_classes = teacher[places], test.gold[places], len(test.label_names)
    is_wrong = teacher != gold
    has_wrong = is_wrong.sum() > 1
    teacher_scores = load_metric("annotation_uncertainty").compute(
        predictions=np.eye(num_classes)[teacher], references=gold
    )

    def share(name: str, labels: np.ndarray, references: np.ndarray) -> dict[str, Any]:
        """Return how often labels of shape `(R, n)` equal the references of shape `(n,)`."""
        if len(references) < 2:
            return {name: None, f"{name}_interval": None}
        scores = load_metric("seed_scores").compute(predictions=labels, references=references, num_classes=num_classes)
        low, high = scores["accuracy_mean_interval"]
        return {name: scores["accuracy_mean"], f"{name}_interval": [low, high] if low < high else None}

    def gain(labels: np.ndarray, baseline: np.ndarray, references: np.ndarray) -> dict[str, Any]:
        return difference(compare(labels, baseline, references, num_classes), "accuracy")

    for variant, size in predictions:
        if variant not in COPYING:
            continue
        labels = predictions[variant, size][:, places]
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
            record |= share(name, is_in_cell * 1, np.ones(len(places), int))
        record |= share("agreement", labels, teacher) | share("accuracy", labels, gold)
        record |= share("copied", labels[:, is_wrong], teacher[is_wrong])

        # Against gold labels of this size, and against this variant at the next smaller size.
        record |= {"copied_above_gold": None, "since": None}
        if variant != "gold" and ("gold", size) in predictions and has_wrong:
            baseline = predictions["gold", size][:, places]
            record["copied_above_gold"] = gain(labels[:, is_wrong], baseline[:, is_wrong], teacher[is_wrong])
        smaller = [other for name, other in predictions if name == variant and other < size]
        if smaller:
            before = predictions[variant, max(smaller)][:, places]
            record["since"] = {
                "size": max(smaller),
                "agreement": gain(labels, before, teacher),
                "accuracy": gain(labels, before, gold),
                "copied": gain(labels[:, is_wrong], before[:, is_wrong], teacher[is_wrong]) if has_wrong else None,
            }
        yield record
