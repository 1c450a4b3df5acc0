"""The grid of runs, variants x sizes x seeds, and the rows that each run trains on."""

from itertools import product

import numpy as np

from ..errors import UserError
from ..hashing import hash_order
from ..recipe import Grid
from ..study import Run
from ..variants import VARIANTS


def make_run(grid: Grid, variant: str, size: int, levels: dict[str, int]) -> Run:
    """A run by the place in `grid.seeds` of each source that varies; the others keep the first seed.

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
    """The grid's runs; small sizes first, and all variants of a seed together, so that a cut grid is a paired one.

    What crosses the sources of chance comes last.
    """
    paired = [
        run
        for size in grid.sizes
        for together in zip(*(paired_runs(grid, variant, size) for variant in grid.variants_at(size)), strict=True)
        for run in together
    ]
    crossed = (
        [run for variant in grid.crossed.variants for run in crossed_runs(grid, variant).values()]
        if grid.crossed
        else []
    )
    return list(dict.fromkeys([*paired, *crossed]))


def paired_runs(grid: Grid, variant: str, size: int) -> list[Run]:
    """A variant's runs at a size, one for each seed, in their order; a seed sets all sources that vary."""
    return [make_run(grid, variant, size, dict.fromkeys(grid.vary, level)) for level in range(len(grid.seeds))]


def crossed_runs(grid: Grid, variant: str) -> dict[tuple[int, ...], Run]:
    """Every combination of the first seeds of each source that varies, at the largest size.

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
    """The sources of chance that a variant has, of those that the grid varies."""
    return [source for source in grid.vary if source != "pass" or VARIANTS[variant].uses_passes]


def permutation(ids: list[str], subset_seed: int) -> np.ndarray:
    """The order in which a subset seed takes the pool's rows: a run trains on the first `size`, in every variant.

    Subsets of one seed are nested.

    Returns:
        `np.ndarray` of shape `(len(ids),)`: indices into `ids`.
    """
    return hash_order(ids, f"subset:{subset_seed}")


def check_sizes(grid: Grid, available: int) -> list[str]:
    """What is doubtful about the sizes, as sentences for the user and the report.

    Args:
        grid (`Grid`):
            The recipe's grid.
        available (`int`):
            The usable rows of the pool, or as many as there can be at most before they are annotated.

    Raises:
        UserError: a size is larger than that.
    """
    top = grid.sizes[-1]
    if top > available:
        raise UserError(
            f"grid.sizes: {top} asked for, but only {available} rows of the pool have an annotation (and gold, where "
            "the source has a label column) and are not spent on validation; lower it, or raise data.pool_size"
        )
    if 2 * top > available and "subset" in grid.vary:
        return [
            f"The largest size, {top}, is more than half of the {available} usable rows: the subsets of different "
            "seeds overlap, so the spread from seed to seed is understated there."
        ]
    return []
