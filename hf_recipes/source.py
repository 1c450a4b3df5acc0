"""Read the records of a split, whatever kind of files it has.

A single file, a folder and a Hub repo with the same content give the same records: CSV cells are text, JSON values keep
the type that they have in their line, and each parquet file is read by its own schema.
"""

import csv
import glob
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from .errors import UserError, first_line
from .hashing import make_key
from .recipe import Data

BATCH = 1_000  # records in memory at a time: their texts may be books
KINDS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class Batch:
    """Consecutive records of one file.

    Attributes:
        file (`str`): the file's path or URL.
        lines (`list[int]`): for each record its line in a text file, else its row in the file, counted from 1.
        columns (`dict[str, list]`): the values of the columns that were asked for; a missing JSON key is None.
    """

    file: str
    lines: list[int]
    columns: dict[str, list[Any]]


@dataclass(frozen=True)
class Split:
    """The files of a split.

    Attributes:
        path (`str`): `data.path` of the recipe, for messages.
        kind (`str`): `csv`, `json`, `parquet`, or `other`: what another builder of `datasets` reads.
        files (`list[str]`): paths or URLs.
        separator (`str`): between the cells of a CSV file.
        field (`str`, *optional*): the key of a JSON file that contains its records.
        class_names (`dict[str, list[str]]`): the classes of each column that is a `ClassLabel` or a list of them.
        stream (`IterableDataset`, *optional*): what reads files of other kinds.
    """

    path: str
    kind: str
    files: list[str]
    separator: str
    field: str | None
    class_names: dict[str, list[str]]
    stream: Any

    def batches(self, columns: dict[str, str]) -> Iterator[Batch]:
        """Yield all records.

        Args:
            columns (`dict[str, str]`):
                The columns to read, each with the key of the recipe that names it.

        Raises:
            UserError: a file lacks a column, is damaged, or is not UTF-8.
        """
        readers: dict[str, Callable[[str, dict[str, str]], Iterator[Batch]]] = {
            "csv": self._read_csv,
            "json": self._read_json,
            "parquet": self._read_parquet,
            "other": self._read_stream,
        }
        for file in self.files:
            try:
                yield from readers[self.kind](file, columns)
            except UnicodeDecodeError as error:
                raise UserError(f"{file}: must be UTF-8 ({error}). Try saving it as UTF-8.") from None
            except (UserError, KeyboardInterrupt, MemoryError, GeneratorExit):
                raise
            except Exception as error:  # of parsers, decompression, file systems and the network
                raise UserError(f"{file}: must be a readable {self.kind} file. {first_line(error)}.") from None

    def _read_csv(self, file: str, columns: dict[str, str]) -> Iterator[Batch]:
        csv.field_size_limit(2**31 - 1)
        with _open_text(file) as stream:
            rows = csv.reader(stream, delimiter=self.separator, strict=True)
            try:
                header = [name.strip() for name in next(rows, [])]
                if not header:
                    raise UserError(f"{file}: must start with a line of column names. Got no content.")
                self._refuse_separator(file, header)
                self._require_columns(file, header, columns)
                for chunk in _chunked((rows.line_num, row) for row in rows if row):
                    for line, row in chunk:
                        if len(row) != len(header):
                            raise UserError(
                                f"{file}: line {line} must have {len(header)} cells like the header. Got {len(row)}. "
                                f'Try quoting cells that contain "{self.separator}".'
                            )
                    lines, cells = zip(*chunk, strict=True)
                    values = dict(zip(header, map(list, zip(*cells, strict=True)), strict=True))
                    yield Batch(file, list(lines), {column: values[column] for column in columns})
            except csv.Error as error:
                raise UserError(
                    f"{file}: line {rows.line_num} is not valid CSV ({error}). Try writing quotes in a cell twice."
                ) from None

    def _refuse_separator(self, file: str, header: list[str]) -> None:
        for other in {",", ";", "\t"} - {self.separator}:
            if len(header) == 1 and other in header[0]:
                raise UserError(f"{file}: must be separated by {self.separator!r}. Got {other!r}. Try converting it.")

    def _read_json(self, file: str, columns: dict[str, str]) -> Iterator[Batch]:
        is_first = True
        for chunk in _chunked(_json_records(file, self.field)):
            for line, record in chunk:
                if not isinstance(record, dict):
                    raise UserError(f"{file}: line {line} must be a JSON object. Got {record!s:.40}.")
            if is_first:  # a record may leave out a null, but a column occurs somewhere in the first records
                names = dict.fromkeys(itertools.chain.from_iterable(record for _, record in chunk))
                self._require_columns(file, names, columns)
                is_first = False
            values = {column: [record.get(column) for _, record in chunk] for column in columns}
            yield Batch(file, [line for line, _ in chunk], values)

    def _read_parquet(self, file: str, columns: dict[str, str]) -> Iterator[Batch]:
        import fsspec
        import pyarrow.parquet as pq

        with fsspec.open(file, "rb") as stream:
            parquet = pq.ParquetFile(stream)
            self._require_columns(file, parquet.schema_arrow.names, columns)
            self._require_text(file, parquet.schema_arrow, columns)
            start = 1
            for batch in parquet.iter_batches(BATCH, columns=list(columns)):
                yield Batch(file, list(range(start, start + len(batch))), batch.to_pydict())
                start += len(batch)

    def _read_stream(self, file: str, columns: dict[str, str]) -> Iterator[Batch]:
        self._require_columns(file, self.stream.features, columns)
        self._require_text(file, self.stream.features.arrow_schema, columns)
        start = 1
        for batch in self.stream.select_columns(list(columns)).with_format("arrow").iter(BATCH):
            yield Batch(file, list(range(start, start + len(batch))), batch.to_pydict())
            start += len(batch)

    def _require_columns(self, file: str, names: Iterable[str], columns: dict[str, str]) -> None:
        names = list(names)
        for column, key in columns.items():
            if names.count(column) != 1:
                raise UserError(
                    f"`data.{key}` must name one column of {file}. Got {column}. Try one of {', '.join(names)}."
                )

    def _require_text(self, file: str, schema: Any, columns: dict[str, str]) -> None:
        import pyarrow.types as kinds

        for column, key in columns.items():
            kind = schema.field(column).type
            content = kind.value_type if kinds.is_dictionary(kind) else kind
            is_text = kinds.is_string(content) or kinds.is_large_string(content) or kinds.is_null(content)
            if key == "text_column" and not is_text:
                raise UserError(
                    f"`data.text_column` must name a column of texts. Got {column}, which has {kind} in {file}."
                )


def find_split(data: Data, revision: str | None, split: str, folder: Path) -> Split:
    """Find the files of a split.

    Args:
        data (`Data`):
            The section of the recipe.
        revision (`str`, *optional*):
            The sha of a Hub repo.
        split (`str`):
            The name of the split. A single file or a URL is a split of any name.
        folder (`Path`):
            A temporary folder.

    Raises:
        UserError: there is no such dataset, config or split, or the files are of an unknown kind.
    """
    from datasets import Features

    path = Path(data.path)
    if is_url(data.path) or path.is_file():
        suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
        kind = KINDS.get(suffixes[-1] if suffixes else "")
        if kind is None:
            raise UserError(
                f"`data.path` must be a folder or a file .parquet, .csv, .tsv, .json or .jsonl. Got {path}."
            )
        files = find_url_files(data.path) if is_url(data.path) else [str(path)]
        return Split(data.path, kind, files, "\t" if ".tsv" in suffixes else ",", None, _class_names(files, kind), None)
    builder = _find_builder(data, revision, folder)
    available = {str(name): files for name, files in (builder.config.data_files or {}).items()}
    if split not in available:
        key = "train_split" if split == data.train_split else "test_split"
        hint = f"Try one of {', '.join(available)}"
        if key == "test_split":
            hint += ", or set `data.test_split` to the training split and `data.test_size` to draw test rows from it"
        raise UserError(f"`data.{key}` must name a split of {data.path}. Got {split}. {hint}.")
    kind = next((name for name, builders in _builders().items() if isinstance(builder, builders)), "other")
    # a folder with brackets was found under another name
    files = [str(file).replace(str(folder / "source"), data.path) for file in available[split]]
    separator: str = getattr(builder.config, "delimiter", None) or getattr(builder.config, "sep", None) or ","
    class_names = _class_names(files, kind)
    class_names |= _names_of_features(builder.info.features or Features())
    stream = None
    if kind == "other":
        stream = builder.as_streaming_dataset(split=split)
        stream = stream if stream.features is not None else stream._resolve_features()
        class_names, files = _names_of_features(stream.features), [data.path]
    return Split(data.path, kind, files, separator, getattr(builder.config, "field", None), class_names, stream)


def is_url(path: str) -> bool:
    """Return whether the source is in a file system of fsspec, as `s3://bucket/texts-*.parquet`."""
    return "://" in path


def find_url_files(url: str) -> list[str]:
    """Return the URLs of the files that a URL, perhaps with `*`, stands for."""
    import fsspec

    system, path = fsspec.url_to_fs(url)
    return [system.unstrip_protocol(file) for file in sorted(system.glob(path))]


def identify_url(url: str) -> str:
    """Return a hash of what the file system reports of the files: names, sizes, times and tags.

    Raises:
        UserError: no such files, or the file system is out of reach.
    """
    import fsspec

    if not url.endswith(".parquet"):
        raise UserError(f"`data.path` must name .parquet files if it is a URL. Got {url}.")
    try:
        system, path = fsspec.url_to_fs(url)
        files = [system.info(file) for file in sorted(system.glob(path))]
    except Exception as error:  # of a file system that is not installed, of the network, of the service
        raise UserError(f"`data.path` must be a URL within reach. Got {url}. {first_line(error)}.") from None
    if not files:
        raise UserError(f"`data.path` must name files that exist. Got {url}.")
    return make_key(files=[{name: str(value) for name, value in file.items()} for file in files])


def _builders() -> dict[str, Any]:
    from datasets.packaged_modules.csv.csv import Csv
    from datasets.packaged_modules.json.json import Json
    from datasets.packaged_modules.parquet.parquet import Parquet

    return {"csv": Csv, "json": Json, "parquet": Parquet}


def _find_builder(data: Data, revision: str | None, folder: Path) -> Any:
    from datasets import get_dataset_config_names, load_dataset_builder

    path = data.path
    if glob.escape(path) != path:  # datasets takes brackets in a folder's name for a pattern
        path = str(folder / "source")
        if not Path(path).exists():
            link = lambda file, other: Path(other).symlink_to(Path(file).absolute())  # noqa: E731
            shutil.copytree(data.path, path, copy_function=link)
    try:
        return load_dataset_builder(path, data.name, revision=revision)
    except Exception as error:  # datasets raises errors of many types
        message = " ".join(str(error).split()) or type(error).__name__
        if "Config name is missing" in message:
            names = ", ".join(get_dataset_config_names(path, revision=revision))
            raise UserError(f"`data.name` must name a config of {data.path}. Got none. Try one of {names}.") from None
        raise UserError(f"`data.path` must be a dataset that can be read. Got {data.path}. {message}.") from None


def _class_names(files: list[str], kind: str) -> dict[str, list[str]]:
    """Return the classes that the schema of the first parquet file names."""
    import fsspec
    import pyarrow.parquet as pq
    from datasets import Features

    if kind != "parquet" or not files:
        return {}
    try:
        with fsspec.open(files[0], "rb") as stream:
            return _names_of_features(Features.from_arrow_schema(pq.read_schema(stream)))
    except Exception:  # the reader names what is wrong with the file
        return {}


def _names_of_features(features: Any) -> dict[str, list[str]]:
    names = {}
    for column, feature in features.items():
        feature = getattr(feature, "feature", feature)  # noqa: PLW2901  of a list that of its items
        if getattr(feature, "names", None):
            names[column] = [" ".join(name.split()) for name in feature.names]  # an LLM's answer is read like this
    return names


def _open_text(file: str) -> TextIO:
    import fsspec

    return fsspec.open(file, "rt", encoding="utf-8-sig", newline="", compression="infer").open()


def _json_records(file: str, field: str | None) -> Iterator[tuple[int, Any]]:
    """Yield line and value of JSON Lines, or the items of a JSON document."""
    with _open_text(file) as stream:
        first = next((line for line in stream if line.strip()), "")
        try:
            value = json.loads(first or "[]")
            is_document = isinstance(value, list) or field is not None
        except ValueError:
            value, is_document = None, True
        if not is_document:
            yield 1, _complete(value)
            for number, line in enumerate(stream, 2):
                if line.strip():
                    try:
                        yield number, _complete(json.loads(line))
                    except ValueError as error:
                        raise UserError(f"{file}: line {number} is not valid JSON ({error})") from None
            return
        try:
            document = json.loads(first + stream.read())
        except ValueError as error:
            raise UserError(f"{file}: is not valid JSON ({error}). Try one JSON object a line.") from None
        document = document[field] if field else document
        if isinstance(document, dict):  # of columns
            columns = [list(values.values() if isinstance(values, dict) else values) for values in document.values()]
            document = [dict(zip(document, values, strict=True)) for values in zip(*columns, strict=True)]
        yield from enumerate(map(_complete, document), 1)


def _complete(value: Any) -> Any:
    """Return a JSON value in which halves of surrogate pairs, which no file can contain, are U+FFFD."""
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_complete(item) for item in value]
    if isinstance(value, dict):
        return {_complete(key): _complete(item) for key, item in value.items()}
    return value


def _chunked(items: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield lists of at most `BATCH` items."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, BATCH)):
        yield chunk
