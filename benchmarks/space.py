"""Measure the Space: first figure, each page's data against a trivial app, twenty clients at once, memory.

    .venv/bin/python benchmarks/space.py [--texts=2000] [--seeds=10] [--repeats=15] [--clients=20]

A study of 6 variants, 5 sizes and --seeds (300 runs) on --texts test texts is made by the library's own writers: tweets
of the sample with a unique word, an engine that answers at random, and random probabilities in place of training. It
is pushed to the tests' Hub in miniature, and the repo's files are what the app reads.

The start is timed from the command to a figure in a real browser. A repeat asks every endpoint once, in a random order,
and between them one that returns its argument in an app of one function, by the same client: what that takes is
Gradio's own. Medians, and the ratio of the app's to the trivial one's within each repeat. Then --clients ask all
endpoints at the same time. Memory is the app's at its peak (VmHWM).
"""

import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import typer
from annotate import ROOT, SAMPLE, SMALL_RECIPE, in_fresh_process
from push import RandomEngine, serve
from ratio import show

TRAINED = ["gold", "llm", "llm-soft", "llm-entropy-replace", "llm-random-replace", "noise-fixed"]
SIZES = [100, 200, 400, 800, 1600]
TRIVIAL = """
import gradio as gr
def echo(text: str = "") -> str:
    return text
with gr.Blocks(analytics_enabled=False) as page:
    gr.api(echo, api_name="echo")
page.launch(ssr_mode=False)
"""
PYTHON = sys.executable


def make_study(folder: str, texts: int, seeds: int) -> None:
    """Make a study with labels, runs and results, without a model."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from hf_recipes.analysis.measure import measure
    from hf_recipes.annotation.annotate import annotate
    from hf_recipes.annotation.engines import vllm_engine
    from hf_recipes.hub.dataset_folder import DatasetFolder
    from hf_recipes.labels.pool import read_labels
    from hf_recipes.recipe import load_recipe
    from hf_recipes.report.label_quality import write_labels
    from hf_recipes.study import Study
    from hf_recipes.training import train as training
    from hf_recipes.training.fine_tuning import Curves
    from hf_recipes.training.runs import Runs

    source = pq.read_table(SAMPLE, columns=["text", "label"])
    drawn = np.random.default_rng(0)
    Path(folder, "source").mkdir(parents=True)
    for split, count in (("train", 4000), ("test", texts)):
        rows = drawn.integers(len(source), size=count)
        words = source["text"].take(rows).to_pylist()
        pq.write_table(
            pa.table(
                {"text": [f"{word} {split} {i}" for i, word in enumerate(words)], "label": source["label"].take(rows)}
            ),
            f"{folder}/source/{split}.parquet",
        )
    settings = [
        *(
            f"--data.path={folder}/source",
            f"--output_dir={folder}/study",
            "--name=bench",
            f"--grid.variants={json.dumps(TRAINED)}",
        ),
        *(f"--grid.sizes={SIZES}", f"--grid.seeds={list(range(seeds))}", "--annotate.prompt.shots_per_class=1"),
        *("--data.label_names=[negative, neutral, positive]", "--data.pool_size=null", "--data.test_size=null"),
    ]
    study = Study(load_recipe(SMALL_RECIPE, settings), accept_changes=True)
    vllm_engine.Engine = RandomEngine

    class Drawn:
        """Replace a classifier by probabilities that are right more often with more texts and with gold."""

        def __init__(self, run: Any, gold: np.ndarray):
            self._gold, self._seed = gold, zlib.crc32(str(run).encode())
            self._skill = 0.9 + 0.25 * np.log(run.size) * (1.0 if run.variant == "gold" else 0.75)

        def predict(self, rows: np.ndarray) -> np.ndarray:
            shared, own = np.random.default_rng(7), np.random.default_rng(self._seed)
            scores = shared.normal(size=(len(rows), 3)) + 0.6 * own.normal(size=(len(rows), 3))
            scores[np.arange(len(rows)), self._gold] += self._skill
            probs = np.exp(scores)
            return np.asarray(probs / probs.sum(axis=1, keepdims=True))

    def fine_tune(self: Any, run: Any, labels: Any) -> tuple[Any, Curves, int]:
        return Drawn(run, self.runs.test.gold), Curves(), 1

    training._Trainer._fine_tune = fine_tune
    training.predict = lambda accelerator, model, tokenizer, tokens, rows, batch_size: model.predict(rows)
    annotate(study)
    labels = read_labels(study)
    DatasetFolder(study, labels).write()
    write_labels(study, labels)
    training.train(study)
    measure(study, labels, Runs(study, labels))


def publish(folder: str) -> str:
    """Push the study, and download the repo's files."""
    from huggingface_hub import snapshot_download

    from hf_recipes.hub.push import push_dataset
    from hf_recipes.recipe import load_recipe
    from hf_recipes.study import Study

    push_dataset(Study(load_recipe(f"{folder}/study/recipe.yaml", [f"--output_dir={folder}/study"])), "me/bench")
    return snapshot_download("me/bench", repo_type="dataset", local_dir=f"{folder}/repo")


@contextmanager
def running(*command: str, folder: Path, env: dict[str, str]) -> Iterator[tuple[str, int]]:
    """Start an app in its own process; yield its address and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = subprocess.Popen(
        [PYTHON, *command],
        cwd=folder,
        env={**os.environ, **env, "GRADIO_SERVER_PORT": str(port)},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}", started.pid
    finally:
        started.terminate()
        started.wait()


def wait_for(address: str) -> None:
    while True:
        try:
            with urllib.request.urlopen(f"{address}/config", timeout=5):  # noqa: S310
                return
        except OSError:
            time.sleep(0.1)


def peak(process: int) -> float:
    """Return the peak memory of a process in megabytes."""
    line = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def first_content(address: str, since: float, browser: Any) -> float:
    """Return the seconds from a moment to the first content in a browser."""
    wait_for(address)
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(address, wait_until="domcontentloaded")
    page.locator(".card .loss").first.wait_for(timeout=120_000)
    page.close()
    return time.perf_counter() - since


def questions(client: Any, table: str) -> dict[str, Callable[[], Any]]:
    """Return requests to the app by name."""
    text = client.predict(api_name="/read_predictions")["rows"][0]["id"]
    return {
        "studies": lambda: client.predict(api_name="/list_studies"),
        "verdict": lambda: client.predict(api_name="/read_verdict"),
        "labels": lambda: client.predict(
            kind="wrong", order="unsure", variant="llm-entropy-replace", api_name="/read_labels"
        ),
        "labels, search": lambda: client.predict(search="the", api_name="/read_labels"),
        "seeds": lambda: client.predict(variant="llm", api_name="/read_predictions"),
        "seeds, one text": lambda: client.predict(text=text, api_name="/read_predictions"),
        "compare": lambda: client.predict(variant="llm", against="gold", api_name="/compare_variants"),
        "use": lambda: client.predict(api_name="/show_code"),
        "measure, 10 x 2,000": lambda: client.predict(None, table, api_name="/measure"),
    }


def main(texts: int = 2000, seeds: int = 10, repeats: int = 15, clients: int = 20) -> None:
    """See the docstring of this file."""
    from gradio_client import Client
    from playwright.sync_api import sync_playwright

    drawn = np.random.default_rng(0)
    rows = [range(10), *drawn.integers(3, size=(2000, 10))]
    table = "\n".join(",".join(map(str, row)) for row in rows)
    with tempfile.TemporaryDirectory() as folder:
        in_fresh_process(make_study, folder, texts, seeds)
        os.environ |= {"HF_TOKEN": "hf_secret", "HF_HUB_DISABLE_XET": "1", "HF_HOME": f"{folder}/hf"}
        with serve(0):
            repo = in_fresh_process(publish, folder)
        env = {"GRADIO_TEMP_DIR": f"{folder}/gradio", "GRADIO_ANALYTICS_ENABLED": "False"}
        app = ("app.py", "--study", repo)
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
            starts = []
            for _ in range(3):
                since = time.perf_counter()
                with running(*app, folder=ROOT / "spaces_app", env=env) as (address, _):
                    starts.append(first_content(address, since, browser))
            browser.close()
        print(f"start to first content: {np.median(starts):.1f} s ({min(starts):.1f} to {max(starts):.1f})")
        with (
            running(*app, folder=ROOT / "spaces_app", env=env) as (address, process),
            running("-c", TRIVIAL, folder=ROOT, env=env) as (plain, _),
        ):
            wait_for(address)
            wait_for(plain)
            client, echo = Client(address, verbose=False), Client(plain, verbose=False)
            endpoints = questions(client, table)
            for ask in endpoints.values():  # what is imported late is imported
                ask()
            took: dict[str, list[float]] = {name: [] for name in endpoints}
            ratios: dict[str, list[float]] = {name: [] for name in endpoints}
            for _ in range(repeats):
                base = seconds(lambda: echo.predict(text="x", api_name="/echo"))
                for name in drawn.permutation(list(endpoints)):
                    took[name].append(seconds(endpoints[name]))
                    ratios[name].append(took[name][-1] / base)
            for name, values in took.items():
                print(f"{name}: {1000 * np.median(values):.0f} ms, {np.median(ratios[name]):.2f} of a trivial app's")
            alone = peak(process)

            def visit(_: int) -> list[float]:
                calls = questions(Client(address, verbose=False), table)
                return [seconds(ask) for ask in calls.values()]

            with ThreadPoolExecutor(clients) as pool:
                since = time.perf_counter()
                answers = list(itertools.chain.from_iterable(pool.map(visit, range(clients))))
            whole = time.perf_counter() - since
            print(
                f"{clients} clients at once: {len(answers)} answers without an error in {whole:.0f} s, "
                f"median {1000 * np.median(answers):.0f} ms, 95% under {1000 * np.quantile(answers, 0.95):.0f} ms"
            )
            print(f"memory at its peak: {alone:.0f} MB, with {clients} clients {peak(process):.0f} MB")
    for name, values in ratios.items():
        show(f"time, {name}", "a Gradio app of one function", float(np.median(values)))


def seconds(ask: Callable[[], Any]) -> float:
    since = time.perf_counter()
    ask()
    return time.perf_counter() - since


if __name__ == "__main__":
    typer.run(main)
