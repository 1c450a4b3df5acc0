"""Load the metric modules of `metrics/`, by which figures are computed."""

from functools import cache
from pathlib import Path
from typing import Any

from .study import PACKAGE


def metrics_folder() -> Path:
    """Return the folder of the metric modules: inside the installed package, or next to it in a clone."""
    inside = PACKAGE / "metrics"
    return inside if inside.is_dir() else PACKAGE.parent / "metrics"


@cache
def load_metric(name: str) -> Any:
    """Return a metric module."""
    import evaluate

    return evaluate.load(str(metrics_folder() / name), keep_in_memory=True)
