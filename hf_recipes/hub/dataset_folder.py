"""The dataset folder: one config per variant, as parquet files that `load_dataset` reads offline, and a card.

load_dataset("studies/tweets-demo/dataset", "llm-entropy-replace")
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ..analysis.measure import read_study_results
from ..data import NO_GOLD, Rows, is_url
from ..hashing import hash_files, make_key
from ..labels import rules
from ..labels.pool import StudyLabels
from ..labels.rules import training_labels
from ..labels.votes import flipped
from ..report.findings import describe
from ..report.label_findings import describe as describe_labels
from ..report.label_quality import read_label_quality
from ..report.methods import how_made, how_trained
from ..report.records import Findings
from ..report.render import cell
from ..study import PACKAGE, Study, read_json, versions, write_text
from ..variants import CONFIDENT, CONTROLS, VARIANTS

logger = logging.getLogger(__name__)

TEMPLATE = PACKAGE / "templates" / "dataset_card.md"
CODE = (TEMPLATE, Path(__file__), Path(rules.__file__), PACKAGE / "variants.py")
SEED = 0  # of the published random control; each training run draws its own


class DatasetFolder:
    """The configs of a study, and the key under which they are written.

    Args:
        study (`Study`), labels (`StudyLabels`):
            An annotated study, and what `read_labels` returned for it.

    Attributes:
        variants (`list[str]`): the variants that have a config. Confident learning has none: each run has its own rows.
        test (`Rows`): the test split, with gold from an audit where the recipe trains without gold.
    """

    def __init__(self, study: Study, labels: StudyLabels):
        recipe, self.study = study.recipe, study
        self.pool, self.annotations = labels.training_pool, labels.annotations
        self.test = replace(labels.test, gold=labels.test_gold)
        names = recipe.grid.variants if recipe.grid else ["llm"]
        self.variants = [name for name in names if name not in CONFIDENT]
        self.share = recipe.grid.replace_share if recipe.grid else 0.0
        self.key = make_key(
            recipe={"name": recipe.name, "data": recipe.data.model_dump(mode="json"), "variants": self.variants},
            share=self.share,
            labels=labels.pool_key,
            test=labels.test_key,
            code=[hash_files(path) for path in CODE],
            versions=versions("datasets", "pyarrow", "huggingface_hub"),
        )

    def is_written(self) -> bool:
        """Return whether `dataset/` is complete, current and as hf-recipes wrote it."""
        manifest = read_json(self.study.dataset_manifest)
        if manifest is None or manifest["key"] != self.key:
            return False
        return self.study.dataset.exists() and self.study.checksums.is_intact(self.study.dataset)

    def write(self) -> None:
        """Write `dataset/`, unless it is current.

        A config holds the whole pool. A variant that ranks or draws does so over the pool here, whereas a training run
        ranks and draws within its own subset.
        """
        study = self.study
        with study.lock():
            if self.is_written():
                return
            if (read_json(study.dataset_manifest) or {}).get("key") == self.key and study.dataset.exists():
                logger.warning("%s differs from what hf-recipes wrote. It is written again.", study.dataset)
            with study.whole_folder(study.dataset) as folder:
                for name in self.variants:
                    _write_split(folder / "data" / name, "train", _train_columns(name, self))
                if len(self.test):
                    _write_split(folder / "data" / "test", "test", _test_columns(self.test))
                card = _render_card(self, folder, str(study.dataset), "", True, [], [], [])
                write_text(folder / "README.md", card)
            study.write_json(study.dataset_manifest, {"key": self.key})


def _write_split(folder: Path, split: str, columns: tuple[dict[str, Any], Any]) -> None:
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    folder.mkdir(parents=True)
    values, features = columns
    with (folder / f"{split}-00000-of-00001.parquet").open("wb") as stream:  # a path may be taken for a URL
        Dataset.from_dict(values, features=features).to_parquet(stream)


def _train_columns(name: str, content: DatasetFolder) -> tuple[dict[str, Any], Any]:
    from datasets import ClassLabel, Features, List, Value

    pool = content.pool
    labels = training_labels(name, pool, np.arange(len(pool.ids)), content.share, SEED)
    classes = ClassLabel(names=pool.label_names)
    rows, first = np.unique(labels.rows, return_index=True)
    source = {"noise": "noise", "annotator": "annotator"}.get(VARIANTS[name].labels, "gold")
    values = {
        "id": [pool.ids[i] for i in rows],
        "text": [pool.texts[i] for i in rows],
        "label": labels.labels[first],
        "label_source": np.where(labels.from_gold[first], source, "llm"),
        "gold": pool.gold[rows],
        "llm_label": pool.llm[rows],
        "llm_probs": list(pool.probs[rows]),
        "entropy": pool.entropy[rows],
        "label_mass": pool.label_mass[rows],
    }
    features = Features(
        {
            "id": Value("string"),
            "text": Value("string"),
            "label": classes,
            "label_source": Value("string"),
            "gold": classes,
            "llm_label": classes,
            "llm_probs": List(Value("float64"), length=len(pool.label_names)),
            "entropy": Value("float64"),
            "label_mass": Value("float64"),
        }
    )
    if pool.votes.shape[1] > 1:
        values |= {"votes": list(pool.votes[rows]), "flipped": flipped(pool.votes[rows])}
        features |= {"votes": List(classes, length=pool.votes.shape[1]), "flipped": Value("bool")}
    return values, features


def _test_columns(test: Rows) -> tuple[dict[str, Any], Any]:
    from datasets import ClassLabel, Features, Value

    features = Features({"id": Value("string"), "text": Value("string"), "label": ClassLabel(names=test.label_names)})
    return {"id": test.ids, "text": test.texts, "label": test.gold}, features


def make_card(content: DatasetFolder, repo: str, prefix: str, texts: bool, configs: list[str], measured: bool) -> str:
    """Return the card of a published study, with the findings.

    Args:
        content (`DatasetFolder`):
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
    labels, results = read_label_quality(study), read_study_results(study) if measured else None
    findings = [cell(sentence) for sentence in describe_labels(labels)] if labels else []
    limits: list[str] = []
    if results:
        report = describe(results)
        sections = [*report.findings, *report.more]
        findings += [f"**{title}** {cell(text)}" for title, text in sections if title != "The labels."]
        limits = [cell(sentence) for sentence in report.limits]
    return _render_card(content, study.dataset, repo, prefix, texts, configs, findings, limits)


def make_findings(study: Study, measured: bool) -> dict[str, Any]:
    """Return the findings in the words of the report, for readers of a published study: findings.json.

    Args:
        study (`Study`):
            An annotated study.
        measured (`bool`):
            Whether the results are current.

    Returns:
        `dict` with `findings`, `more`, `limits` (of `findings.describe`, empty without results), `methods` (null
        without), `labels` (of `label_findings.describe`), `variants` (what each trains on) and `controls` (of
        variants that have one).
    """
    labels, results = read_label_quality(study), read_study_results(study) if measured else None
    grid = study.recipe.grid
    named = list(grid.variants) if grid else ["llm"]
    return {
        **vars(describe(results) if results else Findings([], [], [])),
        "methods": how_made(study, results) if results else None,
        "labels": describe_labels(labels) if labels else [],
        "variants": {
            variant: VARIANTS[variant].describe(grid.replace_share if grid else 0.0, study.recipe.few_gold)
            for variant in named
        },
        "controls": {
            variant: control for variant, control in CONTROLS.items() if variant in named and control in named
        },
    }


def _render_card(
    content: DatasetFolder,
    folder: Path,
    where: str,
    prefix: str,
    texts: bool,
    configs: list[str],
    findings: list[str],
    limits: list[str],
) -> str:
    from huggingface_hub import DatasetCard, DatasetCardData

    study = content.study
    recipe, pool, test = study.recipe, content.pool, content.test
    manifest = read_json(study.annotations(content.annotations[0].key) / "manifest.json")
    source = _source_card(recipe.data.path)
    data = DatasetCardData(
        license=source.get("license"),
        language=source.get("language"),
        task_categories=["text-classification"],
        annotations_creators=["machine-generated"],
        source_datasets=None if Path(recipe.data.path).exists() or is_url(recipe.data.path) else [recipe.data.path],
        tags=["hf-recipes", "llm-labels"],
        configs=[
            {
                "config_name": variant,
                # a local folder's cache in `datasets` goes by its name and these lines alone, and all are named dataset
                "description": f"{recipe.name}, {content.key}",
                "data_files": [
                    {"split": "train", "path": f"data/{variant}/train-*.parquet"},
                    *([{"split": "test", "path": "data/test/test-*.parquet"}] if len(test) else []),
                ],
                **({"default": True} if variant == "llm" else {}),
            }
            for variant in content.variants
        ],
    )
    card = DatasetCard.from_template(
        data,
        template_path=str(TEMPLATE),
        key=content.key,
        licence=source.get("license"),
        source=read_json(study.rows / "manifest.json")["source"],
        recipe=recipe,
        manifest=manifest,
        classes=[cell(name) for name in pool.label_names],
        made=cell(how_trained(study)) if "runs" in configs else None,
        rows={
            variant: pq.read_metadata(next((folder / "data" / variant).iterdir())).num_rows
            for variant in content.variants
        },
        pool_size=len(pool.ids),
        test_size=len(test),
        test_gold=int((test.gold != NO_GOLD).sum()),
        audited=None if pool.audited is None else int((pool.gold != NO_GOLD).sum()),
        variants=content.variants,
        lines={variant: VARIANTS[variant].describe(content.share, recipe.few_gold) for variant in content.variants},
        calibration=pool.calibrations[0],
        accuracy=float((pool.llm == pool.gold)[pool.gold != NO_GOLD].mean()) if (pool.gold != NO_GOLD).any() else None,
        passes=pool.votes.shape[1],
        label_mass=float(pool.label_mass.mean()),
        prompt=(manifest["prompt"] if texts else recipe.annotate.prompt.instruction).replace("```", "` ` `"),
        demonstrations=len(manifest["ingredients"]["shown"]),
        where=where,
        prefix=prefix,
        texts=texts,
        tables=[name for name in configs if name not in content.variants],
        findings=findings,
        limits=limits,
    )
    return str(card)


def _source_card(path: str) -> dict[str, Any]:
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
