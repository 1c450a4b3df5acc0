"""Store the annotations of a pass: append-only parquet files in its folder, with a row for each text.

Small files are merged, as opening thousands of files takes minutes.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import parquet
from ..checksums import Checksums
from ..errors import UserError
from ..redact import redact

MAX_PART_ROWS = 16_384
MAX_SMALL_PARTS = 256  # parts with fewer rows, after which they are merged
MAX_BLOCK_ROWS = 262_144  # in memory at a time
CONTENT_FREE_FILE = "content_free.parquet"
CONTENT_FREE = ["N/A", "", "[MASK]"]  # its inputs: Zhao et al. 2021, section 5
REPEAT_FILE = "repeat.parquet"  # second answers to a sample of texts
STATUSES = ["ok", "null_text", "empty_text", "demonstration", "no_label", "engine_error"]
FAILED = "engine_error"  # the only status that the next session retries
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


REPEAT_SCHEMA = pa.schema([SCHEMA.field("id"), SCHEMA.field("logprobs")])


@dataclass
class PartRow:
    """The annotation of one text. docs/dev/contract.md describes the fields."""

    id: str
    status: str
    prompt_id: str | None = None
    logprobs: list[float] | None = None
    n_tokens: int | None = None
    truncated: bool | None = None
    error: str | None = None


class PartFiles:
    """The parts in the folder of a pass. A later part overrides an earlier one."""

    def __init__(self, folder: Path):
        self._files = sorted(folder.glob("part-*.parquet"), key=parse_part_number)

    def read(self, ids: pa.Array, *columns: str) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """Yield the rows that are among `ids`, and their positions in `ids`, some parts at a time."""
        block: list[pa.Table] = []
        for file in self._files:
            try:
                block.append(parquet.read(file, SCHEMA, ["id", *columns]))
            except UserError:
                # A part that another process merged since the listing is gone. A later part has its rows.
                if file.exists():
                    raise
            if block and (sum(map(len, block)) >= MAX_BLOCK_ROWS or file == self._files[-1]):
                table = pa.concat_tables(block)
                block = []
                # The smaller set is hashed: that of the block, not that of all ids.
                block_ids = table["id"].combine_chunks()
                places = pc.index_in(ids, value_set=block_ids)
                rows = np.full(len(block_ids), -1)
                rows[places.drop_null().to_numpy()] = np.flatnonzero(places.is_valid().to_numpy(False))
                rows = rows[pc.index_in(block_ids, value_set=block_ids).to_numpy()]  # for repeated ids
                yield table.filter(pa.array(rows >= 0)), rows[rows >= 0]

    def statuses(self, ids: pa.Array) -> np.ndarray:
        """Return the status of each id as an index into `STATUSES`, an int8 array; -1 where the row is missing."""
        codes = np.full(len(ids), -1, dtype=np.int8)
        for table, rows in self.read(ids, "status"):
            codes[rows] = pc.index_in(table["status"], value_set=pa.array(STATUSES)).to_numpy()
        return codes

    def count_errors(self, ids: pa.Array) -> dict[str, int]:
        """Return each error with its number of rows."""
        errors = np.full(len(ids), None, dtype=object)
        for table, rows in self.read(ids, "error"):
            errors[rows] = table["error"].to_numpy()
        return dict(Counter(error for error in errors if error).most_common())

    def merge(self, checksums: Checksums) -> None:
        """Merge neighbours into parts of at most `MAX_PART_ROWS` rows.

        The last part of a group takes the rows of all. A kill before the other parts are deleted leaves repeated rows
        with equal content.
        """
        groups: list[list[Path]] = []
        room = 0
        for file in self._files:
            num_rows = parquet.num_rows(file)
            if num_rows > room:
                groups.append([])
                room = MAX_PART_ROWS
            groups[-1].append(file)
            room -= num_rows
        for *earlier, last in groups:
            if earlier:
                merged = pa.concat_tables([parquet.read(file, SCHEMA) for file in (*earlier, last)])
                _write_part(last, merged, checksums)
                checksums.delete(earlier)


def parse_part_number(path: Path) -> int:
    """Return the number of a part.

    Raises:
        UserError: the name is not that of a part, as of the copies that a synchronised folder makes.
    """
    match = re.fullmatch(r"part-([0-9]+)", path.stem)
    if match is None:
        raise UserError(f"`{path}` must be a part of the annotations. Delete it, or move it out of the study.")
    return int(match[1])


def to_matrix(lists: pa.ChunkedArray, num_labels: int) -> np.ndarray:
    """Return lists of K numbers as an array of shape `(n, K)`; nan for null."""
    rows = np.full((len(lists), num_labels), np.nan)
    rows[lists.is_valid().to_numpy()] = (
        lists.drop_null().combine_chunks().flatten().to_numpy(False).reshape(-1, num_labels)
    )
    return rows


def write_rows(path: Path, rows: list[PartRow], checksums: Checksums) -> None:
    """Write a part, whole or not at all. Secrets that a server echoes are removed from the errors."""
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    columns["error"] = [error and redact(error) for error in columns["error"]]
    _write_part(path, pa.table(columns, schema=SCHEMA), checksums)


def write_repeat(folder: Path, ids: list[str], logprobs: list[list[float] | None], checksums: Checksums) -> None:
    """Write the second answers to a sample of texts; null without an answer."""
    _write_part(folder / REPEAT_FILE, pa.table({"id": ids, "logprobs": logprobs}, schema=REPEAT_SCHEMA), checksums)


def _write_part(path: Path, table: pa.Table, checksums: Checksums) -> None:
    temporary = path.with_name(f".tmp-{path.name}")
    parquet.write(temporary, table)
    checksums.publish(temporary, path)
