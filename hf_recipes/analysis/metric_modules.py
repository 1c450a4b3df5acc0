"""Differences between variants by the module `instability_comparison`, and the level of all intervals."""

from typing import Any

import numpy as np

from ..metric_loading import load_metric
from .schema import ErrorVariance

LEVEL = 0.95  # of all intervals


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
