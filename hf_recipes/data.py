"""Rows: the texts of a data set with their gold labels, each under an id made from its content."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .recipe import Data, UserError
from .study import Study, hash_files, make_key, read_json, whole_folder, write_json

NO_GOLD = -1


@dataclass(frozen=True)
class Rows:
    """Texts in a fixed order.

    Attributes:
        ids (`list[str]`): 24 hex digits; a hash of split, text and occurrence.
        texts (`list[str | None]`): None where the source has a null.
        gold (`np.ndarray` of shape `(n,)`, int64): class indices, `NO_GOLD` where the source has none.
        label_names (`list[str]`): the classes.
    """

    ids: list[str]
    texts: list[str | None]
    gold: np.ndarray
    label_names: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: np.ndarray) -> "Rows":
        return Rows(
            [self.ids[i] for i in indices], [self.texts[i] for i in indices], self.gold[indices], self.label_names
        )


def row_ids(split: str, texts: list[str | None]) -> list[str]:
    """Ids by content: the same text twice is two rows, told apart by their occurrence; no id depends on a position."""
    seen: Counter[str | None] = Counter()
    ids = []
    for text in texts:
        content = f"{split}\0{seen[text]}\0{'null' if text is None else 'text'}\0{text}"
        seen[text] += 1
        ids.append(hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest())
    return ids


def hash_order(ids: list[str], salt: str) -> np.ndarray:
    """The one way rows are drawn: a permutation by the hash of salt and id.

    It is the same for a row whatever other rows there are, so that its first n are nested subsets and survive rows
    that come or go.
    """
    keys = [hashlib.blake2b(f"{salt}\0{i}".encode(), digest_size=12).digest() for i in ids]
    return np.array(sorted(range(len(ids)), key=keys.__getitem__), dtype=np.int64)


def load_rows(study: Study, keep: bool = True) -> tuple[Rows, Rows]:
    """The pool (of the training split) and the test rows, read once from the source and kept in the study folder.

    Args:
        study (`Study`):
            The study.
        keep (`bool`, *optional*, defaults to `True`):
            Write what was read into the study folder.

    Returns:
        `tuple[Rows, Rows]`: pool and test rows; rows beyond `data.pool_size` / `data.test_size` are left out by a
        seeded draw.

    Raises:
        UserError: no such data set, split or column; an empty split; a text or label that is none; a test row without
            gold.
    """
    data = study.recipe.data
    identity: dict[str, Any]
    if Path(data.path).exists():
        identity = {"sha256": hash_files(Path(data.path))}
    else:
        known = (read_json(study.rows / "manifest.json") or {}).get("source", {})
        asked = {"path": data.path, "asked": data.revision}
        identity = known if known.items() >= asked.items() else {**asked, "sha": _hub_sha(data)}
    key = make_key(source=identity, **data.model_dump(mode="json", exclude={"path", "revision"}))
    manifest = read_json(study.rows / "manifest.json")
    if manifest is not None and manifest["key"] == key:
        names = manifest["label_names"]
        return _stored(study.rows / "train.parquet", names), _stored(study.rows / "test.parquet", names)
    pool = _read_split(data, identity, data.train_split, data.pool_size)
    test = _read_split(data, identity, data.test_split, data.test_size)
    if missing := [i for i in range(len(test)) if test.gold[i] == NO_GOLD or test.texts[i] is None]:
        raise UserError(
            f"{data.path}: {len(missing)} rows of '{data.test_split}' lack a text or a gold label (the first: "
            f"{test.texts[missing[0]]!r:.60}); every test row needs both"
        )
    if keep:
        with whole_folder(study.rows) as folder:
            for name, rows in (("train", pool), ("test", test)):
                table = pa.table({"id": rows.ids, "text": pa.array(rows.texts, pa.string()), "gold": rows.gold})
                pq.write_table(table, folder / f"{name}.parquet")
            write_json(folder / "manifest.json", {"key": key, "source": identity, "label_names": pool.label_names})
    return pool, test


def _stored(path: Path, label_names: list[str]) -> Rows:
    table = pq.read_table(path)
    return Rows(table["id"].to_pylist(), table["text"].to_pylist(), table["gold"].to_numpy(), label_names)


def _hub_sha(data: Data) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return str(HfApi().dataset_info(data.path, revision=data.revision).sha)
    except HFValidationError:
        raise UserError(f"data.path: '{data.path}' is neither a local file or folder nor a Hub id") from None
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"data.path: '{data.path}' is not a local path, and the Hub says: {reason}") from None


def _read_split(data: Data, identity: dict[str, Any], split: str, size: int | None) -> Rows:
    """One split, streamed: a local folder's cache in `datasets` may return old rows, a stream never does."""
    from datasets import ClassLabel, DownloadMode, Value, load_dataset

    path, options = data.path, {}
    if Path(path).is_file():
        builders = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
        if Path(path).suffix not in builders:
            raise UserError(f"data.path: {path} is not a folder, .parquet, .csv or .jsonl file")
        options = {"data_files": {split: path}}
        path = builders[Path(path).suffix]
    try:
        stream = load_dataset(
            path,
            data.name,
            split=split,
            revision=identity.get("sha"),
            streaming=True,
            download_mode=DownloadMode.REUSE_DATASET_IF_EXISTS,
            **options,
        )
        if stream.features is None:
            stream = stream._resolve_features()
    except Exception as error:  # datasets raises many kinds; each names what it did not find
        raise UserError(f"data: {data.path}: {' '.join(str(error).split())}") from None
    columns = stream.features
    for key, column in (("text_column", data.text_column), ("label_column", data.label_column)):
        if column not in columns:
            raise UserError(f"data.{key}: no column '{column}' in {data.path}; it has {', '.join(columns)}")
    kind, label_kind = columns[data.text_column], columns[data.label_column]
    if not (isinstance(kind, Value) and kind.dtype in ("string", "large_string", "null")):
        raise UserError(f"data.text_column: '{data.text_column}' in {data.path} is {kind}, not text")
    names = data.label_names or (label_kind.names if isinstance(label_kind, ClassLabel) else None)
    texts: list[str | None] = []
    labels: list[Any] = []
    try:
        for batch in stream.select_columns([data.text_column, data.label_column]).with_format("arrow").iter(10_000):
            texts.extend(batch[data.text_column].to_pylist())
            labels.extend(batch[data.label_column].to_pylist())
    except Exception as error:  # a damaged file, and with some builders an empty one
        reason = " ".join(str(error).split())
        raise UserError(f"data: split '{split}' of {data.path} is damaged or has no rows ({reason})") from None
    if not texts:
        raise UserError(f"data: split '{split}' of {data.path} has no rows")
    if names is None:
        found = sorted({str(label) for label in labels if label is not None})[:20]
        raise UserError(
            f"data.label_names: '{data.label_column}' in {data.path} is not a ClassLabel; name the classes, "
            f"for example {found}"
        )
    gold = np.array([_class_index(label, names, data, row) for row, label in enumerate(labels)], dtype=np.int64)
    rows = Rows(row_ids(split, texts), texts, gold, list(names))
    if size is not None and size < len(rows):
        rows = rows.take(np.sort(hash_order(rows.ids, f"draw:{data.seed}")[:size]))
    return rows


def _class_index(label: Any, names: list[str], data: Data, row: int) -> int:
    if label is None or label == -1:  # ClassLabel's own sign for "no label"
        return NO_GOLD
    if str(label) in names:
        return names.index(str(label))
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names):
        return label
    raise UserError(
        f"{data.path}: row {row} has the label {label!r}, which is not in the label list ({', '.join(names)}); "
        "mend the row or data.label_names"
    )
