"""The grid of runs, arms x sizes x seeds, and the rows that each run trains on."""

from dataclasses import dataclass

import numpy as np

from .data import hash_order
from .recipe import Grid, UserError


@dataclass(frozen=True)
class Run:
    """One training run. Its three sources of chance have a seed each; one number sets all three for now.

    Attributes:
        arm (`str`): where the training labels come from.
        size (`int`): the number of training rows.
        seed (`int`): the seed as in the recipe.
    """

    arm: str
    size: int
    seed: int

    @property
    def subset_seed(self) -> int:
        """Which rows are trained on."""
        return self.seed

    @property
    def init_seed(self) -> int:
        """The classification head's first weights."""
        return self.seed

    @property
    def order_seed(self) -> int:
        """The order of batches, and dropout."""
        return self.seed

    def __str__(self) -> str:
        return f"{self.arm}/n{self.size}/{self.seed}"


def all_runs(grid: Grid) -> list[Run]:
    """The grid's runs; small sizes first, and all arms of a seed together, so that a cut grid is a paired one."""
    return [Run(arm, size, seed) for size in grid.sizes for seed in grid.seeds for arm in grid.arms]


def permutation(ids: list[str], subset_seed: int) -> np.ndarray:
    """The order in which a subset seed takes the pool's rows: a run trains on the first `size`, in every arm.

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
            f"grid.sizes: {top} asked for, but only {available} rows of the pool have a gold label and an annotation; "
            "lower it, or raise data.pool_size"
        )
    if 2 * top > available:
        return [
            f"The largest size, {top}, is more than half of the {available} usable rows: the subsets of different "
            "seeds overlap, so the spread from seed to seed is understated there."
        ]
    return []
