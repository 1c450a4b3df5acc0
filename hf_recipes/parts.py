"""The parts of a pass: append-only parquet files in its folder, each whole or not at all, a row for a text."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from . import tables
from .redact import redact

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
        self._files = sorted(folder.glob("part-*.parquet"), key=lambda part: int(part.stem.removeprefix("part-")))

    def by_row(self, ids: pa.Array, *columns: str) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """The parts' rows that are among `ids`, some parts at a time, and where in `ids` they stand."""
        block: list[pa.Table] = []
        for file in self._files:
            block.append(tables.read(file, SCHEMA, ["id", *columns]))
            if sum(map(len, block)) >= BLOCK or file == self._files[-1]:
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


def matrix(lists: pa.ChunkedArray, classes: int) -> np.ndarray:
    """Lists of K numbers as an array of shape `(n, K)`; nan for null."""
    found = np.full((len(lists), classes), np.nan)
    valid = lists.is_valid().to_numpy()
    found[valid] = lists.drop_null().combine_chunks().flatten().to_numpy(False).reshape(-1, classes)
    return found


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """A part appears whole or not at all; columns that a row lacks are null. Errors lose echoed secrets."""
    rows = [{**row, "error": redact(row["error"])} if row.get("error") else row for row in rows]
    columns = {name: pa.array([row.get(name) for row in rows], SCHEMA.field(name).type) for name in SCHEMA.names}
    temporary = path.with_name(f".tmp-{path.name}")
    tables.write(temporary, pa.table(columns, schema=SCHEMA))
    temporary.replace(path)
