"""Keys of results, ids of rows, and the order in which rows are sampled."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ID_BYTES = 12


def make_key(**ingredients: Any) -> str:
    """Return the key of a result: a hash of everything that can change it, as canonical JSON."""
    canonical = json.dumps(ingredients, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def hash_ids(ids: Iterable[str]) -> str:
    """Return a hash of row ids in their order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


def hash_files(path: Path, patterns: tuple[str, ...] = ("*",)) -> str:
    """Return the identity of a local model or dataset: a SHA-256 of its visible files' names and bytes."""
    files = [path] if path.is_file() else sorted({f for p in patterns for f in path.rglob(p) if f.is_file()})
    total = hashlib.sha256()
    for file in files:
        name = file.relative_to(path).as_posix()
        if any(part.startswith(".") and part != "." for part in name.split("/")):
            continue
        total.update(f"{name} {hash_file(file)}\n".encode())
    return total.hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def row_ids(split: str, texts: Iterable[str | None]) -> list[str]:
    """Return an id for each text of a split: 24 hex digits, a hash of split, text and occurrence.

    The same text twice is two rows. No id depends on a position.
    """
    return number_ids(b"".join(first_ids(split, texts))).astype(str).tolist()


def first_ids(split: str, texts: Iterable[str | None]) -> Iterator[bytes]:
    """Yield the id that each text has where it occurs first, as `ID_BYTES` bytes."""
    for text in texts:
        content = f"{split}\0{0}\0{'null' if text is None else 'text'}\0{text}"
        yield hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=ID_BYTES).digest()


def number_ids(digests: bytes | bytearray) -> np.ndarray:
    """Return ids as hex digits (dtype `S24`). An id that occurred before is hashed with the number of occurrences."""
    keys = np.frombuffer(digests, dtype=[("high", ">u8"), ("low", ">u4")])
    order = np.lexsort((keys["low"], keys["high"]))  # stable: equal ids keep their order
    is_first = np.ones(len(keys), dtype=bool)
    is_first[1:] = keys[order][1:] != keys[order][:-1]
    positions = np.arange(len(keys))
    occurrences = positions - np.maximum.accumulate(np.where(is_first, positions, 0))
    ids = np.frombuffer(bytearray(digests.hex().encode()), dtype=f"S{2 * ID_BYTES}")
    for position in np.flatnonzero(occurrences):
        repeated = ids[order[position]] + f"\0{occurrences[position]}".encode()
        ids[order[position]] = hashlib.blake2b(repeated, digest_size=ID_BYTES).hexdigest().encode()
    return ids


def hash_order(ids: Iterable[str], salt: str) -> np.ndarray:
    """Return a permutation of the rows by the hash of salt and id. All sampling uses it.

    A row's place among others does not depend on further rows. The first n rows are therefore nested subsets.
    """
    keys = bytearray()
    for row_id in ids:
        keys += hashlib.blake2b(f"{salt}\0{row_id}".encode(), digest_size=ID_BYTES).digest()
    words = np.frombuffer(keys, dtype=[("high", ">u8"), ("low", ">u4")])
    return np.lexsort((words["low"], words["high"]))
