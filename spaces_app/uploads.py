"""Read a visitor's predictions within limits. Nothing is stored."""

import csv
import io
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

MAX_BYTES = 20_000_000  # of a file
MAX_JSON = 8_000_000  # of JSON, which takes many times its size in memory
MAX_PASTED = 1_000_000
MAX_RUNS = 200
MAX_TEXTS = 100_000
MAX_LABELS = 4_000_000  # runs x texts
MAX_PROBS = 8_000_000  # runs x texts x classes
MAX_CLASSES = 100
MAX_DECODED = 250_000_000  # bytes of a parquet file's columns in memory
LIMITS = (
    f"At most {MAX_BYTES / 1e6:.0f} MB ({MAX_JSON / 1e6:.0f} MB of JSON, {MAX_PASTED / 1e6:.0f} MB pasted), "
    f"{MAX_RUNS} runs, {MAX_TEXTS:,} texts, {MAX_CLASSES} classes, {MAX_LABELS / 1e6:.0f} million labels or "
    f"{MAX_PROBS / 1e6:.0f} million probabilities in all."
)
ROUND = "A column is a run, and a row a text."
BATCH = 100_000  # rows that are decoded at a time
UNEVEN = "Lists in `{}` must have a probability for each class. Got lists of different lengths."
GOLD = ("gold", "reference", "references")
LABEL = ("label", "prediction")  # of a row for each run and text; in a table with a column for each run they are gold
GOLD_OF_RUN = (*GOLD, "y_true", "true", "target")
GOLD_OF_TEXT = (*GOLD_OF_RUN, "label", "labels", "class")
NOT_RUNS = ("", "id", "idx", "index", "row", "text", "texts", "sentence", "unnamed: 0", "__index_level_0__")
COLUMN_NAMES = ("run", "id", "text", "probs", *GOLD, *LABEL)


class UploadError(ValueError):
    """Report in a sentence why an upload cannot be measured."""


@dataclass(frozen=True)
class Runs:
    """Record the predictions of several runs on the same texts.

    Attributes:
        labels (`np.ndarray` of shape `(R, n)`): class indices.
        probs (`np.ndarray` of shape `(R, n, K)`, *optional*)
        gold (`np.ndarray` of shape `(n,)`, *optional*)
        classes (`list[str]`)
        ignored (`list[str]`): columns that are not runs.
        texts (`np.ndarray` of shape `(n,)`, *optional*): the texts, or else their ids.
    """

    labels: np.ndarray
    probs: np.ndarray | None
    gold: np.ndarray | None
    classes: list[str]
    ignored: tuple[str, ...] = ()
    texts: np.ndarray | None = None


def read(path: str | None, pasted: str) -> Runs:
    """Read a file, or a pasted table.

    Raises:
        UploadError: it is too large, or not what it should be.
    """
    if path is not None and _check_file(path, (".csv", ".json", ".parquet")) == ".parquet":
        return _from_parquet(Path(path))
    content = _content(path, pasted)
    is_json = content.lstrip()[0] in "{[" if path is None else path.lower().endswith(".json")
    return _from_json(content) if is_json else _from_csv(content)


def read_columns(
    path: str | None, pasted: str, names: dict[str, tuple[str, ...]], required: tuple[str, ...]
) -> dict[str, pd.Series]:
    """Read the columns of a CSV table that have one of the expected names.

    Args:
        names (`dict`): the names that each column may have, in lower case. The first that the table has is read, and
            no column of the table is read twice.
        required (`tuple[str, ...]`): the keys of `names` without which the table is refused.

    Raises:
        UploadError: the table is too large, no CSV text, or without a required column.
    """
    if path is not None:
        _check_file(path, (".csv",))
    table = _parse_csv(_content(path, pasted))
    if len(table) > MAX_TEXTS:
        raise UploadError(f"The table must have at most {MAX_TEXTS:,} rows. Got more. Try a sample of the rows.")
    headers = {str(header).strip().lower(): header for header in table}
    columns = {}
    for key, possible in names.items():
        if name := next((name for name in possible if name in headers), None):
            header = headers.pop(name)
            columns[key] = table[header].fillna("").rename(str(header).strip())
        elif key in required:
            got = ", ".join(f"`{str(header)[:50]}`" for header in list(table)[:8])
            raise UploadError(f"The table must have a column `{key}`. Got {got}. Try one of {', '.join(possible)}.")
    return columns


def _check_file(path: str, kinds: tuple[str, ...]) -> str:
    """Return the ending of a file's name if it is one of `kinds` and the file is not too large."""
    kind = Path(path).suffix.lower()
    if kind not in kinds:
        wanted = " or ".join(filter(None, [", ".join(kinds[:-1]), kinds[-1]]))
        raise UploadError(f"The file must be {wanted}. Got `{kind[:20]}`.")
    limit = MAX_JSON if kind == ".json" else MAX_BYTES
    if (size := Path(path).stat().st_size) > limit:
        raise UploadError(f"The file must have at most {limit / 1e6:.0f} MB. Got {size / 1e6:.1f} MB.")
    return kind


def _content(path: str | None, pasted: str) -> str:
    """Return the text of a file, or else what was pasted."""
    if path is None:
        if not pasted.strip():
            raise UploadError("A table is missing. Upload a file or paste a table.")
        if len(pasted) > MAX_PASTED:
            raise UploadError(f"Pasted text must have at most {MAX_PASTED / 1e6:.0f} MB. Try a file.")
        return pasted
    try:
        content = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UploadError(
            f"The file must be UTF-8 text. Got another byte at {error.start:,}. Try to save it as UTF-8."
        ) from None
    if not content.strip():
        raise UploadError("The file must have rows. Got an empty file.")
    return content


def _from_csv(content: str) -> Runs:
    table = _parse_csv(content)
    return _from_table({str(name): table[name].to_numpy(dtype=object) for name in table})


def _parse_csv(content: str) -> pd.DataFrame:
    """Return the cells of a table as strings, with one row more than the limit where there are more."""
    if "\0" in content:
        raise UploadError("The table must be CSV text. Got a null byte.")
    try:
        header = next(csv.reader(io.StringIO(content), skipinitialspace=True))
        if len(header) > MAX_RUNS + len(COLUMN_NAMES):
            raise UploadError(f"A table must have at most {MAX_RUNS} runs. Got {len(header):,} columns. {ROUND}")
        if len(set(header)) < len(header):
            raise UploadError(f"Names of columns must differ. Got `{_twice(header)[:50]}` twice.")
        limit = MAX_TEXTS + 1 if "run" not in header else MAX_LABELS + 1
        table = pd.read_csv(io.StringIO(content), dtype=str, skipinitialspace=True, keep_default_na=False, nrows=limit)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error, StopIteration) as error:
        raise UploadError(f"The table must be CSV. Got: {str(error).strip()[:200] or 'nothing'}.") from None
    if not isinstance(table.index, pd.RangeIndex):
        raise UploadError("Rows must be as long as the header. Got a longer row. Try quotes around cells with commas.")
    return table


def _twice(names: list[str]) -> str:
    return next(name for i, name in enumerate(names) if name in names[:i])


def _from_parquet(path: Path) -> Runs:
    try:
        schema = pq.read_schema(path)
        names = schema.names
        if len(names) > MAX_RUNS + len(COLUMN_NAMES):
            raise UploadError(f"A table must have at most {MAX_RUNS} runs. Got {len(names):,} columns. {ROUND}")
        if len(set(names)) < len(names):
            raise UploadError(f"Names of columns must differ. Got `{_twice(names)[:50]}` twice.")
        if bad := [f.name for f in schema if pa.types.is_struct(f.type) or pa.types.is_map(f.type)]:
            raise UploadError(f"`{bad[0][:50]}` must have labels or probabilities. Got {schema.field(bad[0]).type}.")
        strings = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        file = pq.ParquetFile(path, read_dictionary=strings)
        if file.metadata.num_rows > MAX_LABELS:
            raise UploadError(f"A file must have at most {MAX_LABELS:,} rows. Got {file.metadata.num_rows:,}.")
        columns, decoded = {}, 0
        for name in names:
            pieces, nulls = [], 0
            # The file's own account of its size may be false, so the size is counted while the file is read.
            for batch in file.iter_batches(BATCH, columns=[name], use_threads=False):
                column = batch.column(0)
                nulls += 0 if name == "text" else column.null_count
                pieces.append(_decode(column, name) if not nulls else np.empty(0))
                decoded += pieces[-1].nbytes
                if decoded > MAX_DECODED:
                    raise UploadError(f"The columns must unpack to at most {MAX_DECODED / 1e6:.0f} MB. Got more.")
            if nulls:
                raise UploadError(f"`{name[:50]}` must not have empty cells. Got {nulls:,}.")
            if len({piece.shape[1:] for piece in pieces}) > 1:
                raise UploadError(UNEVEN.format(name[:50]))
            columns[name] = np.concatenate(pieces) if pieces else np.empty(0, dtype=object)
    except (UploadError, MemoryError):
        raise
    except (pa.ArrowException, ValueError, OSError, TypeError, IndexError) as error:
        raise UploadError(f"The file must be parquet. Got: {str(error)[:150]}") from None
    return _from_table(columns)


def _decode(column: pa.Array, name: str) -> np.ndarray:
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        if len(np.unique(column.value_lengths().to_numpy(zero_copy_only=False))) != 1:
            raise UploadError(UNEVEN.format(name[:50]))
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    if pa.types.is_dictionary(column.type):
        words = np.array([*(str(word)[:200] for word in column.dictionary.to_pylist()), ""], dtype=object)
        return words[column.indices.fill_null(-1).to_numpy()]
    return column.to_numpy(zero_copy_only=False)


def _from_table(columns: dict[str, np.ndarray]) -> Runs:
    """Read a column for each run and a row for each text; or a row for each run and text, with `run` and `id`.

    Columns of row numbers, ids and texts are not runs: by their name, because they count the rows, or because all their
    values differ and none is in another column.
    """
    columns = {name.strip(): column for name, column in columns.items()}
    lower = {name.lower(): name for name in columns}
    if "run" in lower and "id" in lower:  # without a column of labels, `true` may be a class with its probabilities
        gold_names = GOLD_OF_RUN if any(name in lower for name in LABEL) else GOLD
        return _from_long(
            columns, lower, next((columns.pop(lower[name]) for name in gold_names if name in lower), None)
        )
    gold_names = [lower[name] for name in GOLD_OF_TEXT if name in lower]
    golds = [columns.pop(name) for name in gold_names]
    gold = golds[0] if golds else None
    runs = {
        name: column for name, column in columns.items() if name.lower() not in NOT_RUNS and not name.endswith("_id")
    }
    if not runs:
        raise UploadError(f"The table must have a column for each run. Got none. {ROUND}")
    if lists := [name for name, column in runs.items() if column.ndim > 1]:
        ignored = (*gold_names[1:], *(name for name in columns if name not in lists))
        checked = _check_probs([runs[name] for name in lists], gold, None)
        return replace(checked, ignored=ignored, texts=_longest(columns, ignored))
    values = {name: set(map(str, pd.unique(column))) for name, column in runs.items()}
    for name, distinct in values.items():
        other_labels = set().union(*(labels for key, labels in values.items() if key != name))
        numbers = [{str(number) for number in range(start, start + len(distinct))} for start in (0, 1)]
        counts_rows = distinct in numbers and not other_labels >= distinct
        if len(distinct) == len(runs[name]) > 2 and (counts_rows or not distinct & other_labels):
            del runs[name]
    if not runs:
        runs = {name: columns[name] for name in values}  # all columns are such: an error below names what is wrong
    ignored = (*gold_names[1:], *(name for name in columns if name not in runs))
    return replace(_check_labels(list(runs.values()), gold), ignored=ignored, texts=_longest(columns, ignored))


def _longest(columns: dict[str, np.ndarray], names: Sequence[str]) -> np.ndarray | None:
    """Return the column with the longest values, which has the texts if there are any; None without columns."""
    values = [columns[name] for name in names if name in columns and columns[name].ndim == 1]
    return max(values, key=lambda column: sum(len(str(value)) for value in column[:100]), default=None)


def _from_long(columns: dict[str, np.ndarray], lower: dict[str, str], gold: np.ndarray | None) -> Runs:
    run, item = (columns.pop(lower[name]) for name in ("run", "id"))
    if not len(run):
        raise UploadError("The table must have rows. Got none.")
    names, of_run = _codes(run)
    items, of_item = _codes(item)
    if len(names) * len(items) != len(run):
        raise UploadError(
            f"Each run must have each id once: {len(names) * len(items):,} rows for {len(names):,} runs of "
            f"{len(items):,} texts. Got {len(run):,}."
        )
    order = np.lexsort((of_item, of_run))
    shape = (len(names), len(items))
    if (np.bincount(of_run) != shape[1]).any() or (of_item[order].reshape(shape) != np.arange(shape[1])).any():
        raise UploadError("Each run must have each id once. Got an id twice.")
    _limits(*shape, 1)
    gold_labels = None
    if gold is not None:
        gold_labels = gold[order].reshape(shape)
        if (gold_labels != gold_labels[0]).any():
            raise UploadError("`gold` must be the same in all runs. Got a text with two gold labels.")
        gold_labels = gold_labels[0]
    texts = columns.pop(lower["text"])[order].reshape(shape)[0] if "text" in lower else items
    if label := next((lower[name] for name in LABEL if name in lower), None):
        return replace(_check_labels(list(columns[label][order].reshape(shape)), gold_labels), texts=texts)
    if "probs" in lower:
        probs = columns[lower["probs"]]
        if probs.ndim != 2:
            raise UploadError("`probs` must be lists of numbers, one for each class. Got single values.")
        return replace(_check_probs(list(probs[order].reshape(*shape, -1)), gold_labels, None), texts=texts)
    classes = [name for name in columns if name.lower() not in COLUMN_NAMES]
    if len(classes) < 2:
        raise UploadError(
            "A table with `run` and `id` must have a column `label`, `probs`, or one for each class. Got none."
        )
    try:
        probs = np.stack([columns[name].astype(float) for name in classes], axis=1)
    except (ValueError, TypeError):
        raise UploadError(
            f"The columns {', '.join(classes)[:100]} must be probabilities. Got cells that are not numbers."
        ) from None
    return replace(_check_probs(list(probs[order].reshape(*shape, -1)), gold_labels, classes), texts=texts)


def _codes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values as sorted strings, and the index of each value. Long columns repeat few values."""
    if values.ndim > 1:
        raise UploadError("`run` and `id` must be names or numbers. Got lists.")
    codes, unique = pd.factorize(values, use_na_sentinel=False)
    names, at = np.unique([str(value) for value in unique], return_inverse=True)
    return names, at[codes]


def _from_json(content: str) -> Runs:
    try:
        upload = json.loads(content)
    except RecursionError:
        raise UploadError("The JSON must be lists of runs. Got deeper lists.") from None
    except ValueError as error:
        raise UploadError(f"The text must be JSON. Got: {str(error)[:150]}") from None
    upload = {"predictions": upload} if isinstance(upload, list) else upload
    if not isinstance(upload, dict) or not isinstance(upload.get("predictions"), list) or not upload["predictions"]:
        raise UploadError('The JSON must be {"predictions": [a list for each run], "references": [gold, if any]}.')
    runs, gold, names = upload["predictions"], upload.get("references"), upload.get("classes")
    if not all(isinstance(run, list) for run in runs):
        raise UploadError("`predictions` must have a list for each run. Got other values.")
    if gold is not None and not isinstance(gold, list):
        raise UploadError("`references` must be a list of gold labels, one for each text.")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UploadError("`classes` must be a list of names.")
    if len({len(run) for run in runs}) > 1:
        raise UploadError("Runs must have the same number of texts. Got different numbers.")
    _limits(len(runs), len(runs[0]), 1)
    if runs[0] and isinstance(runs[0][0], list):
        width = len(runs[0][0])
        if not all(isinstance(probs, list) and len(probs) == width for probs in itertools.chain.from_iterable(runs)):
            raise UploadError("Each text must have a list of probabilities, one for each class.")
        _limits(len(runs), len(runs[0]), width)
        try:
            probs = np.array(runs, dtype=float)
        except (ValueError, TypeError, OverflowError):
            raise UploadError("Probabilities must be numbers. Got other values.") from None
        return _check_probs(list(probs), None if gold is None else _labels(gold), names)
    return _check_labels([_labels(run) for run in runs], None if gold is None else _labels(gold), names)


def _labels(values: list[Any]) -> np.ndarray:
    if bad := [value for value in values if isinstance(value, bool) or not isinstance(value, (str, int))]:
        raise UploadError(f"Labels must be names or whole numbers. Got {str(bad[0])[:50]}.")
    return np.array([str(value)[:200] for value in values], dtype=object)


def _limits(runs: int, texts: int, classes: int) -> None:
    if not texts:
        raise UploadError("The table must have rows. Got none.")
    if runs < 2:
        raise UploadError(f"A table must have two runs or more. Got {runs}.")
    if runs > MAX_RUNS or texts > MAX_TEXTS:
        raise UploadError(
            f"A table must have at most {MAX_RUNS} runs and {MAX_TEXTS:,} texts. Got {runs:,} and {texts:,}. {ROUND}"
        )
    if runs * texts > MAX_LABELS:
        raise UploadError(f"A table must have at most {MAX_LABELS:,} labels. Got {runs:,} runs x {texts:,} texts.")
    if runs * texts * classes > MAX_PROBS:
        raise UploadError(f"A table must have at most {MAX_PROBS:,} probabilities. Got {runs * texts * classes:,}.")


def _names(values: np.ndarray, where: str) -> np.ndarray:
    """Return labels as strings; `1.0` is 1, as pandas writes integers with a gap as floats. Empty labels are errors."""
    if values.dtype.kind == "f":
        whole = np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) < 2**53)
        if not whole.all():
            raise UploadError(
                f"Labels of {where} must be names or whole numbers. Got {values[~whole][0]}. Are these probabilities?"
            )
        values = values.astype(np.int64)
    elif values.dtype.kind not in "iuO":
        raise UploadError(f"Labels of {where} must be names or whole numbers. Got {values.dtype}.")
    codes, unique = pd.factorize(values, use_na_sentinel=False)
    words = np.array([re.sub(r"^([+-]?[0-9]+)\.0+$", r"\1", str(value).strip()) for value in unique], dtype=object)
    is_bad = np.array([not word or NOT_A_LABEL.fullmatch(word) is not None for word in words], dtype=bool)[codes]
    if is_bad.any():
        row = int(is_bad.argmax())
        raise UploadError(f"{where} must have a label in each row. Got `{words[codes[row]]}` in row {row + 1:,}.")
    return words[codes]


NOT_A_LABEL = re.compile("[+-]?(inf|infinity|nan)", re.IGNORECASE)


def _check_labels(runs: list[np.ndarray], gold: np.ndarray | None, classes: list[str] | None = None) -> Runs:
    _limits(len(runs), len(runs[0]), 1)
    columns = [_names(run, f"run {i + 1}") for i, run in enumerate(runs)]
    if gold is not None:
        if len(gold) != len(runs[0]):
            raise UploadError(f"Each text must have a gold label. Got {len(gold):,} for {len(runs[0]):,} texts.")
        columns.append(_names(gold, "gold"))
    names = sorted(set().union(*(set(column) for column in columns)), key=natural_order)
    if len(names) > MAX_CLASSES:
        raise UploadError(
            f"A table must have at most {MAX_CLASSES} classes. Got {len(names):,}. Is a column of texts among the runs?"
        )
    if len(names) < 2:
        raise UploadError(f"Labels must be of two classes or more. Got only `{names[0][:50]}`.")
    place = {name: i for i, name in enumerate(names)}
    codes = [np.array([place[name] for name in column]) for column in columns]
    class_names = [classes[int(n)] if classes and n.isdigit() and int(n) < len(classes) else n for n in names]
    return Runs(np.stack(codes[: len(runs)]), None, codes[-1] if gold is not None else None, class_names)


def natural_order(name: str) -> tuple[int, str]:
    return (int(name), name) if name.isascii() and name.isdigit() and len(name) < 10 else (10**10, name)


def _check_probs(runs: list[np.ndarray], gold: np.ndarray | None, classes: list[str] | None) -> Runs:
    if any(run.shape != runs[0].shape for run in runs):
        raise UploadError("Runs must have the same texts and classes. Got different numbers.")
    texts, width = runs[0].shape
    _limits(len(runs), texts, width)
    if not 2 <= width <= MAX_CLASSES:
        raise UploadError(f"Each text must have 2 to {MAX_CLASSES} probabilities. Got {width}.")
    if classes is not None and len(classes) != width:
        raise UploadError(f"`classes` must have a name for each class. Got {len(classes)} names for {width} classes.")
    try:
        probs = np.stack(runs).astype(float)
    except (ValueError, TypeError):
        raise UploadError("Probabilities must be numbers. Got other values.") from None
    if not np.isfinite(probs).all() or probs.min() < 0 or probs.max() > 1:
        raise UploadError("Probabilities must be between 0 and 1.")
    off = np.abs(probs.sum(axis=2) - 1)
    if off.max() > 1e-3:
        run, text = np.unravel_index(off.argmax(), off.shape)
        raise UploadError(
            f"Probabilities must sum to 1. Got {probs[run, text].sum():.4g} in run {run + 1}, text {text + 1:,}."
        )
    names = classes or [str(k) for k in range(width)]
    gold_labels = None
    if gold is not None:
        if len(gold) != texts:
            raise UploadError(f"Each text must have a gold label. Got {len(gold):,} for {texts:,} texts.")
        place = {name.strip(): i for i, name in enumerate(names)} | {str(i): i for i in range(width)}
        words = _names(gold, "gold")
        if bad := [word for word in words if word not in place]:
            raise UploadError(f"Gold labels must be one of {', '.join(names)[:100]}. Got `{bad[0][:50]}`.")
        gold_labels = np.array([place[word] for word in words])
    return Runs(probs.argmax(axis=2), probs, gold_labels, names)
