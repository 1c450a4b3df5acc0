"""The rows of a study: texts with their gold labels, each under an id made from its content.

A source of any size becomes two parquet files, the pool and the test rows. They are read whole or in batches.
"""

import logging
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from . import parquet
from .errors import UserError, first_line
from .hashing import first_ids, hash_files, hash_order, make_key, number_ids
from .logs import Progress
from .recipe import Data, Recipe
from .row_reader import NO_GOLD, SCHEMA, RowReader
from .source import KINDS, find_split, identify_url, is_url
from .source_columns import Keep, SourceColumns, choose_columns, write_source_columns
from .study import Study, read_json, write_json

logger = logging.getLogger(__name__)

BATCH = 10_000  # rows in memory at a time
SOURCE_BATCH = 1_000  # of the source's own columns, which may have images
MAX_GROUPS = 50
MIN_CLUSTERS = 2  # in the test rows: an interval requires differences between clusters
READER = 2  # rows that an older reader has made may differ


@dataclass(frozen=True)
class Rows:
    """Rows in a fixed order.

    Attributes:
        ids (`list[str]`): 24 hex digits; a hash of split, text and occurrence.
        texts (`list[str | None]`): None where the source has a null.
        gold (`np.ndarray` of shape `(n,)`, int64): class indices, `NO_GOLD` where the source has none.
        label_names (`list[str]`): the classes.
        raters (`np.ndarray` of shape `(n, K)`, *optional*): how many raters gave each class.
        groups (`np.ndarray` of shape `(n,)`, *optional*): the values of `data.group_column`; None for nulls.
        clusters (`np.ndarray` of shape `(n,)`, *optional*): the values of `data.cluster_column`, the same. A null is a
            cluster with one text.
    """

    ids: list[str]
    texts: list[str | None]
    gold: np.ndarray
    label_names: list[str]
    raters: np.ndarray | None = None
    groups: np.ndarray | None = None
    clusters: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: np.ndarray) -> "Rows":
        raters = None if self.raters is None else self.raters[indices]
        groups = None if self.groups is None else self.groups[indices]
        clusters = None if self.clusters is None else self.clusters[indices]
        ids, texts = [self.ids[i] for i in indices], [self.texts[i] for i in indices]
        return Rows(ids, texts, self.gold[indices], self.label_names, raters, groups, clusters)


@dataclass(frozen=True)
class RowFiles:
    """The rows of a study as files: `train.parquet`, the pool, and `test.parquet`, empty where nothing is trained.

    Attributes:
        folder (`Path`): the study's `rows/`, or a temporary folder until `keep_rows`.
        manifest (`dict`): `key`, `source` (identity), `label_names`, `rows` (count by file, and of training rows that
            were left out because they have the text of a test row).
        temporary (`TemporaryDirectory`, *optional*): is deleted with its last reference.
    """

    folder: Path
    manifest: dict[str, Any]
    temporary: Any = None

    @property
    def num_excluded(self) -> int:
        """Rows of the training split that were left out because they have the text of a test row."""
        return int(self.manifest["rows"].get("excluded", 0))

    @property
    def label_names(self) -> list[str]:
        return list(self.manifest["label_names"])

    def __len__(self) -> int:
        """Rows in the pool."""
        return int(self.manifest["rows"]["train"])

    def load(self, name: str, texts: bool = True) -> Rows:
        """Load all rows of `train` or `test`; without `texts`, the texts are None."""
        columns = ["id", "gold", "raters", "group", "cluster", *(["text"] if texts else [])]
        table = parquet.read(self.folder / f"{name}.parquet", SCHEMA, columns, self.folder)
        if len(table) != self.manifest["rows"][name]:
            raise UserError(
                f"`{self.folder / name}.parquet` must have {self.manifest['rows'][name]:,} rows. Got {len(table):,}. "
                f"Delete {self.folder} and run again."
            )
        values = table["text"].to_pylist() if texts else [None] * len(table)
        counts = table["raters"].combine_chunks()
        shape = (len(table), len(self.label_names))
        raters = None if counts.null_count else counts.flatten().to_numpy().reshape(shape)
        groups = None if table["group"].null_count == len(table) else table["group"].to_numpy()
        clusters = None if table["cluster"].null_count == len(table) else table["cluster"].to_numpy()
        ids, gold = table["id"].to_pylist(), table["gold"].to_numpy()
        return Rows(ids, values, gold, self.label_names, raters, groups, clusters)

    @property
    def withheld(self) -> bool:
        """Whether the study was published without its texts, so that they are missing here."""
        return len(self) > 0 and all(batch["text"].null_count == len(batch) for batch in self.batches("text"))

    def column(self, name: str, splits: Sequence[str] = ("train",)) -> pa.Array:
        """Return one column of the pool, or of several files in turn."""
        columns = [parquet.read(self.folder / f"{split}.parquet", SCHEMA, [name], self.folder) for split in splits]
        return pa.concat_tables(columns)[name].combine_chunks()

    def find_gold_rows(self) -> np.ndarray:
        """Return the positions of the rows of the pool that have a text and gold."""
        has_text = self.column("text_id").is_valid().to_numpy(False)
        return np.flatnonzero(has_text & (self.column("gold").to_numpy() != NO_GOLD))

    def batches(self, *columns: str, splits: Sequence[str] = ("train",)) -> Iterator[pa.RecordBatch]:
        """Yield the pool, or several files in turn, `BATCH` rows at a time."""
        for split in splits:
            yield from parquet.batches(self.folder / f"{split}.parquet", SCHEMA, list(columns), BATCH, self.folder)

    @property
    def source_columns(self) -> list[str]:
        """The names of the source's own columns that were kept; rows of earlier versions have none."""
        return list(self.manifest.get("source_columns", ()))

    @property
    def source_bytes(self) -> int:
        """The size of the pool's own columns on the disk."""
        return (self.folder / "train-source.parquet").stat().st_size if self.source_columns else 0

    def source_schema(self) -> pa.Schema:
        """Return the schema of the source's own columns, with the features of `datasets`."""
        return parquet.read_schema(self.folder / "train-source.parquet", self.folder)

    def source_batches(self, columns: list[str], split: str) -> Iterator[pa.RecordBatch]:
        """Yield some of the source's own columns, `SOURCE_BATCH` rows of `train` or `test` at a time."""
        yield from parquet.batches(
            self.folder / f"{split}-source.parquet", self.source_schema(), columns, SOURCE_BATCH, self.folder
        )

    def texts(self, indices: np.ndarray) -> list[str]:
        """Return the texts of some rows of the pool, in the order of `indices`."""
        texts: dict[int, str] = {}
        start = 0
        for batch in self.batches("text"):
            inside = indices[(start <= indices) & (indices < start + len(batch))]
            texts.update(zip(inside.tolist(), batch["text"].take(pa.array(inside - start)).to_pylist(), strict=True))
            start += len(batch)
        return [texts[i] for i in indices.tolist()]

    def need_texts(self) -> None:
        """Raise `UserError` if the texts are missing."""
        if self.withheld:
            raise UserError(
                f"{self.folder}: has no texts, as the study was published without them. It can be measured and "
                "reported. To annotate or train, set `data.path` to the source, and another --output_dir=."
            )


def count_usable(recipe: Recipe, files: RowFiles) -> int:
    """Return how many rows can be trained on if all are labelled: those with a text and, if the source has it, gold.

    The few-shot examples of the prompt and the validation rows are left out.
    """
    prompt = recipe.annotate.prompt
    num_validation = recipe.train.validation_size if recipe.train else 0
    if recipe.data.label_column is None:  # no examples are drawn
        return int(np.sum(files.column("text_id").is_valid().to_numpy(False))) - num_validation
    num_usable = len(files.find_gold_rows()) - num_validation
    if prompt is None:
        return num_usable
    if prompt.examples is not None or prompt.random_shots is not None:
        return num_usable - (prompt.random_shots or 0)
    return num_usable - (1 if prompt.shots_per_class is None else prompt.shots_per_class) * len(files.label_names)


def strings(array: pa.Array, rows: np.ndarray | None = None) -> Iterator[Any]:
    """Yield the values of an Arrow array, or of some of its rows, without having all Python objects in memory."""
    for start in range(0, len(array) if rows is None else len(rows), BATCH):
        batch = array.slice(start, BATCH) if rows is None else array.take(pa.array(rows[start : start + BATCH]))
        yield from batch.to_pylist()


def open_rows(study: Study) -> RowFiles:
    """Return the pool, from the training split, and the test rows: from the study folder, else from the source.

    A single file, or a recipe whose two splits are the same, has no test split: `data.test_size` rows are drawn for it.
    Rows of the training split with the text of a test row are left out of the pool. A recipe without a grid needs no
    test rows. Where the recipe has no label column, the classes of the test rows are unknown before an audit.

    Args:
        study (`Study`):
            The study; nothing is written into it. A source is streamed into a temporary folder (`TMPDIR`).

    Returns:
        `RowFiles`: rows beyond `data.pool_size` / `data.test_size` are left out by a seeded draw.

    Raises:
        UserError: the folder is of another recipe; the dataset, split or column does not exist; a split is empty; a
            text or label is not valid; a test row has no gold in a source with gold.
    """
    study.check()
    identity, key = _source(study)
    keep = choose_columns(study.recipe)
    manifest = read_json(study.rows / "manifest.json")
    if manifest is not None and manifest["key"] == key and keep.is_met(manifest):
        return RowFiles(study.rows, manifest)
    temporary = tempfile.TemporaryDirectory(prefix="hf-recipes-")
    folder, data = Path(temporary.name), study.recipe.data
    read = _read_source(data, identity, folder, keep, with_test=study.recipe.grid is not None)
    return RowFiles(folder, {"key": key, "source": identity, **read, "kept": keep.request}, temporary)


def keep_rows(study: Study, files: RowFiles) -> RowFiles:
    """Copy the rows into the study folder, unless it has them. Return the rows there."""
    with study.lock():
        if read_json(study.rows / "manifest.json") != files.manifest:
            with study.whole_folder(study.rows) as folder:
                for file in files.folder.glob("*.parquet"):
                    shutil.copyfile(file, folder / file.name)
                write_json(folder / "manifest.json", files.manifest)
    return RowFiles(study.rows, files.manifest)


def rows_key(study: Study) -> str:
    """Return the key of the rows for the current recipe and source."""
    return _source(study)[1]


def _source(study: Study) -> tuple[dict[str, Any], str]:
    """Return the identity of the source and the key of the rows. A branch on the Hub is resolved once in a study."""
    data = study.recipe.data
    identity: dict[str, Any]
    kept = (read_json(study.rows / "manifest.json") or {}).get("source", {})
    if Path(data.path).exists():
        identity = {"sha256": hash_files(Path(data.path))}
    elif is_url(data.path):
        try:
            identity = {"path": data.path, "files": identify_url(data.path)}
        except UserError:
            if kept.get("path") != data.path:
                raise
            identity = kept  # out of reach: the later steps need only the rows in the study folder
    else:
        request = {"path": data.path, "asked": data.revision}
        is_kept = kept.items() >= request.items() or "sha256" in kept  # the latter: of a local source that is gone
        identity = kept if is_kept else {**request, "sha": find_hub_sha(data)}
    # Rows of recipes without `label_map`, as of earlier versions, keep their key.
    unset = {"label_map"} if data.label_map is None else set()
    settings = data.model_dump(mode="json", exclude={"keep_columns", *unset})
    settings["label_names"] = data.label_names and list(data.label_names)
    reader = {"version": READER, "columns": SCHEMA.names}
    return identity, make_key(source=identity, data=settings, test=study.recipe.grid is not None, reader=reader)


def find_hub_sha(data: Data) -> str:
    """Return the commit of a dataset's branch on the Hub.

    Raises:
        UserError: the dataset is not on the Hub, or the Hub is out of reach.
    """
    if Path(data.path.removesuffix(".gz")).suffix.lower() in KINDS or data.path.startswith((".", "/")):
        raise UserError(
            f"`data.path` must be a file, a folder or a Hub dataset. Got {data.path}, which does not exist."
        )
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        return str(HfApi().dataset_info(data.path, revision=data.revision).sha)
    except HFValidationError:
        raise UserError(
            f"`data.path` must be a file, a folder or a Hub dataset. Got {data.path}, which does not exist here and is "
            "not a Hub id."
        ) from None
    except Exception as error:  # the Hub's own errors, and all that a network can do
        reason = "not on the Hub" if isinstance(error, RepositoryNotFoundError) else f"on the Hub: {first_line(error)}"
        raise UserError(
            f"`data.path` must be a file, a folder or a Hub dataset. Got {data.path}, which is not here and {reason}."
        ) from None


def _read_source(data: Data, identity: dict[str, Any], folder: Path, keep: Keep, with_test: bool) -> dict[str, Any]:
    """Write the pool and the test rows into `folder`. Return what their manifest lists of them."""
    revision = identity.get("sha")
    pool, names, pool_columns = _read_split(data, revision, data.train_split, folder, keep)
    in_pool, test_columns = np.arange(len(pool)), pool_columns
    if not with_test:
        test, in_test = pool, in_pool[:0]
    elif Path(data.path).is_file() or is_url(data.path) or data.train_split == data.test_split:
        if data.test_size is None:
            raise UserError(
                f"`data.test_size` must be the number of test rows to draw. Got none, and {data.path} has "
                "no test split."
            )
        test, usable = pool, np.flatnonzero(_can_test(pool, data))
        if len(usable) <= data.test_size:
            what = "gold rows" if data.label_column else "texts"
            raise UserError(
                f"`data.test_size` must be smaller than the number of {what} in {data.path}, {len(usable)}. Got "
                f"{data.test_size}."
            )
        order = hash_order(strings(_column(pool, "id"), usable), f"test:{data.seed}")
        in_test = np.sort(usable[order[: data.test_size]])
    else:
        test, test_names, test_columns = _read_split(data, revision, data.test_split, folder, keep)
        in_test = _draw(test, np.arange(len(test)), data.test_size, data.seed)
        unusable = in_test[~_can_test(test, data)[in_test]]
        if len(unusable):
            need = "a text and a gold label" if data.label_column else "a text"
            raise UserError(
                f"{data.path}: every row of '{data.test_split}' must have {need}. {len(unusable)} rows have not, "
                f"for example row {unusable[0] + 1}. Remove or complete them."
            )
        if test_names != names:
            raise UserError(
                f"{data.path}: the splits must have the same classes. Got {', '.join(names)} in '{data.train_split}', "
                f"and {', '.join(test_names)} in '{data.test_split}'. List them in `data.label_names`."
            )
    # a classifier must not be trained on a text that it is tested on
    text_ids, tested = _column(pool, "text_id"), _column(test, "text_id").take(pa.array(in_test))
    is_tested = pc.is_in(text_ids, value_set=tested.drop_null()).to_numpy(False)
    num_excluded = int(is_tested.sum()) - (len(in_test) if test is pool else 0)
    if num_excluded:
        logger.warning(
            "%s: %s rows of '%s' have the text of a test row. They are left out of the pool.",
            *(data.path, f"{num_excluded:,}", data.train_split),
        )
    in_pool = _draw(pool, in_pool[~is_tested], data.pool_size, data.seed)
    if not len(in_pool):
        raise UserError(f"{data.path}: all texts of '{data.train_split}' are test texts. Try another data.test_split.")
    _write(folder / "train.parquet", pool, in_pool)
    _write(folder / "test.parquet", test, in_test)
    listed = write_source_columns(folder, {"train": (pool_columns, in_pool), "test": (test_columns, in_test)})
    for file in folder.glob("*.arrow"):
        file.unlink()
    num_groups = len(pq.read_table(folder / "test.parquet", columns=["group"])["group"].unique())
    if num_groups > MAX_GROUPS:
        raise UserError(
            f"`data.group_column` must have at most {MAX_GROUPS} values in the test rows. Got {num_groups} in "
            f"'{data.group_column}'."
        )
    clusters = pq.read_table(folder / "test.parquet", columns=["cluster"])["cluster"]
    num_clusters = len(clusters.drop_null().unique()) + clusters.null_count
    if data.cluster_column and with_test and num_clusters < MIN_CLUSTERS:
        raise UserError(
            f"`data.cluster_column` must have at least {MIN_CLUSTERS} values in the test rows. Got {num_clusters} in "
            f"'{data.cluster_column}'. Try another column."
        )
    counts = {"train": len(in_pool), "test": len(in_test), "excluded": num_excluded}
    return {"label_names": names, "rows": counts, **listed}


def _read_split(
    data: Data, revision: str | None, split: str, folder: Path, keep: Keep
) -> tuple[pa.Table, list[str], SourceColumns]:
    """Return the rows of a split, of which only the ids are in memory, the classes, and the columns to keep."""
    files = find_split(data, revision, split, folder)
    reader = RowReader(data, files, keep)
    digests = bytearray()
    name = "train" if split == data.train_split else "test"
    columns = SourceColumns(folder, name, files.kind == "json", files.class_names)
    path = folder / f"{name}.arrow"
    with (
        pa.ipc.new_stream(path, SCHEMA) as writer,
        Progress(desc=f"read {split}", unit=" texts", delay=10) as progress,
    ):
        for batch in reader:
            writer.write_batch(batch.rows)
            columns.add(batch.kept)
            digests += b"".join(first_ids(split, batch.rows["text"].to_pylist()))
            progress.update(len(batch.rows))
    columns.close()
    if not digests:
        raise UserError(f"{data.path}: the split '{split}' must have rows. Got none.")
    with pa.memory_map(str(path)) as stream:
        rows = pa.ipc.open_stream(stream).read_all()
    # ids are complete when all rows have been read: a text that repeats gets the number of its occurrence
    ids = pa.array(number_ids(digests)).cast(pa.string())
    return rows.set_column(0, "id", ids), reader.label_names, columns


def _write(path: Path, rows: pa.Table, places: np.ndarray) -> None:
    """Write some rows in their order, without loading them all."""
    is_chosen = np.zeros(len(rows), dtype=bool)
    is_chosen[places] = True
    with parquet.writer(path, SCHEMA, "zstd") as writer:
        for start in range(0, len(rows), BATCH):
            writer.write_table(rows.slice(start, BATCH).filter(pa.array(is_chosen[start : start + BATCH])))


def _column(rows: pa.Table, name: str) -> pa.Array:
    return rows[name].combine_chunks()


def _can_test(rows: pa.Table, data: Data) -> np.ndarray:
    """Return which rows have a text and, where the recipe has a label column, gold."""
    has_text = _column(rows, "text_id").is_valid().to_numpy(False)
    return has_text if data.label_column is None else has_text & (_column(rows, "gold").to_numpy() != NO_GOLD)


def _draw(rows: pa.Table, places: np.ndarray, size: int | None, seed: int) -> np.ndarray:
    if size is None or size >= len(places):
        return places
    return np.sort(places[draw_order(strings(_column(rows, "id"), places), seed)[:size]])


def draw_order(ids: Iterable[str], seed: int) -> np.ndarray:
    """Return the order in which `data.pool_size` and `data.test_size` draw rows: a larger draw has the smaller one."""
    return hash_order(ids, f"draw:{seed}")
