"""Predict from a pilot what the whole study costs, and how likely its verdict is decided.

A pilot trains linear heads on frozen features at the study's largest size, which takes seconds. docs/heads.md compares
their results with those of fine-tuned encoders.
"""

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

MAX_PASSES, MIN_SEEDS = 4, 3
#: What heads miss of the LLM - gold differences of fine-tuned encoders, as standard errors, and how many times as wide
#: the intervals of these are (docs/heads.md).
HEADS_ERROR, HEADS_WIDTH = {"macro_f1": 0.063, "pairwise_disagreement": 0.045}, 1.2
NUM_NODES = 41  # of the quadrature over what the truth may be


def pilot_settings(study: Study) -> list[str]:
    """Return the settings, as on the command line, that make a pilot of a recipe.

    A pilot trains heads with the variants gold and llm at the largest size, on few texts: as many as its runs require,
    and as the few-shot examples of the rarest class. Its folder is another one, as the study's pool is larger.

    Raises:
        UserError: the recipe has too few seeds, or no gold labels.
    """
    recipe, grid = study.recipe, study.grid
    if recipe.few_gold:
        raise UserError("`data.label_column` must not be null: a pilot compares LLM labels with gold labels.")
    if len(grid.seeds) < MIN_SEEDS:
        raise UserError(f"`grid.seeds` must have at least {MIN_SEEDS} seeds. Got {len(grid.seeds)}.")
    top, files = grid.sizes[-1], open_rows(study)
    num_unusable = len(files) - count_usable(recipe, files)
    pool_size = max(2 * top + num_unusable + recipe.annotate.calibration_rows, _count_rows_of_examples(study, files))
    # Where seeds vary the pass, each costs labels.
    seeds = grid.seeds[:MAX_PASSES] if "pass" in grid.vary else grid.seeds
    passes = recipe.annotate.passes[: len(seeds) - 1] if "pass" in grid.vary else []
    return [
        f"--name={recipe.name}-pilot",
        f"--output_dir={study.root}-pilot",
        f"--data.pool_size={min(pool_size, len(files))}",
        f"--annotate.passes={json.dumps(passes)}",
        f"--grid.seeds={seeds}",
        f"--grid.sizes={[top]}",
        "--grid.variants=[gold, llm]",
        "--grid.curves=null",
        "--grid.crossed=null",
        "--train.encoder_mode=frozen",
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


def chances(
    comparison: Comparison, value: float, limit: float, runs: int, items: int, error: float = 0.0, width: float = 1.0
) -> dict[str, float]:
    """Return how likely a study decides whether a difference is below a limit, by the pilot's variances.

    Args:
        comparison (`Comparison`):
            The pilot's.
        value (`float`), error (`float`):
            The true difference. With an error it is unknown: it has a normal distribution around `value`.
        limit (`float`):
            The limit.
        runs (`int`), items (`int`):
            Of the study.
        width (`float`):
            The width of the study's intervals / that by the pilot's variances.

    Returns:
        `dict` with `se`, the study's standard error, and the probabilities `holds` and `fails` that its interval is
        below, or above, the limit; see `verdict.decide` for the levels.
    """
    assert comparison.variance is not None  # noqa: S101  (a pilot has three seeds or more)
    variance = error_variance(comparison.variance).scaled(runs=runs / comparison.R, items=items / comparison.n)
    nodes, weights = np.polynomial.hermite_e.hermegauss(NUM_NODES)
    distances, weights = (limit - value - error * nodes) / width, weights / weights.sum()
    holds = [variance.power(distance, LEVEL) for distance in distances]
    fails = [variance.power(-distance, 1 - (1 - LEVEL) / NUM_LIMITS) for distance in distances]
    se = width * float(np.sqrt(variance.total))
    return {"se": se, "holds": float(weights @ holds), "fails": float(weights @ fails)}


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
    minutes, top = {step.name: step.seconds / 60 for step in steps}, results.top
    sentences = [
        f"The remaining work takes about {sum(minutes.values()):,.0f} minutes: annotation "
        f"{minutes['annotate']:,.0f} at the pilot's rate, training "
        f"{minutes.get('train', 0) + minutes['heads, TF-IDF']:,.0f} by the models' sizes, not measured."
    ]
    at_chance = [name for name, result in results.at_top.items() if not result.above_chance]
    if at_chance:
        return [
            *sentences,
            f"Its chances are unknown: at {top:,} training texts {results.classifiers} on {' and '.join(at_chance)} "
            "labels are not better than chance. Raise grid.sizes or train.epochs.",
        ]
    sentences.append(
        f"Its chances with {runs} seeds and {num_test:,} test texts, by the pilot's {results.classifiers} "
        f"({results.R} seeds, {results.n:,} test texts, {top:,} training texts):"
    )
    is_prediction = results.method != study.training.method
    for name, comparison, sign, limit in (
        ("macro-F1 loss", results.find("llm", "gold", "macro_f1"), -1, accept.macro_f1_loss),
        ("churn", results.find("llm", "gold", "pairwise_disagreement"), 1, accept.churn),
    ):
        if comparison is None:
            continue
        value = sign * comparison.difference
        error, width = (HEADS_ERROR[comparison.figure], HEADS_WIDTH) if is_prediction else (0.0, 1.0)
        zero = chances(comparison, 0.0, limit, runs, items, width=width)
        same = chances(comparison, value, limit, runs, items, error, width)
        size = f"{number(value)} ± {error:g}" if error else number(value)
        sentences.append(
            f"* {name}, limit {limit:g}: if it is zero, the study shows in {zero['holds']:.0%} of cases that the "
            f"limit holds. If it is the pilot's {size}, it shows in {same['holds']:.0%} that the limit holds "
            f"and in {same['fails']:.0%} that it is exceeded."
        )
    if is_prediction:
        sentences.append(
            "± is the standard error of heads as a prediction of fine-tuned encoders, from four studies with one "
            "encoder (docs/heads.md). Heads do not show whether fine-tuning learns."
        )
    return sentences
