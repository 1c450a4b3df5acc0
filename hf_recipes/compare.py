"""Several studies side by side, in tables and figures. Everything in them is from their results.json."""

from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader

from .figures import COLOURS, save_figure
from .findings import cell, interval, number
from .recipe import UserError
from .report import TEMPLATES
from .schema import Figure, Results, read_results
from .study import write_text
from .variants import CONTROLS

#: What is set against what, wherever a study has both.
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
            The folder to write into; made if it is not there.

    Returns:
        `list[Results]`: the results of each study.

    Raises:
        UserError: a folder without results, or with results of another version or without gold, or two studies of one
            name.
    """
    studies = [_read(folder) for folder in folders]
    names = [results.study for results in studies]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"two studies are named {twice.pop()}; give one of them another --name")
    page = Environment(loader=FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True, autoescape=False)  # noqa: S701
    page.filters |= {"number": number, "interval": interval, "cell": cell}
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "comparison.md", page.get_template("comparison.md").render(studies=studies, pairs=PAIRS))
    _draw(studies, output)
    _draw_curves(studies, output)
    return studies


def _read(folder: Path) -> Results:
    """Return the results of a study, which may come from anywhere."""
    file = folder / "report" / "results.json"
    try:
        results = read_results(file.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{folder}: no report/results.json; run hf-recipes report on its recipe first") from None
    except ValueError as error:
        raise UserError(
            f"{file} is damaged or of another version ({error}). Run hf-recipes report on the study again."
        ) from None
    if not {"gold", "llm"} <= results.at_top.keys() or results.find("llm", "gold", "macro_f1") is None:
        raise UserError(f"{folder}: trained without gold labels, so that nothing is set against them; leave it out")
    return results


def _draw(studies: list[Results], folder: Path) -> None:
    """Draw LLM labels against gold labels: what they cost in macro-F1, and what they add to disagreement."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 2, figsize=(8, 1.2 + 0.5 * len(studies)), sharey=True, layout="constrained")
    figures: tuple[tuple[Figure, str], ...] = (
        ("macro_f1", "macro-F1"),
        ("pairwise_disagreement", "disagreement of two seeds"),
    )
    for panel, (figure_name, title) in zip(axes, figures, strict=True):
        panel.axvline(0, color="#999999", lw=1)
        for height, results in enumerate(reversed(studies)):
            comparison = results.find("llm", "gold", figure_name)
            if comparison is None:
                continue
            if comparison.interval is not None:
                panel.plot(comparison.interval, [height, height], color="#D55E00", lw=2)
            panel.plot(comparison.difference, height, "o", color="#D55E00")
        panel.set_xlabel(f"LLM less gold: {title}")
    axes[0].set_yticks(range(len(studies)), [results.study for results in reversed(studies)])
    save_figure(figure, folder, "comparison")


def _draw_curves(studies: list[Results], folder: Path) -> None:
    """Draw macro-F1 by the number of training texts, one panel per study, for variants with several sizes."""
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(
        1, len(studies), figsize=(1 + 3.2 * len(studies), 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    for panel, results in zip(panels[0], studies, strict=True):
        for name in results.at_top:
            curve = sorted((result for result in results.variants if result.variant == name), key=lambda r: r.size)
            if len(curve) > 1:
                sizes = [result.size for result in curve]
                bounds = [result.macro_f1_mean_interval or (np.nan, np.nan) for result in curve]
                means = [np.nan if result.macro_f1_mean is None else result.macro_f1_mean for result in curve]
                low, high = zip(*bounds, strict=True)
                panel.fill_between(sizes, low, high, color=COLOURS.get(name, "#888888"), alpha=0.12, lw=0)
                panel.plot(sizes, means, "o-", ms=3, color=COLOURS.get(name, "#888888"), label=name)
                panel.set_xscale("log", base=2)
                panel.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
        panel.minorticks_off()
        panel.set_title(results.study, fontsize=10)
        panel.set_xlabel("training texts")
    panels[0][0].set_ylabel("macro-F1")
    shown = panels[0][0].get_legend_handles_labels()
    if shown[0]:
        figure.legend(*shown, loc="outside lower center", ncols=2 * len(studies), frameon=False, fontsize=8)
    save_figure(figure, folder, "curves")
