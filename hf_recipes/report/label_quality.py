"""How good the labels are: report/labels.json, labels.md and labels.png, from annotations and what gold there is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader

from ..analysis.measure import metrics_folder, without_nan
from ..annotation.annotations import count_examples
from ..annotation.calibration import ON_GOLD
from ..annotation.passes import read_progress
from ..data import NO_GOLD
from ..hashing import hash_files, make_key
from ..labels import votes as voting
from ..labels.pool import Pool, StudyLabels
from ..study import Study, read_json, write_text
from .figures import make_axes, save_figure
from .page import TEMPLATES
from .text import cell, interval, number

LEFT_OUT = ("that the prompts show as demonstrations", "with gold that the calibration looked at")
ONE_LABEL = 0.95  # a share of the labels that one class hardly ever has
FEW_GOLD = 30  # texts: fewer say next to nothing of an annotator
MANY_MODELS = 3  # different models from which a model of their errors can be made


def write_labels(study: Study, study_labels: StudyLabels) -> dict[str, Any]:
    """Computes `report/labels.json` and writes the page and the figure, unless they are there for these labels.

    Args:
        study (`Study`), study_labels (`StudyLabels`):
            An annotated study, and what `read_labels` returned for it.

    Returns:
        `dict`: what docs/CONTRACT.md says of labels.json.
    """
    passes, pool, audit = study_labels.annotations, study_labels.pool, study_labels.pool_audit
    if audit:
        pool = replace(pool, gold=audit.gold)
    key = make_key(
        labels=study_labels.pool_key,
        code=[hash_files(metrics_folder(), ("*.py",)), hash_files(Path(__file__)), hash_files(TEMPLATES)],
    )
    known = read_json(study.labels_file)
    if known and known["key"] == key:
        return dict(known)
    labels: dict[str, Any] = {
        "key": key,
        "study": study.recipe.name,
        "label_names": pool.label_names,
        "status": [{name: one.status.count(name) for name in sorted(set(one.status))} for one in passes],
        "truncated": int(passes[0].truncated.sum()),
        "scoring": passes[0].section.scoring,
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
    }
    with study.lock():
        study.report.mkdir(parents=True, exist_ok=True)
        if pool.ids and labels["scoring"] != "guided":
            _draw(labels["annotator"], labels["label_names"], study)
        page = Environment(loader=FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True, autoescape=False)  # noqa: S701
        page.filters |= {"number": number, "interval": interval, "cell": cell}
        context = {"labels": without_nan(labels), "recipe": study.recipe, "findings": describe(without_nan(labels))}
        write_text(study.report / "labels.md", page.get_template("labels.md").render(context))
        study.write_json(study.labels_file, without_nan(labels))
    return dict(read_json(study.labels_file))


def _measure(pool: Pool) -> dict[str, Any]:
    import evaluate

    uncertainty = evaluate.load(str(metrics_folder() / "annotation_uncertainty"), keep_in_memory=True)
    votes = {"votes": pool.votes} if pool.votes.shape[1] > 1 else {}
    return dict(uncertainty.compute(predictions=pool.probs, references=pool.gold, label_mass=pool.label_mass, **votes))


def _measure_passes(study: Study, pool: Pool) -> list[dict[str, Any]]:
    """Each pass on its own, the majority of three or more and, over three or more different models, Dawid-Skene."""
    classes = len(pool.label_names)
    sections = study.recipe.annotate.all_passes()
    if len(sections) == 1:
        return []
    told = [(f"pass {i}: {section.model}", pool.votes[:, i]) for i, section in enumerate(sections)]
    if len(sections) > 2:  # of two the majority is the first
        told.append(("majority", voting.majority(pool.votes, classes)))
    if len({(section.model, section.revision) for section in sections}) >= MANY_MODELS:
        worth = voting.aggregate(pool.votes, classes)
        told.append(("Dawid-Skene", np.where(np.isnan(worth[:, 0]), NO_GOLD, np.nan_to_num(worth).argmax(axis=1))))
    found = []
    for name, labels in told:
        known = (labels != voting.NO_VOTE) & (pool.gold != NO_GOLD)
        share = np.bincount(labels[labels != voting.NO_VOTE], minlength=classes) / max(1, (labels >= 0).sum())
        found.append({"name": name, "label_share": share.tolist(), **_scores(labels[known], pool.gold[known], classes)})
    return found


def _scores(labels: np.ndarray, gold: np.ndarray, classes: int) -> dict[str, Any]:
    import evaluate

    if not len(labels):
        return {"n_gold": 0}
    uncertainty = evaluate.load(str(metrics_folder() / "annotation_uncertainty"), keep_in_memory=True)
    found = uncertainty.compute(predictions=np.eye(classes)[labels], references=gold)
    return {k: found[k] for k in ("n_gold", "accuracy", "accuracy_interval", "macro_f1", "macro_f1_interval")}


def describe(labels: dict[str, Any]) -> list[str]:
    """The findings in words.

    Args:
        labels (`dict`):
            The content of labels.json.
    """
    found = labels["annotator"]
    if found is None:
        return ["No text has a label."]
    names = labels["label_names"]
    shares = ", ".join(f"{name} {number(s)}" for name, s in zip(names, found["label_share"], strict=True))
    said = [f"{found['n']:,} texts have a label: {shares}."]
    spent = labels["gold_spent"]
    if left_out := [f"{n:,} {what}" for n, what in zip(spent.values(), LEFT_OUT, strict=True) if n]:
        said.append(f"Not among them: {' and '.join(left_out)}.")
    if max(found["label_share"]) > ONE_LABEL:
        said.append(
            "Nearly all get one label. If the texts are not like that, try calibration: batch (it costs no "
            "annotation), another instruction or demonstrations, or a larger model."
        )
    if labels["scoring"] == "distribution":
        said.append(
            f"Before renormalising, the labels hold {number(found['label_mass_mean'])} of the LLM's probability."
            + (
                " Most of it lies elsewhere: the prompt does not ask for these labels."
                if found["label_mass_mean"] < 0.5
                else ""
            )
        )
    if "flip_rate" in found:
        said.append(
            f"The {found['P']} passes do not all agree on {number(found['flip_rate'])} "
            f"{interval(found['flip_rate_interval'])} of the texts."
        )
    if not found["n_gold"]:
        said.append("There is no gold: how many labels are wrong is not known, nor could a calibration be chosen.")
        return said
    if found["n_gold"] < FEW_GOLD:
        said.append(
            f"Only {found['n_gold']} gold labels are left to judge by: nothing can be told."
            + (" Lower annotate.calibration_rows, or label more by hand." if spent["calibration"] else "")
        )
    if drawn := labels["audit_drawn"]:
        said.append(
            f"People labelled {found['n_gold']:,} of {drawn:,} texts that were drawn at random from all {found['n']:,}"
            + (
                ": what follows holds for all of them, within its intervals."
                if found["n_gold"] == drawn
                else f". Of the other {drawn - found['n_gold']:,} nothing is known: if they are the hard ones, what "
                "follows is too good."
            )
        )
    said.append(
        f"Against {found['n_gold']:,} gold labels: accuracy {number(found['accuracy'])} "
        f"{interval(found['accuracy_interval'])} (always the commonest class: {number(found['majority_accuracy'])}), "
        f"macro-F1 {number(found['macro_f1'])} {interval(found['macro_f1_interval'])}"
        + (f", expected calibration error {number(found['ece'])}." if labels["scoring"] != "guided" else ".")
    )
    auroc = found["entropy_auroc_interval"]
    if labels["scoring"] != "guided" and auroc and None not in auroc:
        at = found["alphas"].index(0.25)
        verdict = (
            "entropy points at errors"
            if auroc[0] > 0.5
            else "entropy points away from errors"
            if auroc[1] < 0.5
            else "whether entropy points at errors cannot be told"
        )
        said.append(
            f"A wrong label has more entropy than a right one with probability {number(found['entropy_auroc'])} "
            f"{interval(auroc)}: {verdict}. The 25% most uncertain texts hold {number(found['error_capture'][at])} "
            "of all errors (.250 is chance)."
        )
        inside = found["within_class_auroc_interval"]
        if inside and None not in inside:
            said.append(
                f"The gold class alone explains {number(found['class_share'])} of the variance of errors. Among texts "
                f"of one class entropy ranks errors with {number(found['within_class_auroc'])} {interval(inside)}: "
                + (
                    "errors depend on the text, not on its class alone."
                    if inside[0] > 0.5
                    else "entropy sees no sign that errors depend on more than the class."
                )
            )
    if "flip_recall" in found:
        said.append(
            f"Of texts whose passes differ {number(found['flipped_error_rate'])} "
            f"{interval(found['flipped_error_rate_interval'])} have a wrong label, of the others "
            f"{number(found['unflipped_error_rate'])} {interval(found['unflipped_error_rate_interval'])}; flips find "
            f"{number(found['flip_recall'])} of all errors."
        )
    return said


def _draw(found: dict[str, Any], names: list[str], study: Study) -> None:
    """How sure the LLM is; with gold also how often it is right when it is as sure as that, and what may be kept."""
    figure, (left, right) = make_axes(2, 9, 4)
    if found["n_gold"]:
        bins = [b for b in found["reliability"] if b["n"]]
        left.plot([0, 1], [0, 1], color="#999999", lw=1)
        for b in bins:
            left.plot([b["confidence"]] * 2, b["accuracy_interval"], color="#0072B2", lw=2, alpha=0.35)
        sizes = [12 + 200 * b["n"] / found["n_gold"] for b in bins]
        left.scatter([b["confidence"] for b in bins], [b["accuracy"] for b in bins], s=sizes, color="#0072B2")
        left.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of the label", ylabel="share of right labels")
        left.set_title(f"reliability, {found['n_gold']:,} gold labels (area: texts)", fontsize=10)
        right.plot(*zip(*found["risk_coverage"], strict=True), color="#D55E00")
        right.set(xlim=(0, 1), ylim=(0, None), xlabel="share of texts kept, least entropy first")
        right.set_ylabel("share of wrong labels among them")
        right.set_title("risk and coverage", fontsize=10)
    else:
        left.barh(names, found["label_share"], color="#0072B2")
        left.set(xlim=(0, 1), xlabel="share of texts")
        left.invert_yaxis()
        right.plot(found["entropy_quantiles"], [5, 25, 50, 75, 95], "o-", color="#D55E00")
        right.set(xlabel="entropy, nats", ylabel="% of texts below")
    save_figure(figure, study.report, "labels")


def print_labels(study: Study, labels: dict[str, Any]) -> None:
    """The findings, and where they lie."""
    from rich.console import Console

    console = Console(width=None if Console().is_terminal else 120, markup=False, highlight=False)
    for counts in labels["status"]:
        console.print("Rows: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    for sentence in describe(labels):
        console.print(sentence)
    for one in labels["passes"]:
        if one["n_gold"]:
            console.print(f"{one['name']}: accuracy {number(one['accuracy'])} {interval(one['accuracy_interval'])}")
    console.print(f"\nAnnotations: {study.annotations_root}", soft_wrap=True)
    console.print(f"Their quality: {study.report / 'labels.md'}", soft_wrap=True)


def print_status(study: Study) -> None:
    """What is done, failed and left of each pass, and why rows failed."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{study.recipe.name}: annotations")
    for column in ("pass", "model", "rows", "done", "failed", "left"):
        table.add_column(column, justify="left" if column == "model" else "right")
    reasons: dict[str, int] = {}
    for number_, progress in enumerate(read_progress(study)):
        counts = progress.statuses
        failed = counts.pop("engine_error", 0)
        numbers = (progress.num_rows, sum(counts.values()), failed, progress.num_left)
        table.add_row(str(number_), progress.model, *(f"{count:,}" for count in numbers))
        reasons |= {f"pass {number_}: {reason}": count for reason, count in progress.errors.items()}
        named = ("ok", "no_label")  # the latter has its reason
        reasons |= {f"pass {number_}: {name}": count for name, count in counts.items() if name not in named}
    console = Console(width=None if Console().is_terminal else 120, markup=False, highlight=False)
    console.print(table)
    for reason, count in reasons.items():
        console.print(f"{count:,} x {reason}")
