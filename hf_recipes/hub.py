"""To the Hub and back: a study as configs of a dataset repo, in one guarded commit; a metric module, or the app
that shows studies, as a Space.

What is published:

    data/<prefix><arm>/         the configs of the dataset folder; data/<prefix>test/ is the test split of all
    data/<prefix>annotations/   every row of every pass, raw; runs/, predictions/ and results/ where runs are trained
    hf-recipes/<study>/         study.json, rows and results: with the above all that a study folder is made of again;
                                findings.json: what was found in words
    README.md                   the configs, and a section between two marks; all else in it stays byte for byte

docs/hub.md says what is promised.
"""

import json
import logging
import random
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from . import tables
from .annotate import CONTENT_FREE_FILE
from .card import merge_card, read_front, split_card
from .data import SCHEMA as ROWS
from .dataset_folder import DatasetFolder, make_card, make_findings
from .grid import all_runs
from .labels.pool import StudyLabels, read_labels
from .measure import measure, metrics_folder
from .parts import SCHEMA, Parts
from .quality import write_labels
from .recipe import Recipe, UserError, drop_addresses, first_line
from .runs import PREDICTIONS, Runs
from .schema import Results
from .study import FORMAT, Study, hash_ids, make_key, read_json, whole_folder, write_json, write_text

logger = logging.getLogger(__name__)

ATTEMPTS = 5  # where the Hub or the network has trouble
RACES = 30  # where somebody else was faster: each time one of all who write has landed
OURS = "hf-recipes"
NOT_PUBLISHED = "(the demonstrations in it are texts, which are not published)"
PREFIX = "[A-Za-z0-9._-]*"
SHARD = "00000-of-00001.parquet"

# A pulled repo may be anybody's: these bound what it costs.
MAX_JSON_BYTES = 16 * 2**20  # of each JSON file
MAX_TABLE_BYTES = 4 * 2**30  # of each parquet file
MAX_DECODED_BYTES = 8 * 2**30  # of each table in memory
MAX_EXPANSION = 512  # decoded bytes for each byte of a table; guided labels of 1,000 classes have 141
MIN_DECODED_BYTES = 32 * 2**20  # a table may always have these
MAX_BATCH_ROWS = 1024  # decoded at a time
MAX_RECIPE_CHARS = 200_000  # as JSON
MAX_RUNS = 100_000  # of the grid
MAX_TEMPLATE_CHARS = 10_000
MAX_NAMES = 10  # of studies in a message


@dataclass(frozen=True)
class Bundle:
    """What is to be published, as local files.

    Attributes:
        configs (`dict[str, dict[str, Path]]`): by config (without prefix) and split.
        others (`dict[str, Path]`): by name in the study's own folder of the repo.
        manifest (`dict`): the content of study.json, without what depends on the repo.
    """

    configs: dict[str, dict[str, Path]]
    others: dict[str, Path]
    manifest: dict[str, Any]


def push_dataset(
    study: Study,
    repo: str,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    prefix: str | None = None,
    texts: bool | None = None,
) -> str:
    """Publishes the study as configs of a dataset repo, in one commit.

    Whoever commits at the same time loses nothing and overwrites nothing: the commit is guarded by its parent, and made
    anew from what is there when it is refused. It is read back and compared.

    Args:
        study (`Study`):
            An annotated study; runs and results go along if there are any.
        repo (`str`):
            `owner/name`; made if it does not exist.
        private (`bool`, *optional*, defaults to `False`):
            Make a new repo private.
        revision (`str`, *optional*):
            A branch; made if it does not exist. `main` by default.
        create_pr (`bool`, *optional*, defaults to `False`):
            Open a pull request in place of committing.
        prefix (`str`, *optional*):
            Of the configs' names. Empty by default, or the study's name where its configs would collide with others.
        texts (`bool`, *optional*):
            Whether the texts may be published. By default they are, unless the study is there without them: then this
            has to be said.

    Returns:
        `str`: the address of the commit, or of the pull request. What the commit takes away is logged as a warning.

    Raises:
        UserError: no such repo and no right to make it, a config that is somebody else's, a card that cannot be merged,
            what was read back is not what was sent.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    branch = revision or "main"
    shown = [one.prompt.examples for one in study.recipe.annotate.all_passes() if one.prompt.examples]
    if shown and texts is False:
        raise UserError("--no-texts: annotate.prompt.examples are texts, and a recipe without them is another one")
    _make_repo(api, repo, private, branch, create_pr)
    with TemporaryDirectory(prefix="hf-recipes-") as folder, study.lock():
        labels = read_labels(study)
        write_labels(study, labels)
        content = DatasetFolder(study, labels)
        content.write()
        if texts is not False and labels.files.withheld:
            raise UserError(f"{study.root}: was published without its texts; push it with --no-texts")
        bundle = _collect(study, labels, Path(folder), texts is not False)
        cache = f"{folder}/cache"  # fresh: `datasets` falls back to what it once loaded from a repo of this name
        address, commit, change = _commit(api, content, bundle, repo, branch, create_pr, prefix, texts is True, cache)
        try:
            _compare(api, bundle, repo, commit, change, cache)
        except Exception as error:  # the Hub's own errors, and all that a network can do
            raise UserError(f"--repo {repo}: published at {address}, but not read back: {first_line(error)}") from None
    for note in change.notes:
        logger.warning(note)
    if commit == change.parent:
        logger.warning("%s: nothing has changed", repo)
    return address


def _make_repo(api: Any, repo: str, private: bool, branch: str, create_pr: bool) -> None:
    try:
        # not private is not public: an organisation may have another default
        api.create_repo(repo, repo_type="dataset", private=private or None, exist_ok=True)
        public = private and not api.repo_info(repo, repo_type="dataset").private
        if branch != "main" and not create_pr and not public:
            api.create_branch(repo, branch=branch, repo_type="dataset", exist_ok=True)
    except Exception as error:  # the Hub's own errors, and all that a network can do
        raise UserError(f"--repo {repo}: nothing was published: {_explain(error)}") from None
    if public:
        raise UserError(f"--private: {repo} is there and is public; make it private first, or name another")


def _collect(study: Study, labels: StudyLabels, folder: Path, texts: bool) -> Bundle:
    """The files to be published; those that are not in the dataset folder are made in `folder`."""
    configs: dict[str, dict[str, Path]] = {}
    test = study.dataset / "data" / "test" / f"test-{SHARD}"
    if test.exists() and not texts:
        test = _without_texts(test, folder / "test.parquet")
    for arm in sorted(path.name for path in (study.dataset / "data").iterdir() if path.name != "test"):
        train = study.dataset / "data" / arm / f"train-{SHARD}"
        configs[arm] = {"train": train if texts else _without_texts(train, folder / f"{arm}.parquet")}
        if test.exists():
            configs[arm]["test"] = test
    current = read_json(study.annotations_root / "current.json")
    passes = []
    with tables.writer(folder / "annotations.parquet", ANNOTATIONS) as writer:
        for number, key in enumerate(dict.fromkeys(current["keys"])):  # passes may differ in their calibration alone
            for rows in _final_rows(study, labels.files.column("id", ("train", "test")), key):
                silent = rows.set_column(rows.column_names.index("error"), "error", pa.nulls(len(rows), pa.string()))
                table = rows if texts else silent  # what an engine says of a text may hold it
                extra = [pa.array([number] * len(table), pa.int32()), pa.array([key] * len(table), pa.string())]
                writer.write_table(pa.table([*extra, *table.columns], schema=ANNOTATIONS))
            free = tables.read(study.annotations(key) / CONTENT_FREE_FILE, SCHEMA).to_pylist()
            made = read_json(study.annotations(key) / "manifest.json")
            passes.append({"key": key, "manifest": made if texts else _without_prompt(made), "free": free})
    configs["annotations"] = {"train": folder / "annotations.parquet"}
    runs = Runs(study, labels) if study.recipe.grid else None
    wanted = runs.all if runs else []
    trained = [run for run in wanted if runs and runs.is_valid(run)]
    if len(trained) < len(wanted):
        logger.warning(
            "%d of %d runs are not trained: no results are published", len(wanted) - len(trained), len(wanted)
        )
    if trained:
        records = [{"run": str(run), "record": (study.run(run) / "run.json").read_text("utf-8")} for run in trained]
        tables.write(folder / "runs.parquet", pa.Table.from_pylist(records))
        read = [
            tables.read(study.run(run) / "predictions.parquet", PREDICTIONS, delete=study.run(run)) for run in trained
        ]
        tables.write(folder / "predictions.parquet", pa.concat_tables(read).unify_dictionaries())
        configs |= {name: {"train": folder / f"{name}.parquet"} for name in ("runs", "predictions")}
    others = {}
    for name in ("train", "test"):
        file = study.rows / f"{name}.parquet"
        others[f"rows-{name}.parquet"] = file if texts else _without_texts(file, folder / f"rows-{name}.parquet", True)
    measured = runs is not None and trained == wanted
    if runs and measured:
        figures = list(_figures(measure(study, labels, runs)))
        pq.write_table(pa.Table.from_pylist(figures, FIGURE_COLUMNS), folder / "results.parquet")
        configs["results"] = {"train": folder / "results.parquet"}
    reports = [study.labels_file, *([study.results_file] if measured else [])]
    others |= {file.name: file for file in reports if file.exists()}
    others["findings.json"] = folder / "findings.json"
    write_json(others["findings.json"], make_findings(study, measured))
    audit = {f"audit-{name}.json": study.audit / f"{name}.json" for name in ("sample", "labels")}  # ids and classes
    others |= {name: file for name, file in audit.items() if file.exists()}
    recipe = yaml.safe_load(study.recipe_file.read_text(encoding="utf-8"))["recipe"]
    drop_addresses(recipe["annotate"])
    manifest = {
        **{"format": FORMAT, "study": study.recipe.name, "texts": texts, "recipe": recipe},
        **{"revisions": read_json(study.revisions_file), "rows": read_json(study.rows / "manifest.json")},
        **{"current": current, "passes": passes, "runs": len(trained), "row_ids": _identity(study)},
    }
    return Bundle(configs, others, manifest)


FIGURE_COLUMNS = pa.schema(
    [
        *(("variant", pa.string()), ("against", pa.string()), ("size", pa.int32()), ("figure", pa.string())),
        *((name, pa.float64()) for name in ("value", "low", "high")),
        *(("R", pa.int32()), ("n", pa.int32()), ("p_value", pa.float64()), ("p_holm", pa.float64())),
        *(("primary", pa.bool_()), ("verdict", pa.string())),
    ]
)


def _figures(results: Results) -> Iterator[dict[str, Any]]:
    """The results as rows: each figure of an arm that has an interval, and each difference of one arm from another."""
    for result in results.variants:
        figures = result.model_dump()
        for figure in (name.removesuffix("_interval") for name in figures if name.endswith("_interval")):
            if isinstance(value := figures.get(figure), float):  # not those of each class, which are lists
                low, high = figures[f"{figure}_interval"] or (None, None)
                judged = result.n_gold if figure.startswith(("accuracy", "macro_f1")) else result.n
                yield {**figures, "n": judged, "figure": figure, "value": value, "low": low, "high": high}
    for comparison in results.comparisons:
        low, high = comparison.interval or (None, None)
        yield {**comparison.model_dump(), "value": comparison.difference, "low": low, "high": high}


def _identity(study: Study) -> str:
    """Of the rows: what they are called and their gold, whatever else is known of them."""
    read = [tables.read(study.rows / f"{name}.parquet", ROWS, ["id", "gold"], study.rows) for name in ("train", "test")]
    return hash_ids(
        f"{i} {gold}" for t in read for i, gold in zip(t["id"].to_pylist(), t["gold"].to_pylist(), strict=True)
    )


ANNOTATIONS = pa.schema(
    [
        *(("pass", pa.int32()), ("key", pa.string()), ("id", pa.string()), ("prompt_id", pa.string())),
        *(("logprobs", pa.list_(pa.float64())), ("n_tokens", pa.int32()), ("truncated", pa.bool_())),
        *(("status", pa.string()), ("error", pa.string())),
    ]
)


def _final_rows(study: Study, ids: pa.Array, key: str) -> Iterator[pa.Table]:
    """The rows of a pass, each as its last part has it, some parts at a time."""
    parts, last, seen = Parts(study.annotations(key)), np.full(len(ids), -1), 0
    for _, rows in parts.by_row(ids):
        last[rows] = np.arange(seen, seen + len(rows))  # of an id that comes again the last counts
        seen += len(rows)
    seen = 0
    for table, rows in parts.by_row(ids, *(name for name in ANNOTATIONS.names if name not in ("pass", "key", "id"))):
        yield table.filter(pa.array(last[rows] == np.arange(seen, seen + len(rows))))
        seen += len(rows)


def _without_texts(source: Path, target: Path, keep_column: bool = False) -> Path:
    """A copy whose texts are null, or that has no such column."""
    file = pq.ParquetFile(source)
    place = file.schema_arrow.names.index("text")

    def strip(table: pa.Table) -> pa.Table:
        nothing = table.set_column(place, "text", pa.nulls(len(table), pa.string()))
        return nothing if keep_column else _without_feature(table, "text")

    with pq.ParquetWriter(target, strip(file.schema_arrow.empty_table()).schema) as writer:
        for batch in file.iter_batches():
            writer.write_table(strip(pa.Table.from_batches([batch])))
    return target


def _without_prompt(manifest: dict[str, Any]) -> dict[str, Any]:
    """What is known of a pass, but for the demonstrations, which are texts; of each a hash stays."""
    if manifest["prompt"] == NOT_PUBLISHED:
        return manifest
    ingredients = {name: value for name, value in manifest["ingredients"].items() if name != "frame"}
    shown = [make_key(text=text) for text in ingredients["shown"]]
    return {**manifest, "prompt": NOT_PUBLISHED, "ingredients": {**ingredients, "shown": shown}}


def _without_feature(table: pa.Table, name: str) -> pa.Table:
    """The table without a column, also in what it says to `datasets` of its features."""
    metadata = dict(table.schema.metadata or {})
    if b"huggingface" in metadata:
        said = json.loads(metadata[b"huggingface"])
        said["info"]["features"].pop(name)
        metadata[b"huggingface"] = json.dumps(said).encode()
    return table.drop_columns([name]).replace_schema_metadata(metadata)


@dataclass(frozen=True)
class Change:
    """What a commit on top of `parent` is to hold.

    Attributes:
        files (`dict[str, Path | bytes]`): by their path in the repo.
        stale (`list[str]`): files of the study that nobody needs any more.
        names (`dict[str, str]`): of each config as it is published.
        notes (`list[str]`): what was there and will not be, in words.
    """

    parent: str
    files: dict[str, Path | bytes]
    stale: list[str]
    names: dict[str, str]
    notes: list[str]


def _commit(
    api: Any,
    content: DatasetFolder,
    bundle: Bundle,
    repo: str,
    branch: str,
    create_pr: bool,
    prefix: str | None,
    bare: bool,
    cache: str,
) -> tuple[str, str, Change]:
    """Commits the bundle, made anew from what is there until it lands; returns the address and the commit.

    An answer that was lost needs no care on a branch: what has landed is no change at the next try. A pull request is
    looked for before another one is opened.
    """
    cards: dict[str, str] = {}  # by prefix
    races = troubles = 0
    while True:
        try:
            change = _plan(api, content, bundle, repo, branch, prefix, bare, cards, cache)
            if create_pr and not change.stale and _find_difference(api, repo, change.parent, change) is None:
                return f"{api.endpoint}/datasets/{repo}/tree/{branch}", change.parent, change  # nothing to ask for
            for number, commit in _requests(api, repo) if create_pr else ():
                if _find_difference(api, repo, commit, change) is None:
                    return f"{api.endpoint}/datasets/{repo}/discussions/{number}", commit, change
            address, commit = _send(api, content.study, repo, branch, create_pr, change)
            return address, commit, change
        except UserError:
            raise
        except Exception as error:  # refused, as somebody else has committed; or all that a network can do
            trouble = error
        status = _status(trouble)
        raced = status in (409, 412)
        races, troubles = races + raced, troubles + (not raced)
        if status in (400, 401, 403, 404) or races == RACES or troubles == ATTEMPTS:
            what = "published" if status < 500 else "published, as far as is known"
            raise UserError(f"--repo {repo}: nothing was {what}: {_explain(trouble)}") from None
        time.sleep(random.uniform(0.5, 1) * (0.5 if raced else 2**troubles / 2))  # noqa: S311


def _plan(
    api: Any,
    content: DatasetFolder,
    bundle: Bundle,
    repo: str,
    branch: str,
    prefix: str | None,
    bare: bool,
    cards: dict[str, str],
    cache: str,
) -> Change:
    """The bundle merged with what is in the repo now."""
    study = content.study
    home = f"{OURS}/{study.recipe.name}"
    info = api.repo_info(repo, repo_type="dataset", revision=branch)
    head, there = info.sha, {file.rfilename for file in info.siblings}
    script = repo.rpartition("/")[2].removesuffix(".py") + ".py"
    if script in there or repo.endswith(".py"):
        raise UserError(
            f"--repo {repo}: must not hold a loading script, as `datasets` refuses every config of a repo with "
            f"`{script}`. Delete the script first, or name another --repo"
        )
    card = _read(repo, "README.md", head)
    before = _read_before(bundle, repo, f"{home}/study.json", head)
    if before and bundle.manifest["texts"] and not (before["texts"] or bare):
        raise UserError(
            f"--repo {repo}: has this study without its texts; say --no-texts again, or --texts to add them"
        )
    foreign = _foreign(card, before)
    chosen = _choose_prefix(study, bundle, card, before, foreign, prefix, there)
    names = {config: chosen + config for config in bundle.configs}
    files: dict[str, Path | bytes] = {f"{home}/{name}": file for name, file in bundle.others.items()}
    entries = []
    for config, splits in bundle.configs.items():
        paths = {split: _path(chosen, config, split) for split in splits}
        files |= {paths[split]: file for split, file in splits.items()}
        data_files = [{"split": split, "path": path} for split, path in paths.items()]
        entries.append({"config_name": names[config], "data_files": data_files})
    said = {**bundle.manifest, "prefix": chosen, "configs": list(names.values()), "files": sorted(files)}
    files[f"{home}/study.json"] = (json.dumps(said, indent=1, ensure_ascii=False) + "\n").encode()
    if caught := _claimed(foreign, files):
        raise UserError(
            f"--repo {repo}: its config '{caught[1]}' would take {caught[0]} for its own; name its data_files more "
            "closely in README.md, or name another repo"
        )
    if chosen not in cards:
        measured = "results.json" in bundle.others
        cards[chosen] = make_card(content, repo, chosen, bundle.manifest["texts"], list(bundle.configs), measured)
    kept = [] if before or not there - {"README.md", ".gitattributes"} else _inferred(repo, head, card, cache)
    ours = [name for name in before.get("configs", []) if name not in foreign]
    merged = merge_card(card, study.recipe.name, entries, ours, kept, f"{chosen}llm", cards[chosen])
    files["README.md"] = merged.encode()
    own = (f"data/{before.get('prefix', '')}", f"{home}/")
    stale = {path for path in before.get("files", []) if path.startswith(own)} & there - files.keys()
    unused = sorted(path for path in stale if not _claimed(foreign, [path]))
    gone = sorted(set(ours) - set(said["configs"]))
    notes = [f"{repo}: {', '.join(gone)} are in the study no longer, and were taken out"] if gone else []
    if before.get("runs", 0) > said["runs"]:
        notes.append(f"{repo}: had {before['runs']:,} runs of this study, and has {said['runs']:,} now")
    if f"{home}/results.json" in unused:
        notes.append(f"{repo}: its results were taken out, as not all runs are trained")
    if f"{home}/audit-labels.json" in unused:
        notes.append(f"{repo}: people's labels (audit) were taken out, as they are not in this study")
    if notes:
        notes.append(f"what was there is at {head}")
    return Change(head, files, unused, names, notes)


def _send(api: Any, study: Study, repo: str, branch: str, create_pr: bool, change: Change) -> tuple[str, str]:
    """One commit, or a pull request; its address and id."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    added = [
        CommitOperationAdd(path, file if isinstance(file, bytes) else str(file)) for path, file in change.files.items()
    ]
    # a repo's .gitignore would leave out files that the card names
    api.preupload_lfs_files(
        repo,
        added,
        **{"repo_type": "dataset", "revision": branch, "create_pr": create_pr},
        **{"free_memory": False, "gitignore_content": "# nothing is ignored"},
    )
    done = api.create_commit(
        repo,
        [*added, *(CommitOperationDelete(path) for path in change.stale)],
        repo_type="dataset",
        revision=branch,
        parent_commit=change.parent,
        create_pr=create_pr,
        commit_message=f"{study.recipe.name}: labels by {study.recipe.annotate.model}",
    )
    return done.pr_url or done.commit_url, done.oid  # `datasets` names files by the commit, also of a pull request


def _status(error: BaseException) -> int:
    """Return the status of the answer that is the error or its cause.

    Without an answer: 500 for trouble that may pass; 400 for what the client or the content is at fault for, which
    another try does not change.
    """
    for one in (error, error.__cause__):
        if (answer := getattr(one, "response", None)) is not None:
            return int(answer.status_code)
    lasting = (ValueError, TypeError, LookupError, AttributeError, RecursionError, yaml.YAMLError)
    return 400 if isinstance(error, lasting) else 500


def _explain(error: Exception) -> str:
    """What went wrong at the Hub, and what to do, in a line."""
    from huggingface_hub.errors import (
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    said = ", ".join(dict.fromkeys(first_line(one) for one in (error, error.__cause__) if one))
    match error:
        case HFValidationError():
            return f"that is no name of a repo, which is owner/name ({said})"
        case OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set; unset it"
        case RevisionNotFoundError():
            return "it has no such branch, tag or commit"
        case RepositoryNotFoundError():
            return f"no such repo of this kind, or a private one; hf auth login with a token that may see it ({said})"
    if _status(error) in (401, 403):
        return f"{said}; hf auth login with a token that may write there, or name a repo of your own"
    return said if _status(error) < 500 and _status(error) != 429 else f"{said}; try again"


def _read_before(bundle: Bundle, repo: str, path: str, head: str) -> dict[str, Any]:
    """What the repo says of a study of this name; empty if there is none.

    Raises:
        UserError: it is damaged, or another study, or it has texts and this one may not.
    """
    try:
        before: dict[str, Any] = json.loads(_read(repo, path, head) or "{}")
        if not before:
            return before
        rows, texts, lists = before["row_ids"], before["texts"], (before["configs"], before["files"])
        if not all(isinstance(one, list) for one in lists) or not re.fullmatch(PREFIX, before["prefix"]):
            raise ValueError("no lists of configs and files, or no prefix")
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"--repo {repo}: {path} is damaged ({first_line(error)}); mend or delete it") from None
    if rows != bundle.manifest["row_ids"]:
        raise UserError(f"--repo {repo}: holds another study of this name; give this one another name")
    if texts and not bundle.manifest["texts"]:
        raise UserError(f"--no-texts: {repo} holds the texts already, also in its history; name another repo")
    return before


def _foreign(card: str, before: dict[str, Any]) -> dict[str, list[str]]:
    """The configs that are somebody else's, with the patterns of their files.

    A config is the study's as long as it has a name that the study published, and no files but those that it published.
    """
    found = {}
    for entry in read_front(card).get("configs") or []:
        name, given = str(entry.get("config_name")), entry.get("data_files") or []
        listed = [given] if isinstance(given, str) else list(given.values()) if isinstance(given, dict) else given
        paths = [one.get("path") if isinstance(one, dict) else one for one in listed]
        flat = [str(path) for one in paths for path in (one if isinstance(one, list) else [one])] or ["**"]
        folder = str(entry.get("data_dir") or "").strip("/")
        patterns = [f"{folder}/{path}" if folder else path.removeprefix("./") for path in flat]
        if name not in before.get("configs", []) or not set(patterns) <= set(before["files"]):
            found[name] = patterns
    return found


def _claimed(foreign: dict[str, list[str]], files: Iterable[str]) -> tuple[str, str] | None:
    """A file that is among those of somebody else's config, and the config."""
    from fsspec.utils import glob_translate

    for name, patterns in foreign.items():
        for pattern in patterns:
            match = re.compile(glob_translate(pattern)).match
            if caught := next(filter(match, files), None):
                return caught, name
    return None


def _requests(api: Any, repo: str) -> Iterator[tuple[int, str]]:
    """The pull requests that are open, each with its commit."""
    refs = api.list_repo_refs(repo, repo_type="dataset", include_pull_requests=True).pull_requests or []
    commits = {ref.ref: ref.target_commit for ref in refs}
    for one in api.get_repo_discussions(repo, repo_type="dataset", discussion_type="pull_request"):
        if one.status in ("open", "draft") and (ref := f"refs/pr/{one.num}") in commits:
            yield one.num, commits[ref]


def _path(prefix: str, config: str, split: str) -> str:
    """Where a split of a config lies in the repo; the test split is that of all arms."""
    return f"data/{prefix}{'test' if split == 'test' else config}/{split}-{SHARD}"


def _read(repo: str, path: str, revision: str) -> str:
    """A text file of the repo at a revision; empty if there is none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        file = hf_hub_download(repo, path, repo_type="dataset", revision=revision)
    except RemoteEntryNotFoundError:  # and not what a network does: an unread card must not pass for an empty one
        return ""
    return Path(file).read_bytes().decode("utf-8")


def _choose_prefix(
    study: Study,
    bundle: Bundle,
    card: str,
    before: dict[str, Any],
    foreign: dict[str, list[str]],
    asked: str | None,
    there: set[str],
) -> str:
    """What the names of the configs begin with; none of them, and no file of theirs, may be somebody else's."""
    infos = read_front(card).get("dataset_info") or []
    named = {str(entry.get("config_name")) for entry in ([infos] if isinstance(infos, dict) else infos)}
    others = foreign.keys() | named - set(before.get("configs", []))
    files = there - set(before.get("files", []))

    def find_taken(prefix: str) -> list[str]:
        paths = {_path(prefix, config, split) for config, splits in bundle.configs.items() for split in splits}
        taken = files & paths | {path for path in paths if _claimed(foreign, [path]) and path in there}
        return sorted(others & {prefix + config for config in bundle.configs}) + sorted(taken)

    prefix = before.get("prefix", "") if asked is None else asked
    taken = find_taken(prefix)
    if taken and asked is None:
        prefix = f"{study.recipe.name}-"
        taken = find_taken(prefix)
    if taken or not re.fullmatch(PREFIX, prefix):
        raise UserError(
            f"--prefix: '{prefix}' gives the config '{taken[0] if taken else prefix}', which is taken or no name"
        )
    return prefix


def _inferred(repo: str, revision: str, card: str, cache: str) -> list[dict[str, Any]]:
    """The config as which a repo without any in its card has been loaded, so that it still is.

    Raises:
        UserError: the repo's files are not parquet, and `datasets` loads all configs of a repo in one way; or its first
            config cannot be loaded.
    """
    from datasets import load_dataset_builder
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DataFilesNotFoundError
    from datasets.packaged_modules.parquet.parquet import Parquet
    from huggingface_hub.errors import LocalEntryNotFoundError

    named = [entry.get("config_name") for entry in read_front(card).get("configs") or []]
    try:
        builder = load_dataset_builder(_on_hub(repo), named[0] if named else None, revision=revision, cache_dir=cache)
    except (DataFilesNotFoundError, EmptyDatasetError):
        return []
    except (ValueError, FileNotFoundError) as error:
        if not named or isinstance(error, LocalEntryNotFoundError):  # the latter is trouble on the network
            raise
        raise UserError(
            f"--repo {repo}: `datasets` must load the config '{named[0]}' of its README.md. It reports: "
            f"{first_line(error)}. Correct the config first"
        ) from None
    if not isinstance(builder, Parquet):
        raise UserError(
            f"--repo {repo}: its files are not parquet ({type(builder).__name__}), and datasets loads all configs of a "
            "repo in the way of the first; name another repo, or make theirs parquet"
        )
    if named:
        return []
    files = [
        {"split": str(split), "path": [str(path).split(f"@{revision}/", 1)[1] for path in paths]}
        for split, paths in (builder.config.data_files or {}).items()
    ]
    return [{"config_name": "default", "data_files": files}]


def _on_hub(repo: str) -> str:
    """Return a path that `datasets` only looks for on the Hub. It prefers a local folder to a repo of the same name."""
    return f"hf://datasets/{repo}"


def _compare(api: Any, bundle: Bundle, repo: str, revision: str, change: Change, cache: str) -> None:
    """Whether the commit holds what was sent, to the byte, and `load_dataset` finds it under each config's name.

    The hashes are those that the Hub gives for its files; equal bytes are equal features, rows and counts.
    """
    from datasets import load_dataset_builder

    if path := _find_difference(api, repo, revision, change):
        raise ValueError(f"{path} at {revision} is not what was sent")
    for config, splits in bundle.configs.items():
        name = change.names[config]
        builder = load_dataset_builder(_on_hub(repo), name, revision=revision, cache_dir=cache)
        given = {str(split): list(paths) for split, paths in (builder.config.data_files or {}).items()}
        places = {split: [path.rpartition(f"@{revision}/")[2] for path in paths] for split, paths in given.items()}
        if places != {split: [_path(name.removesuffix(config), config, split)] for split in splits}:
            raise ValueError(f"load_dataset finds other files as {name} at {revision}: {places}")


def _find_difference(api: Any, repo: str, revision: str, change: Change) -> str | None:
    """A file that is not at the revision as it was to be sent; None if all are."""
    from huggingface_hub.utils.sha import git_hash, sha_fileobj

    held = api.get_paths_info(repo, list(change.files), repo_type="dataset", revision=revision)
    found = {one.path: one.lfs.sha256 if one.lfs else one.blob_id for one in held}
    for path, file in change.files.items():
        with BytesIO(file) if isinstance(file, bytes) else file.open("rb") as content:
            large = len(found.get(path, "")) == 64  # kept as LFS: sha256; else what git calls it
            if found.get(path) != (sha_fileobj(content).hex() if large else git_hash(content.read())):
                return path
    return None


def pull_study(repo: str, folder: Path | None = None, name: str | None = None, revision: str | None = None) -> Path:
    """Makes a study folder of a published study.

    Args:
        repo (`str`):
            `owner/name` of the dataset repo.
        folder (`Path`, *optional*):
            The study folder, which must not exist; `studies/<name>` by default.
        name (`str`, *optional*):
            The study, where the repo holds several.
        revision (`str`, *optional*):
            Branch, tag or commit.

    Returns:
        `Path`: the study folder. Its `recipe.yaml` is the recipe to go on with.

    Raises:
        UserError: no such repo or study, or the folder exists.
    """
    from huggingface_hub import HfApi, snapshot_download

    api: Any = HfApi()
    try:
        info = api.repo_info(repo, repo_type="dataset", revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size for file in info.siblings}

        def fetch(*paths: str) -> Path:
            for path in paths:
                limit = MAX_TABLE_BYTES if path.endswith(".parquet") else MAX_JSON_BYTES
                if path not in sizes:
                    raise UserError(f"{repo}: {OURS}/{name} is damaged (`{path}` is missing)")
                if sizes[path] > limit:
                    raise UserError(f"{repo}: `{path}` must have at most {limit:,} bytes. It has {sizes[path]:,}")
            return Path(snapshot_download(repo, repo_type="dataset", revision=info.sha, allow_patterns=[*paths]))

        found = _studies(sizes)
        if not found:
            raise UserError(f"{repo}: no study of hf-recipes was published there (it has no {OURS}/*/study.json)")
        if (name or found[0]) not in found or (name is None and len(found) > 1):
            raise UserError(f"{repo}: holds the studies {_some(found)}; name one of them with --study")
        name = name or found[0]
        folder = folder or Path("studies", name)
        if folder.exists():
            raise UserError(f"{folder}: exists; name another --output_dir")
        if "::" in str(folder):
            raise UserError(f"--output_dir must be a local folder without '::'. Got {folder}. Try studies/{name}")
        home = f"{OURS}/{name}"
        manifest = fetch(f"{home}/study.json") / home / "study.json"
        with _damage_named(repo, name):
            said = _read_manifest(manifest, repo, name)
            has_runs = f"{said['prefix']}runs" in said["configs"]
        wanted = [f"{home}/rows-train.parquet", f"{home}/rows-test.parquet"]
        wanted += [
            _path(said["prefix"], table, "train")
            for table in ("annotations", *(("runs", "predictions") if has_runs else ()))
        ]
        optional = ("results.json", "labels.json", "audit-sample.json", "audit-labels.json")
        where = fetch(*wanted, *(f"{home}/{file}" for file in optional if f"{home}/{file}" in sizes))
    except UserError:
        raise
    except Exception as error:  # the Hub's own errors, and all that a network can do
        raise UserError(f"{repo}: {_explain(error)}") from None
    with _damage_named(repo, name), whole_folder(folder) as made:
        _unpack(where, where / home, said, Recipe.model_validate(said["recipe"]), made)
    return folder


@contextmanager
def _damage_named(repo: str, name: str) -> Iterator[None]:
    """Turn whatever a repo's content can raise into a sentence: nothing in it is believed, as it may be anybody's."""
    kinds = (LookupError, TypeError, AttributeError, ValueError, RecursionError, OSError, pa.ArrowException)
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        raise UserError(f"{repo}: {OURS}/{name} is damaged ({first_line(error)})") from None


def _read_manifest(file: Path, repo: str, name: str) -> dict[str, Any]:
    """Return the content of a study.json, with a recipe that is safe to use and has no addresses and no folder."""
    said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    # The prompts of passes hold texts of the source as they are, and no command prints them.
    shown = ("prompt", "ingredients")
    manifests = [{key: value for key, value in one["manifest"].items() if key not in shown} for one in said["passes"]]
    _check_printable(file, [{**said, "passes": []}, *manifests])
    if said["format"] != FORMAT:
        raise UserError(f"{repo}: published by another version of hf-recipes (format {said['format']})")
    if len(json.dumps(said["recipe"])) > MAX_RECIPE_CHARS:
        raise UserError(f"{repo}: `recipe` must have at most {MAX_RECIPE_CHARS:,} characters")
    recipe = Recipe.model_validate(said["recipe"])
    if grid := recipe.grid:
        crossed = grid.crossed.levels ** len(grid.vary) * len(grid.crossed.arms) if grid.crossed else 0
        if len(grid.arms) * len(grid.sizes) * len(grid.seeds) + crossed > MAX_RUNS:
            raise UserError(f"{repo}: `grid` must have at most {MAX_RUNS:,} runs")
    keys = [one["key"] for one in said["passes"]]
    passes = recipe.annotate.all_passes()
    if not set(said["current"]["keys"]) <= set(keys) or len(said["current"]["keys"]) != len(passes):
        raise ValueError("passes that are not there")
    if recipe.name != name or not all(re.fullmatch("[0-9a-f]{16}", key) for key in keys):
        raise ValueError("names that are not valid")
    if not re.fullmatch(PREFIX, said["prefix"]):
        raise ValueError("a prefix that is not valid")
    for section in passes:
        _check_template("annotate.prompt.template", section.prompt.template, ("labels", "demonstrations"))
    if recipe.data.text_template is not None:
        _check_template("data.text_template", recipe.data.text_template, ())
    drop_addresses(said["recipe"]["annotate"])
    said["recipe"].pop("output_dir", None)
    return said


def _check_template(key: str, template: str, lists: tuple[str, ...]) -> None:
    """Check that what a pulled template renders grows with its parts, and not with their product.

    A template is a program: nested loops, arithmetic and calls can take for ever. What remains is enough for a prompt.

    Raises:
        UserError: it is too long, loops over something else than `lists` or inside a loop, or does more than print,
            compare and loop.
    """
    from jinja2 import TemplateError, nodes
    from jinja2.sandbox import SandboxedEnvironment

    try:
        tree = SandboxedEnvironment().parse(template if len(template) <= MAX_TEMPLATE_CHARS else "")
    except TemplateError as error:
        raise UserError(f"{key}: {first_line(error)}") from None
    simple = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.Const, nodes.Name, nodes.Getattr, nodes.Getitem)
    logic = (nodes.If, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.Not, nodes.And, nodes.Or, nodes.Test)
    wrong = f"it has {len(template):,} characters" if len(template) > MAX_TEMPLATE_CHARS else ""
    for node in tree.find_all(nodes.Node):
        if isinstance(node, nodes.Filter):
            is_known = node.name in ("trim", "lower", "upper", "capitalize", "title", "length", "default")
            wrong = wrong or ("" if is_known else f"it has the filter {node.name}")
        elif isinstance(node, nodes.For):
            is_known = isinstance(node.iter, nodes.Name) and node.iter.name in lists
            is_nested = next(node.find_all(nodes.For), None) is not None
            wrong = wrong or ("it has a loop inside a loop" if is_nested else "")
            inside = {
                name.name
                for part in node.body
                for name in [part, *part.find_all(nodes.Name)]
                if isinstance(name, nodes.Name)
            }
            wrong = wrong or ("it prints a whole list inside a loop" if inside & {*lists} else "")
            wrong = wrong or ("" if is_known else f"it has a loop over something else than {' or '.join(lists) or '-'}")
        elif not isinstance(node, (*simple, *logic)):
            wrong = wrong or f"it has {type(node).__name__}"
    if wrong:
        raise UserError(f"{key}: must be a simple template in a pulled study (docs/hub.md). Here {wrong}")


def _check_printable(file: Path, content: Any) -> None:
    """Refuse control characters in the texts of a JSON file, as terminals obey them."""
    left = [content]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            left += [*part.keys(), *part.values()]
        elif isinstance(part, list):
            left += part
        elif isinstance(part, str) and re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", part.replace("\r\n", "\n")):
            raise ValueError(f"{file.name} must not have control characters")


def _copy_json(source: Path, target: Path) -> None:
    content = json.loads(source.read_text(encoding="utf-8"))
    _check_printable(source, content)
    write_json(target, content)


def _batches(path: Path, schema: pa.Schema, *compressions: str) -> Iterator[pa.Table]:
    """Decode a table of a repo, some rows at a time; a small file may stand for more than fits into memory.

    Raises:
        ValueError: it has other columns, a compression that this library does not write there, or more than the limits.
    """
    if not pq.read_schema(path).equals(schema):
        raise ValueError(f"other columns in {path.name}")
    # A dictionary holds a text once, however many rows have it: it is counted before it is multiplied.
    file = pq.ParquetFile(path, read_dictionary=[field.name for field in schema if pa.types.is_string(field.type)])
    limit = min(MAX_DECODED_BYTES, max(MIN_DECODED_BYTES, MAX_EXPANSION * path.stat().st_size))
    total = 0
    for group in range(file.num_row_groups):
        described = file.metadata.row_group(group)
        columns = [described.column(i) for i in range(described.num_columns)]
        # Snappy makes at most some twenty bytes of one, others thousands.
        if any(column.compression not in ("SNAPPY", "UNCOMPRESSED", *compressions) for column in columns):
            raise ValueError(f"an unexpected compression in {path.name}")
        # The footer may be wrong, and it only refuses early.
        if sum(max(column.num_values, column.total_uncompressed_size) for column in columns) > limit:
            raise ValueError(f"more than {limit:,} bytes in {path.name}")
    for batch in file.iter_batches(MAX_BATCH_ROWS, use_threads=False):
        total += sum(map(_decoded_size, batch.columns))
        if total > limit:
            raise ValueError(f"more than {limit:,} bytes in {path.name}")
        yield pa.Table.from_batches([batch]).cast(schema)


def _decoded_size(column: pa.Array) -> int:
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    lengths = pa.compute.binary_length(column.dictionary)
    return int(pa.compute.sum(lengths.take(column.indices)).as_py() or 0) + 8 * len(column)


RUNS = pa.schema({"run": pa.string(), "record": pa.string()})


def _unpack(where: Path, home: Path, said: dict[str, Any], recipe: Recipe, made: Path) -> None:
    def table(config: str, schema: pa.Schema) -> pa.Table:
        return pa.concat_tables(
            [schema.empty_table(), *_batches(where / _path(said["prefix"], config, "train"), schema)]
        )

    study = Study(recipe.model_copy(update={"output_dir": str(made)}))
    content = {"format": said["format"], "recipe": said["recipe"]}
    write_text(study.recipe_file, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    if said["revisions"]:
        write_json(study.revisions_file, said["revisions"])
    study.rows.mkdir()
    for split in ("train", "test"):
        for _ in _batches(home / f"rows-{split}.parquet", ROWS, "ZSTD"):
            pass  # it decodes within the limits, and later steps read it whole
        shutil.copyfile(home / f"rows-{split}.parquet", study.rows / f"{split}.parquet")
    write_json(study.rows / "manifest.json", said["rows"])
    rows = table("annotations", ANNOTATIONS)
    for one in said["passes"]:
        folder = study.annotations(one["key"])
        folder.mkdir(parents=True)
        mine = rows.filter(pa.compute.equal(rows["key"], one["key"])).drop_columns(["pass", "key"])
        tables.write(folder / "part-00000.parquet", mine)
        tables.write(folder / CONTENT_FREE_FILE, pa.Table.from_pylist(one["free"], mine.schema))
        write_json(folder / "manifest.json", one["manifest"])
    write_json(study.annotations_root / "current.json", said["current"])
    if f"{said['prefix']}runs" in said["configs"]:
        predictions = table("predictions", PREDICTIONS)
        runs = {str(run): run for run in all_runs(study.grid)}
        for row in table("runs", RUNS).to_pylist():
            folder = study.run(runs[row["run"]])
            folder.mkdir(parents=True)
            mine = predictions.filter(pa.compute.equal(predictions["run"].cast(pa.string()), row["run"]))
            tables.write(folder / "predictions.parquet", mine.unify_dictionaries())
            write_json(folder / "run.json", json.loads(row["record"]))
    for name in ("sample", "labels"):
        if (home / f"audit-{name}.json").exists():
            study.audit.mkdir(exist_ok=True)
            _copy_json(home / f"audit-{name}.json", study.audit / f"{name}.json")
    study.report.mkdir()
    for file in (study.results_file, study.labels_file):
        if (home / file.name).exists():
            _copy_json(home / file.name, file)
    study.checksums.adopt()


def push_metric(folder: Path, owner: str, private: bool = False) -> str:
    """Publishes a metric module as a Space, where `evaluate.load("owner/name")` finds it and its page runs.

    Returns:
        `str`: the address of the Space.

    Raises:
        UserError: the folder is no module, or the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    name = folder.resolve().name
    if not (folder / f"{name}.py").is_file() or not (folder / "README.md").is_file():
        raise UserError(f"{folder}: no metric module; it needs {name}.py and README.md")
    api: Any = HfApi()
    try:
        made = api.create_repo(
            f"{owner}/{name}", repo_type="space", space_sdk="gradio", private=private or None, exist_ok=True
        )
        info = api.repo_info(made.repo_id, repo_type="space")
        there = {file.rfilename for file in info.siblings} - {"README.md", ".gitattributes"}
        if there and f"{name}.py" not in there:
            raise ValueError(f"the Space holds other files ({sorted(there)[0]}); name another --owner")
        api.create_commit(
            made.repo_id,
            [
                CommitOperationAdd(name, _at_home(path, owner, api.endpoint))
                for name, path in metric_files(folder).items()
            ],
            repo_type="space",
            parent_commit=info.sha,
            commit_message=f"{name} of hf-recipes",
        )
    except Exception as error:  # the Hub's own errors, and all that a network can do
        raise UserError(f"{owner}/{name}: {_explain(error)}") from None
    return str(made)


def metric_files(folder: Path) -> dict[str, Path]:
    """Return the files of a metric's Space by their names there: those of its folder, and the page that ours share."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".md", ".txt")]
    named = {path.relative_to(folder).as_posix(): path for path in files}
    if folder.resolve().parent == metrics_folder().resolve():
        named |= {name: folder.resolve().parent / name for name in ("app.py", "requirements.txt")}
    return named


def push_space(repo: str, study: str, private: bool = False) -> str:
    """Publishes the app of `spaces_app/` as a Space that shows a published study.

    Its card is the app's own; `datasets` and `models` in it are the study's, by which the app knows what to show. The
    metric modules go along, as the app measures what its visitors bring.

    Args:
        repo (`str`):
            `owner/name` of the Space; made if it does not exist.
        study (`str`):
            `owner/name` of the dataset repo with the study, or `owner/name/study` where it holds several.
        private (`bool`, *optional*, defaults to `False`):
            Make a new Space private.

    Returns:
        `str`: the address of the Space.

    Raises:
        UserError: no such study, the Space holds other files, or the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api: Any = HfApi()
    source, name, models = _find_study(api, study)
    app, modules = spaces_folder(), metrics_folder()
    files = {str(path.relative_to(app)): path.read_bytes() for path in _own_files(app)}
    files |= {f"metrics/{path.relative_to(modules)}": path.read_bytes() for path in _own_files(modules)}
    files["README.md"] = _space_card(app / "README.md", source, name, models).encode()
    try:
        made = api.create_repo(repo, repo_type="space", space_sdk="gradio", private=private or None, exist_ok=True)
        head = api.repo_info(made.repo_id, repo_type="space")
        there = {file.rfilename for file in head.siblings} - {"README.md", ".gitattributes"}
        if there and not {"app.py", "published.py"} <= there:
            raise ValueError(f"the Space holds other files ({min(there)}); name another --repo")
        stale = [path for path in sorted(there - files.keys()) if path.startswith(("sample/", "metrics/"))]
        api.create_commit(
            made.repo_id,
            [
                *(CommitOperationAdd(path, content) for path, content in files.items()),
                *(CommitOperationDelete(path) for path in stale),
            ],
            repo_type="space",
            parent_commit=head.sha,
            commit_message=f"The Space of hf-recipes, for {study}",
        )
    except Exception as error:  # the Hub's own errors, and all that a network can do
        raise UserError(f"--repo {repo}: {_explain(error)}") from None
    return str(made)


def _find_study(api: Any, study: str) -> tuple[str, str, list[str]]:
    """The repo and name of a published study, `owner/name` or `owner/name/study`, and its models on the Hub."""
    from huggingface_hub import hf_hub_download

    *first, name = study.split("/") if study.count("/") == 2 else (*study.split("/"), "")
    source = "/".join(first)
    try:
        info = api.repo_info(source, repo_type="dataset")
        paths = [file.rfilename for file in info.siblings]
        found = _studies(paths)
        if not found or (name and name not in found):
            held = f"it has {_some(found)}" if found else f"it has no {OURS}/*/study.json"
            raise UserError(f"--study {study}: no study of hf-recipes was published there ({held})")
        manifest = f"{OURS}/{name or found[0]}/study.json"
        said = read_json(Path(hf_hub_download(source, manifest, repo_type="dataset", revision=info.sha)))
        return source, name, sorted({asked.rpartition("@")[0] for asked in said["revisions"] or {} if "@" in asked})
    except UserError:
        raise
    except Exception as error:  # the Hub's own errors, and all that a network can do
        raise UserError(f"--study {study}: {_explain(error)}") from None


def _studies(paths: Iterable[str]) -> list[str]:
    """Return the names of the studies among a repo's files."""
    return sorted(path.split("/")[1] for path in paths if re.fullmatch(rf"{OURS}/[A-Za-z0-9._-]+/study\.json", path))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def spaces_folder() -> Path:
    """Where the app lies: inside the installed package, or beside it in a clone."""
    inside = Path(__file__).parent / "spaces_app"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "spaces_app"


def _own_files(folder: Path) -> list[Path]:
    """The files of a folder that are not made by running what is in it."""
    hidden = ("__pycache__", ".gradio", ".cache")
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in found if not set(path.relative_to(folder).parts) & set(hidden)]


def _space_card(card: Path, source: str, name: str, models: list[str]) -> str:
    """The app's card with the study in `datasets` and its models in `models`."""
    front, body = split_card(card.read_text(encoding="utf-8"))
    said = {**yaml.safe_load(front), "datasets": [source]}
    said |= ({"study": name} if name else {}) | ({"models": models} if models else {})
    return f"---\n{yaml.safe_dump(said, sort_keys=False, allow_unicode=True)}---\n{body}"


def _at_home(path: Path, owner: str, endpoint: str) -> bytes:
    """A file of a module as its Space has it: its card names the modules by where they are now."""
    content = path.read_text(encoding="utf-8")
    if path.name == "README.md":
        content = re.sub(r"\bmetrics/(\w+)", rf"{owner}/\1", content)
        content = re.sub(r"\]\(\.\./(\w+)/README\.md\)", rf"]({endpoint}/spaces/{owner}/\1)", content)
        content = re.sub(r"\[([^\]]+)\]\(\.\./\.\./[^)]+\)", r"\1 of hf-recipes", content)
    return content.encode()
