"""The Space: published studies of what training on an LLM's labels costs, and your own predictions measured.

    python app.py [--study owner/name | FOLDER]

A folder is a copy of a repo that `hf-recipes push dataset` made, and only who starts the app can name one. Without
--study it is the first of `datasets:` in README.md, else the sample beside this file. Every page's data is an endpoint:
`studies`, `verdict`, `labels`, `seeds`, `compare`, `measure` and `use`.
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
KEPT = 3  # studies that visitors asked for, in memory
MOST_NUMBER = 10**9  # that an argument can be
PATIENCE = 30  # seconds that one waits while others' studies are read
PAGES = {"verdict": "Verdict", "labels": "Labels", "seeds": "Seeds", "compare": "Compare"}
PAGES |= {"yours": "Your predictions", "use": "Use it"}


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
        # one after the other: a study may take its place in memory while it is read
        if not self._reading.acquire(timeout=PATIENCE):
            raise UnreadableError("Other studies are being read; try again in a minute.")
        try:
            if spec not in self._kept:
                study = self._read(spec)
                with self._lock:
                    self._kept[spec] = study
                    while len(self._kept) > KEPT:
                        self._kept.popitem(last=False)
            return self._kept[spec]
        finally:
            self._reading.release()

    def _read(self, spec: str) -> Study:
        where, _, name = spec.rpartition("/")
        if self._folder is not None and where == self.first.where and name in self.first.others:
            return read_folder(self._folder, name, where)
        return read_hub(spec)


def spec_of(study: Study) -> str:
    """By which a study is asked for."""
    return f"{study.where}/{study.name}"


def spoken(function: Callable[..., Any]) -> Callable[..., Any]:
    """Answer a wrong argument, study or file with a sentence. Gradio shows an error's message as HTML."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            for name, value in signature.bind(*arguments, **named).arguments.items():
                check(name, value, signature.parameters[name].annotation)
            return function(*arguments, **named)
        except (UnreadableError, UploadError, limited.LimitError, ArgumentError) as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None

    return call


class ArgumentError(ValueError):
    """What is wrong with an argument, in a sentence."""


def check(name: str, value: Any, kind: Any) -> None:
    """Raise if an argument is not what the signature names: Gradio passes on what it receives."""
    if kind is str and not isinstance(value, str):
        raise ArgumentError(f"`{name}` must be text. Got {value!r:.50}. Try a name in quotes.")
    if kind is int and (type(value) not in (int, float) or not (0 <= value <= MOST_NUMBER and value == int(value))):
        raise ArgumentError(f"`{name}` must be a whole number from 0 to {MOST_NUMBER:,}. Got {value!r:.50}. Try 1.")


class Blocks(gr.Blocks):
    """Gradio's page, which answers arguments that a component refuses with a sentence and not with a traceback."""

    async def preprocess_data(self, *arguments: Any, **named: Any) -> Any:
        try:
            return await super().preprocess_data(*arguments, **named)
        except gr.Error:
            raise
        except Exception:
            said = "An argument is invalid: it has a wrong type, or it is a file that was not uploaded here."
            raise gr.Error(f"{said} Try the types at the foot of the page.", print_exception=False) from None


class Data:
    """Every page's data, as plain mappings: the endpoints of the app."""

    def __init__(self, shelf: Shelf):
        self.get = shelf.get

    @spoken
    def studies(self, study: str = "") -> dict:
        """Which study is shown and what its pages can be set to.

        Args:
            study: `owner/name` of a dataset repo, or `owner/name/study`; the study of this Space if empty.

        Returns:
            `about` (repo, commit, models, counts, what is missing) and `choices` (classes, variants, sizes).
        """
        found = self.get(study)
        return {"about": tables.about(found), "choices": tables.choices(found)}

    @spoken
    def verdict(self, study: str = "") -> dict:
        """The answer in words, its numbers with intervals, and every variant and size.

        Args:
            study: as in /studies.

        Returns:
            `decision`, `criteria`, `findings`, `more`, `limits`, `tiles`, `variants`.
        """
        return tables.verdict(self.get(study))

    @spoken
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

    @spoken
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

    @spoken
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
        return tables.compare(self.get(study), second, variant, against, int(size), tested)

    @spoken
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

    @spoken
    def use(self, study: str = "", variant: str = "llm") -> dict:
        """Lines of code that load what is shown.

        Args:
            study: as in /studies.
            variant: whose config.

        Returns:
            `load_dataset`, `evaluate`, `hf_recipes`.
        """
        return code_lines(self.get(study), variant)


def tested(first: Any, second: Any, gold: Any, classes: int) -> list[dict[str, Any]]:
    """The paired test of two variants, by the module that tests them in a study."""
    found = uploads.without_nan(uploads.metric("instability_comparison")(first, second, gold, num_classes=classes))
    whole = {"R": found["R"], "n": found["n"], "p_holm": None, "by": "app"}
    return [
        {
            **{"figure": figure, "difference": found[f"{figure}_difference"], "p_value": found[f"{figure}_p_value"]},
            **{"interval": None if None in (bounds := found[f"{figure}_interval"]) else bounds, **whole},
            **{"verdict": found[f"{figure}_verdict"], "detectable": found[f"{figure}_detectable"]},
        }
        for figure in tables.FIGURES
    ]


def code_lines(study: Study, variant: str) -> dict[str, str]:
    """`tables.use`, with the modules where they are: in this Space, or in a clone."""
    found = tables.use(study, variant)
    if space := os.environ.get("SPACE_ID"):
        head = (
            "from huggingface_hub import snapshot_download\n\n"
            f'space = snapshot_download("{space}", repo_type="space", allow_patterns="metrics/*")\n'
        )
        found["evaluate"] = head + found["evaluate"].replace('"METRICS/', 'f"{space}/metrics/')
    return {**found, "evaluate": found["evaluate"].replace("METRICS/", "metrics/")}


# What is kept in the address, by its name there, with what it is when it is not there. (`page` is Gradio's own.)
LINK: dict[str, Any] = {
    **{"study": "", "view": "verdict", "class": "", "show": "all", "q": "", "order": "study", "in": "", "at": 1},
    **{"variant": "llm", "size": 0, "only": "flips", "text": "", "seeds_at": 1},
    **{"first": "llm", "second": "gold", "compare_at": 0, "other": "", "load": "llm"},
}
REMEMBER = f"""(...values) => {{
  const names = {json.dumps(list(LINK))}, usual = {json.dumps(list(LINK.values()))};
  const found = new URLSearchParams();
  const theme = new URLSearchParams(location.search).get("__theme");
  names.forEach((name, i) => {{
    const value = String(values[i] ?? "");
    if (value !== "" && value !== String(usual[i])) found.set(name, value);
  }});
  if (theme) found.set("__theme", theme);
  const query = found.toString();
  history.replaceState(null, "", query ? "?" + query : location.pathname);
  if (window.parent !== window) window.parent.postMessage({{queryString: query, hash: ""}}, "https://huggingface.co");
}}"""


def filters(study: Study, given: dict[str, str]) -> list[Any]:
    """The components of `LINK` set to what an address says.

    What the study does not have stays in `given`, and the component is set to what it has.
    """
    can = tables.choices(study)
    options: dict[str, list[Any]] = {
        **{"class": ["", *can["classes"]], "in": ["", *can["variants"]], "load": can["variants"]},
        **{"show": list(tables.KINDS), "order": list(tables.ORDERS), "only": list(tables.SEEDS)},
        **dict.fromkeys(("variant", "first", "second"), can["trained"]),
        **{name: [0, *can["sizes"]] for name in ("size", "compare_at")},
    }
    found = []
    for name, usual in LINK.items():
        value: Any = given.pop(name, None)
        if value is not None and isinstance(usual, int):
            value = int(value) if re.fullmatch(r"[0-9]{1,9}", value) else usual
        if (allowed := options.get(name)) is None:
            found.append(usual if value is None else value)
            continue
        if value is not None and value not in allowed:
            given[name] = str(value)
        chosen = next((one for one in (value, usual, *allowed) if one in allowed), None)
        if name in ("show", "order", "only"):
            found.append(chosen)
        else:
            said = {"": "none" if name == "in" else "any", 0: "largest"}
            found.append(
                gr.update(
                    choices=[(said.get(one, f"{one:,}" if isinstance(one, int) else one), one) for one in allowed],
                    value=chosen,
                )
            )
    return found


def settle(shelf: Shelf, spec: str, given: dict[str, str], notice: str = "") -> tuple[Any, ...]:
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
    tab = gr.Tabs(selected=state[list(LINK).index("view")])
    return words.header(tables.about(study), " ".join(said)), several, tab, spec, *state


def build(shelf: Shelf, notice: str = "") -> gr.Blocks:
    """The app of the studies on a shelf."""
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
        shown: dict[str, pages.Page] = {}
        with gr.Tabs(elem_id="pages", overflow_behavior="wrap") as tabs:
            for name, title in PAGES.items():
                with gr.Tab(title, id=name):
                    if name == "yours":
                        pages.yours(data)
                    else:
                        shown[name] = getattr(pages, name)(data, study)
        linked = {"study": study, "view": now}
        for one in shown.values():
            linked |= one.linked
        state = [linked[name] for name in LINK]
        settled = [about, several, tabs, box, *state]

        def arrive(request: gr.Request) -> tuple[Any, ...]:
            given = {name: str(value)[:300] for name, value in request.query_params.items() if name in LINK}
            return settle(shelf, given.get("study", ""), given, notice)

        def open_study(spec: str, tab: str) -> tuple[Any, ...]:
            return settle(shelf, spec, {"view": tab})

        opened = [
            page.load(arrive, None, settled, **pages.PRIVATE),
            *(event(open_study, [box, now], settled, **pages.PRIVATE) for event in (go.click, box.submit)),
            several.input(open_study, [several, now], settled, **pages.PRIVATE),
        ]
        for event in opened:
            for name, one in shown.items():
                event.then(_if_open(name, one), [now, *one.inputs], one.outputs, **pages.PRIVATE)
        for name, tab in zip(PAGES, tabs.children, strict=True):
            chosen = tab.select(None, None, now, js=f"() => '{name}'")
            if name in shown:
                chosen.then(shown[name].show, shown[name].inputs, shown[name].outputs, **pages.PRIVATE)
        gr.on([one.change for one in state], None, state, None, js=REMEMBER)
        for function in (data.studies, data.verdict, data.labels, data.seeds, data.compare, data.use):
            gr.api(function, api_name=function.__name__)
    page.queue(max_size=200, default_concurrency_limit=8, api_open=False)  # no call goes past the queue
    return page


def _if_open(name: str, page: pages.Page) -> Callable[..., Any]:
    """Draws a page if it is the one that is open: the others are drawn when they are."""
    return lambda now, *given: page.show(*given) if now == name else (gr.skip(),) * len(page.outputs)


def first_study(asked: str | None) -> tuple[Study, Path | None, str]:
    """The study that the app starts with, its folder if it has one, and a notice where it is not the one asked for."""
    front = yaml.safe_load((HERE / "README.md").read_text(encoding="utf-8").split("---")[1])
    spec = asked or "/".join([*(front.get("datasets") or [])[:1], *([front["study"]] if "study" in front else [])])
    if not spec:
        return read_folder(SAMPLE, where="sample"), SAMPLE, ""
    if Path(spec).is_dir():
        return read_folder(Path(spec)), Path(spec), ""
    limited.start()  # It imports its modules while the files are downloaded.
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
    # The guard deletes what is in this folder, so no other app may use it.
    cache = Path(get_upload_folder())
    cache.mkdir(parents=True, exist_ok=True)
    own = tempfile.TemporaryDirectory(prefix="space-", dir=cache)
    os.environ["GRADIO_TEMP_DIR"] = own.name
    app = build(Shelf(study, folder), notice)
    app.launch(
        **{"theme": theme(), "css_paths": HERE / "style.css", "max_file_size": uploads.MOST_BYTES, "ssr_mode": False},
        **{"app_kwargs": {"middleware": Guard.middleware(app.GRADIO_CACHE)}, "footer_links": ["api"]},
        prevent_thread_lock=True,
    )
    warm_up = threading.Timer(10, uploads.warm_up)  # when the first picture is there
    warm_up.daemon = True
    warm_up.start()
    app.block_thread()


def theme() -> gr.themes.Base:
    """Calm, and with the fonts that are there: nothing is asked of other hosts."""
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
