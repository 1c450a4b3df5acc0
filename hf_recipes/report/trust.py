"""The verdict for other programs: `report/trust.json`, which docs/certify.md describes."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ..analysis.schema import Baseline, Count, Criterion, Decision, Interval, Record, Results
from ..data import open_rows
from ..study import Study, read_json, versions
from .first_screen import describe_headline

NOT_COMPARED = "no classifier was trained on gold labels, so nothing can be compared with them"


class Judged(Record):
    """What was judged."""

    dataset: str = Field(description="a Hub id, a file or a folder")
    revision: str = Field(description="the commit on the Hub, or the SHA-256 of local files")
    config: str | None = Field(description="of the dataset; null for its only one")
    split: str = Field(description="of the training texts")
    text: str = Field(description="the column of texts, or their template")
    labels: str = Field(description="the column with the LLM's labels, or the LLM")
    gold: str | None = Field(description="the column with gold labels; null where people labelled a random sample")
    classes: list[str] = Field(description="the names of the classes")


class Accuracy(Record):
    """How often the LLM is right, on training texts with a gold label."""

    value: float | None = Field(description="the share of texts on which the LLM gives the gold label")
    interval: Interval = Field(description="its interval")
    most_frequent_class: float | None = Field(description="the accuracy of always giving the most frequent class")
    n: Count = Field(description="training texts with a gold label and a valid label of the LLM")
    num_invalid: Count = Field(description="training texts without a valid label of the LLM: they do not count")


class Score(Record):
    """A figure of classifiers, the mean over seeds."""

    value: float | None
    interval: Interval


class ByLabels(Record):
    """Classifiers that were trained on one kind of labels, at the largest size."""

    labels: str = Field(description="gold, llm, or another variant of docs/remedies.md")
    n: Count = Field(description="the test texts with a gold label, which the scores cover")
    macro_f1: Score = Field(description="`value` and `interval` on the test texts, the mean over seeds")
    accuracy: Score = Field(description="the same of accuracy")
    disagreement: Score = Field(description="the share of test texts on which two seeds disagree")


class Trust(Record):
    """Whether an LLM's labels can be trusted for training. `make_trust` fills it."""

    version: Literal[1] = Field(1, description="of this schema: a program should refuse another one")
    judged: Judged = Field(description="what was judged")
    verdict: Decision = Field(description="`ship within limits`, `do not ship` or `inconclusive`")
    summary: str = Field(description="the verdict and its main cause, in sentences")
    reason: str | None = Field(
        description="why runs on gold labels cannot be compared with: none exist, two seeds, or chance level; else null"
    )
    limits: list[Criterion] = Field(description="the limits that decide the verdict")
    label_accuracy: Accuracy = Field(description="how often the LLM is right")
    method: Literal["finetune", "frozen"] = Field(description="fine-tuning, or linear heads on frozen features")
    encoder: str = Field(description="the model that was trained or gave the features")
    training_texts: Count = Field(description="of each classifier, at the largest size")
    test_texts: Count = Field(description="of all classifiers")
    seeds: Count = Field(description="classifiers with each kind of labels")
    confidence_level: float = Field(description="of the intervals; those of `limits` have 0.99 from the second look on")
    classifiers: list[ByLabels] = Field(description="scores by training labels")
    baselines: list[Baseline] = Field(description="simpler classifiers and the LLM itself, as in `results.json`")
    date: str = Field(description="of the results")
    versions: dict[str, str] = Field(description="of the libraries")


def make_trust(study: Study, results: Results) -> Trust:
    """Return what `trust.json` contains.

    Args:
        study (`Study`):
            A measured study.
        results (`Results`):
            Its results.
    """
    data, annotate, annotator = study.recipe.data, study.recipe.annotate, results.annotator
    source = open_rows(study).manifest["source"]
    headline = describe_headline(results)

    def score(result: Any, figure: str) -> Score:
        return Score(value=getattr(result, figure), interval=getattr(result, f"{figure}_interval"))

    return Trust(
        version=1,
        judged=Judged(
            dataset=data.path if "sha" in source else Path(data.path).name,
            revision=source.get("sha") or source.get("sha256") or source["files"],
            config=data.name,
            split=data.train_split,
            text=data.text_template or data.text_column,
            labels=annotate.columns.label if annotate.columns else annotate.model,
            gold=data.label_column,
            classes=results.label_names,
        ),
        verdict=results.verdict.decision,
        summary=f"{headline.decision}. {headline.sentence}",
        reason=results.verdict.reason or (None if "gold" in results.at_top else NOT_COMPARED),
        limits=results.verdict.criteria,
        label_accuracy=Accuracy(
            value=annotator.accuracy,
            interval=annotator.accuracy_interval,
            most_frequent_class=annotator.majority_accuracy,
            n=annotator.n_gold,
            num_invalid=annotator.status.get("no_label", 0),
        ),
        method=results.method,
        encoder=results.encoder,
        training_texts=results.top,
        test_texts=results.n,
        seeds=results.R,
        confidence_level=results.confidence_level,
        classifiers=[
            ByLabels(
                labels=name,
                n=result.n_gold,
                macro_f1=score(result, "macro_f1_mean"),
                accuracy=score(result, "accuracy_mean"),
                disagreement=score(result, "pairwise_disagreement"),
            )
            for name, result in results.at_top.items()
        ],
        baselines=results.baselines,
        date=results.date,
        versions=versions("hf-recipes", "torch", "transformers", "scikit-learn"),
    )


def write_trust(study: Study, results: Results) -> None:
    """Write `trust.json` next to the report, unless it is up to date."""
    path, content = study.report_of(results.method) / "trust.json", make_trust(study, results).model_dump(mode="json")
    if read_json(path) != content:
        study.write_json(path, content)
