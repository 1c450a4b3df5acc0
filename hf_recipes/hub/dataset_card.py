"""Write the card of a study's dataset: the verdict, a table, how to load it, columns, limits, and details folded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq

from .. import __version__
from ..analysis.measure import read_study_results
from ..analysis.schema import Results, VariantResult
from ..annotation.annotations import Annotations
from ..data import NO_GOLD, RowFiles, Rows, is_url
from ..labels.audit import MIN_LABELS
from ..labels.pool import Pool
from ..models import is_on_hub
from ..report.figures import COLOURS, make_axes, save_figure
from ..report.findings import describe
from ..report.first_screen import describe_headline
from ..report.first_screen.content import list_unknown
from ..report.label_findings import describe as describe_labels
from ..report.label_quality import read_label_quality
from ..report.methods import how_trained
from ..report.records import Table
from ..report.render import code, render
from ..report.tables import SCORES, tabulate
from ..study import Study, read_json
from ..variants import CONTROLS, VARIANTS

HUB = "https://huggingface.co"
FIGURE = "figure.png"  # in the study's folder of a repo
SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}


class Content(Protocol):
    """What a card describes; see `dataset_folder.DatasetFolder`."""

    study: Study
    pool: Pool
    annotations: list[Annotations]
    test: Rows
    variants: list[str]
    share: float
    key: str
    files: RowFiles
    source_columns: dict[str, str]


@dataclass(frozen=True)
class Place:
    """Where the dataset of a card is, and what it contains.

    Attributes:
        where (`str`): the folder or repo.
        prefix (`str`): the start of the configs' names.
        texts (`bool`): whether it has the texts.
        tables (`list[str]`): the configs that are not a variant's, without the prefix.
        figure (`str`, *optional*): the address of a figure of the results.
    """

    where: str
    prefix: str = ""
    texts: bool = True
    tables: tuple[str, ...] = ()
    figure: str | None = None


def make_card(content: Content, repo: str, prefix: str, texts: bool, configs: list[str], measured: bool) -> str:
    """Return the card of a published study.

    Args:
        content (`Content`):
            The dataset folder of the study.
        repo (`str`):
            Where it is published.
        prefix (`str`):
            The start of the configs' names.
        texts (`bool`):
            Whether the texts are published.
        configs (`list[str]`):
            All its configs, without the prefix.
        measured (`bool`):
            Whether the results are current.
    """
    study = content.study
    results = read_study_results(study) if measured else None
    figure = f"{HUB}/datasets/{repo}/resolve/main/hf-recipes/{study.recipe.name}/{FIGURE}" if results else None
    tables = tuple(name for name in configs if name not in content.variants)
    return render_card(content, study.dataset, Place(repo, prefix, texts, tables, figure), results)


def render_card(content: Content, folder: Path, place: Place, results: Results | None) -> str:
    """Return the card of a dataset.

    Args:
        content (`Content`):
            The dataset folder of the study.
        folder (`Path`):
            A folder with its configs.
        place (`Place`):
            Where the dataset is, and what it contains.
        results (`Results`, *optional*):
            The results that the card reports.
    """
    study, pool, test = content.study, content.pool, content.test
    recipe = study.recipe
    manifest = read_json(study.annotations(content.annotations[0].key) / "manifest.json")
    source = content.files.manifest["source"]
    source_card = read_source_card(recipe.data.path)
    has_gold = pool.gold != NO_GOLD
    model, model_link = make_link(recipe.annotate.model, is_on_hub(study, recipe.annotate.model))
    columns, prompt = recipe.annotate.columns, manifest["prompt"]
    if columns:
        model, model_link = recipe.annotate.model, code(recipe.annotate.model)
    elif not place.texts:
        prompt = recipe.annotate.asked.instruction
    data, data_link = make_link(recipe.data.path, "sha" in source, "datasets/")
    labels = read_label_quality(study) if place.tables else None  # only a published study has tables
    report = describe(results) if results else None
    front = _front_matter(content, place, source_card, f"{recipe.name}: labels by {model}")
    if data:
        front.source_datasets = [data if "sha" in source else f"extended|other-{data}"]
    body = render(
        "dataset_card.md",
        place=place,
        title=front.pretty_name,
        headline=describe_headline(results) if results else None,
        summary=_summarise(results) if results else None,
        model=model_link,
        data=data_link,
        licence=source_card.get("license"),
        source=source,
        recipe=recipe,
        manifest=manifest,
        classes=pool.label_names,
        made=how_trained(study, study.training.method) if "runs" in place.tables else None,
        rows={
            variant: pq.read_metadata(next((folder / "data" / variant).iterdir())).num_rows
            for variant in content.variants
        },
        lines={variant: VARIANTS[variant].describe(content.share, recipe.few_gold) for variant in content.variants},
        pool_size=len(pool.ids),
        test_size=len(test),
        test_gold=int((test.gold != NO_GOLD).sum()),
        is_audited=pool.audited is not None,
        num_gold=int(has_gold.sum()),
        min_gold=MIN_LABELS,
        accuracy=float((pool.llm == pool.gold)[has_gold].mean()) if has_gold.sum() >= MIN_LABELS else None,
        calibration=pool.calibrations[0],
        passes=pool.votes.shape[1],
        label_mass=float(pool.label_mass.mean()),
        columns=columns,
        source_columns=_describe_source_columns(content) if place.texts else [],
        prompt=(prompt or "").replace("```", "` ` `"),
        demonstrations=len(manifest["ingredients"].get("shown", ())),
        unknown=list_unknown(results) if results else [],
        label_findings=describe_labels(labels) if labels else [],
        findings=[*report.findings, *report.more] if report else [],
        limits=report.limits if report else [],
        version=__version__,
        key=content.key,
    )
    return f"---\n{front.to_yaml()}\n---\n{body}"


def _describe_source_columns(content: Content) -> list[tuple[str, str, str]]:
    """Return published name, type and name in the source of each column of the source."""
    from datasets import ClassLabel, Features

    rows = []
    features = Features.from_arrow_schema(content.files.source_schema()) if content.source_columns else {}
    for name, column in content.source_columns.items():
        kind = getattr(features[column], "dtype", type(features[column]).__name__)
        if column in content.files.manifest["json_columns"]:
            kind = "JSON text"
        rows.append((name, "class" if isinstance(features[column], ClassLabel) else kind, column))
    return rows


def draw_figure(results: Results, folder: Path) -> Path:
    """Draw the rows of the card's table with their intervals, and return the file."""
    field, label = "macro_f1_mean", "macro-F1"
    if results.at_top["llm"].macro_f1_mean is None:
        field, label = "pairwise_disagreement", "share of texts on which two seeds disagree"
    figure, axes = make_axes(1, 8, 4)
    rows = _choose_rows(results)[::-1]
    for place, result in enumerate(rows):
        bounds, colour = getattr(result, f"{field}_interval"), COLOURS[result.variant]
        if bounds is not None:
            axes.plot(bounds, [place, place], color=colour, lw=8, alpha=0.25, solid_capstyle="butt")
        axes.plot(getattr(result, field), place, "o", ms=9, color=colour)
    axes.set_yticks(range(len(rows)), [result.variant for result in rows])
    axes.set_xlabel(f"{label} with its interval ({results.top:,} training texts, {results.R} seeds)")
    save_figure(figure, folder, FIGURE.removesuffix(".png"))
    return folder / FIGURE


def _choose_rows(results: Results) -> list[VariantResult]:
    """Return gold labels, LLM labels, the best mitigation and its control at the largest size."""
    variants = results.at_top
    mitigations = [name for name, control in CONTROLS.items() if {name, control} <= variants.keys()]
    best = max(mitigations, key=lambda name: variants[name].macro_f1_mean or 0.0, default=None)
    if results.best_mitigation and results.best_mitigation.variant in mitigations:
        best = results.best_mitigation.variant  # chosen on half of the seeds and texts
    names = ["gold", "llm", *((best, CONTROLS[best]) if best else ())]
    return [variants[name] for name in names if name in variants]


def _summarise(results: Results) -> Table:
    return tabulate(
        f"At {results.top:,} training texts",
        _choose_rows(results),
        {
            "variant": "variant",
            "training labels": lambda result: results.lines[result.variant],
            "gold labels": "gold_labels",
            **SCORES,
        },
        note=f"{results.R} seeds, {results.n:,} test texts, {results.confidence_level:.0%} intervals.",
    )


def make_link(path: str, is_on_hub: bool, kind: str = "") -> tuple[str, str]:
    """Return the name of a model or dataset, and its link: the Hub id, or the base name of a local folder or file."""
    name = path if is_on_hub else Path(path).name
    return name, f"[{name}]({HUB}/{kind}{name})" if is_on_hub else f"`{name}`"


def _front_matter(content: Content, place: Place, source_card: dict[str, Any], title: str) -> Any:
    from huggingface_hub import DatasetCardData

    pool = content.pool
    creators = ["machine-generated"]
    if (pool.gold != NO_GOLD).any():
        creators.append("found" if pool.audited is None else "expert-generated")
    return DatasetCardData(
        pretty_name=title,
        license=source_card.get("license"),
        language=source_card.get("language"),
        task_categories=["text-classification"],
        size_categories=[next((name for size, name in SIZES.items() if len(pool.ids) < size), "10M<n<100M")],
        annotations_creators=creators,
        tags=["hf-recipes", "llm-labels"],
        thumbnail=place.figure,
        configs=[
            {
                "config_name": variant,
                # The cache of `datasets` goes by a folder's name and these lines alone, and all are named dataset.
                "description": f"{content.study.recipe.name}, {content.key}",
                "data_files": [
                    {"split": "train", "path": f"data/{variant}/train-*.parquet"},
                    *([{"split": "test", "path": "data/test/test-*.parquet"}] if len(content.test) else []),
                ],
                **({"default": True} if variant == "llm" else {}),
            }
            for variant in content.variants
        ],
    )


def read_source_card(path: str) -> dict[str, Any]:
    """Return the metadata of the source's card; empty if it is not available."""
    from huggingface_hub import DatasetCard, constants

    local = Path(path)
    if local.exists():
        file = local / "README.md"
        return dict(DatasetCard.load(file).data.to_dict()) if file.is_file() else {}
    if is_url(path) or constants.HF_HUB_OFFLINE:
        return {}
    try:
        return dict(DatasetCard.load(path).data.to_dict())
    except Exception:  # no card, or no network: the card then reports the licence as unknown
        return {}
