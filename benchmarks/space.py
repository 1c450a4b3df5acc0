"""What the Space costs: the first picture, each page's data beside a trivial app, twenty clients at once, memory.

    .venv/bin/python benchmarks/space.py [--texts=2000] [--seeds=10] [--repeats=15] [--clients=20]

A study of 6 arms, 5 sizes and --seeds (300 runs) on --texts test texts is made by the library's own writers: tweets of
the sample with a word of their own, an engine that answers at random, and in place of training probabilities that are
drawn round gold. It is pushed to the tests' Hub in miniature, and the repo's files are what the app reads.

The start is timed from the command to a figure in a real browser. A repeat asks every endpoint once, in a random order,
and between them one that returns its argument in an app of one function, by the same client: what that takes is
Gradio's own. Medians, and the ratio of the app's to the trivial one's within each repeat. Then --clients ask all
endpoints at the same time. Memory is the app's at its peak (VmHWM).
"""

import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import typer
from annotate import DEMO, ROOT, SAMPLE
from push import RandomEngine, serve

ARMS = '["gold", "llm", "llm-soft", "llm-entropy-replace", "llm-random-replace", "llm-random-drop", "llm-entropy-drop"]'
SIZES = [100, 200, 400, 800, 1600]
TRIVIAL = "import gradio as gr\nwith gr.Blocks(analytics_enabled=False) as page:\n    gr.api(lambda text: text, api_name='echo')\npage.launch(ssr_mode=False)"


def make_study(folder: str, texts: int, seeds: int, *overrides: str, pool: int = 4000) -> Any:
    """A study with labels, runs and results, none of which took a model."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from hf_recipes import train as training
    from hf_recipes.annotate import annotate
    from hf_recipes.engines import vllm_engine
    from hf_recipes.fit import Curves
    from hf_recipes.measure import measure
    from hf_recipes.quality import write_labels
    from hf_recipes.recipe import load_recipe
    from hf_recipes.study import Study
    from hf_recipes.variants import write_variants

    source = pq.read_table(SAMPLE, columns=["text", "label"])
    drawn = np.random.default_rng(0)
    Path(folder, "source").mkdir(parents=True)
    for split, count in (("train", pool), ("test", texts)):
        rows = drawn.integers(len(source), size=count)
        words = source["text"].take(rows).to_pylist()
        pq.write_table(
            pa.table(
                {"text": [f"{word} {split} {i}" for i, word in enumerate(words)], "label": source["label"].take(rows)}
            ),
            f"{folder}/source/{split}.parquet",
        )
    settings = [
        *(f"--data.path={folder}/source", f"--output_dir={folder}/study", "--name=bench", f"--grid.arms={ARMS}"),
        *(f"--grid.sizes={SIZES}", f"--grid.seeds={list(range(seeds))}", "--annotate.prompt.shots_per_class=1"),
        *("--data.label_names=[negative, neutral, positive]", "--data.pool_size=null", "--data.test_size=null"),
    ]
    study = Study(load_recipe(DEMO, [*settings, *overrides]), accept_changes=True)
    vllm_engine.Engine = RandomEngine

    class Drawn:
        """In place of a classifier: probabilities that are right more often with more texts and with gold."""

        def __init__(self, run: Any, gold: np.ndarray):
            self.curves = Curves()
            self._gold, self._seed = gold, zlib.crc32(str(run).encode())
            self._skill = 0.9 + 0.25 * np.log(run.size) * (1.0 if run.arm == "gold" else 0.75)

        def predict(self, _: Any, rows: np.ndarray) -> np.ndarray:
            shared, own = np.random.default_rng(7), np.random.default_rng(self._seed)
            scores = shared.normal(size=(len(rows), 3)) + 0.6 * own.normal(size=(len(rows), 3))
            scores[np.arange(len(rows)), self._gold] += self._skill
            probs = np.exp(scores)
            return np.asarray(probs / probs.sum(axis=1, keepdims=True))

    def fit(self: Any, run: Any, labels: Any, key: str | None = None) -> tuple[Any, int]:
        return Drawn(run, self.work.test.gold), 1

    training._Trainer._fit = fit  # type: ignore[method-assign, assignment]
    annotate(study)
    write_variants(study)
    write_labels(study)
    training.train(study)
    measure(study)
    return study


if __name__ == "__main__":
    print(make_study(sys.argv[1], 300, 5, "--grid.sizes=[100, 200, 400]", pool=1000))
