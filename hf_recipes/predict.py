"""Label new texts with the classifiers of a study, and abstain where they are likely to be wrong."""

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from .analysis.abstention import RISK, HeldOutTexts, Threshold, read_held_out, require_threshold
from .analysis.measure import is_measured, read_study_results
from .data import find_hub_sha
from .errors import UserError
from .labels.pool import read_labels
from .logs import Progress
from .recipe import Data
from .report.findings import describe_warning
from .row_reader import RowReader
from .source import Split, find_split, identify_url, is_url, list_splits
from .study import Study
from .training.classifiers import Classifiers, classifier_folder, find_classifiers
from .training.runs import Runs

logger = logging.getLogger(__name__)

BLOCK = 10_000  # texts in memory at a time; an ensemble loads each classifier once a block
WRITERS: dict[str, Any] = {".parquet": pq.ParquetWriter, ".csv": pyarrow.csv.CSVWriter}


@dataclass(frozen=True)
class Source:
    """The texts to label.

    Attributes:
        path (`str`): a file, folder, URL or Hub dataset.
        text (`str`, *optional*): the column of texts; the recipe's column or template by default.
        config (`str`, *optional*), split (`str`, *optional*): of a dataset with several.
    """

    path: str
    text: str | None = None
    config: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Summary:
    """How many texts were read, how many of them are empty, and on how many the classifier abstains.

    It abstains on empty texts too.
    """

    num_texts: int
    num_empty: int
    num_abstained: int

    def __str__(self) -> str:
        empty = f", {self.num_empty:,} of which are empty" if self.num_empty else ""
        return f"{self.num_texts:,} texts, abstains on {self.num_abstained:,}{empty}"


def predict(study: Study, variant: str, seed: str, source: Source, accuracy: float | None, output: Path) -> Summary:
    """Label texts and write one row a text: `row`, `text`, `label`, `abstain`, and the probability of each class.

    Args:
        study (`Study`):
            A trained study with `train.save_models`.
        variant (`str`), seed (`str`):
            The classifier; `ensemble` labels by the mean probabilities of all seeds.
        source (`Source`):
            The texts.
        accuracy (`float`, *optional*):
            Abstain below the probability at which labels have this accuracy.
        output (`Path`):
            A new file, .parquet or .csv. It appears when it is complete.

    A verdict "do not ship" and the threshold are logged.

    Raises:
        UserError: there is no such classifier or column, no threshold has the accuracy, or the file exists.
    """
    if output.suffix not in WRITERS:
        raise UserError(f"`--output` must end with {' or '.join(WRITERS)}. Got {output}.")
    if output.exists():
        raise UserError(f"`{output}` must not exist. Try another --output.")
    if not output.absolute().parent.is_dir():
        raise UserError(f"`--output` must be in a folder that exists. Got {output}. Create {output.parent} first.")
    if accuracy is not None and not 0 < accuracy < 1:
        raise UserError(f"`--accuracy` must be between 0 and 1. Got {accuracy:g}.")
    labels = read_labels(study)
    runs = Runs(study, labels)
    chosen = find_classifiers(study, runs, variant, seed)
    with tempfile.TemporaryDirectory(prefix="hf-recipes-") as folder:
        reader = _open_texts(study.recipe.data, source, labels.files.label_names, Path(folder))
        results = read_study_results(study) if is_measured(study, labels, runs) else None
        if warning := describe_warning(results, variant):
            logger.warning(warning)
        classifiers = Classifiers([classifier_folder(study, run) for run in chosen], study.training)
        threshold = None
        if accuracy is not None:
            texts = read_held_out(study, labels, runs, chosen, classifiers.predict)
            threshold = require_threshold(texts, accuracy)
            logger.info(_describe_threshold(threshold, texts))
        return _write(reader, classifiers, labels.files.label_names, threshold, output)


def _open_texts(data: Data, source: Source, label_names: list[str], folder: Path) -> RowReader:
    """Open the texts by the recipe's column or template. Columns of labels are not read."""
    content = {"path": source.path, "name": source.config, "label_column": None, "label_names": label_names}
    if source.text is None and data.text_template is not None:
        content["text_template"] = data.text_template
    else:
        content["text_column"] = source.text or data.text_column
    asked = Data.model_validate(content)
    revision = None
    if is_url(asked.path):
        identify_url(asked.path)  # raises an error where it is out of reach
    elif not Path(asked.path).exists():
        revision = find_hub_sha(asked)
    name = source.split or "train"
    splits = list_splits(asked, revision, folder)
    if splits and source.split is None and len(splits) == 1:
        name = splits[0]
    if splits and name not in splits:
        raise UserError(f"`--split` must name a split of {asked.path}. Got {name}. Try one of {', '.join(splits)}.")
    split: Split = find_split(asked, revision, name, folder)
    columns = split.column_names()
    if asked.text_template is None and asked.text_column not in columns:
        raise UserError(
            f"`--text` must name a column of {asked.path}. Got {asked.text_column}. Try one of {', '.join(columns)}."
        )
    return RowReader(asked, split)


def _describe_threshold(threshold: Threshold, texts: HeldOutTexts) -> str:
    num_texts, num_kept = len(texts.gold), threshold.num_kept
    return (
        f"Threshold of the highest probability: {threshold.value:.4f}, chosen on {num_texts:,} {texts.source} with "
        f"gold. It keeps {num_kept:,} of them ({num_kept / num_texts:.1%}), and {threshold.num_right:,} of these are "
        f"right ({threshold.num_right / num_kept:.1%}): at least {threshold.bound:.1%} with {1 - RISK:.0%} confidence."
    )


def _write(
    reader: RowReader, classifiers: Classifiers, label_names: list[str], threshold: Threshold | None, output: Path
) -> Summary:
    """Write the labels in blocks, and rename the file when it is complete."""
    schema = pa.schema(
        [
            *(("row", pa.int64()), ("text", pa.string()), ("label", pa.string()), ("abstain", pa.bool_())),
            *((f"prob_{name}", pa.float64()) for name in label_names),
        ]
    )
    names = np.array(label_names, dtype=object)
    num_texts = num_empty = num_abstained = 0
    temporary = output.with_name(f".tmp-{output.name}")
    try:
        with (
            WRITERS[output.suffix](temporary, schema) as writer,
            Progress(desc="label", unit=" texts") as progress,
        ):
            for texts, has_text in _blocks(reader):
                probs = np.full((len(texts), len(label_names)), np.nan)
                probs[has_text] = classifiers.predict([str(texts[row]) for row in np.flatnonzero(has_text)])
                labels = np.full(len(texts), None, dtype=object)
                labels[has_text] = names[probs[has_text].argmax(axis=1)]
                abstains = ~has_text
                if threshold is not None:
                    abstains[has_text] = probs[has_text].max(axis=1) < threshold.value
                rows = pa.array(range(num_texts + 1, num_texts + len(texts) + 1))
                columns = [pa.array(column, from_pandas=True) for column in probs.T]  # nan is null
                writer.write_table(pa.table([rows, texts, labels, abstains, *columns], schema=schema))
                num_texts += len(texts)
                num_empty += int((~has_text).sum())
                num_abstained += int(abstains.sum())
                progress.update(len(texts))
        if not num_texts:
            raise UserError("The source must have texts. Got none.")
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return Summary(num_texts, num_empty, num_abstained)


def _blocks(reader: RowReader) -> Iterator[tuple[list[str | None], np.ndarray]]:
    """Yield texts in blocks, and which of them have something to read."""
    texts: list[str | None] = []
    is_full: list[bool] = []
    for batch in reader:
        texts += batch.rows["text"].to_pylist()
        is_full += batch.rows["text_id"].is_valid().to_pylist()
        if len(texts) >= BLOCK:
            yield texts, np.array(is_full)
            texts, is_full = [], []
    if texts:
        yield texts, np.array(is_full)
