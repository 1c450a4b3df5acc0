"""Print docs/study/tables.md from the results in docs/study; docs/study.md has some of its tables.

.venv/bin/python benchmarks/study_tables.py [--figure docs/study/curves-by-annotator.png] > docs/study/tables.md
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from hf_recipes.analysis.metric_modules import LEVEL
from hf_recipes.analysis.schema import Interval, Results, read_results

STUDIES = Path(__file__).resolve().parent.parent / "docs" / "study"
FLIP = "llm-flip-replace"
DATA, ANNOTATORS = ("tweets", "manifestos", "toxic"), ("0.5b", "1.5b")
HEADS, FINE_TUNED = "heads-100", "report"  # the folders of their results
INTRODUCTION = """\
# The study: setup and all tables

Explained in [The study](../study.md). All tables come from `python benchmarks/study_tables.py`.

| setting | value |
|---|---|
| texts | tweets: all 2,601 for training and 1,000 for tests. Manifestos and toxic: 3,300 and 1,000 |
| clusters | the document of a manifesto: its country, party and date, joined by spaces in a column `document` |
| prompts | plain, four examples of each class, batch calibration, the same for both LLMs; not tuned |
| passes | 0.5B: five draws of examples on tweets, two on manifestos and toxic; 1.5B: one |
| heads | linear, on MiniLM; R = 100: a seed sets training texts, first weights and the order of batches |
| hours | both LLMs at once, a core each: 1.5B 0.4 to 0.8 a data set, 0.5B 0.2 to 0.3 a pass; heads 0.1 to 0.3 a study |
| precision | bfloat16, the LLM's last layer in float32; vLLM 0.32, torch 2.13, two cores with AVX-512, 2026-11-30 |

Few-shot examples leave the pool. The two studies of a data set have other examples, so gold differs a little.

A claim *holds* if the 95% interval of its difference (over seeds and test texts, 1,600 training texts) excludes 0 in
the claimed direction, for primary comparisons after Holm's correction. Otherwise it *does not hold* if the interval
excludes a difference as large as the study was planned for: 0.02 in macro-F1, 0.03 in disagreement and copied errors.
Otherwise it is *inconclusive*.
*Not comparable*: gold is more accurate at every size.
"""
#: Tables 1 and 2 of Lu & Smith 2025: macro-F1, alpha and unanimity with gold, and with other labels.
PAPER = {
    "manifestos": {
        "gold": (0.794, 0.843, 0.820),
        "3B": (0.419, 0.527, 0.500),
        "7B": (0.606, 0.438, 0.305),
        "7B, gold for uncertain texts": (0.625, 0.598, 0.528),
        "7B, gold for flips": (0.780, 0.826, 0.815),
    },
    "toxic": {
        "gold": (0.752, 0.841, 0.885),
        "3B": (0.652, 0.573, 0.474),
        "7B": (0.565, 0.685, 0.775),
        "7B, gold for uncertain texts": (0.614, 0.684, 0.562),
        "7B, gold for flips": (0.741, 0.615, 0.772),
    },
}
OURS = {
    "": "llm",
    ", gold for uncertain texts": "llm-entropy-replace",
    ", gold for flips": FLIP,
}
PLANNED = {"macro_f1": 0.02, "pairwise_disagreement": 0.03, "copied": 0.03}
COLORS = {"0.5b": "#D55E00", "1.5b": "#0072B2"}


def show(value: float, interval: Interval, sign: str = "+") -> str:
    """Return a number with its interval; a difference with its sign."""
    return f"{value:{sign}.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def judge(difference: object, sign: int, figure: str) -> str:
    """Return the word for a claimed direction (`sign`) of a difference, and the difference."""
    if difference is None:
        return "not run"
    low, high = sorted(sign * bound for bound in difference.interval)
    p_value = getattr(difference, "p_holm", None)
    is_clear = low > 0 and (p_value is None or p_value < 1 - LEVEL)
    word = "holds" if is_clear else "does not hold" if high < PLANNED[figure] else "inconclusive"
    return f"**{word}** {show(difference.difference, difference.interval)}"


def compare(variant: str, against: str, figure: str, sign: int) -> Callable[[Results], str]:
    """Return what fills a cell with a comparison at the largest size."""
    return lambda results: judge(results.find(variant, against, figure), sign, figure)


def describe_plateau(results: Results) -> str:
    """Return whether LLM labels stop gaining before gold does, and the gains of both."""
    plateaus = [p for p in results.plateaus if (p.variant, p.figure) == ("llm", "macro_f1")]
    if not plateaus:
        return "LLM labels teach nothing"  # no better than chance
    plateau = plateaus[0]
    word = {"yes": "holds", "no": "does not hold", "inconclusive": "inconclusive"}[plateau.premature_plateau]
    gold = show(plateau.against_gain, plateau.against_gain_interval)
    return f"**{word}** {show(plateau.gain, plateau.gain_interval)}, gold {gold}"


def describe_rare_class(results: Results) -> str:
    """Return the F1 of the rarest class of the pool, and of the most common one, with gold and LLM labels."""
    shares = results.annotator.gold_share
    classes = {entry.name: entry for entry in results.class_f1}
    named = [(name, classes[name]) for name in (min(shares, key=shares.get), max(shares, key=shares.get))]
    return "; ".join(f"{name} {entry.gold:.2f} → {entry.value:.2f}" for name, entry in named)


def describe_copies(results: Results) -> str:
    """Return how much more often classifiers repeat the LLM's errors with its labels than with gold."""
    cells = next(cells for cells in results.error_cells if (cells.variant, cells.size) == ("llm", results.top))
    return judge(cells.copied_above_gold, 1, "copied")


def describe_regained(variant: str, control: str) -> Callable[[Results], str]:
    """Return what fills a cell with the share of the loss that a remedy regains, and its gain beyond the control."""

    def describe(results: Results) -> str:
        shares = [entry for entry in results.regained if (entry.variant, entry.size) == (variant, results.top)]
        if variant not in results.at_top:
            return "not run"
        if not shares:
            return f"no share; {compare(variant, control, 'macro_f1', 1)(results)}"
        share = shares[0]
        interval = f" [{share.interval[0]:.2f}, {share.interval[1]:.2f}]" if share.interval else ""
        return f"{share.share:.2f}{interval}; {compare(variant, control, 'macro_f1', 1)(results)}"

    return describe


def describe_equal_accuracy(results: Results) -> str:
    """Return the difference in disagreement at the same accuracy."""
    if results.iso_accuracy is None:
        return "not comparable"  # gold is more accurate at every size
    return judge(results.iso_accuracy, 1, "pairwise_disagreement")


#: The claims on which runs of one size decide.
OF_ONE_SIZE: dict[str, Callable[[Results], str]] = {
    "LLM labels cost macro-F1 (LLM less gold)": compare("llm", "gold", "macro_f1", -1),
    "... more than random errors (LLM less noise-fixed)": compare("llm", "noise-fixed", "macro_f1", -1),
    "... most in rare classes (F1, gold → LLM; rarest, commonest class)": describe_rare_class,
    "runs disagree more (LLM less gold)": compare("llm", "gold", "pairwise_disagreement", 1),
    "... more than with random errors (LLM less noise-fixed)": compare(
        "llm", "noise-fixed", "pairwise_disagreement", 1
    ),
    "classifiers copy the LLM's errors (LLM less gold)": describe_copies,
}
CLAIMS: dict[str, Callable[[Results], str]] = {
    **OF_ONE_SIZE,
    "runs disagree more at equal accuracy (LLM less gold)": describe_equal_accuracy,
    "the plateau comes too early (gain of the last doubling)": describe_plateau,
    "gold for uncertain texts: share of the loss regained; macro-F1 beyond random texts": describe_regained(
        "llm-entropy-replace", "llm-random-replace"
    ),
    "gold where prompts flip: the same": describe_regained(FLIP, "llm-flip-random-replace"),
    "neither stabilizes: uncertain texts": lambda results: deny(results, "llm-entropy-replace"),
    "neither stabilizes: flips": lambda results: deny(results, FLIP),
}


def deny(results: Results, variant: str) -> str:
    """Return whether a remedy does not lower disagreement."""
    difference = results.find(variant, "llm", "pairwise_disagreement")
    if difference is None or difference.interval is None:
        return "not run"
    is_lower = difference.verdict == "lower" and (difference.p_holm is None or difference.p_holm < 1 - LEVEL)
    is_near = difference.interval[0] > -PLANNED["pairwise_disagreement"]
    word = "does not hold" if is_lower else "holds" if is_near else "inconclusive"
    return f"**{word}** {show(difference.difference, difference.interval)}"


def describe_gold_match(results: Results) -> str:
    """Return how many gold labels equal all LLM labels in macro-F1, between two sizes of gold."""
    sizes: dict[bool, list[int]] = {False: [], True: []}
    for match in results.gold_match:
        if match.verdict != "inconclusive" and (match.p_holm is None or match.p_holm < 1 - LEVEL):
            sizes[match.verdict == "higher"].append(match.size)
    bounds = [f"more than {max(sizes[False]):,}"] if sizes[False] else []
    bounds += [f"fewer than {min(sizes[True]):,}"] if sizes[True] else []
    return ", ".join(bounds) or "inconclusive at every size"


BEYOND: dict[str, Callable[[Results], str]] = {
    "wrong labels as such make runs disagree (noise-fixed less gold)": compare(
        *("noise-fixed", "gold", "pairwise_disagreement", 1)
    ),
    "gold labels that are worth as much as 1,600 LLM labels": describe_gold_match,
    "one person's labels are better than the LLM's (macro-F1)": compare("one-annotator", "llm", "macro_f1", 1),
    "... and runs disagree less": compare("one-annotator", "llm", "pairwise_disagreement", -1),
    "probabilities teach more than labels (macro-F1)": compare("llm-soft", "llm", "macro_f1", 1),
    "the majority of the passes is better than one (macro-F1)": compare("llm-majority", "llm", "macro_f1", 1),
    "a quarter of gold alone is better than LLM labels (macro-F1)": compare("gold-only", "llm", "macro_f1", 1),
    "dropping uncertain texts stabilizes (less as many random ones)": compare(
        *("llm-entropy-drop", "llm-random-drop", "pairwise_disagreement", -1)
    ),
    "gold for uncertain texts stabilizes more than for random ones": compare(
        *("llm-entropy-replace", "llm-random-replace", "pairwise_disagreement", -1)
    ),
}


def read_all(folder: str) -> dict[tuple[str, str], Results]:
    """Return the results of each data set and annotator that have them."""
    files = {(data, annotator): STUDIES / f"{data}-{annotator}" / folder for data in DATA for annotator in ANNOTATORS}
    return {
        place: read_results((file / "results.json").read_bytes())
        for place, file in files.items()
        if (file / "results.json").exists()
    }


def list_sources(results: Results) -> list[str]:
    """Return the cells of a study's row in the table of sources of chance."""
    parts = next(entry for entry in results.components if entry.variant == "llm")
    shares = [parts.disagreement[source] for source in ("subset", "pass", "all")]
    cells = [show(share.value, share.interval, "") for share in shares]
    added = results.find("llm", "gold", "pairwise_disagreement")
    return [*cells, show(added.difference, added.interval), str(parts.levels), str(parts.n)]


def list_levels(results: Results) -> list[str]:
    """Return the cells of a study's row in the table of levels."""
    annotator, top = results.annotator, results.at_top

    def level(variant: str, figure: str) -> str:
        return show(getattr(top[variant], figure), getattr(top[variant], f"{figure}_interval"), "")

    figures = ("macro_f1_mean", "pairwise_disagreement", "krippendorff_alpha")
    return [
        *("fine-tuned" if results.method == "finetune" else "heads", str(results.top), f"{annotator.accuracy:.3f}"),
        *(f"{level('gold', figure)} → {level('llm', figure)}" for figure in figures),
        f"{top['gold'].unanimity_of_5:.3f} → {top['llm'].unanimity_of_5:.3f}",
        str(top["llm"].R),
        str(top["llm"].n),
    ]


def print_beside_paper(results: dict[tuple[str, str], Results]) -> None:
    """Print macro-F1, alpha and the unanimity of five runs beside the paper's."""
    print("| texts | labels | macro-F1 | alpha | five runs agree | by |\n|---|---|---|---|---|---|")
    for data in DATA:
        for labels, figures in PAPER.get(data, {}).items():
            print(f"| {data} | {labels} | {' | '.join(f'{figure:.3f}' for figure in figures)} | paper |")
        ours = {(a, name): results[d, a].at_top for d, a in results if d == data for name in ("gold", *OURS)}
        for (annotator, name), top in ours.items():
            result = top.get(OURS.get(name, "gold"))
            if result is not None and (name != "gold" or annotator == ANNOTATORS[-1]):
                labels = "gold" if name == "gold" else f"{annotator[:3]}B{name}"
                figures = (result.macro_f1_mean, result.krippendorff_alpha, result.unanimity_of_5)
                print(f"| {data} | {labels} | {' | '.join(f'{figure:.3f}' for figure in figures)} | heads |")


def draw(results: dict[tuple[str, str], Results], file: Path) -> None:
    """Draw macro-F1 by the number of training texts, as Figure 2 of the paper, with 95% intervals."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(DATA), figsize=(12, 3.4), layout="constrained")
    for axis, name in zip(axes, DATA, strict=True):
        for annotator, marker in zip(ANNOTATORS, "os", strict=True):
            lines = {"gold": ("#000000", "gold"), "llm": (COLORS[annotator], f"LLM, {annotator[:3]}B")}
            lines["noise-fixed"] = (COLORS[annotator], f"random errors like {annotator[:3]}B")
            for variant, (color, label) in lines.items():
                points = [entry for entry in results[name, annotator].variants if entry.variant == variant]
                if variant == "gold" and annotator != ANNOTATORS[-1]:
                    continue  # nearly the same runs
                points.sort(key=lambda entry: entry.size)
                sizes, low, high = zip(*((p.size, *p.macro_f1_mean_interval) for p in points), strict=True)
                style = "--" if variant == "noise-fixed" else "-"
                axis.plot(sizes, [p.macro_f1_mean for p in points], style, marker=marker, color=color, label=label)
                axis.fill_between(sizes, low, high, color=color, alpha=0.12, linewidth=0)
        axis.set(title=name, xscale="log", xlabel="training texts")
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.minorticks_off()
    axes[0].set_ylabel("macro-F1")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(file, dpi=110)


def print_claims(
    title: str, rows: dict[str, Callable[[Results], str]], results: dict[tuple[str, str], Results]
) -> None:
    """Print a row for each claim or question, with a cell for each data set."""
    print(f"In each cell 0.5B, then 1.5B.\n\n| {title} | {' | '.join(DATA)} |\n|{'---|' * (len(DATA) + 1)}")
    for claim, describe in rows.items():
        cells = [
            "<br>".join(describe(results[d, a]) if (d, a) in results else "not run" for a in ANNOTATORS) for d in DATA
        ]
        print(f"| {claim} | {' | '.join(cells)} |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, help="where to draw macro-F1 by size")
    arguments = parser.parse_args()
    results, fine_tuned = read_all(HEADS), read_all(FINE_TUNED)
    if arguments.figure:
        draw(results, arguments.figure)
    print(INTRODUCTION)
    print("## The paper's claims\n")
    print_claims("claim of the paper", CLAIMS, results)
    print("## Fine-tuned encoders\n\n400 training texts, R = 20.", end=" ")
    print_claims("claim of the paper", OF_ONE_SIZE, fine_tuned)
    print("## What the paper could not ask\n")
    print_claims("question", BEYOND, results)
    columns = [
        "study",
        "by",
        "training texts",
        "LLM's accuracy",
        "macro-F1",
        "disagreement",
        "alpha",
        "five runs agree",
    ]
    columns += ["R", "n"]
    print(f"## Scores and stability\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for studies in (results, fine_tuned):
        for (name, annotator), result in studies.items():
            print(f"| {name}, {annotator[:3]}B | {' | '.join(list_levels(result))} |")
    columns = ["study", "the training texts", "the few-shot examples", "both", "both, LLM less gold", "levels", "n"]
    print("\n## Beside the paper\n")
    print_beside_paper(results)
    print(f"\n## Runs that differ only in ...\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, annotator in results:
        file = STUDIES / f"{name}-{annotator}" / "sources" / "results.json"
        if file.exists():
            print(f"| {name}, {annotator[:3]}B | {' | '.join(list_sources(read_results(file.read_bytes())))} |")


if __name__ == "__main__":
    main()
