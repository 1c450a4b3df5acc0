"""The plan: what would run, what is done, and what the rest costs. It starts and writes nothing and asks no server."""

from pathlib import Path
from typing import Any

import numpy as np

from .annotate import Pass, plan_passes, recorded_servers, rows_left, rows_left_of
from .cost import (
    SAMPLE,
    Asking,
    Device,
    Learning,
    annotation_bytes,
    asking,
    config_bytes,
    device,
    line,
    prediction_bytes,
    shape_of,
    this_machine,
)
from .data import RowFiles, open_rows, usable_at_most
from .dataset_folder import DatasetFolder
from .grid import all_runs, check_sizes
from .labels.pool import StudyLabels, read_labels
from .measure import is_measured
from .models import load_tokenizer
from .runs import Runs, check_encoder, check_training, other_runs, read_accelerate_config
from .study import Run, Study, read_json
from .variants import CONFIDENT

START_SECONDS = {"annotate": 30, "train": 20, "report": 20}


def make_plan(
    study: Study, rates_of: Study | None = None, on: str | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """The steps with what is left of them.

    Args:
        study (`Study`):
            The study; its folder need not exist.
        rates_of (`Study`, *optional*):
            A study on the same machine with the same models, whose rates are taken. By default the study's own.
        on (`str`, *optional*):
            A device of `cost.DEVICES` to tell of, by the roofline, in place of this machine.

    Returns:
        `tuple[list[dict], list[str]]`: the steps, and doubts about the sizes in words. A step has `step`, `done`,
        `total`, `unit`, and of what is left `tokens`, `seconds`, `device_seconds` (those of all devices together),
        `bytes` (on the disk), and `measured` (whether the times rest on this study's own rates).

    Raises:
        UserError: whatever is wrong with the recipe or its data, before anything has run.
    """
    recipe = study.recipe
    files = open_rows(study)
    notes = []
    if recipe.grid:
        check_training(study, weights=False)
        notes = check_sizes(recipe.grid, usable_at_most(recipe, files))
    models = {one.model for one in recipe.annotate.all_passes() if one.engine == "server"}
    if models:
        notes = [*notes, _server_note(sorted(models - recorded_servers(study).keys()))]
    texts, total = (
        rows_left(study, files, contact=False),
        len(files) * len(recipe.annotate.all_passes()) + files.manifest["rows"]["test"],
    )
    unlabelled = bool(texts and rows_left(study, files, with_test=False, contact=False))
    labels = None if unlabelled else read_labels(study, files)
    variants = labels is not None and DatasetFolder(study, labels).is_written()
    chosen = device(on) if on else None
    sample = _sample(files)
    classes, text_bytes = len(files.label_names), float(np.mean([len(text.encode()) for text in sample] or [0]))
    tokens, seconds, measured = _annotation(study, rates_of or study, files, sample, chosen) if texts else (0, 0, True)
    arms = len(set(recipe.grid.arms) - set(CONFIDENT)) if recipe.grid else 1
    steps = [
        {
            **{"step": "annotate", "done": total - texts, "total": total, "unit": "texts", "tokens": tokens},
            **{"seconds": seconds + START_SECONDS["annotate"] if texts else 0, "device_seconds": seconds},
            **{"bytes": texts * annotation_bytes(classes), "measured": measured},
        },
        {
            **{"step": "variants", "done": arms * variants, "total": arms, "unit": "configs", "tokens": 0},
            **{"seconds": 0, "device_seconds": 0, "measured": True},
            "bytes": 0 if variants else arms * len(files) * config_bytes(text_bytes, classes),
        },
    ]
    if recipe.grid:
        steps += _training_steps(study, rates_of or study, labels, files, sample, chosen)
    return steps, notes


def _server_note(unknown: list[str]) -> str:
    """State what the plan supposes, as it asks no server."""
    if unknown:
        return f"No server was asked: all texts count as left for {', '.join(unknown)}, as no server has labelled here."
    return "No server was asked: the plan supposes that the servers still run what annotate last found there."


def _sample(files: RowFiles) -> list[str]:
    """Texts from all over the pool; none where they are not here."""
    if files.withheld:
        return []
    places = np.unique(np.linspace(0, len(files) - 1, min(SAMPLE, len(files))).astype(int))
    return [text for text in files.texts(places) if text]


def _annotation(
    study: Study, rates_of: Study, files: RowFiles, sample: list[str], on: Device | None
) -> tuple[float, float, bool]:
    """Tokens and seconds of what is left, and whether the rate is a measured one."""
    tokens = seconds = 0.0
    passes = plan_passes(study, files, contact=False)
    work = [_asking(one, sample) for one in passes]
    rate = None if on else _annotation_rate(rates_of, passes, work)
    for one, asked in zip(passes, work, strict=True):
        left = rows_left_of(study, files, one)
        tokens += asked.tokens(left)
        seconds += asked.flops(left) / rate if rate else asked.seconds(left, on or this_machine(one.section.dtype))
    return tokens, seconds, rate is not None


def _asking(one: Pass, sample: list[str]) -> Asking:
    return asking(one.model, one.section, [ids for ids, _ in one.prompter.encode(sample)])


def _annotation_rate(study: Study, passes: list[Pass], work: list[Asking]) -> float | None:
    """FLOP/s of the sessions with these models; None if there are none."""
    flops = seconds = 0.0
    for manifest in map(read_json, study.annotations_root.glob("*/manifest.json")):
        sessions = manifest.get("all_sessions", manifest["last_session"])
        asked = [w for one, w in zip(passes, work, strict=True) if one.section.model == manifest["model"]]
        if asked and sessions["texts"]:
            flops += asked[0].flops(sessions["texts"])
            seconds += sessions["seconds"] - sessions.get("start_seconds", 0)
    return flops / seconds if seconds else None


def _training_steps(
    study: Study, rates_of: Study, labels: StudyLabels | None, files: RowFiles, sample: list[str], on: Device | None
) -> list[dict[str, Any]]:
    runs, tested = all_runs(study.grid), files.manifest["rows"]["test"]
    todo, failures, reported = runs, {}, False
    if labels is not None:
        study_runs = Runs(study, labels)
        todo = study_runs.left()
        failures = study_runs.failures()
        reported = not todo and is_measured(study, labels, study_runs) and (study.report / "report.html").exists()
    tokens, seconds, measured = _training(study, rates_of, todo, tested, sample, on) if todo else (0, 0, True)
    processes = read_accelerate_config(study.training)["num_processes"]
    return [
        {
            **{"step": "train", "done": len(runs) - len(todo), "total": len(runs), "unit": "runs", "tokens": tokens},
            **{"seconds": seconds / processes + START_SECONDS["train"] if todo else 0, "measured": measured},
            **{"device_seconds": seconds},
            **{"bytes": len(todo) * tested * prediction_bytes(len(files.label_names)), "failures": failures},
        },
        {
            **{"step": "measure, report", "done": int(reported), "total": 1, "unit": "report", "tokens": 0},
            **{"seconds": 0 if reported else START_SECONDS["report"], "device_seconds": 0, "bytes": 0},
            "measured": False,
        },
    ]


def _training(
    study: Study, rates_of: Study, todo: list[Run], tested: int, sample: list[str], on: Device | None
) -> tuple[float, float, bool]:
    """Tokens and seconds of the runs, and whether their rate is a measured one."""
    train, encoder = study.training, check_encoder(study, weights=False)
    tokenizer = load_tokenizer("train.encoder", encoder)
    found = tokenizer(sample, truncation=True, max_length=train.max_length)["input_ids"] if sample else [[]]
    work = Learning(shape_of(encoder), float(np.mean([len(ids) for ids in found])), train)

    def predicted(arm: str, size: int) -> int:
        """Return the texts of a run that pass the encoder forward only: confident learning adds the training set."""
        return tested + size if arm in CONFIDENT else tested

    records = [read_json(path) for path in Path(rates_of.root, "runs").glob("*/*/*/run.json")]
    points = [
        (work.flops(record["size"], predicted(record["arm"], record["size"])), record["seconds"])
        for record in records
        if record["environment"]["encoder"] == encoder.identity
    ]
    shapes = [(run.size, predicted(run.arm, run.size)) for run in todo]
    tokens = sum(work.tokens(*shape) for shape in shapes)
    if points and not on:
        least, each = line(points)
        return tokens, sum(least + work.flops(*shape) * each for shape in shapes), True
    on = on or this_machine("float32" if read_accelerate_config(train)["mixed_precision"] == "no" else "bfloat16")
    return tokens, sum(work.seconds(*shape, on) for shape in shapes), False


def print_plan(study: Study, on: str | None = None) -> None:
    """Prints the plan as a table; see `make_plan`."""
    from rich.console import Console
    from rich.table import Table

    steps, notes = make_plan(study, on=on)
    recipe = study.recipe
    table = Table(title=f"{recipe.name} in {study.root}")
    for column in ("step", "done", "left", "tokens", "about", "device hours", "on disk"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for step in steps:
        left = step["total"] - step["done"]
        about = _time(step["seconds"]) + ("" if step["measured"] or not step["seconds"] else " ?")
        hours = f"{step['device_seconds'] / 3600:,.2f}" if step["device_seconds"] else "-"
        shown = [f"{step['tokens'] / 1e6:,.2f} M" if step["tokens"] else "-", about, hours, _size(step["bytes"])]
        table.add_row(step["step"], f"{step['done']:,}", f"{left:,} {step['unit']}", *shown)
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
    for step in steps:
        for run, error in step.get("failures", {}).items():
            console.print(f"failed: {run}: {error} (hf-recipes train --retry-failed tries it again)")
    if recipe.grid and (others := other_runs(study)):
        console.print(others)
    if any(step["seconds"] and not step["measured"] for step in steps):
        where = f"on {on}, by its data sheet" if on else "here, by a matrix product"
        console.print(f"Times with ? are what the models' sizes let expect {where}: they have not been measured.")


def _time(seconds: float) -> str:
    return "-" if not seconds else f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"


def _size(count: float) -> str:
    return "-" if not count else f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.2f} MB"
