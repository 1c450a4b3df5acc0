"""Turn the records of a source into rows: text, gold label, raters' votes, group and cluster."""

import hashlib
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
from jinja2 import StrictUndefined, TemplateError, meta
from jinja2.sandbox import SandboxedEnvironment

from .errors import UserError, first_line
from .hashing import ID_BYTES
from .parsing import fold_blanks, to_yaml
from .recipe import Data
from .source import Batch, Split
from .source_columns import KEEP_NONE, Keep

NO_GOLD = -1
MAX_VALUES = 500  # of a label column, in an error that lists them
MAX_GROUP_LENGTH = 100
MAX_CLUSTER_LENGTH = 1000  # the URL of a thread fits
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "text": pa.string(),
        "text_id": pa.binary(ID_BYTES),
        "gold": pa.int64(),
        "raters": pa.list_(pa.int32()),
        "group": pa.string(),
        "cluster": pa.string(),
    }
)


class RowBatch(NamedTuple):
    """Consecutive rows without their ids, and the columns of the source that are kept as they are."""

    rows: pa.RecordBatch
    kept: pa.RecordBatch


class RowReader:
    """Turns the records of a split into batches of rows.

    Args:
        data (`Data`):
            The section of the recipe: which columns are text, label, group, cluster and raters.
        split (`Split`):
            The files.
        keep (`Keep`, *optional*):
            The columns to keep as they are, none by default.

    Attributes:
        label_names (`list[str]`): the classes; known when the first batch has been read.
    """

    def __init__(self, data: Data, split: Split, keep: Keep = KEEP_NONE):
        self._data, self._split, self._keep = data, split, keep
        self._template = _compile_template(data)
        self._indices: dict[str, int] = {}
        self.label_names: list[str] = []

    def __iter__(self) -> Iterator[RowBatch]:
        data = self._data
        columns: dict[str, str] = {}
        if data.text_template is None:
            columns[data.text_column] = "data.text_column"
        else:
            columns |= dict.fromkeys(_template_columns(data), "data.text_template")
        if data.label_column:
            columns[data.label_column] = "data.label_column"
        if data.group_column:
            columns[data.group_column] = "data.group_column"
        if data.cluster_column:
            columns[data.cluster_column] = "data.cluster_column"
        raters = [data.raters] if isinstance(data.raters, str) else (data.raters or {}).values()
        columns |= dict.fromkeys(raters, "data.raters")
        for batch in self._split.batches(columns, self._keep):
            yield RowBatch(self._convert(batch), batch.kept)

    def _convert(self, batch: Batch) -> pa.RecordBatch:
        data, num_rows = self._data, len(batch.lines)
        if data.label_column:
            labels = self._name_labels(data.label_column, batch.columns[data.label_column], batch)
            if not self.label_names:
                self.label_names = self._find_names(data.label_column)
                if len(set(self.label_names)) < len(self.label_names) or "" in self.label_names:
                    raise UserError(
                        f"`{data.label_column}` in {data.path} must have classes with different names. Got "
                        f"{', '.join(map(repr, self.label_names))}. List them in `data.label_names`."
                    )
            gold = [self._index(label, batch.file, line) for label, line in zip(labels, batch.lines, strict=True)]
        else:
            self.label_names = list(data.label_names or ())
            gold = [NO_GOLD] * num_rows
        texts = self._texts(batch)
        columns = {
            "id": pa.nulls(num_rows, pa.string()),
            "text": pa.array(texts, pa.string()),
            "text_id": pa.array(map(text_id, texts), pa.binary(ID_BYTES)),
            "gold": pa.array(gold, pa.int64()),
            "raters": pa.array(self._count_raters(batch), pa.list_(pa.int32())),
            "group": pa.array(self._read_names(batch, data.group_column, "group", MAX_GROUP_LENGTH), pa.string()),
            "cluster": pa.array(
                self._read_names(batch, data.cluster_column, "cluster", MAX_CLUSTER_LENGTH), pa.string()
            ),
        }
        return pa.record_batch(list(columns.values()), SCHEMA)

    def _find_names(self, column: str) -> list[str]:
        """Return the classes of the recipe, or those of a `ClassLabel` or of `data.label_map` by their new names."""
        data, label_map = self._data, self._data.label_map or {}
        if data.label_names:
            return list(data.label_names)
        names = self._split.class_names.get(column)
        if names is None and not label_map:
            _ask_for_names(data, self._split)
        if not label_map:
            return list(names or ())
        return list(dict.fromkeys(label_map.get(name, name) for name in names or label_map))

    def _texts(self, batch: Batch) -> list[str | None]:
        texts: list[str | None] = []
        if self._template is None:
            column = self._data.text_column
            for line, value in zip(batch.lines, batch.columns[column], strict=True):
                if isinstance(value, list | dict):
                    raise UserError(f"{batch.file}: line {line} must have a text in `{column}`. Got {value!r:.60}.")
                texts.append(None if _is_missing(value) else str(value))
            return texts
        for line, *values in zip(batch.lines, *batch.columns.values(), strict=True):
            row = {
                name: None if _is_missing(value) else value for name, value in zip(batch.columns, values, strict=True)
            }
            try:
                texts.append(str(self._template.render(row)))
            except Exception as error:  # a template is a program and can fail in any way
                raise UserError(
                    f"`data.text_template` must make a text of each row. {first_line(error)}, in line {line} of "
                    f"{batch.file}."
                ) from None
        return texts

    def _name_labels(self, column: str, labels: list[Any], batch: Batch, line: int | None = None) -> list[Any]:
        """Replace the indices of a `ClassLabel` by its names, and its -1 by None."""
        names = self._split.class_names.get(column)
        if names is None:
            return labels
        lines = batch.lines if line is None else [line] * len(labels)
        named = []
        for place, label in zip(lines, labels, strict=True):
            index = _integer(label)
            if index is None or (isinstance(label, str) and fold_blanks(label) in names):
                named.append(label)
            elif -1 <= index < len(names):
                named.append(None if index == -1 else names[index])
            else:
                raise UserError(
                    f"{batch.file}: the label in line {place} must be an index of {', '.join(names)}. Got {label!r}."
                )
        return named

    def _index(self, label: Any, file: str, line: int) -> int:
        spelling = repr(label)
        if spelling not in self._indices:
            name = map_label(label, self._data.label_map)
            self._indices[spelling] = class_index(name, self.label_names, file, line)
        return self._indices[spelling]

    def _read_names(self, batch: Batch, column: str | None, kind: str, max_length: int) -> list[str | None]:
        """Return the group or cluster of each row on one line; None where it is missing."""
        if column is None:
            return [None] * len(batch.lines)
        names: list[str | None] = []
        for line, value in zip(batch.lines, self._name_labels(column, batch.columns[column], batch), strict=True):
            is_whole = isinstance(value, float) and value.is_integer()
            name = "" if _is_missing(value) else one_line(str(int(value) if is_whole else value))
            if len(name) > max_length:
                raise UserError(
                    f"{batch.file}: line {line} must have a {kind} of at most {max_length:,} characters in "
                    f"`{column}`. Got '{name[:40]}...'."
                )
            names.append(name or None)
        return names

    def _count_raters(self, batch: Batch) -> list[list[int] | None]:
        """Return how many raters gave each class to each text; None where the recipe names no raters."""
        raters, names = self._data.raters, self.label_names
        if raters is None:
            return [None] * len(batch.lines)
        if isinstance(raters, dict):
            if set(raters) != set(names):
                raise UserError(f"`data.raters` must name a column for each of the classes {', '.join(names)}.")
            counts = [
                [self._count(value, column, batch.file, line) for line, value in zip(batch.lines, values, strict=True)]
                for column, values in ((raters[name], batch.columns[raters[name]]) for name in names)
            ]
            return list(map(list, zip(*counts, strict=True)))
        votes: list[list[int] | None] = []
        for line, labels in zip(batch.lines, batch.columns[raters], strict=True):
            if not isinstance(labels, list):
                raise UserError(
                    f"{batch.file}: line {line} must have a list of labels in `{raters}`. Got {labels!r:.60}."
                )
            indices = [self._index(label, batch.file, line) for label in self._name_labels(raters, labels, batch, line)]
            votes.append(np.bincount([k for k in indices if k != NO_GOLD], minlength=len(names)).tolist())
        return votes

    def _count(self, value: Any, column: str, file: str, line: int) -> int:
        number = None if isinstance(value, bool) else _integer(value)
        if number is None or number < 0:
            raise UserError(f"{file}: line {line} must have a number of annotators in `{column}`. Got {value!r:.60}.")
        return number


def class_index(label: Any, names: list[str], file: str, line: int) -> int:
    """Return the class that a label names; `NO_GOLD` for a missing label.

    A number is the index of a class where no class is named by a number. `1.0` and `true` are read as 1: pandas writes
    integers with a gap as floats.

    Raises:
        UserError: no class has this name or index.
    """
    index = find_class(label, names)
    if index is None:
        raise UserError(
            f"{file}: the label in line {line} must be one of {', '.join(names)}. Got {label!r:.60}."
            f"{suggest_case(label, names)} Correct the row, `data.label_names` or `data.label_map`."
        )
    return index


def find_class(label: Any, names: list[str]) -> int | None:
    """Return the same as `class_index`, but None where no class has this name or index."""
    spellings = spell(label)
    if not spellings:
        return NO_GOLD
    for spelling in spellings:
        if spelling in names:
            return names.index(spelling)
    index = _integer(label)
    has_numbers = any(re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", name) for name in names)  # then a number is a name
    return index if index is not None and 0 <= index < len(names) and not has_numbers else None


def map_label(label: Any, label_map: dict[str, str] | None) -> Any:
    """Return the class that `data.label_map` gives a value; other values as they are."""
    return next((label_map[text] for text in spell(label) if text in label_map), label) if label_map else label


def suggest_case(label: Any, names: list[str]) -> str:
    """Return a sentence that suggests the class whose name differs from a label in case only; empty without one."""
    folded = fold_blanks(str(label)).casefold()
    near = next((name for name in names if name.casefold() == folded), None)
    return f" Did you mean {near!r}?" if near else ""


def spell(label: Any) -> list[str]:
    """Return the spellings of a label, the literal one first: `1.0` is also 1, and True is also true.

    The list is empty for a missing label: None, NaN or blanks.
    """
    text = "" if _is_missing(label) else fold_blanks(str(label))
    if not text:
        return []
    if isinstance(label, bool):
        return [text, text.lower()]
    return [text] if _integer(label) is None else [text, str(_integer(label))]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _integer(label: Any) -> int | None:
    """Return the integer that a label is: 1, 1.0, True, "1" or "1.0"; None for other labels."""
    if isinstance(label, float):
        return int(label) if label.is_integer() else None
    if isinstance(label, int):
        return int(label)
    match = re.fullmatch(r"([+-]?(?:0|[1-9][0-9]*))(\.0+)?", fold_blanks(str(label)))
    return int(match[1]) if match else None


def _compile_template(data: Data) -> Any:
    """Return the template that makes a text of a row's columns. A missing value leaves nothing."""
    if data.text_template is None:
        return None
    environment = SandboxedEnvironment(undefined=StrictUndefined, finalize=lambda value: "" if value is None else value)
    try:
        return environment.from_string(data.text_template)
    except TemplateError as error:
        raise UserError(f"`data.text_template` must be a jinja2 template. {first_line(error)}.") from None


def _template_columns(data: Data) -> list[str]:
    columns = meta.find_undeclared_variables(SandboxedEnvironment().parse(str(data.text_template)))
    if not columns:
        raise UserError("`data.text_template` must name a column. Got none. Try '{{ title }}: {{ body }}'.")
    return sorted(columns)


def _ask_for_names(data: Data, split: Split) -> NoReturn:
    """Raise an error with all values of the label column, as a list to copy."""
    column, values = str(data.label_column), set[str]()
    for batch in split.batches({column: "data.label_column"}):
        for label in batch.columns[column]:
            values.update(spell(label)[-1:])
        if len(values) > MAX_VALUES:
            raise UserError(
                f"`data.label_column` must name a column of classes. Got {column} with more than {MAX_VALUES} values. "
                "Try another column."
            )
    raise UserError(
        f"`data.label_names` must list the classes, as '{column}' in {data.path} is not a ClassLabel. Try "
        f"{to_yaml(sorted(values))}."
    )


def one_line(text: str) -> str:
    """White space and control characters folded to blanks: a text cannot open a line of its own in the prompt."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c == "\u200d" else " " for c in text)
    return " ".join(text.split())


def text_id(text: str | None) -> bytes | None:
    """Equal for texts that the LLM sees alike; None where there is nothing to see."""
    line = one_line(text or "")
    return hashlib.blake2b(line.encode(), digest_size=ID_BYTES).digest() if line else None
