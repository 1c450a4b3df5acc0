"""What the variants and their comparison cost at scale, beside pandas for what pandas can do, in one run.

    .venv/bin/python benchmarks/variants.py [--rows=1000000]

Confident learning trains and is left out; Dawid-Skene (crowd-kit) is timed apart: its cost is that library's.
"""

import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import typer
from ratio import show

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hf_recipes.analysis.comparisons import compare_variants
from hf_recipes.analysis.texts import Texts
from hf_recipes.annotation.calibration import Calibration
from hf_recipes.data import Rows
from hf_recipes.labels.pool import Pool
from hf_recipes.labels.rules import training_labels
from hf_recipes.training.grid import permutation
from hf_recipes.variants import CONFIDENT, VARIANTS


def make_pool(n: int, classes: int = 3, passes: int = 5) -> Pool:
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(classes), (passes, n))
    votes = probs.argmax(axis=2).T.copy()
    ids = [f"{i:024x}" for i in rng.permutation(n)]
    none = Calibration("none", 1.0, {}, np.zeros(0, int))
    raters = rng.multinomial(5, np.ones(classes) / classes, n).astype(np.int32)
    gold, mass = rng.integers(classes, size=n), np.ones((passes, n))
    names = [f"class {k}" for k in range(classes)]
    return Pool(ids, [""] * n, names, gold, probs, mass, votes, [none] * passes, 0, raters=raters)


def seconds(function: Any) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main(rows: int = 1_000_000, repeats: int = 3) -> None:
    pool = make_pool(rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    order = permutation(pool.ids, 0)
    times = {
        variant: seconds(lambda variant=variant: training_labels(variant, pool, order, 0.25, 0))
        for variant in VARIANTS
        if variant not in ("llm-dawid-skene", *CONFIDENT)
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{rows:,} rows, 3 classes, 5 passes, {len(times)} variants\n\n| what | measured | target |\n|---|---|---|")
    slowest = max(times, key=lambda variant: times[variant])
    print(f"| all variants | {sum(times.values()):.1f} s (the slowest, {slowest}: {times[slowest]:.1f} s) | 60 s |")
    print(f"| memory at its peak, with the pool ({before:.2f} GB) | {peak:.2f} GB | 2 GB |")
    few = dawid_skene(min(rows, 100_000))
    print(f"| Dawid-Skene, {min(rows, 100_000):,} rows | {few:.1f} s | |")

    table = pd.DataFrame({"id": pool.ids, "entropy": pool.entropy, "llm": pool.llm, "gold": pool.gold})
    count = round(0.25 * rows)
    ratios = {}
    for variant, other, theirs in (
        ("llm-entropy-replace", "nlargest", lambda: replaced(table, table.nlargest(count, "entropy").index)),
        ("llm-random-replace", "sample", lambda: replaced(table, table.sample(count, random_state=0).index)),
    ):
        pairs = [
            (seconds(lambda variant=variant: training_labels(variant, pool, order, 0.25, 0)), seconds(theirs))
            for _ in range(repeats)
        ]
        ratios[variant, other] = float(np.median([ours / pandas for ours, pandas in pairs]))
        print(f"| {variant}, ours / pandas (which ties and draws by position) | {ratios[variant, other]:.2f} | |")

    variants, sizes, seeds, items = list(VARIANTS), (50, 100, 200, 400, 800, 1600), 10, 2000
    rng = np.random.default_rng(0)
    gold = rng.integers(3, size=items)
    predictions = {
        (variant, size): np.where(rng.random((seeds, items)) < 0.7, gold, rng.integers(3, size=(seeds, items)))
        for variant in variants
        for size in sizes
    }
    rows_of_test = Rows([f"{i}" for i in range(items)], [""] * items, gold, ["a", "b", "c"])
    test = Texts(rows_of_test, predictions, np.arange(items))
    took = seconds(lambda: compare_variants(test, test, test))
    print(f"| comparison of {len(variants)} variants x 6 sizes x 10 seeds x 2,000 texts | {took:.1f} s | 60 s |")
    for (variant, other), ratio in ratios.items():
        show(f"time, labels of {variant}, {rows:,} rows", f"pandas' {other}, which goes by position", ratio)


def dawid_skene(n: int) -> float:
    some = make_pool(n)
    return seconds(lambda: training_labels("llm-dawid-skene", some, np.arange(n), 0.25, 0))


def replaced(table: pd.DataFrame, chosen: pd.Index) -> np.ndarray:
    labels = table["llm"].copy()
    labels[chosen] = table["gold"][chosen]
    return labels.to_numpy()


if __name__ == "__main__":
    typer.run(main)
