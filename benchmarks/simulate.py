"""Print how often intervals contain the truth, how wide they are, and what studies find: for docs/statistics.md.

    .venv/bin/python benchmarks/simulate.py table [--studies=1000] [--metrics=PATH]
    .venv/bin/python benchmarks/simulate.py claims [--studies=200]

Studies are simulated with known truth. A text has a score for each of three classes. A run adds noise to each score.
The score of the gold class rises by the variant's skill and by the run's shift, which all texts share. The label is the
highest score. Studies are seeded: they are the same for every folder of metric modules.
"""

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import typer
from joblib import Parallel, delayed
from ratio import show
from scipy import special, stats

from hf_recipes.analysis.comparisons import best_mitigation, compare_variants, match_gold, plateaus
from hf_recipes.analysis.components import variances
from hf_recipes.analysis.copied_errors import error_cells
from hf_recipes.analysis.measure import find_claims
from hf_recipes.analysis.metric_modules import correct
from hf_recipes.analysis.texts import Texts
from hf_recipes.data import Rows as TextRows

METRICS = Path(__file__).resolve().parent.parent / "metrics"
RUNS = (3, 5, 10, 20)
COLUMNS = [f"R = {runs}" for runs in RUNS]
CONTAINS = "95% interval contains the truth / half its mean width"
CLASSES = 3
FIGURES = ("macro_f1", "pairwise_disagreement")
MAX_LOSS, MAX_CHURN = 0.02, 0.03  # limits of the verdict
VARIANTS = ("gold", "llm", "noise-fixed", "llm-entropy-replace", "llm-random-replace", "llm-audit", "gold-only")
LOOKS = {"4 looks": (3, 5, 10, 20), "11 looks": (3, 4, 5, 6, 7, 8, 10, 12, 15, 17, 20)}
TRUTH_PARTS, TRUTH_RUNS, TRUTH_ITEMS = 50, 20, 5000

Rows = dict[str, list[tuple[float, ...]]]  # by row of a table: a cell for each column, of one or two figures
Study = Callable[..., dict[str, tuple[float, ...]]]  # from the number of a study and arguments to its figures by row
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Design:
    """Texts and two variants. Pairs are of the first and the second variant.

    Attributes:
        shares (`tuple` of 3 `float`): of the gold classes.
        shifts (`tuple` of 2 `float`): SD of a run's shift.
        skills, noises (`tuple` of 2 `float`): how far the gold class's score rises; SD of a run's noise on a score.
        freedom (`float`): degrees of freedom of the shifts' t distribution, which is scaled to their SD.
        correlation (`float`): of the shifts of two variants' runs of one seed.
        copies (`int`): how many texts in a row have one gold class and equal scores; they are a cluster.
    """

    shares: tuple[float, float, float] = (0.4, 0.35, 0.25)
    shifts: tuple[float, float] = (0.05, 0.05)
    skills: tuple[float, float] = (1.2, 1.2)
    noises: tuple[float, float] = (0.6, 0.6)
    freedom: float = np.inf
    correlation: float = 0.0
    copies: int = 1

    def shift(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the quantiles of the shifts of both variants, of shape `(2, R)`."""
        scale = np.sqrt(1 - 2 / self.freedom) * np.array(self.shifts)[:, None]
        return scale * stats.t.ppf(probabilities, self.freedom)


DESIGNS = {
    "calm": Design(),
    "unlike": Design((0.6, 0.3, 0.1), shifts=(0.1, 0.5), noises=(0.6, 0.9)),
    "skewed": Design((0.9, 0.07, 0.03), shifts=(0.15, 0.15)),
    "clustered": Design(copies=5),
    "heavy-tailed": Design((0.6, 0.3, 0.1), shifts=(0.1, 0.6), freedom=2.5),
    "correlated": Design(shifts=(0.3, 0.3), correlation=0.8),
}
# By how much the second variant's macro-F1 is lower or its disagreement higher.
DIFFERENCES = {
    "equal": Design(),
    "macro-F1 -0.02": Design(skills=(1.2, 1.12)),
    "macro-F1 -0.05": Design(skills=(1.2, 1.0)),
    "disagreement +0.03": Design(noises=(0.6, 0.68)),
    "disagreement +0.05": Design(noises=(0.6, 0.738)),
}


@cache
def load(metrics: Path, name: str) -> Callable[..., dict[str, Any]]:
    """Return the function of a metric module. A process uses one folder: modules of two would have equal names."""
    if str(metrics) not in sys.path:
        sys.path.insert(0, str(metrics))
    return getattr(import_module(f"{name}.{name}"), name)


def compute(metrics: Path, name: str, *arguments: np.ndarray, clusters: np.ndarray, **options: Any) -> dict[str, Any]:
    """Return what a metric module computes, with clusters of several texts where the module accepts them."""
    function = load(metrics, name)
    if clusters[-1] < len(clusters) - 1 and "clusters" in signature(function).parameters:
        options["clusters"] = clusters
    return function(*arguments, **options)


def draw(design: Design, random: np.random.Generator, shifts: np.ndarray, items: int) -> tuple[np.ndarray, ...]:
    """Return gold (n,), clusters (n,) and scores (2, R, n, K) of runs with shifts of shape (2, R)."""
    num_clusters = -(-items // design.copies)
    clusters = np.repeat(np.arange(num_clusters), design.copies)[:items]
    gold = random.choice(CLASSES, p=design.shares, size=num_clusters)[clusters]
    text_scores = random.standard_normal((num_clusters, CLASSES), dtype=np.float32)[clusters]
    scores = random.standard_normal((*shifts.shape, items, CLASSES), dtype=np.float32)
    scores *= np.array(design.noises, dtype=np.float32)[:, None, None, None]
    scores += text_scores
    scores[:, :, np.arange(items), gold] += (np.array(design.skills)[:, None] + shifts)[..., None]
    return gold, clusters, scores


def draw_study(design: Design, number: int, runs: int, items: int) -> tuple[np.ndarray, ...]:
    # Designs have seeds of their own, so that their tables do not share chance.
    random = np.random.default_rng((number, runs, items, crc32(repr(design).encode())))
    shared, own = random.standard_normal(runs), random.standard_normal((2, runs))
    normal = np.sqrt(design.correlation) * shared + np.sqrt(1 - design.correlation) * own
    return draw(design, random, design.shift(stats.norm.cdf(normal)), items)


def compare(
    metrics: Path, labels: np.ndarray, gold: np.ndarray, clusters: np.ndarray, **options: Any
) -> dict[str, Any]:
    """Compare two variants' labels, of shape (2, R, n)."""
    options |= {"num_classes": CLASSES, "clusters": clusters}
    return compute(metrics, "instability_comparison", *labels, gold, **options)


def single_figures(
    metrics: Path, scores: np.ndarray, gold: np.ndarray, clusters: np.ndarray
) -> dict[str, tuple[float, list[float]]]:
    """Return figures of one variant with their intervals, where they are defined."""
    labels, probabilities = scores.argmax(axis=2), special.softmax(2 * scores.astype(float), axis=2)
    quality = compute(metrics, "seed_scores", labels, gold, num_classes=CLASSES, clusters=clusters)
    stability = compute(metrics, "seed_instability", labels, gold, num_classes=CLASSES, clusters=clusters)
    divergence = compute(metrics, "seed_divergence", probabilities, clusters=clusters)
    figures = {}
    for source, names in (
        (quality, ("accuracy_mean", "macro_f1_mean", "accuracy_distribution_variance")),
        (stability, ("pairwise_disagreement", "krippendorff_alpha", "gwet_ac1", "error_consistency")),
        (divergence, ("js_divergence", "total_variation")),
    ):
        for name in names:
            figures[name] = source[name], source[f"{name}_interval"]
    # The texts may lack the rarest class, or contain only one text of it.
    by_class, intervals = stability["per_class_disagreement"], stability["per_class_disagreement_interval"]
    if not np.isnan(intervals.get(CLASSES - 1, [np.nan])[0]):
        figures["disagreement of the rarest class"] = by_class[CLASSES - 1], intervals[CLASSES - 1]
    return figures


@cache
def find_truth(metrics: Path, design: Design, is_single: bool) -> dict[str, float]:
    """Return figures of the second variant, or differences of both, from many texts and runs.

    The runs' shifts are midpoints of equal shares of their distribution, so that heavy tails add no chance.
    """
    random, num_runs = np.random.default_rng(0), TRUTH_PARTS * TRUTH_RUNS
    ranks = np.stack([random.permutation(num_runs), random.permutation(num_runs)])
    shifts = design.shift((ranks + 0.5) / num_runs)
    parts: dict[str, list[float]] = {}
    for part in np.split(shifts, TRUTH_PARTS, axis=1):
        gold, clusters, scores = draw(replace(design, copies=1), random, part, TRUTH_ITEMS)
        if is_single:
            values = {name: value for name, (value, _) in single_figures(metrics, scores[1], gold, clusters).items()}
        else:
            result = compare(metrics, scores.argmax(axis=3), gold, clusters)
            values = {figure: result[f"{figure}_difference"] for figure in FIGURES}
        for name, value in values.items():
            parts.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in parts.items()}


def cover(truth: float, interval: Iterable[float]) -> tuple[float, float]:
    """Return whether an interval contains the truth, and half its width."""
    low, high = interval
    return float(low <= truth <= high), (high - low) / 2


# ---------------------------------------------------------------------------------------------------------- studies


def comparison_study(number: int, metrics: Path, name: str, truth: dict[str, float], items: int, runs: int) -> Any:
    gold, clusters, scores = draw_study(DESIGNS[name], number, runs, items)
    options = {}
    if DESIGNS[name].correlation and "paired" in signature(load(metrics, "instability_comparison")).parameters:
        options["paired"] = True
    result = compare(metrics, scores.argmax(axis=3), gold, clusters, **options)
    return {f"{name}, {figure}": cover(truth[figure], result[f"{figure}_interval"]) for figure in FIGURES}


def single_study(number: int, metrics: Path, name: str, truth: dict[str, float], items: int, runs: int) -> Any:
    gold, clusters, scores = draw_study(DESIGNS[name], number, runs, items)
    figures = single_figures(metrics, scores[1], gold, clusters)
    return {f"{name}, {figure}": cover(truth[figure], interval) for figure, (_, interval) in figures.items()}


def rare_study(number: int, metrics: Path, items: int, runs: int) -> Any:
    """Accuracy .995, disagreement .005: runs err on any text, or toss a coin for one text in a hundred."""
    random = np.random.default_rng((number, runs, items))
    gold, chances = random.integers(2, size=items), random.random((runs, items))
    half_wrong = np.where(chances < 0.5, 1 - gold, gold)
    hard = np.where(random.random(items) < 0.01, half_wrong, gold)
    rows = {}
    for name, labels in (("any text", np.where(chances < 0.005, 1 - gold, gold)), ("1 text in 100", hard)):
        interval = load(metrics, "seed_scores")(labels, gold, num_classes=2)["accuracy_mean_interval"]
        rows[f"accuracy 0.995, {name}"] = cover(0.995, interval)
    unstable = np.where(chances < (1 - np.sqrt(0.99)) / 2, 1 - gold, gold)  # 2 p (1 - p) = .005
    for name, labels in (("any text", unstable), ("1 text in 100", hard)):
        interval = load(metrics, "seed_instability")(labels, num_classes=2)["pairwise_disagreement_interval"]
        rows[f"disagreement 0.005, {name}"] = cover(0.005, interval)
    return rows


def out_of_bag_study(number: int, metrics: Path, pool: int, runs: int) -> Any:
    """Each run trains on 300 texts of a pool. Return coverage, and the estimates with and without the pool's texts."""
    size, num_test = 300, 500
    gold, clusters, scores = draw_study(DESIGNS["calm"], number, runs, num_test + pool)
    labels = scores.argmax(axis=3)
    random = np.random.default_rng((number, pool))
    for run in range(runs):
        labels[:, run, num_test + random.choice(pool, size, replace=False)] = -1
    with_pool = compare(metrics, labels, gold, clusters)
    test_only = compare(metrics, labels[:, :, :num_test], gold[:num_test], clusters[:num_test])
    rows = {}
    for figure in FIGURES:
        estimates = with_pool[f"{figure}_difference"], test_only[f"{figure}_difference"]
        rows[f"pool of {pool}, {figure}"] = (*cover(0.0, with_pool[f"{figure}_interval"]), *estimates)
    return rows


def power_study(number: int, metrics: Path, name: str, design: Design, items: int, runs: int) -> Any:
    """Return what a study finds. The first variant is gold: the second one loses macro-F1 or disagrees more."""
    gold, clusters, scores = draw_study(design, number, runs, items)
    result = compare(metrics, scores.argmax(axis=3), gold, clusters)
    loss, less_churn = result["macro_f1_interval"], result["pairwise_disagreement_interval"]
    outcomes = {}
    if not name.startswith("disagreement"):
        outcomes["A difference in macro-F1 is found"] = result["macro_f1_verdict"] in ("higher", "lower")
        outcomes["The loss fails its limit"] = loss[0] > MAX_LOSS
    if not name.startswith("macro-F1"):
        outcomes["A difference in disagreement is found"] = result["pairwise_disagreement_verdict"] in (
            "higher",
            "lower",
        )
    if name == "equal":
        outcomes["Loss and churn hold their limits"] = loss[1] < MAX_LOSS and -less_churn[0] < MAX_CHURN
    row = f"{name}, shift {design.shifts[0]}, {items} texts"
    return {f"{outcome}: {row}": (float(value),) for outcome, value in outcomes.items()}


def looks_study(number: int, metrics: Path, design: Design, limit: float, items: int) -> Any:
    """Return whether a loss that equals the limit is below it at any look at the first seeds of a study."""
    gold, clusters, scores = draw_study(design, number, max(RUNS), items)
    labels = scores.argmax(axis=3)
    is_below = {}
    for level in (0.95, 0.99):
        for runs in LOOKS["11 looks"]:
            result = compare(metrics, labels[:, :runs], gold, clusters, confidence_level=level)
            is_below[level, runs] = result["macro_f1_interval"][1] < limit
    rows = {"1 look, 95%": (float(is_below[0.95, 3]),)}
    for name, looks in LOOKS.items():
        is_later = any(is_below[0.99, runs] for runs in looks[1:])
        rows[f"{name}, 95% at each"] = (float(any(is_below[0.95, runs] for runs in looks)),)
        rows[f"{name}, 95%, then 99%"] = (float(is_below[0.95, looks[0]] or is_later),)
    return rows


def other_tests_study(number: int, metrics: Path, runs: int) -> Any:
    """Brown-Forsythe on normal scores; a variant against steps of its own ladder at equal accuracy."""
    random = np.random.default_rng((number, runs))
    first, second = random.standard_normal((2, runs))
    rows = {}
    for name, factor in (("equal SDs", 1), ("an SD is doubled", 2)):
        p_value = stats.levene(first, factor * second, center="median").pvalue
        rows[f"Brown-Forsythe is below .05, {name}"] = (float(p_value < 0.05),)
    skills = 0.05 * random.standard_normal((4, runs)) + np.array([0, -0.3, -0.1, 0.1])[:, None]
    gold, clusters, scores = draw(DESIGNS["calm"], random, skills.reshape(2, 2 * runs), 500)
    variant, *steps = scores.argmax(axis=3).reshape(4, runs, 500)
    result = compare(metrics, np.stack([variant, steps[-1]]), gold, clusters, ladder=steps)["iso_accuracy"]
    if result["status"] == "ok":
        rows["iso-accuracy finds a difference, none is true"] = (float(result["verdict"] in ("higher", "lower")),)
    return rows


def plateau_study(number: int, metrics: Path, exponent: float, with_asymptote: bool, runs: int) -> Any:
    """Learning curves by a power law, each with a height, and noise that falls with the size."""
    random = np.random.default_rng((number, runs))
    sizes, limit, factor = 125 * 2 ** np.arange(8), 0.12, 2.0
    law, noise = 1 - limit - factor * sizes**-exponent, 0.006 + 0.012 * np.sqrt(sizes[0] / sizes)
    scores = law[:, None] + 0.004 * random.normal(size=runs) + noise[:, None] * random.normal(size=(len(sizes), runs))
    gain = factor * ((sizes[-1] / 2) ** -exponent - sizes[-1] ** -exponent)
    result = load(metrics, "learning_plateau")(sizes, scores, delta=gain, asymptote=with_asymptote)
    if not with_asymptote:
        is_plateau = float(result["verdict"] == "plateau")
        return {"gain": cover(gain, result["gain_interval"]), "a plateau is reported, the gain is delta": (is_plateau,)}
    is_identified = result["asymptote_status"] == "identified"
    rows: dict[str, tuple[float, ...]] = {f"n^-{exponent}: an asymptote is identified": (float(is_identified),)}
    if is_identified:
        rows[f"n^-{exponent}: asymptote"] = cover(1 - limit, result["asymptote_interval"])
    return rows


def components_study(number: int, row: str, sds: tuple[float, ...], levels: int) -> Any:
    """Scores with three crossed sources of chance, and all other chance."""
    random = np.random.default_rng((number, levels))
    scores = sds[3] * random.standard_normal((levels,) * 3)
    for axis, shape in enumerate(((levels, 1, 1), (levels, 1), (levels,))):
        scores += sds[axis] * random.standard_normal(shape)
    result = variances(scores, ["subset", "init", "order"])
    return {
        f"{row}: total": cover(sum(sd**2 for sd in sds), result["total"]["interval"]),
        f"{row}: first source": cover(sds[0] ** 2, result["subset"]["interval"]),
    }


def claims_study(number: int, name: str, runs: int) -> Any:
    """A study of seven variants at two sizes that are all equal in truth: which false claims its report makes."""
    random = np.random.default_rng((number, runs, crc32(name.encode())))
    design, items, runs_of = DESIGNS[name], 500, {}
    keys = [(variant, size) for size in (100, 200) for variant in VARIANTS]
    # All runs of all variants see the same texts.
    shifts = design.shift(random.random((2, len(keys) * runs + 1)))
    gold, clusters, scores = draw(design, random, shifts, items)
    labels = scores[0].argmax(axis=2)
    for place, key in enumerate(keys):
        runs_of[key] = labels[place * runs : (place + 1) * runs]
    rows = TextRows([str(i) for i in range(items)], [""] * items, gold, ["a", "b", "c"])
    texts = Texts(rows, runs_of, clusters)
    variants = [{"variant": key[0], "size": key[1], **texts.score(key)} for key in keys]
    comparisons, cells = compare_variants(texts, texts, texts), list(error_cells(labels[-1], texts))
    claims = find_claims(comparisons, list(match_gold(texts)), cells, best_mitigation(variants, texts), None)
    correct(claims)
    primary = [comparison for comparison in comparisons if comparison["primary"]]
    gains = [plateau for plateau in plateaus(variants, texts) if plateau["variant"] in ("gold", "llm")]
    outcomes = {
        "a primary claim": any(claim["verdict"] != "inconclusive" for claim in primary),
        "another claim": any(claim["verdict"] != "inconclusive" for claim in claims),
        "the last doubling helped": any(plateau["verdict"] == "gains" for plateau in gains),
    }
    outcomes["any claim"] = any(outcomes.values())
    outcomes["any, without correction"] = any(claim["p_value"] < 0.05 for claim in primary + claims)
    return {f"{name}: {what}": (float(is_made),) for what, is_made in outcomes.items()}


# ----------------------------------------------------------------------------------------------------------- tables


def repeat(studies: int, study: Study, *arguments: Any) -> dict[str, np.ndarray]:
    """Return the figures of simulated studies by row, of shape (studies that have the row, figures)."""
    results = Parallel(n_jobs=-1, batch_size=8)(delayed(study)(number, *arguments) for number in range(studies))
    rows: dict[str, list[tuple[float, ...]]] = {}
    for result in results:
        for name, figures in result.items():
            rows.setdefault(name, []).append(figures)
    cell = [argument for argument in arguments if isinstance(argument, (str, int, float))]
    print(time.strftime("%H:%M:%S"), study.__name__, *cell, file=sys.stderr, flush=True)
    return {name: np.array(figures) for name, figures in rows.items()}


def measure(studies: int, study: Study, *arguments: Any, columns: Iterable[Any] = RUNS) -> Rows:
    """Return the mean figures of simulated studies; nan for a row that fewer than a tenth of the studies have."""
    rows: Rows = {}
    columns = list(columns)
    for place, column in enumerate(columns):
        for name, figures in repeat(studies, study, *arguments, column).items():
            cells = rows.setdefault(name, [(np.nan,)] * len(columns))
            if 10 * len(figures) >= studies:
                cells[place] = tuple(figures.mean(axis=0).tolist())
    return rows


def show_table(title: str, rows: Rows, studies: int, columns: list[str] = COLUMNS) -> None:
    of_95, of_50 = np.sqrt(0.0475 / studies), np.sqrt(0.25 / studies)
    print(f"\n{studies} studies a cell: the Monte Carlo error of a share of .95 is {of_95:.3f}, of .50 {of_50:.3f}")
    print(f"\n| {title} | {' | '.join(columns)} |")
    print("|---" * (1 + len(columns)) + "|")
    for name, cells in rows.items():
        texts = [" / ".join("-" if np.isnan(figure) else f"{figure:.3f}" for figure in cell) for cell in cells]
        print(f"| {name} | {' | '.join(texts)} |", flush=True)


@app.callback()
def main() -> None:
    """Simulate studies with known truth."""


@app.command()
def table(studies: int = 1000, metrics: Path = METRICS) -> None:  # noqa: PLR0912  (one table after the other)
    """Print the level, power and coverage of the metric modules in a folder."""
    metrics, shares = metrics.resolve(), []
    for items in (100, 500, 2000):
        rows: Rows = {}
        for name, design in DESIGNS.items():
            is_equal = all(first == second for first, second in (design.shifts, design.skills, design.noises))
            truth = dict.fromkeys(FIGURES, 0.0) if is_equal else find_truth(metrics, design, is_single=False)
            rows |= measure(studies, comparison_study, metrics, name, truth, items)
        show_table(f"Two variants, {items} texts: {CONTAINS}", rows, studies)
        for cells in rows.values():
            shares += [cell[0] for cell in cells]
    show("coverage, differences of two variants, the least of all cells", "the nominal .95", min(shares) / 0.95)
    show("coverage, differences of two variants, the mean of all cells", "the nominal .95", np.mean(shares) / 0.95)

    for items in (100, 500):
        rows = {}
        for name in ("calm", "unlike", "skewed", "clustered"):
            truth = find_truth(metrics, DESIGNS[name], is_single=True)
            rows |= measure(studies, single_study, metrics, name, truth, items)
        show_table(f"The second variant, {items} texts: {CONTAINS}", rows, studies)
    rows = measure(studies, rare_study, metrics, 100)
    show_table(f"Rare events, 100 texts: {CONTAINS}", rows, studies)

    # Metric modules that do not accept clusters do not accept texts that a run did not classify either.
    if "clusters" in signature(load(metrics, "instability_comparison")).parameters:
        coverage: Rows = {}
        ratios: Rows = {}
        for pool in (620, 3000):
            for runs in RUNS:
                for name, figures in repeat(studies, out_of_bag_study, metrics, pool, runs).items():
                    coverage.setdefault(name, []).append(tuple(figures[:, :2].mean(axis=0)))
                    variance_with, variance_without = figures[:, 2:].var(axis=0)
                    ratios.setdefault(name, []).append((variance_with / variance_without,))
        show_table(f"500 test texts and the pool's: {CONTAINS}", coverage, studies)
        show_table("Variance of the estimate with the pool's texts by that without them", ratios, studies)
        print(f"\nThe Monte Carlo error of such a ratio is at most {np.sqrt(4 / studies):.3f} of it.")

    rows, looks = {}, {}
    for shift in (0.05, 0.15):
        for name, difference in DIFFERENCES.items():
            design = replace(difference, shifts=(shift, shift))
            for items in (500, 2000):
                rows |= measure(studies, power_study, metrics, name, design, items)
        design = replace(DIFFERENCES["macro-F1 -0.02"], shifts=(shift, shift))
        limit = find_truth(metrics, design, is_single=False)["macro_f1"]
        for name, cells in measure(studies, looks_study, metrics, design, limit, columns=[500]).items():
            looks.setdefault(name, []).extend(cells)
    title = f"What studies find; limits are {MAX_LOSS} for the loss and {MAX_CHURN} for churn"
    show_table(title, dict(sorted(rows.items(), key=lambda row: row[0].split(":")[0])), studies)
    title = "Repeated looks, 500 texts: the loss, which equals the limit, is below it at a look"
    show_table(title, looks, studies, ["shift 0.05", "shift 0.15"])
    show_table("Other tests, 500 texts", measure(studies, other_tests_study, metrics), studies)

    show_table(f"Plateaus: {CONTAINS}", measure(studies, plateau_study, metrics, 0.6, False), studies)
    rows, fewer = {}, -(-studies // 5)  # an asymptote takes much longer than other figures
    for exponent in (0.3, 0.6, 0.9):
        rows |= measure(fewer, plateau_study, metrics, exponent, True)
    show_table(f"Asymptotes of error = .12 + 2 n^-exponent: {CONTAINS}", rows, fewer)

    rows = {}
    for name, sds in (("one source", (1, 0, 0, 0)), ("equal shares", (1, 1, 1, 1)), ("other chance", (0, 0, 0, 1))):
        rows |= measure(studies, components_study, name, sds, columns=(2, 3, 5))
    show_table(f"Variance components, three sources: {CONTAINS}", rows, studies, ["L = 2", "L = 3", "L = 5"])


@app.command()
def claims(studies: int = 200) -> None:
    """Print how often the report of a study whose variants are all equal makes a false claim."""
    rows: Rows = {}
    for name in ("calm", "skewed", "heavy-tailed"):
        rows |= measure(studies, claims_study, name, columns=(5, 10))
    show_table("False claims of a report, 500 texts", rows, studies, ["R = 5", "R = 10"])


if __name__ == "__main__":
    app()
