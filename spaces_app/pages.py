"""Build the pages of the app: their components, and their updates when a visitor changes a component."""

import html
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comparison
import gradio as gr
import page_html
import tables
import uploads
from first_screen import find_wrong_texts, render_first_screen
from words import notice

EXAMPLE = """\
gold,run 0,run 1,run 2,run 3
positive,positive,positive,positive,positive
negative,negative,neutral,negative,negative
neutral,neutral,positive,neutral,positive
positive,positive,positive,positive,positive
negative,negative,negative,negative,negative
neutral,positive,neutral,neutral,neutral
"""
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "measure"}
#: Of an endpoint that takes a file: a program can call it, but it is not a tool, so that no agent gives files.
FILES: dict[str, Any] = {"api_visibility": "undocumented", **ONE_AT_A_TIME}
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
#: The limits of the verdict: name, title, and the largest value of its slider.
LIMITS = {
    "macro_f1_loss": ("Score lost, at most", 0.3),
    "churn": ("Instability added, at most", 0.3),
    "min_class_f1": ("Worst class F1, at least", 1.0),
}


@dataclass(frozen=True)
class Page:
    """Describe a page.

    Attributes:
        show (function): from the values of `inputs` to those of `outputs`.
        linked (`dict`): the components that the address keeps, by their names there.
        openers (`tuple`): the box and the button that open a study.
    """

    show: Callable[..., Any] = tuple
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    linked: dict[str, Any] = field(default_factory=dict)
    openers: tuple[Any, ...] = ()


def studies(data: Any, study: Any) -> Page:
    """Build the page of the published studies."""
    cards = gr.HTML(js_on_load=PICK)
    with gr.Row(elem_id="open"):
        box = gr.Textbox(
            label="Another study on the Hub",
            placeholder="owner/name of a dataset repo",
            max_lines=1,
            max_length=300,
            scale=3,
            min_width=180,
        )
        button = gr.Button("Open", scale=0, min_width=80)
    return Page(lambda: (page_html.cards(data.published()),), [], [cards], openers=(box, button))


def verdict(data: Any, study: Any) -> Page:
    """Build the page with the first screen of the report, whose limits can be moved."""
    top = gr.HTML(elem_classes="first-screen")
    with gr.Row(elem_id="limits"):
        sliders = [
            gr.Slider(0, most, step=0.005, label=title, min_width=200, buttons=[]) for title, most in LIMITS.values()
        ]
        reset = gr.Button("Reset limits", scale=0, min_width=130)
    details = gr.HTML(elem_classes="first-screen")

    def judge(spec: str, *limits: float) -> str:
        """Return the verdict at the limits of the sliders."""
        results = data.get(spec).results
        verdict = results.verdict.at(dict(zip(LIMITS, limits, strict=True)))
        return _first_screen(data, spec, results.model_copy(update={"verdict": verdict}))[0]

    def show(spec: str) -> tuple[Any, ...]:
        content, results = data.read_verdict(spec), data.get(spec).results
        if results is None:
            hidden = [gr.update(visible=False)] * (len(sliders) + 1)
            return page_html.no_verdict(content), *hidden, ""
        verdict, why = _first_screen(data, spec, results)
        limits = {criterion.name: criterion.limit for criterion in results.verdict.criteria}
        updates = [gr.update(value=limits[name], visible=True) for name in LIMITS]
        return verdict, *updates, gr.update(visible=True), why + page_html.verdict_details(content)

    outputs = [top, *sliders, reset, details]
    gr.on([slider.input for slider in sliders], judge, [study, *sliders], top, trigger_mode="always_last", **PRIVATE)
    reset.click(show, study, outputs, **PRIVATE)
    return Page(show, [study], outputs)


def _first_screen(data: Any, spec: str, results: Any) -> tuple[str, str]:
    """Return the first screen of the report: the verdict, and the reasons."""
    study = data.get(spec)
    texts = find_wrong_texts(study.pool.texts, study.pool.gold, study.pool.probs, study.classes) if study.texts else []
    parts = render_first_screen(results, texts, study.findings.get("controls", {}))
    return parts[0], parts[1]


def labels(data: Any, study: Any) -> Page:
    """Build the page of the training texts, their labels, and the errors of the labels."""
    with gr.Row():
        kind = gr.Dropdown(_options(tables.KINDS), value="wrong", label="Show", min_width=170)
        order = gr.Dropdown(_options(tables.ORDERS), value="sure", label="Order", min_width=215)
        gold = gr.Dropdown([("any", "")], value="", label="Gold", min_width=120)
        llm = gr.Dropdown([("any", "")], value="", label="LLM", min_width=120)
        second_variant = gr.Dropdown([("none", "")], value="", label="Add a variant", min_width=150)
        search = gr.Textbox(
            label="Search in the texts", placeholder="words, then Enter", max_lines=1, max_length=200, min_width=150
        )
    confusion = gr.HTML(js_on_load=PICK, elem_id="confusion")
    count, texts = gr.HTML(), gr.HTML()
    back, at, ahead = _pager()
    risk = gr.HTML()

    def show(*state: Any) -> tuple[Any, ...]:
        content = data.read_labels(*_filled(state))
        return (
            page_html.labels_count(content),
            page_html.labels_table(content),
            page_html.confusion(content),
            page_html.risk(content),
            _page(content),
        )

    filters = [gold, llm, kind, search, order, second_variant]
    outputs = [count, texts, confusion, risk, at]

    def pick_cell(event: gr.EventData, spec: str, *state: Any) -> tuple[Any, ...]:
        """Show the texts of a cell of the matrix; all wrong texts if the cell was shown already."""
        names = data.get(spec).classes
        cell = tuple("" if k == "-1" else names[int(k)] for k in str(event.id).split())
        values = ("", "", "wrong") if cell == tuple(_filled(state[:2])) else (*cell, "all")
        return *values, *show(spec, *values, *state[3:], 1)

    confusion.click(pick_cell, [study, *filters], [gold, llm, kind, *outputs], **PRIVATE)
    _turn(show, [study, *filters], at, back, ahead, outputs, [*(item.input for item in filters), search.submit])
    linked = {"gold": gold, "llm": llm, "show": kind, "q": search, "order": order, "in": second_variant, "at": at}
    return Page(show, [study, *filters, at], outputs, linked)


def seeds(data: Any, study: Any) -> Page:
    """Build the page of the test texts on which seeds disagree, and of one text over all runs."""
    with gr.Row():
        variant = gr.Dropdown([], label="Variant", min_width=150)
        size = gr.Dropdown([("largest", 0)], value=0, label="Training texts", min_width=130)
        only = gr.Dropdown(_options(tables.SEEDS), value="flips", label="Test texts where", min_width=150)
    summary = gr.HTML()
    details = gr.HTML(elem_id="one")
    flips = gr.HTML(js_on_load=PICK)
    back, at, ahead = _pager()
    text = gr.Textbox("", visible="hidden", label="text")

    def show(*state: Any) -> tuple[Any, ...]:
        content = data.read_predictions(*_filled(state))
        return (
            page_html.seeds_top(content),
            page_html.one_text(content),
            page_html.seeds_table(content),
            _page(content),
        )

    def show_one(spec: str, event: gr.EventData) -> tuple[str, str]:
        text_id = str(event.id)[:100]
        return text_id, page_html.one_text({"one": None, **data.read_predictions(spec, text=text_id)})

    filters, outputs = [variant, size, only, text], [summary, details, flips, at]
    _turn(show, [study, *filters], at, back, ahead, outputs, [variant.input, size.input, only.input])
    flips.click(show_one, study, [text, details], **PRIVATE).then(None, js=SHOW_ONE)
    linked = {"variant": variant, "size": size, "only": only, "text": text, "seeds_at": at}
    return Page(show, [study, *filters, at], outputs, linked)


def compare(data: Any, study: Any) -> Page:
    """Build the page of two variants side by side, with their test."""
    with gr.Row():
        first = gr.Dropdown([], label="First variant", min_width=150)
        second = gr.Dropdown([], label="Second variant", min_width=150)
        size = gr.Dropdown([("largest", 0)], value=0, label="Training texts", min_width=130)
        repo = gr.Textbox(
            label="Second variant from another study", placeholder="owner/name", max_lines=1, max_length=300
        )
    table = gr.HTML()

    def show(*state: Any) -> tuple[str]:
        return (page_html.compare_table(data.compare_variants(*_filled(state)), comparison.FIGURES),)

    inputs = [study, first, second, size, repo]
    gr.on([first.input, second.input, size.input, repo.submit, repo.blur], show, inputs, [table], **PRIVATE)
    return Page(show, inputs, [table], {"first": first, "second": second, "compare_at": size, "other": repo})


def yours(data: Any, study: Any) -> Page:
    """Build the page that measures a visitor's own predictions."""
    gr.HTML(
        "<h3>Do your runs agree?</h3><p>Give a <b>CSV or parquet table with a column for each run</b> and a row for "
        "each text of one test set. A column <code>gold</code> adds scores, a column <code>text</code> shows the texts."
        "</p><details><summary>Other formats and limits</summary><ul><li>A table with a row for each run and text: "
        "<code>run</code>, <code>id</code>, and <code>label</code>, <code>probs</code> or a column for each class."
        '</li><li>JSON of labels or probabilities: <code>{"predictions": [[...], ...], "references": [...]}</code>.'
        f"</li><li>{uploads.LIMITS}</li><li>Files are deleted within the hour.</li></ul></details>"
    )
    with gr.Row():
        pasted = gr.Textbox(EXAMPLE, lines=8, max_lines=8, label="Paste a table or JSON", min_width=280)
        file = gr.File(label="or upload one", file_types=[".csv", ".parquet", ".json"], min_width=280)
    run = gr.Button("Measure", variant="primary")
    problem, differing, figures = gr.HTML(), gr.HTML(), gr.HTML()
    report = gr.DownloadButton("Download the report", visible=False)
    folder = Path(run.GRADIO_CACHE)  # whose files Gradio deletes

    def show(path: str | None, text: str) -> tuple[Any, ...]:
        try:
            content = data.measure(path, text)
        except gr.Error as error:  # The result of an earlier upload vanishes.
            return notice(html.unescape(error.message)), "", "", gr.update(value=None, visible=False)
        folder.mkdir(parents=True, exist_ok=True)
        where = Path(tempfile.mkdtemp(dir=folder), "report.md")
        where.write_text(page_html.report(content), encoding="utf-8")
        figures = page_html.measured_table(content)
        return "", page_html.measured_top(content), figures, gr.update(value=str(where), visible=True)

    outputs = [problem, differing, figures, report]
    run.click(show, [file, pasted], outputs, api_visibility="private", **ONE_AT_A_TIME)
    endpoint = gr.Button(visible=False)
    endpoint.click(data.measure, [file, pasted], gr.JSON(visible=False), api_name="measure", **FILES)
    return Page()


def use(data: Any, study: Any) -> Page:
    """Build the page with lines of code for the study."""
    variant = gr.Dropdown([], label="Variant", min_width=170)
    load_code = gr.Code(language="python", label="Load these labels", interactive=False)
    evaluate_code = gr.Code(language="python", label="Measure its runs again", interactive=False)
    pull_code = gr.Code(language="shell", label="Copy the whole study", interactive=False)

    def show(spec: str, name: str) -> tuple[Any, ...]:
        return tuple(gr.update(value=lines, visible=bool(lines)) for lines in data.show_code(spec, name or "").values())

    page = Page(show, [study, variant], [load_code, evaluate_code, pull_code], {"load": variant})
    variant.input(show, page.inputs, page.outputs, **PRIVATE)
    return page


def _filled(state: Sequence[Any]) -> list[Any]:
    """Return the values of a page's components, with empty text in place of None, which an empty component has."""
    return ["" if value is None else value for value in state]


def _options(pairs: dict[str, str]) -> list[tuple[str, str]]:
    return [(title, name) for name, title in pairs.items()]


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
