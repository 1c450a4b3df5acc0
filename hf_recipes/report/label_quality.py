"""Measure how good the labels are, and show it: report/labels.json, labels.md and labels.png."""

from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import ValidationError

from ..analysis.annotator import clusters_of_pool
from ..analysis.label_schema import LabelQuality, Uncertainty
from ..analysis.measure import without_nan
from ..annotate_section import Annotate
from ..annotation.annotations import Annotations, count_examples, load_repeat
from ..annotation.calibration import ON_GOLD, shift
from ..annotation.passes import read_progress
from ..data import NO_GOLD
from ..hashing import hash_files, make_key
from ..labels import votes as voting
from ..labels.audit import MIN_LABELS
from ..labels.pool import Pool, StudyLabels
from ..metric_loading import load_metric, metrics_folder
from ..study import Study, read_json, write_text
from .figures import make_axes, save_figure
from .first_screen.numbers import counted
from .label_findings import describe, list_passes, make_label_tables
from .records import Table
from .render import hash_code, make_console, print_table, render

MANY_MODELS = 3  # different models from which a model of their errors can be made


def write_labels(study: Study, study_labels: StudyLabels) -> LabelQuality:
    """Compute `report/labels.json` and write the page and the figure, unless they are there for these labels.

    Args:
        study (`Study`), study_labels (`StudyLabels`):
            An annotated study, and what `read_labels` returned for it.
    """
    passes, pool, audit = study_labels.annotations, study_labels.pool, study_labels.pool_audit
    if audit:
        pool = replace(pool, gold=audit.gold)
    names = [study.recipe.name, *(section.model for section in study.recipe.annotate.all_passes())]
    code = [hash_files(metrics_folder(), ("*.py",)), *hash_code()]
    repeats = [_measure_repeat(study, study_labels, number) for number in range(len(passes))]
    key = make_key(labels=study_labels.pool_key, names=names, code=code, repeats=repeats)
    before = read_label_quality(study)
    if before and before.key == key:
        return before
    content = {
        "key": key,
        "study": study.recipe.name,
        "label_names": pool.label_names,
        "status": [{name: p.status.count(name) for name in sorted(set(p.status))} for p in passes],
        "truncated": int(passes[0].truncated.sum()),
        "scoring": _name_scoring(passes[0].section),
        "calibrations": [
            {"method": c.method, "temperature": c.temperature, "log_loss": c.log_loss, "gold": len(c.gold_rows)}
            for c in pool.calibrations
        ],
        "calibration_chosen_on_gold": passes[0].section.calibration in ON_GOLD,
        "gold_spent": {
            "demonstrations": count_examples(study, passes),
            "calibration": pool.calibration_gold,
        },
        "audit_drawn": audit and audit.num_drawn,
        "annotator": _measure(pool) if pool.ids else None,
        "passes": _measure_passes(study, pool),
        "ties": [_count_ties(annotations) for annotations in passes],
        "repeats": repeats,
    }
    content = without_nan(content)
    labels = LabelQuality.model_validate(content)
    with study.lock():
        study.report.mkdir(parents=True, exist_ok=True)
        if labels.annotator and labels.has_probabilities:
            _draw(labels.annotator, labels.label_names, study)
        write_text(study.report / "labels.md", render_labels(study, labels))
        study.write_json(study.labels_file, content)
    return labels


def _name_scoring(section: Annotate) -> str:
    if section.columns is None:
        return section.scoring
    return "probabilities" if section.has_probabilities else "labels"


def read_label_quality(study: Study) -> LabelQuality | None:
    """Return the content of `report/labels.json`; None if it is missing or has the schema of another version."""
    content = read_json(study.labels_file)
    try:
        return LabelQuality.model_validate(content) if content else None
    except ValidationError:
        return None


def render_labels(study: Study, labels: LabelQuality) -> str:
    """Return the page on the labels, in Markdown."""
    figure = ""
    if labels.annotator and labels.has_probabilities:
        figure = "Share of texts by label, and the distribution of the LLM's entropy"
        if labels.annotator.n_gold >= MIN_LABELS:
            figure = "Reliability, and the error rate among the texts kept"
    return render(
        "labels.md",
        title=f"{study.recipe.name}: the labels of {study.recipe.annotate.model}",
        findings=describe(labels),
        figure=figure,
        tables=make_label_tables(labels),
    )


def _measure(pool: Pool) -> dict[str, Any]:
    votes = {"votes": pool.votes} if pool.votes.shape[1] > 1 else {}
    figures = load_metric("annotation_uncertainty").compute(
        predictions=pool.probs,
        references=pool.gold,
        label_mass=pool.label_mass,
        clusters=clusters_of_pool(pool),
        **votes,
    )
    return dict(figures)


def _count_ties(annotations: Annotations) -> dict[str, int] | None:
    """Return how many texts have two most probable labels before calibration; None without probabilities."""
    if not annotations.section.has_probabilities:
        return None
    scores = np.sort(annotations.logprobs[~np.isnan(annotations.logprobs[:, 0])], axis=1)
    return {"n": len(scores), "count": int((scores[:, -1] == scores[:, -2]).sum())}


def _measure_repeat(study: Study, labels: StudyLabels, number: int) -> dict[str, Any] | None:
    """Return how many labels of a pass change in the second answers of `annotate.repeat_check`; None without them."""
    annotations, method = labels.annotations[number], labels.pool.calibrations[number].method
    rows, second = load_repeat(study, annotations.key, labels.files)
    first = annotations.logprobs[rows]
    has_both = ~np.isnan(first[:, 0]) & ~np.isnan(second[:, 0])
    if not has_both.any():
        return None
    answers = [first[has_both], second[has_both]]
    calibrated = [shift(logprobs, annotations.content_free, method, annotations.logprobs) for logprobs in answers]
    changed = calibrated[0].argmax(axis=1) != calibrated[1].argmax(axis=1)
    max_difference = float(np.abs(answers[0] - answers[1]).max()) if annotations.section.has_label_mass else None
    return {"n": len(changed), "changed": int(changed.sum()), "max_difference": max_difference}


def _measure_passes(study: Study, pool: Pool) -> list[dict[str, Any]]:
    """Measure each pass, the majority of three or more and, over three or more different models, Dawid-Skene."""
    classes = len(pool.label_names)
    sections = study.recipe.annotate.all_passes()
    if len(sections) == 1:
        return []
    sources = {f"pass {place}: {section.model}": pool.votes[:, place] for place, section in enumerate(sections)}
    if len(sections) > 2:  # of two the majority is the first
        sources["majority"] = voting.majority(pool.votes, classes)
    if len({(section.model, section.revision) for section in sections}) >= MANY_MODELS:
        probs = voting.aggregate(pool.votes, classes)
        sources["Dawid-Skene"] = np.where(np.isnan(probs[:, 0]), NO_GOLD, np.nan_to_num(probs).argmax(axis=1))
    clusters = clusters_of_pool(pool)
    return [{"name": name, **_score(labels, pool.gold, classes, clusters)} for name, labels in sources.items()]


def _score(labels: np.ndarray, gold: np.ndarray, classes: int, clusters: np.ndarray | None) -> dict[str, Any]:
    """Return the shares of the labels, and their scores over the texts with gold."""
    has_label = labels != voting.NO_VOTE
    judged = has_label & (gold != NO_GOLD)
    share = np.bincount(labels[has_label], minlength=classes) / max(1, has_label.sum())
    if not judged.any():
        return {"label_share": share.tolist(), "n_gold": 0}
    figures = load_metric("annotation_uncertainty").compute(
        predictions=np.eye(classes)[labels[judged]],
        references=gold[judged],
        clusters=None if clusters is None else clusters[judged],
    )
    names = ("n_gold", "accuracy", "accuracy_interval", "macro_f1", "macro_f1_interval")
    return {"label_share": share.tolist(), **{name: figures[name] for name in names}}


def _draw(annotator: Uncertainty, names: list[str], study: Study) -> None:
    """Draw how sure the LLM is; with gold, how often it is then right, and the errors among the texts kept."""
    figure, (left, right) = make_axes(2, 9, 4)
    if annotator.n_gold >= MIN_LABELS:
        bins = [entry for entry in annotator.reliability if entry.n]
        left.plot([0, 1], [0, 1], color="#999999", lw=1)
        for entry in bins:
            left.plot([entry.confidence] * 2, entry.accuracy_interval, color="#0072B2", lw=2, alpha=0.35)
        sizes = [12 + 200 * entry.n / annotator.n_gold for entry in bins]
        left.scatter([entry.confidence for entry in bins], [entry.accuracy for entry in bins], s=sizes, color="#0072B2")
        left.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of the label", ylabel="share of right labels")
        left.set_title(f"reliability, {annotator.n_gold:,} gold labels (area: texts)", fontsize=10)
        right.plot(*zip(*annotator.risk_coverage, strict=True), color="#D55E00")
        right.set(xlim=(0, 1), ylim=(0, None), xlabel="share of texts kept, least entropy first")
        right.set_ylabel("share of wrong labels among them")
        right.set_title("risk and coverage", fontsize=10)
    else:
        left.barh(names, annotator.label_share, color="#0072B2")
        left.set(xlim=(0, 1), xlabel="share of texts")
        left.invert_yaxis()
        right.plot(annotator.entropy_quantiles, [5, 25, 50, 75, 95], "o-", color="#D55E00")
        right.set(xlabel="entropy, nats", ylabel="% of texts below")
    save_figure(figure, study.report, "labels")


def print_labels(study: Study, labels: LabelQuality) -> None:
    """Print the findings, the scores of several passes, and the paths of annotations and page."""
    console = make_console()
    for counts in labels.status:
        console.print(f"Rows: {counted(counts)}")
    for sentence in describe(labels):
        console.print(sentence)
    if labels.passes:
        print_table(console, list_passes(labels))
    console.print(f"\nAnnotations: {study.annotations_root}", soft_wrap=True)
    console.print(f"Their quality: {study.report / 'labels.md'}", soft_wrap=True)


def print_status(study: Study) -> None:
    """Print what is done, failed and left of each pass, and why rows failed."""
    rows: list[list[str]] = []
    reasons: dict[str, int] = {}
    for place, progress in enumerate(read_progress(study)):
        counts = progress.statuses
        failed = counts.pop("engine_error", 0)
        numbers = (progress.num_rows, sum(counts.values()), failed, progress.num_left)
        rows.append([str(place), progress.model, *(f"{count:,}" for count in numbers)])
        reasons |= {f"pass {place}: {reason}": count for reason, count in progress.errors.items()}
        # A row without a label has its reason, unlike those of the other statuses.
        reasons |= {f"pass {place}: {name}": count for name, count in counts.items() if name not in ("ok", "no_label")}
    console = make_console()
    columns = ["pass", "model", "rows", "done", "failed", "left"]
    print_table(console, Table(f"{study.recipe.name}: annotations", columns, rows))
    for reason, count in reasons.items():
        console.print(f"{count:,} x {reason}")
