"""Write the report: findings in words, figures, limits and tables, all from results.json."""

import base64

from ..analysis.schema import Results
from ..hashing import hash_files, make_key
from ..study import PACKAGE, Study, write_text
from ..training.runs import other_runs
from .figures import captions, draw
from .findings import describe
from .methods import how_made
from .records import Report
from .render import hash_code, make_console, print_table, render
from .tables import SCORES, Columns, make_summary, make_tables, tabulate

FIRST_FIGURES = ("sizes", "frontier")  # of the first page


def make_report(study: Study, results: Results) -> Report:
    """Return all that the report shows.

    Args:
        study (`Study`):
            A measured study.
        results (`Results`):
            The output of `measure`.
    """
    words, figures = describe(results), captions(results)
    return Report(
        title=f"{study.recipe.name}: what the LLM's labels cost",
        findings=words.findings,
        more=words.more,
        limits=words.limits,
        figures={name: figures[name] for name in FIRST_FIGURES if name in figures},
        more_figures={name: caption for name, caption in figures.items() if name not in FIRST_FIGURES},
        summary=make_summary(results),
        tables=make_tables(results),
        methods=f"{how_made(study, results)} recipe.yaml in the study folder has every setting.",
    )


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
        recipe=study.recipe.model_dump(mode="json"),
        code=[*hash_code(), hash_files(PACKAGE / "variants.py")],
    )
    page = study.report / "report.html"  # written last
    if page.exists() and f'content="{key}"' in page.read_text(encoding="utf-8"):
        return
    with study.lock():
        draw(results, study.report)
        report = make_report(study, results)
        images = {
            name: base64.b64encode((study.report / f"{name}.png").read_bytes()).decode()
            for name in [*report.figures, *report.more_figures]
        }
        write_text(study.report / "report.md", render("report.md", report=report))
        write_text(page, render("report.html", report=report, key=key, images=images))


def print_summary(study: Study, results: Results) -> None:
    """Print the table at the end of a run, the findings, and the paths of report and dataset."""
    console = make_console()
    columns: Columns = {"variant": "variant", "texts": "size", "gold": "gold_labels", **SCORES}
    title = f"{study.recipe.name}: {results.R} seeds, {results.n:,} test texts, 95% intervals"
    print_table(console, tabulate(title, results.variants, columns))
    for finding in describe(results).findings:
        console.print(f"{finding.title} {finding.text}")
    if note := other_runs(study):
        console.print(note)
    console.print(f"\nReport: {study.report / 'report.html'}", soft_wrap=True)
    console.print(f"Dataset with a config per variant: {study.dataset}", soft_wrap=True)
