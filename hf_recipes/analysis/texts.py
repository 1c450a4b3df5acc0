"""The texts that the runs classified: test texts, and out-of-bag texts of the pool."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import parquet
from ..data import NO_GOLD, Rows
from ..errors import UserError
from ..labels.audit import MIN_LABELS
from ..labels.pool import StudyLabels
from ..metric_loading import load_metric
from ..study import Run, Study, read_json
from ..training.runs import PREDICTIONS, Runs
from ..variants import VARIANTS
from .near_duplicates import cluster_codes

MIN_P_VALUE = 0.01  # of one distribution of pool and test texts: below it, out-of-bag texts do not count
NOT_CLASSIFIED = -1
FROM_LLM = ("llm", "mixed", "passes")  # variants that share most labels, so that their runs of one seed are correlated
Predictions = dict[tuple[str, int], np.ndarray]  # by variant and size: class indices of shape (R, n)


@dataclass(frozen=True)
class Texts:
    """Texts that the runs classified.

    Attributes:
        rows (`Rows`): their ids, gold, groups and class names.
        labels (`Predictions`): the runs' labels of them; -1 where a run trained on a text.
        clusters (`np.ndarray` of shape `(n,)`): the number of each text's document, thread or author.
    """

    rows: Rows
    labels: Predictions
    clusters: np.ndarray

    @property
    def num_classes(self) -> int:
        return len(self.rows.label_names)

    @property
    def top(self) -> int:
        """The largest size; 0 without runs."""
        return max((size for _, size in self.labels), default=0)

    def take(self, places: np.ndarray) -> "Texts":
        """Return some of the texts."""
        labels = {variant_at_size: classes[:, places] for variant_at_size, classes in self.labels.items()}
        clusters = np.unique(self.clusters[places], return_inverse=True)[1]
        return Texts(self.rows.take(places), labels, clusters)

    def compare(self, first: tuple[str, int], second: tuple[str, int], **options: Any) -> Any:
        """Return what `instability_comparison` computes of two variants, each at a size."""
        options["paired"] = all(VARIANTS[name].labels in FROM_LLM for name, _ in (first, second))
        return compare(self.labels[first], self.labels[second], self.rows.gold, self.clusters, **options)

    def score(self, variant: tuple[str, int], **options: Any) -> Any:
        """Return what `seed_scores` computes of a variant at a size."""
        return load_metric("seed_scores").compute(
            predictions=self.labels[variant],
            references=self.rows.gold,
            num_classes=self.num_classes,
            clusters=self.clusters,
            **options,
        )


def compare(first: np.ndarray, second: np.ndarray, gold: np.ndarray, clusters: np.ndarray, **options: Any) -> Any:
    """Return what `instability_comparison` computes of two variants' labels, of shape `(R, n)` each.

    Only texts count that neither run of a seed trained on.
    """
    is_seen = (first >= 0) & (second >= 0)
    return load_metric("instability_comparison").compute(
        predictions1=np.where(is_seen, first, -1),
        predictions2=np.where(is_seen, second, -1),
        references=gold,
        num_classes=int(max(first.max(), second.max(), gold.max())) + 1,
        clusters=clusters,
        **options,
    )


def read_texts(study: Study, labels: StudyLabels, runs: Runs) -> tuple[Texts, Texts, Texts, dict[str, Any] | None]:
    """Read the runs' labels of all test texts, of those with gold, and of these and the out-of-bag texts of the pool.

    Returns:
        `tuple[Texts, Texts, Texts, dict | None]`: the three, and the fields of `OutOfBag`. Out-of-bag texts are left
        out where they and the test texts do not come from one distribution.
    """
    grid, test, pool = study.grid, labels.test, runs.pool
    sample = runs.pool_sample
    on_test: Predictions = {}
    on_pool: Predictions = {}
    for size in grid.sizes:
        for variant in grid.variants_at(size):
            variant_runs = runs.paired(variant, size)
            probs = [read_probs(study, run, test) for run in variant_runs]
            on_test[variant, size] = np.stack([run_probs.argmax(axis=1) for run_probs in probs])
            if len(sample):
                on_pool[variant, size] = read_out_of_bag(study, runs, variant_runs)

    # Clusters are found among test texts and pool texts together.
    texts = [*test.texts, *(pool.texts[i] for i in sample)]
    names = None
    if test.clusters is not None or pool.clusters is not None:
        of_test = np.full(len(test), None) if test.clusters is None else test.clusters
        of_pool = np.full(len(pool.ids), None) if pool.clusters is None else pool.clusters
        names = np.concatenate([of_test, of_pool[sample]])
    clusters = cluster_codes(texts, names)
    num_test = len(test)

    # Scores are of the test texts with gold: all of them, or those that people labelled. Disagreement requires no gold,
    # but the metric module takes some: any.
    all_test = Texts(replace(test, gold=np.maximum(test.gold, 0)), on_test, clusters[:num_test])
    places = np.flatnonzero(labels.test_gold != NO_GOLD)
    with_gold = Texts(replace(test, gold=labels.test_gold), on_test, clusters[:num_test]).take(places)
    if len(places) < (MIN_LABELS if study.recipe.few_gold else 2):
        with_gold = replace(with_gold, labels={})
    if not len(sample) or not with_gold.labels:
        return all_test, with_gold, with_gold, None
    # Texts that no run classified show nothing. Those of a class without test texts would change the mean over classes.
    is_seen = np.any([(classes >= 0).any(axis=0) for classes in on_pool.values()], axis=0)
    kept = np.flatnonzero(is_seen & np.isin(pool.gold[sample], with_gold.rows.gold))
    extra = sample[kept]
    combined = Texts(
        Rows(
            ids=[*with_gold.rows.ids, *(pool.ids[i] for i in extra)],
            texts=[*with_gold.rows.texts, *(pool.texts[i] for i in extra)],
            gold=np.concatenate([with_gold.rows.gold, pool.gold[extra]]),
            label_names=test.label_names,
        ),
        {key: np.hstack([with_gold.labels[key], on_pool[key][:, kept]]) for key in with_gold.labels},
        np.unique(np.concatenate([clusters[places], clusters[num_test + kept]]), return_inverse=True)[1],
    )
    if not len(extra):
        return all_test, with_gold, with_gold, None
    at_top = on_pool["llm", grid.sizes[-1]]
    p_value = same_distribution(combined, len(places))
    out_of_bag = {
        "n": len(extra),
        "texts_per_run": float((at_top[:, kept] >= 0).sum(axis=1).mean()),
        "p_value": p_value,
        "is_used": p_value >= MIN_P_VALUE,
    }
    return all_test, with_gold, combined if out_of_bag["is_used"] else with_gold, out_of_bag


def same_distribution(texts: Texts, num_test: int) -> float:
    """Test whether the first `num_test` texts and the others, out-of-bag texts of the pool, come from one distribution.

    The smallest p-value, corrected for their number (Bonferroni), of Welch's tests of the share of each class in gold
    and of the accuracy with gold and with LLM labels at the largest size, by cluster of texts. A run sees both parts,
    so its own quality does not count.
    """
    from scipy import stats

    gold, clusters, num_texts = texts.rows.gold, texts.clusters, len(texts.rows)
    is_test = np.arange(num_texts) < num_test
    figures = [((gold == k).astype(float), np.ones(num_texts)) for k in np.unique(gold)]
    for variant in {"gold", "llm"} & {name for name, size in texts.labels if size == texts.top}:
        labels = texts.labels[variant, texts.top]
        num_runs = (labels >= 0).sum(axis=0)
        figures.append(((labels == gold).sum(axis=0) / np.maximum(num_runs, 1), num_runs > 0))
    p_values = []
    for values, is_known in figures:
        by_part = []
        for part in (is_test, ~is_test):
            inside = part & (is_known > 0)
            sizes = np.bincount(clusters[inside])
            by_part.append((np.bincount(clusters[inside], values[inside]) / np.maximum(sizes, 1))[sizes > 0])
        p_values.append(float(stats.ttest_ind(*by_part, equal_var=False).pvalue))
    finite = [p_value for p_value in p_values if np.isfinite(p_value)]
    return min(1.0, min(finite) * len(finite)) if finite else 1.0


def read_probs(study: Study, run: Run, test: Rows) -> np.ndarray:
    """Return a run's probabilities of the test texts, of shape `(n, K)`."""
    folder = study.run(run)
    table = parquet.read(folder / "predictions.parquet", PREDICTIONS, delete=folder)
    if table["id"].to_pylist() != test.ids or set(table["run"].to_pylist()) != {str(run)}:
        raise UserError(
            f"`{folder}/predictions.parquet` must have the test rows of this run. Delete `{folder}` and run "
            "hf-recipes train."
        )
    return np.array(table["probs"].to_pylist())


def read_out_of_bag(study: Study, runs: Runs, variant_runs: list[Run]) -> np.ndarray:
    """Return the classes that runs gave the texts of `runs.pool_sample`, `NOT_CLASSIFIED` where a run gave none.

    A run that was trained with another sample, or before its pool changed, has classified fewer of them.

    Args:
        study (`Study`), runs (`Runs`), variant_runs (`list[Run]`):
            A study, its runs, and R of them that are trained.

    Returns:
        `np.ndarray` of shape `(R, n)`, int64: a row for each of `variant_runs`.

    Raises:
        UserError: a run's file is missing, damaged or of another run.
    """
    classes = np.full((len(variant_runs), len(runs.pool_sample)), NOT_CLASSIFIED, dtype=np.int64)
    for run, run_classes in zip(variant_runs, classes, strict=True):
        probs = read_out_of_bag_probs(study, run)
        given = {row_id: np.argmax(row_probs) for row_id, row_probs in probs.items()}
        allowed = np.isin(runs.pool_sample, runs.out_of_bag(run))
        for place in np.flatnonzero(allowed):
            run_classes[place] = given.get(runs.pool.ids[runs.pool_sample[place]], NOT_CLASSIFIED)
    return classes


def read_out_of_bag_probs(study: Study, run: Run) -> dict[str, list[float]]:
    """Return a run's probabilities of its out-of-bag texts, by their ids; see `read_out_of_bag` for the errors."""
    folder = study.run(run)
    num_texts = (read_json(folder / "run.json") or {}).get("out_of_bag_texts", 0)
    if not num_texts:
        return {}
    table = parquet.read(folder / "out_of_bag.parquet", PREDICTIONS, delete=folder)
    if len(table) != num_texts or set(table["run"].to_pylist()) != {str(run)}:
        raise UserError(
            f"`{folder}/out_of_bag.parquet` must have the out-of-bag texts of this run. Delete `{folder}` and run "
            "hf-recipes train."
        )
    return dict(zip(table["id"].to_pylist(), table["probs"].to_pylist(), strict=True))
