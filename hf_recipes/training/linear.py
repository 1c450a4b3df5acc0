"""Train linear heads on frozen features, and TF-IDF with logistic regression: the baselines of fine-tuning.

    python -m hf_recipes.training.linear RECIPE [--key=value ...]

`hf-recipes train RECIPE` runs this in a child process. With `train.encoder_mode: frozen` or `both` heads are trained
for the whole grid, else for gold and LLM labels at the largest size.
"""

import shutil
import sys
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from ..labels.pool import read_labels
from ..labels.rules import Labels
from ..logs import Progress
from ..recipe import load_recipe
from ..study import Run, Study, cpu_threads
from ..variants import CONFIDENT
from .confident import leave_out
from .devices import list_gpus
from .run_folder import write_failure, write_run
from .runs import Runs, check_training

BLOCK = 64  # runs whose folders appear together: what a kill can cost


def train_baselines(study: Study) -> None:
    """Train all heads and TF-IDF models that are not done and have not failed.

    Raises:
        UserError: the encoder does not load, or the study was published without its texts.
    """
    with study.lock():
        check_training(study)
    runs = Runs(study, read_labels(study))
    with study.baselines_lock():
        _train_heads(study, runs.of("frozen"))
        _train_tfidf(study, runs.of("tfidf"))


def _train_heads(study: Study, runs: Runs) -> None:
    left = runs.untried()
    if not left:
        return
    import torch
    from accelerate import Accelerator

    from .features import read_features
    from .heads import predict_heads, scale_features, train_heads

    torch.set_num_threads(cpu_threads())
    if not runs.accelerate["use_cpu"]:
        torch.cuda.set_device(list_gpus(runs.accelerate)[0])
    accelerator = Accelerator(cpu=runs.accelerate["use_cpu"], mixed_precision="no")
    # The features of all texts that any of the runs trains on or classifies.
    needed = np.unique(np.concatenate([runs.pool_sample, *(runs.labels(run).rows for run in left)]))
    place = np.full(len(runs.pool.ids), -1)
    place[needed] = np.arange(len(needed))
    texts = [runs.pool.texts[i] for i in needed] + [str(text) for text in runs.test.texts]
    raw = read_features(study, runs, accelerator, texts)
    features = scale_features(raw).to(accelerator.device)
    pool, test = features[: len(needed)], features[len(needed) :]

    settings, share = study.training, study.grid.replace_share
    with Progress(total=len(runs.all), initial=len(runs.all) - len(left), desc="heads", unit=" runs") as progress:
        for block in _blocks(left):
            start = time.monotonic()
            labels = []
            for run in block:
                run_labels = runs.labels(run)
                if run.variant in CONFIDENT:
                    run_labels = leave_out(run, run_labels, runs.pool, share, raw[place[run_labels.rows]])
                labels.append(run_labels)
            heads = train_heads(
                pool,
                [place[run_labels.rows] for run_labels in labels],
                [run_labels.targets for run_labels in labels],
                [(run.init_seed, run.order_seed) for run in block],
                settings.warmup_ratio,
                settings.weight_decay,
            )
            trained = []
            for run, run_labels, head in zip(block, labels, heads, strict=True):
                if not torch.isfinite(head).all():
                    write_failure(study, runs, run, FloatingPointError("The head diverged: weights are not finite."))
                    continue
                out_of_bag = pool[torch.as_tensor(place[runs.out_of_bag(run)])]
                trained.append((run, run_labels, predict_heads(test, head), predict_heads(out_of_bag, head)))
            _publish(study, runs, trained, (time.monotonic() - start) / len(block))
            progress.update(len(block))


def _train_tfidf(study: Study, runs: Runs) -> None:
    left = runs.untried()
    if not left:
        return
    pool, test = runs.pool, [str(text) for text in runs.test.texts]
    with Progress(total=len(runs.all), initial=len(runs.all) - len(left), desc="TF-IDF", unit=" runs") as progress:
        for block in _blocks(left):
            start = time.monotonic()
            trained = []
            for run in block:
                labels = runs.labels(run)
                texts = [pool.texts[i] for i in labels.rows]
                new_texts = [*test, *(pool.texts[i] for i in runs.out_of_bag(run))]
                probs = predict_tfidf(texts, labels.labels, new_texts, len(pool.label_names))
                trained.append((run, labels, probs[: len(test)], probs[len(test) :]))
            _publish(study, runs, trained, (time.monotonic() - start) / len(block))
            progress.update(len(block))


def predict_tfidf(texts: list[str], labels: np.ndarray, new_texts: list[str], num_classes: int) -> np.ndarray:
    """Train logistic regression on the TF-IDF of words and pairs of words. Return probabilities of new texts.

    Args:
        texts (`list[str]`), labels (`np.ndarray` of shape `(n,)`):
            The training set.
        new_texts (`list[str]`):
            The m texts to classify.
        num_classes (`int`):
            K; `labels` need not have all classes.

    Returns:
        `np.ndarray` of shape `(m, K)`.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from threadpoolctl import threadpool_limits

    classes = np.unique(labels)
    probs = np.zeros((len(new_texts), num_classes))
    if len(classes) == 1:
        probs[:, classes[0]] = 1.0
        return probs
    # Punctuation counts too: emoticons are features, and every text that is not blank has some.
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")  # noqa: S106
    model = make_pipeline(words, LogisticRegression(max_iter=1000, C=10.0))
    with threadpool_limits(1):  # sums do not depend on the number of cores
        probs[:, classes] = model.fit(texts, labels).predict_proba(new_texts)
    return probs


def _blocks(runs: list[Run]) -> Iterator[list[Run]]:
    """Yield at most `BLOCK` runs of one size at a time."""
    for _, of_size in groupby(sorted(runs, key=lambda run: run.size), key=lambda run: run.size):
        block = list(of_size)
        for start in range(0, len(block), BLOCK):
            yield block[start : start + BLOCK]


def _publish(
    study: Study, runs: Runs, trained: list[tuple[Run, Labels, np.ndarray, np.ndarray]], seconds: float
) -> None:
    """Write the folders of some runs, which appear together. `seconds` are those of one run."""
    temporaries: dict[Path, Path] = {}
    for run, labels, probs, out_of_bag_probs in trained:
        folder = study.run(run)
        temporary = folder.with_name(f".tmp-{folder.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        settings = runs.settings(run)
        write_run(temporary, runs, run, labels, probs, out_of_bag_probs, seconds, train=settings)
        temporaries[folder] = temporary
    study.checksums.publish_all(temporaries)


def main() -> None:
    """Train the baselines of the recipe of the command line."""
    from .. import logs

    logs.set_up()
    with logs.in_a_line():
        train_baselines(Study(load_recipe(sys.argv[1], sys.argv[2:])))


if __name__ == "__main__":
    main()
