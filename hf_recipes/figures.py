"""The figures of a report, and their captions."""

from pathlib import Path
from typing import Any

from .findings import interval, number
from .schema import Results
from .variants import VARIANTS

COLOURS = {variant.name: variant.colour for variant in VARIANTS.values()}

FIGURES = {
    "scores": "Macro-F1 of every run at the largest size; bars are means with their intervals",
    "instability": "Share of test texts on which two runs disagree that differ in their seeds, with its interval",
    "sizes": "Macro-F1 against the number of training texts; points are runs, lines their means",
    "frontier": "What gold labels buy: macro-F1 and disagreement against all gold labels consumed, each arm beside "
    "gold labels alone, with intervals of each. Whether an arm lies off the line is for the differences to say",
}


def captions(results: Results) -> dict[str, str]:
    """The captions of the figures that there are, each with one of its marks read out."""
    top = max(arm.size for arm in results.variants)
    arms = {arm.variant: arm for arm in results.variants if arm.size == top}
    llm, score, same = arms["llm"], "macro_f1_mean", "pairwise_disagreement"
    found = {
        score: f"{number(llm.macro_f1_mean)} {interval(llm.macro_f1_mean_interval)}",
        same: f"{number(llm.pairwise_disagreement)} {interval(llm.pairwise_disagreement_interval)}",
    }
    beside = f" and that of gold at {number(arms['gold'].macro_f1_mean)}" if "gold" in arms else ""
    readings = {
        "scores": f"each point in the row llm is a classifier with a seed of its own, trained on LLM labels of {top:,} "
        f"texts; their mean, the tick in the bar, is {found[score]}",
        "instability": f"of two classifiers with other seeds, trained on LLM labels of {top:,} texts, the one labels "
        f"{found[same]} of the test texts otherwise than the other",
        "sizes": f"at {top:,} texts, on the right, the line of llm is at {number(llm.macro_f1_mean)}{beside}; the "
        "points around it are seeds",
        "frontier": f"the variant llm consumes {llm.gold_labels:,} gold labels and reaches macro-F1 "
        f"{number(llm.macro_f1_mean)}; the black line says what gold labels reach alone, at the numbers below it",
    }
    return {name: f"{FIGURES[name]}. To read it: {readings[name]}" for name in FIGURES if name in _drawable(results)}


def _drawable(results: Results) -> set[str]:
    """The figures that there is something to draw of: scores want gold for test texts, the frontier gold as an arm."""
    scored = all(arm.macro_f1_mean is not None for arm in results.variants)
    return {"instability"} | ({"scores", "sizes"} if scored else set()) | (set() if results.audit else {"frontier"})


def draw(results: Results, folder: Path) -> None:
    """Writes the report's figures, `.png` files, into the folder."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    sizes = sorted({arm.size for arm in results.variants})
    top = [arm for arm in results.variants if arm.size == sizes[-1]]
    places = range(len(top))[::-1]
    names = [arm.variant for arm in top]

    figure, axes = plt.subplots(figsize=(7, 1 + 0.55 * len(top)), layout="constrained")
    for place, arm in zip(places, top, strict=True):
        bounds = arm.pairwise_disagreement_interval
        if bounds is not None:
            axes.plot(bounds, [place, place], color=COLOURS[arm.variant], lw=6, alpha=0.25, solid_capstyle="butt")
        axes.plot(arm.pairwise_disagreement, place, "o", ms=7, color=COLOURS[arm.variant])
    axes.set_yticks(list(places), names)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"share of test texts on which two seeds disagree ({sizes[-1]:,} training texts, R = {results.R})")
    save_figure(figure, folder, "instability")

    if "scores" not in (shown := _drawable(results)):
        return

    figure, axes = plt.subplots(figsize=(7, 1 + 0.55 * len(top)), layout="constrained")
    for place, arm in zip(places, top, strict=True):
        if (bounds := arm.macro_f1_mean_interval) is not None:
            axes.plot(bounds, [place, place], color=COLOURS[arm.variant], lw=6, alpha=0.25, solid_capstyle="butt")
        axes.plot([arm.macro_f1_mean or 0.0] * 2, [place - 0.2, place + 0.2], color=COLOURS[arm.variant], lw=2)
        axes.plot(arm.macro_f1_runs, [place] * arm.R, "o", ms=5, color=COLOURS[arm.variant], mec="white", mew=0.7)
    axes.set_yticks(list(places), names)
    judged, seeds = top[0].n_gold, results.R
    axes.set_xlabel(f"macro-F1 on {judged:,} test texts, {sizes[-1]:,} training texts (points: {seeds} seeds)")
    save_figure(figure, folder, "scores")

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for place, name in enumerate(names):
        aside = 1.015 ** (place - (len(names) - 1) / 2)  # so that no point hides another
        curve = [arm for arm in results.variants if arm.variant == name]
        axes.plot(
            [a.size * aside for a in curve],
            [a.macro_f1_mean or 0.0 for a in curve],
            "-",
            color=COLOURS[name],
            label=name,
        )
        for arm in curve:
            axes.plot([arm.size * aside] * arm.R, arm.macro_f1_runs, "o", ms=4, color=COLOURS[name])
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("training texts")
    axes.set_ylabel("macro-F1")
    axes.legend(frameon=False)
    save_figure(figure, folder, "sizes")
    if "frontier" in shown:
        _draw_frontier(results, folder)


def _draw_frontier(results: Results, folder: Path) -> None:
    """Every arm at the largest size, and gold labels alone at every size, by the gold labels that they consume."""
    from matplotlib import pyplot as plt

    top = max(arm.size for arm in results.variants)
    alone = [arm for arm in results.variants if arm.variant == "gold"]
    others = [
        a for a in results.variants if a.size == top and a.variant != "gold" and not a.variant.startswith("noise")
    ]
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    fields = {"macro_f1_mean": "macro-F1", "pairwise_disagreement": "share of texts on which two seeds disagree"}
    for panel, (field, title) in zip(axes, fields.items(), strict=True):
        panel.plot(
            [a.gold_labels for a in alone], [getattr(a, field) for a in alone], "-", color=COLOURS["gold"], zorder=1
        )
        for arm in [*alone, *others]:
            where, bounds = max(arm.gold_labels, 1), getattr(arm, f"{field}_interval")
            if bounds is not None:
                panel.plot([where, where], bounds, color=COLOURS[arm.variant], lw=1.5, alpha=0.5)
            name = arm.variant if arm is alone[0] or arm in others else None
            panel.plot(where, getattr(arm, field), "o", ms=5, color=COLOURS[arm.variant], label=name)
        panel.set_xscale("log")
        panel.set_xticks([a.gold_labels for a in alone], [f"{a.gold_labels:,}" for a in alone])
        panel.minorticks_off()
        panel.set_xlabel("gold labels consumed (log scale)")
        panel.set_ylabel(title)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    save_figure(figure, folder, "frontier")


def save_figure(figure: Any, folder: Path, name: str) -> None:
    """Writes `<name>.png` whole or not at all, the same bytes for the same figure."""
    from matplotlib import pyplot as plt

    temporary = folder / f".tmp-{name}.png"
    figure.savefig(temporary, dpi=140, metadata={"Software": None})
    plt.close(figure)
    temporary.replace(folder / f"{name}.png")
