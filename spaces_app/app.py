"""Show published studies of training on an LLM's labels, and measure a visitor's own predictions.

    python app.py [--study owner/name | FOLDER]

A folder is a copy of a repo that `hf-recipes push dataset` made. Only the command line can name a folder. Without
--study the app shows the first of `datasets:` in README.md, or else the sample beside this file. Every page's data is
an endpoint: `studies`, `verdict`, `labels`, `seeds`, `compare`, `measure` and `use`.
"""

import argparse
import functools
import html
import inspect
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

import gradio as gr
import limited
import pages
import tables
import uploads
import words
import yaml
from gradio.utils import get_upload_folder
from guard import Guard
from published import Study, UnreadableError, read_folder, read_hub
from uploads import UploadError

HERE = Path(__file__).parent
SAMPLE = HERE / "sample"
TITLE = "Can these labels be trusted?"
SUBTITLE = (
    "What it costs to train a classifier on labels that a language model made: published studies, in two minutes."
)
MAX_STUDIES = 3  # in memory, in addition to the study of the Space
MAX_NUMBER = 10**9  # of an argument
MAX_WAIT = 30  # seconds that a visitor waits while other studies are read
PAGES = {"verdict": "Verdict", "labels": "Labels", "seeds": "Seeds", "compare": "Compare"}
PAGES |= {"yours": "Your predictions", "use": "Use it"}


class Shelf:
    """Keep in memory the study of the Space and the last few studies that visitors opened."""

    def __init__(self, first: Study, folder: Path | None):
        self.first = first
        self._folder = folder
        self._studies: OrderedDict[str, Study] = OrderedDict()
        self._lock, self._reading = threading.Lock(), threading.Lock()

    def get(self, spec: str) -> Study:
        """Return the study `owner/name` or `owner/name/study`; the first study if `spec` is empty."""
        spec = spec.strip().removeprefix("https://huggingface.co/datasets/").strip("/")[:300]
        if spec in ("", self.first.where, spec_of(self.first)):
            return self.first
        with self._lock:
            if spec in self._studies:
                self._studies.move_to_end(spec)
                return self._studies[spec]
        # Read one study at a time, because a study takes memory while it is read.
        if not self._reading.acquire(timeout=MAX_WAIT):
            raise UnreadableError("Other studies are being read; try again in a minute.")
        try:
            if spec not in self._studies:
                study = self._read(spec)
                with self._lock:
                    self._studies[spec] = study
                    while len(self._studies) > MAX_STUDIES:
                        self._studies.popitem(last=False)
            return self._studies[spec]
        finally:
            self._reading.release()

    def _read(self, spec: str) -> Study:
        where, _, name = spec.rpartition("/")
        if self._folder is not None and where == self.first.where and name in self.first.studies:
            return read_folder(self._folder, name, where)
        return read_hub(spec)


def spec_of(study: Study) -> str:
    """Return the name by which a visitor opens a study."""
    return f"{study.where}/{study.name}"


def explain_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Answer a wrong argument, study or file with a sentence. Gradio shows an error's message as HTML."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        try:
            for name, value in signature.bind(*arguments, **keywords).arguments.items():
                check(name, value, signature.parameters[name].annotation)
            return function(*arguments, **keywords)
        except (UnreadableError, UploadError, limited.LimitError, ArgumentError) as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None

    return call


class ArgumentError(ValueError):
    """Report an invalid argument in a sentence."""


def check(name: str, value: Any, kind: Any) -> None:
    """Raise if an argument does not have the type of the signature: Gradio does not check types."""
    if kind is str and not isinstance(value, str):
        raise ArgumentError(f"`{name}` must be text. Got {value!r:.50}. Try a name in quotes.")
    if kind is int and (type(value) not in (int, float) or not (0 <= value <= MAX_NUMBER and value == int(value))):
        raise ArgumentError(f"`{name}` must be a whole number from 0 to {MAX_NUMBER:,}. Got {value!r:.50}. Try 1.")


class Blocks(gr.Blocks):
    """Answer arguments that a Gradio component refuses with a sentence and not with a traceback."""

    async def preprocess_data(self, *arguments: Any, **keywords: Any) -> Any:
        try:
            return await super().preprocess_data(*arguments, **keywords)
        except gr.Error:
            raise
        except Exception:
            message = "An argument is invalid: it has a wrong type, or it is a file that was not uploaded here."
            raise gr.Error(f"{message} Try the types at the foot of the page.", print_exception=False) from None


class Data:
    """Return every page's data as plain mappings: the endpoints of the app."""

    def __init__(self, shelf: Shelf):
        self.get = shelf.get

    @explain_errors
    def studies(self, study: str = "") -> dict:
        """Which study is shown and what its pages can be set to.

        Args:
            study: `owner/name` of a dataset repo, or `owner/name/study`; the study of this Space if empty.

        Returns:
            `about` (repo, commit, models, counts, what is missing) and `choices` (classes, variants, sizes).
        """
        chosen_study = self.get(study)
        return {"about": tables.about(chosen_study), "choices": tables.choices(chosen_study)}

    @explain_errors
    def verdict(self, study: str = "") -> dict:
        """The answer in words, its numbers with intervals, and every variant and size.

        Args:
            study: as in /studies.

        Returns:
            `decision`, `criteria`, `findings`, `more`, `limits`, `tiles`, `variants`.
        """
        return tables.verdict(self.get(study))

    @explain_errors
    def labels(
        self,
        study: str = "",
        label: str = "",
        kind: str = "all",
        search: str = "",
        order: str = "study",
        variant: str = "",
        page: int = 1,
    ) -> dict:
        """Training texts with gold, the LLM's label, distribution, entropy and flips; confusion and risk-coverage.

        Args:
            study: as in /studies.
            label: a class that gold or the LLM gives; all if empty.
            kind: all, wrong, right, flips or changed.
            search: words in the text.
            order: study, unsure or sure.
            variant: whose labels to set beside, with why they differ.
            page: of 25 texts.

        Returns:
            `rows`, `found`, `pages`, `confusion`, `risk_coverage`.
        """
        return tables.labels(self.get(study), label, kind, search, order, variant, int(page))

    @explain_errors
    def seeds(
        self, study: str = "", variant: str = "", size: int = 0, only: str = "flips", text: str = "", page: int = 1
    ) -> dict:
        """Test texts on which the seeds of a variant disagree, and one text over all runs.

        Args:
            study: as in /studies.
            variant: of the labels; llm if empty.
            size: training texts; the largest if 0.
            only: flips, worse, wrong or all.
            text: id of a test text to be shown over all runs, sizes and variants.
            page: of 25 texts.

        Returns:
            `rows`, `found`, `pages`, `flipped`, `one`.
        """
        return tables.seeds(self.get(study), variant, int(size), only, text, int(page))

    @explain_errors
    def compare(self, study: str = "", variant: str = "", against: str = "", size: int = 0, other: str = "") -> dict:
        """Two variants, or the variants of two studies, side by side, with the test of their difference.

        Args:
            study: as in /studies.
            variant: the first; llm if empty.
            against: the second; gold if empty.
            size: training texts; the largest if 0.
            other: the study that `against` is from; the same if empty.

        Returns:
            `sides`, `tests`, `said`.
        """
        second = self.get(other) if other.strip() else None
        return tables.compare(self.get(study), second, variant, against, int(size), test_difference)

    @explain_errors
    def measure(self, file: str | None, pasted: str) -> dict:
        """What the metric modules say of your predictions: runs x texts, labels or probabilities.

        Args:
            file: .csv, .parquet or .json; see the page for its shape and limits.
            pasted: a table or JSON, if there is no file.

        Returns:
            `R`, `n`, `classes`, `figures` (with intervals) and `full`, all that each module returned.
        """
        # Gradio's own kind of string would make the reading process import Gradio.
        path = None if file is None else str(file)
        return uploads.measure(limited.call("uploads.read", path, pasted))

    @explain_errors
    def use(self, study: str = "", variant: str = "llm") -> dict:
        """Lines of code that load what is shown.

        Args:
            study: as in /studies.
            variant: whose config.

        Returns:
            `load_dataset`, `evaluate`, `hf_recipes`.
        """
        return code_lines(self.get(study), variant)


def test_difference(first: Any, second: Any, gold: Any, classes: int) -> list[dict[str, Any]]:
    """Return the paired test of two variants, by the module that tests them in a study."""
    result = uploads.without_nan(uploads.metric("instability_comparison")(first, second, gold, num_classes=classes))
    return [
        {
            "figure": figure,
            "difference": result[f"{figure}_difference"],
            "p_value": result[f"{figure}_p_value"],
            "interval": uploads.whole_interval(result[f"{figure}_interval"]),
            "R": result["R"],
            "n": result["n"],
            "p_holm": None,
            "by": "app",
            "verdict": result[f"{figure}_verdict"],
            "detectable": result[f"{figure}_detectable"],
        }
        for figure in tables.FIGURES
    ]


def code_lines(study: Study, variant: str) -> dict[str, str]:
    """Return the lines of `tables.use` with the path of the modules in this Space, or in a clone."""
    lines = tables.use(study, variant)
    if space := os.environ.get("SPACE_ID"):
        head = (
            "from huggingface_hub import snapshot_download\n\n"
            f'space = snapshot_download("{space}", repo_type="space", allow_patterns="metrics/*")\n'
        )
        lines["evaluate"] = head + lines["evaluate"].replace('"METRICS/', 'f"{space}/metrics/')
    return {**lines, "evaluate": lines["evaluate"].replace("METRICS/", "metrics/")}


# The settings in the address, with their defaults. (Gradio uses `page` itself.)
LINK: dict[str, Any] = {
    **{"study": "", "view": "verdict", "class": "", "show": "all", "q": "", "order": "study", "in": "", "at": 1},
    **{"variant": "llm", "size": 0, "only": "flips", "text": "", "seeds_at": 1},
    **{"first": "llm", "second": "gold", "compare_at": 0, "other": "", "load": "llm"},
}
REMEMBER = f"""(...values) => {{
  const names = {json.dumps(list(LINK))}, usual = {json.dumps(list(LINK.values()))};
  const query = new URLSearchParams();
  const theme = new URLSearchParams(location.search).get("__theme");
  names.forEach((name, i) => {{
    const value = String(values[i] ?? "");
    if (value !== "" && value !== String(usual[i])) query.set(name, value);
  }});
  if (theme) query.set("__theme", theme);
  const search = query.toString();
  history.replaceState(null, "", search ? "?" + search : location.pathname);
  if (window.parent !== window) window.parent.postMessage({{queryString: search, hash: ""}}, "https://huggingface.co");
}}"""


def filters(study: Study, query: dict[str, str]) -> list[Any]:
    """Return the components of `LINK` set to the values of an address.

    Values that the study does not have stay in `query`, and the component gets its default.
    """
    can = tables.choices(study)
    options: dict[str, list[Any]] = {
        **{"class": ["", *can["classes"]], "in": ["", *can["variants"]], "load": can["variants"]},
        **{"show": list(tables.KINDS), "order": list(tables.ORDERS), "only": list(tables.SEEDS)},
        **dict.fromkeys(("variant", "first", "second"), can["trained"]),
        **{name: [0, *can["sizes"]] for name in ("size", "compare_at")},
    }
    values = []
    for name, usual in LINK.items():
        value: Any = query.pop(name, None)
        if value is not None and isinstance(usual, int):
            value = int(value) if re.fullmatch(r"[0-9]{1,9}", value) else usual
        if (allowed := options.get(name)) is None:
            values.append(usual if value is None else value)
            continue
        if value is not None and value not in allowed:
            query[name] = str(value)
        selection = next((key for key in (value, usual, *allowed) if key in allowed), None)
        if name in ("show", "order", "only"):
            values.append(selection)
        else:
            titles = {"": "none" if name == "in" else "any", 0: "largest"}
            values.append(
                gr.update(
                    choices=[(titles.get(key, f"{key:,}" if isinstance(key, int) else key), key) for key in allowed],
                    value=selection,
                )
            )
    return values


def settle(shelf: Shelf, spec: str, query: dict[str, str], notice: str = "") -> tuple[Any, ...]:
    """Return everything that changes with the study: its header, the choice of studies, the tab and all filters."""
    notices = [notice] if notice else []
    try:
        study = shelf.get(spec)
    except UnreadableError as error:
        notices.append(f"{error} What is shown is {spec_of(shelf.first)}.")
        study, spec = shelf.first, ""
    query["study"] = spec
    if query.get("view", "verdict") not in PAGES:
        notices.append(f"There is no page '{query.pop('view')}'.")
    state = filters(study, query)
    notices += [f"This study has no {name} '{value}' to show." for name, value in query.items()]
    several = gr.update(
        choices=[(name, f"{study.where}/{name}") for name in study.studies],
        value=spec_of(study) if study.studies else None,
        visible=len(study.studies) > 1,
    )
    tab = gr.Tabs(selected=state[list(LINK).index("view")])
    return words.header(tables.about(study), " ".join(notices)), several, tab, spec, *state


def build(shelf: Shelf, notice: str = "") -> gr.Blocks:
    """Build the app of the studies on a shelf."""
    data = Data(shelf)
    with Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 1800)) as page:
        gr.HTML(f"<h1>{TITLE}</h1><p>{SUBTITLE}</p>", elem_id="title")
        with gr.Row(elem_id="which"):
            about = gr.HTML(words.header(tables.about(shelf.first), notice), min_width=280, elem_id="about")
            with gr.Row():
                box = gr.Textbox(
                    **{"label": "Study on the Hub", "placeholder": "owner/name of a dataset repo", "max_lines": 1},
                    **{"scale": 3, "max_length": 300, "min_width": 180},
                )
                go = gr.Button("Open", scale=0, min_width=80)
        several = gr.Dropdown([], label="Studies in this repo", visible=False)
        study = gr.Textbox("", visible="hidden", label="study")
        now = gr.Textbox("verdict", visible="hidden", label="view")
        views: dict[str, pages.Page] = {}
        with gr.Tabs(elem_id="pages", overflow_behavior="wrap") as tabs:
            for name, title in PAGES.items():
                with gr.Tab(title, id=name):
                    if name == "yours":
                        pages.yours(data)
                    else:
                        views[name] = getattr(pages, name)(data, study)
        linked = {"study": study, "view": now}
        for view in views.values():
            linked |= view.linked
        state = [linked[name] for name in LINK]
        outputs = [about, several, tabs, box, *state]

        def arrive(request: gr.Request) -> tuple[Any, ...]:
            query = {name: str(value)[:300] for name, value in request.query_params.items() if name in LINK}
            return settle(shelf, query.get("study", ""), query, notice)

        def open_study(spec: str, tab: str) -> tuple[Any, ...]:
            return settle(shelf, spec, {"view": tab})

        openings = [
            page.load(arrive, None, outputs, **pages.PRIVATE),
            *(event(open_study, [box, now], outputs, **pages.PRIVATE) for event in (go.click, box.submit)),
            several.input(open_study, [several, now], outputs, **pages.PRIVATE),
        ]
        for event in openings:
            for name, view in views.items():
                event.then(_if_open(name, view), [now, *view.inputs], view.outputs, **pages.PRIVATE)
        for name, tab in zip(PAGES, tabs.children, strict=True):
            chosen = tab.select(None, None, now, js=f"() => '{name}'")
            if name in views:
                chosen.then(views[name].show, views[name].inputs, views[name].outputs, **pages.PRIVATE)
        gr.on([component.change for component in state], None, state, None, js=REMEMBER)
        for function in (data.studies, data.verdict, data.labels, data.seeds, data.compare, data.use):
            gr.api(function, api_name=function.__name__)
    page.queue(max_size=200, default_concurrency_limit=8, api_open=False)  # All calls go through the queue.
    return page


def _if_open(name: str, page: pages.Page) -> Callable[..., Any]:
    """Return a function that draws a page if it is open. The other pages are drawn when a visitor opens them."""
    return lambda now, *values: page.show(*values) if now == name else (gr.skip(),) * len(page.outputs)


def first_study(argument: str | None) -> tuple[Study, Path | None, str]:
    """Return the first study, its folder if it has one, and a notice if it is not the study that was requested."""
    front = yaml.safe_load((HERE / "README.md").read_text(encoding="utf-8").split("---")[1])
    spec = argument or "/".join([*(front.get("datasets") or [])[:1], *([front["study"]] if "study" in front else [])])
    if not spec:
        return read_folder(SAMPLE, where="sample"), SAMPLE, ""
    if Path(spec).is_dir():
        return read_folder(Path(spec)), Path(spec), ""
    limited.start()  # It imports its modules while the files are downloaded.
    try:
        return read_hub(spec, token=None), None, ""  # with the token of the Space, if any
    except UnreadableError as error:
        if argument:
            raise SystemExit(f"error: --study: {error}") from None
        return read_folder(SAMPLE, where="sample"), SAMPLE, f"{error} What is shown is the sample."


def main() -> None:
    """Start the app."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", help="owner/name on the Hub, owner/name/study, or a folder")
    try:
        study, folder, notice = first_study(parser.parse_args().study)
    except UnreadableError as error:
        raise SystemExit(f"error: --study: {error}") from None
    # The guard deletes what is in this folder, so no other app may use it.
    cache = Path(get_upload_folder())
    cache.mkdir(parents=True, exist_ok=True)
    own = tempfile.TemporaryDirectory(prefix="space-", dir=cache)
    os.environ["GRADIO_TEMP_DIR"] = own.name
    app = build(Shelf(study, folder), notice)
    app.launch(
        **{"theme": theme(), "css_paths": HERE / "style.css", "max_file_size": uploads.MAX_BYTES, "ssr_mode": False},
        **{"app_kwargs": {"middleware": Guard.middleware(app.GRADIO_CACHE)}, "footer_links": ["api"]},
        prevent_thread_lock=True,
    )
    warm_up = threading.Timer(10, uploads.warm_up)  # after the first figure
    warm_up.daemon = True
    warm_up.start()
    app.block_thread()


def theme() -> gr.themes.Base:
    """Return a theme with the fonts of the system, so that the page requests nothing from other hosts."""
    font = ["ui-sans-serif", "system-ui", "sans-serif"]
    plain = gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=font, font_mono=["ui-monospace", "monospace"])
    return plain.set(
        **{"block_background_fill": "transparent", "block_border_width": "0px", "block_shadow": "none"},
        **{"block_background_fill_dark": "transparent", "block_border_width_dark": "0px", "block_padding": "2px"},
        **{"block_label_background_fill": "transparent", "block_title_text_weight": "500", "layout_gap": "12px"},
        **{"input_border_width": "1px", "input_radius": "8px", "button_large_radius": "8px", "form_gap_width": "12px"},
        **{"input_background_fill": "*background_fill_primary", "block_title_text_size": "*text_sm"},
    )


if __name__ == "__main__":
    main()
