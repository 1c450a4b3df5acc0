"""Compare several studies in tables and figures, by their results.json alone."""

from pathlib import Path

import numpy as np

from ..analysis.schema import Figure, Results, read_results
from ..errors import UserError
from ..study import write_text
from ..variants import CONTROLS
from .figures import COLOURS, make_axes, save_figure
from .page import load_template

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
    write_text(output / "comparison.md", load_template("comparison.md").render(studies=studies, pairs=PAIRS))
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
