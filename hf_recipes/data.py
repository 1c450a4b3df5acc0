"""Rows: the texts of a data set with their gold labels, each under an id made from its content."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .recipe import Data, Recipe, UserError, first_line
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


def usable_at_most(recipe: Recipe, pool: Rows) -> int:
    """How many rows can be trained on if all goes well: those with gold and a text, less the demonstrations."""
    able = sum(
        gold != NO_GOLD and bool(text and text.strip()) for gold, text in zip(pool.gold, pool.texts, strict=True)
    )
    return int(able) - recipe.annotate.prompt.shots_per_class * len(pool.label_names)


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


def load_rows(study: Study) -> tuple[Rows, Rows]:
    """The pool (of the training split) and the test rows: as kept in the study folder, or else from the source.

    A single file, or a recipe whose two splits are the same, has no test split: `data.test_size` rows are drawn for it,
    and neither they nor rows with the same text are in the pool.

    Args:
        study (`Study`):
            The study; nothing is written.

    Returns:
        `tuple[Rows, Rows]`: pool and test rows; rows beyond `data.pool_size` / `data.test_size` are left out by a
        seeded draw.

    Raises:
        UserError: the folder is another recipe's; no such data set, split or column; an empty split; a text or label
            that is none; a test row without gold.
    """
    study.check()
    identity, key = _source(study)
    manifest = read_json(study.rows / "manifest.json")
    if manifest is None or manifest["key"] != key:
        return _read_source(study.recipe.data, identity)
    names = manifest["label_names"]
    return _stored(study.rows / "train.parquet", names), _stored(study.rows / "test.parquet", names)


def keep_rows(study: Study, pool: Rows, test: Rows) -> None:
    """Writes what `load_rows` returned into the study folder, unless it is there."""
    identity, key = _source(study)
    with study.lock():
        if (read_json(study.rows / "manifest.json") or {}).get("key") == key:
            return
        with whole_folder(study.rows) as folder:
            for name, rows in (("train", pool), ("test", test)):
                table = pa.table({"id": rows.ids, "text": pa.array(rows.texts, pa.string()), "gold": rows.gold})
                pq.write_table(table, folder / f"{name}.parquet")
            write_json(folder / "manifest.json", {"key": key, "source": identity, "label_names": pool.label_names})


def _source(study: Study) -> tuple[dict[str, Any], str]:
    """The source's identity, and the key of the rows; on the Hub a branch is resolved once in a study."""
    data = study.recipe.data
    identity: dict[str, Any]
    if Path(data.path).exists():
        identity = {"sha256": hash_files(Path(data.path))}
    else:
        known = (read_json(study.rows / "manifest.json") or {}).get("source", {})
        asked = {"path": data.path, "asked": data.revision}
        identity = known if known.items() >= asked.items() else {**asked, "sha": _hub_sha(data)}
    return identity, make_key(source=identity, **data.model_dump(mode="json", exclude={"path", "revision"}))


def _read_source(data: Data, identity: dict[str, Any]) -> tuple[Rows, Rows]:
    pool = _read_split(data, identity, data.train_split)
    if Path(data.path).is_file() or data.train_split == data.test_split:
        if data.test_size is None:
            raise UserError(
                f"data.test_size: {data.path} has no test split of its own; say how many rows to draw for it"
            )
        able = np.array(
            [i for i in range(len(pool)) if pool.gold[i] != NO_GOLD and pool.texts[i] is not None], np.int64
        )
        if len(able) <= data.test_size:
            raise UserError(
                f"data.test_size: {data.test_size} asked for, but {data.path} has {len(able)} gold rows in all"
            )
        drawn = able[hash_order([pool.ids[i] for i in able], f"test:{data.seed}")[: data.test_size]]
        test = pool.take(np.sort(drawn))
        taken = set(test.texts)
        pool = pool.take(np.array([i for i in range(len(pool)) if pool.texts[i] not in taken], np.int64))
    else:
        test = _draw(_read_split(data, identity, data.test_split), data.test_size, data.seed)
    if missing := [i for i in range(len(test)) if test.gold[i] == NO_GOLD or test.texts[i] is None]:
        raise UserError(
            f"{data.path}: {len(missing)} rows of '{data.test_split}' lack a text or a gold label (the first: "
            f"{test.texts[missing[0]]!r:.60}); every test row needs both"
        )
    return _draw(pool, data.pool_size, data.seed), test


def _draw(rows: Rows, size: int | None, seed: int) -> Rows:
    if size is None or size >= len(rows):
        return rows
    return rows.take(np.sort(hash_order(rows.ids, f"draw:{seed}")[:size]))


def _stored(path: Path, label_names: list[str]) -> Rows:
    table = pq.read_table(path)
    return Rows(table["id"].to_pylist(), table["text"].to_pylist(), table["gold"].to_numpy(), label_names)


def _hub_sha(data: Data) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    try:
        return str(HfApi().dataset_info(data.path, revision=data.revision).sha)
    except HFValidationError:
        raise UserError(f"data.path: '{data.path}' is neither a local file or folder nor a Hub id") from None
    except Exception as error:  # the Hub's own errors, and all that a network can do
        raise UserError(
            f"data.path: '{data.path}' is not a local path, and the Hub says: {first_line(error)}"
        ) from None


def _read_split(data: Data, identity: dict[str, Any], split: str) -> Rows:
    """One split, streamed: a local folder's cache in `datasets` may return old rows, a stream never does."""
    from datasets import ClassLabel, Value, load_dataset

    path = data.path
    options: dict[str, Any] = {}
    if Path(path).is_file():
        builders = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
        if Path(path).suffix not in builders:
            raise UserError(f"data.path: {path} is not a folder, .parquet, .csv or .jsonl file")
        options["data_files"] = {split: path}
        path = builders[Path(path).suffix]
        if path == "csv":
            options["keep_default_na"] = False  # a tweet may say "null"
    try:
        stream = load_dataset(path, data.name, split=split, revision=identity.get("sha"), streaming=True, **options)
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
    if isinstance(label_kind, ClassLabel):
        labels = [None if label is None or label == -1 else label_kind.names[label] for label in labels]
    names = data.label_names or (
        label_kind.names if isinstance(label_kind, ClassLabel) else _ask_for_names(data, labels)
    )
    gold = np.array([_class_index(label, names, data, row) for row, label in enumerate(labels)], dtype=np.int64)
    return Rows(row_ids(split, texts), texts, gold, list(names))


def _ask_for_names(data: Data, labels: list[Any]) -> NoReturn:
    found = sorted({str(label) for label in labels if label is not None})[:20]
    raise UserError(
        f"data.label_names: '{data.label_column}' in {data.path} is not a ClassLabel; name the classes, "
        f"for example {found}"
    )


def _class_index(label: Any, names: list[str], data: Data, row: int) -> int:
    """The class by its name; integers that are no names are indices."""
    if label is None or label == "":
        return NO_GOLD
    if str(label) in names:
        return names.index(str(label))
    numbered = any(name.lstrip("-").isdigit() for name in names)  # then an integer can only be a name
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names) and not numbered:
        return label
    raise UserError(
        f"{data.path}: row {row} has the label {label!r}, which is not in the label list ({', '.join(names)}); "
        "mend the row or data.label_names"
    )
