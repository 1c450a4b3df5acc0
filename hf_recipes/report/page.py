"""Write the report: the first screen, findings in words, figures, limits and tables, all from results.json."""

from ..analysis.schema import Results
from ..hashing import hash_files, make_key
from ..labels.pool import Pool
from ..study import PACKAGE, Study, write_text
from ..training.runs import other_runs
from ..variants import CONTROLS
from .findings import describe
from .first_screen import STYLE, WrongText, describe_headline, find_wrong_texts, render_first_screen
from .first_screen.charts import make_file
from .first_screen.content import describe_best, list_unknown
from .first_screen.page import draw_curves, draw_frontier
from .methods import how_made
from .records import Figure, Report
from .render import hash_code, make_console, print_table, render
from .tables import SCORES, Columns, make_summary, make_tables, tabulate

CURVES = "Macro-F1 by the number of training texts. Small points are runs, lines are means, bands are intervals."
FRONTIER = (
    "{} by the gold labels consumed. The line is gold labels alone. The table of differences tests whether other "
    "labels are off the line."
)


def make_report(results: Results, methods: str) -> Report:
    """Return all that the report shows.

    Args:
        results (`Results`):
            The output of `measure`.
        methods (`str`):
            How the study was made, as a paragraph to paste.
    """
    words = describe(results)
    figures = {"curves": Figure(draw_curves(results), CURVES)}
    if not results.audit:
        for name, field, label in (
            ("frontier-score", "macro_f1_mean", "Macro-F1"),
            ("frontier-stability", "pairwise_disagreement", "Share of texts on which two seeds disagree"),
        ):
            figures[name] = Figure(draw_frontier(results, CONTROLS, field, label), FRONTIER.format(label))
    return Report(
        findings=words.findings,
        more=words.more,
        limits=words.limits,
        title=f"{results.study}: what the LLM's labels cost",
        headline=describe_headline(results),
        summary=make_summary(results),
        best=describe_best(results, CONTROLS),
        unknown=list_unknown(results),
        figures={name: figure for name, figure in figures.items() if figure.svg},
        tables=make_tables(results),
        methods=methods,
    )


def write_report(study: Study, pool: Pool, results: Results) -> None:
    """Write report.md, report.html (self-contained) and the figures next to results.json, unless they are up to date.

    Args:
        study (`Study`):
            A measured study.
        pool (`Pool`):
            Its labelled texts; their texts are empty where they were not published.
        results (`Results`):
            The output of `measure`.
    """
    key = make_key(
        results=results.model_dump(mode="json"),
        recipe=study.recipe.model_dump(mode="json"),
        code=[*hash_code(), hash_files(PACKAGE / "variants.py")],
    )
    folder = study.report_of(results.method)
    page = folder / "report.html"  # written last
    if page.exists() and f'content="{key}"' in page.read_text(encoding="utf-8"):
        return
    texts = find_wrong_texts(pool.texts, pool.gold, pool.probs, pool.label_names)
    with study.lock():
        methods = f"{how_made(study, results)} recipe.yaml in the study folder has every setting."
        report = make_report(results, methods)
        for name, figure in report.figures.items():
            write_text(folder / f"{name}.svg", make_file(figure.svg, STYLE))
        write_text(folder / "report.md", render("report.md", report=report, texts=texts))
        write_text(page, render_html(report, results, texts, key))


def render_html(report: Report, results: Results, texts: list[WrongText], key: str) -> str:
    """Return the page in HTML."""
    verdict, why = render_first_screen(results, texts, CONTROLS)
    return render("report.html", report=report, key=key, style=STYLE, verdict=verdict, why=why)


def print_summary(study: Study, results: Results) -> None:
    """Print the verdict, the table at the end of a run, the findings, and the paths of report and dataset."""
    console = make_console()
    headline = describe_headline(results)
    console.print(f"{headline.decision}. {headline.sentence}\n")
    columns: Columns = {"variant": "variant", "texts": "size", "gold": "gold_labels", **SCORES}
    level = f"{results.confidence_level:.0%}"
    title = (
        f"{study.recipe.name}, {results.classifiers}: {results.R} seeds, {results.n:,} test texts, {level} intervals"
    )
    print_table(console, tabulate(title, results.variants, columns))
    for finding in describe(results).findings:
        console.print(f"{finding.title} {finding.text}")
    if note := other_runs(study):
        console.print(note)
    console.print(f"\nReport: {study.report_of(results.method) / 'report.html'}", soft_wrap=True)
    console.print(f"Dataset with a config per variant: {study.dataset}", soft_wrap=True)
