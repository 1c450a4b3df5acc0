"""Figures as image files, for pages in Markdown."""

from pathlib import Path
from typing import Any

from ..variants import VARIANTS

COLOURS = {variant.name: variant.colour for variant in VARIANTS.values()}


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
