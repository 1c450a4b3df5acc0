"""The grid of runs, variants x sizes x seeds, and the rows that each run trains on."""

import math
from dataclasses import replace
from itertools import product

import numpy as np

from ..errors import UserError
from ..hashing import hash_order
from ..recipe import Grid, Train
from ..study import Method, Run
from ..variants import VARIANTS

MIN_POOL = 5  # times the largest size, so that the runs of different seeds hardly share training texts
#: Optimiser steps x learning rate, below which encoders hardly learn. Of 30 MiniLM runs on gold labels (docs/study) 18
#: are at chance level at 0.0042, 3 at 0.0078 and none at 0.015.
MIN_LEARNING = 0.005
NUM_PROBES = 2  # gold runs that are trained first


def make_run(grid: Grid, variant: str, size: int, levels: dict[str, int]) -> Run:
    """Return a run by the place in `grid.seeds` of each source that varies; other sources keep the first seed.

    Args:
        grid (`Grid`):
            The recipe's grid.
        variant (`str`), size (`int`):
            The run's variant and size.
        levels (`dict[str, int]`):
            By source (`subset`, `init`, `order`, `pass`); of a pass its number.
    """
    if not VARIANTS[variant].uses_passes:
        levels = {source: level for source, level in levels.items() if source != "pass"}
    seeds = {source: grid.seeds[levels.get(source, 0)] for source in ("subset", "init", "order")}
    if len(set(levels.values())) <= 1:
        name = str(grid.seeds[next(iter(levels.values()), 0)])
    else:
        values = {**seeds, "pass": levels.get("pass", 0)}
        name = "-".join(f"{source[0]}{values[source]}" for source in levels)
    return Run(variant, size, name, seeds["subset"], seeds["init"], seeds["order"], levels.get("pass", 0))


def all_runs(grid: Grid) -> list[Run]:
    """Return the grid's runs, crossed runs last.

    The probes come first; see `find_probes`. Then small sizes come first, and all variants of a seed together, so that
    an interrupted grid has pairs.
    """
    runs = find_probes(grid)
    for size in grid.sizes:
        by_variant = [paired_runs(grid, variant, size) for variant in grid.variants_at(size)]
        for runs_of_seed in zip(*by_variant, strict=True):
            runs += runs_of_seed
    for variant in grid.crossed.variants if grid.crossed else []:
        runs += crossed_runs(grid, variant).values()
    return list(dict.fromkeys(runs))


def list_runs(grid: Grid, train: Train, method: Method) -> list[Run]:
    """Return the runs of a method: the whole grid or, as baselines, those of gold and llm at the largest size."""
    if method == train.method or (method == "frozen" and train.encoder_mode == "both"):
        runs = all_runs(grid)
    else:
        runs = []
        for name in ("gold", "llm"):
            runs += paired_runs(grid, name, grid.sizes[-1]) if name in grid.variants else []
        runs = list(dict.fromkeys(runs))
    return [replace(run, method=method) for run in runs]


def find_probes(grid: Grid) -> list[Run]:
    """Return the first gold runs at the largest size. If they learn nothing, no run of the grid will."""
    runs = paired_runs(grid, "gold", grid.sizes[-1]) if "gold" in grid.variants else []
    return list(dict.fromkeys(runs))[:NUM_PROBES]


def paired_runs(grid: Grid, variant: str, size: int) -> list[Run]:
    """Return a variant's runs at a size, one for each seed in order. A seed sets all sources that vary."""
    return [make_run(grid, variant, size, dict.fromkeys(grid.vary, level)) for level in range(len(grid.seeds))]


def crossed_runs(grid: Grid, variant: str) -> dict[tuple[int, ...], Run]:
    """Return the runs of every combination of the first seeds of each source that varies, at the largest size.

    Returns:
        `dict[tuple[int, ...], Run]`: the runs by their levels, a number for each of `crossed_sources(grid, variant)`.
        Those whose levels are all the same are runs of the paired grid too.
    """
    sources = crossed_sources(grid, variant)
    levels = range(grid.crossed.levels) if grid.crossed else range(0)
    return {
        place: make_run(grid, variant, grid.sizes[-1], dict(zip(sources, place, strict=True)))
        for place in product(levels, repeat=len(sources))
    }


def crossed_sources(grid: Grid, variant: str) -> list[str]:
    """Return the sources of chance that the grid varies and the variant has."""
    return [source for source in grid.vary if source != "pass" or VARIANTS[variant].uses_passes]


def permutation(ids: list[str], subset_seed: int) -> np.ndarray:
    """Return the order in which a subset seed takes the pool's rows. A run of any variant trains on the first `size`.

    Returns:
        `np.ndarray` of shape `(len(ids),)`: indices into `ids`.
    """
    return hash_order(ids, f"subset:{subset_seed}")


def describe_few_steps(grid: Grid, train: Train) -> str | None:
    """Return a warning if the runs of the largest size take few optimiser steps for their learning rate."""
    top, rate = grid.sizes[-1], train.learning_rate
    num_steps = train.epochs * math.ceil(top / train.batch_size)
    if num_steps * rate >= MIN_LEARNING or train.method == "frozen":
        return None
    share = MIN_LEARNING / (num_steps * rate)
    return (
        f"With {top:,} texts a run takes {num_steps:,} optimiser steps at a rate of {rate:g}: classifiers may learn "
        f"nothing. Try `train.learning_rate` {rate * share:.1e} (small encoders learn with 2e-4), or `train.epochs` "
        f"{math.ceil(train.epochs * share)}."
    )


def check_sizes(grid: Grid, available: int) -> list[str]:
    """Return warnings on the sizes, as sentences for the user and the report.

    Args:
        grid (`Grid`):
            The recipe's grid.
        available (`int`):
            The usable rows of the pool, or before annotation their maximum.

    Raises:
        UserError: a size exceeds it.
    """
    top = grid.sizes[-1]
    if top > available:
        raise UserError(
            f"`grid.sizes` must be at most {available}, the rows of the pool with an annotation (and gold, if the "
            f"source has it) that are not used for validation. Got {top}. Lower it, or raise `data.pool_size`."
        )
    if MIN_POOL * top > available and "subset" in grid.vary:
        return [
            f"The largest size, {top}, is more than a fifth of the {available} usable rows. Subsets of different seeds "
            "overlap, so intervals hold for this pool only; another pool may give other results."
        ]
    return []
