"""The metric modules of `metrics/`, by which figures are computed."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..study import PACKAGE

LEVEL = 0.95  # of all intervals
Predictions = dict[tuple[str, int], np.ndarray]  # by variant and size: class indices of shape (R, n)


def metrics_folder() -> Path:
    """Return the folder of the metric modules: inside the installed package, or next to it in a clone."""
    inside = PACKAGE / "metrics"
    return inside if inside.is_dir() else PACKAGE.parent / "metrics"


@cache
def load_metric(name: str) -> Any:
    """Return a metric module."""
    import evaluate

    return evaluate.load(str(metrics_folder() / name), keep_in_memory=True)


def compare(first: np.ndarray, second: np.ndarray, gold: np.ndarray, num_classes: int, **options: Any) -> Any:
    """Return what `instability_comparison` computes of two variants' labels, of shape `(R, n)` each."""
    metric = load_metric("instability_comparison")
    return metric.compute(predictions1=first, predictions2=second, references=gold, num_classes=num_classes, **options)


def difference(comparison: dict[str, Any], figure: str) -> dict[str, Any]:
    """Return the fields of a `Difference`, by what `compare` returns. The interval is None where R is too small."""
    fields = ("difference", "interval", "p_value", "detectable", "verdict", "seed_se", "item_se")
    values = {field: comparison[f"{figure}_{field}"] for field in fields}
    if np.isnan(values["p_value"]):
        values["interval"] = None
    return {"R": comparison["R"], "n": comparison["n"], **values}
