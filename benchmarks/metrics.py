"""What the metric modules cost, beside what a user would pick instead, in one run on one core.

    .venv/bin/python benchmarks/metrics.py [--repeats=5]

Medians of paired repeats; the alternatives get smaller inputs where they are too slow, and rates are compared. Memory
is the peak of a process of its own over what it held before the call.
"""

import os
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import typer
from ratio import show
from threadpoolctl import threadpool_limits

METRICS = Path(__file__).resolve().parent.parent / "metrics"
os.environ["HF_HUB_OFFLINE"] = "1"


def one_core() -> None:
    """Pins this process, and its linear algebra to one thread: two on one core would wait for each other."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    threadpool_limits(1)


def load(name: str) -> tuple[Any, Any]:
    """The evaluate module, and the Python module behind it."""
    import evaluate

    module = evaluate.load(str(METRICS / name), keep_in_memory=True)
    return module, sys.modules[type(module).__module__]


def predictions_of(runs: int, items: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    gold = random.integers(classes, size=items)
    predictions = np.empty((runs, items), dtype=np.int64)
    for run in predictions:
        run[:] = np.where(random.random(items) < 0.8, gold, random.integers(classes, size=items))
    return predictions, gold


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def paired(repeats: int, ours: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[float, float, np.ndarray]:
    """Medians of both, and their / our time in each repeat; the first round is not counted."""
    ours(), theirs()
    times = np.array([[seconds(ours), seconds(theirs)] for _ in range(repeats)])
    return float(np.median(times[:, 0])), float(np.median(times[:, 1])), times[:, 1] / times[:, 0]


def line(what: str, ours: float, other: str, theirs: float, ratios: np.ndarray, target: str) -> tuple[str, str, float]:
    """Prints a line of the table; returns what `show` wants."""
    print(
        f"| {what} | {ours:.3f} s | {other} {theirs:.3f} s | {np.median(ratios):.2f} ({ratios.min():.2f} to "
        f"{ratios.max():.2f}) | {target} |",
        flush=True,
    )
    return f"time, {what}", other, float(1 / np.median(ratios))


def alone(repeats: int) -> tuple[float, float, float]:
    """All of seed_instability on 50 x 1,000,000 x 10, in a process of its own: seconds, by compute, gigabytes."""
    one_core()
    module, plain = load("seed_instability")
    predictions, gold = predictions_of(50, 1_000_000, 10)
    plain.seed_instability(predictions[:, :1000], gold[:1000])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = [seconds(lambda: plain.seed_instability(predictions, gold, at_r=[5, 10])) for _ in range(repeats)]
    held = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e9
    through = [
        seconds(lambda: module.compute(predictions=predictions, references=gold, at_r=[5, 10])) for _ in range(repeats)
    ]
    return float(np.median(times)), float(np.median(through)), held + predictions.nbytes / 1e9


def main(repeats: int = 5) -> None:
    """Prints one table."""
    import krippendorff
    from sklearn.metrics import f1_score

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        took, through, held = pool.submit(alone, repeats).result()
    print("| what | ours | beside it | theirs / ours, median (range) | target |\n|---|---|---|---|---|")
    print(
        f"| seed_instability, 50 x 1,000,000 x 10, all figures, input and work {held:.2f} GB | {took:.2f} s | through "
        f"evaluate's compute {through:.2f} s | {through / took:.2f} | below 3 s, 1 GB, at most 3 |"
    )
    found = [("time, seed_instability through evaluate's compute", "the function alone", through / took)]
    one_core()
    module, plain = load("seed_instability")
    predictions, gold = predictions_of(50, 100_000, 10)
    everything = lambda: plain.seed_instability(predictions, gold)  # noqa: E731
    found.append(
        line(
            "seed_instability, 50 x 100,000 x 10, all figures",
            *_beside(
                paired(repeats, everything, lambda: krippendorff.alpha(predictions, level_of_measurement="nominal"))
            ),
            "at least 10 for alpha",
        )
    )
    few = predictions[:, :2000]

    def cached() -> Any:
        for run in few:
            module.add(prediction=run, reference=gold[:2000])
        return module.compute()

    found.append(
        line(
            "seed_instability, 50 x 2,000, compute at once",
            *_beside(
                paired(repeats, lambda: module.compute(predictions=few, references=gold[:2000]), cached), "add by run"
            ),
            "-",
        )
    )
    _, comparison = load("instability_comparison")
    one, gold = predictions_of(20, 2_000, 3)
    two = np.roll(one, 1, axis=0)
    random = np.random.default_rng(0)

    def by_hand() -> None:
        """Two of the 2,000 draws that give an interval by the bootstrap, as one would write them with scikit-learn."""
        for _ in range(2):
            items, seeds = random.integers(2000, size=2000), random.integers(20, size=20)
            for variant in (one, two):
                for run in seeds:
                    f1_score(gold[items], variant[run, items], average="macro")

    ours, theirs, ratios = paired(repeats, lambda: comparison.instability_comparison(one, two, gold), by_hand)
    found.append(
        line(
            "instability_comparison, 20 x 2,000, intervals",
            ours,
            "bootstrap by scikit-learn",
            1000 * theirs,
            1000 * ratios,
            "2 s",
        )
    )
    _, divergence = load("seed_divergence")
    probs = np.random.default_rng(0).dirichlet(np.ones(3), size=(20, 2000))
    from scipy.spatial.distance import jensenshannon

    def pairs() -> None:
        for r in range(20):
            for s in range(r):
                jensenshannon(probs[r], probs[s], axis=1)

    found.append(
        line(
            "seed_divergence, 20 x 2,000 x 3, all figures",
            *_beside(paired(repeats, lambda: divergence.seed_divergence(probs, gold), pairs), "scipy, JS alone"),
            "-",
        )
    )
    for one in found:
        show(*one)


def _beside(figures: tuple[float, float, np.ndarray], name: str = "krippendorff.alpha") -> tuple:
    ours, theirs, ratios = figures
    return ours, name, theirs, ratios


if __name__ == "__main__":
    typer.run(main)
