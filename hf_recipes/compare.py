"""Several studies side by side, in tables and figures. Everything in them is from their results.json."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, TemplateError

from .figures import COLOURS, save_figure
from .findings import cell, gold_labels, interval, number
from .recipe import UserError
from .report import TEMPLATES
from .study import read_json, write_text
from .variants import CONTROLS

#: What is set against what, wherever a study has both.
PAIRS: tuple[tuple[str, str], ...] = (
    ("llm", "gold"),
    ("llm", "noise-fixed"),
    ("one-annotator", "gold"),
    *CONTROLS.items(),
)

#: What comes of reading and showing what is no results.json.
NO_RESULTS = (LookupError, TypeError, AttributeError, ValueError)


def compare(folders: list[Path], output: Path) -> list[dict[str, Any]]:
    """Writes `comparison.md`, `comparison.png` and `curves.png` for several measured studies.

    Args:
        folders (`list[Path]`):
            Study folders.
        output (`Path`):
            The folder to write into; made if it is not there.

    Returns:
        `list[dict]`: a row for each study, with its name, its results at the largest size, and by pair of arms the
        comparisons of macro-F1 and disagreement.

    Raises:
        UserError: a folder without results, or with some that are none, or two studies of one name.
    """
    rows = [_read(folder) for folder in folders]
    names = [row["study"] for row in rows]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"two studies are named {twice.pop()}; give one of them another --name")
    page = Environment(loader=FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True, autoescape=False)  # noqa: S701
    page.filters |= {"number": number, "interval": interval, "cell": cell, "gold_labels": gold_labels}
    template = page.get_template("comparison.md")
    for folder, row in zip(folders, rows, strict=True):
        try:
            template.render(studies=[row], pairs=PAIRS)
        except (*NO_RESULTS, TemplateError):
            raise _odd(folder) from None
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "comparison.md", template.render(studies=rows, pairs=PAIRS))
    _draw(rows, output)
    _draw_curves(rows, output)
    return rows


def _odd(folder: Path) -> UserError:
    return UserError(f"{folder}: report/results.json is damaged or of another version; run hf-recipes report again")


def _read(folder: Path) -> dict[str, Any]:
    """What is shown of a study. Its results may be anybody's: nothing of their form is believed."""
    results = read_json(folder / "report" / "results.json")
    if results is None:
        raise UserError(f"{folder}: no report/results.json; run hf-recipes report on its recipe first")
    try:
        if not any(arm["arm"] == "gold" for arm in results["arms"]):
            raise UserError(f"{folder}: trained without gold labels, so that nothing is set against them; leave it out")
        return _shown(results)
    except UserError:
        raise
    except NO_RESULTS:
        raise _odd(folder) from None


def _shown(results: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(results["study"], str):
        raise TypeError("study")
    top = max(arm["size"] for arm in results["arms"])
    found = {(c["arm"], c["against"], c["figure"]): c for c in results["comparisons"] if c["size"] == top}
    return {
        **{
            name: results[name]
            for name in ("study", "annotator", "verdict", "R", "n", "plateaus", "regained", "error_cells")
        },
        "size": top,
        "curves": [_numbered(arm) for arm in results["arms"]],
        "arms": {arm["arm"]: arm for arm in results["arms"] if arm["size"] == top},
        "pairs": {
            pair: [found[(*pair, figure)] for figure in ("macro_f1", "pairwise_disagreement")]
            for pair in PAIRS
            if (*pair, "macro_f1") in found
        },
    }


def _numbered(arm: dict[str, Any]) -> dict[str, Any]:
    """The arm, what is drawn of it made sure to be numbers, and of an arm that there is."""
    low, high = arm["macro_f1_mean_interval"]
    drawn = {"macro_f1_mean_interval": (float(low), float(high)), "macro_f1_mean": float(arm["macro_f1_mean"])}
    if arm["arm"] not in COLOURS:
        raise ValueError(arm["arm"])
    return {**arm, "size": int(arm["size"]), **drawn}


def _draw(rows: list[dict[str, Any]], folder: Path) -> None:
    """LLM labels against gold labels: what they cost in macro-F1, and what they add to disagreement."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 2, figsize=(8, 1.2 + 0.5 * len(rows)), sharey=True, layout="constrained")
    for panel, place, title in zip(axes, (0, 1), ("macro-F1", "disagreement of two seeds"), strict=True):
        panel.axvline(0, color="#999999", lw=1)
        for height, row in enumerate(reversed(rows)):
            if ("llm", "gold") not in row["pairs"]:
                continue
            one = row["pairs"]["llm", "gold"][place]
            if one["interval"] is not None:
                panel.plot(one["interval"], [height, height], color="#D55E00", lw=2)
            panel.plot(one["difference"], height, "o", color="#D55E00")
        panel.set_xlabel(f"LLM less gold: {title}")
    axes[0].set_yticks(range(len(rows)), [row["study"] for row in reversed(rows)])
    save_figure(figure, folder, "comparison")


def _draw_curves(rows: list[dict[str, Any]], folder: Path) -> None:
    """Macro-F1 by the number of training texts, a panel a study, of all arms that were trained at several sizes."""
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(
        1, len(rows), figsize=(1 + 3.2 * len(rows), 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    for panel, row in zip(panels[0], rows, strict=True):
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
    panels[0][0].set_ylabel("macro-F1")
    shown = panels[0][0].get_legend_handles_labels()
    if shown[0]:
        figure.legend(*shown, loc="outside lower center", ncols=2 * len(rows), frameon=False, fontsize=8)
    save_figure(figure, folder, "curves")
