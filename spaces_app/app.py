"""The Space: published studies of what training on an LLM's labels costs, and your own predictions measured.

    python app.py [--study owner/name | FOLDER]

A folder is a copy of a repo that `hf-recipes push dataset` made, and only who starts the app can name one. Without
--study it is the first of `datasets:` in README.md, else the sample beside this file. Every page's data is an endpoint:
`studies`, `verdict`, `labels`, `seeds`, `compare`, `measure` and `use`.
"""

import argparse
import functools
import html
import json
import os
import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import figures
import gradio as gr
import tables
import uploads
import words
import yaml
from guard import Guard
from published import Study, UnreadableError, read_folder, read_hub
from uploads import UploadError

HERE = Path(__file__).parent
SAMPLE = HERE / "sample"
KEPT = 3  # studies that visitors asked for, in memory
EXAMPLE = """\
gold,run 0,run 1,run 2,run 3
positive,positive,positive,positive,positive
negative,negative,neutral,negative,negative
neutral,neutral,positive,neutral,positive
positive,positive,positive,positive,positive
negative,negative,negative,negative,negative
neutral,positive,neutral,neutral,neutral
"""
PAGES = ["verdict", "labels", "seeds", "compare", "yours", "use"]


class Shelf:
    """The studies in memory: the one that the app was started with, and the last few that visitors asked for."""

    def __init__(self, first: Study, folder: Path | None):
        self.first = first
        self._folder = folder
        self._kept: OrderedDict[str, Study] = OrderedDict()
        self._lock, self._reading = threading.Lock(), threading.Lock()

    def get(self, spec: str) -> Study:
        """The study `owner/name` or `owner/name/study`; the first one if that is empty."""
        spec = spec.strip().removeprefix("https://huggingface.co/datasets/").strip("/")[:300]
        if spec in ("", self.first.where, spec_of(self.first)):
            return self.first
        with self._lock:
            if spec in self._kept:
                self._kept.move_to_end(spec)
                return self._kept[spec]
        with self._reading:  # one after the other: a study may take its place in memory while it is read
            if spec in self._kept:
                return self._kept[spec]
            where, _, name = spec.rpartition("/")
            local = self._folder is not None and where == self.first.where and name in self.first.others
            study = read_folder(self._folder, name, where) if local and self._folder else read_hub(spec)
            with self._lock:
                self._kept[spec] = study
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        return study


def spec_of(study: Study) -> str:
    """By which a study is asked for."""
    return f"{study.where}/{study.name}"


def spoken(function: Callable[..., Any]) -> Callable[..., Any]:
    """Errors that people can mend are said to them, as text; Gradio shows an error's message as HTML."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except (UnreadableError, UploadError) as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None

    return call


class Data:
    """Every page's data, as plain mappings: the endpoints of the app."""

    def __init__(self, shelf: Shelf):
        self.get = shelf.get

    def studies(self, study: str = "") -> dict:
        """Which study is shown and what its pages can be set to.

        Args:
            study: `owner/name` of a dataset repo, or `owner/name/study`; the study of this Space if empty.

        Returns:
            `about` (repo, commit, models, counts, what is missing) and `choices` (classes, arms, sizes).
        """
        found = self.get(study)
        return {"about": tables.about(found), "choices": tables.choices(found)}

    def verdict(self, study: str = "") -> dict:
        """The answer in words, its numbers with intervals, and every arm and size.

        Args:
            study: as in /studies.

        Returns:
            `decision`, `criteria`, `findings`, `more`, `limits`, `tiles`, `arms`.
        """
        return tables.verdict(self.get(study))

    def labels(
        self,
        study: str = "",
        label: str = "",
        kind: str = "all",
        search: str = "",
        order: str = "study",
        arm: str = "",
        page: int = 1,
    ) -> dict:
        """Training texts with gold, the LLM's label, distribution, entropy and flips; confusion and risk-coverage.

        Args:
            study: as in /studies.
            label: a class that gold or the LLM gives; all if empty.
            kind: all, wrong, right, flips or changed.
            search: words in the text.
            order: study, unsure or sure.
            arm: whose labels to set beside, with why they differ.
            page: of 25 texts.

        Returns:
            `rows`, `found`, `pages`, `confusion`, `risk_coverage`.
        """
        return tables.labels(self.get(study), label, kind, search, order, arm, int(page))

    def seeds(
        self, study: str = "", arm: str = "", size: int = 0, only: str = "flips", text: str = "", page: int = 1
    ) -> dict:
        """Test texts on which the seeds of an arm disagree, and one text over all runs.

        Args:
            study: as in /studies.
            arm: of the labels; llm if empty.
            size: training texts; the largest if 0.
            only: flips, worse, wrong or all.
            text: id of a test text to be shown over all runs, sizes and arms.
            page: of 25 texts.

        Returns:
            `rows`, `found`, `pages`, `flipped`, `one`.
        """
        return tables.seeds(self.get(study), arm, int(size), only, text, int(page))

    def compare(self, study: str = "", arm: str = "", against: str = "", size: int = 0, other: str = "") -> dict:
        """Two arms, or the arms of two studies, side by side, with the test of their difference.

        Args:
            study: as in /studies.
            arm: the first; llm if empty.
            against: the second; gold if empty.
            size: training texts; the largest if 0.
            other: the study that `against` is from; the same if empty.

        Returns:
            `sides`, `tests`, `said`.
        """
        second = self.get(other) if other.strip() else None
        return tables.compare(self.get(study), second, arm, against, int(size), tested)

    def measure(self, file: str | None, pasted: str) -> dict:
        """What the metric modules say of your predictions: runs x texts, labels or probabilities.

        Args:
            file: .csv, .parquet or .json; see the page for its shape and limits.
            pasted: a table or JSON, if there is no file.

        Returns:
            `R`, `n`, `classes`, `figures` (with intervals) and `full`, all that each module returned.
        """
        return uploads.measure(uploads.read(file, pasted))

    def use(self, study: str = "", arm: str = "llm") -> dict:
        """Lines of code that load what is shown.

        Args:
            study: as in /studies.
            arm: whose config.

        Returns:
            `load_dataset`, `evaluate`, `hf_recipes`.
        """
        return code_lines(self.get(study), arm)


def tested(first: Any, second: Any, gold: Any, classes: int) -> list[dict[str, Any]]:
    """The paired test of two arms, by the module that tests them in a study."""
    found = uploads.without_nan(
        uploads.metric("instability_comparison")(first, second, gold, num_classes=classes, n_boot=2)
    )
    whole = {"R": found["R"], "n": found["n"], "p_holm": None, "by": "app"}
    return [
        {
            **{"figure": figure, "difference": found[f"{figure}_difference"], "p_value": found[f"{figure}_p_value"]},
            **{"interval": None if None in (bounds := found[f"{figure}_interval"]) else bounds, **whole},
            **{"verdict": found[f"{figure}_verdict"], "detectable": found[f"{figure}_detectable"]},
        }
        for figure in tables.FIGURES
    ]


def code_lines(study: Study, arm: str) -> dict[str, str]:
    """`tables.use`, with the modules where they are: in this Space, or in a clone."""
    found = tables.use(study, arm)
    if space := os.environ.get("SPACE_ID"):
        head = (
            "from huggingface_hub import snapshot_download\n\n"
            f'space = snapshot_download("{space}", repo_type="space", allow_patterns="metrics/*")\n'
        )
        found["evaluate"] = head + found["evaluate"].replace('"METRICS/', 'f"{space}/metrics/')
    return {**found, "evaluate": found["evaluate"].replace("METRICS/", "metrics/")}


# What is kept in the address, by its name there, with what it is when it is not there. (`page` is Gradio's own.)
LINK = {
    **{"study": "", "view": "verdict", "class": "", "show": "all", "q": "", "order": "study", "in": "", "at": 1},
    **{"arm": "llm", "size": 0, "only": "flips", "text": "", "seeds_at": 1},
    **{"first": "llm", "second": "gold", "compare_at": 0, "other": ""},
}
REMEMBER = f"""(...values) => {{
  const names = {json.dumps(list(LINK))}, usual = {json.dumps(list(LINK.values()))};
  const found = new URLSearchParams();
  const theme = new URLSearchParams(location.search).get("__theme");
  names.forEach((name, i) => {{
    const value = values[i];
    if (value !== null && value !== undefined && value !== "" && String(value) !== String(usual[i])) found.set(name, value);
  }});
  if (theme) found.set("__theme", theme);
  const query = found.toString();
  history.replaceState(null, "", query ? "?" + query : location.pathname);
  if (window.parent !== window) window.parent.postMessage({{queryString: query, hash: ""}}, "https://huggingface.co");
}}"""
PICK = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-id]");
  if (button) trigger("click", {id: button.dataset.id});
});
"""
SHOW_ONE = """() => setTimeout(() => {
  const one = document.querySelector("#one .one");
  if (one) { one.setAttribute("tabindex", "-1"); one.focus({preventScroll: true}); one.scrollIntoView({block: "nearest"}); }
}, 50)"""


def label_choices(pairs: dict[str, str]) -> list[tuple[str, str]]:
    return [(said, name) for name, said in pairs.items()]


def build(shelf: Shelf, notice: str = "") -> gr.Blocks:
    """The app of the studies on a shelf."""
    data = Data(shelf)
    usual = tables.choices(shelf.first)

    def show_verdict(study: str) -> tuple[Any, ...]:
        found = data.verdict(study)
        arms = [arm for arm in found["arms"] if arm["macro_f1_mean"] is not None]
        score = figures.scores(arms, found["confidence_level"]) if arms else None
        return (
            words.verdict_top(found),
            gr.update(value=score, visible=bool(arms)),
            *_instability(found),
            words.verdict_rest(found),
        )

    def show_labels(*state: Any) -> tuple[Any, ...]:
        found = data.labels(*state)
        risk = found["risk_coverage"]
        figure = figures.risk(risk["kept"], risk["wrong"]) if risk["kept"] else None
        return (
            *(words.labels_count(found), words.labels_table(found), words.confusion(found)),
            *(gr.update(value=figure, visible=figure is not None), _page(found)),
        )

    def show_seeds(*state: Any) -> tuple[Any, ...]:
        found = data.seeds(*state)
        return words.seeds_top(found), words.one_text(found), words.seeds_table(found), _page(found)

    def show_one(study: str, event: gr.EventData) -> tuple[str, str]:
        found = data.seeds(study, text=str(event.id)[:100])
        return str(event.id)[:100], words.one_text(found)

    def show_compare(*state: Any) -> tuple[Any, ...]:
        found = data.compare(*state)
        rows = [
            {"name": tables.FIGURES[one["figure"]], "value": one["difference"], "interval": one["interval"]}
            for one in found["tests"]
            if one["difference"] is not None
        ]
        said = ", ".join(f"{row['name']} {words.plus(row['value'])} {words.interval(row['interval'])}" for row in rows)
        figure = figures.intervals(rows, "first less second", f"Differences: {said}.", zero=True) if rows else None
        return words.compare_table(found, tables.FIGURES), gr.update(value=figure, visible=bool(rows))

    def show_use(study: str, arm: str) -> tuple[Any, ...]:
        found = data.use(study, arm)
        return tuple(gr.update(value=found[name], visible=bool(found[name])) for name in found)

    def show_measured(file: str | None, pasted: str, progress: gr.Progress = gr.Progress()) -> tuple[Any, ...]:
        progress(0.1, desc="reading")
        runs = uploads.read(file, pasted)
        progress(0.3, desc="measuring")
        found = uploads.measure(runs)
        rows = [
            {"name": one["figure"].replace("_", " "), "value": one["value"], "interval": one["interval"]}
            for one in found["figures"]
            if one["value"] is not None and 0 <= one["value"] <= 1
        ]
        said = ", ".join(f"{row['name']} {words.number(row['value'])}" for row in rows)
        figure = figures.intervals(rows, "value, with 95% interval", f"Figures of your predictions: {said}.")
        where = Path(tempfile.mkdtemp(dir=page.GRADIO_CACHE), "report.md")
        where.write_text(words.report(found), encoding="utf-8")
        return (
            words.measured_table(found),
            gr.update(value=figure, visible=True),
            gr.update(value=str(where), visible=True),
        )

    def move(show: Callable[..., Any], by: int) -> Callable[..., Any]:
        return lambda *state: show(*state[:-1], int(state[-1] or 1) + by)

    def filters(study: Study, given: dict[str, str]) -> list[Any]:
        """The components of `LINK` set to what an address says, as far as the study has it; `given` shrinks to the rest."""
        can = tables.choices(study)
        options = {
            **{
                "class": ["", *can["classes"]],
                "show": list(tables.KINDS),
                "order": list(tables.ORDERS),
                "in": ["", *can["arms"]],
            },
            **{"arm": can["trained"], "size": [0, *can["sizes"]], "only": list(tables.SEEDS)},
            **{"first": can["trained"], "second": can["trained"], "compare_at": [0, *can["sizes"]]},
        }
        found: list[Any] = []
        for name, otherwise in LINK.items():
            value: Any = given.pop(name, None)
            if name in ("size", "compare_at", "at", "seeds_at"):
                value = int(value) if value and re.fullmatch(r"\d{1,9}", value) else otherwise
            if name not in options:
                found.append(otherwise if value is None else value)
                continue
            allowed = options[name]
            if value is not None and value not in allowed:
                given[name] = str(value)
            first = otherwise if otherwise in allowed or not allowed else allowed[0]
            chosen = value if value in allowed else first
            if name in ("show", "order", "only"):
                found.append(chosen)
            else:
                named = {"": "any", 0: "largest"}
                found.append(
                    gr.update(
                        choices=[(named.get(one, _said(one)), one) for one in allowed],
                        value=chosen if allowed else None,
                    )
                )
        return found

    def arrive(request: gr.Request) -> tuple[Any, ...]:
        given = {name: str(value)[:300] for name, value in request.query_params.items() if name in LINK}
        return settle(given.get("study", ""), given)

    def settle(spec: str, given: dict[str, str]) -> tuple[Any, ...]:
        """Everything that changes with the study: the line about it, the choice of studies, the tab, and all filters."""
        said = [notice] if notice else []
        try:
            study = shelf.get(spec)
        except UnreadableError as error:
            said.append(f"{error} What is shown is {spec_of(shelf.first)}.")
            study, spec = shelf.first, ""
        given["study"] = spec
        if given.get("view", "verdict") not in PAGES:
            said.append(f"There is no page '{given.pop('view')}'.")
        state = filters(study, given)
        said += [f"This study has no {name} '{value}' to show." for name, value in given.items()]
        several = gr.update(
            choices=[(one, f"{study.where}/{one}") for one in study.others],
            value=spec_of(study) if study.others else None,
            visible=len(study.others) > 1,
        )
        tab = state[list(LINK).index("view")]
        return words.header(tables.about(study), " ".join(said)), several, gr.Tabs(selected=tab), spec, *state

    def open_study(spec: str, tab: str) -> tuple[Any, ...]:
        return settle(spec, {"view": tab})

    with gr.Blocks(title="Can these labels be trusted?", analytics_enabled=False, delete_cache=(600, 1800)) as page:
        gr.HTML(
            "<h1>Can these labels be trusted?</h1><p>What it costs to train a classifier on labels that a language model "
            "made: published studies, in two minutes.</p>",
            elem_id="title",
        )
        with gr.Row(elem_id="which", equal_height=True):
            about = gr.HTML(words.header(tables.about(shelf.first), notice), min_width=280, elem_id="about")
            with gr.Row(scale=1):
                box = gr.Textbox(
                    **{"label": "Study on the Hub", "placeholder": "owner/name of a dataset repo", "max_lines": 1},
                    **{"scale": 3, "max_length": 300, "min_width": 180},
                )
                go = gr.Button("Open", scale=0, min_width=80)
        several = gr.Dropdown([], label="Studies in this repo", visible=False)
        study = gr.Textbox("", visible="hidden", label="study")
        now = gr.Textbox("verdict", visible="hidden", label="page")
        first_page = gr.State(1)
        with gr.Tabs(elem_id="pages") as tabs:
            with gr.Tab("Verdict", id="verdict") as verdict_tab:
                top = gr.HTML()
                with gr.Row():
                    with gr.Column(min_width=320):
                        gr.HTML(
                            "<h3>Score by number of training texts</h3><p class='caption'>Points are seeds, lines their "
                            "means, bands the intervals. Choose a source in the legend to see it alone.</p>"
                        )
                        score = gr.Plot(show_label=False, container=False)
                    with gr.Column(min_width=320):
                        gr.HTML(
                            "<h3>How often two seeds disagree</h3><p class='caption'>Share of test texts at the largest "
                            "size, each remedy beside its control.</p>"
                        )
                        churn = gr.Plot(show_label=False, container=False)
                rest = gr.HTML()
            with gr.Tab("Labels", id="labels") as labels_tab:
                with gr.Row():
                    label = gr.Dropdown([("any", "")], value="", label="Class (gold or LLM)", min_width=150)
                    kind = gr.Dropdown(label_choices(tables.KINDS), value="all", label="Show", min_width=170)
                    order = gr.Dropdown(label_choices(tables.ORDERS), value="study", label="Order", min_width=170)
                    beside = gr.Dropdown([("any", "")], value="", label="Beside: the labels of an arm", min_width=170)
                    search = gr.Textbox(label="Search in the texts", max_lines=1, max_length=200, min_width=170)
                count = gr.HTML()
                texts = gr.HTML()
                with gr.Row(elem_classes="pager"):
                    back = gr.Button("← Previous", min_width=90)
                    at = gr.Number(1, label="Page", minimum=1, precision=0, min_width=90)
                    ahead = gr.Button("Next →", min_width=90)
                with gr.Row():
                    with gr.Column(min_width=320):
                        gr.HTML("<h3>Gold against LLM</h3>")
                        confused = gr.HTML()
                    with gr.Column(min_width=320):
                        gr.HTML(
                            "<h3>Risk and coverage</h3><p class='caption'>If only the most certain labels are kept, how "
                            "many of them are wrong?</p>"
                        )
                        risk = gr.Plot(show_label=False, container=False)
            with gr.Tab("Seeds", id="seeds") as seeds_tab:
                with gr.Row():
                    arm = gr.Dropdown(usual["trained"], label="Labels trained on", min_width=170)
                    size = gr.Dropdown([("largest", 0)], value=0, label="Training texts", min_width=130)
                    only = gr.Dropdown(
                        label_choices(tables.SEEDS), value="flips", label="Test texts where", min_width=170
                    )
                flipped = gr.HTML()
                one = gr.HTML(elem_id="one")
                flips = gr.HTML(js_on_load=PICK)
                with gr.Row(elem_classes="pager"):
                    seeds_back = gr.Button("← Previous", min_width=90)
                    seeds_at = gr.Number(1, label="Page", minimum=1, precision=0, min_width=90)
                    seeds_ahead = gr.Button("Next →", min_width=90)
                text = gr.Textbox("", visible="hidden", label="text")
            with gr.Tab("Compare", id="compare") as compare_tab:
                with gr.Row():
                    first = gr.Dropdown(usual["trained"], label="First", min_width=150)
                    second = gr.Dropdown(usual["trained"], label="Second", min_width=150)
                    compare_at = gr.Dropdown([("largest", 0)], value=0, label="Training texts", min_width=130)
                    other = gr.Textbox(
                        **{"label": "Second from another study", "placeholder": "owner/name", "max_lines": 1},
                        **{"max_length": 300, "min_width": 200},
                    )
                compared = gr.HTML()
                difference = gr.Plot(show_label=False, container=False, visible=False)
            with gr.Tab("Your predictions", id="yours"):
                gr.HTML(
                    "<h3>Measure your own runs</h3><p>Several training runs on one test set: do they agree, and how good are "
                    "they? Give a <b>CSV or parquet table with a column for each run</b> and a row for each text (a column "
                    "<code>gold</code> adds scores); a long table with <code>run</code>, <code>id</code> and either "
                    "<code>label</code>, <code>probs</code> or a column for each class; or JSON, <code>"
                    '{"predictions": [[...], ...], "references": [...]}</code>, of labels or of lists of probabilities.</p>'
                    f"<p class='caption'>{uploads.LIMITS} What you give is measured and forgotten: the report is yours to "
                    "download, and files are deleted within the hour.</p>"
                )
                with gr.Row():
                    pasted = gr.Textbox(EXAMPLE, lines=8, max_lines=8, label="Paste a table or JSON", min_width=280)
                    file = gr.File(label="or upload one", file_types=[".csv", ".parquet", ".json"], min_width=280)
                run = gr.Button("Measure", variant="primary")
                measured = gr.HTML()
                picture = gr.Plot(show_label=False, container=False, visible=False)
                report = gr.DownloadButton("Download the report", visible=False)
            with gr.Tab("Use it", id="use") as use_tab:
                use_arm = gr.Dropdown([], label="Labels", min_width=170)
                loads = gr.Code(language="python", label="Load these labels", interactive=False)
                evaluates = gr.Code(language="python", label="Measure its runs again", interactive=False)
                pulls = gr.Code(language="shell", label="The whole study on your machine", interactive=False)

        state = {
            **{
                "study": study,
                "view": now,
                "class": label,
                "show": kind,
                "q": search,
                "order": order,
                "in": beside,
                "at": at,
            },
            **{"arm": arm, "size": size, "only": only, "text": text, "seeds_at": seeds_at},
            **{"first": first, "second": second, "compare_at": compare_at, "other": other},
        }
        private = {"api_visibility": "private", "show_progress": "hidden"}
        verdict_page = (spoken(show_verdict), [study], [top, score, churn, rest])
        label_inputs = [study, label, kind, search, order, beside]
        labels_page = (spoken(show_labels), [*label_inputs, at], [count, texts, confused, risk, at])
        seed_inputs = [study, arm, size, only, text]
        seeds_page = (spoken(show_seeds), [*seed_inputs, seeds_at], [flipped, one, flips, seeds_at])
        compare_page = (spoken(show_compare), [study, first, second, compare_at, other], [compared, difference])
        use_page = (spoken(show_use), [study, use_arm], [loads, evaluates, pulls])
        by_page = {
            "verdict": verdict_page,
            "labels": labels_page,
            "seeds": seeds_page,
            "compare": compare_page,
            "use": use_page,
        }
        settled = [about, several, tabs, box, *state.values()]

        def only_if(name: str, show: Callable[..., Any], count: int) -> Callable[..., Any]:
            return lambda tab, *given: show(*given) if tab == name else (gr.skip(),) * count

        def arms_to_use(spec: str) -> Any:
            arms = list(shelf.get(spec).pool.arms)
            return gr.update(choices=arms, value="llm" if "llm" in arms else arms[0])

        opened = [
            page.load(arrive, None, settled, **private),
            go.click(open_study, [box, now], settled, **private),
            box.submit(open_study, [box, now], settled, **private),
            several.input(open_study, [several, now], settled, **private),
        ]
        for event in opened:
            filled = event.then(arms_to_use, study, use_arm, **private)
            for name, (show, inputs, outputs) in by_page.items():
                after = filled if name == "use" else event
                after.then(only_if(name, show, len(outputs)), [now, *inputs], outputs, **private)
        for name, tab in zip(PAGES, tabs.children, strict=True):
            chosen = tab.select(None, None, now, js=f"() => '{name}'")
            if name in by_page:
                chosen.then(*by_page[name], **private)
        show, inputs, outputs = labels_page
        gr.on(
            [c.input for c in (label, kind, order, beside, search)],
            show,
            [*label_inputs, first_page],
            outputs,
            trigger_mode="always_last",
            **private,
        )
        at.submit(show, inputs, outputs, **private)
        back.click(move(show, -1), inputs, outputs, **private)
        ahead.click(move(show, 1), inputs, outputs, **private)
        show, inputs, outputs = seeds_page
        gr.on([c.input for c in (arm, size, only)], show, [*seed_inputs, first_page], outputs, **private)
        seeds_at.submit(show, inputs, outputs, **private)
        seeds_back.click(move(show, -1), inputs, outputs, **private)
        seeds_ahead.click(move(show, 1), inputs, outputs, **private)
        flips.click(spoken(show_one), study, [text, one], **private).then(None, js=SHOW_ONE)
        gr.on([first.input, second.input, compare_at.input, other.submit, other.blur], *compare_page, **private)
        use_arm.input(*use_page, **private)
        gr.on([c.change for c in state.values()], None, list(state.values()), None, js=REMEMBER)
        run.click(
            spoken(show_measured),
            [file, pasted],
            [measured, picture, report],
            api_visibility="private",
            concurrency_limit=1,
            concurrency_id="measure",
        )
        asked = gr.Button(visible=False)
        asked.click(
            spoken(data.measure),
            [file, pasted],
            gr.JSON(visible=False),
            api_name="measure",
            concurrency_limit=1,
            concurrency_id="measure",
        )
        for function in (data.studies, data.verdict, data.labels, data.seeds, data.compare, data.use):
            gr.api(spoken(function), api_name=function.__name__)
    page.queue(max_size=200, default_concurrency_limit=8)
    return page


def _said(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _page(found: dict[str, Any]) -> Any:
    return gr.update(value=found["page"], label=f"Page (of {found['pages']:,})")


def _instability(found: dict[str, Any]) -> tuple[Any, ...]:
    """The figure of disagreement at the largest size, each arm beside its control."""
    if not found["arms"]:
        return (gr.update(visible=False),)
    top = max(arm["size"] for arm in found["arms"])
    arms = {arm["arm"]: arm for arm in found["arms"] if arm["size"] == top}
    controls = {arm["control"] for arm in arms.values() if arm["control"]}
    order: list[str] = []
    for name, arm in arms.items():
        order += [one for one in (name, arm["control"]) if one and one not in order and (one == name or one in arms)]
    rows = []
    for name in order:
        arm = arms[name]
        note = f"beside its control, {arm['control']}" if arm["control"] else "a control" if name in controls else ""
        rows.append(
            {
                "name": name,
                "value": arm["pairwise_disagreement"],
                "interval": arm["pairwise_disagreement_interval"],
                "note": note,
            }
        )
    said = ", ".join(f"{row['name']} {words.number(row['value'])} {words.interval(row['interval'])}" for row in rows)
    description = f"Share of test texts on which two seeds disagree, at {top:,} training texts: {said}."
    return (gr.update(value=figures.intervals(rows, "share of test texts", description), visible=True),)


def first_study(asked: str | None) -> tuple[Study, Path | None, str]:
    """The study that the app starts with, its folder if it has one, and a notice where it is not the one asked for."""
    front = (HERE / "README.md").read_text(encoding="utf-8").split("---")[1]
    spec = asked or next(iter(yaml.safe_load(front).get("datasets") or []), None)
    if spec is None:
        return read_folder(SAMPLE, where="sample"), SAMPLE, ""
    if Path(spec).is_dir():
        return read_folder(Path(spec)), Path(spec), ""
    try:
        return read_hub(spec, token=None), None, ""  # of who starts it
    except UnreadableError as error:
        if asked:
            raise SystemExit(f"error: --study: {error}") from None
        return read_folder(SAMPLE, where="sample"), SAMPLE, f"{error} What is shown is the sample."


def main() -> None:
    """Starts the app."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", help="owner/name on the Hub, owner/name/study, or a folder")
    try:
        study, folder, notice = first_study(parser.parse_args().study)
    except UnreadableError as error:
        raise SystemExit(f"error: --study: {error}") from None
    app = build(Shelf(study, folder), notice)
    threading.Timer(1.0, uploads.warm_up).start()
    font = ["ui-sans-serif", "system-ui", "sans-serif"]
    app.launch(
        **{
            "theme": gr.themes.Soft(
                primary_hue="blue", neutral_hue="slate", font=font, font_mono=["ui-monospace", "monospace"]
            )
        },
        **{
            "css_paths": HERE / "style.css",
            "max_file_size": uploads.MOST_BYTES,
            "ssr_mode": False,
            "show_error": False,
        },
        **{"app_kwargs": {"middleware": Guard.middleware(app.GRADIO_CACHE)}, "footer_links": ["api"]},
    )


if __name__ == "__main__":
    main()
