"""What publishing costs: `push dataset` beside `DatasetDict.push_to_hub` for each config, on the same server.

    .venv/bin/python benchmarks/push.py [--rows=20000] [--repeats=5]

The server is the tests' own (tests/hub_server.py), on this machine: every request, upload and commit is made, answered
at once, or after 50 ms as on a network. A study of four variants and their annotations, five configs, is pushed to a
new repo, read back and compared; the other way pushes the same five configs, loaded already, one after the other,
and reads
nothing back. A repeat does both, in a random order, each in a process of its own, after its imports. Then the
share of replaced labels is changed, which changes two variants, and the study pushed again. The memory at
its peak is that of whole processes, for --rows and for ten times as many; `variants` is a process that has the study's
rows and labels in memory.
"""

import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import typer
from annotate import ROOT, SAMPLE, SMALL_RECIPE, in_fresh_process
from ratio import show

SETTINGS = [
    "--annotate.prompt.shots_per_class=1",
    "--grid.sizes=[100]",
    "--data.label_names=[negative, neutral, positive]",
    "--data.pool_size=null",
    "--data.test_size=null",
    "--name=bench",
]
TRAINED = ["gold", "llm", "llm-entropy-replace", "llm-random-replace"]


class RandomEngine:
    """In place of a language model: log-probabilities drawn at random."""

    def __init__(self, *_: Any):
        self.random = np.random.default_rng(0)

    def score(self, prompts: list[list[int]], label_ids: list[int]) -> tuple[np.ndarray, dict[int, str]]:
        probs = self.random.dirichlet(np.ones(len(label_ids)), len(prompts))
        return np.log(np.maximum(probs, 1e-12)), {}


def open_study(folder: str, *overrides: str) -> Any:
    from hf_recipes.recipe import load_recipe
    from hf_recipes.study import Study

    settings = [
        f"--data.path={folder}/source",
        f"--output_dir={folder}/study",
        f"--grid.variants={json.dumps(TRAINED)}",
    ]
    return Study(load_recipe(SMALL_RECIPE, [*settings, *SETTINGS, *overrides]), accept_changes=True)


def make_source(folder: str, rows: int) -> None:
    """Texts made of the sample's, no two equal, with classes at random."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    words = [text.split() for text in pq.read_table(SAMPLE, columns=["text"])["text"].to_pylist()]
    random = np.random.default_rng(0)
    Path(folder).mkdir()
    for split, count in (("train", rows), ("test", 1000)):
        pairs = random.integers(len(words), size=(count, 2)).tolist()
        texts = [" ".join([*words[a], *words[b][::2], split, str(i)]) for i, (a, b) in enumerate(pairs)]
        pq.write_table(pa.table({"text": texts, "label": random.integers(3, size=count)}), f"{folder}/{split}.parquet")


def make_study(folder: str, rows: int) -> None:
    from hf_recipes.annotation.annotate import annotate
    from hf_recipes.annotation.engines import vllm_engine
    from hf_recipes.hub.dataset_folder import DatasetFolder
    from hf_recipes.labels.pool import read_labels

    make_source(f"{folder}/source", rows)
    vllm_engine.Engine = RandomEngine
    study = open_study(folder)
    annotate(study)
    DatasetFolder(study, read_labels(study)).write()


def push_ours(folder: str, repo: str, *overrides: str) -> tuple[float, float]:
    """Seconds, and gigabytes at the peak."""
    import datasets  # noqa: F401
    import huggingface_hub.hf_api  # noqa: F401

    from hf_recipes.hub.push import push_dataset

    start = time.perf_counter()
    push_dataset(open_study(folder, *overrides), repo)
    return time.perf_counter() - start, gigabytes()


def push_each(folder: str, repo: str) -> tuple[float, float]:
    """The other way; the five configs are loaded before the clock starts."""
    from datasets import Dataset, DatasetDict, disable_progress_bars

    disable_progress_bars()
    data = Path(folder, "study/dataset/data")
    part = next(Path(folder, "study/annotations").glob("*/part-*.parquet")).parent

    def load(files: list[Path]) -> Any:
        return Dataset.from_parquet([str(file) for file in files], cache_dir=f"{folder}/cache-{repo.replace('/', '-')}")

    configs = {
        variant: DatasetDict(train=load([*(data / variant).iterdir()])) for variant in TRAINED
    }  # test has other features
    configs["annotations"] = DatasetDict(train=load(sorted(part.glob("part-*.parquet"))))
    start = time.perf_counter()
    for name, config in configs.items():
        config.push_to_hub(repo, name)
    return time.perf_counter() - start, gigabytes()


def load_all(folder: str) -> float:
    """What it takes to have the study's rows and labels in memory."""
    from hf_recipes.hub.dataset_folder import DatasetFolder
    from hf_recipes.labels.pool import read_labels

    study = open_study(folder)
    DatasetFolder(study, read_labels(study)).write()
    return gigabytes()


def gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def sent(address: str) -> int:
    """Bytes that the server has been sent."""
    with urllib.request.urlopen(f"{address}/log") as answer:  # noqa: S310
        return sum(int(line.rsplit(" ", 1)[1]) for line in json.load(answer))


@contextmanager
def serve(delay: float) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "tests/hub_server.py", str(port), str(delay)])
    time.sleep(2)
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{port}"
    try:
        yield os.environ["HF_ENDPOINT"]
    finally:
        server.kill()


def main(rows: int = 20_000, repeats: int = 5) -> None:
    """What publishing costs; some 5 minutes."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as large:
        os.environ.update({"HF_TOKEN": "hf_secret"}, HF_HUB_DISABLE_XET="1", HF_HOME=f"{folder}/home")
        os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1")
        in_fresh_process(make_study, folder, rows)
        print(f"{rows:,} rows, five configs, {repeats} repeats\n\n| what | measured | target |\n|---|---|---|")
        ratios = {}
        for delay in (0.0, 0.05):
            with serve(delay):
                ratios[f"time, answers after {1000 * delay:.0f} ms"] = compare(folder, delay, repeats)
        with serve(0.0) as address:
            in_fresh_process(push_ours, folder, "me/again")
            before = sent(address)
            in_fresh_process(push_ours, folder, "me/again", "--grid.replace_share=0.5")
            again = sent(address) - before
            changed = sum(file.stat().st_size for file in Path(folder, "study/dataset/data").glob("*-replace/*"))
            print(f"| sent when two variants have changed: their files | {changed / 1024:,.0f} KB | |")
            print(f"| ... and beyond them | {(again - changed) / 1024:.0f} KB | at most 64 KB |")
            in_fresh_process(make_study, large, 10 * rows)
            for n, where in ((rows, folder), (10 * rows, large)):
                peaks = [in_fresh_process(load_all, where)]
                peaks += [
                    in_fresh_process(way, where, f"me/{way.__name__[5:]}-{n}")[1] for way in (push_ours, push_each)
                ]
                shown = ", ".join(f"{peak:.2f}" for peak in peaks)
                print(f"| memory, {n:,} rows: variants, ours, push_to_hub | {shown} GB | flat |")
                ratios[f"memory, {n:,} rows"] = peaks[1] / peaks[2]
    for what, ratio in ratios.items():
        show(what, "push_to_hub for each config", ratio)


def compare(folder: str, delay: float, repeats: int) -> float:
    """Ours / the other way, the median."""
    order, seconds = np.random.default_rng(0), {push_ours: [], push_each: []}
    for repeat in range(repeats):
        for way in order.permutation(np.array([push_ours, push_each])):
            taken, peak = in_fresh_process(way, folder, f"me/{way.__name__[5:]}{repeat}")
            seconds[way].append(taken)
            print(f"{way.__name__}: {taken:.1f} s, {peak:.2f} GB", file=sys.stderr)
    ratios = np.array(seconds[push_ours]) / seconds[push_each]
    print(
        f"| answers after {1000 * delay:.0f} ms: time, ours / push_to_hub for each config: median (range) | "
        f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f}); {np.median(seconds[push_ours]):.1f} s | "
        "at most 1.0 |"
    )
    return float(np.median(ratios))


if __name__ == "__main__":
    os.chdir(ROOT)
    typer.run(main)
