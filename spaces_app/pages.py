"""The pages of the app: what stands on each, and what happens when something on it is changed."""

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
  const one = document.querySelector("#one .one");
  if (!one) return;
  one.setAttribute("tabindex", "-1");
  one.focus({preventScroll: true});
  one.scrollIntoView({block: "nearest"});
}, 50)"""
PLOT = {"show_label": False, "container": False}


@dataclass(frozen=True)
class Page:
    """A page that shows a study.

    Attributes:
        show (function): from the values of `inputs` to those of `outputs`.
        linked (`dict`): the components that the address keeps, by their names there.
    """

    show: Callable[..., Any]
    inputs: list[Any]
    outputs: list[Any]
    linked: dict[str, Any] = field(default_factory=dict)


def verdict(data: Any, study: Any) -> Page:
    """The answer, two figures, and everything that it stands on."""
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
    rest = gr.HTML()

    def show(spec: str) -> tuple[Any, ...]:
        found = data.verdict(spec)
        scored = [variant for variant in found["variants"] if variant["macro_f1_mean"] is not None]
        left = figures.scores(scored, found["confidence_level"]) if scored else None
        right = _instability(found["variants"])
        return words.verdict_top(found), _plot(left), _plot(right), words.verdict_rest(found)

    return Page(show, [study], [top, score, churn, rest])


def _instability(measured: list[dict[str, Any]]) -> Any:
    """Disagreement at the largest size, each variant beside its control."""
    if not measured:
        return None
    top = max(variant["size"] for variant in measured)
    variants = {variant["variant"]: variant for variant in measured if variant["size"] == top}
    order: list[str] = []
    for name, variant in variants.items():
        order += [one for one in (name, variant["control"]) if one in variants and one not in order]
    rows = [
        {
            **{"name": name, "value": variants[name]["pairwise_disagreement"]},
            "interval": variants[name]["pairwise_disagreement_interval"],
            "note": f"beside its control, {variants[name]['control']}" if variants[name]["control"] else "",
        }
        for name in order
    ]
    said = ", ".join(f"{row['name']} {words.number(row['value'])} {words.interval(row['interval'])}" for row in rows)
    description = f"Share of test texts on which two seeds disagree, at {top:,} training texts: {said}."
    return figures.intervals(rows, "share of test texts", description)


def labels(data: Any, study: Any) -> Page:
    """The training texts, their labels, and what is wrong with them."""
    with gr.Row():
        label = gr.Dropdown([("any", "")], value="", label="Class", min_width=150)
        kind = gr.Dropdown(_options(tables.KINDS), value="all", label="Show", min_width=170)
        order = gr.Dropdown(_options(tables.ORDERS), value="study", label="Order", min_width=170)
        beside = gr.Dropdown([("none", "")], value="", label="Set beside", min_width=170)
        search = gr.Textbox(
            label="Search in the texts", placeholder="words, then Enter", max_lines=1, max_length=200, min_width=170
        )
    count, texts = gr.HTML(), gr.HTML()
    back, at, ahead = _pager()
    with gr.Row():
        with gr.Column(min_width=320):
            gr.HTML("<h3>Gold against LLM</h3>")
            confused = gr.HTML()
        with gr.Column(min_width=320):
            gr.HTML(
                "<h3>Risk and coverage</h3><p class='caption'>If only the most certain labels are kept, how many of "
                "them are wrong?</p>"
            )
            risk = gr.Plot(**PLOT)

    def show(*state: Any) -> tuple[Any, ...]:
        found = data.labels(*_filled(state))
        said = words.labels_count(found), words.labels_table(found), words.confusion(found)
        kept, wrong = found["risk_coverage"]["kept"], found["risk_coverage"]["wrong"]
        return *said, _plot(figures.risk(kept, wrong) if kept else None), _page(found)

    filters = [label, kind, search, order, beside]
    outputs = [count, texts, confused, risk, at]
    _turn(show, [study, *filters], at, back, ahead, outputs, [*(one.input for one in filters), search.submit])
    linked = {"class": label, "show": kind, "q": search, "order": order, "in": beside, "at": at}
    return Page(show, [study, *filters, at], outputs, linked)


def seeds(data: Any, study: Any) -> Page:
    """The test texts on which seeds disagree, and one of them over all runs."""
    with gr.Row():
        variant = gr.Dropdown([], label="Labels trained on", min_width=170)
        size = gr.Dropdown([("largest", 0)], value=0, label="Training texts", min_width=130)
        only = gr.Dropdown(_options(tables.SEEDS), value="flips", label="Test texts where", min_width=170)
    flipped = gr.HTML()
    one = gr.HTML(elem_id="one")
    flips = gr.HTML(js_on_load=PICK)
    back, at, ahead = _pager()
    text = gr.Textbox("", visible="hidden", label="text")

    def show(*state: Any) -> tuple[Any, ...]:
        found = data.seeds(*_filled(state))
        return words.seeds_top(found), words.one_text(found), words.seeds_table(found), _page(found)

    def show_one(spec: str, event: gr.EventData) -> tuple[str, str]:
        chosen = str(event.id)[:100]
        return chosen, words.one_text(data.seeds(spec, text=chosen))

    filters, outputs = [variant, size, only, text], [flipped, one, flips, at]
    _turn(show, [study, *filters], at, back, ahead, outputs, [variant.input, size.input, only.input])
    flips.click(show_one, study, [text, one], **PRIVATE).then(None, js=SHOW_ONE)
    linked = {"variant": variant, "size": size, "only": only, "text": text, "seeds_at": at}
    return Page(show, [study, *filters, at], outputs, linked)


def compare(data: Any, study: Any) -> Page:
    """Two variants side by side, with their test."""
    with gr.Row():
        first = gr.Dropdown([], label="First", min_width=150)
        second = gr.Dropdown([], label="Second", min_width=150)
        size = gr.Dropdown([("largest", 0)], value=0, label="Training texts", min_width=130)
        other = gr.Textbox(
            **{"label": "Second from another study", "placeholder": "owner/name", "max_lines": 1},
            **{"max_length": 300, "min_width": 200},
        )
    compared = gr.HTML()
    difference = gr.Plot(**PLOT, visible=False)

    def show(*state: Any) -> tuple[Any, ...]:
        found = data.compare(*_filled(state))
        rows = [
            {"name": tables.FIGURES[one["figure"]], "value": one["difference"], "interval": one["interval"]}
            for one in found["tests"]
            if one["difference"] is not None
        ]
        said = ", ".join(f"{row['name']} {words.plus(row['value'])} {words.interval(row['interval'])}" for row in rows)
        figure = figures.intervals(rows, "first less second", f"Differences: {said}.", zero=True) if rows else None
        return words.compare_table(found, tables.FIGURES), _plot(figure)

    inputs, outputs = [study, first, second, size, other], [compared, difference]
    gr.on([first.input, second.input, size.input, other.submit, other.blur], show, inputs, outputs, **PRIVATE)
    return Page(show, inputs, outputs, {"first": first, "second": second, "compare_at": size, "other": other})


def yours(data: Any) -> None:
    """Somebody's own predictions, measured."""
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
    measured = gr.HTML()
    picture = gr.Plot(**PLOT, visible=False)
    report = gr.DownloadButton("Download the report", visible=False)
    folder = Path(run.GRADIO_CACHE)  # whose files Gradio deletes

    def show(path: str | None, text: str, progress: Any = gr.Progress()) -> tuple[Any, ...]:
        progress(0.2, desc="measuring")
        found = data.measure(path, text)
        rows = [
            {"name": one["figure"].replace("_", " "), "value": one["value"], "interval": one["interval"]}
            for one in found["figures"]
            if one["value"] is not None and 0 <= one["value"] <= 1
        ]
        said = ", ".join(f"{row['name']} {words.number(row['value'])}" for row in rows)
        figure = figures.intervals(rows, "value, with 95% interval", f"Figures of your predictions: {said}.")
        folder.mkdir(parents=True, exist_ok=True)
        where = Path(tempfile.mkdtemp(dir=folder), "report.md")
        where.write_text(words.report(found), encoding="utf-8")
        return words.measured_table(found), _plot(figure), gr.update(value=str(where), visible=True)

    run.click(show, [file, pasted], [measured, picture, report], api_visibility="private", **ONE_AT_A_TIME)
    asked = gr.Button(visible=False)
    asked.click(data.measure, [file, pasted], gr.JSON(visible=False), api_name="measure", **ONE_AT_A_TIME)


def use(data: Any, study: Any) -> Page:
    """Lines of code for what is shown."""
    variant = gr.Dropdown([], label="Labels", min_width=170)
    loads = gr.Code(language="python", label="Load these labels", interactive=False)
    evaluates = gr.Code(language="python", label="Measure its runs again", interactive=False)
    pulls = gr.Code(language="shell", label="The whole study on your machine", interactive=False)

    def show(spec: str, chosen: str) -> tuple[Any, ...]:
        return tuple(gr.update(value=lines, visible=bool(lines)) for lines in data.use(spec, chosen or "").values())

    page = Page(show, [study, variant], [loads, evaluates, pulls], {"load": variant})
    variant.input(show, page.inputs, page.outputs, **PRIVATE)
    return page


def _filled(state: Sequence[Any]) -> list[Any]:
    """What a page's components are set to. Those that are not filled yet are None, which is text for the endpoints."""
    return ["" if value is None else value for value in state]


def _options(pairs: dict[str, str]) -> list[tuple[str, str]]:
    return [(said, name) for name, said in pairs.items()]


def _plot(figure: Any) -> Any:
    return gr.update(value=figure, visible=figure is not None)


def _page(found: dict[str, Any]) -> Any:
    return gr.update(value=found["page"], label=f"Page (of {found['pages']:,})")


def _pager() -> tuple[Any, Any, Any]:
    with gr.Row(elem_classes="pager"):
        back = gr.Button("← Back", min_width=90)
        at = gr.Number(1, label="Page", minimum=1, precision=0, min_width=90)
        ahead = gr.Button("Next →", min_width=90)
    return back, at, ahead


def _turn(
    show: Callable[..., Any], given: list[Any], at: Any, back: Any, ahead: Any, outputs: list[Any], changes: list[Any]
) -> None:
    """Other filters show their first page; the pager shows the others."""

    def move(by: int) -> Callable[..., Any]:
        return lambda *state: show(*state[:-1], int(state[-1] or 1) + by)

    gr.on(changes, show, [*given, gr.State(1)], outputs, trigger_mode="always_last", **PRIVATE)
    at.submit(show, [*given, at], outputs, **PRIVATE)
    back.click(move(-1), [*given, at], outputs, **PRIVATE)
    ahead.click(move(1), [*given, at], outputs, **PRIVATE)
