"""Compare several studies in tables and figures, by their results.json alone."""

from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError

from .figures import COLOURS, make_axes, save_figure
from .recipe import CONTROLS, ArmName, UserError
from .report import load_template
from .study import read_json, write_text

#: The arms that are compared in each study that has both.
PAIRS: tuple[tuple[ArmName, ArmName], ...] = (
    ("llm", "gold"),
    ("llm", "noise-fixed"),
    ("one-rater", "gold"),
    *CONTROLS.items(),
)

FIELDS = ("study", "annotator", "verdict", "R", "n", "plateaus", "regained", "error_cells")

#: Raised where a file is not a results.json of this version.
BAD_RESULTS = (LookupError, TypeError, AttributeError, ValueError)


def compare(folders: list[Path], output: Path) -> list[dict[str, Any]]:
    """Write `comparison.md`, `comparison.png` and `curves.png` for several measured studies.

    Args:
        folders (`list[Path]`):
            Study folders.
        output (`Path`):
            The folder to write into; created if missing.

    Returns:
        `list[dict]`: a row for each study, with its name, its results at the largest size, and by pair of arms the
        comparisons of macro-F1 and disagreement.

    Raises:
        UserError: a folder without valid results, or two studies of one name.
    """
    rows = [_read(folder) for folder in folders]
    names = [row["study"] for row in rows]
    if duplicates := {name for name in names if names.count(name) > 1}:
        raise UserError(f"Two studies are named {duplicates.pop()}. Give one of them another `--name`.")
    template = load_template("comparison.md")
    for folder, row in zip(folders, rows, strict=True):
        try:
            template.render(studies=[row], pairs=PAIRS)
        except (*BAD_RESULTS, TemplateError):
            raise _bad_results(folder) from None
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "comparison.md", template.render(studies=rows, pairs=PAIRS))
    _draw(rows, output)
    _draw_curves(rows, output)
    return rows


def _bad_results(folder: Path) -> UserError:
    return UserError(f"{folder}: report/results.json is damaged or of another version. Run hf-recipes report again.")


def _read(folder: Path) -> dict[str, Any]:
    """Read what is shown of a study. The results may be from anybody, so their form is checked."""
    results = read_json(folder / "report" / "results.json")
    if results is None:
        raise UserError(f"{folder}: report/results.json is missing. Run hf-recipes report on its recipe first.")
    try:
        if not any(arm["arm"] == "gold" for arm in results["arms"]):
            raise UserError(f"{folder}: the study must have the arm gold. Leave it out.")
        return _select(results)
    except UserError:
        raise
    except BAD_RESULTS:
        raise _bad_results(folder) from None


def _select(results: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(results["study"], str):
        raise TypeError("study")
    top = max(arm["size"] for arm in results["arms"])
    comparisons = {(c["arm"], c["against"], c["figure"]): c for c in results["comparisons"] if c["size"] == top}
    return {
        **{name: results[name] for name in FIELDS},
        "size": top,
        "curves": [_check_arm(arm) for arm in results["arms"]],
        "arms": {arm["arm"]: arm for arm in results["arms"] if arm["size"] == top},
        "pairs": {
            pair: [comparisons[(*pair, figure)] for figure in ("macro_f1", "pairwise_disagreement")]
            for pair in PAIRS
            if (*pair, "macro_f1") in comparisons
        },
    }


def _check_arm(arm: dict[str, Any]) -> dict[str, Any]:
    """Return an arm whose name has a colour, with numbers for all that is drawn."""
    if arm["arm"] not in COLOURS:
        raise ValueError(arm["arm"])
    low, high = arm["macro_f1_mean_interval"]
    numbers = {"macro_f1_mean_interval": (float(low), float(high)), "macro_f1_mean": float(arm["macro_f1_mean"])}
    return {**arm, **numbers, "size": int(arm["size"])}


def _draw(rows: list[dict[str, Any]], folder: Path) -> None:
    """Draw the differences between LLM labels and gold labels in macro-F1 and in disagreement."""
    figure, panels = make_axes(2, 8, 1.2 + 0.5 * len(rows), sharey=True)
    for i, title in enumerate(("macro-F1", "disagreement of two seeds")):
        panels[i].axvline(0, color="#999999", lw=1)
        panels[i].set_xlabel(f"LLM less gold: {title}")
        for height, row in enumerate(reversed(rows)):
            if ("llm", "gold") not in row["pairs"]:
                continue
            comparison = row["pairs"]["llm", "gold"][i]
            if comparison["interval"] is not None:
                panels[i].plot(comparison["interval"], [height, height], color="#D55E00", lw=2)
            panels[i].plot(comparison["difference"], height, "o", color="#D55E00")
    panels[0].set_yticks(range(len(rows)), [row["study"] for row in reversed(rows)])
    save_figure(figure, folder, "comparison")


def _draw_curves(rows: list[dict[str, Any]], folder: Path) -> None:
    """Draw macro-F1 by the number of training texts, a panel a study, of all arms trained at several sizes."""
    figure, panels = make_axes(len(rows), 1 + 3.2 * len(rows), 3.4, sharey=True)
    panels = np.atleast_1d(panels)
    for panel, row in zip(panels, rows, strict=True):
        for name in row["arms"]:
            curve = sorted((arm for arm in row["curves"] if arm["arm"] == name), key=lambda arm: arm["size"])
            if len(curve) > 1:
                sizes = [arm["size"] for arm in curve]
                low, high = zip(*(arm["macro_f1_mean_interval"] for arm in curve), strict=True)
                panel.fill_between(sizes, low, high, color=COLOURS[name], alpha=0.12, lw=0)
                panel.plot(sizes, [arm["macro_f1_mean"] for arm in curve], "o-", ms=3, color=COLOURS[name], label=name)
                panel.set_xscale("log", base=2)
                panel.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
        panel.minorticks_off()
        panel.set_title(row["study"], fontsize=10)
        panel.set_xlabel("training texts")
    panels[0].set_ylabel("macro-F1")
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=2 * len(rows), frameon=False, fontsize=8)
    save_figure(figure, folder, "curves")
