"""The parts of a pass: append-only parquet files in its folder, each whole or not at all, a row for a text.

Small parts are merged, as opening thousands of files takes minutes.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import tables
from ..checksums import Checksums, Rename, replace_path
from ..errors import UserError
from ..redact import redact

MAX_PART_ROWS = 16_384
MAX_SMALL_PARTS = 256  # parts with fewer rows, after which they are merged
BLOCK = 262_144  # rows of parts in memory at a time
STATUSES = ["ok", "null_text", "empty_text", "demonstration", "no_label", "engine_error"]
FAILED = "engine_error"  # the one status that is asked about again
NO_LABEL = {"status": "no_label", "error": "no answer named a label"}
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "prompt_id": pa.string(),
        "logprobs": pa.list_(pa.float64()),
        "n_tokens": pa.int32(),
        "truncated": pa.bool_(),
        "status": pa.string(),
        "error": pa.string(),
    }
)


class Parts:
    """The parts of a pass on disk. A later part overrides an earlier one."""

    def __init__(self, folder: Path):
        self._files = sorted(folder.glob("part-*.parquet"), key=part_number)

    def by_row(self, ids: pa.Array, *columns: str) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """The parts' rows that are among `ids`, some parts at a time, and where in `ids` they stand."""
        block: list[pa.Table] = []
        for file in self._files:
            try:
                block.append(tables.read(file, SCHEMA, ["id", *columns]))
            except UserError:
                if file.exists():  # else it was merged into a later part since they were listed
                    raise
            if block and (sum(map(len, block)) >= BLOCK or file == self._files[-1]):
                table = pa.concat_tables(block)
                block = []
                held = table["id"].combine_chunks()
                places = pc.index_in(ids, value_set=held)  # the small set is hashed, not the large one
                rows = np.full(len(held), -1)
                rows[places.drop_null().to_numpy()] = np.flatnonzero(places.is_valid().to_numpy(False))
                rows = rows[pc.index_in(held, value_set=held).to_numpy()]  # an id that comes again stands there too
                yield table.filter(pa.array(rows >= 0)), rows[rows >= 0]

    def statuses(self, ids: pa.Array) -> np.ndarray:
        """The status of each id as an index into `STATUSES`, an int8 array; -1 where there is no row yet."""
        found = np.full(len(ids), -1, dtype=np.int8)
        for table, rows in self.by_row(ids, "status"):
            found[rows] = pc.index_in(table["status"], value_set=pa.array(STATUSES)).to_numpy()
        return found

    def reasons(self, ids: pa.Array) -> dict[str, int]:
        """Why rows failed: each reason with the number of rows."""
        found = np.full(len(ids), None, dtype=object)
        for table, rows in self.by_row(ids, "error"):
            found[rows] = table["error"].to_numpy()
        return dict(Counter(reason for reason in found if reason).most_common())

    def merge(self, checksums: Checksums) -> None:
        """Merge neighbours into parts of at most `MAX_PART_ROWS` rows.

        The last part of a group takes the rows of all. A kill before the others are deleted leaves rows that stand
        twice with the same content.
        """
        groups: list[list[Path]] = []
        room = 0
        for file in self._files:
            num_rows = tables.num_rows(file)
            if num_rows > room:
                groups.append([])
                room = MAX_PART_ROWS
            groups[-1].append(file)
            room -= num_rows
        for *earlier, last in groups:
            if earlier:
                merged = pa.concat_tables([tables.read(file, SCHEMA) for file in (*earlier, last)])
                _write_part(last, merged, checksums.publish)
                checksums.delete(earlier)


def part_number(path: Path) -> int:
    """The number of a part.

    Raises:
        UserError: the name is not that of a part, as of the copies that a synchronised folder makes.
    """
    match = re.fullmatch(r"part-([0-9]+)", path.stem)
    if match is None:
        raise UserError(f"{path}: not a part of the annotations; delete it, or move it elsewhere, and run again")
    return int(match[1])


def matrix(lists: pa.ChunkedArray, classes: int) -> np.ndarray:
    """Lists of K numbers as an array of shape `(n, K)`; nan for null."""
    found = np.full((len(lists), classes), np.nan)
    valid = lists.is_valid().to_numpy()
    found[valid] = lists.drop_null().combine_chunks().flatten().to_numpy(False).reshape(-1, classes)
    return found


def write_rows(path: Path, rows: list[dict[str, Any]], rename: Rename = replace_path) -> None:
    """A part appears whole or not at all; columns that a row lacks are null. Errors lose echoed secrets."""
    rows = [{**row, "error": redact(row["error"])} if row.get("error") else row for row in rows]
    columns = {name: pa.array([row.get(name) for row in rows], SCHEMA.field(name).type) for name in SCHEMA.names}
    _write_part(path, pa.table(columns, schema=SCHEMA), rename)


def _write_part(path: Path, table: pa.Table, rename: Rename) -> None:
    temporary = path.with_name(f".tmp-{path.name}")
    tables.write(temporary, table)
    rename(temporary, path)
