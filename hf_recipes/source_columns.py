"""The source's own columns: kept while rows are read, stored next to them, and published under names that are free.

Columns of parquet files keep their type. CSV cells are text. The values of a JSON column get the type that returns all
of them as they are. A column without one type for all files and rows is kept as JSON text.
"""

import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from . import parquet
from .recipe import Recipe

BATCH = 1_000  # rows in memory at a time: a column may have images
PREFIX = "source_"  # of the published name of a column whose name is taken
#: The columns that hf-recipes publishes.
RESERVED = (
    *("id", "text", "label", "label_source", "gold", "llm_label", "llm_probs", "entropy", "label_mass"),
    *("votes", "flipped"),
)


@dataclass(frozen=True)
class Keep:
    """The columns to keep as they are.

    Attributes:
        named (`dict[str, str]`): columns that each file must have, with the key of the recipe that names them.
        is_all (`bool`): whether to keep all other columns too.
        without (`frozenset[str]`): those that are not kept with all.
    """

    named: dict[str, str] = field(default_factory=dict)
    is_all: bool = False
    without: frozenset[str] = frozenset()

    def choose(self, names: Iterable[str]) -> list[str]:
        """Return the columns to keep. A name that a file has twice is left out."""
        return [
            name
            for name, count in Counter(iter(names)).items()
            if name in self.named or (self.is_all and count == 1 and name not in self.without)
        ]

    @property
    def request(self) -> str | list[str]:
        """The columns as the manifest of the rows lists them."""
        return "all" if self.is_all else sorted(self.named)

    def is_met(self, manifest: dict[str, Any]) -> bool:
        """Return whether rows have these columns. Rows of earlier versions have none, and count where none is named."""
        kept = manifest.get("kept")
        if kept is None:
            return not self.named
        if kept == "all":  # a study that was published without its texts has no columns
            stored = set(manifest["source_columns"])
            return not stored or set(self.named) <= stored
        return not self.is_all and set(self.named) <= set(kept)


KEEP_NONE = Keep()


def choose_columns(recipe: Recipe) -> Keep:
    """Return the columns to keep: those of `data.keep_columns`, and those that have labels made elsewhere.

    The columns of texts and of gold are published as `text` and `gold`. So all columns are all others, and the column
    of gold if `data.label_map` changes its values.
    """
    data = recipe.data
    named = dict.fromkeys(data.keep_columns, "data.keep_columns") if isinstance(data.keep_columns, list) else {}
    for section in recipe.annotate.all_passes():
        named |= dict.fromkeys(section.columns.names if section.columns else (), "annotate.columns")
    published = {data.text_column} if data.text_template is None else set()
    if data.label_column and data.label_map is None:
        published.add(data.label_column)
    return Keep(named, data.keep_columns == "all", frozenset(published - named.keys()))


def publish_columns(names: list[str], keep_columns: str | list[str]) -> dict[str, str]:
    """Return the columns to publish, by their published names.

    A name that hf-recipes uses itself gets `PREFIX`, as often as another column has the name. A column without a name
    becomes `unnamed`.

    Args:
        names (`list[str]`):
            The columns that the rows have.
        keep_columns (`str` or `list[str]`):
            `data.keep_columns` of the recipe.
    """
    published: dict[str, str] = {}
    taken = {*RESERVED, *names}
    for name in names:
        if keep_columns == "all" or (isinstance(keep_columns, list) and name in keep_columns):
            new = name or "unnamed"
            while new in RESERVED or (new != name and new in taken):
                new = PREFIX + new
            taken.add(new)
            published[new] = name
    return published


class SourceColumns:
    """The kept columns of a split while it is read: Arrow files in a temporary folder, a new one for each schema.

    Args:
        folder (`Path`):
            The temporary folder.
        split (`str`):
            The start of the files' names.
        is_json (`bool`):
            Whether batches have a column of records as JSON text.
        class_names (`dict[str, list[str]]`):
            The classes of each column that is a `ClassLabel`, also where only the card of the source names them.
    """

    def __init__(self, folder: Path, split: str, is_json: bool, class_names: dict[str, list[str]]):
        self.is_json, self.class_names = is_json, class_names
        self._folder, self._split = folder, split
        self._files: list[Path] = []
        self._writer: Any = None
        self._schema: pa.Schema | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Write a batch."""
        if self._schema is None or not batch.schema.equals(self._schema, check_metadata=True):
            self.close()
            self._files.append(self._folder / f"{self._split}-source-{len(self._files)}.arrow")
            self._schema = batch.schema
            self._writer = pa.ipc.new_stream(self._files[-1], self._schema)
        self._writer.write_batch(batch)

    def close(self) -> None:
        """Complete the last file."""
        if self._writer is not None:
            self._writer.close()

    def tables(self) -> Iterator[pa.Table]:
        """Yield the files as tables, which are not loaded into memory."""
        for file in self._files:
            with pa.memory_map(str(file)) as stream:
                yield pa.ipc.open_stream(stream).read_all()

    def columns(self) -> Iterator[dict[str, Any]]:
        """Yield the columns of each file, with their features; of JSON records, those of `BATCH` rows at a time.

        A feature is None for a type that `datasets` or parquet does not have.
        """
        for table in self.tables():
            if self.is_json:
                for records in _read_records(table):
                    names = dict.fromkeys(name for record in records for name in record)
                    yield {name: _infer_feature([record.get(name) for record in records]) for name in names}
            else:
                yield {column.name: _find_feature(column, table.schema, self.class_names) for column in table.schema}


def write_source_columns(folder: Path, splits: dict[str, tuple[SourceColumns, np.ndarray]]) -> dict[str, Any]:
    """Write the kept columns of the rows of each split, and return what the manifest of the rows lists.

    Args:
        folder (`Path`):
            Where to write `<split>-source.parquet`. Nothing is written if there is no column.
        splits (`dict`):
            For each split its columns, and the places of its rows, in order.

    Returns:
        `dict` with `source_columns`, their names, and `json_columns`, those of them that are JSON text.
    """
    sources = list(dict.fromkeys(columns for columns, _ in splits.values()))
    features = _unify_features(sources)
    schema = _make_schema(features)
    if features:
        for name, (columns, places) in splits.items():
            _write(folder / f"{name}-source.parquet", columns, places, features, schema)
    return {
        "source_columns": list(features),
        "json_columns": [name for name, feature in features.items() if feature is None],
    }


def _make_schema(features: dict[str, Any]) -> pa.Schema:
    """Return the schema of columns; the type of a column without a feature is text."""
    from datasets import Features, Value

    return Features({name: feature or Value("string") for name, feature in features.items()}).arrow_schema


def _write(path: Path, columns: SourceColumns, places: np.ndarray, features: dict[str, Any], schema: pa.Schema) -> None:
    start = 0
    with parquet.writer(path, schema, "zstd") as writer:
        for table in columns.tables():
            for first in range(0, len(table), BATCH):
                rows = slice(*np.searchsorted(places, [start + first, start + min(first + BATCH, len(table))]))
                chosen = table.slice(first, BATCH).take(pa.array(places[rows] - start - first, pa.int64()))
                writer.write_table(_convert(chosen, columns.is_json, features, schema))
            start += len(table)


def _convert(table: pa.Table, is_json: bool, features: dict[str, Any], schema: pa.Schema) -> pa.Table:
    """Return a table with the columns and types of a schema."""
    arrays: list[Any] = []
    records = [json.loads(text) for text in table["record"].to_pylist()] if is_json else []
    for column in schema:
        values: Any = None
        if is_json:
            values = [record.get(column.name) for record in records]
        elif column.name not in table.column_names:
            values = [None] * len(table)
        elif features[column.name] is None:
            values = table[column.name].to_pylist()
        if values is None:
            arrays.append(table[column.name].cast(column.type))
        elif features[column.name] is None:
            texts = [None if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in values]
            arrays.append(pa.array(texts, column.type))
        else:
            arrays.append(pa.array(values, column.type))
    return pa.table(arrays, schema=schema)


def _unify_features(sources: list[SourceColumns]) -> dict[str, Any]:
    """Return the columns of all files of all splits, with the feature that has all of their values, or None."""
    features: dict[str, Any] = {}
    for source in sources:
        for columns in source.columns():
            for name, feature in columns.items():
                features[name] = _join_features(features[name], feature) if name in features else feature
    features = {name: feature if _is_writable(feature) else None for name, feature in features.items()}
    # Values may not fit a type that only the schemas have in common, as integers above 2^53 and fractions.
    kinds = {column.name: column.type for column in _make_schema(features) if features[column.name] is not None}
    for source in sources:
        for table in source.tables():
            for batch in _read_records(table) if source.is_json else table.to_batches():
                kinds = {name: kind for name, kind in kinds.items() if _fits(batch, name, kind)}
    return {name: feature if name in kinds else None for name, feature in features.items()}


def _read_records(table: pa.Table) -> Iterator[list[dict[str, Any]]]:
    """Yield the records of a table of JSON texts, a batch at a time."""
    for batch in table.to_batches():
        yield [json.loads(text) for text in batch["record"].to_pylist()]


def _find_feature(column: pa.Field, schema: pa.Schema, class_names: dict[str, list[str]]) -> Any:
    from datasets import ClassLabel, Features

    try:
        feature = Features.from_arrow_schema(pa.schema([column], schema.metadata))[column.name]
    except (ValueError, NotImplementedError):
        return None
    if pa.types.is_integer(column.type) and column.name in class_names and not isinstance(feature, ClassLabel):
        return ClassLabel(names=class_names[column.name])
    return feature


def _infer_feature(values: list[Any]) -> Any:
    """Return the feature of JSON values; None where no type has them all."""
    from datasets.features.features import generate_from_arrow_type

    try:
        return generate_from_arrow_type(pa.infer_type(values))
    except (pa.ArrowException, ValueError, OverflowError):
        return None


def _is_writable(feature: Any) -> bool:
    """Return whether parquet has the type of a feature. It has none for objects without keys."""
    try:
        pq.write_table(_make_schema({"column": feature}).empty_table(), io.BytesIO())
    except (pa.ArrowException, ValueError, TypeError):
        return False
    return True


def _join_features(first: Any, second: Any) -> Any:
    """Return the feature that has the values of both; None without one."""
    from datasets import Value
    from datasets.features.features import generate_from_arrow_type

    nothing = Value("null")
    if second in (first, nothing):
        return first
    if first is None or second is None:
        return None
    if first == nothing:
        return second
    try:
        schemas = [_make_schema({"column": feature}).remove_metadata() for feature in (first, second)]
        return generate_from_arrow_type(pa.unify_schemas(schemas, promote_options="permissive").field(0).type)
    except (pa.ArrowException, ValueError):
        return None


def _fits(batch: pa.RecordBatch | list[dict[str, Any]], name: str, kind: pa.DataType) -> bool:
    """Return whether a type has the values of a column; of JSON values, whether it returns them as they were."""
    try:
        if isinstance(batch, list):
            values = [record.get(name) for record in batch]
            return _equal(values, pa.array(values, kind).to_pylist())
        if name in batch.schema.names:
            batch[name].cast(kind)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        return False
    return True


def _equal(first: Any, second: Any) -> bool:
    """Return whether JSON values are equal: a number and a truth value are not, and NaN equals itself."""
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_equal, first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_equal(value, second[key]) for key, value in first.items())
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, float) and math.isnan(first):
        return isinstance(second, float) and math.isnan(second)
    return bool(first == second)
