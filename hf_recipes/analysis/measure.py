"""Results: every figure of the report, computed from the stored predictions by the modules in `metrics/`."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..annotation.annotations import count_examples
from ..data import NO_GOLD
from ..errors import UserError
from ..hashing import hash_files, make_key
from ..labels.pool import StudyLabels
from ..labels.rules import Labels
from ..metric_loading import load_metric, metrics_folder
from ..study import PACKAGE, Method, Run, Study, read_json
from ..training.grid import crossed_sources
from ..training.runs import Runs
from ..variants import VARIANTS
from .annotator import measure_annotator
from .baselines import find_trained, measure_baselines
from .class_shares import class_shares
from .comparisons import best_mitigation, compare_variants, equal_accuracy, match_gold, plateaus, regained_shares
from .components import disagreement, variances
from .copied_errors import error_cells
from .metric_modules import LEVEL, correct
from .schema import Figures, Results, read_results
from .texts import Texts, read_probs, read_texts
from .verdict import decide

ENSEMBLE_SIZES = (2, 3, 5)  # in runs
PAPER_RUNS = 5  # of Lu & Smith 2025
#: The fields of a variant that are null where no test text has gold.
SCORES = (
    *("accuracy_mean", "accuracy_mean_interval", "macro_f1_mean", "macro_f1_mean_interval"),
    *(
        "macro_f1_sd",
        "macro_f1_sd_interval",
        "chance_level_runs",
        "above_chance",
        "majority_accuracy",
        "per_class_f1_mean",
    ),
)


def measure(study: Study, labels: StudyLabels, runs: Runs) -> Results:
    """Compute the results of a method, `report/results.json` of the one that decides the verdict, unless it is current.

    Args:
        study (`Study`), labels (`StudyLabels`), runs (`Runs`):
            A study, its labels and its runs by one method, which are all trained.

    Raises:
        UserError: runs are missing.
    """
    _require_runs(study, runs)
    with study.lock():
        folder = study.report_of(runs.method)
        results = read_study_results(study, runs.method)
        if results and results.key == _results_key(study, labels, runs):
            return results
        grid = study.grid
        all_test, with_gold, combined, out_of_bag = read_texts(study, labels, runs)
        variants = list(_measure_variants(study, labels, runs, all_test, with_gold))
        comparisons = compare_variants(all_test, combined, with_gold)
        best, regained, iso_accuracy = None, [], None
        gold_match, plateaus_of, cells = [], [], []
        if with_gold.labels:
            best = best_mitigation(variants, combined)
            regained = list(regained_shares(variants, combined))
            iso_accuracy = equal_accuracy(variants, with_gold)
            gold_match = list(match_gold(combined))
            plateaus_of = list(plateaus(variants, with_gold))
            if labels.teacher is not None:
                cells = list(error_cells(labels.teacher[labels.test_gold != NO_GOLD], with_gold))
        correct(find_claims(comparisons, gold_match, cells, best, iso_accuracy))
        for match in gold_match[-1:]:  # the primary comparison turned round
            pair = ("llm", "gold", "macro_f1")
            primary = next(
                entry
                for entry in comparisons
                if entry["primary"] and (entry["variant"], entry["against"], entry["figure"]) == pair
            )
            turned = {"higher": "lower", "lower": "higher"}.get(primary["verdict"], "inconclusive")
            match |= {"p_holm": primary["p_holm"], "verdict": turned}
        audit = None
        if study.recipe.few_gold:
            audit = {
                part: {"drawn": sample.num_drawn if sample else 0, "labelled": sample.num_labelled if sample else 0}
                for part, sample in (("test", labels.test_audit), ("pool", labels.pool_audit))
            }
        looks = _read_looks(study, runs.method)
        look = {"seeds": len(grid.seeds), "test_texts": len(with_gold.rows), "key": _look_key(study, labels, runs)}
        if len(grid.seeds) > 2 and with_gold.labels and not any(_is_same_look(look, earlier) for earlier in looks):
            looks.append(look)
        notes = _notes(study, labels, runs)
        if labels.files.withheld and labels.test.clusters is None:  # no part of the key: pulled results remain current
            notes.append("Without the texts near-duplicates are unknown, so each text counts.")
        content = {
            "key": _results_key(study, labels, runs),
            "study": study.recipe.name,
            "dataset": Path(study.recipe.data.path).name,
            "encoder": Path(study.training.encoder).name,
            "method": runs.method,
            "date": date.today().isoformat(),
            "trainings": len(runs.all),
            "label_names": labels.test.label_names,
            "seeds": grid.seeds,
            "vary": grid.vary,
            "R": len(grid.seeds),
            "n": len(labels.test),
            "audit": audit,
            "confidence_level": LEVEL,
            "lines": _lines(study),
            "annotator": measure_annotator(study, labels),
            "variants": variants,
            "comparisons": comparisons,
            "best_mitigation": best,
            "regained": regained,
            "ensembles": list(_ensembles(study, labels, runs, all_test, with_gold)),
            "class_shares": list(class_shares(all_test, with_gold)),
            "error_cells": cells,
            "baselines": measure_baselines(study, labels, runs, with_gold),
            "gold_match": gold_match,
            "iso_accuracy": iso_accuracy,
            "plateaus": plateaus_of,
            "components": list(_components(study, labels, runs, with_gold)),
            "class_f1": list(_class_f1(combined)),
            "out_of_bag": out_of_bag,
            "near_duplicates": _count_near_duplicates(all_test),
            "clusters": None if labels.test.clusters is None else len(np.unique(all_test.clusters)),
            "looks": [[earlier["seeds"], earlier["test_texts"]] for earlier in looks],
            "hours_per_seed": _hours_per_seed(study, runs),
            "notes": notes,
        }
        figures = Figures.model_validate(without_nan(content))
        results = Results(**dict(figures), verdict=decide(figures, study.recipe.accept))
        folder.mkdir(parents=True, exist_ok=True)
        # The look comes first: a verdict that was seen has to count.
        study.write_json(folder / "looks.json", {"looks": looks})
        study.write_json(folder / "results.json", results.model_dump(mode="json"))
    return results


def _read_looks(study: Study, method: Method) -> list[dict[str, Any]]:
    """Return the seeds, test texts and key of each verdict of this study so far, in order.

    A pulled study has those of its results, without keys.
    """
    if record := read_json(study.report_of(method) / "looks.json"):
        return list(record["looks"])
    results = read_study_results(study, method)
    return [{"seeds": seeds, "test_texts": texts, "key": None} for seeds, texts in (results.looks if results else [])]


def _look_key(study: Study, labels: StudyLabels, runs: Runs) -> str:
    """Return the hash of everything that a verdict is based on, whatever the version of the code."""
    return make_key(runs=_run_keys(study, runs), labels=labels.key)


def _run_keys(study: Study, runs: Runs) -> dict[str, str]:
    return {str(run): read_json(study.run(run) / "run.json")["key"] for run in runs.all}


def _is_same_look(look: dict[str, Any], earlier: dict[str, Any]) -> bool:
    counts = [(entry["seeds"], entry["test_texts"]) for entry in (look, earlier)]
    return look["key"] == earlier["key"] or (earlier["key"] is None and counts[0] == counts[1])


def find_claims(
    comparisons: list[dict[str, Any]],
    gold_match: list[dict[str, Any]],
    cells: list[dict[str, Any]],
    best: dict[str, Any] | None,
    iso_accuracy: dict[str, Any] | None,
) -> list[dict[str, Any]]:
    """Return the differences that sentences of the report state, apart from the primary ones.

    Gold labels of the largest size against LLM labels are a primary comparison.
    """
    top = max(comparison["size"] for comparison in comparisons) if comparisons else 0
    claims = [
        comparison
        for comparison in comparisons
        if comparison["size"] == top
        and not comparison["primary"]
        and comparison["figure"] != "accuracy"
        and comparison["against"] in ("noise-fixed", "gold-only")
    ]
    claims += [match for match in gold_match if match["size"] < top]
    for entry in cells:
        if entry["variant"] == "llm" and entry["size"] == top:
            changes = (entry["since"] or {}).values()
            fields = [entry["copied_above_gold"], entry["copied_above_noise"], *changes]
            claims += [field for field in fields if isinstance(field, dict)]
    return claims + [claim for claim in (best, iso_accuracy) if claim]


def _class_f1(texts: Texts) -> Iterator[dict[str, Any]]:
    """Yield F1 of each class of the texts at the largest size: with LLM labels, with its variance, and with gold."""
    if not texts.labels:
        return
    scores, counts = texts.score(("llm", texts.top)), np.bincount(texts.rows.gold, minlength=texts.num_classes)
    of_gold = dict.fromkeys(range(texts.num_classes))
    if ("gold", texts.top) in texts.labels:
        of_gold |= dict(enumerate(texts.score(("gold", texts.top))["per_class_f1_mean"]))
    figures = zip(scores["per_class_f1_mean"], scores["per_class_f1_variance"], strict=True)
    for k, (value, variance) in enumerate(figures):
        if variance is not None:
            yield {
                "name": texts.rows.label_names[k],
                "n": int(counts[k]),
                "value": value,
                "variance": variance,
                "gold": of_gold[k],
            }


def _count_near_duplicates(texts: Texts) -> int:
    """Return how many test texts nearly repeat another, where no column names clusters."""
    if texts.rows.clusters is not None:
        return 0
    return len(texts.rows) - len(np.unique(texts.clusters))


def _hours_per_seed(study: Study, runs: Runs) -> float:
    """Return the hours in which the runs of one seed were trained, on average."""
    seconds = [float(read_json(study.run(run) / "run.json")["seconds"]) for run in runs.all]
    return sum(seconds) / 3600 / len(study.grid.seeds)


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


def read_study_results(study: Study, method: Method | None = None) -> Results | None:
    """Return the results of a method, by default of the one that decides the verdict.

    None if they are missing or have the schema of another version.
    """
    folder = study.report if method is None else study.report_of(method)
    try:
        return read_results((folder / "results.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def is_measured(study: Study, labels: StudyLabels, runs: Runs) -> bool:
    """Return whether the results of a trained study exist and are current."""
    results = read_study_results(study, runs.method)
    return results is not None and results.key == _results_key(study, labels, runs)


def _results_key(study: Study, labels: StudyLabels, runs: Runs) -> str:
    code, trained = (metrics_folder(), PACKAGE / "analysis", PACKAGE / "variants.py"), find_trained(study, runs)
    return make_key(
        study=study.recipe.name,
        runs=_run_keys(study, runs),
        labels=labels.key,
        notes=_notes(study, labels, runs),
        lines=_lines(study),
        baselines=[read_json(study.run(run) / "run.json")["key"] for run in chain.from_iterable(trained.values())],
        accept=study.recipe.accept.model_dump(),
        out_of_bag=len(runs.pool_sample),
        code=[hash_files(path, ("*.py",)) for path in code],
    )


def _lines(study: Study) -> dict[str, str]:
    """Return what each variant trains on."""
    grid, few_gold = study.grid, study.recipe.few_gold
    return {name: VARIANTS[name].describe(grid.replace_share, few_gold) for name in grid.variants}


def _notes(study: Study, labels: StudyLabels, runs: Runs) -> list[str]:
    notes = list(runs.notes)
    if num := labels.files.num_excluded:
        notes.append(f"{num:,} rows of the training split have the text of a test row and are left out.")
    if labels.teacher is None:
        notes.append(
            "Which of the LLM's errors classifiers copy is unknown: it requires the LLM's labels of the test texts "
            "(hf-recipes annotate), by one pass for all runs."
        )
    environments = [read_json(study.run(run) / "run.json")["environment"] for run in runs.all]
    manifests = [read_json(study.annotations(annotations.key) / "manifest.json") for annotations in labels.annotations]
    engines = [manifest["ingredients"]["engine"] for manifest in manifests]
    for subject, records in (("Runs", environments), ("Passes of the LLM", engines)):
        devices = Counter(filter(None, map(_describe_device, records)))
        if len(devices) > 1:
            counts = ", ".join(f"{count:,} on {name}" for name, count in sorted(devices.items()))
            notes.append(f"{subject} come from different devices ({counts}), which may add to the differences of runs.")
    return notes


def _describe_device(environment: dict[str, Any]) -> str | None:
    """Return the GPU, or the CPU's instructions; None where no device is recorded, as of a server."""
    if "accelerator" in environment:
        return str(environment["accelerator"])
    return f"CPU ({environment['cpu']})" if "cpu" in environment else None


def _measure_variants(
    study: Study, labels: StudyLabels, runs: Runs, all_test: Texts, with_gold: Texts
) -> Iterator[dict[str, Any]]:
    """Yield scores and instability of each variant at each size. Figures that require no gold cover all test texts."""
    names = labels.test.label_names
    at_r = [PAPER_RUNS] if len(study.grid.seeds) >= PAPER_RUNS else None
    measure_instability = partial(load_metric("seed_instability").compute, num_classes=len(names), at_r=at_r)
    for (variant, size), classes in all_test.labels.items():
        variant_runs = runs.paired(variant, size)
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
        if with_gold.labels:
            scores = with_gold.score((variant, size))
            instability = measure_instability(
                predictions=with_gold.labels[variant, size],
                references=with_gold.rows.gold,
                clusters=with_gold.clusters,
            )
        if study.recipe.few_gold:
            instability |= measure_instability(predictions=classes, clusters=all_test.clusters)
            if with_gold.labels:  # on few texts a good classifier may be no better than chance by chance
                scores["chance_level_runs"] = sum(len(np.unique(run_classes)) == 1 for run_classes in classes)
                scores["above_chance"] = scores["chance_level_runs"] < len(classes)
        instability["unanimity_of_5"] = instability.pop("unanimity_at", {}).get(PAPER_RUNS)
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
            "n_gold": len(with_gold.rows) if with_gold.labels else 0,
        }


def _training_labels(runs: Runs, run: Run, record: dict[str, Any]) -> Labels:
    """Return the labels that the run was trained on."""
    labels, dropped = runs.labels(run), set(record.get("dropped", ()))
    return labels.without(np.array([runs.pool.ids[i] in dropped for i in labels.rows]))


def _ensembles(
    study: Study, labels: StudyLabels, runs: Runs, all_test: Texts, with_gold: Texts
) -> Iterator[dict[str, Any]]:
    """Yield scores and disagreement of ensembles of k runs at the largest size, by their mean probabilities.

    Only ensembles that share no run are compared: R // k of them. Scores are of the texts with gold.
    """
    grid, test = study.grid, labels.test
    top, places = grid.sizes[-1], np.flatnonzero(labels.test_gold != NO_GOLD)
    for variant in grid.variants:
        probs = np.stack([read_probs(study, run, test) for run in runs.paired(variant, top)])
        for k in ENSEMBLE_SIZES:
            count = len(probs) // k
            if count < 2:
                continue
            classes = probs[: count * k].reshape(count, k, *probs.shape[1:]).mean(axis=1).argmax(axis=2)
            num_classes = len(test.label_names)
            figures = load_metric("seed_instability").compute(
                predictions=classes, num_classes=num_classes, clusters=all_test.clusters
            )
            if with_gold.labels:
                figures |= replace(with_gold, labels={(variant, top): classes[:, places]}).score((variant, top))
            record = {"variant": variant, "size": top, "k": k, "ensembles": count, "n": len(test)}
            for figure in ("macro_f1_mean", "pairwise_disagreement"):
                record |= {name: figures.get(name) for name in (figure, f"{figure}_interval")}
            yield record


def _components(study: Study, labels: StudyLabels, runs: Runs, with_gold: Texts) -> Iterator[dict[str, Any]]:
    """Yield what each source of chance contributes, by variant; to scores where two texts have gold."""
    grid, test = study.grid, labels.test
    places = np.flatnonzero(labels.test_gold != NO_GOLD)
    for variant in grid.crossed.variants if grid.crossed else []:
        sources, crossed = crossed_sources(grid, variant), runs.crossed(variant)
        levels = max(place[0] for place in crossed) + 1
        shape = (levels,) * len(sources)
        classes = np.stack([read_probs(study, run, test).argmax(axis=1) for run in crossed.values()])
        record = {"variant": variant, "size": grid.sizes[-1], "sources": sources, "levels": levels}
        record |= {"R": len(crossed), "n": len(test)}
        record["disagreement"] = disagreement(classes.reshape(*shape, -1), sources, len(test.label_names))
        scores = None
        if with_gold.labels:
            at_top = (variant, grid.sizes[-1])
            scores = replace(with_gold, labels={at_top: classes[:, places]}).score(at_top)
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
