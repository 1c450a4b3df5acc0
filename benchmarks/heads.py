"""What linear heads on frozen features cost, next to scikit-learn, to fine-tuning, and to a bare pass of the encoder.

    .venv/bin/python benchmarks/heads.py [--size=1000] [--seeds=100] [--repeats=3]

All ways have the sample's tweets, the same features, subsets and gold labels. `features` is `read_features` with its
files next to a bare pass over batches sorted by length. `heads` trains all runs of the grid (two variants with the
same labels) and predicts the test texts, next to scikit-learn's LogisticRegression, one run after another. The grid,
features included, is then compared with fine-tuning: a repeat fine-tunes one run, whose time stands for those of all
runs. Ratios are medians of paired repeats.
"""

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import typer
from annotate import ROOT, SMALL_RECIPE
from ratio import show

from hf_recipes.models import Model
from hf_recipes.recipe import load_recipe
from hf_recipes.study import Study, cpu_threads

ENCODER = ROOT / "models" / "all-MiniLM-L6-v2"
SAMPLE = ROOT / "hf_recipes" / "sample" / "vader_tweets" / "data"
NUM_TEST, LENGTH, VARIANTS = 500, 64, 2

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def timed(function: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def bare_pass(texts: list[str]) -> np.ndarray:
    """Mean-pooled hidden states, in batches sorted by length, with transformers alone."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, encoder = AutoTokenizer.from_pretrained(ENCODER), AutoModel.from_pretrained(ENCODER).eval()
    ids = tokenizer(texts, truncation=True, max_length=LENGTH)["input_ids"]
    order = np.argsort([len(row) for row in ids], kind="stable")
    features = np.empty((len(texts), encoder.config.hidden_size), np.float32)
    with torch.no_grad():
        for start in range(0, len(order), 64):
            batch = order[start : start + 64]
            inputs = tokenizer.pad({"input_ids": [ids[i] for i in batch]}, return_tensors="pt")
            mask = inputs["attention_mask"].unsqueeze(-1)
            features[batch] = ((encoder(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)).numpy()
    return features


class Runs:
    """What `read_features` asks of the runs of a study."""

    encoder = Model(str(ENCODER), ENCODER, "benchmark")
    all = (None,)

    def environment(self, run: None) -> dict[str, str]:
        return {}


def measure(repeat: int, size: int, seeds: int, folder: str) -> dict[str, float]:
    """Return the seconds of each way: `features`, `bare`, `heads` (all runs), `regression` and `tuning` (one run)."""
    import torch
    from accelerate import Accelerator
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from hf_recipes.training.features import read_features
    from hf_recipes.training.fine_tuning import LabelledTexts, Tokens, fine_tune, predict
    from hf_recipes.training.heads import predict_heads, scale_features, train_heads

    torch.set_num_threads(cpu_threads())
    train, test = (pq.read_table(next(SAMPLE.glob(f"{split}-*"))) for split in ("train", "test"))
    texts = [*train["text"].to_pylist(), *test["text"].to_pylist()[:NUM_TEST]]
    labels = train["label"].to_numpy()
    num_pool, classes = len(labels), np.eye(int(labels.max()) + 1)
    settings = [f"--output_dir={folder}/study", f"--train.max_length={LENGTH}", "--train.batch_size=16"]
    study, accelerator = Study(load_recipe(SMALL_RECIPE, settings)), Accelerator(cpu=True)
    study.root.mkdir()

    bare_seconds, bare = timed(lambda: bare_pass(texts))
    feature_seconds, raw = timed(lambda: read_features(study, Runs(), accelerator, texts))
    assert np.allclose(bare, raw, atol=1e-4)  # noqa: S101
    scaled = scale_features(raw)
    rows = [np.random.default_rng([repeat, seed]).permutation(num_pool)[:size] for seed in range(seeds)] * VARIANTS
    targets = [classes[labels[run_rows]] for run_rows in rows]

    def run_heads() -> None:
        for head in train_heads(scaled, rows, targets, [(i, i) for i in range(len(rows))], 0.05, 0.01):
            predict_heads(scaled[num_pool:], head)

    def run_regression() -> None:
        model = LogisticRegression(max_iter=1000).fit(scaled.numpy()[rows[0]], labels[rows[0]])
        model.predict_proba(scaled.numpy()[num_pool:])

    def run_fine_tuning() -> None:
        tokenizer = AutoTokenizer.from_pretrained(ENCODER)
        model = AutoModelForSequenceClassification.from_pretrained(ENCODER, num_labels=len(classes))
        tokens = Tokens(texts, tokenizer, LENGTH, Path(folder) / "tokens")
        labelled = LabelledTexts(tokens, rows[0], targets[0])
        fine_tune(accelerator, model, tokenizer, study.training, 0, labelled, None, 16)
        predict(accelerator, model, tokenizer, tokens, np.arange(num_pool, len(texts)), 64)

    return {
        "features": feature_seconds,
        "bare": bare_seconds,
        "heads": timed(run_heads)[0],
        "regression": median(timed(run_regression)[0] for _ in range(3)),
        "tuning": timed(run_fine_tuning)[0],
    }


@app.command()
def main(size: int = 1000, seeds: int = 100, repeats: int = 3) -> None:
    """Compare heads with scikit-learn and with fine-tuning, and features with a bare pass."""
    num_runs, repeated = VARIANTS * seeds, []
    for repeat in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            repeated.append(measure(repeat, size, seeds, folder))
        print(f"repeat {repeat}: {', '.join(f'{name} {s:.2f} s' for name, s in repeated[-1].items())}", flush=True)
    print(f"{median(60 * num_runs / times['heads'] for times in repeated):,.0f} heads of {size:,} texts a minute")
    of_features = median(times["features"] / times["bare"] for times in repeated)
    of_head = median(times["heads"] / num_runs / times["regression"] for times in repeated)
    of_grid = median((times["features"] + times["heads"]) / (num_runs * times["tuning"]) for times in repeated)
    show("time, features of the sample's tweets", "a bare pass sorted by length", of_features)
    show(f"time, a head on {size:,} texts", "scikit-learn's LogisticRegression", of_head)
    show(f"time, {num_runs} runs, features included", "fine-tuning", of_grid)


if __name__ == "__main__":
    app()
