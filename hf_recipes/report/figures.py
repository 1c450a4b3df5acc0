"""Draw the figures of a report, and write their captions."""

from pathlib import Path
from typing import Any

from ..analysis.schema import Results, VariantResult
from ..variants import VARIANTS
from .numbers import estimate, number

COLOURS = {variant.name: variant.colour for variant in VARIANTS.values()}
FIGURES = {
    "scores": "Macro-F1 of every run at the largest size. Bars are means with their intervals",
    "instability": "Share of test texts on which two runs with different seeds disagree, with its interval",
    "sizes": "Macro-F1 by the number of training texts. Points are runs, lines are means",
    "frontier": "Macro-F1 and disagreement by the gold labels consumed: each variant beside gold labels alone, with "
    "intervals. The table of differences tests whether a variant is off the line",
}


def captions(results: Results) -> dict[str, str]:
    """Return a caption for each figure that `draw` writes; it explains one of the marks."""
    top, variants = results.top, results.at_top
    llm = variants["llm"]
    gold = f", gold at {number(variants['gold'].macro_f1_mean)}" if "gold" in variants else ""
    readings = {
        "scores": f"each point in the row llm is a classifier with its own seed, trained on LLM labels of {top:,} "
        f"texts. Their mean, the tick in the bar, is {estimate(llm, 'macro_f1_mean')}",
        "instability": f"two classifiers with different seeds, trained on LLM labels of {top:,} texts, disagree on "
        f"{estimate(llm, 'pairwise_disagreement')} of the test texts",
        "sizes": f"with {top:,} texts, on the right, the line of llm is at {number(llm.macro_f1_mean)}{gold}",
        "frontier": f"the variant llm consumes {llm.gold_labels:,} gold labels and reaches macro-F1 "
        f"{number(llm.macro_f1_mean)}. The black line is gold labels alone",
    }
    shown = _drawable(results)
    return {name: f"{FIGURES[name]}. To read it: {readings[name]}." for name in FIGURES if name in shown}


def _drawable(results: Results) -> set[str]:
    """Return the figures that the results allow: scores require gold for test texts, the frontier the variant gold."""
    names = {"instability"}
    if all(result.macro_f1_mean is not None for result in results.variants):
        names |= {"scores", "sizes"}
    return names if results.audit else {*names, "frontier"}


def make_axes(columns: int, width: float, height: float, sharey: bool = False) -> tuple[Any, Any]:
    """Return a figure in the report's style, and its axes. Unlike pyplot's, it goes with its last reference."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, sharey=sharey)


def save_figure(figure: Any, folder: Path, name: str) -> None:
    """Write `<name>.png` whole or not at all, the same bytes for the same figure."""
    temporary = folder / f".tmp-{name}.png"
    figure.savefig(temporary, dpi=140, metadata={"Software": None})
    temporary.replace(folder / f"{name}.png")


def draw(results: Results, folder: Path) -> None:
    """Write the report's figures as `.png` files into the folder."""
    shown = _drawable(results)
    sizes = sorted({result.size for result in results.variants})
    top = [result for result in results.variants if result.size == sizes[-1]]
    names, rows, height = [result.variant for result in top], range(len(top))[::-1], 1 + 0.55 * len(top)

    figure, axes = make_axes(1, 7, height)
    for row, result in zip(rows, top, strict=True):
        bounds = result.pairwise_disagreement_interval
        if bounds is not None:
            axes.plot(bounds, [row, row], color=COLOURS[result.variant], lw=6, alpha=0.25, solid_capstyle="butt")
        axes.plot(result.pairwise_disagreement, row, "o", ms=7, color=COLOURS[result.variant])
    axes.set_yticks(list(rows), names)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"share of test texts on which two seeds disagree ({sizes[-1]:,} training texts, R = {results.R})")
    save_figure(figure, folder, "instability")

    if "scores" in shown:
        figure, axes = make_axes(1, 7, height)
        for row, result in zip(rows, top, strict=True):
            colour = COLOURS[result.variant]
            if (bounds := result.macro_f1_mean_interval) is not None:
                axes.plot(bounds, [row, row], color=colour, lw=6, alpha=0.25, solid_capstyle="butt")
            axes.plot([result.macro_f1_mean or 0.0] * 2, [row - 0.2, row + 0.2], color=colour, lw=2)
            axes.plot(result.macro_f1_runs, [row] * result.R, "o", ms=5, color=colour, mec="white", mew=0.7)
        axes.set_yticks(list(rows), names)
        judged, seeds = top[0].n_gold, results.R
        axes.set_xlabel(f"macro-F1 on {judged:,} test texts, {sizes[-1]:,} training texts (points: {seeds} seeds)")
        save_figure(figure, folder, "scores")

    if "sizes" in shown:
        figure, axes = make_axes(1, 7, 4)
        for place, name in enumerate(names):
            shift = 1.015 ** (place - (len(names) - 1) / 2)  # so that no point hides another
            curve = [result for result in results.variants if result.variant == name]
            xs, means = [result.size * shift for result in curve], [result.macro_f1_mean or 0.0 for result in curve]
            axes.plot(xs, means, "-", color=COLOURS[name], label=name)
            for x, result in zip(xs, curve, strict=True):
                axes.plot([x] * result.R, result.macro_f1_runs, "o", ms=4, color=COLOURS[name])
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.set(xlabel="training texts", ylabel="macro-F1")
        axes.legend(frameon=False)
        save_figure(figure, folder, "sizes")

    if "frontier" in shown:
        _draw_frontier(results, top, folder)


def _draw_frontier(results: Results, top: list[VariantResult], folder: Path) -> None:
    """Draw variants at the largest size, and gold labels alone at every size, by the gold labels that they consume."""
    alone = [result for result in results.variants if result.variant == "gold"]
    mixed = [result for result in top if result.variant != "gold" and not result.variant.startswith("noise")]
    figure, panels = make_axes(2, 9, 4.2)
    titles = {"macro_f1_mean": "macro-F1", "pairwise_disagreement": "share of texts on which two seeds disagree"}
    counts = [result.gold_labels for result in alone]
    for axes, (field, title) in zip(panels, titles.items(), strict=True):
        axes.plot(counts, [getattr(result, field) for result in alone], "-", color=COLOURS["gold"], zorder=1)
        for result in [*alone, *mixed]:
            x, bounds = max(result.gold_labels, 1), getattr(result, f"{field}_interval")
            if bounds is not None:
                axes.plot([x, x], bounds, color=COLOURS[result.variant], lw=1.5, alpha=0.5)
            label = result.variant if result is alone[0] or result in mixed else None
            axes.plot(x, getattr(result, field), "o", ms=5, color=COLOURS[result.variant], label=label)
        axes.set_xscale("log")
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.minorticks_off()
        axes.set(xlabel="gold labels consumed (log scale)", ylabel=title)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    save_figure(figure, folder, "frontier")
