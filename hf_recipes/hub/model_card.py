"""Write the card of a published classifier: what it is, the verdict, how to use it, scores of all seeds, limits."""

from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..analysis.schema import Results, VariantResult
from ..analysis.texts import FROM_LLM
from ..annotation.annotations import Annotations
from ..models import is_on_hub
from ..report.findings import describe_limits
from ..report.first_screen import describe_headline
from ..report.first_screen.content import list_unknown
from ..report.first_screen.numbers import interval, number
from ..report.methods import how_trained
from ..report.render import render
from ..report.tables import SCORES, tabulate
from ..study import Run, Study, read_json
from ..variants import VARIANTS
from .dataset_card import make_link, read_source_card

#: The type of a metric in `model-index`, its name there, and its field.
METRICS = (
    ("accuracy", "accuracy", "accuracy_mean"),
    ("f1", "macro-F1", "macro_f1_mean"),
    ("seed_instability", "share of texts on which two seeds disagree", "pairwise_disagreement"),
)


@dataclass(frozen=True)
class Published:
    """The classifier that is published.

    Attributes:
        repo (`str`): where.
        run (`Run`): its run.
        place (`int`): of its seed among the seeds of the recipe.
        num_runs (`int`): all runs of its variant at its size.
        agreement (`float`): the share of test texts to which it gives the ensemble's label.
        num_texts (`int`): the test texts.
        dataset (`str`, *optional*): the dataset repo of the study.
    """

    repo: str
    run: Run
    place: int
    num_runs: int
    agreement: float
    num_texts: int
    dataset: str | None


def make_model_card(study: Study, results: Results, published: Published, passes: list[Annotations]) -> str:
    """Return the card of a classifier of a study.

    Args:
        study (`Study`), results (`Results`):
            A measured study.
        published (`Published`):
            The classifier.
        passes (`list[Annotations]`):
            The passes of the LLM.
    """
    recipe, run = study.recipe, published.run
    result = results.at_top[run.variant]
    source = read_json(study.rows / "manifest.json")["source"]
    encoder, encoder_link = make_link(study.training.encoder, is_on_hub(study, study.training.encoder))
    data, data_link = make_link(recipe.data.path, "sha" in source, "datasets/")
    annotators = dict.fromkeys(annotations.section.model for annotations in passes)
    names = [name for name in ("gold", "llm") if name in results.at_top and name != run.variant]
    title = f"{recipe.name}: {encoder} trained on {run.variant} labels"
    front = _front_matter(study, published, result, title, data)
    body = render(
        "model_card.md",
        title=title,
        published=published,
        run=run,
        is_from_llm=VARIANTS[run.variant].labels in FROM_LLM,
        line=results.lines.get(run.variant) or VARIANTS[run.variant].describe(study.grid.replace_share),
        encoder=encoder_link,
        data=data_link,
        annotators=[make_link(model, is_on_hub(study, model))[1] for model in annotators],
        classes=results.label_names,
        headline=describe_headline(results),
        criteria=describe_limits(results),
        scores=tabulate(
            f"Scores of all {result.R} seeds",
            [result, *(results.at_top[name] for name in names)],
            {"training labels": "variant", "accuracy": "accuracy_mean", **SCORES},
            note=f"Means over {result.R} seeds on {result.n_gold:,} texts with gold, {results.confidence_level:.0%} "
            f"intervals. Seeds disagree: the share of texts to which two seeds give different labels.",
        ),
        own_scores=[
            f"{name} {number(values[published.place])}"
            for name, values in (("accuracy", result.accuracy_runs), ("macro-F1", result.macro_f1_runs))
            if len(values) == result.R
        ],
        disagreement=f"{number(result.pairwise_disagreement)} {interval(result.pairwise_disagreement_interval)}",
        unknown=list_unknown(results),
        made=how_trained(study, run.method),
        recipe=recipe,
        max_length=study.training.max_length,
        text_template=recipe.data.text_template,
        version=__version__,
    )
    return f"---\n{front.to_yaml()}\n---\n{body}"


def _front_matter(study: Study, published: Published, result: VariantResult, title: str, data: str) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    recipe, encoder = study.recipe, study.training.encoder
    is_from_llm = VARIANTS[published.run.variant].labels in FROM_LLM
    is_data_on_hub = "sha" in read_json(study.rows / "manifest.json")["source"]
    datasets = [*([data] if is_data_on_hub else []), *([published.dataset] if published.dataset else [])]
    language = read_source_card(recipe.data.path).get("language")
    evaluated = [
        EvalResult(
            task_type="text-classification",
            dataset_type=data,
            dataset_name=data,
            dataset_config=recipe.data.name,
            dataset_split=recipe.data.test_split,
            metric_type=kind,
            metric_name=f"{name}, mean of {result.R} seeds",
            metric_value=round(value, 4),
        )
        for kind, name, field in METRICS
        if (value := getattr(result, field)) is not None
    ]
    return ModelCardData(
        model_name=title,
        base_model=encoder if is_on_hub(study, encoder) else None,
        datasets=datasets or None,
        language=language,
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["hf-recipes", *(["llm-labels"] if is_from_llm else [])],
        eval_results=evaluated,
    )
