"""Results: every figure of the report, computed from the stored predictions through the modules in `metrics/`."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy import stats

from .data import Rows
from .grid import all_runs
from .recipe import UserError
from .study import Study, hash_files, hash_ids, make_key, read_json, write_json
from .train import Work

LEVEL = 0.95
MIN_RUNS = 3  # with two runs the interval leaves out a true zero more often than it says
SCORES = ("accuracy", "macro_f1")
#: Which arm is set against which: the cost of LLM labels, what each mitigation buys, and whether more than its control.
PAIRS = (
    ("llm", "gold"),
    ("llm-entropy-replace", "llm"),
    ("llm-random-replace", "llm"),
    ("llm-entropy-replace", "llm-random-replace"),
)


def metrics_folder() -> Path:
    """Where the metric modules lie: inside the installed package, or beside it in a clone."""
    inside = Path(__file__).parent / "metrics"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "metrics"


def measure(study: Study) -> dict[str, Any]:
    """Computes `report/results.json` if the runs behind it have changed.

    Args:
        study (`Study`):
            A study whose runs are all trained.

    Returns:
        `dict`: the results; docs/CONTRACT.md names every field.

    Raises:
        UserError: runs are missing.
    """
    work = Work(study)
    runs = all_runs(study.grid)
    missing = [run for run in runs if not work.is_done(run)]
    if missing:
        raise UserError(
            f"{study.root}: {len(missing)} of {len(runs)} runs are not trained (the first: {missing[0]}); "
            "run hf-recipes train first"
        )
    with study.lock():
        results = read_json(study.results_file)
        if results and results["key"] == _results_key(study, work):
            return results
        arms = _measure_arms(study, work)
        results = {
            "key": _results_key(study, work),
            "study": study.recipe.name,
            "label_names": work.test.label_names,
            "seeds": study.grid.seeds,
            "R": len(study.grid.seeds),
            "n": len(work.test),
            "confidence_level": LEVEL,
            "annotator": _measure_annotator(study, work),
            "arms": [{k: v for k, v in arm.items() if k not in _ITEMS} for arm in arms],
            "comparisons": list(_compare(arms)),
            "notes": _notes(work),
        }
        study.report.mkdir(parents=True, exist_ok=True)
        write_json(study.results_file, without_nan(results))
    return read_json(study.results_file)


def is_measured(study: Study) -> bool:
    """Whether the results of a trained study are there and up to date."""
    results = read_json(study.results_file)
    return results is not None and results["key"] == _results_key(study, Work(study))


def _results_key(study: Study, work: Work) -> str:
    pool = zip(work.pool.ids, work.pool.gold, work.pool.llm, strict=True)
    return make_key(
        study=study.recipe.name,
        runs={str(run): work.key(run) for run in all_runs(study.grid)},
        pool=hash_ids(f"{i} {gold} {llm}" for i, gold, llm in pool),
        annotations=[one.key for one in work.annotations],
        calibration=[one.section.calibration for one in work.annotations],
        status=work.annotations[0].status,
        notes=_notes(work),
        code=[hash_files(metrics_folder(), ("*.py",)), hash_files(Path(__file__))],
    )


_ITEMS = ("accuracy_influence", "macro_f1_influence", "item_disagreement")


def _measure_arms(study: Study, work: Work) -> list[dict[str, Any]]:
    """Scores and instability of each arm at each size, with the per-item figures that comparisons need."""
    import evaluate

    scores = evaluate.load(str(metrics_folder() / "seed_scores"), keep_in_memory=True)
    instability = evaluate.load(str(metrics_folder() / "seed_instability"), keep_in_memory=True)
    test, grid = work.test, study.grid
    names = test.label_names
    spent = _demonstrations(study, work) + work.pool.calibration_gold
    measured = []
    for size in grid.sizes:
        for arm in grid.arms:
            folders = [study.run(arm, size, seed) for seed in grid.seeds]
            predictions = np.stack([_read_predictions(folder, test) for folder in folders])
            records = [read_json(folder / "run.json") for folder in folders]
            stable = instability.compute(predictions=predictions, references=test.gold, return_items=True)
            for field in ("per_class_disagreement", "per_class_n"):
                stable[field] = {names[k]: value for k, value in stable[field].items()}
            measured.append(
                {
                    "arm": arm,
                    "size": size,
                    "gold_train_labels": [record["gold_train_labels"] for record in records],
                    "gold_prompt_labels": 0 if arm == "gold" else spent,
                    "train_label_accuracy": [record["train_label_accuracy"] for record in records],
                    **scores.compute(
                        predictions=predictions, references=test.gold, num_classes=len(names), return_items=True
                    ),
                    **stable,
                }
            )
    return measured


def _demonstrations(study: Study, work: Work) -> int:
    """How many texts were shown with their labels."""
    manifest = read_json(study.annotations(work.annotations[0].key) / "manifest.json")
    return len(manifest["ingredients"]["shown"])


def _read_predictions(folder: Path, test: Rows) -> np.ndarray:
    table = pq.read_table(folder / "predictions.parquet")
    if table["id"].to_pylist() != test.ids:
        raise UserError(
            f"{folder}/predictions.parquet: not the test rows of this study; delete the folder and run again"
        )
    return np.array(table["probs"].to_pylist()).argmax(axis=1)


def _measure_annotator(study: Study, work: Work) -> dict[str, Any]:
    """The LLM against gold on the pool, and whether its entropy points at its errors."""
    from sklearn.metrics import f1_score, recall_score, roc_auc_score

    pool, status = work.pool, work.annotations[0].status
    wrong = pool.llm != pool.gold
    right = stats.binomtest(int((~wrong).sum()), len(wrong))
    interval = right.proportion_ci(LEVEL, method="wilson")
    classes = np.arange(len(pool.label_names))
    recall = recall_score(pool.gold, pool.llm, labels=classes, average=None, zero_division=0)
    return {
        "model": study.recipe.annotate.model,
        "calibration": pool.calibrations[0].method,
        "demonstrations": _demonstrations(study, work),
        "calibration_gold": pool.calibration_gold,
        "n": len(pool.ids),
        "accuracy": float(right.statistic),
        "accuracy_interval": [float(interval.low), float(interval.high)],
        "majority_accuracy": float(np.bincount(pool.gold).max() / len(wrong)),
        "macro_f1": float(f1_score(pool.gold, pool.llm, labels=classes, average="macro", zero_division=0)),
        "recall": dict(zip(pool.label_names, recall.tolist(), strict=True)),
        "gold_share": dict(
            zip(pool.label_names, (np.bincount(pool.gold, minlength=len(classes)) / len(wrong)).tolist(), strict=True)
        ),
        "llm_share": dict(
            zip(pool.label_names, (np.bincount(pool.llm, minlength=len(classes)) / len(wrong)).tolist(), strict=True)
        ),
        "entropy_auroc": float(roc_auc_score(wrong, pool.entropy)) if 0 < wrong.sum() < len(wrong) else None,
        "covered": float(pool.covered.mean()),
        "status": {name: status.count(name) for name in sorted(set(status))},
        "truncated": int(work.annotations[0].truncated.sum()),
    }


def _compare(arms: list[dict[str, Any]]) -> Any:
    """Paired differences of two arms at one size: same seeds, same training rows, same test items."""
    by_name = {(arm["arm"], arm["size"]): arm for arm in arms}
    for size in dict.fromkeys(arm["size"] for arm in arms):
        for one, other in PAIRS:
            if (one, size) not in by_name or (other, size) not in by_name:
                continue
            a, b = by_name[one, size], by_name[other, size]
            runs, items = a["R"], a["n"]
            for score in SCORES:
                per_run = np.subtract(a[f"{score}_runs"], b[f"{score}_runs"])
                over_items = np.square(np.subtract(a[f"{score}_influence"], b[f"{score}_influence"])).sum()
                yield {
                    **{"size": size, "arm": one, "against": other, "figure": score, "R": runs, "n": items},
                    **_difference(per_run.mean(), per_run.var(ddof=1) / runs, over_items, runs),
                }
            per_item = np.subtract(a["item_disagreement"], b["item_disagreement"])
            without = np.subtract(a["leave_one_out"], b["leave_one_out"])
            yield {
                **{
                    "size": size,
                    "arm": one,
                    "against": other,
                    "figure": "pairwise_disagreement",
                    "R": runs,
                    "n": items,
                },
                **_difference(
                    per_item.mean(),
                    (runs - 1) / runs * np.square(without - without.mean()).sum(),
                    per_item.var(ddof=1) / items,
                    runs,
                ),
            }


def _difference(mean: float, over_runs: float, over_items: float, runs: int) -> dict[str, Any]:
    """A paired difference with its t interval over runs and items: their variances added, as in `seed_scores`.

    The runs' part of a score is the variance of its paired differences over R; that of the disagreement a jackknife
    over seeds. `verdict` is `higher` or `lower` if the interval leaves out 0, else `cannot tell`.
    """
    variance = over_runs + over_items
    if runs < MIN_RUNS or not np.isfinite(variance):
        return {"difference": float(mean), "interval": None, "verdict": "cannot tell"}
    half = 0.0
    if variance > 0:
        freedom = (runs - 1) * variance / over_runs if over_runs else np.inf
        half = float(stats.t.ppf(0.5 + LEVEL / 2, freedom) * np.sqrt(variance))
    low, high = max(float(mean) - half, -1.0), min(float(mean) + half, 1.0)
    verdict = "higher" if low > 0 else "lower" if high < 0 else "cannot tell"
    return {"difference": float(mean), "interval": [low, high], "verdict": verdict}


def without_nan(value: Any) -> Any:
    """JSON has neither nan nor infinity: what is not defined becomes null."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _notes(work: Work) -> list[str]:
    shared = len(set(work.pool.texts) & set(work.test.texts))
    if not shared:
        return work.notes
    return [
        *work.notes,
        f"{shared} texts stand both in the training pool and in the test split: scores may be too good.",
    ]
