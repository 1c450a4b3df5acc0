"""The dataset folder: one config per variant, as parquet files that `load_dataset` reads offline, and a card.

load_dataset("studies/tweets-demo/dataset", "llm-entropy-replace")
"""

import logging
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..analysis.measure import read_study_results
from ..data import NO_GOLD, Rows
from ..hashing import hash_files, make_key
from ..labels import rules
from ..labels.pool import StudyLabels
from ..labels.rules import training_labels
from ..labels.votes import flipped
from ..report.findings import describe
from ..report.label_findings import describe as describe_labels
from ..report.label_quality import read_label_quality
from ..report.methods import how_made
from ..report.records import Findings
from ..source_columns import publish_columns
from ..study import PACKAGE, Study, read_json, versions, write_text
from ..variants import CONFIDENT, CONTROLS, VARIANTS
from . import dataset_card
from .dataset_card import Place, render_card

logger = logging.getLogger(__name__)

CODE = (
    *(PACKAGE / "templates" / name for name in ("dataset_card.md", "tables.md")),
    *(Path(file) for file in (__file__, dataset_card.__file__, rules.__file__)),
    PACKAGE / "variants.py",
)
SEED = 0  # of the published random control; each training run draws its own


class DatasetFolder:
    """The configs of a study, and the key under which they are written.

    Args:
        study (`Study`), labels (`StudyLabels`):
            An annotated study, and what `read_labels` returned for it.

    Attributes:
        variants (`list[str]`): the variants that have a config. Confident learning has none: each run has its own rows.
        source_columns (`dict[str, str]`): the source's own columns that the configs have, by their published names.
        test (`Rows`): the test split, with gold from an audit where the recipe trains without gold.
    """

    def __init__(self, study: Study, labels: StudyLabels):
        recipe, self.study = study.recipe, study
        self.pool, self.annotations, self.files = labels.training_pool, labels.annotations, labels.files
        self.test = replace(labels.test, gold=labels.test_gold)
        names = recipe.grid.variants if recipe.grid else ["llm"]
        self.variants = [name for name in names if name not in CONFIDENT]
        self.share = recipe.grid.replace_share if recipe.grid else 0.0
        self.source_columns = publish_columns(labels.files.source_columns, recipe.data.keep_columns)
        self.key = make_key(
            recipe={"name": recipe.name, "data": recipe.data.model_dump(mode="json"), "variants": self.variants},
            share=self.share,
            rows=[labels.files.manifest["key"], labels.files.manifest.get("kept")],
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
                    _write_split(folder / "data" / name, "train", *_train_columns(name, self), self)
                if len(self.test):
                    _write_split(folder / "data" / "test", "test", *_test_columns(self.test, self), self)
                card = render_card(self, folder, Place(str(study.dataset)), None)
                write_text(folder / "README.md", card)
            study.write_json(study.dataset_manifest, {"key": self.key})


def _write_split(folder: Path, split: str, values: dict[str, Any], features: Any, content: DatasetFolder) -> None:
    """Write a file with some rows of a split, in their order, and the source's own columns of these rows."""
    from datasets import Dataset, Features, disable_progress_bars

    disable_progress_bars()
    folder.mkdir(parents=True)
    columns = content.source_columns
    if columns:
        kept = Features.from_arrow_schema(content.files.source_schema())
        features = Features({**features, **{name: kept[column] for name, column in columns.items()}})
    dataset = Dataset.from_dict(values, features=Features({name: features[name] for name in values}))
    with TemporaryDirectory(dir=folder) as temporary:
        if columns:
            joined = Path(temporary) / "joined.arrow"
            _join_source(dataset.data.table, split, joined, features.arrow_schema, content)
            dataset = Dataset.from_file(str(joined))
        with (folder / f"{split}-00000-of-00001.parquet").open("wb") as stream:  # a path may be taken for a URL
            dataset.to_parquet(stream)
        del dataset  # it has the file open


def _join_source(table: pa.Table, split: str, path: Path, schema: pa.Schema, content: DatasetFolder) -> None:
    """Write the rows of a table with the source's own columns, some rows at a time, as an Arrow file."""
    columns = content.source_columns
    places = pc.index_in(table["id"], value_set=content.files.column("id", [split])).to_numpy()  # in ascending order
    start = 0
    with pa.ipc.new_stream(path, schema) as writer:
        for batch in content.files.source_batches(list(dict.fromkeys(columns.values())), split):
            first, last = np.searchsorted(places, [start, start + len(batch)])
            source = batch.take(pa.array(places[first:last] - start))
            rows = table.slice(first, last - first)
            arrays = [*rows.columns, *(source[column] for column in columns.values())]
            writer.write_table(
                pa.table([array.cast(field.type) for array, field in zip(arrays, schema, strict=True)], schema=schema)
            )
            start += len(batch)


def _train_columns(name: str, content: DatasetFolder) -> tuple[dict[str, Any], Any]:
    pool = content.pool
    labels = training_labels(name, pool, np.arange(len(pool.ids)), content.share, SEED)
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
    if pool.votes.shape[1] > 1:
        values |= {"votes": list(pool.votes[rows]), "flipped": flipped(pool.votes[rows])}
    features = _features(content)
    return {column: values[column] for column in features}, features


def _test_columns(test: Rows, content: DatasetFolder) -> tuple[dict[str, Any], Any]:
    """Return the columns of the training split. Those of the LLM are null: it labels the test texts for no config."""
    features = _features(content)
    values: dict[str, Any] = {name: [None] * len(test) for name in features}
    values |= {"id": test.ids, "text": test.texts, "label": test.gold, "gold": test.gold}
    values["label_source"] = [None if gold == NO_GOLD else "gold" for gold in test.gold]
    return values, features


def _features(content: DatasetFolder) -> Any:
    """Return the columns of both splits. The viewer and other libraries require that they are the same."""
    from datasets import ClassLabel, Features, List, Value

    pool = content.pool
    classes = ClassLabel(names=pool.label_names)
    features = {
        "id": Value("string"),
        "text": Value("string"),
        "label": classes,
        "label_source": Value("string"),
        "gold": classes,
        "llm_label": classes,
        "llm_probs": List(Value("float64"), length=len(pool.label_names)),
        "entropy": Value("float64"),
    }
    if content.annotations[0].section.columns is None:
        features["label_mass"] = Value("float64")
    if pool.votes.shape[1] > 1:
        features |= {"votes": List(classes, length=pool.votes.shape[1]), "flipped": Value("bool")}
    return Features(features)


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
