"""Write the report: findings in words, figures, limits and tables, all from results.json."""

import base64

from jinja2 import Environment, FileSystemLoader, Template, select_autoescape

from ..analysis.schema import Components, Results
from ..hashing import hash_files, make_key
from ..study import PACKAGE, Study, write_text
from ..training.runs import other_runs
from .figures import captions, draw
from .text import SOURCES, cell, describe, how_made, interval, mean, number

TEMPLATES = PACKAGE / "templates"
PARTS = ("report/text.py", "report/figures.py", "report/page.py", "variants.py")


def write_report(study: Study, results: Results) -> None:
    """Write report.md, report.html (self-contained) and the figures beside results.json, unless they are up to date.

    Args:
        study (`Study`):
            A measured study.
        results (`Results`):
            The output of `measure`.
    """
    key = make_key(
        results=results.model_dump(mode="json"),
        name=study.recipe.name,
        code=[hash_files(TEMPLATES), *(hash_files(PACKAGE / name) for name in PARTS)],
    )
    page = study.report / "report.html"  # written last
    if page.exists() and f'content="{key}"' in page.read_text(encoding="utf-8"):
        return
    with study.lock():
        draw(results, study.report)
        context = {"results": results, "recipe": study.recipe, "key": key, **describe(results)}
        context |= {"figures": captions(results), "methods": how_made(study, results), "list_sources": list_sources}
        images = {
            name: base64.b64encode((study.report / f"{name}.png").read_bytes()).decode() for name in context["figures"]
        }
        write_text(study.report / "report.md", load_template("report.md").render(context))
        write_text(page, load_template("report.html").render(context, images=images))


def load_template(name: str) -> Template:
    """Return a template of a page. HTML is escaped; in Markdown, the filter `cell` escapes what comes from the data."""
    style = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    style.filters |= {function.__name__: function for function in (number, interval, cell, mean)}
    return style.get_template(name)


def list_sources(components: Components) -> list[tuple[str, str, str]]:
    """Return the rows of the table of sources: a name, and the keys of its disagreement and its variance component."""
    return [*((SOURCES[name], name, name) for name in components.sources), ("all of them", "all", "total")]


def print_summary(study: Study, results: Results) -> None:
    """Print the table at the end of a run, the findings, and the paths of report and dataset."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{study.recipe.name}: {results.R} seeds, {results.n:,} test texts, 95% intervals")
    for column in ("variant", "texts", "gold", "macro-F1", "seeds disagree"):
        table.add_column(column, justify="left" if column == "variant" else "right", no_wrap=True)
    for result in results.variants:
        table.add_row(
            result.variant,
            f"{result.size:,}",
            f"{result.gold_labels:,}",
            f"{number(result.macro_f1_mean)} {interval(result.macro_f1_mean_interval)}",
            f"{number(result.pairwise_disagreement)} {interval(result.pairwise_disagreement_interval)}",
        )
    console = Console(width=None if Console().is_terminal else 120, markup=False, highlight=False)
    console.print(table)
    for title, text in describe(results)["findings"]:
        console.print(f"{title} {text}")
    if others := other_runs(study):
        console.print(others)
    console.print(f"\nReport: {study.report / 'report.html'}", soft_wrap=True)
    console.print(f"Dataset with a config per variant: {study.dataset}", soft_wrap=True)
