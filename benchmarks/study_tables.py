"""Print docs/study/tables.md from the results in docs/study; docs/study.md has some of its tables.

.venv/bin/python benchmarks/study_tables.py [--figure docs/study/curves-by-annotator.png] > docs/study/tables.md
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from hf_recipes.analysis.metric_modules import LEVEL
from hf_recipes.analysis.schema import Figure, Interval, Results, read_results

STUDIES = Path(__file__).resolve().parent.parent / "docs" / "study"
DATA, LLMS = ("tweets", "manifestos", "toxic"), {"0.5b": "0.5B", "1.5b": "1.5B"}
HEADS, FINE_TUNED, SAME_SEEDS = "heads-100", "report", "heads"  # the folders of their results
CALIBRATIONS = {"batch": HEADS, "contextual": "heads-contextual"}
FINE_TUNED_SIZES = {400: "", 1600: "-1600"}  # the training texts, and how the names of their studies end
UNCERTAIN, FLIP = "llm-entropy-replace", "llm-flip-replace"
RANDOM, RANDOM_FLIP = "llm-random-replace", "llm-flip-random-replace"
#: The differences that the study was planned for, and a share of the loss.
PLANNED = {"macro_f1": 0.02, "pairwise_disagreement": 0.03, "copied": 0.03}
PAPER_SHARE = 0.6
SIZES = (100, 200, 400, 800, 1600)
AT_CHANCE = "at chance level"
INTRODUCTION = """\
# The study: setup and all tables

Explained in [The study](../study.md). All tables come from `python benchmarks/study_tables.py`.

| setting | value |
|---|---|
| LLMs | Qwen2.5-Coder-0.5B-Instruct and 1.5B-Instruct, converted from 4 bits (Q4_K_M) to bfloat16 |
| texts | tweets: all 2,601 for training and 1,000 for tests. Manifestos and toxic: 3,300 and 1,000 |
| clusters | the document of a manifesto: its country, party and date, joined by spaces in a column `document` |
| prompts | plain, four examples of each class, batch calibration, the same for both LLMs |
| tuned | the wording for tweets, with SmolLM2-135M on 150 validation tweets; nothing else |
| passes | 0.5B: five draws of examples on tweets, two on manifestos and toxic; 1.5B: one |
| heads | linear, on MiniLM; R = 100: a seed sets training texts, first weights and the order of batches |
| fine-tuned | MiniLM; R = 20 with 400 texts, 10 with 1,600: a seed sets texts, first weights, order and dropout |
| hours | 1.5B 0.4 to 0.8 a data set, 0.5B 0.1 to 0.3 a pass, a core each; heads 0.1 a study |
| hours of fine-tuning | 0.4 a study with 400 texts, 0.6 with 1,600 |
| precision | LLMs bfloat16, their last layer and MiniLM float32; vLLM 0.32, torch 2.13 |
| hardware | two cores with AVX-512, 2026-11-30; of toxic and 1,600 texts fine-tuning ran with AMX too, 2026-12-01 |

* All runs of a study share one draw of few-shot examples. Claims hold for these labels.
* Few-shot examples of all passes leave the pool. 0.5B has more passes, so gold differs a little between the LLMs.
* Manifestos: 614 of the 1,000 test texts have a document, of 227. The others count alone, so intervals may be too
  narrow.
* Toxic: gold is the vote of the same people of whom one is drawn as *one person*, who therefore agrees too often with
  it (0.906, against 0.820 of another person with the others).
* Manifestos have no votes: part of the LLM's errors there may be errors of gold.

A claim *holds* if the 95% interval of its difference (over seeds and test texts) excludes 0 in the claimed direction,
and the p-value, where it is corrected by Holm's method, is below 0.05. An effect that holds can be small. It *does not
hold* if the interval reaches 0 or the other direction, and excludes a difference as large as the study was planned for:
0.02 in macro-F1 and F1, 0.03 in disagreement and copied errors. It is *small* if the interval excludes 0 and such a
difference, but the corrected p-value is not below 0.05. Otherwise it is *inconclusive*. A share of the loss is compared
with 0.6. Runs at chance level get no verdict on disagreement. The interval of the rarest class takes its four values as
independent, and is probably too wide.
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
OURS = {"": "llm", ", gold for uncertain texts": UNCERTAIN, ", gold for flips": FLIP}
COLORS = {"0.5b": "#D55E00", "1.5b": "#0072B2"}
Studies = dict[tuple[str, str], Results]  # by data set and LLM
Row = Callable[[Results], str]


def show(value: float, interval: Interval, sign: str = "+") -> str:
    """Return a number with its interval; a difference with its sign."""
    return f"{value:{sign}.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def judge(difference: float, interval: Interval, p_holm: float | None, sign: int, planned: float) -> str:
    """Return the word for a difference that is claimed to have this sign, and the difference."""
    if interval is None:
        return show(difference, interval)
    low, high = sorted(sign * bound for bound in interval)
    if low > 0 and (p_holm is None or p_holm < 1 - LEVEL):
        word = "holds"
    elif high < planned:
        word = "small" if low > 0 else "does not hold"
    else:
        word = "inconclusive"
    return f"**{word}** {show(difference, interval)}"


def is_at_chance(results: Results, *variants: str, size: int | None = None) -> bool:
    """Return whether one of these variants is no better than chance, by default at the largest size."""
    of_size = {entry.variant: entry for entry in results.variants if entry.size == (size or results.top)}
    return not all(of_size[variant].above_chance for variant in variants)


def compare(variant: str, against: str, figure: str, sign: int) -> Row:
    """Return what fills a cell with a comparison at the largest size."""

    def describe(results: Results) -> str:
        difference = results.find(variant, against, figure)
        if difference is None:
            return "not run"
        if figure == "pairwise_disagreement" and is_at_chance(results, variant, against):
            return AT_CHANCE
        return judge(difference.difference, difference.interval, difference.p_holm, sign, PLANNED[figure])

    return describe


def describe_plateau(results: Results) -> str:
    """Return what gold gains more than LLM labels from the last doubling of the training texts, and their gain."""
    if is_at_chance(results, "llm"):
        return AT_CHANCE
    plateau = next(entry for entry in results.plateaus if (entry.variant, entry.figure) == ("llm", "macro_f1"))
    less = judge(plateau.gain_difference, plateau.gain_difference_interval, None, 1, PLANNED["macro_f1"])
    return f"{less}; LLM {show(plateau.gain, plateau.gain_interval)}"


def describe_rare_class(results: Results) -> str:
    """Return what F1 of the rarest class of the pool loses more than that of the most common one.

    The interval takes the four values as independent.
    """
    names, shares = results.label_names, results.annotator.gold_share
    losses, widths, cells = [], [], []
    for name in (min(shares, key=shares.get), max(shares, key=shares.get)):
        place = names.index(name)
        gold, llm = (results.at_top[variant] for variant in ("gold", "llm"))
        values = [variant.per_class_f1_mean[place] for variant in (gold, llm)]
        losses.append(values[0] - values[1])
        widths += [np.diff(variant.per_class_f1_mean_interval[place])[0] / 2 for variant in (gold, llm)]
        cells.append(f"{name} {values[0]:.2f} → {values[1]:.2f}")
    difference, width = losses[0] - losses[1], float(np.sqrt(np.square(widths).sum()))
    word = judge(difference, (difference - width, difference + width), None, 1, PLANNED["macro_f1"])
    return f"{word}; {', '.join(cells)}"


def describe_copies(above: str, results: Results) -> str:
    """Return how much more often classifiers repeat the LLM's errors with its labels than with gold or noise."""
    cells = next(cells for cells in results.error_cells if (cells.variant, cells.size) == ("llm", results.top))
    more = getattr(cells, above)
    return judge(more.difference, more.interval, more.p_holm, 1, PLANNED["copied"])


def describe_regained(variant: str, results: Results) -> str:
    """Return the share of the loss that a remedy regains, and how many gold labels it takes."""
    if variant not in results.at_top:
        return "not run"
    if is_at_chance(results, "llm", variant):
        return AT_CHANCE
    regained = next(entry for entry in results.regained if (entry.variant, entry.size) == (variant, results.top))
    low, high = regained.interval
    word = "holds" if low > PAPER_SHARE else "inconclusive"
    if high < PAPER_SHARE:
        word = "does not hold"
    gold = round(np.mean(results.at_top[variant].gold_train_labels))
    return f"**{word}** {regained.share:.2f} [{low:.2f}, {high:.2f}]; {gold} gold labels"


def describe_equal_accuracy(results: Results) -> str:
    """Return the difference in disagreement at the same accuracy."""
    if results.iso_accuracy is None:
        return "not comparable"  # gold is more accurate at every size
    return show(results.iso_accuracy.difference, results.iso_accuracy.interval)


def describe_gold_match(results: Results) -> str:
    """Return how many gold labels equal all LLM labels in macro-F1, between two sizes of gold."""
    sizes: dict[bool, list[int]] = {False: [], True: []}
    for match in results.gold_match:
        if match.verdict != "inconclusive" and (match.p_holm is None or match.p_holm < 1 - LEVEL):
            sizes[match.verdict == "higher"].append(match.size)
    bounds = [f"more than {max(sizes[False]):,}"] if sizes[False] else []
    bounds += [f"fewer than {min(sizes[True]):,}"] if sizes[True] else []
    return ", ".join(bounds) or "inconclusive at every size"


#: The rows on which runs of gold, LLM labels and random errors at one size decide.
CLAIMS_OF_ONE_SIZE: list[tuple[str, Row]] = [
    ("LLM labels cost macro-F1 (LLM less gold)", compare("llm", "gold", "macro_f1", -1)),
    ("the rarest class loses more F1 than the commonest (difference of the losses)", describe_rare_class),
    ("runs disagree more (LLM less gold)", compare("llm", "gold", "pairwise_disagreement", 1)),
    ("classifiers copy the LLM's errors (LLM less gold)", partial(describe_copies, "copied_above_gold")),
]
CLAIMS = [
    *CLAIMS_OF_ONE_SIZE,
    ("the last doubling of the texts adds less macro-F1 than with gold (gold less LLM)", describe_plateau),
    ("gold for uncertain texts regains 60% of the loss (the paper: 60 to 75%)", partial(describe_regained, UNCERTAIN)),
    ("gold where prompts flip regains 60% of the loss", partial(describe_regained, FLIP)),
]
CONTROLS_OF_ONE_SIZE: list[tuple[str, Row]] = [
    ("LLM labels cost more macro-F1 than random errors", compare("llm", "noise-fixed", "macro_f1", -1)),
    ("runs disagree more than with random errors", compare("llm", "noise-fixed", "pairwise_disagreement", 1)),
    ("classifiers copy more errors than with random ones", partial(describe_copies, "copied_above_noise")),
]
CONTROLS = [
    *CONTROLS_OF_ONE_SIZE,
    ("disagreement at equal accuracy (LLM less gold)", describe_equal_accuracy),
    ("gold for uncertain texts beats gold for random texts (macro-F1)", compare(UNCERTAIN, RANDOM, "macro_f1", 1)),
    ("... beats the same gold labels alone (macro-F1)", compare(UNCERTAIN, "gold-only", "macro_f1", 1)),
    ("... makes runs disagree less than LLM labels alone", compare(UNCERTAIN, "llm", "pairwise_disagreement", -1)),
    ("... and less than gold for random texts", compare(UNCERTAIN, RANDOM, "pairwise_disagreement", -1)),
    ("gold where prompts flip beats gold for random texts (macro-F1)", compare(FLIP, RANDOM_FLIP, "macro_f1", 1)),
    ("... makes runs disagree less than LLM labels alone", compare(FLIP, "llm", "pairwise_disagreement", -1)),
    ("... and less than gold for random texts", compare(FLIP, RANDOM_FLIP, "pairwise_disagreement", -1)),
]
RANDOM_ERRORS: tuple[str, Row] = (
    "wrong labels as such make runs disagree (random errors less gold)",
    compare("noise-fixed", "gold", "pairwise_disagreement", 1),
)
BEYOND: list[tuple[str, Row]] = [
    RANDOM_ERRORS,
    ("gold labels that are worth as much as all LLM labels", describe_gold_match),
    ("a quarter of gold alone is better than LLM labels (macro-F1)", compare("gold-only", "llm", "macro_f1", 1)),
    ("one person's labels are better than the LLM's (macro-F1)", compare("one-annotator", "llm", "macro_f1", 1)),
    ("... and runs disagree less", compare("one-annotator", "llm", "pairwise_disagreement", -1)),
    ("the majority of five passes is better than the first (macro-F1)", compare("llm-majority", "llm", "macro_f1", 1)),
    ("probabilities teach more than labels (macro-F1)", compare("llm-soft", "llm", "macro_f1", 1)),
    (
        "without uncertain texts runs disagree less than with all",
        compare("llm-entropy-drop", "llm", "pairwise_disagreement", -1),
    ),
    (
        "... and less than without as many random ones",
        compare("llm-entropy-drop", "llm-random-drop", "pairwise_disagreement", -1),
    ),
]


def read_all(folder: str, ending: str = "") -> Studies:
    """Return the results in this folder of each study; `ending` of its name comes after data set and LLM."""
    studies = {}
    for data in DATA:
        for llm in LLMS:
            file = STUDIES / f"{data}-{llm}{ending}" / folder / "results.json"
            if file.exists():
                studies[data, llm] = read_results(file.read_bytes())
    return studies


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def print_answers(title: str, rows: list[tuple[str, Row]], studies: Studies) -> None:
    """Print a row for each claim or question that ran, with a cell for each data set: 0.5B, then 1.5B."""
    table = []
    for claim, describe in rows:
        cells = []
        for data in DATA:
            of_data = [studies.get((data, llm)) for llm in LLMS]
            cells.append("<br>".join("not run" if results is None else describe(results) for results in of_data))
        if any(part != "not run" for cell in cells for part in cell.split("<br>")):
            table.append([claim, *cells])
    print_table([title, *DATA], table)


def list_sources(results: Results) -> list[str]:
    """Return the cells of a study's row in the table of sources of chance."""
    parts = next(entry for entry in results.components if entry.variant == "llm")
    shares = [parts.disagreement[source] for source in ("subset", "pass", "all")]
    cells = [show(share.value, share.interval, "") for share in shares]
    added = results.find("llm", "gold", "pairwise_disagreement")
    return [*cells, show(added.difference, added.interval), str(parts.levels), str(parts.n)]


def list_levels(results: Results) -> list[str]:
    """Return the cells of a study's row in the table of levels."""
    gold, llm = results.at_top["gold"], results.at_top["llm"]
    cells = [str(results.top), str(llm.R), str(llm.n), f"{results.annotator.accuracy:.3f}"]
    for figure in ("macro_f1_mean", "pairwise_disagreement", "krippendorff_alpha"):
        levels = [show(getattr(entry, figure), getattr(entry, f"{figure}_interval"), "") for entry in (gold, llm)]
        cells.append(" → ".join(levels))
    cells.append(f"{gold.unanimity_of_5:.3f} → {llm.unanimity_of_5:.3f}")
    return [*cells, "no" if is_at_chance(results, "llm") else "yes"]


def compare_llms() -> list[list[str]]:
    """Return the rows of the table of two LLMs."""
    rows = []
    for data, record in json.loads((STUDIES / "llms-compared.json").read_text()).items():
        score, disagreement = (
            show(record[f"{figure}_difference"], record[f"{figure}_interval"])
            for figure in ("macro_f1", "pairwise_disagreement")
        )
        if not record["above_chance"]:
            disagreement = AT_CHANCE
        rows.append([data, score, disagreement, str(record["R"]), str(record["n"])])
    return rows


def list_summary(results: Results) -> list[str]:
    """Return the cells of a study's row in the summary: gold, LLM labels and the interval of their difference."""
    gold, llm = results.at_top["gold"], results.at_top["llm"]
    cells = [f"{results.annotator.accuracy:.2f}"]
    for level, figure in (("macro_f1_mean", "macro_f1"), ("pairwise_disagreement", "pairwise_disagreement")):
        low, high = results.find("llm", "gold", figure).interval
        cells.append(f"{getattr(gold, level):.3f} → {getattr(llm, level):.3f} [{low:.3f}, {high:.3f}]")
    if is_at_chance(results, "gold", "llm"):
        cells[-1] = AT_CHANCE
    return [*cells, describe_gold_match(results)]


def show_llm_less_gold(results: Results, figure: Figure, size: int) -> str:
    if figure == "pairwise_disagreement" and is_at_chance(results, "gold", "llm", size=size):
        return AT_CHANCE
    difference = results.find("llm", "gold", figure, size)
    return show(difference.difference, difference.interval)


def list_by_size(results: Results) -> list[list[str]]:
    """Return the cells of a study's two rows in the table of sizes: LLM less gold at each size."""
    rows = []
    for name, figure in (("macro-F1", "macro_f1"), ("disagreement", "pairwise_disagreement")):
        rows.append([name, *(show_llm_less_gold(results, figure, size) for size in SIZES)])
    return rows


def list_both(fine_tuned: Results, heads: Results) -> list[str]:
    """Return LLM less gold by fine-tuning and by heads with the same texts and seeds."""
    cells = [f"{fine_tuned.top:,}", str(fine_tuned.R)]
    for figure in ("macro_f1", "pairwise_disagreement"):
        for results in (fine_tuned, heads):
            cells.append(show_llm_less_gold(results, figure, fine_tuned.top))
    return cells


def list_beside_paper(method: str, data: str, name: str, results: Results) -> list[list[str]]:
    """Return rows of macro-F1, alpha and the share of texts on which five runs agree, as in the paper's tables."""
    variants = {f"gold, beside {name}": "gold", **{f"{name}{suffix}": variant for suffix, variant in OURS.items()}}
    rows = []
    for labels, variant in variants.items():
        entry = results.at_top.get(variant)
        if entry is not None:
            figures = (entry.macro_f1_mean, entry.krippendorff_alpha, entry.unanimity_of_5)
            by = f"{method}, {results.top} texts, R = {entry.R}" + ("" if entry.above_chance else f", {AT_CHANCE}")
            rows.append([data, labels, *(f"{figure:.3f}" for figure in figures), by])
    return rows


def draw(studies: Studies, file: Path) -> None:
    """Draw macro-F1 by the number of training texts, as Figure 2 of the paper, with 95% intervals."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(DATA), figsize=(12, 3.4), layout="constrained")
    for axis, data in zip(axes, DATA, strict=True):
        for (llm, name), marker in zip(LLMS.items(), "os", strict=True):
            lines = {"gold": ("#000000", "gold"), "llm": (COLORS[llm], f"LLM, {name}")}
            lines["noise-fixed"] = (COLORS[llm], f"random errors like {name}")
            for variant, (color, label) in lines.items():
                points = [entry for entry in studies[data, llm].variants if entry.variant == variant]
                if variant == "gold" and llm != list(LLMS)[-1]:
                    continue  # nearly the same runs
                points.sort(key=lambda entry: entry.size)
                sizes, low, high = zip(*((p.size, *p.macro_f1_mean_interval) for p in points), strict=True)
                style = "--" if variant == "noise-fixed" else "-"
                axis.plot(sizes, [p.macro_f1_mean for p in points], style, marker=marker, color=color, label=label)
                axis.fill_between(sizes, low, high, color=color, alpha=0.12, linewidth=0)
        axis.set(title=data, xscale="log", xlabel="training texts")
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.minorticks_off()
    axes[0].set_ylabel("macro-F1")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(file, dpi=110)


def print_calibrations() -> None:
    """Print the LLM's accuracy, and LLM less gold, with each calibration."""
    print("\n## Another calibration\n\nHeads, 1,600 training texts, R = 100, n = 1,000. Other tables have `batch`.")
    print("`keep_labels.py restore` made the study, with `--annotate.calibration=contextual --annotate.passes=[]")
    print("--grid.variants=[gold,llm,noise-fixed] --grid.curves=null --grid.sizes=[1600]`.\n")
    rows = []
    studies = {calibration: read_all(folder) for calibration, folder in CALIBRATIONS.items()}
    for data, llm in studies["contextual"]:
        for calibration, of_calibration in studies.items():
            results = of_calibration[data, llm]
            cells = [f"{data}, {LLMS[llm]}", calibration, f"{results.annotator.accuracy:.2f}"]
            score = show_llm_less_gold(results, "macro_f1", results.top)
            disagreement = show_llm_less_gold(results, "pairwise_disagreement", results.top)
            rows.append([*cells, f"{results.annotator.macro_f1:.2f}", score, disagreement])
    columns = ["study", "calibration", "accuracy of the labels", "their macro-F1", "LLM less gold: macro-F1"]
    print_table([*columns, "disagreement"], rows)


def print_fine_tuned(fine_tuned: list[Studies], same_seeds: list[Studies]) -> None:
    """Print the answers of fine-tuned encoders at each size, and LLM less gold beside heads with the same seeds."""
    questions = [*CLAIMS_OF_ONE_SIZE, *CONTROLS_OF_ONE_SIZE, RANDOM_ERRORS]
    for size, studies in zip(FINE_TUNED_SIZES, fine_tuned, strict=True):
        if studies:
            first = next(iter(studies.values()))
            print(f"\n## Fine-tuned encoders, {size:,} training texts\n\nR = {first.R}, n = {first.n:,}.\n")
            print_answers("claim", questions, studies)
    print("\n## Fine-tuned encoders and heads\n\nWith the same training texts and seeds.")
    print("Many runs of toxic, 0.5B, are at chance level.\n")
    columns = ["LLM less gold", "texts", "R", "macro-F1: fine-tuned", "heads", "disagreement: fine-tuned", "heads"]
    rows = []
    for of_size, of_heads in zip(fine_tuned, same_seeds, strict=True):
        rows += [[f"{d}, {LLMS[llm]}", *list_both(of_size[d, llm], of_heads[d, llm])] for d, llm in of_size]
    print_table(columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, help="where to draw macro-F1 by size")
    arguments = parser.parse_args()
    heads = read_all(HEADS)
    fine_tuned = [read_all(FINE_TUNED, ending) for ending in FINE_TUNED_SIZES.values()]
    same_seeds = [read_all(SAME_SEEDS, ending) for ending in FINE_TUNED_SIZES.values()]
    if arguments.figure:
        draw(heads, arguments.figure)
    print(INTRODUCTION)
    columns = ["texts", "LLM", "its accuracy", "macro-F1", "share of texts on which two runs differ"]
    columns.append("worth this many gold labels")
    print("## Summary\n\nGold → LLM labels, and the 95% interval of the difference, by heads with 1,600 texts.\n")
    print_table(columns, [[data, LLMS[llm], *list_summary(results)] for (data, llm), results in heads.items()])
    print("\n## The paper's claims\n\nEach cell has 0.5B, then 1.5B. Heads, 1,600 training texts.\n")
    print_answers("claim of the paper", CLAIMS, heads)
    print("\n## With controls that the paper lacks\n")
    print_answers("claim", CONTROLS, heads)
    print("\nAt equal accuracy runs on LLM labels share more training texts than runs on gold, so there is no verdict.")
    print("\n## What the paper could not ask\n")
    print_answers("question", BEYOND, heads)
    print("\n## By training texts\n\nLLM less gold, by heads.\n")
    rows = []
    for (data, llm), results in heads.items():
        rows += [[f"{data}, {LLMS[llm]}", *cells] for cells in list_by_size(results)]
    print_table(["study", "figure", *(f"{size:,}" for size in SIZES)], rows)
    print("\n## The larger LLM less the smaller one\n\nRuns on LLM labels (`python benchmarks/study_annotators.py`).\n")
    columns = ["texts", "macro-F1, 1.5B less 0.5B", "disagreement, 1.5B less 0.5B", "R", "n"]
    print_table(columns, compare_llms())
    print_fine_tuned(fine_tuned, same_seeds)
    print_calibrations()
    print("\n## Scores and stability\n")
    columns = ["study", "by", "training texts", "R", "n", "LLM's accuracy", "macro-F1", "disagreement", "alpha"]
    rows = []
    for method, studies in (("heads", heads), *(("fine-tuned", of_size) for of_size in fine_tuned)):
        rows += [[f"{data}, {LLMS[llm]}", method, *list_levels(results)] for (data, llm), results in studies.items()]
    print_table([*columns, "five runs agree", "LLM runs better than chance"], rows)
    print("\n## Beside the paper\n\nTexts, LLMs, encoder and training texts differ.\n")
    rows = []
    for data in DATA:
        for labels, figures in PAPER.get(data, {}).items():
            rows.append([data, labels, *(f"{figure:.3f}" for figure in figures), "paper, R = 5"])
        for llm, name in LLMS.items():
            for method, studies in (*(("fine-tuned", of_size) for of_size in fine_tuned), ("heads", heads)):
                if (data, llm) in studies:
                    rows += list_beside_paper(method, data, name, studies[data, llm])
    print_table(["texts", "labels", "macro-F1", "alpha", "five runs agree", "by"], rows)
    print("\n## Runs that differ only in ...\n")
    columns = ["study", "the training texts", "the few-shot examples", "both", "both, LLM less gold", "levels", "n"]
    sources = read_all("sources")
    print_table(columns, [[f"{data}, {LLMS[llm]}", *list_sources(results)] for (data, llm), results in sources.items()])


if __name__ == "__main__":
    main()
