"""Results: every figure of the report, computed from the stored predictions through the modules in `metrics/`."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from .. import tables
from ..annotation.annotations import count_examples
from ..data import NO_GOLD, Rows
from ..errors import UserError
from ..hashing import hash_files, hash_order, make_key
from ..labels.pool import StudyLabels
from ..labels.rules import Labels
from ..labels.votes import NO_VOTE
from ..study import PACKAGE, Run, Study, read_json
from ..training.grid import crossed_runs, crossed_sources, paired_runs
from ..training.runs import PREDICTIONS, Runs
from ..variants import CONTROLS, VARIANTS
from .components import disagreement, variances
from .schema import Figures, Results, read_results
from .verdict import decide, freedom

CODE = ("analysis/measure.py", "analysis/components.py", "analysis/verdict.py", "variants.py")
LEVEL = 0.95
DELTA = 0.01  # of macro-F1: the gain that would still be worth doubling the training texts for
ENSEMBLES = (2, 3, 5)  # runs of an ensemble
Predictions = dict[tuple[str, int], np.ndarray]  # by variant and size, class indices of shape (R, n)
FIGURES = ("accuracy", "macro_f1", "pairwise_disagreement")
#: What a variant has no value of where no test text has gold.
SCORES = (
    *(f"{figure}_{what}" for figure in ("accuracy", "macro_f1") for what in ("mean", "mean_interval")),
    *("macro_f1_sd", "macro_f1_sd_interval", "chance_level_runs", "majority_accuracy", "per_class_f1_mean"),
)
#: Each variant with those that it is compared with.
PAIRS = [(variant.name, other) for variant in VARIANTS.values() for other in variant.comparisons]
#: Variants all of whose labels are the first pass's, and gold: their classifiers may copy the LLM's errors.
TAUGHT = ("gold", *(variant.name for variant in VARIANTS.values() if variant.labels == "llm"))


def metrics_folder() -> Path:
    """Where the metric modules lie: inside the installed package, or beside it in a clone."""
    inside = PACKAGE / "metrics"
    return inside if inside.is_dir() else PACKAGE.parent / "metrics"


def measure(study: Study, labels: StudyLabels, runs: Runs) -> Results:
    """Computes `report/results.json` if the runs behind it have changed.

    Args:
        study (`Study`), labels (`StudyLabels`), runs (`Runs`):
            A study whose runs are all trained, its labels and its runs.

    Returns:
        `Results`

    Raises:
        UserError: runs are missing.
    """
    missing = [run for run in runs.all if not runs.is_valid(run)]
    if missing:
        error = next(filter(None, map(runs.failure, missing)), None)
        raise UserError(
            f"{study.root}: {len(missing)} of {len(runs.all)} runs are not trained (the first: {missing[0]}); "
            + (
                f"of those that failed one says: {error}. hf-recipes train --retry-failed tries them again; if they "
                "cannot be had, take their seeds, variants or sizes out of the recipe"
                if error
                else "run hf-recipes train first"
            )
        )
    with study.lock():
        results = read_study_results(study)
        if results and results.key == _results_key(study, labels, runs):
            return results
        predictions: Predictions = {
            (variant, size): np.stack(
                [_read_predictions(study.run(run), labels.test) for run in paired_runs(study.grid, variant, size)]
            )
            for size in study.grid.sizes
            for variant in study.grid.variants_at(size)
        }
        seen = np.flatnonzero(labels.test_gold != NO_GOLD)
        test = replace(labels.test, gold=labels.test_gold).take(seen)  # all of it, or what people labelled
        judged = {where: classes[:, seen] for where, classes in predictions.items()} if len(seen) > 1 else {}
        variants = list(_measure_variants(study, labels, runs, predictions, judged, test))
        comparisons, top = list(_compare(predictions, judged, test)), study.grid.sizes[-1]
        _correct(comparisons, top)
        content = {
            "key": _results_key(study, labels, runs),
            "study": study.recipe.name,
            "label_names": labels.test.label_names,
            "seeds": study.grid.seeds,
            "vary": study.grid.vary,
            "R": len(study.grid.seeds),
            "n": len(labels.test),
            "audit": _describe_audit(study, labels),
            "confidence_level": LEVEL,
            "lines": _lines(study),
            "annotator": _measure_annotator(study, labels),
            "variants": variants,
            "comparisons": comparisons,
            "best_mitigation": _best(
                [a for a in CONTROLS if (a, top) in _learnt(variants) & set(judged)], judged, test
            ),
            "regained": list(_regained(variants, judged, test)) if ("gold", top) in judged else [],
            "ensembles": list(_ensembles(study, labels.test, seen, test)),
            "class_shares": list(_class_shares(predictions, judged, labels.test, test)),
            "error_cells": list(_error_cells(labels.teacher, judged, seen, test)),
            "gold_match": list(_match_gold(judged, test)),
            "iso_accuracy": _iso_accuracy(variants, judged, test),
            "plateaus": list(_plateaus(variants, judged, test)),
            "components": list(_components(study, labels.test, seen, test)),
            "notes": _notes(labels, runs),
        }
        figures = Figures.model_validate(without_nan(content))
        results = Results(**dict(figures), verdict=decide(figures, study.recipe.accept))
        study.report.mkdir(parents=True, exist_ok=True)
        study.write_json(study.results_file, results.model_dump(mode="json"))
    return results


def read_study_results(study: Study) -> Results | None:
    """Return the content of `report/results.json`; None if it is missing or has the schema of another version."""
    try:
        return read_results(study.results_file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def is_measured(study: Study, labels: StudyLabels, runs: Runs) -> bool:
    """Return whether the results of a trained study exist and are current."""
    results = read_study_results(study)
    return results is not None and results.key == _results_key(study, labels, runs)


def _results_key(study: Study, labels: StudyLabels, runs: Runs) -> str:
    return make_key(
        study=study.recipe.name,
        runs={str(run): read_json(study.run(run) / "run.json")["key"] for run in runs.all},
        labels=labels.key,
        notes=_notes(labels, runs),
        lines=_lines(study),
        accept=study.recipe.accept.model_dump(),
        code=[hash_files(metrics_folder(), ("*.py",)), *(hash_files(PACKAGE / name) for name in CODE)],
    )


def _lines(study: Study) -> dict[str, str]:
    """Return what each variant trains on."""
    grid, few_gold = study.grid, study.recipe.few_gold
    return {name: VARIANTS[name].describe(grid.replace_share, few_gold) for name in grid.variants}


def _describe_audit(study: Study, labels: StudyLabels) -> dict[str, Any] | None:
    """Return how many texts were drawn for people and how many they labelled; None where the source has gold."""
    if not study.recipe.few_gold:
        return None
    audits = {"test": labels.test_audit, "pool": labels.pool_audit}
    return {
        part: {"drawn": audit.num_drawn if audit else 0, "labelled": audit.num_labelled if audit else 0}
        for part, audit in audits.items()
    }


def _load(name: str) -> Any:
    import evaluate

    return evaluate.load(str(metrics_folder() / name), keep_in_memory=True)


def _measure_variants(
    study: Study, labels: StudyLabels, all_runs: Runs, predictions: Predictions, judged: Predictions, test: Rows
) -> Iterator[dict[str, Any]]:
    """Yield scores and instability of each variant at each size. Figures that need no gold cover all test texts."""
    scores, instability = _load("seed_scores"), _load("seed_instability")
    names = test.label_names
    first, every = (count_examples(study, passes) for passes in (labels.annotations[:1], labels.annotations))
    for (variant, size), classes in predictions.items():
        runs = paired_runs(study.grid, variant, size)
        records = [read_json(study.run(run) / "run.json") for run in runs]
        given_labels = [_labels(all_runs, run, record) for run, record in zip(runs, records, strict=True)]
        scored: dict[str, Any] = dict.fromkeys(SCORES) | {"macro_f1_runs": []}
        stable: dict[str, Any] = {"per_class_n": {}, "per_class_disagreement": {}}
        if judged:
            given = {"predictions": judged[variant, size], "references": test.gold, "num_classes": len(names)}
            scored, stable = scores.compute(**given), instability.compute(**given)
        if study.recipe.few_gold:
            stable |= instability.compute(predictions=classes, num_classes=len(names))
            if judged:  # on few texts a good classifier may be no better than chance by chance
                scored["chance_level_runs"] = sum(len(np.unique(run_classes)) == 1 for run_classes in classes)
        by_name = {
            field: {names[k]: value for k, value in figures.items()}
            for field, figures in stable.items()
            if field.startswith("per_class_")
        }
        yield {
            "variant": variant,
            "size": size,
            "gold_train_labels": [trained.gold_labels for trained in given_labels],
            "gold_prompt_labels": 0
            if not VARIANTS[variant].uses_passes
            else (every if VARIANTS[variant].num_passes > 1 or "pass" in study.grid.vary else first)
            + all_runs.pool.calibration_gold,
            "gold_validation_labels": records[0]["gold_validation_labels"],
            "train_label_accuracy": [
                trained.accuracy(all_runs.pool.of_pass(run.annotation_pass))
                for run, trained in zip(runs, given_labels, strict=True)
            ],
            **scored,
            **stable,
            **by_name,
            "n_gold": len(test) if judged else 0,
        }


def _labels(runs: Runs, run: Run, record: dict[str, Any]) -> Labels:
    """Return the labels that the run was trained on."""
    labels, dropped = runs.labels(run), set(record.get("dropped", ()))
    return labels.without(np.array([runs.pool.ids[i] in dropped for i in labels.rows]))


def _read_predictions(folder: Path, test: Rows) -> np.ndarray:
    return _read_probs(folder, test).argmax(axis=1)


def _read_probs(folder: Path, test: Rows) -> np.ndarray:
    """A run's probabilities of the test texts, of shape `(n, K)`."""
    table = tables.read(folder / "predictions.parquet", PREDICTIONS, delete=folder)
    runs = {folder.relative_to(folder.parents[2]).as_posix()}
    if table["id"].to_pylist() != test.ids or set(table["run"].to_pylist()) != runs:
        raise UserError(
            f"{folder}/predictions.parquet: not the test rows of this run; delete {folder} and run hf-recipes train"
        )
    return np.array(table["probs"].to_pylist())


def _measure_annotator(study: Study, labels: StudyLabels) -> dict[str, Any]:
    """The LLM against gold on the pool, and whether its entropy points at its errors."""
    pool, status = labels.training_pool, labels.annotations[0].status
    given = {"predictions": pool.probs, "references": pool.gold, "label_mass": pool.label_mass}
    found = _load("annotation_uncertainty").compute(**given)
    known = np.flatnonzero(pool.gold != NO_GOLD)
    fields = (
        "n",
        "n_gold",
        "accuracy",
        "accuracy_interval",
        "majority_accuracy",
        "macro_f1",
        "macro_f1_interval",
        "entropy_auroc",
    )

    def by_name(values: Any) -> dict[str, float | None]:
        return dict(zip(pool.label_names, map(float, values), strict=True)) if len(known) else dict.fromkeys(names)

    names, counts = pool.label_names, np.array(found.get("per_class_n", 0))
    given_gold = pool.probs[known, pool.gold[known]]

    return {
        "model": study.recipe.annotate.model,
        "calibration": pool.calibrations[0].method,
        "demonstrations": count_examples(study, labels.annotations[:1]),
        "calibration_gold": pool.calibration_gold,
        **{field: found.get(field) for field in fields},
        "recall": by_name(found.get("per_class_recall")),
        "gold_share": by_name(counts / max(len(known), 1)),
        "llm_share": dict(zip(names, found["label_share"], strict=True)),
        "nll": float(-np.log(np.clip(given_gold, 1e-300, None)).mean()) if len(known) else None,
        **_divergence(pool.raters, pool.probs),
        "one_annotator": None if pool.raters is None else one_rater_agreement(pool.raters),
        "label_mass": found["label_mass_mean"],
        "status": {name: status.count(name) for name in sorted(set(status))},
        "truncated": int(labels.annotations[0].truncated.sum()),
    }


def one_rater_agreement(raters: np.ndarray) -> float | None:
    """How often a rater drawn at random gives the commonest label of a text's other raters.

    Args:
        raters (`np.ndarray` of shape `(n, K)`): how many gave each class; texts with fewer than two do not count.

    Returns:
        `float` in [0, 1]: tied commonest labels count in equal shares. None if no text has two raters.
    """
    counts = raters[raters.sum(axis=1) > 1].astype(float)
    if not len(counts):
        return None
    agreed = np.zeros(len(counts))
    for k in range(counts.shape[1]):
        others = counts - np.eye(counts.shape[1])[k]
        best = others == others.max(axis=1, keepdims=True)
        agreed += counts[:, k] * best[:, k] / best.sum(axis=1)
    return float((agreed / counts.sum(axis=1)).mean())


def _divergence(raters: np.ndarray | None, probs: np.ndarray) -> dict[str, Any]:
    """How far the LLM's probabilities are from the raters' shares: the mean KL(raters || LLM) over texts with raters.

    Args:
        raters (`np.ndarray` of shape `(n, K)`, *optional*), probs (`np.ndarray` of shape `(n, K)`)

    Returns:
        `dict` with `kl` in nats, at least 0, infinite where the LLM gives no probability to what a rater says;
        `kl_interval`, by t over texts; `kl_n`, the texts. None where no text has raters.
    """
    from scipy.special import rel_entr

    rated = np.flatnonzero(raters.sum(axis=1)) if raters is not None else np.zeros(0, int)
    if raters is None or not len(rated):
        return {"kl": None, "kl_interval": None, "kl_n": 0}
    shares = raters[rated] / raters[rated].sum(axis=1, keepdims=True)
    each = rel_entr(shares, probs[rated]).sum(axis=1)
    mean, bounds = float(each.mean()), None
    if len(each) > 1 and np.isfinite(mean):
        from scipy import stats

        half = float(stats.t.ppf(0.5 + LEVEL / 2, len(each) - 1) * each.std(ddof=1) / len(each) ** 0.5)
        bounds = [max(mean - half, 0.0), mean + half]
    return {"kl": mean, "kl_interval": bounds, "kl_n": len(each)}


def _correct(comparisons: list[dict[str, Any]], top: int) -> None:
    """Marks the primary comparisons, and gives them p-values corrected for each other (Holm 1979).

    Primary are macro-F1 and disagreement at the largest size: LLM labels against gold, and every other variant that is
    no diagnosis against LLM labels and against its own control. The rest is exploratory.
    """
    primary = [
        one
        for one in comparisons
        if one["size"] == top
        and one["figure"] in ("macro_f1", "pairwise_disagreement")
        and (
            (one["variant"], one["against"]) == ("llm", "gold")
            or one["against"] in ("llm", CONTROLS.get(one["variant"]))
        )
    ]
    corrected = _load("instability_comparison").holm([one["p_value"] for one in primary])
    for one in comparisons:
        one |= {"primary": False, "p_holm": None}
    for one, p_value in zip(primary, corrected, strict=True):
        one |= {"primary": True, "p_holm": float(p_value)}


def _match_gold(predictions: Predictions, test: Rows) -> Iterator[dict[str, Any]]:
    """Classifiers on gold labels of each size against those on all LLM labels: how many gold labels are as good."""
    comparison, top = _load("instability_comparison"), max((size for _, size in predictions), default=0)
    for size in sorted({size for variant, size in predictions if variant == "gold"}):
        found = comparison.compute(
            predictions1=predictions["gold", size],
            predictions2=predictions["llm", top],
            references=test.gold,
            num_classes=len(test.label_names),
        )
        yield {"size": size, "R": found["R"], "n": found["n"], **_difference(found, "macro_f1")}


def _error_cells(
    teacher: np.ndarray | None, predictions: Predictions, seen: np.ndarray, test: Rows
) -> Iterator[dict[str, Any]]:
    """How the LLM's errors pass to classifiers: LLM right or wrong x classifier says the same or not, by test text.

    Over the test texts with gold (`seen`) that the LLM gave a label. Intervals of shares are those of a mean accuracy
    in `seed_scores`, over runs and texts; None where nothing varies. Differences are paired by seed and text.
    """
    teacher = np.full(len(seen), NO_VOTE) if teacher is None else teacher[seen]
    known = np.flatnonzero(teacher != NO_VOTE)
    if len(known) < 2:
        return
    scored, comparison = _load("seed_scores"), _load("instability_comparison")
    teacher, gold, classes = teacher[known], test.gold[known], len(test.label_names)
    wrong, every = teacher != gold, np.ones(len(known), int)
    own = _load("annotation_uncertainty").compute(predictions=np.eye(classes)[teacher], references=gold)

    def share(name: str, labels: np.ndarray, references: np.ndarray) -> dict[str, Any]:
        """How often labels of shape `(R, n)` are the references of shape `(n,)`."""
        if len(references) < 2:
            return {name: None, f"{name}_interval": None}
        found = scored.compute(predictions=labels, references=references, num_classes=classes)
        low, high = found["accuracy_mean_interval"]
        return {name: found["accuracy_mean"], f"{name}_interval": [low, high] if low < high else None}

    def differ(one: np.ndarray, other: np.ndarray, references: np.ndarray) -> dict[str, Any]:
        found = comparison.compute(predictions1=one, predictions2=other, references=references, num_classes=classes)
        return {"R": found["R"], "n": found["n"], **_difference(found, "accuracy")}

    for variant, size in predictions:
        if variant not in TAUGHT:
            continue
        labels = predictions[variant, size][:, known]
        cells = {
            f"{how}_{what}": texts & said
            for how, texts in (("right", ~wrong), ("wrong", wrong))
            for what, said in (("same", labels == teacher), ("other", labels != teacher))
        }
        smaller = max((other for name, other in predictions if name == variant and other < size), default=None)
        before = None if smaller is None else predictions[variant, smaller][:, known]
        base = predictions.get(("gold", size)) if variant != "gold" and wrong.sum() > 1 else None
        yield {
            **{"variant": variant, "size": size, "R": len(labels), "n": len(known), "n_wrong": int(wrong.sum())},
            **{"teacher_accuracy": own["accuracy"], "teacher_accuracy_interval": own["accuracy_interval"]},
            **{key: value for cell, held in cells.items() for key, value in share(cell, held * 1, every).items()},
            **share("agreement", labels, teacher),
            **share("accuracy", labels, gold),
            **share("copied", labels[:, wrong], teacher[wrong]),
            "copied_above_gold": None
            if base is None
            else differ(labels[:, wrong], base[:, known][:, wrong], teacher[wrong]),
            "since": None
            if before is None
            else {
                "size": smaller,
                "agreement": differ(labels, before, teacher),
                "accuracy": differ(labels, before, gold),
                "copied": differ(labels[:, wrong], before[:, wrong], teacher[wrong]) if wrong.sum() > 1 else None,
            },
        }


def _learnt(variants: list[dict[str, Any]]) -> set[tuple[str, int]]:
    """The variants and sizes of which every run is better than chance."""
    return {(variant["variant"], variant["size"]) for variant in variants if not variant["chance_level_runs"]}


def _best(among: list[str], predictions: Predictions, test: Rows) -> dict[str, Any] | None:
    """The variant of the best macro-F1 on half of the seeds and texts, judged against LLM labels on the other halves.

    Judged where it was chosen, the best of many looks better than it is. Texts are halved at random within each class.
    None with fewer than six seeds or forty texts.
    """
    top = max((size for _, size in predictions), default=0)
    if not among or len(predictions["llm", top]) < 6 or len(test) < 40:
        return None
    scores, comparison, classes = _load("seed_scores"), _load("instability_comparison"), len(test.label_names)
    drawn = hash_order(test.ids, "halves")
    ordered = [drawn[test.gold[drawn] == k] for k in range(classes)]
    texts = [np.concatenate([of_class[start::2] for of_class in ordered]) for start in range(2)]

    def half(variant: str, which: int) -> np.ndarray:
        return predictions[variant, top][which::2][:, texts[which]]

    def score(variant: str) -> float:
        found = scores.compute(predictions=half(variant, 0), references=test.gold[texts[0]], num_classes=classes)
        return float(found["macro_f1_mean"])

    best = max(among, key=score)
    found = comparison.compute(
        predictions1=half(best, 1), predictions2=half("llm", 1), references=test.gold[texts[1]], num_classes=classes
    )
    return {"variant": best, "among": among, "R": found["R"], "n": found["n"], **_difference(found, "macro_f1")}


def _regained(variants: list[dict[str, Any]], predictions: Predictions, test: Rows) -> Iterator[dict[str, Any]]:
    """What share of the macro-F1 that LLM labels cost each mitigation regains: (variant - llm) / (gold - llm).

    Its interval is Fieller's, by t with the gap's degrees of freedom and the variances over runs and over texts added;
    the covariance of the two differences follows from the variance of theirs, gold - variant. None is given where the
    gap's own interval has zero in it: the share of nothing is not defined.
    """
    from scipy import stats

    top = max(size for _, size in predictions)
    compute, labels = (
        _load("instability_comparison").compute,
        {a: p for (a, size), p in predictions.items() if size == top},
    )

    def difference(one: str, other: str) -> tuple[float, float, float]:
        found = compute(
            predictions1=labels[one],
            predictions2=labels[other],
            references=test.gold,
            num_classes=len(test.label_names),
        )
        parts = found["macro_f1_seed_se"], found["macro_f1_item_se"]
        return found["macro_f1_difference"], float(np.square(parts).sum()), freedom(*parts, runs)

    runs = len(labels["llm"])
    gap, gap_variance, degrees = difference("gold", "llm")
    needed = stats.t.ppf(1 - (1 - LEVEL) / 2, degrees) ** 2
    square = gap**2 - needed * gap_variance
    if runs < 3 or gap <= 0 or square <= 0 or not {("gold", top), ("llm", top)} <= _learnt(variants):
        return
    for variant in CONTROLS:
        if (variant, top) not in _learnt(variants):
            continue
        gain, variance, _ = difference(variant, "llm")
        together = (variance + gap_variance - difference("gold", variant)[1]) / 2
        middle = gain * gap - needed * together
        half = np.sqrt(max(middle**2 - square * (gain**2 - needed * variance), 0.0))
        bounds = [float((middle - half) / square), float((middle + half) / square)]
        yield {"variant": variant, "size": top, "R": runs, "n": len(test), "share": gain / gap, "interval": bounds}


def _ensembles(study: Study, every: Rows, seen: np.ndarray, test: Rows) -> Iterator[dict[str, Any]]:
    """Ensembles of k runs at the largest size, their mean probabilities: scores, and how often two of them disagree.

    Only ensembles that share no run are compared: R // k of them. Scores are of the texts with gold, `seen`.
    """
    scores, instability, grid = _load("seed_scores"), _load("seed_instability"), study.grid
    top, classes = grid.sizes[-1], len(test.label_names)
    for variant in grid.variants:
        probs = np.stack([_read_probs(study.run(run), every) for run in paired_runs(grid, variant, top)])
        for k in ENSEMBLES:
            if (count := len(probs) // k) < 2:
                continue
            labels = probs[: count * k].reshape(count, k, *probs.shape[1:]).mean(axis=1).argmax(axis=2)
            found = instability.compute(predictions=labels, num_classes=classes)
            if len(seen) > 1:
                found |= scores.compute(predictions=labels[:, seen], references=test.gold, num_classes=classes)
            yield {
                **{"variant": variant, "size": top, "k": k, "ensembles": count, "n": len(every)},
                **{field: found.get(field) for field in ("macro_f1_mean", "macro_f1_mean_interval")},
                **{field: found[field] for field in ("pairwise_disagreement", "pairwise_disagreement_interval")},
            }


def powered_share(found: np.ndarray, known: np.ndarray, gold: np.ndarray, level: float) -> tuple[float, list[float]]:
    """The share of a class among texts that were all classified, and of which a random sample was labelled.

    The classifiers' share, less their bias on the sample: mean(f) + mean(y - f), the prediction-powered estimate of
    Angelopoulos et al. 2023. It is right on average whatever the classifiers are; good ones make it more exact.

    Args:
        found (`np.ndarray` of shape `(N,)`):
            f, the share of the runs that give a text the class, of all texts.
        known (`np.ndarray` of shape `(n,)`):
            The same of the labelled texts, which are among them; n >= 2.
        gold (`np.ndarray` of shape `(n,)`, bool):
            y, whether these are of the class.
        level (`float`):
            Of the interval.

    Returns:
        `tuple[float, list[float]]`: the estimate and its interval, for texts like these, in [0, 1]: by t with n - 1
        degrees of freedom and the variance (1/n - 1/N) var(y - f) + share (1 - share) / N. So that a sample without an
        error is not taken for the proof that there is none, var(y - f) counts one more error each way.
    """
    from scipy import stats

    off, texts = gold - known, len(gold)
    share = float(np.clip(found.mean() + off.mean(), 0, 1))
    spread = (np.square(off - off.mean()).sum() + 2) / (texts + 1)
    variance = (1 / texts - 1 / len(found)) * spread + share * (1 - share) / len(found)
    half = float(stats.t.ppf(0.5 + level / 2, texts - 1) * np.sqrt(variance))
    return share, [max(share - half, 0.0), min(share + half, 1.0)]


def _class_shares(predictions: Predictions, judged: Predictions, every: Rows, test: Rows) -> Iterator[dict[str, Any]]:
    """For who counts classes: the share that each variant's classifiers give each class, and how far that is from gold.

    The interval of the bias is by t over runs and texts together, as that of a mean score, and corrected for the number
    of classes (Bonferroni); the SD is over runs. Where people labelled a sample of the texts, the share in gold is an
    estimate by all of them (`powered_share`), and its interval corrected likewise. With groups, the same among the
    texts of each of which two or more have gold, corrected for the number of classes and groups.
    """
    from scipy import stats

    if not judged:
        return
    top, classes = max(size for _, size in predictions), len(test.label_names)
    names = sorted({name for name in test.groups if name is not None}) if test.groups is not None else []
    parts = [(None, np.arange(len(every)), np.arange(len(test)))]
    parts += [(one, *(np.flatnonzero(rows.groups == one) for rows in (every, test))) for one in names]
    for (variant, size), (group, all_texts, known) in product(predictions, parts):
        if size != top or len(known) < 2:
            continue
        labels, given, truth = (
            judged[variant, size][:, known],
            predictions[variant, size][:, all_texts],
            test.gold[known],
        )
        runs, items = labels.shape
        level = 1 - (1 - LEVEL) / classes / (1 if group is None else len(names))
        off = np.stack([(labels == k).astype(float) - (truth == k) for k in range(classes)])
        by_item = off.mean(axis=1)  # with one more error each way: few texts without any are no proof of none
        spread = np.square(by_item - by_item.mean(axis=1, keepdims=True)).sum(axis=1)
        over_items, over_runs = (spread + 2) / (items + 1) / items, off.mean(axis=2).var(axis=1, ddof=1) / runs
        degrees = [freedom(over_runs[k] ** 0.5, over_items[k] ** 0.5, runs) for k in range(classes)]
        half = stats.t.ppf(0.5 + level / 2, np.minimum(degrees, items - 1)) * np.sqrt(over_items + over_runs)
        for k, name in enumerate(test.label_names):
            found, gold, bounds = given == k, float((truth == k).mean()), None
            if items < len(all_texts):
                gold, bounds = powered_share(found.mean(axis=0), (labels == k).mean(axis=0), truth == k, level)
            bias = float(off[k].mean())
            yield {
                **{"variant": variant, "size": size, "group": group, "class_name": name, "R": runs, "n": items},
                **{"gold": gold, "gold_interval": bounds, "share": float(found.mean()), "bias": bias},
                **{"bias_interval": [bias - float(half[k]), bias + float(half[k])] if runs > 2 else None},
                "sd": float(found.mean(axis=1).std(ddof=1)),
            }


def _iso_accuracy(variants: list[dict[str, Any]], predictions: Predictions, test: Rows) -> dict[str, Any] | None:
    """Whether LLM labels make classifiers less steady than gold labels do at the same accuracy.

    Sizes at which runs learnt nothing are left out: their agreement is no stability.
    """
    sizes, top = (
        sorted(size for variant, size in _learnt(variants) if variant == "gold"),
        max(variant["size"] for variant in variants),
    )
    if len(sizes) < 2 or ("llm", top) not in _learnt(variants):
        return None
    found = _load("instability_comparison").compute(
        predictions1=predictions["llm", top],
        predictions2=predictions["gold", sizes[-1]],
        references=test.gold,
        num_classes=len(test.label_names),
        ladder=[predictions["gold", size] for size in sizes],
    )
    same = found["iso_accuracy"]
    if same.pop("status") != "ok":
        return None
    same |= {"R": found["R"], "sizes": sorted(sizes[step] for step in same["sizes"])}
    return dict(same) | ({"interval": None} if np.isnan(same["p_value"]) else {})


def _compare(predictions: Predictions, judged: Predictions, test: Rows) -> Iterator[dict[str, Any]]:
    """Paired differences of two variants at one size: same seeds, same training rows, same test items.

    Scores are compared on the test texts with gold, disagreement, which wants none, on all.
    """
    comparison = _load("instability_comparison")

    def compare(of: Predictions, gold: np.ndarray) -> dict[str, Any]:
        pair = {"predictions1": of[one, size], "predictions2": of[other, size]}
        return dict(comparison.compute(**pair, references=gold, num_classes=len(test.label_names)))

    for size in dict.fromkeys(size for _, size in predictions):
        for one, other in PAIRS:
            if (one, size) in predictions and (other, size) in predictions:
                items = predictions[one, size].shape[1]
                scores = compare(judged, test.gold) if judged else None
                stability = scores if scores and items == len(test) else compare(predictions, np.zeros(items, int))
                for figure in FIGURES:
                    found = stability if figure == "pairwise_disagreement" else scores
                    if found is None:
                        continue
                    yield {
                        **{"size": size, "variant": one, "against": other, "figure": figure, "R": found["R"]},
                        **{"n": found["n"], **_difference(found, figure)},
                    }


def _difference(found: dict[str, Any], figure: str) -> dict[str, Any]:
    """What the comparison says of one figure; the interval is None where R does not give one."""
    fields = ("difference", "interval", "p_value", "detectable", "verdict", "seed_se", "item_se")
    said = {field: found[f"{figure}_{field}"] for field in fields}
    return said | ({"interval": None} if np.isnan(said["p_value"]) else {})


def _plateaus(variants: list[dict[str, Any]], predictions: Predictions, test: Rows) -> Iterator[dict[str, Any]]:
    """What the last doubling of the training texts gains each variant in macro-F1, and whether gold labels gain more.

    Where half the largest size was trained, intervals are over runs and test items, else over runs.
    """
    plateau, scored = _load("learning_plateau"), _load("seed_scores")
    sizes = sorted({size for _, size in predictions})
    if not sizes or sizes[-1] < 2 * sizes[0]:
        return
    curves = {
        name: [one["macro_f1_runs"] for s in sizes for one in variants if (one["variant"], one["size"]) == (name, s)]
        for name in dict.fromkeys(name for name, _ in predictions)
        if all((name, size) in predictions for size in sizes)
    }
    half = sizes[-1] // 2 if sizes[-1] % 2 == 0 and sizes[-1] // 2 in sizes else None

    def influence(name: str, size: int) -> np.ndarray:
        given = {"predictions": predictions[name, size], "references": test.gold, "num_classes": len(test.label_names)}
        return np.array(scored.compute(**given, return_items=True)["macro_f1_influence"])

    moved = {
        name: influence(name, sizes[-1]) - influence(name, half) if half else np.zeros(len(test)) for name in curves
    }
    for name, scores in curves.items():
        se = {"item_se": _item_se(moved[name])}
        against = {}
        if name != "gold" and "gold" in curves:
            against = {"against": curves["gold"], "against_item_se": _item_se(moved["gold"])}
            against["difference_item_se"] = _item_se(moved["gold"] - moved[name])
        found = plateau.compute(sizes=sizes, scores=scores, delta=DELTA, **se, **against)
        yield {"variant": name, "figure": "macro_f1", "n": len(test), **se, **found}


def _components(study: Study, every: Rows, seen: np.ndarray, test: Rows) -> Iterator[dict[str, Any]]:
    """Yield what each source of chance brings, by variant; to scores where two texts have gold."""
    grid, scored = study.grid, _load("seed_scores")
    for variant in grid.crossed.variants if grid.crossed else []:
        sources, runs = crossed_sources(grid, variant), crossed_runs(grid, variant)
        shape = (max(place[0] for place in runs) + 1,) * len(sources)
        labels = np.stack([_read_predictions(study.run(run), every) for run in runs.values()])
        found = {figure: variances(np.zeros(shape), sources) for figure in ("accuracy", "macro_f1")}
        if len(seen) > 1:
            given = {"references": test.gold, "num_classes": len(test.label_names)}
            scores = scored.compute(predictions=labels[:, seen], **given)
            found = {figure: variances(np.reshape(scores[f"{figure}_runs"], shape), sources) for figure in found}
        else:
            found = {figure: {name: dict.fromkeys(one) for name, one in of.items()} for figure, of in found.items()}
        yield {
            **{"variant": variant, "size": grid.sizes[-1], "sources": sources, "levels": shape[0]},
            **{"R": len(runs), "n": len(every)},
            "disagreement": disagreement(labels.reshape(*shape, -1), sources, len(test.label_names)),
            **found,
        }


def _item_se(influence: np.ndarray) -> float:
    """The standard error over items of a mean that they move by this much."""
    return float(np.sqrt(np.square(influence).sum() * len(influence) / max(len(influence) - 1, 1)))


def without_nan(value: Any) -> Any:
    """JSON has neither nan nor infinity: what is not defined becomes null."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _notes(labels: StudyLabels, runs: Runs) -> list[str]:
    shared, notes = len(set(runs.pool.texts) & set(runs.test.texts)), list(runs.notes)
    if shared:
        notes.append(f"{shared} texts stand both in the training pool and in the test split: scores may be too good.")
    if labels.teacher is None:
        notes.append(
            "Which of the LLM's errors classifiers copy is not known: it wants the LLM's labels of the test texts "
            "(hf-recipes annotate), of one pass for all runs."
        )
    return notes
