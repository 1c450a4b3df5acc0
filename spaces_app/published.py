"""Read a published study from a Hub repo or a folder into small tables in memory, and check it.

    study = read_hub("owner/name")              # or "owner/name/study" where a repo has several
    study = read_folder(Path("a/copy/of/the/repo"))

A study may be anybody's. None of its files is executed or kept: a download is read into memory and deleted.
"""

import json
import re
import sys
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import limited
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from schema import Results, read_results

HOME = "hf-recipes"
NAME = r"[A-Za-z0-9._-]{1,96}"
SPEC = re.compile(rf"({NAME}/{NAME})(?:/({NAME}))?")
SHARD = "00000-of-00001.parquet"
TABLES = ("annotations", "runs", "predictions", "out_of_bag", "results")
UNREAD = ("annotations", "runs", "out_of_bag", "results")
MAX_BYTES = 200_000_000  # of the files of a study
MAX_JSON = 30_000_000  # of one of its JSON files
MAX_ROWS = 200_000  # of a split
MAX_CELLS = 20_000_000  # probabilities: runs x test texts x classes, or training texts x classes
MAX_DECODED = 300_000_000  # bytes of a table in memory
MAX_MEMORY = 200_000_000  # bytes of a study in memory
BATCH = 50_000  # rows that are decoded at a time
MAX_CLASSES = 200
MAX_TEXT = 3_000  # characters of a text that are shown
NO_LABEL = -1


class UnreadableError(ValueError):
    """Report in a sentence for the page why a study cannot be read."""


@dataclass(frozen=True)
class VariantLabels:
    """Record the labels of a variant's config for the rows of the pool.

    Attributes:
        labels (`np.ndarray` of shape `(n,)`): class indices; -1 where the variant leaves the row out.
        sources (`np.ndarray` of shape `(n,)`): `gold`, `llm`, `annotator` or `noise`; empty where it leaves the row
            out.
    """

    labels: np.ndarray
    sources: np.ndarray


@dataclass(frozen=True)
class Pool:
    """Record the training texts that have a label.

    Attributes:
        texts (`list[str]`): empty where they are not published.
        gold, llm (`np.ndarray` of shape `(n,)`): class indices; -1 for none.
        probs (`np.ndarray` of shape `(n, K)`), entropy (`np.ndarray` of shape `(n,)`): of the LLM.
        votes (`np.ndarray` of shape `(n, P)`): the label of each pass, -1 for none; P is 0 where there is one pass.
        variants (`dict[str, VariantLabels]`)
    """

    ids: list[str]
    texts: list[str]
    gold: np.ndarray
    llm: np.ndarray
    probs: np.ndarray
    entropy: np.ndarray
    votes: np.ndarray
    variants: dict[str, VariantLabels]


@dataclass(frozen=True)
class Test:
    """Record the test texts, and the predictions of each run.

    Attributes:
        gold (`np.ndarray` of shape `(n,)`): -1 for none.
        runs (`list[tuple[str, int, str]]`): variant, size and seed.
        labels, top_probs (`np.ndarray` of shape `(runs, n)`): the most probable class, and its probability.
    """

    ids: list[str]
    texts: list[str]
    gold: np.ndarray
    runs: list[tuple[str, int, str]]
    labels: np.ndarray
    top_probs: np.ndarray

    def of(self, variant: str, size: int) -> np.ndarray:
        """Return the indices of the runs of a variant at a size."""
        return np.array([i for i, run in enumerate(self.runs) if run[:2] == (variant, size)], dtype=int)

    def cells(self) -> list[tuple[str, int]]:
        """Return the variants and sizes that have runs, in the order of the study."""
        return list(dict.fromkeys(run[:2] for run in self.runs))


@dataclass(frozen=True)
class Study:
    """Record the published parts of a study.

    Attributes:
        where (`str`): the repo, or the name of the folder.
        sha (`str`): the commit; empty for a folder.
        studies (`list[str]`): all studies of the repo.
        prefix (`str`): the common beginning of the names of its configs.
        texts (`bool`): whether the texts are published.
        manifest, findings (`dict`): of study.json and findings.json; empty without.
        results (`Results`, *optional*): the content of results.json.
        pool (`Pool`), test (`Test`, *optional*)
    """

    where: str
    name: str
    sha: str
    studies: list[str]
    prefix: str
    texts: bool
    classes: list[str]
    manifest: dict[str, Any]
    findings: dict[str, Any]
    results: Results | None
    pool: Pool
    test: Test | None


def read_hub(spec: str, token: str | bool | None = False) -> Study:
    """Download the parts of a study that the app shows, at the current commit of the repo.

    Args:
        spec (`str`):
            `owner/name` of a dataset repo, or `owner/name/study`.
        token (`str` or `bool`, *optional*, defaults to `False`):
            By default none, so that visitors see public repos only.

    Raises:
        UnreadableError: no such repo, none of this project's studies in it, too large, or damaged.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    if not (match := SPEC.fullmatch(spec)):
        raise UnreadableError(
            "A study is named as owner/name, the id of a dataset repo on the Hub, or owner/name/study."
        )
    repo, name = match[1], match[2]
    api: Any = HfApi(token=token)
    try:
        info = api.repo_info(repo, repo_type="dataset", timeout=10)
        there = {file.rfilename for file in info.siblings}
        names = sorted(p.split("/")[1] for p in there if re.fullmatch(rf"{HOME}/{NAME}/study\.json", p))
        study = _choose(repo, names, name)
        with TemporaryDirectory(prefix="study-") as folder:
            where = Path(folder)
            home = f"{HOME}/{study}"
            _download(api, repo, info.sha, [f"{home}/study.json"], where)
            configs, prefix = limited.call("published.read_configs", where / home / "study.json")
            paths = [f"{home}/{file}.json" for file in ("results", "findings")]
            paths += [f"data/{config}/train-{SHARD}" for config in configs if config[len(prefix) :] not in UNREAD]
            paths += [f"data/{prefix}test/test-{SHARD}"]
            _download(api, repo, info.sha, [path for path in paths if path in there], where)
            return limited.call("published.read_folder", where, study, repo, info.sha, names)
    except limited.LimitError as error:
        raise UnreadableError(f"{repo}: {error}") from None
    except RepositoryNotFoundError:
        raise UnreadableError(f"There is no public dataset repo {repo} on the Hub.") from None
    except HfHubHTTPError as error:
        raise UnreadableError(f"The Hub did not give {repo}: it answered {error.response.status_code}.") from None
    except OSError:  # of the network: httpx' errors among them are no OSError
        raise UnreadableError(f"The Hub could not be reached for {repo}; try again.") from None
    except Exception as error:
        if isinstance(error, UnreadableError):
            raise
        raise UnreadableError(f"The Hub could not be reached for {repo} ({type(error).__name__}); try again.") from None


def read_configs(path: Path) -> tuple[list[str], str]:
    """Return the names of a study's configs, with the prefix that they share.

    Raises:
        UnreadableError: the file is damaged.
    """
    try:
        return _configs(_read_json(path))
    except UnreadableError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, OSError, RecursionError) as error:
        raise UnreadableError(f"study.json is damaged, or of another version ({type(error).__name__}).") from None


def _choose(where: str, names: list[str], name: str | None) -> str:
    if not names:
        raise UnreadableError(
            f"{where} holds no study of hf-recipes: it has no {HOME}/*/study.json. What can be shown is made by "
            "hf-recipes push dataset."
        )
    if name is not None and name not in names:
        raise UnreadableError(f"{where} holds no study '{name}'; it has {', '.join(names[:20])}.")
    return names[0] if name is None else name


def _download(api: Any, repo: str, sha: str, paths: list[str], folder: Path) -> None:
    sizes = {info.path: info.size for info in api.get_paths_info(repo, paths, repo_type="dataset", revision=sha)}
    if (total := sum(sizes.values())) > MAX_BYTES:
        raise UnreadableError(
            f"{repo}: the study's files have {total / 1e6:,.0f} MB, and at most {MAX_BYTES / 1e6:,.0f} MB are shown "
            "here; clone the project and run the app beside a local copy."
        )
    for path in sizes:
        api.hf_hub_download(repo, path, repo_type="dataset", revision=sha, local_dir=folder)


def read_folder(
    folder: Path, name: str | None = None, where: str = "", sha: str = "", studies: list[str] | None = None
) -> Study:
    """Read a copy of a repo, or the `dataset` folder of a study.

    Raises:
        UnreadableError: no such study, or damaged.
    """
    where = where or folder.resolve().name
    names = studies or sorted(path.parent.name for path in folder.glob(f"{HOME}/*/study.json"))
    try:
        if not names and (folder / "data" / "llm").is_dir():  # a dataset folder that is not published
            manifest: dict[str, Any] = {}
            configs, prefix, study_name = sorted(p.name for p in (folder / "data").iterdir()), "", where
            results, findings = None, {}
        else:
            study_name = _choose(where, names, name)
            home = folder / HOME / study_name
            manifest = _read_json(home / "study.json")
            configs, prefix = _configs(manifest)
            results = _read_results(home / "results.json")
            findings = _findings(_read_json(home / "findings.json"))
        data = folder / "data"
        variants = [config[len(prefix) :] for config in configs]
        files = {
            variant: data / f"{prefix}{variant}" / f"train-{SHARD}"
            for variant in variants
            if variant not in (*TABLES, "test")
        }
        pool, classes = _read_pool({variant: file for variant, file in files.items() if file.is_file()})
        test = _read_test(data / f"{prefix}test", data / f"{prefix}predictions", len(classes))
        study = Study(
            **{"where": where, "name": study_name, "sha": sha, "studies": names, "prefix": prefix, "classes": classes},
            **{"texts": any(pool.texts), "manifest": _manifest(manifest), "findings": findings, "results": results},
            **{"pool": pool, "test": test},
        )
        if (size := _size(study, set())) > MAX_MEMORY:
            raise UnreadableError(
                f"{where}: the study takes {size / 1e6:,.0f} MB of memory, and at most {MAX_MEMORY / 1e6:,.0f} MB are "
                "shown here; clone the project and run the app beside a local copy."
            )
        return study
    except (UnreadableError, MemoryError):
        raise
    except (LookupError, TypeError, AttributeError, ValueError, OSError, pa.ArrowException, RecursionError) as error:
        raise UnreadableError(
            f"{where}: the study is damaged, or of another version ({type(error).__name__})."
        ) from None


def _size(value: Any, seen: set[int]) -> int:
    """Return the bytes that a value takes in memory, with everything that it refers to."""
    if id(value) in seen:
        return 0
    seen.add(id(value))
    inner: Any = ()
    if is_dataclass(value):
        inner = vars(value).values()
    elif isinstance(value, dict):
        inner = (*value, *value.values())
    elif isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.dtype == object):
        inner = value
    return sys.getsizeof(value) + sum(_size(item, seen) for item in inner)


def _read_json(path: Path) -> dict[str, Any]:
    """Return the file's mapping; empty if the file is missing."""
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_JSON:
        raise UnreadableError(f"{path.name} is larger than {MAX_JSON / 1e6:,.0f} MB.")
    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is no mapping")
    return content


def _read_results(path: Path) -> Results | None:
    """Return the results; None if the file is missing."""
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_JSON:
        raise UnreadableError(f"{path.name} is larger than {MAX_JSON / 1e6:,.0f} MB.")
    return read_results(path.read_bytes())


def _configs(manifest: dict[str, Any]) -> tuple[list[str], str]:
    configs, prefix = manifest["configs"], manifest["prefix"]
    if not re.fullmatch(r"[A-Za-z0-9._-]{0,96}", prefix) or len(configs) > 100:
        raise ValueError("a prefix that is none")
    if not all(re.fullmatch(NAME, config) and config.startswith(prefix) and set(config) != {"."} for config in configs):
        raise ValueError("a config that is none")
    return configs, prefix


def _manifest(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of study.json that the app shows."""
    recipe = raw.get("recipe") or {}
    fields = {"data": "path", "annotate": "model", "train": "encoder"}
    return (
        {"recipe": {name: {key: _text((recipe.get(name) or {}).get(key))} for name, key in fields.items()}}
        if raw
        else {}
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)[:MAX_TEXT]


def _findings(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the sentences of findings.json and its descriptions of the variants."""
    return {
        **{name: [(str(title), str(text)) for title, text in raw.get(name) or []] for name in ("findings", "more")},
        **{name: [str(sentence) for sentence in raw.get(name) or []] for name in ("limits", "labels")},
        **{name: {str(k): str(v) for k, v in (raw.get(name) or {}).items()} for name in ("variants", "controls")},
        "methods": str(raw.get("methods") or ""),
    }


STRINGS = ("text", "run", "id", "label_source")


def _open(path: Path, max_rows: int, max_values: int) -> pq.ParquetFile:
    """Open a parquet file if its metadata are within the limits. Repeated strings share one copy in memory."""
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    values = max((sum(g.column(j).num_values for g in groups) for j in range(metadata.num_columns)), default=0)
    if metadata.num_rows > max_rows or values > max_values:
        raise UnreadableError(
            f"{path.parent.name} has {metadata.num_rows:,} rows and {values:,} values: more than is shown here."
        )
    return pq.ParquetFile(path, read_dictionary=[name for name in STRINGS if name in metadata.schema.names])


def _read(file: pq.ParquetFile, columns: list[str]) -> pa.Table:
    """Read the columns that exist. The metadata may be false, so the decoded bytes are counted."""
    arrays: dict[str, pa.ChunkedArray] = {}
    num_bytes = 0
    for name in [name for name in columns if name in file.schema_arrow.names]:
        chunks = []
        for batch in file.iter_batches(BATCH, columns=[name], use_threads=False):
            chunks.append(batch.column(name))
            num_bytes += chunks[-1].nbytes
            if num_bytes > MAX_DECODED:
                raise UnreadableError(
                    f"The columns unpack to more than {MAX_DECODED / 1e6:,.0f} MB: more than is shown here."
                )
        arrays[name] = pa.chunked_array(chunks) if chunks else pa.chunked_array([], file.schema_arrow.field(name).type)
    return pa.table(arrays)


def _strings(column: pa.ChunkedArray) -> list[str]:
    """Return the strings of a column that was read as a dictionary, each cut to `MAX_TEXT`."""
    values: list[str] = []
    for chunk in (column if pa.types.is_dictionary(column.type) else column.dictionary_encode()).chunks:
        words = [_cut(word) for word in chunk.dictionary.to_pylist()]
        values += ["" if i is None else words[i] for i in chunk.indices.to_pylist()]
    return values


def _cut(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} …"


def _integers(column: pa.ChunkedArray, classes: int, name: str) -> np.ndarray:
    values = column.fill_null(NO_LABEL).to_numpy().astype(np.int64)
    if len(values) and not (values.min() >= NO_LABEL and values.max() < classes):
        raise ValueError(f"{name}: no class")
    return values


def _matrix(column: pa.ChunkedArray, width: int, kind: Any) -> np.ndarray:
    whole = column.combine_chunks()
    if whole.null_count:
        raise ValueError("rows without a list")
    flat = whole.flatten().to_numpy(zero_copy_only=False).astype(kind)
    return flat.reshape(len(whole), width)


def _class_names(schema: pa.Schema) -> list[str]:
    names = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]["label"]["names"]
    if not 2 <= len(names) <= MAX_CLASSES:
        raise ValueError("a number of classes that is none")
    return [str(name)[:100] for name in names]


def _read_pool(files: dict[str, Path]) -> tuple[Pool, list[str]]:
    if not files:
        raise UnreadableError("The study has no labels: no config of a variant is in the repo.")
    base = "llm" if "llm" in files else next(iter(files))
    file = _open(files[base], MAX_ROWS, MAX_CELLS)
    classes = _class_names(file.schema_arrow)
    table = _read(file, ["id", "text", "gold", "llm_label", "llm_probs", "entropy", "votes", "label", "label_source"])
    ids = _strings(table["id"])
    probs = _matrix(table["llm_probs"], len(classes), np.float64)
    votes = np.empty((len(ids), 0), dtype=np.int64)
    if "votes" in table.column_names and len(ids):
        width = len(table["votes"].combine_chunks().flatten()) // len(ids)
        votes = _matrix(table["votes"], width, np.int64)
    place = {row: i for i, row in enumerate(ids)}
    variants = {}
    for variant, path in files.items():
        config = table if variant == base else _read(_open(path, MAX_ROWS, MAX_CELLS), ["id", "label", "label_source"])
        pairs = [(i, place[row]) for i, row in enumerate(_strings(config["id"])) if row in place]
        rows, at = np.array(pairs, dtype=int).reshape(-1, 2).T
        labels, sources = np.full(len(ids), NO_LABEL), np.full(len(ids), "", dtype=object)
        labels[at] = _integers(config["label"], len(classes), "label")[rows]
        sources[at] = np.array(_strings(config["label_source"]), dtype=object)[rows]
        variants[variant] = VariantLabels(labels, sources)
    return (
        Pool(
            ids,
            _strings(table["text"]) if "text" in table.column_names else [""] * len(ids),
            _integers(table["gold"], len(classes), "gold"),
            _integers(table["llm_label"], len(classes), "llm_label"),
            probs,
            np.nan_to_num(table["entropy"].to_numpy().astype(np.float64)),
            votes,
            variants,
        ),
        classes,
    )


def _read_test(test: Path, predictions: Path, classes: int) -> Test | None:
    """Read the test texts with the predictions of the runs; None without a test split."""
    path = test / f"test-{SHARD}"
    if not path.is_file():
        return None
    table = _read(_open(path, MAX_ROWS, MAX_ROWS), ["id", "text", "label"])
    ids = _strings(table["id"])
    texts = _strings(table["text"]) if "text" in table.column_names else [""] * len(ids)
    gold = _integers(table["label"], classes, "label")
    runs: list[tuple[str, int, str]] = []
    labels = np.empty((0, len(ids)), dtype=np.int16)
    top_probs = np.empty((0, len(ids)), dtype=np.float32)
    path = predictions / f"train-{SHARD}"
    if path.is_file():
        file = _open(path, MAX_CELLS // classes, MAX_CELLS)
        if not ids:
            raise ValueError("no test texts")
        # The probabilities are the largest table. Of each batch only the label and its probability are kept.
        order, heads, start = pa.array(ids), [], 0
        label_parts, top_probs_parts = [labels.reshape(-1)], [top_probs.reshape(-1)]
        for batch in file.iter_batches(BATCH, columns=["run", "id", "probs"], use_threads=False):
            rows = np.arange(start, start + len(batch))
            start += len(batch)
            if start * classes > MAX_CELLS:
                raise UnreadableError(
                    f"The predictions are more than {MAX_CELLS:,} probabilities: more than is shown here."
                )
            at = pc.index_in(batch["id"].cast(order.type), value_set=order).fill_null(-1).to_numpy()
            if (at != rows % len(ids)).any():
                raise ValueError("runs that do not have each test text once, in order")
            names = np.array(_strings(pa.chunked_array([batch["run"]])), dtype=object)
            heads += names[at == 0].tolist()
            if (names != np.array(heads, dtype=object)[rows // len(ids)]).any():
                raise ValueError("runs that are mixed")
            probs = _matrix(pa.chunked_array([batch["probs"]]), classes, np.float64)
            label_parts.append(probs.argmax(axis=1).astype(np.int16))
            top_probs_parts.append(probs.max(axis=1).astype(np.float32))
        if start % len(ids):
            raise ValueError("runs that do not have each test text")
        runs = [_run(head) for head in heads]
        labels = np.concatenate(label_parts).reshape(len(runs), len(ids))
        top_probs = np.concatenate(top_probs_parts).reshape(len(runs), len(ids))
    return Test(ids, texts, gold, runs, labels, top_probs)


def _run(name: str) -> tuple[str, int, str]:
    variant, size, seed = name.split("/")
    return variant, int(size.removeprefix("n")), seed
