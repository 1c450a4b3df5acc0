"""Render the first screen as a fragment of HTML, which the report and the Space put into their pages."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, Template

from . import charts, content
from .numbers import interval, number

if TYPE_CHECKING:
    from ...analysis.schema import Results

HERE = Path(__file__).parent
STYLE = (HERE / "style.css").read_text(encoding="utf-8")


def render_first_screen(
    results: "Results", texts: Sequence[content.WrongText], controls: dict[str, str]
) -> tuple[str, str]:
    """Return the verdict with its limits, and why with what to do instead. All text is escaped.

    Args:
        results (`Results`):
            Results, also those of others.
        texts (`Sequence[WrongText]`):
            What `find_wrong_texts` returned; empty where texts are not published.
        controls (`dict[str, str]`):
            The control of each variant that has one.
    """
    verdict, why = _template("verdict.html"), _template("why.html")
    remedies = content.list_remedies(results, controls)
    is_large = len(results.label_names) > content.MAX_CLASSES
    scales = {field: _scale(remedies, field) for field in ("macro_f1_mean", "pairwise_disagreement")}
    return (
        verdict.render(
            header=content.describe_header(results),
            headline=content.describe_headline(results),
            rows=content.list_limits(results),
            judged=content.describe_texts(results),
            results=results,
        ),
        why.render(
            results=results,
            labels=content.describe_labels(results),
            is_large=is_large,
            confusions=content.list_confusions(results),
            curves=draw_curves(results),
            remedies=remedies,
            scales=scales,
            best=content.describe_best(results, controls),
            texts=texts,
            unknown=content.list_unknown(results),
        ),
    )


def draw_curves(results: "Results") -> str:
    """Return the curves of macro-F1 by size, with LLM labels and with gold; empty without scores."""
    series = []
    for name, label in (("gold", "gold labels"), ("llm", "LLM labels")):
        variants = [v for v in results.variants if v.variant == name and v.macro_f1_mean is not None]
        variants.sort(key=lambda variant: variant.size)
        if variants:
            series.append(
                charts.Series(
                    label,
                    name,
                    [v.size for v in variants],
                    [v.macro_f1_mean or 0.0 for v in variants],
                    [v.macro_f1_mean_interval for v in variants],
                    [v.macro_f1_runs for v in variants],
                )
            )
    return charts.draw_curves(series, "training texts", "macro-F1") if series else ""


def draw_frontier(results: "Results", controls: dict[str, str], field: str, label: str) -> str:
    """Return a figure of each variant by the gold labels that it consumes; the line is gold labels alone."""
    points = [
        charts.Point(row.result.variant, row.kind, row.result.gold_labels, getattr(row.result, field))
        for row in content.list_remedies(results, controls)
        if getattr(row.result, field) is not None
    ]
    golds = sorted((v for v in results.variants if v.variant == "gold"), key=lambda variant: variant.size)
    line = [(v.gold_labels, getattr(v, field)) for v in golds if getattr(v, field) is not None]
    return charts.draw_scatter(points, line, "gold labels", label) if points else ""


def _scale(rows: Sequence[content.RemedyRow], field: str) -> tuple[float, float]:
    """Return the least and the greatest bound of all rows."""
    values = []
    for row in rows:
        values += [getattr(row.result, field) or 0.0, *(getattr(row.result, f"{field}_interval") or ())]
    return min(values), max(values)


@cache
def _template(name: str) -> Template:
    style = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    style.globals.update(
        marks=content.MARKS,
        number=number,
        interval=interval,
        draw_limit=charts.draw_limit,
        draw_interval=charts.draw_interval,
    )
    return style.get_template(name)
