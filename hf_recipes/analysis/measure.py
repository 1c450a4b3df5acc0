"""Results: every figure of the report, computed from the stored predictions by the modules in `metrics/`."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from .. import parquet
from ..annotation.annotations import count_examples
from ..data import NO_GOLD, Rows
from ..errors import UserError
from ..hashing import hash_files, make_key
from ..labels.pool import StudyLabels
from ..labels.rules import Labels
from ..study import PACKAGE, Run, Study, read_json
from ..training.grid import crossed_runs, crossed_sources, paired_runs
from ..training.runs import PREDICTIONS, Runs
from ..variants import VARIANTS
from .annotator import measure_annotator
from .class_shares import class_shares
from .comparisons import best_mitigation, compare_variants, equal_accuracy, match_gold, plateaus, regained_shares
from .components import disagreement, variances
from .copied_errors import error_cells
from .metric_modules import LEVEL, Predictions, load_metric, metrics_folder
from .schema import Figures, Results, read_results
from .verdict import decide

ENSEMBLE_SIZES = (2, 3, 5)  # in runs
NOT_CLASSIFIED = -1
#: The fields of a variant that are null where no test text has gold.
SCORES = (
    *("accuracy_mean", "accuracy_mean_interval", "macro_f1_mean", "macro_f1_mean_interval"),
    *("macro_f1_sd", "macro_f1_sd_interval", "chance_level_runs", "majority_accuracy", "per_class_f1_mean"),
)


def measure(study: Study, labels: StudyLabels, runs: Runs) -> Results:
    """Compute `report/results.json`, unless it is current.

    Args:
        study (`Study`), labels (`StudyLabels`), runs (`Runs`):
            A study whose runs are all trained, its labels and its runs.

    Raises:
        UserError: runs are missing.
    """
    _require_runs(study, runs)
    with study.lock():
        results = read_study_results(study)
        if results and results.key == _results_key(study, labels, runs):
            return results
        grid, test = study.grid, labels.test
        predictions: Predictions = {}
        for size in grid.sizes:
            for variant in grid.variants_at(size):
                probs = [_read_probs(study, run, test) for run in paired_runs(grid, variant, size)]
                predictions[variant, size] = np.stack([run_probs.argmax(axis=1) for run_probs in probs])

        # Scores are of the test texts with gold: all of them, or those that people labelled.
        places = np.flatnonzero(labels.test_gold != NO_GOLD)
        test_with_gold = replace(test, gold=labels.test_gold).take(places)
        with_gold: Predictions = {}
        if len(places) > 1:
            with_gold = {variant_at_size: classes[:, places] for variant_at_size, classes in predictions.items()}
        variants = list(_measure_variants(study, labels, runs, predictions, with_gold, test_with_gold))
        audit = None
        if study.recipe.few_gold:
            audit = {
                part: {"drawn": sample.num_drawn if sample else 0, "labelled": sample.num_labelled if sample else 0}
                for part, sample in (("test", labels.test_audit), ("pool", labels.pool_audit))
            }
        content = {
            "key": _results_key(study, labels, runs),
            "study": study.recipe.name,
            "label_names": test.label_names,
            "seeds": grid.seeds,
            "vary": grid.vary,
            "R": len(grid.seeds),
            "n": len(test),
            "audit": audit,
            "confidence_level": LEVEL,
            "lines": _lines(study),
            "annotator": measure_annotator(study, labels),
            "variants": variants,
            "comparisons": compare_variants(predictions, with_gold, test_with_gold),
            "best_mitigation": best_mitigation(variants, with_gold, test_with_gold),
            "regained": list(regained_shares(variants, with_gold, test_with_gold)),
            "ensembles": list(_ensembles(study, test, places, test_with_gold)),
            "class_shares": list(class_shares(predictions, with_gold, test, test_with_gold)),
            "error_cells": []
            if labels.teacher is None
            else list(error_cells(labels.teacher[places], with_gold, test_with_gold)),
            "gold_match": list(match_gold(with_gold, test_with_gold)),
            "iso_accuracy": equal_accuracy(variants, with_gold, test_with_gold),
            "plateaus": list(plateaus(variants, with_gold, test_with_gold)),
            "components": list(_components(study, test, places, test_with_gold)),
            "notes": _notes(labels, runs),
        }
        figures = Figures.model_validate(without_nan(content))
        results = Results(**dict(figures), verdict=decide(figures, study.recipe.accept))
        study.report.mkdir(parents=True, exist_ok=True)
        study.write_json(study.results_file, results.model_dump(mode="json"))
    return results


def _require_runs(study: Study, runs: Runs) -> None:
    missing = [run for run in runs.all if not runs.is_valid(run)]
    if not missing:
        return
    state = f"{study.root}: {len(missing)} of {len(runs.all)} runs are not trained, for example {missing[0]}."
    errors = [error for error in map(runs.failure, missing) if error]
    if not errors:
        raise UserError(f"{state} Run hf-recipes train first.")
    raise UserError(
        f"{state} {len(errors)} failed, for example: {errors[0]}. Retry with hf-recipes train --retry-failed, or "
        "remove their seeds, variants or sizes from the recipe."
    )


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
    code = (metrics_folder(), PACKAGE / "analysis", PACKAGE / "variants.py")
    return make_key(
        study=study.recipe.name,
        runs={str(run): read_json(study.run(run) / "run.json")["key"] for run in runs.all},
        labels=labels.key,
        notes=_notes(labels, runs),
        lines=_lines(study),
        accept=study.recipe.accept.model_dump(),
        code=[hash_files(path, ("*.py",)) for path in code],
    )


def _lines(study: Study) -> dict[str, str]:
    """Return what each variant trains on."""
    grid, few_gold = study.grid, study.recipe.few_gold
    return {name: VARIANTS[name].describe(grid.replace_share, few_gold) for name in grid.variants}


def _notes(labels: StudyLabels, runs: Runs) -> list[str]:
    notes = list(runs.notes)
    if num := labels.files.num_excluded:
        notes.append(f"{num:,} rows of the training split have the text of a test row and are left out.")
    if labels.teacher is None:
        notes.append(
            "Which of the LLM's errors classifiers copy is unknown: it requires the LLM's labels of the test texts "
            "(hf-recipes annotate), by one pass for all runs."
        )
    return notes


def _measure_variants(
    study: Study, labels: StudyLabels, runs: Runs, predictions: Predictions, with_gold: Predictions, test: Rows
) -> Iterator[dict[str, Any]]:
    """Yield scores and instability of each variant at each size. Figures that require no gold cover all test texts."""
    names, seed_scores, seed_instability = test.label_names, load_metric("seed_scores"), load_metric("seed_instability")
    for (variant, size), classes in predictions.items():
        variant_runs = paired_runs(study.grid, variant, size)
        records = [read_json(study.run(run) / "run.json") for run in variant_runs]
        trained = [_training_labels(runs, run, record) for run, record in zip(variant_runs, records, strict=True)]
        pools = [runs.pool.of_pass(run.annotation_pass) for run in variant_runs]
        prompt_labels = 0
        if VARIANTS[variant].uses_passes:
            all_passes = VARIANTS[variant].num_passes > 1 or "pass" in study.grid.vary
            passes = labels.annotations if all_passes else labels.annotations[:1]
            prompt_labels = count_examples(study, passes) + runs.pool.calibration_gold

        scores: dict[str, Any] = dict.fromkeys(SCORES) | {"macro_f1_runs": []}
        instability: dict[str, Any] = {"per_class_n": {}, "per_class_disagreement": {}}
        if with_gold:
            scores, instability = (
                metric.compute(predictions=with_gold[variant, size], references=test.gold, num_classes=len(names))
                for metric in (seed_scores, seed_instability)
            )
        if study.recipe.few_gold:
            instability |= seed_instability.compute(predictions=classes, num_classes=len(names))
            if with_gold:  # on few texts a good classifier may be no better than chance by chance
                scores["chance_level_runs"] = sum(len(np.unique(run_classes)) == 1 for run_classes in classes)
        for field, values in instability.items():
            if field.startswith("per_class_"):
                instability[field] = {names[k]: value for k, value in values.items()}
        yield {
            "variant": variant,
            "size": size,
            "gold_train_labels": [run_labels.gold_labels for run_labels in trained],
            "gold_prompt_labels": prompt_labels,
            "gold_validation_labels": records[0]["gold_validation_labels"],
            "train_label_accuracy": [
                run_labels.accuracy(pool) for run_labels, pool in zip(trained, pools, strict=True)
            ],
            **scores,
            **instability,
            "n_gold": len(test) if with_gold else 0,
        }


def _training_labels(runs: Runs, run: Run, record: dict[str, Any]) -> Labels:
    """Return the labels that the run was trained on."""
    labels, dropped = runs.labels(run), set(record.get("dropped", ()))
    return labels.without(np.array([runs.pool.ids[i] in dropped for i in labels.rows]))


def _read_probs(study: Study, run: Run, test: Rows) -> np.ndarray:
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

    Args:
        study (`Study`), runs (`Runs`), variant_runs (`list[Run]`):
            A study, its runs, and R of them that are trained.

    Returns:
        `np.ndarray` of shape `(R, n)`, int64: a row for each of `variant_runs`.

    Raises:
        UserError: a run's file is missing, damaged or of other texts.
    """
    classes = np.full((len(variant_runs), len(runs.pool_sample)), NOT_CLASSIFIED, dtype=np.int64)
    for run, run_classes in zip(variant_runs, classes, strict=True):
        rows = runs.out_of_bag(run)
        if not len(rows):  # The run has no file then.
            continue
        folder = study.run(run)
        table = parquet.read(folder / "out_of_bag.parquet", PREDICTIONS, delete=folder)
        ids = [runs.pool.ids[i] for i in rows]
        if table["id"].to_pylist() != ids or set(table["run"].to_pylist()) != {str(run)}:
            raise UserError(
                f"`{folder}/out_of_bag.parquet` must have the out-of-bag texts of this run. Delete `{folder}` and run "
                "hf-recipes train."
            )
        run_classes[np.isin(runs.pool_sample, rows)] = np.argmax(table["probs"].to_pylist(), axis=1)
    return classes


def _ensembles(study: Study, test: Rows, places: np.ndarray, test_with_gold: Rows) -> Iterator[dict[str, Any]]:
    """Yield scores and disagreement of ensembles of k runs at the largest size, by their mean probabilities.

    Only ensembles that share no run are compared: R // k of them. Scores are of the texts with gold, at `places`.
    """
    grid, num_classes = study.grid, len(test.label_names)
    top = grid.sizes[-1]
    for variant in grid.variants:
        probs = np.stack([_read_probs(study, run, test) for run in paired_runs(grid, variant, top)])
        for k in ENSEMBLE_SIZES:
            count = len(probs) // k
            if count < 2:
                continue
            labels = probs[: count * k].reshape(count, k, *probs.shape[1:]).mean(axis=1).argmax(axis=2)
            figures = load_metric("seed_instability").compute(predictions=labels, num_classes=num_classes)
            if len(places) > 1:
                figures |= load_metric("seed_scores").compute(
                    predictions=labels[:, places], references=test_with_gold.gold, num_classes=num_classes
                )
            record = {"variant": variant, "size": top, "k": k, "ensembles": count, "n": len(test)}
            for figure in ("macro_f1_mean", "pairwise_disagreement"):
                record |= {name: figures.get(name) for name in (figure, f"{figure}_interval")}
            yield record


def _components(study: Study, test: Rows, places: np.ndarray, test_with_gold: Rows) -> Iterator[dict[str, Any]]:
    """Yield what each source of chance contributes, by variant; to scores where two texts have gold, at `places`."""
    grid, num_classes = study.grid, len(test.label_names)
    for variant in grid.crossed.variants if grid.crossed else []:
        sources, runs = crossed_sources(grid, variant), crossed_runs(grid, variant)
        levels = max(place[0] for place in runs) + 1
        shape = (levels,) * len(sources)
        labels = np.stack([_read_probs(study, run, test).argmax(axis=1) for run in runs.values()])
        record = {"variant": variant, "size": grid.sizes[-1], "sources": sources, "levels": levels}
        record |= {"R": len(runs), "n": len(test)}
        record["disagreement"] = disagreement(labels.reshape(*shape, -1), sources, num_classes)
        scores = None
        if len(places) > 1:
            scores = load_metric("seed_scores").compute(
                predictions=labels[:, places], references=test_with_gold.gold, num_classes=num_classes
            )
        for figure in ("accuracy", "macro_f1"):
            if scores:
                record[figure] = variances(np.reshape(scores[f"{figure}_runs"], shape), sources)
            else:  # the same fields, all null
                by_source = variances(np.zeros(shape), sources)
                record[figure] = {source: dict.fromkeys(values) for source, values in by_source.items()}
        yield record


def without_nan(value: Any) -> Any:
    """Return JSON content with null for nan and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
