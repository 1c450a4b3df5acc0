"""Read the parquet files of a published study, within limits: labels of the training texts, predictions of the runs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SHARD = "00000-of-00001.parquet"
MAX_ROWS = 200_000  # of a split
MAX_CELLS = 20_000_000  # probabilities: runs x test texts x classes, or training texts x classes
MAX_DECODED = 300_000_000  # bytes of a table in memory
BATCH = 50_000  # rows that are decoded at a time
MAX_CLASSES = 200
MAX_TEXT = 3_000  # characters of a text that are shown
NO_LABEL = -1


class UnreadableError(ValueError):
    """Report in a sentence for the page why a study cannot be read."""


@dataclass(frozen=True)
class VariantLabels:
    """Record the labels of a variant's config for the rows of the pool.

    Attributes:
        labels (`np.ndarray` of shape `(n,)`): class indices; -1 where the variant leaves the row out.
        sources (`np.ndarray` of shape `(n,)`): `gold`, `llm`, `annotator` or `noise`; empty where it leaves the row
            out.
    """

    labels: np.ndarray
    sources: np.ndarray


@dataclass(frozen=True)
class Pool:
    """Record the training texts that have a label.

    Attributes:
        texts (`list[str]`): empty where they are not published.
        gold, llm (`np.ndarray` of shape `(n,)`): class indices; -1 for none.
        probs (`np.ndarray` of shape `(n, K)`), entropy (`np.ndarray` of shape `(n,)`): of the LLM.
        votes (`np.ndarray` of shape `(n, P)`): the label of each pass, -1 for none; P is 0 where there is one pass.
        variants (`dict[str, VariantLabels]`)
        classifier (`np.ndarray` of shape `(n,)`): the class that a classifier on the LLM's labels of the largest size
            gave a text that it was not trained on; -1 for none.
    """

    ids: list[str]
    texts: list[str]
    gold: np.ndarray
    llm: np.ndarray
    probs: np.ndarray
    entropy: np.ndarray
    votes: np.ndarray
    variants: dict[str, VariantLabels]
    classifier: np.ndarray


@dataclass(frozen=True)
class Test:
    """Record the test texts, and the predictions of each run.

    Attributes:
        gold (`np.ndarray` of shape `(n,)`): -1 for none.
        runs (`list[tuple[str, int, str]]`): variant, size and seed.
        labels, top_probs (`np.ndarray` of shape `(runs, n)`): the most probable class, and its probability.
    """

    ids: list[str]
    texts: list[str]
    gold: np.ndarray
    runs: list[tuple[str, int, str]]
    labels: np.ndarray
    top_probs: np.ndarray

    def of(self, variant: str, size: int) -> np.ndarray:
        """Return the indices of the runs of a variant at a size."""
        return np.array([i for i, run in enumerate(self.runs) if run[:2] == (variant, size)], dtype=int)

    def cells(self) -> list[tuple[str, int]]:
        """Return the variants and sizes that have runs, in the order of the study."""
        return list(dict.fromkeys(run[:2] for run in self.runs))


STRINGS = ("text", "run", "id", "label_source")


def _open(path: Path, max_rows: int, max_values: int) -> pq.ParquetFile:
    """Open a parquet file if its metadata are within the limits. Repeated strings share one copy in memory."""
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    values = max((sum(g.column(j).num_values for g in groups) for j in range(metadata.num_columns)), default=0)
    if metadata.num_rows > max_rows or values > max_values:
        raise UnreadableError(
            f"{path.parent.name} has {metadata.num_rows:,} rows and {values:,} values: more than is shown here."
        )
    return pq.ParquetFile(path, read_dictionary=[name for name in STRINGS if name in metadata.schema.names])


def _read(file: pq.ParquetFile, columns: list[str]) -> pa.Table:
    """Read the columns that exist. The metadata may be false, so the decoded bytes are counted."""
    arrays: dict[str, pa.ChunkedArray] = {}
    num_bytes = 0
    for name in [name for name in columns if name in file.schema_arrow.names]:
        chunks = []
        for batch in file.iter_batches(BATCH, columns=[name], use_threads=False):
            chunks.append(batch.column(name))
            num_bytes += chunks[-1].nbytes
            if num_bytes > MAX_DECODED:
                raise UnreadableError(
                    f"The columns unpack to more than {MAX_DECODED / 1e6:,.0f} MB: more than is shown here."
                )
        arrays[name] = pa.chunked_array(chunks) if chunks else pa.chunked_array([], file.schema_arrow.field(name).type)
    return pa.table(arrays)


def _strings(column: pa.ChunkedArray) -> list[str]:
    """Return the strings of a column that was read as a dictionary, each cut to `MAX_TEXT`."""
    values: list[str] = []
    for chunk in (column if pa.types.is_dictionary(column.type) else column.dictionary_encode()).chunks:
        words = [_cut(word) for word in chunk.dictionary.to_pylist()]
        values += ["" if i is None else words[i] for i in chunk.indices.to_pylist()]
    return values


def _cut(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} …"


def _integers(column: pa.ChunkedArray, classes: int, name: str) -> np.ndarray:
    values = column.fill_null(NO_LABEL).to_numpy().astype(np.int64)
    if len(values) and not (values.min() >= NO_LABEL and values.max() < classes):
        raise ValueError(f"{name}: no class")
    return values


def _matrix(column: pa.ChunkedArray, width: int, kind: Any) -> np.ndarray:
    whole = column.combine_chunks()
    if whole.null_count:
        raise ValueError("rows without a list")
    flat = whole.flatten().to_numpy(zero_copy_only=False).astype(kind)
    return flat.reshape(len(whole), width)


def _class_names(schema: pa.Schema) -> list[str]:
    names = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]["label"]["names"]
    if not 2 <= len(names) <= MAX_CLASSES:
        raise ValueError("an invalid number of classes")
    return [str(name)[:100] for name in names]


def read_pool(files: dict[str, Path], out_of_bag: Path) -> tuple[Pool, list[str]]:
    if not files:
        raise UnreadableError("The study has no labels: no config of a variant is in the repo.")
    base = "llm" if "llm" in files else next(iter(files))
    file = _open(files[base], MAX_ROWS, MAX_CELLS)
    classes = _class_names(file.schema_arrow)
    table = _read(file, ["id", "text", "gold", "llm_label", "llm_probs", "entropy", "votes", "label", "label_source"])
    ids = _strings(table["id"])
    probs = _matrix(table["llm_probs"], len(classes), np.float64)
    votes = np.empty((len(ids), 0), dtype=np.int64)
    if "votes" in table.column_names and len(ids):
        width = len(table["votes"].combine_chunks().flatten()) // len(ids)
        votes = _matrix(table["votes"], width, np.int64)
    place = {row: i for i, row in enumerate(ids)}
    variants = {}
    for variant, path in files.items():
        config = table if variant == base else _read(_open(path, MAX_ROWS, MAX_CELLS), ["id", "label", "label_source"])
        pairs = [(i, place[row]) for i, row in enumerate(_strings(config["id"])) if row in place]
        rows, at = np.array(pairs, dtype=int).reshape(-1, 2).T
        labels, sources = np.full(len(ids), NO_LABEL), np.full(len(ids), "", dtype=object)
        labels[at] = _integers(config["label"], len(classes), "label")[rows]
        sources[at] = np.array(_strings(config["label_source"]), dtype=object)[rows]
        variants[variant] = VariantLabels(labels, sources)
    return (
        Pool(
            ids,
            _strings(table["text"]) if "text" in table.column_names else [""] * len(ids),
            _integers(table["gold"], len(classes), "gold"),
            _integers(table["llm_label"], len(classes), "llm_label"),
            probs,
            np.nan_to_num(table["entropy"].to_numpy().astype(np.float64)),
            votes,
            variants,
            _read_classifier(out_of_bag / f"train-{SHARD}", ids, len(classes)),
        ),
        classes,
    )


def _read_classifier(path: Path, ids: list[str], classes: int) -> np.ndarray:
    """Return the class of each training text by the first run of `llm` at the largest size that has it out of bag."""
    labels = np.full(len(ids), NO_LABEL)
    if not path.is_file():
        return labels
    order, size_of = pa.array(ids), np.zeros(len(ids), dtype=int)
    for batch in _open(path, MAX_CELLS // classes, MAX_CELLS).iter_batches(
        BATCH, columns=["run", "id", "probs"], use_threads=False
    ):
        runs = [_run(name) for name in _strings(pa.chunked_array([batch["run"]]))]
        at = pc.index_in(batch["id"].cast(order.type), value_set=order).fill_null(-1).to_numpy()
        given = _matrix(pa.chunked_array([batch["probs"]]), classes, np.float64).argmax(axis=1)
        for (variant, size, _), place, label in zip(runs, at, given, strict=True):
            if variant == "llm" and place >= 0 and size > size_of[place]:
                labels[place], size_of[place] = label, size
    labels[size_of < size_of.max(initial=0)] = NO_LABEL
    return labels


def read_test(test: Path, predictions: Path, classes: int) -> Test | None:
    """Read the test texts with the predictions of the runs; None without a test split."""
    path = test / f"test-{SHARD}"
    if not path.is_file():
        return None
    table = _read(_open(path, MAX_ROWS, MAX_ROWS), ["id", "text", "label"])
    ids = _strings(table["id"])
    texts = _strings(table["text"]) if "text" in table.column_names else [""] * len(ids)
    gold = _integers(table["label"], classes, "label")
    runs: list[tuple[str, int, str]] = []
    labels = np.empty((0, len(ids)), dtype=np.int16)
    top_probs = np.empty((0, len(ids)), dtype=np.float32)
    path = predictions / f"train-{SHARD}"
    if path.is_file():
        file = _open(path, MAX_CELLS // classes, MAX_CELLS)
        if not ids:
            raise ValueError("no test texts")
        # The probabilities are the largest table. Of each batch only the label and its probability are kept.
        order, heads, start = pa.array(ids), [], 0
        label_parts, top_probs_parts = [labels.reshape(-1)], [top_probs.reshape(-1)]
        for batch in file.iter_batches(BATCH, columns=["run", "id", "probs"], use_threads=False):
            rows = np.arange(start, start + len(batch))
            start += len(batch)
            if start * classes > MAX_CELLS:
                raise UnreadableError(
                    f"The predictions are more than {MAX_CELLS:,} probabilities: more than is shown here."
                )
            at = pc.index_in(batch["id"].cast(order.type), value_set=order).fill_null(-1).to_numpy()
            if (at != rows % len(ids)).any():
                raise ValueError("runs that do not have each test text once, in order")
            names = np.array(_strings(pa.chunked_array([batch["run"]])), dtype=object)
            heads += names[at == 0].tolist()
            if (names != np.array(heads, dtype=object)[rows // len(ids)]).any():
                raise ValueError("runs that are mixed")
            probs = _matrix(pa.chunked_array([batch["probs"]]), classes, np.float64)
            label_parts.append(probs.argmax(axis=1).astype(np.int16))
            top_probs_parts.append(probs.max(axis=1).astype(np.float32))
        if start % len(ids):
            raise ValueError("runs that do not have each test text")
        runs = [_run(head) for head in heads]
        labels = np.concatenate(label_parts).reshape(len(runs), len(ids))
        top_probs = np.concatenate(top_probs_parts).reshape(len(runs), len(ids))
    return Test(ids, texts, gold, runs, labels, top_probs)


def _run(name: str) -> tuple[str, int, str]:
    variant, size, seed = name.split("/")
    return variant, int(size.removeprefix("n")), seed
