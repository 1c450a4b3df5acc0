"""Compare several studies in tables and figures, by their results.json alone."""

from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.schema import Comparison, Figure, Results, read_results
from ..errors import UserError
from ..study import write_text
from ..variants import CONTROLS
from .figures import COLOURS, make_axes, save_figure
from .first_screen.content import is_void
from .first_screen.numbers import estimate, listed, number
from .records import Table
from .render import render
from .tables import ERROR_CELLS, Columns, tabulate

#: The variants that are compared in each study that has both.
PAIRS: tuple[tuple[str, str], ...] = (
    ("llm", "gold"),
    ("llm", "noise-fixed"),
    ("one-annotator", "gold"),
    *CONTROLS.items(),
)
FIGURES: dict[Figure, str] = {"macro_f1": "macro-F1", "pairwise_disagreement": "disagreement of two seeds"}


def compare(folders: list[Path], output: Path) -> list[Results]:
    """Write `comparison.md`, `comparison.png` and `curves.png` for several measured studies.

    Args:
        folders (`list[Path]`):
            Study folders.
        output (`Path`):
            The folder to write into; created if missing.

    Returns:
        `list[Results]`: the results of each study.

    Raises:
        UserError: a folder without valid results or without gold, or two studies of one name.
    """
    studies = [_read(folder) for folder in folders]
    names = [results.study for results in studies]
    if duplicates := {name for name in names if names.count(name) > 1}:
        raise UserError(f"Two studies are named {duplicates.pop()}. Give one of them another `--name`.")
    output.mkdir(parents=True, exist_ok=True)
    title = f"{len(studies)} {'study' if len(studies) == 1 else 'studies'}"
    notes = list(describe_chance(studies))
    write_text(output / "comparison.md", render("comparison.md", title=title, notes=notes, tables=make_tables(studies)))
    _draw(studies, output)
    _draw_curves(studies, output)
    return studies


def _read(folder: Path) -> Results:
    """Return the results of a study, which may come from anywhere."""
    file = folder / "report" / "results.json"
    try:
        results = read_results(file.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{folder}: report/results.json is missing. Run hf-recipes report on its recipe first."
        ) from None
    except ValueError as error:
        raise UserError(
            f"`{file}` must be results of this version. Got {error}. Try hf-recipes report on its recipe."
        ) from None
    if results.find("llm", "gold", "macro_f1") is None or not {"gold", "llm"} <= results.at_top.keys():
        raise UserError(f"{folder}: the study must compare llm with gold. Leave it out.")
    return results


def describe_chance(studies: list[Results]) -> Iterator[str]:
    """Yield a sentence on each study with variants that learnt nothing."""
    for results in studies:
        if names := _find_chance(results):
            yield (
                f"{results.study}: classifiers with {listed(names)} are not better than chance. Their agreement is no "
                "stability. Differences against them are left out."
            )


def _find_chance(results: Results) -> list[str]:
    return [name for name, result in results.at_top.items() if result.above_chance is False]


def make_tables(studies: list[Results]) -> list[Table]:
    """Return the tables of the comparison. A table without rows is left out."""
    overview = tabulate(
        "The studies",
        studies,
        {
            "study": "study",
            "annotator": lambda results: results.annotator.model,
            "its accuracy": lambda results: estimate(results.annotator, "accuracy"),
            "most frequent class": lambda results: number(results.annotator.majority_accuracy),
            "texts": "top",
            "R": "R",
            "n": "n",
            "macro-F1, gold": lambda results: estimate(results.at_top["gold"], "macro_f1_mean"),
            "macro-F1, LLM": lambda results: estimate(results.at_top["llm"], "macro_f1_mean"),
            "disagree, gold": lambda results: estimate(results.at_top["gold"], "pairwise_disagreement"),
            "disagree, LLM": lambda results: estimate(results.at_top["llm"], "pairwise_disagreement"),
            "verdict": lambda results: results.verdict.decision,
        },
    )
    gains = _tabulate_all(
        "What the last doubling of the training texts gains",
        {results.study: results.plateaus for results in studies},
        {
            "labels": "variant",
            "from": lambda plateau: f"{plateau.last_doubling[0]:,.0f}",
            "to": lambda plateau: f"{plateau.last_doubling[1]:,.0f}",
            "macro-F1": "gain",
            "": "verdict",
            "stops before gold does": lambda p: "" if p.variant == "gold" else str(p.premature_plateau),
        },
    )
    errors = _tabulate_all(
        "The LLM's errors on the test texts",
        {
            results.study: [cells for cells in results.error_cells if cells.variant in ("gold", "llm")]
            for results in studies
        },
        {"labels": "variant", "texts": "size", "n": "n", **ERROR_CELLS},
        "Shares of the test texts that the LLM gave a label: it is right or wrong, and classifiers say the same or "
        "something else.",
    )
    variants = _tabulate_all(
        "All variants at the largest size",
        {results.study: results.at_top.values() for results in studies},
        {
            "labels": "variant",
            "gold labels": "gold_labels",
            "R": "R",
            "n": "n",
            "accuracy": "accuracy_mean",
            "macro-F1": "macro_f1_mean",
            "SD of macro-F1": "macro_f1_sd",
            "disagree": "pairwise_disagreement",
            "alpha": "krippendorff_alpha",
            "p_uc": lambda result: number(result.unanimity),
            "runs no more accurate than the most frequent class": "failed_runs",
        },
        "Agreement is over R runs: p_uc, the share of texts on which all agree, falls as R grows.",
    )
    regained = _tabulate_all(
        "The share of the gap in macro-F1 that is regained",
        {results.study: results.regained for results in studies},
        {"labels": "variant", "share": lambda regained: estimate(regained, "share", "interval")},
        "Where the gap between gold and LLM labels leaves out zero; Fieller's interval.",
    )
    tables = [overview, gains, errors, variants, _list_differences(studies), regained]
    return [table for table in tables if table.rows]


def _tabulate_all(title: str, studies: dict[str, Iterable[Any]], columns: Columns, caption: str = "") -> Table:
    """Return a table of the records of all studies, with the study in the first column."""
    rows = []
    for study, records in studies.items():
        rows += [[study, *row] for row in tabulate(title, records, columns).rows]
    return Table(title, ["study", *columns], rows, caption)


def _list_differences(studies: list[Results]) -> Table:
    rows = []
    for (variant, against), results in product(PAIRS, studies):
        score, churn = (results.find(variant, against, figure) for figure in FIGURES)
        if score and churn and against not in _find_chance(results):
            rows.append([variant, against, results.study, *_show_difference(score), *_show_difference(churn)])
    return Table(
        "Differences at the largest size",
        ["variant", "against", "study", "macro-F1", "p", "disagreement", "p"],
        rows,
        note="p-values of primary comparisons are corrected within each study (Holm 1979), the others are not.",
    )


def _show_difference(comparison: Comparison) -> tuple[str, str]:
    """Return a difference with its interval, and its p-value."""
    p = number(comparison.p_holm) if comparison.primary else f"{number(comparison.p_value)} (exploratory)"
    return estimate(comparison, "difference", "interval"), p


def _draw(studies: list[Results], folder: Path) -> None:
    """Draw the differences between LLM labels and gold labels in macro-F1 and in disagreement."""
    figure, panels = make_axes(2, 8, 1.2 + 0.5 * len(studies), sharey=True)
    for panel, (name, title) in zip(panels, FIGURES.items(), strict=True):
        panel.axvline(0, color="#999999", lw=1)
        panel.set_xlabel(f"LLM less gold: {title}")
        for height, results in enumerate(reversed(studies)):
            comparison = results.find("llm", "gold", name)
            if comparison is None or is_void(results):
                continue
            if comparison.interval is not None:
                panel.plot(comparison.interval, [height, height], color="#D55E00", lw=2)
            panel.plot(comparison.difference, height, "o", color="#D55E00")
    panels[0].set_yticks(range(len(studies)), [results.study for results in reversed(studies)], parse_math=False)
    save_figure(figure, folder, "comparison")


def _draw_curves(studies: list[Results], folder: Path) -> None:
    """Draw macro-F1 by the number of training texts, a panel a study, of all variants trained at several sizes."""
    figure, panels = make_axes(len(studies), 1 + 3.2 * len(studies), 3.4, sharey=True)
    panels = np.atleast_1d(panels)
    for panel, results in zip(panels, studies, strict=True):
        for name in results.at_top:
            curve = sorted((result for result in results.variants if result.variant == name), key=lambda r: r.size)
            if len(curve) > 1:
                sizes, colour = [result.size for result in curve], COLOURS.get(name, "#888888")
                low, high = zip(*(result.macro_f1_mean_interval or (np.nan, np.nan) for result in curve), strict=True)
                means = [np.nan if result.macro_f1_mean is None else result.macro_f1_mean for result in curve]
                panel.fill_between(sizes, low, high, color=colour, alpha=0.12, lw=0)
                panel.plot(sizes, means, "o-", ms=3, color=colour, label=name)
                panel.set_xscale("log", base=2)
                panel.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
        panel.minorticks_off()
        panel.set_title(results.study, fontsize=10, parse_math=False)
        panel.set_xlabel("training texts")
    panels[0].set_ylabel("macro-F1")
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=2 * len(studies), frameon=False, fontsize=8)
    save_figure(figure, folder, "curves")
