"""Compare the classifiers with baselines: the most frequent class, TF-IDF, a frozen head, and the LLM itself."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ..data import NO_GOLD
from ..labels.pool import StudyLabels
from ..labels.votes import NO_VOTE
from ..study import Run, Study
from ..training.runs import Runs
from .metric_modules import correct, difference
from .texts import Texts, compare, read_probs


def measure_baselines(study: Study, labels: StudyLabels, runs: Runs, with_gold: Texts) -> list[dict[str, Any]]:
    """Return the fields of `Baseline` for gold and LLM labels at the largest size, on the test texts with gold.

    The p-values of all differences are corrected for each other (Holm 1979). Baselines that are not trained are left
    out.
    """
    rows, trained = [], find_trained(study, runs)
    for variant in ("gold", "llm"):
        if (variant, with_gold.top) in with_gold.labels:
            of_variant = {method: paired for (name, method), paired in trained.items() if name == variant}
            for name, predictions in _predict(study, labels, runs, with_gold, variant, of_variant):
                rows.append(_measure(name, variant, predictions, with_gold))
    correct([row["difference"] for row in rows])
    return rows


def find_trained(study: Study, runs: Runs) -> dict[tuple[str, str], list[Run]]:
    """Return the runs of each baseline that is trained, by variant and method."""
    trained: dict[tuple[str, str], list[Run]] = {}
    for variant in ("gold", "llm"):
        for baseline in runs.baselines if variant in study.grid.variants else []:
            paired = baseline.paired(variant, study.grid.sizes[-1])
            if all(map(baseline.is_valid, paired)):
                trained[variant, baseline.method] = paired
    return trained


def _predict(
    study: Study, labels: StudyLabels, runs: Runs, with_gold: Texts, variant: str, trained: dict[str, list[Run]]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each baseline's name and its labels of the texts with gold, of shape `(R, n)`; `NO_VOTE` without one."""
    num_runs, num_texts = with_gold.labels[variant, with_gold.top].shape
    of_seeds = runs.paired(variant, with_gold.top)
    frequent = [np.bincount(runs.labels(run).labels, minlength=with_gold.num_classes).argmax() for run in of_seeds]
    yield "most-frequent", np.repeat(np.array(frequent)[:, None], num_texts, axis=1)

    has_gold = np.flatnonzero(labels.test_gold != NO_GOLD)
    for name, paired in trained.items():
        probs = np.stack([read_probs(study, run, labels.test) for run in paired])
        yield name, probs[:, has_gold].argmax(axis=2)

    if variant == "llm" and labels.teacher is not None:
        teacher = labels.teacher[has_gold]
        if (teacher != NO_VOTE).sum() > 1:  # labels made elsewhere may have none for test texts
            yield "llm", np.repeat(teacher[None], num_runs, axis=0)


def _measure(name: str, variant: str, predictions: np.ndarray, with_gold: Texts) -> dict[str, Any]:
    # Texts without a label of the LLM do not count, for the classifiers either.
    top, places = (variant, with_gold.top), np.flatnonzero((predictions != NO_VOTE).all(axis=0))
    texts, predictions = with_gold.take(places), predictions[:, places]
    scores = replace(texts, labels={top: predictions}).score(top)
    fields = ("accuracy_mean", "accuracy_mean_interval", "macro_f1_mean", "macro_f1_mean_interval")
    # Runs of one seed have the same texts and labels. The LLM itself has no seeds.
    comparison = compare(texts.labels[top], predictions, texts.rows.gold, texts.clusters, paired=name != "llm")
    return {
        "name": name,
        "variant": variant,
        "R": len(predictions),
        "n": len(texts.rows),
        **{field: scores[field] for field in fields},
        "difference": difference(comparison, "macro_f1"),
    }
