"""The plan: what would run, what is done, and about how long the rest takes. It starts nothing and writes nothing."""

from pathlib import Path
from typing import Any

from .annotate import load_annotations, rows_left
from .arms import build_pool
from .data import load_rows
from .grid import Run, all_runs, check_sizes
from .models import resolve_model
from .recipe import UserError
from .study import Study, read_json
from .train import read_accelerate_config, runs_left

# Rates of the demo's models on two cores without a GPU; a study's own replace them as soon as it has any.
TEXTS_ANNOTATED_PER_SECOND = 15.0
TEXTS_TRAINED_PER_SECOND = 45.0
TEXTS_TESTED_PER_SECOND = 500.0
START_SECONDS = {"annotate": 30, "train": 20, "report": 20}


def make_plan(study: Study) -> list[dict[str, Any]]:
    """The steps with what is left of them.

    Args:
        study (`Study`):
            The study; its folder need not exist.

    Returns:
        `list[dict]`, a step each: `step`, `done`, `total`, `unit`, `seconds` (an estimate for what is left), and
        `measured` (whether the estimate rests on this study's own rates).

    Raises:
        UserError: whatever is wrong with the recipe or its data, before anything has run.
    """
    recipe = study.recipe
    if study.recipe_file.exists():
        study.open()  # is it this recipe's? what exists is not written
    pool, test = load_rows(study, keep=False)
    resolve_model("annotate.model", recipe.annotate.model, recipe.annotate.revision)
    resolve_model("train.encoder", recipe.train.encoder, recipe.train.revision)
    read_accelerate_config(recipe)
    texts = rows_left(study, pool)
    runs = all_runs(recipe)
    try:
        annotations = load_annotations(study, pool)
    except UserError:
        todo = runs
    else:
        check_sizes(recipe, build_pool(pool, annotations, recipe.annotate.calibration))
        todo = runs_left(study)
    reported = not texts and not todo and (study.report / "report.html").exists()
    text_rate, text_measured = _annotation_rate(study)
    run_seconds, run_measured = _run_seconds(study, todo, len(test))
    return [
        {
            **{"step": "annotate", "done": len(pool) - texts, "total": len(pool), "unit": "texts"},
            **{"seconds": texts / text_rate + START_SECONDS["annotate"] if texts else 0, "measured": text_measured},
        },
        {
            **{
                "step": "variants",
                "done": len(recipe.grid.arms) * study.dataset.exists(),
                "total": len(recipe.grid.arms),
            },
            **{"unit": "configs", "seconds": 0, "measured": True},
        },
        {
            **{"step": "train", "done": len(runs) - len(todo), "total": len(runs), "unit": "runs"},
            **{"seconds": run_seconds + START_SECONDS["train"] if todo else 0, "measured": run_measured},
        },
        {
            **{"step": "measure, report", "done": int(reported), "total": 1, "unit": "report"},
            **{"seconds": 0 if reported else START_SECONDS["report"], "measured": False},
        },
    ]


def _annotation_rate(study: Study) -> tuple[float, bool]:
    sessions = [read_json(path)["last_session"] for path in study.annotations_root.glob("*/manifest.json")]
    rates = [s["texts"] / s["seconds"] for s in sessions if s["texts"] and s["seconds"]]
    return (max(rates), True) if rates else (TEXTS_ANNOTATED_PER_SECOND, False)


def _run_seconds(study: Study, todo: list[Run], test_size: int) -> tuple[float, bool]:
    epochs = study.recipe.train.epochs

    def guess(size: int) -> float:
        return size * epochs / TEXTS_TRAINED_PER_SECOND + test_size / TEXTS_TESTED_PER_SECOND

    records = [read_json(path) for path in Path(study.root, "runs").glob("*/*/*/run.json")]
    slower = sum(r["seconds"] for r in records) / sum(guess(r["size"]) for r in records) if records else 1.0
    return slower * sum(guess(run.size) for run in todo), bool(records)


def print_plan(study: Study) -> None:
    """Prints the plan as a table."""
    from rich.console import Console
    from rich.table import Table

    steps = make_plan(study)
    recipe = study.recipe
    table = Table(title=f"{recipe.name} in {study.root}")
    for column in ("step", "done", "left", "about"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for step in steps:
        left = step["total"] - step["done"]
        about = "-" if not step["seconds"] else f"{step['seconds'] / 60:.1f} min" + ("" if step["measured"] else " ?")
        table.add_row(step["step"], f"{step['done']:,}", f"{left:,} {step['unit']}", about)
    console = Console(highlight=False, markup=False)
    console.print(table)
    grid = recipe.grid
    console.print(
        f"{len(grid.arms)} arms ({', '.join(grid.arms)}) x sizes {grid.sizes} x seeds {grid.seeds}; "
        f"{recipe.annotate.model} labels, {recipe.train.encoder} learns."
    )
    console.print("Times with ? are guesses from the demo's models on two cores, not measured in this study.")
