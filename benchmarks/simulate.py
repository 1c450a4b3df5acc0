"""Whether intervals hold the truth as often as they say, whether tests reject what is true, and what they can find.

    .venv/bin/python benchmarks/simulate.py coverage [--studies=2000]
    .venv/bin/python benchmarks/simulate.py power [--studies=600]
    .venv/bin/python benchmarks/simulate.py plateau [--studies=2000]

Studies are simulated with known truth. A text has a score for each class, a run adds noise of its own to every text and
is as a whole better or worse than others (a shift that all its texts share); the label is the highest score. Two
variants at the same seed share half of the shift's variance. Everything is seeded; the Monte Carlo error of a rate
is printed.
"""

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import typer
from joblib import Parallel, delayed
from ratio import show
from scipy import special, stats

METRICS = Path(__file__).resolve().parent.parent / "metrics"
RUNS = (3, 5, 10, 20, 50)
CLASSES = 3
SHARES = (0.6, 0.3, 0.1)  # of the gold classes
SKILL, SHIFT, NOISE = 1.2, 0.25, 0.6  # of the gold class's score; SD of a run's shift; SD of a run's noise on a text

Rate = tuple[float, int]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def module(name: str) -> Any:
    if str(METRICS) not in sys.path:
        sys.path.append(str(METRICS))
    return import_module(f"{name}.{name}")


class Texts:
    """Test items: gold classes, and the scores that all runs of all variants see."""

    def __init__(self, random: np.random.Generator, items: int):
        self.random = random
        self.gold = random.choice(CLASSES, p=SHARES, size=items)
        self._seen = random.normal(size=(items, CLASSES))

    def probabilities(self, shifts: np.ndarray, skill: float = SKILL, noise: float = NOISE) -> np.ndarray:
        """Of runs with these shifts, of shape `(R, n, K)`."""
        scores = self._seen + noise * self.random.normal(size=(len(shifts), *self._seen.shape)).astype(np.float32)
        scores[:, np.arange(len(self.gold)), self.gold] += skill + shifts[:, None]
        return special.softmax(2 * scores, axis=2)

    def labels(self, shifts: np.ndarray, skill: float = SKILL, noise: float = NOISE) -> np.ndarray:
        return self.probabilities(shifts, skill, noise).argmax(axis=2)


def paired_shifts(random: np.random.Generator, runs: int, variants: int = 2, spread: float = SHIFT) -> np.ndarray:
    own, shared = random.normal(size=(variants, runs)), random.normal(size=runs)
    return spread * (own + shared) / np.sqrt(2)


def many_shifts(runs: int, spread: float = SHIFT) -> np.ndarray:
    """Of the shift's distribution, without its chance."""
    return spread * stats.norm.ppf((np.arange(runs) + 0.5) / runs)


def rates(studies: int, study: Callable[..., dict[str, bool]], runs: int, *arguments: Any) -> dict[str, Rate]:
    """The share of simulated studies in which each thing is so, and of how many (a study may leave a thing open)."""
    found = Parallel(n_jobs=-1, batch_size=8)(
        delayed(study)(10_000 * runs + i, runs, *arguments) for i in range(studies)
    )
    names = dict.fromkeys(name for one in found for name in one)
    by_name = {name: [one[name] for one in found if name in one] for name in names}
    return {name: (float(np.mean(values)), len(values)) for name, values in by_name.items()}


def table(title: str, rows: dict[int, dict[str, Rate]]) -> dict[int, dict[str, Rate]]:
    columns = dict.fromkeys(name for row in rows.values() for name in row)
    print(f"\n| {title} | " + " | ".join(f"R = {key}" for key in rows) + " |")
    print("|---" * (1 + len(rows)) + "|")
    for name in columns:
        cells = [f"{row[name][0]:.3f}" if name in row and row[name][1] >= 100 else "-" for row in rows.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")
    return rows


def all_rates(rows: dict[int, dict[str, Rate]], part: str = "") -> list[float]:
    """Of a table's lines whose name has this part."""
    return [rate for row in rows.values() for name, (rate, _) in row.items() if part in name]


# -------------------------------------------------------------------------------------------------------- coverage


@cache
def truths(skill: float = SKILL, noise: float = NOISE, spread: float = SHIFT) -> dict[str, float]:
    """Of infinitely many texts and runs, as nearly as 200 runs over 40,000 texts tell; per-test-set SDs apart."""
    texts = Texts(np.random.default_rng(12345), 40_000)
    probs = texts.probabilities(many_shifts(200, spread), skill, noise)
    labels = probs.argmax(axis=2)
    scores = module("seed_scores").seed_scores(labels, texts.gold)
    stable = module("seed_instability").seed_instability(labels, texts.gold)
    soft = module("seed_divergence").seed_divergence(probs[2::5])
    return {
        "accuracy_mean": scores["accuracy_mean"],
        "macro_f1_mean": scores["macro_f1_mean"],
        "accuracy_distribution_variance": scores["accuracy_distribution_variance"],
        **{name: stable[name] for name in ("pairwise_disagreement", "krippendorff_alpha", "gwet_ac1")},
        "error_consistency": stable["error_consistency"],
        "per_class_disagreement": stable["per_class_disagreement"][CLASSES - 1],
        **{name: soft[name] for name in ("js_divergence", "total_variation")},
    }


def holds(truth: float, interval: list[float]) -> bool:
    return bool(interval[0] <= truth <= interval[1])


def coverage_study(seed: int, runs: int, items: int, truth: dict[str, float]) -> dict[str, bool]:
    random = np.random.default_rng(seed)
    texts = Texts(random, items)
    probs = texts.probabilities(random.normal(0, SHIFT, runs))
    labels = probs.argmax(axis=2)
    scores = module("seed_scores").seed_scores(labels, texts.gold, num_classes=CLASSES)
    figures = scores | module("seed_instability").seed_instability(labels, texts.gold, num_classes=CLASSES)
    figures |= module("seed_divergence").seed_divergence(probs)
    rare = CLASSES - 1
    figures["per_class_disagreement_interval"] = figures["per_class_disagreement_interval"].get(rare, [np.nan] * 2)
    held = {name: holds(value, figures[f"{name}_interval"]) for name, value in truth.items()}
    # the SD for this very test set: of 400 more runs over it
    many = (texts.labels(many_shifts(400)) == texts.gold).mean(axis=1)
    held["accuracy_sd (this test set)"] = holds(many.std(), scores["accuracy_sd_interval"])
    return held


def multi_bootstrap(
    one: np.ndarray, two: np.ndarray, gold: np.ndarray, random: np.random.Generator, draws: int
) -> list[float]:
    """Percentiles of the difference in macro-F1 over paired seeds and paired texts (Sellam et al. 2022)."""
    runs, items = one.shape
    seeds = random.multinomial(runs, np.full(runs, 1 / runs), size=draws) / runs
    texts = random.multinomial(items, np.full(items, 1 / items), size=draws).astype(np.float32)
    difference, held = np.zeros(draws), np.zeros(draws)
    for k in np.unique(gold):
        has_class = texts @ (gold == k) > 0
        held += has_class
        for sign, labels in ((1, one), (-1, two)):
            sizes = texts @ ((labels == k).astype(np.float32) + (gold == k)).T
            hits = texts @ ((labels == k) & (gold == k)).T.astype(np.float32)
            difference += sign * has_class * (2 * hits / np.maximum(sizes, 1) * seeds).sum(axis=1)
    return np.quantile(difference / held, [0.025, 0.975]).tolist()


def comparison_study(
    seed: int, runs: int, items: int, truth: dict[str, float], other: tuple, draws: int = 2000
) -> dict[str, bool]:
    """Two variants, of which the first is like all here and the second `other` (skill, noise, spread of the shift)."""
    random = np.random.default_rng(seed)
    texts = Texts(random, items)
    shifts = paired_shifts(random, runs)
    skill, noise, spread = other
    one, two = texts.labels(shifts[0]), texts.labels(shifts[1] * spread / SHIFT, skill, noise)
    result = module("instability_comparison").instability_comparison(one, two, texts.gold, num_classes=CLASSES)
    found = {}
    for name in ("accuracy", "macro_f1", "pairwise_disagreement"):
        found[f"{name}: interval holds the truth"] = holds(truth[name], result[f"{name}_interval"])
        found[f"{name}: a difference is found"] = result[f"{name}_verdict"] != "cannot tell"
    if draws:
        percentiles = multi_bootstrap(one, two, texts.gold, random, draws)
        found["macro_f1: multi-bootstrap holds the truth"] = holds(truth["macro_f1"], percentiles)
    for name in ("accuracy", "macro_f1"):
        found[f"{name}: Brown-Forsythe below .05"] = result[f"{name}_spread_p_value"] < 0.05
    return found


def iso_study(seed: int, runs: int, items: int) -> dict[str, bool]:
    """A variant that is in truth the ladder's own at a skill between two of its sizes."""
    random = np.random.default_rng(seed)
    texts = Texts(random, items)
    shifts = paired_shifts(random, runs, variants=4)
    skills = (0.6, 1.0, 1.4)
    ladder = [texts.labels(shift, skill) for shift, skill in zip(shifts[1:], skills, strict=True)]
    result = module("instability_comparison").instability_comparison(
        texts.labels(shifts[0], 1.2), ladder[-1], texts.gold, num_classes=CLASSES, ladder=ladder
    )["iso_accuracy"]
    if result["status"] != "ok":
        return {}
    return {"iso-accuracy: a difference is found where there is none": result["verdict"] != "cannot tell"}


@app.command()
def coverage(studies: int = 2000, items: int = 500) -> None:
    """How often 95% intervals hold the truth, and how often tests reject a true null."""
    truth = truths()
    print(f"{items} texts, {studies} studies a cell: Monte Carlo error of a .95 is {np.sqrt(0.0475 / studies):.4f}")
    print("truth: " + ", ".join(f"{name} {value:.4f}" for name, value in truth.items()))
    held = table(
        "95% interval holds the truth",
        {r: rates(studies, coverage_study, r, items, truth) for r in RUNS},
    )
    names = {"accuracy": "accuracy_mean", "macro_f1": "macro_f1_mean", "pairwise_disagreement": "pairwise_disagreement"}
    pairs = []
    for title, other in (
        ("two variants, equal in truth", (SKILL, NOISE, SHIFT)),
        ("two variants, the second weaker and more variable", (1.0, 0.8, 2 * SHIFT)),
    ):
        theirs = truths(*other)
        differ = {name: truth[key] - theirs[key] for name, key in names.items()}
        pairs.append(table(title, {r: rates(studies, comparison_study, r, items, differ, other) for r in RUNS}))
    table(
        "a variant against its own ladder",
        {r: rates(studies, iso_study, r, items) for r in RUNS},
    )
    equal, weaker = pairs
    show("coverage, the least of all figures and R", "the nominal .95", min(all_rates(held)) / 0.95)
    show("false alarms, the most of all figures and R", "the nominal .05", max(all_rates(equal, "is found")) / 0.05)
    ours, theirs = (weaker[5][f"macro_f1: {which} holds the truth"][0] for which in ("interval", "multi-bootstrap"))
    show("coverage, difference in macro-F1 at R = 5", "a multi-bootstrap's percentiles", ours / theirs)


# ------------------------------------------------------------------------------------------------- power, plateau


@app.command()
def power(studies: int = 600) -> None:
    """How often differences of a given size are found, by R and n."""
    print(f"{studies} studies a cell: Monte Carlo error of a .80 is {np.sqrt(0.16 / studies):.3f}")
    truth = truths()
    for skill, noise, spread in ((1.12, NOISE, SHIFT), (1.04, NOISE, SHIFT), (SKILL, 0.75, SHIFT), (SKILL, 0.9, SHIFT)):
        theirs = truths(skill, noise, spread)
        apart = {
            name: truth[key] - theirs[key]
            for name, key in (("accuracy", "accuracy_mean"), ("disagreement", "pairwise_disagreement"))
        }
        figure = "accuracy" if noise == NOISE else "pairwise_disagreement"
        title = ", ".join(f"{name} {value:+.3f}" for name, value in apart.items())
        differ = {"accuracy": 0.0, "macro_f1": 0.0, "pairwise_disagreement": 0.0}
        rows = {}
        for r in RUNS:
            rows[r] = {}
            for items in (500, 2000):
                found = rates(studies, comparison_study, r, items, differ, (skill, noise, spread), 0)
                rows[r][f"{figure}, {items} texts"] = found[f"{figure}: a difference is found"]
        table(f"found; true difference {title}", rows)
    table("spread", {r: rates(studies, spread_study, r) for r in RUNS})


def spread_study(seed: int, runs: int) -> dict[str, bool]:
    random = np.random.default_rng(seed)
    one, two = random.normal(size=runs), 2 * random.normal(size=runs)
    return {
        "Brown-Forsythe below .05 where an SD is doubled": bool(stats.levene(one, two, center="median").pvalue < 0.05)
    }


def curves(
    random: np.random.Generator, sizes: np.ndarray, runs: int, limit: float, factor: float, exponent: float
) -> np.ndarray:
    """Scores (S, R): a power law, a height of its own for each curve, and noise that falls with the size."""
    law = 1 - limit - factor * sizes**-exponent
    noise = 0.006 + 0.012 * np.sqrt(sizes[0] / sizes)
    return law[:, None] + 0.004 * random.normal(size=runs) + noise[:, None] * random.normal(size=(len(sizes), runs))


def plateau_study(seed: int, runs: int, exponent: float) -> dict[str, bool]:
    sizes = 125 * 2 ** np.arange(8)
    limit, factor = 0.12, 2.0
    scores = curves(np.random.default_rng(seed), sizes, runs, limit, factor, exponent)
    gain = factor * ((sizes[-1] / 2) ** -exponent - sizes[-1] ** -exponent)
    result = module("learning_plateau").learning_plateau(sizes, scores, delta=gain, asymptote=True)
    named = result["asymptote_status"] == "identified"
    found = {
        "gain: interval holds the truth": holds(gain, result["gain_interval"]),
        "plateau said, though the gain is delta": result["verdict"] == "plateau",
        "asymptote is named": named,
    }
    if named:
        found["asymptote: interval holds the truth, where named"] = holds(1 - limit, result["asymptote_interval"])
    return found


@app.command()
def plateau(studies: int = 2000) -> None:
    """Learning curves whose law is known, eight sizes from 125 to 16,000."""
    print(f"{studies} studies a cell: Monte Carlo error of a .95 is {np.sqrt(0.0475 / studies):.4f}")
    gains = []
    for exponent in (0.3, 0.6, 0.9):
        rows = {r: rates(studies, plateau_study, r, exponent) for r in RUNS}
        gains += all_rates(table(f"error = .12 + 2 n^-{exponent}", rows), "gain: interval")
    show("coverage, the last doubling's gain, the least of all laws and R", "the nominal .95", min(gains) / 0.95)


if __name__ == "__main__":
    app()
