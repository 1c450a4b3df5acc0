"""Predict from a pilot what the whole study costs, and how likely its verdict is decided."""

import json

import numpy as np

from .analysis.metric_modules import LEVEL, error_variance
from .analysis.schema import Comparison, Results
from .analysis.verdict import NUM_LIMITS
from .data import NO_GOLD, RowFiles, count_usable, draw_order, open_rows, strings
from .errors import UserError
from .plan import Step, make_plan
from .report.first_screen.numbers import number
from .study import Study

MAX_SEEDS, MIN_SEEDS = 4, 3
SIZE_RATIO = 4  # of the study's largest size to the pilot's
MIN_TOP = 50  # training texts, from which small encoders begin to learn (docs/dev/LOG.md)


def pilot_settings(study: Study) -> list[str]:
    """Return the settings, as on the command line, that make a pilot of a recipe.

    A pilot has the variants gold and llm, few seeds, two small sizes and few texts: as many as its runs require, and as
    the few-shot examples of the rarest class. Its folder is another one, as its
    runs must not be pooled with those that test what it suggested.

    Raises:
        UserError: the recipe has too few seeds or training texts, or no gold labels.
    """
    recipe, grid = study.recipe, study.grid
    if recipe.few_gold:
        raise UserError("`data.label_column` must not be null: a pilot compares LLM labels with gold labels.")
    if len(grid.seeds) < MIN_SEEDS:
        raise UserError(f"`grid.seeds` must have at least {MIN_SEEDS} seeds. Got {len(grid.seeds)}.")
    top = grid.sizes[-1] // SIZE_RATIO
    if top < MIN_TOP:
        raise UserError(
            f"`grid.sizes` must end with {SIZE_RATIO * MIN_TOP} or more: a pilot trains on a quarter of the largest "
            f"size, and from fewer than {MIN_TOP} texts classifiers rarely learn. Got {grid.sizes[-1]}. The study is "
            "too small for a pilot. Try hf-recipes run."
        )
    files = open_rows(study)
    num_unusable = len(files) - count_usable(recipe, files)
    pool_size = max(2 * top + num_unusable + recipe.annotate.calibration_rows, _count_rows_of_examples(study, files))
    seeds = grid.seeds[:MAX_SEEDS]
    passes = recipe.annotate.passes[: len(seeds) - 1] if "pass" in grid.vary else []
    return [
        f"--name={recipe.name}-pilot",
        f"--output_dir={study.root}-pilot",
        f"--data.pool_size={min(pool_size, len(files))}",
        f"--annotate.passes={json.dumps(passes)}",
        f"--grid.seeds={seeds}",
        f"--grid.sizes={[top // 2, top]}",
        "--grid.variants=[gold, llm]",
        "--grid.curves=null",
        "--grid.crossed=null",
    ]


def _count_rows_of_examples(study: Study, files: RowFiles) -> int:
    """Return the size of the smallest pool that has the few-shot examples of each class."""
    prompts = [section.prompt for section in study.recipe.annotate.all_passes()]
    num_shots = max(prompt.shots_per_class or 0 if prompt else 0 for prompt in prompts)
    has_gold = np.zeros(len(files), dtype=bool)
    has_gold[files.find_gold_rows()] = True
    order = draw_order(strings(files.column("id")), study.recipe.data.seed)
    gold = np.where(has_gold, files.column("gold").to_numpy(), NO_GOLD)[order]
    places = [np.flatnonzero(gold == k)[:num_shots] for k in range(len(files.label_names))]
    return int(np.concatenate(places).max(initial=-1)) + 1


def chances(comparison: Comparison, value: float, limit: float, runs: int, items: int) -> dict[str, float]:
    """Return how likely a study decides whether a difference is below a limit, by the pilot's variances.

    Args:
        comparison (`Comparison`):
            The pilot's.
        value (`float`):
            The true difference.
        limit (`float`):
            The limit.
        runs (`int`), items (`int`):
            Of the study.

    Returns:
        `dict` with `se`, the study's standard error, and the probabilities `holds` and `fails` that its interval is
        below, or above, the limit; see `verdict.decide` for the levels.
    """
    assert comparison.variance is not None  # noqa: S101  (a pilot has three seeds or more)
    variance = error_variance(comparison.variance).scaled(runs=runs / comparison.R, items=items / comparison.n)
    return {
        "se": float(np.sqrt(variance.total)),
        "holds": variance.power(limit - value, LEVEL),
        "fails": variance.power(value - limit, 1 - (1 - LEVEL) / NUM_LIMITS),
    }


def print_advice(study: Study, pilot: Study, results: Results) -> None:
    """Print what the whole study costs, and its chances to decide the limits of `accept`."""
    from rich.console import Console

    console = Console(width=None if Console().is_terminal else 120, markup=False, highlight=False)
    for sentence in _advice(study, open_rows(study), results, make_plan(study, pilot)[0]):
        console.print(sentence)


def _advice(study: Study, files: RowFiles, results: Results, steps: list[Step]) -> list[str]:
    accept, runs, num_test = study.recipe.accept, len(study.grid.seeds), files.manifest["rows"]["test"]
    items = num_test
    if results.out_of_bag and results.out_of_bag.is_used:  # the study has such texts too
        items += min(study.training.out_of_bag, count_usable(study.recipe, files))
    minutes = {step.name: step.seconds / 60 for step in steps}
    top = results.top
    sentences = [
        f"The remaining work takes about {sum(minutes.values()):,.0f} minutes at the pilot's rates: annotation "
        f"{minutes['annotate']:,.0f}, training {minutes.get('train', 0) + minutes['heads, TF-IDF']:,.0f}."
    ]
    at_chance = [name for name, result in results.at_top.items() if not result.above_chance]
    if at_chance:
        return [
            *sentences,
            f"Its chances are unknown: at {top:,} training texts classifiers on {' and '.join(at_chance)} labels are "
            "not better than chance. Raise grid.sizes or train.epochs.",
        ]
    sentences.append(
        f"Its chances with {runs} seeds and {num_test:,} test texts, by the pilot's standard errors ({results.R} "
        f"seeds, {results.n:,} test texts, {top:,} training texts):"
    )
    for name, comparison, sign, limit in (
        ("macro-F1 loss", results.find("llm", "gold", "macro_f1"), -1, accept.macro_f1_loss),
        ("churn", results.find("llm", "gold", "pairwise_disagreement"), 1, accept.churn),
    ):
        if comparison is None:
            continue
        value = sign * comparison.difference
        zero, same = (chances(comparison, truth, limit, runs, items) for truth in (0.0, value))
        sentences.append(
            f"* {name}, limit {number(limit)}: if it is zero, the study shows in {zero['holds']:.0%} of cases that the "
            f"limit holds. If it is the pilot's {number(value)}, it shows in {same['holds']:.0%} that the limit holds "
            f"and in {same['fails']:.0%} that it is exceeded."
        )
    return sentences
