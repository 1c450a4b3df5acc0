"""Show published studies of training on an LLM's labels, and measure a visitor's own predictions.

    python app.py [--study owner/name | FOLDER]

A folder is a copy of a repo that `hf-recipes push dataset` made. Only the command line can name a folder. Without
--study the app shows the first of `datasets:` in README.md, or else the sample next to this file. The data of every
page is an endpoint, and a tool for agents (MCP): see `endpoints.py`.
"""

import argparse
import os
import tempfile
import threading
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import check_labels
import gradio as gr
import guess
import measuring
import page_html
import pages
import preview
import tables
import uploads
import words
from address import LINK, REMEMBER, read_address, update_filters
from endpoints import Blocks, Data
from first_screen import STYLE
from gradio.utils import get_upload_folder
from guard import Guard
from published import UnreadableError
from shelf import Shelf, first_study, spec_of
from theme import THEME

HERE = Path(__file__).parent
#: The pages: in the address, the title of the tab, and the function that builds it.
PAGES = {
    "studies": ("Studies", pages.studies),
    "verdict": ("Verdict", pages.verdict),
    "labels": ("Labels", pages.labels),
    "seeds": ("Seeds", pages.seeds),
    "compare": ("Compare", pages.compare),
    "guess": ("Guess the label", guess.page),
    "yours": ("Your predictions", pages.yours),
    "check": ("Check your labels", check_labels.page),
    "use": ("Use it", pages.use),
}
#: The page is hidden until its content is there, so that nothing moves while it loads.
READY = """(view) => {
  document.body.dataset.view = view;
  document.body.classList.add("ready");
}"""


def build(shelf: Shelf, notice: str = "") -> gr.Blocks:
    """Build the app of the studies on a shelf."""
    data = Data(shelf)
    with Blocks(title=preview.TITLE, analytics_enabled=False, delete_cache=(600, 1800)) as page:
        gr.HTML(f"<h1>{preview.TITLE}</h1><p>{preview.SUBTITLE}</p>", elem_id="title")
        alert = gr.HTML(elem_id="alert")
        about = gr.HTML(elem_id="about", js_on_load=pages.PICK)
        study = gr.Textbox("", visible="hidden", label="study")
        view = gr.Textbox("studies", visible="hidden", label="view")
        views: dict[str, pages.Page] = {}
        with gr.Tabs(elem_id="pages", overflow_behavior="wrap") as tabs:
            for name, (title, build_page) in PAGES.items():
                with gr.Tab(title, id=name):
                    views[name] = build_page(data, study)
        linked = {"study": study, "view": view}
        for page_view in views.values():
            linked |= page_view.linked
        state = [linked[name] for name in LINK]
        names = {component: name for name, component in linked.items()}
        contents = [component for page_view in views.values() for component in page_view.outputs]
        outputs = [alert, about, tabs, *state, *contents]

        def settle(spec: str, query: dict[str, str], notice: str = "") -> tuple[Any, ...]:
            """Return everything that changes with the study: header, tab, filters, and the content of the open page."""
            chosen_study = shelf.get(spec)
            values, notices = read_address(chosen_study, {**query, "study": spec})
            if values["view"] not in PAGES:
                notices.append(f"There is no page `{values['view']}`.")
                values["view"] = "verdict" if spec else "studies"
            content = draw_open_page(views, names, values)
            header = page_html.header(tables.about(chosen_study), spec_of(chosen_study))
            text = words.notice(" ".join([notice, *notices]).strip())
            return text, header, gr.Tabs(selected=values["view"]), *update_filters(chosen_study, values), *content

        def arrive(request: gr.Request) -> tuple[Any, ...]:
            query = {name: str(value)[:300] for name, value in request.query_params.items() if name in LINK}
            spec = query.get("study", "")
            if spec:
                query.setdefault("view", "verdict")
            try:
                return settle(spec, query, notice)
            except UnreadableError as error:
                return settle("", query, f"{error} {spec_of(shelf.first)} is shown instead.")

        def open_study(spec: str) -> tuple[Any, ...]:
            try:
                return settle(spec, {"view": "verdict"})
            except UnreadableError as error:  # The input and the page remain.
                return words.notice(str(error)), *[gr.skip()] * (len(outputs) - 1)

        def pick_study(event: gr.EventData) -> tuple[Any, ...]:
            return open_study(str(event.id)[:300])

        page.load(arrive, None, outputs, **pages.PRIVATE).then(None, view, None, js=READY)
        gr.on([about.click, views["studies"].outputs[0].click], pick_study, None, outputs, **pages.PRIVATE)
        box, button = views["studies"].openers
        gr.on([button.click, box.submit], open_study, box, outputs, **pages.PRIVATE)
        for name, tab in zip(PAGES, tabs.children, strict=True):
            chosen = tab.select(None, None, view, js=f"() => document.body.dataset.view = '{name}'")
            chosen.then(views[name].show, views[name].inputs, views[name].outputs, **pages.PRIVATE)
        gr.on([component.change for component in state], None, state, None, js=REMEMBER)
        for function in (data.list_studies, data.read_verdict, data.read_labels, data.read_predictions):
            gr.api(function)
        for function in (data.compare_variants, data.guess_labels, data.show_code):
            gr.api(function)
        for function in (data.measure_predictions, data.check_labels):
            gr.api(function, **pages.ONE_AT_A_TIME)
    page.queue(max_size=200, default_concurrency_limit=8, api_open=False)  # All calls go through the queue.
    return page


def draw_open_page(views: dict[str, pages.Page], names: dict[Any, str], values: dict[str, Any]) -> list[Any]:
    """Return the content of the open page. The other pages are drawn when a visitor opens them."""
    content: list[Any] = []
    for name, page in views.items():
        is_open = name == values["view"]
        inputs = [values[names[component]] for component in page.inputs] if is_open else []
        content += page.show(*inputs) if is_open else [gr.skip()] * len(page.outputs)
    return content


def main() -> None:
    """Start the app."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", help="owner/name on the Hub, owner/name/study, or a folder")
    try:
        study, folder, notice = first_study(parser.parse_args().study)
        shelf = Shelf(study, folder)
    except UnreadableError as error:
        raise SystemExit(f"error: --study: {error}") from None
    # The guard deletes what is in this folder, so no other app may use it.
    cache = Path(get_upload_folder())
    cache.mkdir(parents=True, exist_ok=True)
    own = tempfile.TemporaryDirectory(prefix="space-", dir=cache)
    os.environ["GRADIO_TEMP_DIR"] = own.name
    app = build(shelf, notice)
    preview.write_tags()
    # Gradio's tools for agents require version 1 of this package, and vLLM requires version 2.
    mcp_version = version("mcp") if find_spec("mcp") else "none"
    has_tools = mcp_version.startswith("1.")
    if not has_tools:
        print(f"No tools for agents: they require the package mcp 1. Got {mcp_version}. Try requirements.txt.")
    app.launch(
        theme=THEME,
        css_paths=HERE / "style.css",
        css=STYLE,
        max_file_size=uploads.MAX_BYTES,
        ssr_mode=False,
        app_kwargs={"middleware": Guard.middleware(app.GRADIO_CACHE), "routes": [preview.thumbnail_route(shelf)]},
        footer_links=["api"],
        mcp_server=has_tools,
        prevent_thread_lock=True,
    )

    def prepare() -> None:
        measuring.warm_up()
        shelf.keep_listing()

    background = threading.Timer(10, prepare)  # after the first page
    background.daemon = True
    background.start()
    app.block_thread()


if __name__ == "__main__":
    main()
