"""Each metric's page in a real browser: see the example's result, paste, measure; a bad table is named."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import yaml
from conftest import ROOT
from playwright.sync_api import expect

from hf_recipes.hub.spaces import metric_files

PAGES = {
    "seed_instability": ("pairwise disagreement", "gold,run 0\npositive,negative\n", "must have at least 2 runs"),
    "seed_scores": ("accuracy mean", "run 0,run 1\n1,2\n", "must be named gold"),
    "seed_divergence": ("js divergence", '{"predictions": [[[0.9, 0.3]], [[0.5, 0.5]]]}', "sum to 1"),
    "learning_plateau": ("gain", "size,seed 0\n100,0.5\n200,x\n", "must be numbers"),
    "instability_comparison": ("macro f1", "gold,a,b,c\n1,1,1,1\n", "must have the same number of runs"),
    "annotation_uncertainty": ("accuracy", "gold,a,b\nc,0.5,0.5\n", "must be one of a, b. Got c"),
}


@pytest.fixture
def serve(tmp_path):
    """Start a page as its Space would, from the files that are pushed, and return its address."""
    pages = []

    def start(name):
        for file, path in metric_files(ROOT / "metrics" / name).items():
            shutil.copyfile(path, tmp_path / file)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {
            **os.environ,
            "GRADIO_SERVER_PORT": str(port),
            "GRADIO_TEMP_DIR": str(tmp_path / "gradio"),
            "GRADIO_ANALYTICS_ENABLED": "False",
        }
        with (tmp_path / "log").open("w") as log:
            command = [sys.executable, "app.py"]
            pages.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT))
        for _ in range(720):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=5):
                    return f"http://127.0.0.1:{port}"
            except OSError:
                time.sleep(0.25)
        raise AssertionError((tmp_path / "log").read_text())

    yield start
    for page in pages:
        page.terminate()
        page.wait()


def test_the_pages_have_the_theme_of_the_space():
    assert (ROOT / "spaces_app" / "theme.py").resolve() == (ROOT / "metrics" / "theme.py").resolve()


IN_EVERY_RUN = ("seed_instability", "learning_plateau")  # one page for all metrics: a table of labels, and of scores


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in IN_EVERY_RUN else pytest.mark.slow) for name in PAGES]
)
def test_a_page_measures_what_is_pasted_and_names_what_is_wrong(name, serve, browser):
    figure, bad, complaint = PAGES[name]
    front = yaml.safe_load((ROOT / "metrics" / name / "README.md").read_text().split("---")[1])
    page = browser.new_page(viewport={"width": 900, "height": 1000})
    try:
        page.goto(serve(name))  # it shows the result of the example at once
        expect(page.get_by_role("gridcell", name=figure).first).to_be_visible(timeout=30_000)
        plot = page.locator("img[src*='data:image'], .matplotlib img, img[src*='/file=']").first
        expect(plot).to_be_visible(timeout=30_000)
        if folder := os.environ.get("HF_RECIPES_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/{name}.png", full_page=True)
        expect(page.get_by_text(front["description"])).to_be_visible()
        example = page.get_by_label("Paste").input_value()
        page.get_by_label("Paste").fill(bad)
        page.get_by_role("button", name="Measure").click()
        expect(page.get_by_text(complaint).first).to_be_visible(timeout=30_000)
        expect(page.get_by_role("gridcell", name=figure)).to_have_count(0)
        page.get_by_label("Paste").fill(example)
        page.get_by_role("button", name="Measure").click()
        expect(page.get_by_role("gridcell", name=figure).first).to_be_visible(timeout=30_000)
    finally:
        page.close()
