"""Advice before the hours are spent: a pilot, and from it what the whole study costs and whether it would decide."""

import json
from typing import Any

import numpy as np
from scipy import stats

from .data import RowFiles, open_rows, usable_at_most
from .findings import number
from .measure import measure
from .plan import Step, make_plan
from .recipe import UserError
from .study import Study
from .verdict import freedom

SEEDS = 4
LEAST_SEEDS = 3
SHRINK = 4  # the pilot's largest size is that part of the study's


def pilot_settings(study: Study) -> list[str]:
    """What makes a pilot of a recipe, as settings of the command line.

    Gold and LLM labels, few seeds, two small sizes, as few texts as these want; in a folder of its own, as its runs are
    not to be pooled with those that test what it suggested.

    Raises:
        UserError: the recipe has fewer than three seeds, or no gold labels to train a pilot on.
    """
    recipe, grid, train = study.recipe, study.grid, study.training
    if recipe.few_gold:
        raise UserError("data.label_column is null: a pilot sets LLM labels against gold labels, and there are none")
    if len(grid.seeds) < LEAST_SEEDS:
        raise UserError(f"grid.seeds: a pilot wants {LEAST_SEEDS} seeds or more, as fewer give no intervals")
    top = max(4, grid.sizes[-1] // SHRINK)
    files = open_rows(study)
    spent = len(files) - usable_at_most(recipe, files)
    wanted = 2 * top + spent + train.validation_size + recipe.annotate.calibration_rows
    seeds = grid.seeds[:SEEDS]
    passes = recipe.annotate.passes[: len(seeds) - 1] if "pass" in grid.vary else []
    return [
        f"--name={recipe.name}-pilot",
        f"--output_dir={study.root}-pilot",
        f"--data.pool_size={min(wanted, len(files))}",
        f"--annotate.passes={json.dumps(passes)}",
        f"--grid.seeds={seeds}",
        f"--grid.sizes={[max(2, top // 2), top]}",
        "--grid.arms=[gold, llm]",
        "--grid.curves=null",
        "--grid.crossed=null",
    ]


def chances(comparison: dict[str, Any], value: float, limit: float, runs: int, items: int) -> dict[str, float]:
    """How likely a study decides whether a difference keeps below a limit, by the pilot's standard errors.

    Args:
        comparison (`dict`):
            Of the pilot: `seed_se`, `item_se`, `R`, `n`.
        value (`float`):
            The true difference.
        limit (`float`):
            What it has to keep below.
        runs (`int`), items (`int`):
            Of the study.

    Returns:
        `dict` with `se`, the study's standard error, and the probabilities `holds` and `fails` that its 95% interval
        (by t, as in the metric modules) lies below, or above, the limit.
    """
    seed = comparison["seed_se"] * (comparison["R"] / runs) ** 0.5
    item = comparison["item_se"] * (comparison["n"] / items) ** 0.5
    se, degrees = float(np.hypot(seed, item)), freedom(seed, item, runs)
    if se == 0:
        return {"se": 0.0, "holds": float(value < limit), "fails": float(value > limit)}
    needed = stats.t.ppf(0.975, degrees)
    degrees = min(degrees, 1e6)  # the noncentral t has no limit
    holds, fails = (float(stats.nct.sf(needed, degrees, distance / se)) for distance in (limit - value, value - limit))
    return {"se": se, "holds": holds, "fails": fails}


def print_advice(study: Study, pilot: Study) -> None:
    """Prints what the whole study would cost, and its chances by the limits of `accept`."""
    from rich.console import Console

    console = Console(width=None if Console().is_terminal else 120, markup=False, highlight=False)
    files, results = open_rows(study), measure(pilot)
    steps, _ = make_plan(study, pilot)
    for line in _advice(study, files, results, steps):
        console.print(line)


def _advice(study: Study, files: RowFiles, results: dict[str, Any], steps: list[Step]) -> list[str]:
    grid, accept = study.grid, study.recipe.accept
    runs, items = len(grid.seeds), files.manifest["rows"]["test"]
    minutes = {step.name: step.seconds / 60 for step in steps}
    top = max(arm["size"] for arm in results["arms"])
    unlearnt = [arm["arm"] for arm in results["arms"] if arm["size"] == top and arm["unlearnt_runs"]]
    found = {c["figure"]: c for c in results["comparisons"] if c["arm"] == "llm" and c["size"] == top}
    lines = [
        f"What is left of the whole study: about {sum(minutes.values()):,.0f} minutes at the pilot's rates, of which "
        f"annotation {minutes['annotate']:,.0f} and training {minutes['train']:,.0f}.",
        f"Its chances, with R = {runs} and {items:,} test texts, by the pilot's standard errors (R = {results['R']}, "
        f"n = {results['n']:,}, {top:,} training texts):",
    ]
    if unlearnt:
        return [
            lines[0],
            f"Its chances cannot be told: at {top:,} training texts some runs with {' and '.join(unlearnt)} labels "
            "learnt nothing. Raise grid.sizes or train.epochs.",
        ]
    cases = (
        ("macro_f1", accept.macro_f1_loss, "macro-F1 lost", -1),
        ("pairwise_disagreement", accept.churn, "churn", 1),
    )
    for figure, limit, name, sign in cases:
        value = sign * found[figure]["difference"]
        none, same = (chances(found[figure], truth, limit, runs, items) for truth in (0.0, value))
        lines.append(
            f"* {name}, at most {number(limit)}: if there is none, {none['holds']:.0%} to show that the limit holds; "
            f"if it is the pilot's {number(value)}, {same['holds']:.0%} to show that it holds and {same['fails']:.0%} "
            "that it fails."
        )
    return lines
