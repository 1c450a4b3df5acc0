"""The metric modules of `metrics/`, by which figures are computed."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Rows
from ..study import PACKAGE
from .schema import ErrorVariance

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


@dataclass(frozen=True)
class Texts:
    """Texts that the runs classified.

    Attributes:
        rows (`Rows`): their ids, gold, groups and class names.
        labels (`Predictions`): the runs' labels of them; -1 where a run trained on a text.
        clusters (`np.ndarray` of shape `(n,)`): the number of each text's document, thread or author.
    """

    rows: Rows
    labels: Predictions
    clusters: np.ndarray

    @property
    def num_classes(self) -> int:
        return len(self.rows.label_names)

    @property
    def top(self) -> int:
        """The largest size; 0 without runs."""
        return max((size for _, size in self.labels), default=0)

    def take(self, places: np.ndarray) -> "Texts":
        """Return some of the texts."""
        labels = {variant_at_size: classes[:, places] for variant_at_size, classes in self.labels.items()}
        clusters = np.unique(self.clusters[places], return_inverse=True)[1]
        return Texts(self.rows.take(places), labels, clusters)

    def compare(self, first: tuple[str, int], second: tuple[str, int], **options: Any) -> Any:
        """Return what `instability_comparison` computes of two variants, each at a size."""
        return compare(self.labels[first], self.labels[second], self.rows.gold, self.clusters, **options)

    def score(self, variant: tuple[str, int], **options: Any) -> Any:
        """Return what `seed_scores` computes of a variant at a size."""
        return load_metric("seed_scores").compute(
            predictions=self.labels[variant],
            references=self.rows.gold,
            num_classes=self.num_classes,
            clusters=clusters_of(self.clusters),
            **options,
        )


def clusters_of(clusters: np.ndarray) -> np.ndarray | None:
    """Return clusters for a metric module, which takes None where each text is one."""
    return None if len(np.unique(clusters)) < 2 else clusters


def compare(first: np.ndarray, second: np.ndarray, gold: np.ndarray, clusters: np.ndarray, **options: Any) -> Any:
    """Return what `instability_comparison` computes of two variants' labels, of shape `(R, n)` each.

    Only texts count that neither run of a seed trained on.
    """
    is_seen = (first >= 0) & (second >= 0)
    return load_metric("instability_comparison").compute(
        predictions1=np.where(is_seen, first, -1),
        predictions2=np.where(is_seen, second, -1),
        references=gold,
        num_classes=int(max(first.max(), second.max(), gold.max())) + 1,
        clusters=clusters_of(clusters),
        **options,
    )


def difference(comparison: dict[str, Any], figure: str) -> dict[str, Any]:
    """Return the fields of a `Difference`, by what `compare` returns. The interval is None where R is too small."""
    fields = ("difference", "interval", "p_value", "detectable", "verdict", "variance")
    values = {field: comparison[f"{figure}_{field}"] for field in fields}
    if np.isnan(values["p_value"]):
        values |= {"interval": None, "variance": None}
    ends = {"first": comparison[f"{figure}_1"], "second": comparison[f"{figure}_2"]}
    return {"R": comparison["R"], "n": comparison["n"], **ends, **values}


def correct(claims: list[dict[str, Any]]) -> None:
    """Correct the p-values of a family of differences for each other (Holm 1979), and set their verdicts by them."""
    p_values = [claim["p_value"] for claim in claims]
    for claim, p_value in zip(claims, load_metric("instability_comparison").holm(p_values), strict=True):
        claim["p_holm"] = float(p_value)
        claim["verdict"] = "inconclusive"
        if p_value < 1 - LEVEL:
            claim["verdict"] = "higher" if claim["difference"] > 0 else "lower"


def error_variance(variance: ErrorVariance) -> Any:
    """Return the `CrossedVariance` of a stored variance: its intervals at any level, and its power."""
    return load_metric("instability_comparison").variance(**variance.model_dump())
