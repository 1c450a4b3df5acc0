"""The plan: what would run, what is done, and about how long the rest takes. It starts nothing and writes nothing."""

from pathlib import Path
from typing import Any

from .annotate import rows_left
from .data import RowFiles, open_rows, usable_at_most
from .grid import Run, all_runs, check_sizes
from .measure import is_measured
from .recipe import CONFIDENT
from .study import Study, read_json
from .train import FOLDS, check_training, failed_runs, other_runs, read_accelerate_config, runs_left
from .variants import is_written

# Rates of the demo's models on two cores without a GPU; a study's own replace them as soon as it has any.
TEXTS_ANNOTATED_PER_SECOND = 15.0
TEXTS_TRAINED_PER_SECOND = 45.0
TEXTS_TESTED_PER_SECOND = 500.0
START_SECONDS = {"annotate": 30, "train": 20, "report": 20}


def make_plan(study: Study, rates_of: Study | None = None) -> tuple[list[dict[str, Any]], list[str]]:
    """The steps with what is left of them.

    Args:
        study (`Study`):
            The study; its folder need not exist.
        rates_of (`Study`, *optional*):
            A study on the same machine with the same models, whose rates are taken. By default the study's own.

    Returns:
        `tuple[list[dict], list[str]]`: the steps, and doubts about the sizes in words. A step has `step`, `done`,
        `total`, `unit`, `seconds` (an estimate for what is left), and `measured` (whether that rests on this study's
        own rates).

    Raises:
        UserError: whatever is wrong with the recipe or its data, before anything has run.
    """
    recipe = study.recipe
    files = open_rows(study)
    notes = []
    if recipe.grid:
        check_training(study, weights=False)
        notes = check_sizes(recipe.grid, usable_at_most(recipe, files))
    texts, total = (
        rows_left(study, files),
        len(files) * len(recipe.annotate.all_passes()) + files.manifest["rows"]["test"],
    )
    unlabelled = bool(texts and rows_left(study, files, with_test=False))
    variants = bool(not unlabelled and is_written(study))
    text_rate, text_measured = _annotation_rate(rates_of or study)
    arms = len(set(recipe.grid.arms) - set(CONFIDENT)) if recipe.grid else 1
    steps = [
        {
            **{"step": "annotate", "done": total - texts, "total": total, "unit": "texts"},
            **{"seconds": texts / text_rate + START_SECONDS["annotate"] if texts else 0, "measured": text_measured},
        },
        {
            **{"step": "variants", "done": arms * variants, "total": arms, "unit": "configs"},
            **{"seconds": 0, "measured": True},
        },
    ]
    return (steps + _training_steps(study, rates_of or study, unlabelled, files) if recipe.grid else steps), notes


def _training_steps(study: Study, rates_of: Study, unlabelled: bool, files: RowFiles) -> list[dict[str, Any]]:
    runs = all_runs(study.grid)
    todo, reported = runs, False
    if not unlabelled:
        todo = runs_left(study)
        reported = not todo and is_measured(study) and (study.report / "report.html").exists()
    run_seconds, run_measured = _run_seconds(rates_of, todo, files.manifest["rows"]["test"])
    return [
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
    train = study.training

    def guess(arm: str, size: int) -> float:
        texts = train.max_steps * train.batch_size if train.max_steps else size * train.epochs
        fits = FOLDS if arm == CONFIDENT[0] else 1  # of four folds each leaves a quarter out: as much as three more
        return fits * texts / TEXTS_TRAINED_PER_SECOND + test_size / TEXTS_TESTED_PER_SECOND

    records = [read_json(path) for path in Path(study.root, "runs").glob("*/*/*/run.json")]
    slower = sum(r["seconds"] for r in records) / sum(guess(r["arm"], r["size"]) for r in records) if records else 1.0
    config = read_accelerate_config(train)
    at_once = config["num_processes"] if train.distribute == "runs" else 1
    return slower * sum(guess(run.arm, run.size) for run in todo) / at_once, bool(records)


def print_plan(study: Study) -> None:
    """Prints the plan as a table."""
    from rich.console import Console
    from rich.table import Table

    steps, notes = make_plan(study)
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
    if recipe.grid and recipe.train:
        grid = recipe.grid
        console.print(
            f"{len(grid.arms)} arms ({', '.join(grid.arms)}) x sizes {grid.sizes} x seeds {grid.seeds}; "
            f"{recipe.annotate.model} labels, {recipe.train.encoder} learns."
        )
    for note in notes:
        console.print(note)
    if recipe.grid and steps[0]["done"] == steps[0]["total"]:
        for run, error in failed_runs(study).items():
            console.print(f"failed: {run}: {error} (hf-recipes train --retry-failed tries it again)")
    if recipe.grid and (others := other_runs(study)):
        console.print(others)
    if any(step["seconds"] and not step["measured"] for step in steps):
        console.print("Times with ? are guesses from the demo's models on two cores, not measured in this study.")
