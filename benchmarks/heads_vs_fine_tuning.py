"""Do linear heads on frozen features predict what fine-tuned encoders do? Print docs/study/heads.md.

    .venv/bin/python benchmarks/heads_vs_fine_tuning.py > docs/study/heads.md

Reads results in docs/study, and trains nothing: `<study>/report/results.json` of fine-tuned encoders, and of heads
`<study>/heads/results.json` with the same labels, training texts and seeds, and `<study>/heads-100/results.json` with
a hundred seeds.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from hf_recipes.analysis.schema import Comparison, Figure, Results, VariantResult, read_results

STUDIES = Path(__file__).resolve().parent.parent / "docs" / "study"
NAMES = (
    *("tweets", "sms-spam", "manifestos", "tweets-passes"),  # 200 training texts
    *("tweets-0.5b", "tweets-1.5b", "manifestos-0.5b", "manifestos-1.5b", "toxic-0.5b", "toxic-1.5b"),  # 400
    *("manifestos-0.5b-1600", "manifestos-1.5b-1600"),
)
#: The studies whose gold runs are those of the study before.
SAME_GOLD = ("tweets-1.5b", "manifestos-1.5b", "toxic-1.5b", "manifestos-1.5b-1600")
DATA = ("tweets", "sms", "manifestos", "toxic")  # how the names of a data set's studies begin
FIGURES: tuple[tuple[str, Figure], ...] = (("macro-F1", "macro_f1"), ("disagreement", "pairwise_disagreement"))
MORE_SEEDS = "heads-100"  # the folder of results with 100 seeds
MIN_PAIRS = 4  # for a correlation
INTRODUCTION = """\
# Linear heads and fine-tuned encoders: all comparisons

All numbers of [Linear heads](../heads.md). Both methods have the same labels, training texts, test texts and seeds:
R = 10 (5 in tweets-passes) in the four studies with 200 training texts, R = 20 in the six with 400, R = 10 in the two
with 1,600.

```bash
python benchmarks/heads_vs_fine_tuning.py
```

It reads results in `docs/study`. These commands make those of heads, in `heads/` and `heads-100/`:

```bash
hf-recipes run hf_recipes/recipes/offline/tweets.yaml --train.encoder_mode=frozen --train.out_of_bag=0
hf-recipes run hf_recipes/recipes/offline/tweets.yaml --train.encoder_mode=frozen --train.out_of_bag=0 \\
  --output_dir=studies/tweets-100 "--grid.variants=[gold, llm]" "--grid.sizes=[200]" --grid.curves=null \\
  "--grid.seeds=[$(seq -s, 0 99)]"
```

[The study](../study.md#do-it-again) has those of 400 and 1,600 texts.

* With 200 training texts the texts were labelled again for heads. In all studies the LLM's accuracy, recall and class
  shares, and the share of right labels in each training set, are equal to those of the fine-tuned encoders.
* A pair is one figure by both methods. *Learnt* leaves out pairs where fine-tuned encoders are at chance level: the
  interval of their macro-F1 includes 1 / (number of classes).
* Bias and RMSE are of heads minus fine-tuned.
* The first bracket is the range without one data set each. It is not a confidence interval. Brackets of *same sign* are
  Clopper and Pearson's 95% intervals. They count pairs as independent. Pairs of one study are not: the intervals are
  too narrow.
* *Clear* differences are those that fine-tuned encoders decide: their verdict is not *inconclusive*.
* Gold runs that two studies share count once.
* There are twelve studies with one encoder, of four data sets. Nothing here generalizes to other encoders, sizes or
  data."""


class Pair(NamedTuple):
    """A figure by heads and by fine-tuning, of a variant or of a difference of two, at a size of a study."""

    study: str
    name: str
    size: int
    heads: float
    fine_tuned: float
    is_significant: bool
    same_verdict: bool
    opposite_verdict: bool
    at_chance: bool
    is_top: bool


def read(study: str, folder: str) -> Results:
    return read_results((STUDIES / study / folder / "results.json").read_bytes())


def is_at_chance(results: Results, result: VariantResult) -> bool:
    """Return whether the interval of the mean macro-F1 includes what guessing reaches, 1 / K."""
    low = result.macro_f1_mean_interval[0] if result.macro_f1_mean_interval else 0.0
    return low <= 1 / len(results.label_names)


def pair_levels(figure: str) -> list[Pair]:
    """Return the pairs of a figure of all variants and sizes."""
    pairs = []
    for study in NAMES:
        heads, tuned = read(study, "heads"), read(study, "report")
        by_place = {(result.variant, result.size): result for result in heads.variants}
        for result in tuned.variants:
            if study in SAME_GOLD and result.variant == "gold":
                continue
            other = by_place[result.variant, result.size]
            values = getattr(other, figure), getattr(result, figure)
            place, is_top = (study, result.variant, result.size), result.size == tuned.top
            pairs.append(Pair(*place, *values, False, False, False, is_at_chance(tuned, result), is_top))
    return pairs


def pair_differences(figure: Figure) -> list[Pair]:
    """Return the pairs of all differences that a report shows."""
    pairs = []
    for study in NAMES:
        heads, tuned = read(study, "heads"), read(study, "report")
        at_chance = {(result.variant, result.size) for result in tuned.variants if is_at_chance(tuned, result)}
        for difference in tuned.comparisons:
            other = heads.find(difference.variant, difference.against, figure, difference.size)
            if difference.figure != figure or other is None:
                continue
            sides = {(difference.variant, difference.size), (difference.against, difference.size)}
            verdicts = {difference.verdict, other.verdict}
            pairs.append(
                Pair(
                    *(study, f"{difference.variant} - {difference.against}", difference.size),
                    *(other.difference, difference.difference),
                    is_significant=difference.verdict != "inconclusive",
                    same_verdict=len(verdicts) == 1,
                    opposite_verdict=verdicts == {"higher", "lower"},
                    at_chance=bool(sides & at_chance),
                    is_top=difference.size == tuned.top,
                )
            )
    return pairs


def without_each(pairs: list[Pair], measure: Callable[[list[Pair]], float]) -> str:
    """Return a measure of all pairs, and its range over the sets of pairs without one data set each."""
    if len(pairs) < MIN_PAIRS:
        return "-"
    parts = [[pair for pair in pairs if not pair.study.startswith(data)] for data in DATA]
    values = [measure(part) for part in parts if MIN_PAIRS <= len(part) < len(pairs)]
    return f"{measure(pairs):.2f}" + (f" [{min(values):.2f}, {max(values):.2f}]" if values else "")


def pearson(pairs: list[Pair]) -> float:
    return float(np.corrcoef([pair.heads for pair in pairs], [pair.fine_tuned for pair in pairs])[0, 1])


def pearson_within(pairs: list[Pair]) -> float:
    """Return the correlation of deviations from the mean of each study."""
    deviations = []
    for study in NAMES:
        values = np.array([(pair.heads, pair.fine_tuned) for pair in pairs if pair.study == study])
        if len(values):
            deviations.append(values - values.mean(axis=0))
    return float(np.corrcoef(np.concatenate(deviations).T)[0, 1])


def spearman(pairs: list[Pair]) -> float:
    return float(stats.spearmanr([pair.heads for pair in pairs], [pair.fine_tuned for pair in pairs]).statistic)


def errors(pairs: list[Pair]) -> np.ndarray:
    return np.array([pair.heads - pair.fine_tuned for pair in pairs])


def bias(pairs: list[Pair]) -> float:
    return float(errors(pairs).mean())


def root_mean_square(pairs: list[Pair]) -> float:
    return float(np.sqrt((errors(pairs) ** 2).mean()))


def hits(pairs: list[Pair]) -> str:
    """Return how many signs agree, with Clopper and Pearson's interval as if the pairs were independent."""
    if not pairs:
        return "-"
    num_hits = sum(np.sign(pair.heads) == np.sign(pair.fine_tuned) for pair in pairs)
    low, high = stats.binomtest(num_hits, len(pairs)).proportion_ci(method="exact")
    return f"{num_hits} of {len(pairs)} [{low:.2f}, {high:.2f}]"


def table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    print(f"\n## {title}\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


def show_levels() -> None:
    rows, measures_of_levels = [], (pearson, pearson_within, spearman, bias, root_mean_square)
    for name, figure in (("macro-F1", "macro_f1_mean"), ("disagreement", "pairwise_disagreement")):
        every = pair_levels(figure)
        for which, pairs in (("all", every), ("learnt", [pair for pair in every if not pair.at_chance])):
            measures = [without_each(pairs, measure) for measure in measures_of_levels]
            rows.append([name, which, len(pairs), *measures])
    columns = ["figure", "pairs", "n", "Pearson", "Pearson within studies", "Spearman", "bias", "RMSE"]
    table("Levels: each variant at each size", columns, rows)


def show_differences() -> None:
    rows: list[list[Any]] = []
    words: list[list[Any]] = []
    for name, figure in FIGURES:
        every = pair_differences(figure)
        learnt = [pair for pair in every if not pair.at_chance]
        loss = [pair for pair in learnt if pair.name == "llm - gold"]
        others = [pair for pair in learnt if pair.name != "llm - gold"]
        sets = [
            ("all", every),
            ("learnt", learnt),
            ("learnt, LLM - gold", loss),
            ("... at the largest size", [pair for pair in loss if pair.is_top]),
            ("learnt, others", others),
        ]
        for which, pairs in sets:
            measures = [without_each(pairs, measure) for measure in (pearson, bias, root_mean_square)]
            clear = [pair for pair in pairs if pair.is_significant]
            rows.append([name, which, len(pairs), *measures, hits(pairs), hits(clear)])
            same, opposite = (sum(getattr(pair, word) for pair in pairs) for word in Pair._fields[6:8])
            words.append([name, which, len(pairs), same, opposite])
    columns = ["figure", "pairs", "n", "Pearson", "bias", "RMSE", "same sign", "... of the clear ones"]
    table("Differences: each that a report shows", columns, rows)
    table("Verdicts of differences", ["figure", "pairs", "n", "same word", "opposite word"], words)


def show_verdicts() -> None:
    rows = []
    for study in NAMES:
        heads, tuned = read(study, "heads"), read(study, "report")
        for name, figure in FIGURES:
            cells = [describe(results.find("llm", "gold", figure)) for results in (tuned, heads)]
            rows.append([study, name, *cells])
        rows.append([study, "verdict", tuned.verdict.decision, heads.verdict.decision])
    table("LLM - gold at the largest size", ["study", "figure", "fine-tuned", "heads"], rows)


def describe(difference: Comparison | None) -> str:
    if difference is None or difference.interval is None:
        return "-"
    low, high = difference.interval
    return f"{difference.difference:.3f} [{low:.3f}, {high:.3f}] {difference.verdict}"


def half_width(difference: Comparison | None) -> float:
    if difference is None or difference.interval is None:
        return float("nan")
    return (difference.interval[1] - difference.interval[0]) / 2


def show_precision() -> None:
    rows: list[list[str]] = []
    ratios = []
    for study in NAMES:
        for name, figure in FIGURES:
            tuned, heads = (
                half_width(read(study, folder).find("llm", "gold", figure)) for folder in ("report", "heads")
            )
            more = "-"
            if (STUDIES / study / MORE_SEEDS).exists():
                of_more = read(study, MORE_SEEDS).find("llm", "gold", figure, read(study, "report").top)
                more = f"{half_width(of_more):.3f}"
            ratios.append(tuned / heads)
            rows.append([study, name, f"{tuned:.3f}", f"{heads:.3f}", more, f"{ratios[-1]:.2f}"])
    rows.append(["geometric mean", "", "", "", "", f"{np.exp(np.mean(np.log(ratios))):.2f}"])
    columns = ["study", "LLM - gold", "fine-tuned", "heads", "heads, R = 100", "fine-tuned / heads"]
    table("Half the width of the interval, at the largest size", columns, rows)


def show_predictions() -> None:
    """Show the errors with which `hf-recipes advise` uses heads, and those at a smaller size."""
    rows: list[list[str]] = []
    for name, figure in FIGURES:
        misses = []
        for study in NAMES:
            heads, tuned = read(study, "heads"), read(study, "report")
            top, of_tuned = (results.find("llm", "gold", figure) for results in (heads, tuned))
            small = heads.find("llm", "gold", figure, tuned.top // 4)
            if top and of_tuned:
                differences = small.difference if small else np.nan, top.difference, of_tuned.difference
                rows.append([study, name, *(f"{value:.3f}" if np.isfinite(value) else "-" for value in differences)])
                misses.append([difference - of_tuned.difference for difference in (*differences[:2], 0.0)])
        square = np.sqrt(np.nanmean(np.square(misses), axis=0))
        rows.append([f"RMSE (of 0: {square[2]:.3f})", name, *(f"{value:.3f}" for value in square[:2]), ""])
    columns = ["study", "LLM - gold", "heads, a quarter of the size", "heads, largest size", "fine-tuned"]
    table("How heads predict LLM - gold of fine-tuning at the largest size", columns, rows)


def show_ranking() -> None:
    rows = []
    for study in NAMES:
        heads, tuned = read(study, "heads"), read(study, "report")
        variants = sorted(heads.at_top)
        for name, figure in (("macro-F1", "macro_f1_mean"), ("disagreement", "pairwise_disagreement")):
            values = [[getattr(results.at_top[variant], figure) for variant in variants] for results in (heads, tuned)]
            if len(variants) > 2:
                tau, p_value = stats.kendalltau(*values)
                best = [variants[int(np.argmax(row) if name == "macro-F1" else np.argmin(row))] for row in values]
                rows.append([study, name, len(variants), f"{tau:.2f}", f"{p_value:.2f}", *best[::-1]])
    columns = ["study", "figure", "variants", "Kendall's tau", "p", "best, fine-tuned", "best, heads"]
    table("Ranking of the variants at the largest size", columns, rows)


def show_cost() -> None:
    rows = []
    for study in NAMES:
        heads = read(study, "heads")
        seconds = heads.hours_per_seed * 3600 * heads.R / heads.trainings
        rows.append([study, heads.trainings, f"{seconds:.3f}"])
    table(
        "Seconds for a head, without encoding the texts; other work was on the two cores",
        ["study", "runs", "seconds"],
        rows,
    )


def main() -> None:
    print(INTRODUCTION)
    show_cost()
    show_levels()
    show_differences()
    show_verdicts()
    show_precision()
    show_predictions()
    show_ranking()


if __name__ == "__main__":
    main()
