"""Rows: the texts of a data set with their gold labels, each under an id made from its content.

A source of any size is streamed into two parquet files, the pool and the test rows; what reads them decides whether it
wants them whole or batch by batch.
"""

import glob
import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jinja2 import StrictUndefined, TemplateError, meta
from jinja2.sandbox import SandboxedEnvironment
from tqdm import tqdm

from . import tables
from .errors import UserError, first_line
from .hashing import ID_BYTES, first_ids, hash_files, hash_order, make_key, number_ids
from .recipe import Data, Recipe
from .study import Study, read_json, write_json

NO_GOLD = -1
BATCH = 10_000  # rows in memory at a time
SOURCE_BATCH = 1_000  # the same of a source, whose texts may be books
MOST_GROUPS, LONGEST_GROUP = 50, 100
#: In JSON: an escaped backslash, a pair of surrogates, and in a group of its own half of one alone.
SURROGATES = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "text": pa.string(),
        "text_id": pa.binary(ID_BYTES),
        "gold": pa.int64(),
        "raters": pa.list_(pa.int32()),
        "group": pa.string(),
    }
)


@dataclass(frozen=True)
class Rows:
    """Texts in a fixed order.

    Attributes:
        ids (`list[str]`): 24 hex digits; a hash of split, text and occurrence.
        texts (`list[str | None]`): None where the source has a null.
        gold (`np.ndarray` of shape `(n,)`, int64): class indices, `NO_GOLD` where the source has none.
        label_names (`list[str]`): the classes.
        raters (`np.ndarray` of shape `(n, K)`, *optional*): how many raters gave each class.
        groups (`np.ndarray` of shape `(n,)`, *optional*): what `data.group_column` has; None where it has a null.
    """

    ids: list[str]
    texts: list[str | None]
    gold: np.ndarray
    label_names: list[str]
    raters: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: np.ndarray) -> "Rows":
        raters, groups = (None if one is None else one[indices] for one in (self.raters, self.groups))
        ids, texts = [self.ids[i] for i in indices], [self.texts[i] for i in indices]
        return Rows(ids, texts, self.gold[indices], self.label_names, raters, groups)


@dataclass(frozen=True)
class RowFiles:
    """The rows of a study as files: `train.parquet`, the pool, and `test.parquet`, empty where nothing is trained.

    Attributes:
        folder (`Path`): the study's `rows/`, or a temporary folder until `keep_rows`.
        manifest (`dict`): `key`, `source` (identity), `label_names`, `rows` (count by file).
        temporary (`TemporaryDirectory`, *optional*): goes when nobody holds it any more.
    """

    folder: Path
    manifest: dict[str, Any]
    temporary: Any = None

    @property
    def label_names(self) -> list[str]:
        return list(self.manifest["label_names"])

    def __len__(self) -> int:
        """Rows in the pool."""
        return int(self.manifest["rows"]["train"])

    def load(self, name: str, texts: bool = True) -> Rows:
        """All rows of `train` or `test`, in memory; without `texts`, these are None."""
        columns = ["id", "gold", "raters", "group", *(["text"] if texts else [])]
        table = tables.read(self.folder / f"{name}.parquet", SCHEMA, columns, self.folder)
        if len(table) != self.manifest["rows"][name]:
            raise UserError(
                f"{self.folder / name}.parquet: has {len(table):,} rows, and its manifest states "
                f"{self.manifest['rows'][name]:,}; delete {self.folder} and run again"
            )
        found = table["text"].to_pylist() if texts else [None] * len(table)
        counts = table["raters"].combine_chunks()
        shape = (len(table), len(self.label_names))
        raters = None if counts.null_count else counts.flatten().to_numpy().reshape(shape)
        groups = None if table["group"].null_count == len(table) else table["group"].to_numpy()
        return Rows(table["id"].to_pylist(), found, table["gold"].to_numpy(), self.label_names, raters, groups)

    @property
    def withheld(self) -> bool:
        """Whether the texts are not here, as the study was published without them."""
        return len(self) > 0 and all(batch["text"].null_count == len(batch) for batch in self.batches("text"))

    def column(self, name: str, splits: Sequence[str] = ("train",)) -> pa.Array:
        """One column of the pool, or of several files in turn."""
        read = [tables.read(self.folder / f"{split}.parquet", SCHEMA, [name], self.folder) for split in splits]
        return pa.concat_tables(read)[name].combine_chunks()

    def batches(self, *columns: str, splits: Sequence[str] = ("train",)) -> Iterator[pa.RecordBatch]:
        """The pool, or several files in turn, `BATCH` rows at a time."""
        for split in splits:
            yield from tables.batches(self.folder / f"{split}.parquet", SCHEMA, list(columns), BATCH, self.folder)

    def texts(self, indices: np.ndarray) -> list[str]:
        """The texts of some rows of the pool, in the order of `indices`."""
        found: dict[int, str] = {}
        start = 0
        for batch in self.batches("text"):
            inside = indices[(start <= indices) & (indices < start + len(batch))]
            found.update(zip(inside.tolist(), batch["text"].take(pa.array(inside - start)).to_pylist(), strict=True))
            start += len(batch)
        return [found[i] for i in indices.tolist()]

    def need_texts(self) -> None:
        """Raises a `UserError` where the texts are not here."""
        if self.withheld:
            raise UserError(
                f"{self.folder}: the study was published without its texts: it can be measured and reported, not "
                "annotated or trained; for that, name the source as data.path, and another --output_dir="
            )


def one_line(text: str) -> str:
    """White space and control characters folded to blanks: a text cannot open a line of its own in the prompt."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c == "\u200d" else " " for c in text)
    return " ".join(text.split())


def text_id(text: str | None) -> bytes | None:
    """Equal for texts that the LLM sees alike; None where there is nothing to see."""
    line = one_line(text or "")
    return hashlib.blake2b(line.encode(), digest_size=ID_BYTES).digest() if line else None


def usable_at_most(recipe: Recipe, files: RowFiles) -> int:
    """How many rows can be trained on if all goes well: those with a text and, where the source has any, gold.

    What the prompt takes is left out.
    """
    prompt, classes = recipe.annotate.prompt, len(files.label_names)
    if recipe.data.label_column is None:  # no demonstrations are drawn
        return int(np.sum(files.column("text_id").is_valid().to_numpy(False)))
    able = int(
        np.sum((files.column("gold").to_numpy() != NO_GOLD) & files.column("text_id").is_valid().to_numpy(False))
    )
    if prompt.examples is not None or prompt.random_shots is not None:
        return able - (prompt.random_shots or 0)
    return able - (1 if prompt.shots_per_class is None else prompt.shots_per_class) * classes


def strings(array: pa.Array, rows: np.ndarray | None = None) -> Iterator[Any]:
    """The values of an Arrow array, or of some of its rows, as Python objects that need not all be in memory."""
    for start in range(0, len(array) if rows is None else len(rows), BATCH):
        some = array.slice(start, BATCH) if rows is None else array.take(pa.array(rows[start : start + BATCH]))
        yield from some.to_pylist()


def open_rows(study: Study) -> RowFiles:
    """The pool (of the training split) and the test rows: as kept in the study folder, or else from the source.

    A single file, or a recipe whose two splits are the same, has no test split: `data.test_size` rows are drawn for it,
    and neither they nor rows with the same text are in the pool. A recipe without a grid needs no test rows. Where the
    recipe has no label column, test rows are texts whose class nobody knows before an audit.

    Args:
        study (`Study`):
            The study; nothing is written into it. A source is streamed into a temporary folder (`TMPDIR`).

    Returns:
        `RowFiles`: rows beyond `data.pool_size` / `data.test_size` are left out by a seeded draw.

    Raises:
        UserError: the folder is another recipe's; no such data set, split or column; an empty split; a text or label
            that is none; a test row without gold in a source that has some.
    """
    study.check()
    identity, key = _source(study)
    manifest = read_json(study.rows / "manifest.json")
    if manifest is not None and manifest["key"] == key:
        return RowFiles(study.rows, manifest)
    temporary = tempfile.TemporaryDirectory(prefix="hf-recipes-")
    folder, data = Path(temporary.name), study.recipe.data
    names, counts = _read_source(data, identity, folder, with_test=study.recipe.grid is not None)
    return RowFiles(folder, {"key": key, "source": identity, "label_names": names, "rows": counts}, temporary)


def keep_rows(study: Study, files: RowFiles) -> RowFiles:
    """Copies what `open_rows` returned into the study folder, unless it is there."""
    with study.lock():
        if (read_json(study.rows / "manifest.json") or {}).get("key") != files.manifest["key"]:
            with study.whole_folder(study.rows) as folder:
                for name in ("train", "test"):
                    shutil.copyfile(files.folder / f"{name}.parquet", folder / f"{name}.parquet")
                write_json(folder / "manifest.json", files.manifest)
    return RowFiles(study.rows, files.manifest)


def rows_key(study: Study) -> str:
    """The key of the rows as the recipe and its source are now."""
    return _source(study)[1]


def _source(study: Study) -> tuple[dict[str, Any], str]:
    """The source's identity, and the key of the rows; on the Hub a branch is resolved once in a study."""
    data = study.recipe.data
    identity: dict[str, Any]
    known = (read_json(study.rows / "manifest.json") or {}).get("source", {})
    if Path(data.path).exists():
        identity = {"sha256": hash_files(Path(data.path))}
    elif is_url(data.path):
        try:
            identity = {"path": data.path, "files": _stamps(data.path)}
        except UserError:
            if known.get("path") != data.path:
                raise
            identity = known  # out of reach: the later steps need no more than the rows that are kept
    else:
        asked = {"path": data.path, "asked": data.revision}
        kept = known.items() >= asked.items() or "sha256" in known  # of a local source that is not here (any more)
        identity = known if kept else {**asked, "sha": _hub_sha(data)}
    settings = {**data.model_dump(mode="json"), "label_names": data.label_names and list(data.label_names)}
    return identity, make_key(source=identity, data=settings, test=study.recipe.grid is not None, columns=SCHEMA.names)


def is_url(path: str) -> bool:
    """Whether the source is elsewhere: `s3://bucket/texts-*.parquet`, or in any other file system of fsspec."""
    return "://" in path


def _stamps(url: str) -> str:
    """What the file system says of the files: names, sizes, times, tags; reading them all would take too long."""
    import fsspec

    if not url.endswith(".parquet"):
        raise UserError(f"data.path: {url} does not name .parquet files; of a URL nothing else is read")
    try:
        system, path = fsspec.url_to_fs(url)
        files = [system.info(file) for file in sorted(system.glob(path))]
    except Exception as error:  # of a file system that is not installed, of the network, of the service
        raise UserError(f"data.path: {url}: {_reason(error)}") from None
    if not files:
        raise UserError(f"data.path: {url}: there is no such file")
    return make_key(files=[{name: str(value) for name, value in file.items()} for file in files])


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


def _read_source(
    data: Data, identity: dict[str, Any], folder: Path, with_test: bool
) -> tuple[list[str], dict[str, int]]:
    """Streams the splits into `folder`; returns the classes and the number of rows in each file."""
    pool = _Split(data, identity, data.train_split, folder / "source-train.parquet")
    chosen = np.arange(len(pool.ids))
    if not with_test:
        _write(folder / "test.parquet", [])
        tested = 0
    elif Path(data.path).is_file() or is_url(data.path) or data.train_split == data.test_split:
        if data.test_size is None:
            raise UserError(
                f"data.test_size: {data.path} has no test split of its own; say how many rows to draw for it"
            )
        able = np.flatnonzero(pool.can_test)
        if len(able) <= data.test_size:
            raise UserError(
                f"data.test_size: {data.test_size} asked for, but {data.path} has {len(able)} "
                f"{'gold rows' if data.label_column else 'texts'} in all"
            )
        order = hash_order(strings(pool.ids, able), f"test:{data.seed}")
        drawn = np.sort(able[order[: data.test_size]])
        pool.write(folder / "test.parquet", drawn)
        tested, text_ids = len(drawn), pool.text_ids
        chosen = np.flatnonzero(~pc.is_in(text_ids, value_set=text_ids.take(pa.array(drawn))).to_numpy(False))
    else:
        test = _Split(data, identity, data.test_split, folder / "source-test.parquet")
        drawn = _draw(test.ids, np.arange(len(test.ids)), data.test_size, data.seed)
        missing = drawn[~test.can_test[drawn]]
        if len(missing):
            raise UserError(
                f"{data.path}: {len(missing)} rows of '{data.test_split}' lack a text or a gold label (the first: row "
                f"{missing[0]}); every test row needs {'both' if data.label_column else 'a text'}"
            )
        if test.label_names != pool.label_names:
            raise UserError(
                f"{data.path}: '{data.test_split}' has the classes {', '.join(test.label_names)}, but "
                f"'{data.train_split}' {', '.join(pool.label_names)}; name them in data.label_names"
            )
        test.write(folder / "test.parquet", drawn)
        tested = len(drawn)
    chosen = _draw(pool.ids, chosen, data.pool_size, data.seed)
    pool.write(folder / "train.parquet", chosen)
    for source in folder.glob("source-*.parquet"):
        source.unlink()
    groups = len(pc.unique(pq.read_table(folder / "test.parquet", columns=["group"])["group"]))
    if groups > MOST_GROUPS:
        raise UserError(
            f"data.group_column: '{data.group_column}' has {groups} values in the test rows; at most {MOST_GROUPS} "
            "groups can be told apart"
        )
    return pool.label_names, {"train": len(chosen), "test": tested}


def _draw(ids: pa.Array, rows: np.ndarray, size: int | None, seed: int) -> np.ndarray:
    if size is None or size >= len(rows):
        return rows
    return np.sort(rows[hash_order(strings(ids, rows), f"draw:{seed}")[:size]])


def _write(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    with tables.writer(path, SCHEMA, "zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)


class _Split:
    """One split of the source: streamed into a file, with what a draw has to know of every row in memory.

    Attributes:
        ids (`pa.Array`), gold (`np.ndarray`), has_text (`np.ndarray`, bool): of every row.
        can_test (`np.ndarray`, bool): rows with a text and, where the recipe has a label column, gold.
        label_names (`list[str]`)
    """

    def __init__(self, data: Data, identity: dict[str, Any], split: str, path: Path):
        self._data, self._split, self._path = data, split, path
        self._digests = bytearray()
        self._gold: list[np.ndarray] = []
        self._has_text: list[np.ndarray] = []
        self._known: dict[str | None, int] = {}
        self.label_names: list[str] = []
        with tqdm(desc=f"read {split}", unit=" texts", delay=10) as self._bar:
            _write(path, self._read(identity))
        if not self._digests:
            raise UserError(f"data: split '{split}' of {data.path} has no rows")
        self.ids = pa.array(number_ids(self._digests)).cast(pa.large_string())
        self.gold, self.has_text = np.concatenate(self._gold), np.concatenate(self._has_text)
        self.can_test = self.has_text & ((self.gold != NO_GOLD) | (data.label_column is None))

    @property
    def text_ids(self) -> pa.Array:
        return pq.read_table(self._path, columns=["text_id"])["text_id"].combine_chunks()

    def write(self, path: Path, rows: np.ndarray) -> None:
        """Writes some of the rows, in their order, under their ids."""
        wanted = np.zeros(len(self.ids), dtype=bool)
        wanted[rows] = True

        def batches() -> Iterator[pa.RecordBatch]:
            start = 0
            for batch in pq.ParquetFile(self._path).iter_batches(BATCH):
                here = slice(start, start + len(batch))
                ids = self.ids.slice(start, len(batch)).cast(pa.string())
                yield batch.set_column(0, "id", ids).filter(pa.array(wanted[here]))
                start += len(batch)

        _write(path, batches())

    def _read(self, identity: dict[str, Any]) -> Iterator[pa.RecordBatch]:
        data = self._data
        stream, columns, kinds = _open_stream(data, identity, self._split, self._path.parent)
        label_kind, rater_kind = (kinds.get(name) for name in ("label_column", "raters"))
        self._group_names = getattr(kinds.get("group_column"), "names", None)
        template = _text_template(data)
        try:
            for batch in stream.select_columns(columns).with_format("arrow").iter(SOURCE_BATCH):
                texts = (
                    batch[data.text_column].to_pylist()
                    if template is None
                    else [_fill(template, row) for row in batch.to_pylist()]
                )
                labels = batch[data.label_column].to_pylist() if data.label_column else [None] * len(texts)
                yield self._batch(texts, labels, label_kind, batch, rater_kind)
        except (UserError, KeyboardInterrupt):
            raise
        except Exception as error:  # a damaged file, and with some builders an empty one
            raise UserError(
                f"data: split '{self._split}' of {data.path} is damaged or has no rows ({_reason(error)})"
            ) from None

    def _batch(
        self, texts: list[str | None], labels: list[Any], label_kind: Any, batch: Any, rater_kind: Any
    ) -> pa.RecordBatch:
        from datasets import ClassLabel

        data, start = self._data, len(self._digests) // ID_BYTES
        if isinstance(label_kind, ClassLabel):
            labels = [None if label is None or label == -1 else label_kind.names[label] for label in labels]
        if not self.label_names:
            own = label_kind.names if isinstance(label_kind, ClassLabel) else None
            self.label_names = list(data.label_names or own or _ask_for_names(data, labels))
        names = [None if label is None else str(label) for label in labels]
        for row, name in enumerate(names):
            if name not in self._known:
                self._known[name] = _class_index(labels[row], self.label_names, data, start + row)
        gold = np.array([self._known[name] for name in names], dtype=np.int64)
        ids = [text_id(text) for text in texts]
        for digest in first_ids(self._split, texts):
            self._digests += digest
        self._gold.append(gold)
        self._has_text.append(np.array([i is not None for i in ids]))
        self._bar.update(len(texts))
        nothing = pa.nulls(len(texts), pa.string())  # ids are known when all rows have been seen
        raters = self._count_raters(batch, rater_kind, start)
        groups = self._groups(batch, start)
        return pa.record_batch(
            [nothing, pa.array(texts, pa.string()), pa.array(ids, pa.binary(ID_BYTES)), gold, raters, groups], SCHEMA
        )

    def _groups(self, batch: Any, start: int) -> pa.Array:
        """What the group column says, as text; null where it is empty, or the recipe names none."""
        column, found = self._data.group_column, []
        for row, value in enumerate(batch[column].to_pylist() if column else []):
            if self._group_names and value is not None:
                value = self._group_names[value] if value >= 0 else None  # noqa: PLW2901
            said = "" if value is None or value != value else one_line(str(value))  # noqa: PLR0124  (not a number)
            if len(said) > LONGEST_GROUP:
                raise UserError(
                    f"data.group_column: row {start + row} of {self._data.path} has '{said[:40]}...' in '{column}', "
                    f"which is longer than the name of a group ({LONGEST_GROUP} characters)"
                )
            found.append(said or None)
        return pa.array(found, pa.string()) if column else pa.nulls(len(batch), pa.string())

    def _count_raters(self, batch: Any, kind: Any, start: int) -> pa.Array:
        """How many raters gave each class, for each row; nulls where the recipe names no raters."""
        asked, names = self._data.raters, self.label_names
        if asked is None:
            return pa.nulls(len(batch), pa.list_(pa.int32()))
        if isinstance(asked, dict):
            if set(asked) != set(names):
                raise UserError(f"data.raters: it has to name a column for each of the classes {', '.join(names)}")
            counts = np.empty((len(batch), len(names)), dtype=np.int32)
            for k, name in enumerate(names):
                for row, value in enumerate(batch[asked[name]].to_pylist()):
                    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                        raise UserError(
                            f"data.raters: row {start + row} of {self._data.path} has {value!r} in '{asked[name]}', "
                            "which is no number of raters"
                        )
                    counts[row, k] = value
            return pa.array(list(counts), pa.list_(pa.int32()))
        own = getattr(getattr(kind, "feature", None), "names", None)
        found = np.zeros((len(batch), len(names)), dtype=np.int32)
        for row, labels in enumerate(batch[asked].to_pylist()):
            if not isinstance(labels, list):
                raise UserError(f"data.raters: row {start + row} of {self._data.path} has no list in '{asked}'")
            for label in labels:
                named = None if label in (None, -1) else own[label] if own else label
                k = _class_index(named, names, self._data, start + row)
                found[row, k] += k != NO_GOLD
        return pa.array(list(found), pa.list_(pa.int32()))


def _open_stream(
    data: Data, identity: dict[str, Any], split: str, folder: Path
) -> tuple[Any, list[str], dict[str, Any]]:
    """A stream of one split, the columns wanted, and the features of those that a key of the recipe names by itself.

    `folder` takes a mended copy.

    A stream, as a local folder's cache in `datasets` may return old rows.
    """
    from datasets import Value, load_dataset

    path = _named_plainly(data.path, folder / f"source-{split}")
    options: dict[str, Any] = {}
    if is_url(path):
        options["data_files"] = {split: path}
        path = "parquet"
    elif Path(path).is_file():
        builders = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
        if Path(path).suffix not in builders:
            raise UserError(f"data.path: {path} is not a folder, .parquet, .csv or .jsonl file")
        options["data_files"] = {split: glob.escape(path)}
        path = builders[Path(path).suffix]
        if path == "csv":
            options["keep_default_na"] = False  # a tweet may say "null"
            options["features"] = _all_text(data.path)  # and 007 is not 7
        elif path == "json":
            options["data_files"] = {split: glob.escape(str(_mended(Path(data.path), folder)))}
    try:
        stream = load_dataset(path, data.name, split=split, revision=identity.get("sha"), streaming=True, **options)
        if stream.features is None:
            stream = stream._resolve_features()
    except Exception as error:  # datasets raises many kinds; each names what it did not find
        raise UserError(f"data: {data.path}: {_reason(error)}") from None
    found = stream.features
    asked = _asked_columns(data)
    for key, columns in asked.items():
        for column in columns:
            if column not in found:
                raise UserError(f"data.{key}: no column '{column}' in {data.path}; it has {', '.join(found)}")
    if not data.text_template:
        kind = found[data.text_column]
        if not (isinstance(kind, Value) and kind.dtype in ("string", "large_string", "null")):
            raise UserError(f"data.text_column: '{data.text_column}' in {data.path} is {kind}, not text")
    wanted = dict.fromkeys(column for columns in asked.values() for column in columns)
    return stream, list(wanted), {key: found[columns[0]] for key, columns in asked.items() if len(columns) == 1}


def _named_plainly(path: str, other: Path) -> str:
    """The folder, or another one of links to its files, as datasets takes brackets in a folder's name for a pattern."""
    if glob.escape(path) == path or not Path(path).is_dir():
        return path
    shutil.copytree(path, other, copy_function=lambda file, link: Path(link).symlink_to(Path(file).absolute()))
    return str(other)


def _asked_columns(data: Data) -> dict[str, list[str]]:
    """The columns that each key of the recipe names."""
    texts = {"text_template": _template_columns(data)} if data.text_template else {"text_column": [data.text_column]}
    raters = [data.raters] if isinstance(data.raters, str) else list((data.raters or {}).values())
    single = {key: [name] if (name := getattr(data, key)) else [] for key in ("label_column", "group_column")}
    return {**texts, **single, "raters": raters}


def _reason(error: BaseException) -> str:
    """What a reader says, in a line, and what to do where that is known."""
    said = " ".join(str(error).split()) or type(error).__name__
    return f"{said}; save it as UTF-8" if "codec can't decode" in said else said


def _all_text(path: str) -> Any:
    """The features of a CSV file of which nothing is taken for a number."""
    import pandas
    from datasets import Features, Value

    try:
        names = pandas.read_csv(path, nrows=0).columns
    except (ValueError, OSError) as error:  # pandas' errors are ValueErrors
        raise UserError(f"data.path: {path} is not a CSV file that can be read ({_reason(error)})") from None
    return Features({str(name): Value("string") for name in names})


def _mended(path: Path, folder: Path) -> Path:
    """The JSON file, or a copy in which halves of surrogate pairs, which no reader takes, are U+FFFD."""
    with path.open("rb") as lines:
        if not any(found[1] for line in lines for found in SURROGATES.finditer(line)):
            return path
    with path.open("rb") as lines, (folder / path.name).open("wb") as copy:
        copy.writelines(SURROGATES.sub(lambda found: rb"\ufffd" if found[1] else found[0], line) for line in lines)
    return folder / path.name


def _text_template(data: Data) -> Any:
    """The compiled template that makes a text of a row's columns; a null column leaves nothing."""
    if data.text_template is None:
        return None
    environment = SandboxedEnvironment(undefined=StrictUndefined, finalize=lambda value: "" if value is None else value)
    try:
        return environment.from_string(data.text_template)
    except TemplateError as error:
        raise UserError(f"data.text_template: {first_line(error)}") from None


def _fill(template: Any, row: dict[str, Any]) -> str:
    try:
        return str(template.render(row))
    except Exception as error:  # a template is a program and can fail in any way
        raise UserError(f"data.text_template: {first_line(error)} (in the row {row!r:.80})") from None


def _template_columns(data: Data) -> list[str]:
    _text_template(data)
    columns = meta.find_undeclared_variables(SandboxedEnvironment().parse(str(data.text_template)))
    if not columns:
        raise UserError("data.text_template: it names no column; write for example '{{ title }}: {{ body }}'")
    return sorted(columns)


def _ask_for_names(data: Data, labels: list[Any]) -> NoReturn:
    found = sorted({str(label) for label in labels if label is not None})[:20]
    raise UserError(
        f"data.label_names: '{data.label_column}' in {data.path} is not a ClassLabel; name the classes, "
        f"for example {found}"
    )


def _class_index(label: Any, names: list[str], data: Data, row: int) -> int:
    """The class by its name; integers that are no names are indices, and all that a CSV file holds is text."""
    if label is None or label == "":
        return NO_GOLD
    if str(label) in names:
        return names.index(str(label))
    if Path(data.path).suffix == ".csv" and re.fullmatch("[0-9]+", label):
        label = int(label)
    numbered = any(name.lstrip("-").isdigit() for name in names)  # then an integer can only be a name
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names) and not numbered:
        return label
    raise UserError(
        f"{data.path}: row {row} has the label {label!r}, which is not in the label list "
        f"({', '.join(names)}); mend the row or data.label_names"
    )
