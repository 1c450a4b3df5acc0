"""Measure a visitor's predictions with the metric modules of this project."""

import importlib
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import limited
import numpy as np
from uploads import Runs, UploadError

HERE = Path(__file__).parent
METRICS = HERE / "metrics" if (HERE / "metrics").is_dir() else HERE.parent / "metrics"  # in a Space, or in a clone
MAX_LISTED = 100  # texts on which runs differ
_LOCK = threading.Lock()


def metric(name: str) -> Any:
    """Return the function of a metric module, which is imported as plain Python at the first call."""
    return getattr(_module(name), name)


def _module(name: str) -> ModuleType:
    with _LOCK:
        if (module := f"{name}.{name}") in sys.modules:
            return sys.modules[module]
        # `evaluate` imports transformers, and with it torch, if they are installed. Nothing here needs them.
        hidden = "transformers" not in sys.modules
        if hidden:
            sys.modules["transformers"] = None  # type: ignore[assignment]
        sys.path.insert(0, str(METRICS))
        try:
            return importlib.import_module(module)
        finally:
            sys.path.remove(str(METRICS))
            if hidden:
                del sys.modules["transformers"]


def warm_up() -> None:
    """Start the process that reads, and import the modules. That takes seconds, and no visitor waits for it."""
    limited.start()
    for name in ("seed_instability", "seed_scores", "seed_divergence", "instability_comparison"):
        _module(name)


FIGURES = {
    "seed_scores": ("accuracy_mean", "macro_f1_mean", "accuracy_sd", "macro_f1_sd"),
    "seed_instability": ("pairwise_disagreement", "krippendorff_alpha", "gwet_ac1", "unanimity", "vote_entropy"),
    "seed_divergence": ("js_divergence", "total_variation", "accuracy_gain", "nll_gain"),
}


def measure(runs: Runs) -> dict[str, Any]:
    """Measure the runs with the metric modules.

    Returns:
        `dict` with `R`, `n`, `classes`, `ignored` (columns that are not runs), `differing` (the number of texts on
        which runs differ), `rows` (the first of these texts), `figures` (a list of `metric`, `figure`, `value`,
        `interval`) and `full`, all that each module returned.

    Raises:
        UploadError: a module refuses it.
    """
    count = len(runs.classes)
    try:
        full = {
            "seed_instability": metric("seed_instability")(
                runs.labels, runs.gold, num_classes=count, return_items=True
            ),
        }
        if runs.gold is not None:
            full["seed_scores"] = metric("seed_scores")(runs.labels, runs.gold, num_classes=count)
        if runs.probs is not None:
            full["seed_divergence"] = metric("seed_divergence")(runs.probs, runs.gold)
    except ValueError as error:
        raise UploadError(f"{error}."[:400]) from None
    full = without_nan(full)
    figures = []
    for module, names in FIGURES.items():
        result = full.get(module, {})
        figures += [
            {
                "metric": module,
                "figure": name,
                "value": result[name],
                "interval": whole_interval(result.get(f"{name}_interval")),
            }
            for name in names
            if name in result
        ]
    return {
        "R": len(runs.labels),
        "n": runs.labels.shape[1],
        "classes": runs.classes,
        "ignored": list(runs.ignored),
        "differing": sum(share > 0 for share in full["seed_instability"]["item_disagreement"]),
        "rows": _differing(runs, full["seed_instability"]["item_disagreement"]),
        "figures": figures,
        "full": full,
    }


def _differing(runs: Runs, disagreement: list[float]) -> list[dict[str, Any]]:
    """Return the texts on which runs differ, most disagreement first."""
    order = sorted((i for i, share in enumerate(disagreement) if share > 0), key=lambda i: -disagreement[i])
    return [
        {
            "row": i + 1,
            "text": "" if runs.texts is None else str(runs.texts[i])[:300],
            "gold": None if runs.gold is None else runs.classes[runs.gold[i]],
            "labels": [runs.classes[label] for label in runs.labels[:, i]],
            "disagreement": disagreement[i],
        }
        for i in order[:MAX_LISTED]
    ]


def whole_interval(bounds: list[float | None] | None) -> list[float] | None:
    """Return an interval; None if an end is undefined."""
    return None if bounds is None or None in bounds else bounds  # type: ignore[return-value]


def without_nan(value: Any) -> Any:
    """Replace nan and infinity by None, because JSON has neither."""
    if isinstance(value, dict):
        return {str(key): without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
