"""Compare several studies in tables and figures, by their results.json alone."""

from itertools import chain
from pathlib import Path

import numpy as np

from ..analysis.schema import Figure, Results, read_results
from ..errors import UserError
from ..study import write_text
from ..variants import CONTROLS
from .figures import COLOURS, make_axes, save_figure
from .numbers import estimate, interval, number
from .records import Table
from .render import render
from .tables import ERROR_CELLS

#: The variants that are compared in each study that has both.
PAIRS: tuple[tuple[str, str], ...] = (
    ("llm", "gold"),
    ("llm", "noise-fixed"),
    ("one-annotator", "gold"),
    *CONTROLS.items(),
)


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
    tables = [table for table in make_tables(studies) if table.rows]
    write_text(output / "comparison.md", render("comparison.md", title=title, tables=tables))
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
            f"{folder}: report/results.json is damaged or of another version ({error}). Run hf-recipes report again."
        ) from None
    if results.find("llm", "gold", "macro_f1") is None or not {"gold", "llm"} <= results.at_top.keys():
        raise UserError(f"{folder}: the study must compare llm with gold. Leave it out.")
    return results


def make_tables(studies: list[Results]) -> list[Table]:
    """Return the tables of the comparison; one may have no rows."""
    return [
        _list_studies(studies),
        _list_gains(studies),
        _list_errors(studies),
        _list_variants(studies),
        _list_differences(studies),
        _list_regained(studies),
    ]


def _list_studies(studies: list[Results]) -> Table:
    rows = []
    for results in studies:
        annotator, gold, llm = results.annotator, results.at_top["gold"], results.at_top["llm"]
        rows.append(
            [
                *(results.study, annotator.model, estimate(annotator, "accuracy"), number(annotator.majority_accuracy)),
                *(f"{results.top:,}", f"{results.R:,}", f"{results.n:,}"),
                *(estimate(gold, "macro_f1_mean"), estimate(llm, "macro_f1_mean")),
                *(estimate(gold, "pairwise_disagreement"), estimate(llm, "pairwise_disagreement")),
                results.verdict.decision,
            ]
        )
    return Table(
        "The studies",
        [
            *("study", "annotator", "its accuracy", "commonest class", "texts", "R", "n"),
            *("macro-F1, gold", "macro-F1, LLM", "disagree, gold", "disagree, LLM", "verdict"),
        ],
        rows,
    )


def _list_gains(studies: list[Results]) -> Table:
    rows = []
    for results in studies:
        for plateau in results.plateaus:
            first, last = plateau.last_doubling
            order = "" if plateau.variant == "gold" else str(plateau.premature_plateau)
            gain = estimate(plateau, "gain")
            rows.append([results.study, plateau.variant, f"{first:,.0f}", f"{last:,.0f}", gain, plateau.verdict, order])
    return Table(
        "What the last doubling of the training texts gains",
        ["study", "labels", "from", "to", "macro-F1", "", "stops before gold does"],
        rows,
    )


def _list_errors(studies: list[Results]) -> Table:
    fields = {field: title for field, title in ERROR_CELLS.items() if field not in ("agreement", "accuracy")}
    rows = []
    for results in studies:
        for cells in results.error_cells:
            if cells.variant in ("gold", "llm"):
                shares = [estimate(cells, field) for field in fields]
                rows.append([results.study, cells.variant, f"{cells.size:,}", f"{cells.n:,}", *shares])
    return Table(
        "The LLM's errors on the test texts",
        ["study", "labels", "texts", "n", *fields.values()],
        rows,
        "Shares of the test texts that the LLM gave a label: it is right or wrong, and classifiers say the same or "
        "something else.",
    )


def _list_variants(studies: list[Results]) -> Table:
    fields = {
        "accuracy_mean": "accuracy",
        "macro_f1_mean": "macro-F1",
        "macro_f1_sd": "SD of macro-F1",
        "pairwise_disagreement": "disagree",
        "krippendorff_alpha": "alpha",
    }
    rows = []
    for results in studies:
        for result in results.at_top.values():
            rows.append(
                [
                    *(results.study, result.variant, f"{result.gold_labels:,}", f"{result.R:,}", f"{result.n:,}"),
                    *(estimate(result, field) for field in fields),
                    number(result.unanimity),
                    "-" if result.failed_runs is None else f"{result.failed_runs:,}",
                ]
            )
    return Table(
        "All variants at the largest size",
        [
            *("study", "labels", "gold labels", "R", "n", *fields.values(), "p_uc"),
            "runs no more accurate than the commonest class",
        ],
        rows,
        "Agreement is over R runs: p_uc, the share of texts on which all agree, falls as R grows.",
    )


def _list_differences(studies: list[Results]) -> Table:
    rows = []
    for variant, against in PAIRS:
        for results in studies:
            if results.find(variant, against, "macro_f1"):
                figures = (_compare(results, variant, against, f) for f in ("macro_f1", "pairwise_disagreement"))
                rows.append([variant, against, results.study, *chain(*figures)])
    return Table(
        "Differences at the largest size",
        ["variant", "against", "study", "macro-F1", "p", "disagreement", "p"],
        rows,
        note="p-values of primary comparisons are corrected within each study (Holm 1979), the others are not.",
    )


def _compare(results: Results, variant: str, against: str, figure: Figure) -> tuple[str, str]:
    """Return a difference with its interval, and its p-value."""
    comparison = results.find(variant, against, figure)
    if comparison is None:
        return "", ""
    p = number(comparison.p_holm) if comparison.primary else f"{number(comparison.p_value)} (exploratory)"
    return f"{number(comparison.difference)} {interval(comparison.interval)}", p


def _list_regained(studies: list[Results]) -> Table:
    rows = []
    for results in studies:
        for regained in results.regained:
            share = f"{number(regained.share)} {interval(regained.interval)}"
            rows.append([results.study, regained.variant, share])
    return Table(
        "The share of the gap in macro-F1 that is regained",
        ["study", "labels", "share"],
        rows,
        "Where the gap between gold and LLM labels leaves out zero; Fieller's interval.",
    )


def _draw(studies: list[Results], folder: Path) -> None:
    """Draw the differences between LLM labels and gold labels in macro-F1 and in disagreement."""
    figure, panels = make_axes(2, 8, 1.2 + 0.5 * len(studies), sharey=True)
    titles: dict[Figure, str] = {"macro_f1": "macro-F1", "pairwise_disagreement": "disagreement of two seeds"}
    for panel, (name, title) in zip(panels, titles.items(), strict=True):
        panel.axvline(0, color="#999999", lw=1)
        panel.set_xlabel(f"LLM less gold: {title}")
        for height, results in enumerate(reversed(studies)):
            comparison = results.find("llm", "gold", name)
            if comparison is None:
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
