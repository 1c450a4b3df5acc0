"""Write the folder of a trained run; docs/dev/contract.md describes its files."""

import os
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .. import parquet
from ..errors import first_line
from ..labels.rules import Labels
from ..redact import redact
from ..study import Run, Study, write_json
from ..variants import CONFIDENT
from .runs import PREDICTIONS, Runs


def write_run(
    folder: Path,
    runs: Runs,
    run: Run,
    labels: Labels,
    probs: np.ndarray,
    out_of_bag_probs: np.ndarray,
    seconds: float,
    **details: Any,
) -> None:
    """Write what a run predicted and how it was trained into a temporary folder.

    Args:
        folder (`Path`), runs (`Runs`), run (`Run`), labels (`Labels`):
            The folder, all runs, the run, and the labels that it was trained on.
        probs (`np.ndarray` of shape `(n, K)`):
            The probabilities of the test texts.
        out_of_bag_probs (`np.ndarray` of shape `(m, K)`):
            Those of `runs.out_of_bag(run)`.
        seconds (`float`):
            The duration of the training.
        details:
            Further fields of `run.json`.
    """
    parquet.write(folder / "predictions.parquet", _predictions(run, runs.test.ids, runs.test.gold, probs))
    out_of_bag = runs.out_of_bag(run)
    if len(out_of_bag):
        ids = [runs.pool.ids[i] for i in out_of_bag]
        table = _predictions(run, ids, runs.pool.gold[out_of_bag], out_of_bag_probs)
        parquet.write(folder / "out_of_bag.parquet", table)
    dropped = [runs.pool.ids[i] for i in np.setdiff1d(runs.subset(run), labels.rows)]
    write_json(
        folder / "run.json",
        {
            "key": runs.key(run),
            "variant": run.variant,
            "size": run.size,
            "seed": run.name,
            "seeds": {"subset": run.subset_seed, "init": run.init_seed, "order": run.order_seed},
            "annotation_pass": run.annotation_pass,
            "gold_train_labels": labels.gold_labels,
            "gold_validation_labels": runs.gold_validation_labels,
            **({"dropped": dropped} if run.variant in CONFIDENT else {}),
            "train_label_accuracy": labels.accuracy(runs.pool.of_pass(run.annotation_pass)),
            "out_of_bag_texts": len(out_of_bag),
            "environment": runs.environment(run),
            "seconds": round(seconds, 4),
            "load_average": round(os.getloadavg()[0], 1),
            **details,
        },
    )


def write_failure(study: Study, runs: Runs, run: Run, error: Exception) -> None:
    """Record why a run failed. The files of an earlier run remain."""
    study.run(run).mkdir(parents=True, exist_ok=True)
    reason = redact(f"{type(error).__name__}: {first_line(error)}")
    trace = redact("".join(traceback.format_exception(error)))
    write_json(study.run(run) / "failed.json", {"key": runs.key(run), "error": reason, "traceback": trace})


def _predictions(run: Run, ids: list[str], gold: np.ndarray, probs: np.ndarray) -> pa.Table:
    named = pa.array([str(run)] * len(ids), pa.string()).dictionary_encode()
    return pa.table([named, ids, gold, list(probs)], schema=PREDICTIONS)
