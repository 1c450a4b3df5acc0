"""The parquet files of a study folder: written with checksums of their pages, by which damage is found on reading."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import UserError


def writer(path: Path, schema: pa.Schema, compression: str = "snappy") -> pq.ParquetWriter:
    """Return a writer of batches. The caller closes it."""
    return pq.ParquetWriter(path, schema, compression=compression, write_page_checksum=True)


def write(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, write_page_checksum=True)


def read(path: Path, schema: pa.Schema, columns: list[str] | None = None, delete: Path | None = None) -> pa.Table:
    """Return a table, or some of its columns.

    Args:
        path (`Path`):
            The file.
        schema (`pa.Schema`):
            The required schema, which the checksums of pages do not cover.
        columns (`list[str]`, *optional*):
            All by default.
        delete (`Path`, *optional*):
            What to delete together with the file; only the file by default.

    Raises:
        UserError: it is damaged or missing.
    """
    with _damage_named(path, delete):
        return _open(path, schema).read(columns)


def num_rows(path: Path) -> int:
    """Return the number of rows that the file's footer states."""
    with _damage_named(path, None):
        return int(pq.read_metadata(path).num_rows)


def read_schema(path: Path, delete: Path | None = None) -> pa.Schema:
    """Return the schema of a file, with its metadata."""
    with _damage_named(path, delete):
        return pq.read_schema(path)


def batches(
    path: Path, schema: pa.Schema, columns: list[str], size: int, delete: Path | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the same, `size` rows at a time."""
    with _damage_named(path, delete):
        yield from _open(path, schema).iter_batches(size, columns=columns)


def _open(path: Path, schema: pa.Schema) -> pq.ParquetFile:
    file = pq.ParquetFile(path, page_checksum_verification=True)
    if not file.schema_arrow.equals(schema):
        raise ValueError("other columns")
    return file


@contextmanager
def _damage_named(path: Path, delete: Path | None) -> Iterator[None]:
    try:
        yield
    except MemoryError:  # Arrow's own is one
        raise
    except FileNotFoundError:
        raise UserError(f"`{path}` is missing. Delete `{delete or path}` and run again.") from None
    except (pa.ArrowException, OSError, ValueError, LookupError):  # all of them come of damaged files
        raise UserError(f"`{path}` is damaged. Delete {f'`{delete}`' if delete else 'it'} and run again.") from None
