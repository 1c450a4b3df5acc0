"""The report: the findings in words, then figures, limits and tables. Everything in it is from results.json."""

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from .figures import captions, draw
from .findings import SOURCES, cell, describe, how_made, interval, mean, number
from .runs import other_runs
from .schema import Components, Results
from .study import Study, hash_files, make_key, write_text

TEMPLATES = Path(__file__).parent / "templates"
PARTS = ("findings", "figures", "report")


def write_report(study: Study, results: Results) -> None:
    """Writes report.md, report.html (self-contained) and the figures beside results.json, unless they are there.

    Args:
        study (`Study`):
            A measured study.
        results (`Results`):
            What `measure` returned.
    """
    key = make_key(
        results=results.model_dump(mode="json"),
        name=study.recipe.name,
        code=[hash_files(TEMPLATES), *(hash_files(Path(__file__).with_name(f"{one}.py")) for one in PARTS)],
    )
    page = study.report / "report.html"  # written last
    if page.exists() and f'content="{key}"' in page.read_text(encoding="utf-8"):
        return
    with study.lock():
        draw(results, study.report)
        context = {"results": results, "recipe": study.recipe, "key": key, **describe(results)}
        context |= {"figures": captions(results), "methods": how_made(study, results), "components_of": components_of}
        page_style = Environment(
            loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        page_style.filters |= {
            "number": number,
            "interval": interval,
            "cell": cell,
            "mean": mean,
        }
        markdown = page_style.overlay(autoescape=False)  # `cell` escapes what comes from the data
        images = {
            name: base64.b64encode((study.report / f"{name}.png").read_bytes()).decode() for name in context["figures"]
        }
        write_text(study.report / "report.md", markdown.get_template("report.md").render(context))
        write_text(page, page_style.get_template("report.html").render(context, images=images))


def components_of(found: Components) -> list[tuple[str, str, str]]:
    """The rows of the table of sources: a name, and the keys of its disagreement and of its variance component."""
    return [*((SOURCES[name], name, name) for name in found.sources), ("all of them", "all", "total")]


def print_summary(study: Study, results: Results) -> None:
    """The table at the end of a run, and where the report lies."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{study.recipe.name}: {results.R} seeds, {results.n:,} test texts, 95% intervals")
    for column in ("arm", "texts", "gold", "macro-F1", "seeds disagree"):
        table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
    for arm in results.variants:
        table.add_row(
            arm.variant,
            f"{arm.size:,}",
            f"{arm.gold_labels:,}",
            f"{number(arm.macro_f1_mean)} {interval(arm.macro_f1_mean_interval)}",
            f"{number(arm.pairwise_disagreement)} {interval(arm.pairwise_disagreement_interval)}",
        )
    console = Console(width=None if Console().is_terminal else 120, markup=False, highlight=False)
    console.print(table)
    for title, text in describe(results)["findings"]:
        console.print(f"{title} {text}")
    if others := other_runs(study):
        console.print(others)
    console.print(f"\nReport: {study.report / 'report.html'}", soft_wrap=True)
    console.print(f"Dataset with a config per arm: {study.dataset}", soft_wrap=True)
