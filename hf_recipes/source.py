"""Read the records of a split, whatever kind of files it has.

A single file, a folder and a Hub repo with the same content give the same records: CSV cells are text, JSON values keep
the type that they have in their line, and each parquet file is read by its own schema.
"""

import csv
import glob
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from .errors import UserError, first_line
from .hashing import make_key
from .json_records import open_text, read_json_records
from .parsing import fold_blanks
from .recipe import Data
from .source_columns import KEEP_NONE, Keep

BATCH = 1_000  # records in memory at a time: their texts may be books
KINDS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class Batch:
    """Consecutive records of one file.

    Attributes:
        file (`str`): the file's path or URL.
        lines (`list[int]`): for each record its line in a text file, else its row in the file, counted from 1.
        columns (`dict[str, list]`): the values of the columns that were asked for; a missing JSON key is None.
        kept (`pa.RecordBatch`): the columns to keep with the types of the source. Those of JSON are one column with
            each record as JSON text.
    """

    file: str
    lines: list[int]
    columns: dict[str, list[Any]]
    kept: pa.RecordBatch


@dataclass(frozen=True)
class Split:
    """The files of a split.

    Attributes:
        path (`str`): `data.path` of the recipe, for messages.
        kind (`str`): `csv`, `json`, `parquet`, or `other`: what another builder of `datasets` reads.
        files (`list[str]`): paths or URLs.
        separator (`str`), quote (`str`), encoding (`str`): of a CSV file.
        field (`str`, *optional*): the key of a JSON file that contains its records.
        class_names (`dict[str, list[str]]`): the classes of each column that is a `ClassLabel` or a list of them.
        stream (`IterableDataset`, *optional*): what reads files of other kinds.
    """

    path: str
    kind: str
    files: list[str]
    class_names: dict[str, list[str]]
    separator: str = ","
    quote: str = '"'
    encoding: str = "utf-8-sig"
    field: str | None = None
    stream: Any = None

    def batches(self, columns: dict[str, str], keep: Keep = KEEP_NONE) -> Iterator[Batch]:
        """Yield all records.

        Args:
            columns (`dict[str, str]`):
                The columns to read, each with the key of the recipe that names it.
            keep (`Keep`, *optional*):
                The columns to keep as they are, none by default.

        Raises:
            UserError: a file lacks a column, is damaged, or is not UTF-8.
        """
        readers: dict[str, Callable[[str, dict[str, str], Keep], Iterator[Batch]]] = {
            "csv": self._read_csv,
            "json": self._read_json,
            "parquet": self._read_parquet,
            "other": self._read_stream,
        }
        for file in self.files:
            try:
                yield from readers[self.kind](file, columns, keep)
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{file}: must be {self.encoding.upper().removesuffix('-SIG')} ({error}). Try saving it as UTF-8."
                ) from None
            except (UserError, MemoryError):
                raise
            except Exception as error:  # of parsers, decompression, file systems and the network
                raise UserError(f"{file}: must be a readable {self.kind} file. {first_line(error)}") from None

    def column_names(self) -> list[str]:
        """Return the columns of the first file; of JSON, those of its first records.

        Raises:
            UserError: the file is damaged.
        """
        try:
            return self._column_names(self.files[0])
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self.files[0]}: must be a readable {self.kind} file. {first_line(error)}") from None

    def _column_names(self, file: str) -> list[str]:
        if self.kind == "csv":
            with open_text(file, self.encoding) as stream:
                header = next(csv.reader(stream, delimiter=self.separator, quotechar=self.quote, strict=True), [])
            return [name.strip() for name in header]
        if self.kind == "json":
            records = (record for _, record in itertools.islice(read_json_records(file, self.field), BATCH))
            return list(dict.fromkeys(itertools.chain.from_iterable(r for r in records if isinstance(r, dict))))
        if self.kind == "parquet":
            import fsspec
            import pyarrow.parquet as pq

            with fsspec.open(file, "rb") as stream:
                return list(pq.read_schema(stream).names)
        return list(self.stream.features)

    def _read_csv(self, file: str, columns: dict[str, str], keep: Keep) -> Iterator[Batch]:
        csv.field_size_limit(2**31 - 1)
        with open_text(file, self.encoding) as stream:
            rows = csv.reader(stream, delimiter=self.separator, quotechar=self.quote, strict=True)
            try:
                header = [name.strip() for name in next(rows, [])]
                if not header:
                    raise UserError(f"{file}: must start with a line of column names. Got no content.")
                self._refuse_separator(file, header)
                self._require_columns(file, header, keep.named | columns)
                kept = keep.choose(header)
                for chunk in _chunked((rows.line_num, row) for row in rows if row):
                    for line, row in chunk:
                        if len(row) != len(header):
                            raise UserError(
                                f"{file}: line {line} must have {len(header)} cells like the header. Got {len(row)}. "
                                f'Try quoting cells that contain "{self.separator}".'
                            )
                    lines, cells = zip(*chunk, strict=True)
                    values = dict(zip(header, map(list, zip(*cells, strict=True)), strict=True))
                    table = pa.record_batch({name: pa.array(column, pa.string()) for name, column in values.items()})
                    yield Batch(file, list(lines), {name: values[name] for name in columns}, table.select(kept))
            except csv.Error as error:
                raise UserError(
                    f"{file}: line {rows.line_num} is not valid CSV ({error}). Try writing quotes in a cell twice."
                ) from None

    def _refuse_separator(self, file: str, header: list[str]) -> None:
        for other in {",", ";", "\t"} - {self.separator}:
            if len(header) == 1 and other in header[0]:
                raise UserError(f"{file}: must be separated by {self.separator!r}. Got {other!r}. Try converting it.")

    def _read_json(self, file: str, columns: dict[str, str], keep: Keep) -> Iterator[Batch]:
        is_first = True
        for chunk in _chunked(read_json_records(file, self.field)):
            for line, record in chunk:
                if not isinstance(record, dict):
                    raise UserError(f"{file}: line {line} must be a JSON object. Got {record!s:.40}.")
            required = keep.named | columns
            if is_first and any(column not in record for _, record in chunk for column in required):
                # a record may leave out a null, but each column occurs in some record of the file
                records = (record for _, record in read_json_records(file, self.field) if isinstance(record, dict))
                self._require_columns(file, dict.fromkeys(itertools.chain.from_iterable(records)), required)
            is_first = False
            values = {column: [record.get(column) for _, record in chunk] for column in columns}
            kept = [json.dumps({name: record[name] for name in keep.choose(record)}) for _, record in chunk]
            yield Batch(file, [line for line, _ in chunk], values, pa.record_batch({"record": kept}))

    def _read_parquet(self, file: str, columns: dict[str, str], keep: Keep) -> Iterator[Batch]:
        import fsspec
        import pyarrow.parquet as pq

        with fsspec.open(file, "rb") as stream:
            parquet = pq.ParquetFile(stream)
            self._require_columns(file, parquet.schema_arrow.names, keep.named | columns)
            self._require_text(file, parquet.schema_arrow, columns)
            for column, names in _names_of_schema(parquet.schema_arrow).items():
                if column in columns and names != self.class_names.get(column, names):
                    raise UserError(
                        f"{file}: `{column}` must have the classes of the other files, "
                        f"{', '.join(self.class_names[column])}. Got {', '.join(names)}."
                    )
            kept = keep.choose(parquet.schema_arrow.names)
            start = 1
            for batch in parquet.iter_batches(BATCH, columns=list(dict.fromkeys([*columns, *kept]))):
                lines = list(range(start, start + len(batch)))
                yield Batch(file, lines, batch.select(list(columns)).to_pydict(), batch.select(kept))
                start += len(batch)

    def _read_stream(self, file: str, columns: dict[str, str], keep: Keep) -> Iterator[Batch]:
        self._require_columns(file, self.stream.features, keep.named | columns)
        self._require_text(file, self.stream.features.arrow_schema, columns)
        kept = keep.choose(self.stream.features)
        start = 1
        for table in (
            self.stream.select_columns(list(dict.fromkeys([*columns, *kept]))).with_format("arrow").iter(BATCH)
        ):
            lines = list(range(start, start + len(table)))
            batch = table.select(kept).combine_chunks().to_batches()
            yield Batch(file, lines, table.select(list(columns)).to_pydict(), batch[0])
            start += len(table)

    def _require_columns(self, file: str, names: Iterable[str], columns: dict[str, str]) -> None:
        names = list(names)
        for column, key in columns.items():
            if names.count(column) != 1:
                raise UserError(f"`{key}` must name one column of {file}. Got {column}. Try one of {', '.join(names)}.")

    def _require_text(self, file: str, schema: Any, columns: dict[str, str]) -> None:
        import pyarrow.types as kinds

        for column, key in columns.items():
            kind = schema.field(column).type
            content = kind.value_type if kinds.is_dictionary(kind) else kind
            is_text = kinds.is_string(content) or kinds.is_large_string(content) or kinds.is_null(content)
            if key == "data.text_column" and not is_text:
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
        files = [str(path)]
        if is_url(data.path):
            system, paths = _find_url_files(data.path)
            files = [system.unstrip_protocol(path) for path in paths]
        return Split(data.path, kind, files, _class_names(files, kind), "\t" if suffixes[-1] == ".tsv" else ",")
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
    class_names = _class_names(files, kind)
    class_names |= _names_of_features(builder.info.features or Features())
    if kind == "csv":
        return Split(data.path, kind, files, class_names, **_csv_options(data.path, builder.config))
    if kind == "json":
        return Split(data.path, kind, files, class_names, field=builder.config.field)
    if kind == "parquet":
        return Split(data.path, kind, files, class_names)
    stream = builder.as_streaming_dataset(split=split)
    stream = stream if stream.features is not None else stream._resolve_features()
    return Split(data.path, kind, [data.path], _names_of_features(stream.features), stream=stream)


def list_splits(data: Data, revision: str | None, folder: Path) -> list[str]:
    """Return the splits of a folder or a Hub dataset; none for a single file or a URL, which is a split of any name.

    Args:
        data (`Data`):
            The section of the recipe.
        revision (`str`, *optional*):
            The sha of a Hub repo.
        folder (`Path`):
            A temporary folder.

    Raises:
        UserError: there is no such dataset or config.
    """
    if is_url(data.path) or Path(data.path).is_file():
        return []
    return list(map(str, _find_builder(data, revision, folder).config.data_files or {}))


def _csv_options(path: str, config: Any) -> dict[str, str]:
    """Return what the dataset's card sets for its CSV files.

    Raises:
        UserError: the card sets anything else, as `header` or `quoting`.
    """
    options = {"separator": config.delimiter or config.sep or ",", "quote": config.quotechar}
    if config.encoding:
        options["encoding"] = config.encoding
    known = {"sep", "delimiter", "quotechar", "encoding", "features", "chunksize", "name", "version", "data_dir"}
    for option in fields(config):
        value = getattr(config, option.name)
        if option.name not in {*known, "data_files", "description"} and value != option.default:
            raise UserError(
                f"{path}: its card must not set `{option.name}` for CSV files. Got {value!r}. Try a copy of the files "
                "with a header, commas and double quotes."
            )
    return options


def is_url(path: str) -> bool:
    """Return whether the source is in a file system of fsspec, as `s3://bucket/texts-*.parquet`."""
    return "://" in path


def _find_url_files(url: str) -> tuple[Any, list[str]]:
    """Return the file system of a URL, and the paths of the files that it names, perhaps with `*`."""
    import fsspec

    system, path = fsspec.url_to_fs(url)
    return system, sorted(system.glob(path))


def identify_url(url: str) -> str:
    """Return a hash of what the file system reports of the files: names, sizes, times and tags.

    Raises:
        UserError: no such files, or the file system is out of reach.
    """
    if not url.endswith(".parquet"):
        raise UserError(f"`data.path` must name .parquet files if it is a URL. Got {url}.")
    try:
        system, paths = _find_url_files(url)
        files = [system.info(path) for path in paths]
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
            shutil.copytree(Path(data.path).absolute(), path, copy_function=os.symlink)
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

    if kind != "parquet" or not files:
        return {}
    try:
        with fsspec.open(files[0], "rb") as stream:
            return _names_of_schema(pq.read_schema(stream))
    except (pa.ArrowException, OSError):  # damaged or out of reach: reading the file says which
        return {}


def _names_of_schema(schema: Any) -> dict[str, list[str]]:
    from datasets import Features

    return _names_of_features(Features.from_arrow_schema(schema))


def _names_of_features(features: Any) -> dict[str, list[str]]:
    names = {}
    for column, feature in features.items():
        feature = getattr(feature, "feature", feature)  # noqa: PLW2901  of a list that of its items
        if getattr(feature, "names", None):
            names[column] = [fold_blanks(name) for name in feature.names]  # an LLM's answer is read like this
    return names


def _chunked(items: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield lists of at most `BATCH` items."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, BATCH)):
        yield chunk
