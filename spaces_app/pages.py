"""Build the pages of the app: their components, and their updates when a visitor changes a component."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import figures
import gradio as gr
import tables
import uploads
import words

EXAMPLE = """\
gold,run 0,run 1,run 2,run 3
positive,positive,positive,positive,positive
negative,negative,neutral,negative,negative
neutral,neutral,positive,neutral,positive
positive,positive,positive,positive,positive
negative,negative,negative,negative,negative
neutral,positive,neutral,neutral,neutral
"""
PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
ONE_AT_A_TIME = {"concurrency_limit": 1, "concurrency_id": "measure"}
PICK = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-id]");
  if (button) trigger("click", {id: button.dataset.id});
});
"""
SHOW_ONE = """() => setTimeout(() => {
  const details = document.querySelector("#one .one");
  if (!details) return;
  details.setAttribute("tabindex", "-1");
  details.focus({preventScroll: true});
  details.scrollIntoView({block: "nearest"});
}, 50)"""
PLOT = {"show_label": False, "container": False}


@dataclass(frozen=True)
class Page:
    """Describe a page that shows a study.

    Attributes:
        show (function): from the values of `inputs` to those of `outputs`.
        linked (`dict`): the components that the address keeps, by their names there.
    """

    show: Callable[..., Any]
    inputs: list[Any]
    outputs: list[Any]
    linked: dict[str, Any] = field(default_factory=dict)


def verdict(data: Any, study: Any) -> Page:
    """Build the page with the verdict, two figures, and the tables behind it."""
    top = gr.HTML()
    with gr.Row():
        with gr.Column(min_width=320):
            gr.HTML(
                "<h3>Score by number of training texts</h3><p class='caption'>Points are seeds, lines their means, "
                "bands the intervals. Choose labels in the legend to see them alone.</p>"
            )
            score = gr.Plot(**PLOT)
        with gr.Column(min_width=320):
            gr.HTML(
                "<h3>How often two seeds disagree</h3><p class='caption'>Share of test texts at the largest size, each "
                "remedy beside its control.</p>"
            )
            churn = gr.Plot(**PLOT)
    details = gr.HTML()

    def show(spec: str) -> tuple[Any, ...]:
        content = data.verdict(spec)
        variants = [variant for variant in content["variants"] if variant["macro_f1_mean"] is not None]
        score_figure = figures.scores(variants, content["confidence_level"]) if variants else None
        churn_figure = _instability(content["variants"])
        return words.verdict_top(content), _plot(score_figure), _plot(churn_figure), words.verdict_rest(content)

    return Page(show, [study], [top, score, churn, details])


def _instability(results: list[dict[str, Any]]) -> Any:
    """Draw the disagreement at the largest size, each variant next to its control."""
    if not results:
        return None
    top = max(variant["size"] for variant in results)
    variants = {variant["variant"]: variant for variant in results if variant["size"] == top}
    order: list[str] = []
    for name, variant in variants.items():
        order += [label for label in (name, variant["control"]) if label in variants and label not in order]
    rows = [
        {
            **{"name": name, "value": variants[name]["pairwise_disagreement"]},
            "interval": variants[name]["pairwise_disagreement_interval"],
            "note": f"beside its control, {variants[name]['control']}" if variants[name]["control"] else "",
        }
        for name in order
    ]
    summary = ", ".join(f"{row['name']} {words.number(row['value'])} {words.interval(row['interval'])}" for row in rows)
    description = f"Share of test texts on which two seeds disagree, at {top:,} training texts: {summary}."
    return figures.intervals(rows, "share of test texts", description)


def labels(data: Any, study: Any) -> Page:
    """Build the page of the training texts, their labels, and the errors of the labels."""
    with gr.Row():
        label = gr.Dropdown([("any", "")], value="", label="Class", min_width=150)
        kind = gr.Dropdown(_options(tables.KINDS), value="all", label="Show", min_width=170)
        order = gr.Dropdown(_options(tables.ORDERS), value="study", label="Order", min_width=170)
        second_variant = gr.Dropdown([("none", "")], value="", label="Set beside", min_width=170)
        search = gr.Textbox(
            label="Search in the texts", placeholder="words, then Enter", max_lines=1, max_length=200, min_width=170
        )
    count, texts = gr.HTML(), gr.HTML()
    back, at, ahead = _pager()
    with gr.Row():
        with gr.Column(min_width=320):
            gr.HTML("<h3>Gold against LLM</h3>")
            confusion = gr.HTML()
        with gr.Column(min_width=320):
            gr.HTML(
                "<h3>Risk and coverage</h3><p class='caption'>If only the most certain labels are kept, how many of "
                "them are wrong?</p>"
            )
            risk = gr.Plot(**PLOT)

    def show(*state: Any) -> tuple[Any, ...]:
        content = data.labels(*_filled(state))
        tables_html = words.labels_count(content), words.labels_table(content), words.confusion(content)
        coverage, wrong = content["risk_coverage"]["kept"], content["risk_coverage"]["wrong"]
        return *tables_html, _plot(figures.risk(coverage, wrong) if coverage else None), _page(content)

    filters = [label, kind, search, order, second_variant]
    outputs = [count, texts, confusion, risk, at]
    _turn(show, [study, *filters], at, back, ahead, outputs, [*(item.input for item in filters), search.submit])
    linked = {"class": label, "show": kind, "q": search, "order": order, "in": second_variant, "at": at}
    return Page(show, [study, *filters, at], outputs, linked)


def seeds(data: Any, study: Any) -> Page:
    """Build the page of the test texts on which seeds disagree, and of one text over all runs."""
    with gr.Row():
        variant = gr.Dropdown([], label="Labels trained on", min_width=170)
        size = gr.Dropdown([("largest", 0)], value=0, label="Training texts", min_width=130)
        only = gr.Dropdown(_options(tables.SEEDS), value="flips", label="Test texts where", min_width=170)
    summary = gr.HTML()
    details = gr.HTML(elem_id="one")
    flips = gr.HTML(js_on_load=PICK)
    back, at, ahead = _pager()
    text = gr.Textbox("", visible="hidden", label="text")

    def show(*state: Any) -> tuple[Any, ...]:
        content = data.seeds(*_filled(state))
        return words.seeds_top(content), words.one_text(content), words.seeds_table(content), _page(content)

    def show_one(spec: str, event: gr.EventData) -> tuple[str, str]:
        text_id = str(event.id)[:100]
        return text_id, words.one_text(data.seeds(spec, text=text_id))

    filters, outputs = [variant, size, only, text], [summary, details, flips, at]
    _turn(show, [study, *filters], at, back, ahead, outputs, [variant.input, size.input, only.input])
    flips.click(show_one, study, [text, details], **PRIVATE).then(None, js=SHOW_ONE)
    linked = {"variant": variant, "size": size, "only": only, "text": text, "seeds_at": at}
    return Page(show, [study, *filters, at], outputs, linked)


def compare(data: Any, study: Any) -> Page:
    """Build the page of two variants side by side, with their test."""
    with gr.Row():
        first = gr.Dropdown([], label="First", min_width=150)
        second = gr.Dropdown([], label="Second", min_width=150)
        size = gr.Dropdown([("largest", 0)], value=0, label="Training texts", min_width=130)
        repo = gr.Textbox(
            **{"label": "Second from another study", "placeholder": "owner/name", "max_lines": 1},
            **{"max_length": 300, "min_width": 200},
        )
    comparison = gr.HTML()
    difference = gr.Plot(**PLOT, visible=False)

    def show(*state: Any) -> tuple[Any, ...]:
        content = data.compare(*_filled(state))
        rows = [
            {"name": tables.FIGURES[test["figure"]], "value": test["difference"], "interval": test["interval"]}
            for test in content["tests"]
            if test["difference"] is not None
        ]
        text = ", ".join(f"{row['name']} {words.plus(row['value'])} {words.interval(row['interval'])}" for row in rows)
        figure = figures.intervals(rows, "first less second", f"Differences: {text}.", zero=True) if rows else None
        return words.compare_table(content, tables.FIGURES), _plot(figure)

    inputs, outputs = [study, first, second, size, repo], [comparison, difference]
    gr.on([first.input, second.input, size.input, repo.submit, repo.blur], show, inputs, outputs, **PRIVATE)
    return Page(show, inputs, outputs, {"first": first, "second": second, "compare_at": size, "other": repo})


def yours(data: Any) -> None:
    """Build the page that measures a visitor's own predictions."""
    gr.HTML(
        "<h3>Measure your own runs</h3><p>Several training runs on one test set: do they agree, and how good are they? "
        "Give a <b>CSV or parquet table with a column for each run</b> and a row for each text (a column "
        "<code>gold</code> adds scores); a long table with <code>run</code>, <code>id</code> and either "
        "<code>label</code>, <code>probs</code> or a column for each class; or JSON, "
        '<code>{"predictions": [[...], ...], "references": [...]}</code>, of labels or of lists of probabilities.</p>'
        f"<p class='caption'>{uploads.LIMITS} What you give is measured and forgotten: the report is yours to "
        "download, and files are deleted within the hour.</p>"
    )
    with gr.Row():
        pasted = gr.Textbox(EXAMPLE, lines=8, max_lines=8, label="Paste a table or JSON", min_width=280)
        file = gr.File(label="or upload one", file_types=[".csv", ".parquet", ".json"], min_width=280)
    run = gr.Button("Measure", variant="primary")
    measurements = gr.HTML()
    picture = gr.Plot(**PLOT, visible=False)
    report = gr.DownloadButton("Download the report", visible=False)
    folder = Path(run.GRADIO_CACHE)  # whose files Gradio deletes

    def show(path: str | None, text: str, progress: Any = gr.Progress()) -> tuple[Any, ...]:
        progress(0.2, desc="measuring")
        content = data.measure(path, text)
        rows = [
            {"name": row["figure"].replace("_", " "), "value": row["value"], "interval": row["interval"]}
            for row in content["figures"]
            if row["value"] is not None and 0 <= row["value"] <= 1
        ]
        summary = ", ".join(f"{row['name']} {words.number(row['value'])}" for row in rows)
        figure = figures.intervals(rows, "value, with 95% interval", f"Figures of your predictions: {summary}.")
        folder.mkdir(parents=True, exist_ok=True)
        where = Path(tempfile.mkdtemp(dir=folder), "report.md")
        where.write_text(words.report(content), encoding="utf-8")
        return words.measured_table(content), _plot(figure), gr.update(value=str(where), visible=True)

    run.click(show, [file, pasted], [measurements, picture, report], api_visibility="private", **ONE_AT_A_TIME)
    endpoint = gr.Button(visible=False)
    endpoint.click(data.measure, [file, pasted], gr.JSON(visible=False), api_name="measure", **ONE_AT_A_TIME)


def use(data: Any, study: Any) -> Page:
    """Build the page with lines of code for the study."""
    variant = gr.Dropdown([], label="Labels", min_width=170)
    load_code = gr.Code(language="python", label="Load these labels", interactive=False)
    evaluate_code = gr.Code(language="python", label="Measure its runs again", interactive=False)
    pull_code = gr.Code(language="shell", label="The whole study on your machine", interactive=False)

    def show(spec: str, name: str) -> tuple[Any, ...]:
        return tuple(gr.update(value=lines, visible=bool(lines)) for lines in data.use(spec, name or "").values())

    page = Page(show, [study, variant], [load_code, evaluate_code, pull_code], {"load": variant})
    variant.input(show, page.inputs, page.outputs, **PRIVATE)
    return page


def _filled(state: Sequence[Any]) -> list[Any]:
    """Return the values of a page's components, with empty text in place of None, which an empty component has."""
    return ["" if value is None else value for value in state]


def _options(pairs: dict[str, str]) -> list[tuple[str, str]]:
    return [(title, name) for name, title in pairs.items()]


def _plot(figure: Any) -> Any:
    return gr.update(value=figure, visible=figure is not None)


def _page(content: dict[str, Any]) -> Any:
    return gr.update(value=content["page"], label=f"Page (of {content['pages']:,})")


def _pager() -> tuple[Any, Any, Any]:
    with gr.Row(elem_classes="pager"):
        back = gr.Button("← Back", min_width=90)
        at = gr.Number(1, label="Page", minimum=1, precision=0, min_width=90)
        ahead = gr.Button("Next →", min_width=90)
    return back, at, ahead


def _turn(
    show: Callable[..., Any], inputs: list[Any], at: Any, back: Any, ahead: Any, outputs: list[Any], changes: list[Any]
) -> None:
    """Show the first page when a filter changes, and another page when the pager changes."""

    def move(by: int) -> Callable[..., Any]:
        return lambda *state: show(*state[:-1], int(state[-1] or 1) + by)

    gr.on(changes, show, [*inputs, gr.State(1)], outputs, trigger_mode="always_last", **PRIVATE)
    at.submit(show, [*inputs, at], outputs, **PRIVATE)
    back.click(move(-1), [*inputs, at], outputs, **PRIVATE)
    ahead.click(move(1), [*inputs, at], outputs, **PRIVATE)
