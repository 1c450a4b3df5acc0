"""To the Hub and back: a study as configs of a dataset repo, in one guarded commit; a metric module as a Space.

What is published:

    data/<prefix><arm>/         the configs of the dataset folder; data/<prefix>test/ is the test split of all
    data/<prefix>annotations/   every row of every pass, raw; runs/ and predictions/ where runs are trained
    hf-recipes/<study>/         study.json, rows and results: with the above all that a study folder is made of again
    README.md                   the configs, and a section between two marks; all else in it stays byte for byte

docs/hub.md says what is promised.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from .card import merge_card, split_card
from .grid import all_runs
from .parts import Parts
from .recipe import UserError, first_line
from .study import FORMAT, Study, hash_files, make_key, read_json, whole_folder, write_json, write_text
from .variants import make_card, write_variants

ATTEMPTS = 6  # others may be writing too
OURS = "hf-recipes"
NOT_PUBLISHED = "(the demonstrations in it are texts, which are not published)"
SHARD = "00000-of-00001.parquet"


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
    texts: bool = True,
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
        texts (`bool`, *optional*, defaults to `True`):
            Whether the texts may be published.

    Returns:
        `str`: the address of the commit, or of the pull request.

    Raises:
        UserError: no such repo and no right to make it, a config that is somebody else's, a card that cannot be merged,
            what was read back is not what was sent.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    branch = revision or "main"
    _make_repo(api, repo, private, branch)
    write_variants(study)
    with TemporaryDirectory(prefix="hf-recipes-") as folder:
        bundle = _collect(study, Path(folder), texts)
        cache = str(
            Path(folder, "cache")
        )  # fresh: `datasets` falls back to what it once loaded from a repo of this name
        address, commit, names = _commit(api, study, bundle, repo, branch, create_pr, prefix, cache)
        _compare(bundle, repo, commit, names, cache)
    return address


def _make_repo(api: Any, repo: str, private: bool, branch: str) -> None:
    try:
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        if branch != "main":
            api.create_branch(repo, branch=branch, repo_type="dataset", exist_ok=True)
    except Exception as error:  # the Hub's own errors, and all that a network can do
        raise UserError(f"--repo {repo}: {first_line(error)}; hf auth login, or name a repo of your own") from None


def _collect(study: Study, folder: Path, texts: bool) -> Bundle:
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
    with pq.ParquetWriter(folder / "annotations.parquet", ANNOTATIONS) as writer:
        for number, key in enumerate(current["keys"]):
            for table in _final_rows(study, key):
                extra = [pa.array([number] * len(table), pa.int32()), pa.array([key] * len(table), pa.string())]
                writer.write_table(pa.table([*extra, *table.columns], schema=ANNOTATIONS))
            free = pq.read_table(study.annotations(key) / "content_free.parquet").to_pylist()
            made = read_json(study.annotations(key) / "manifest.json")
            passes.append({"key": key, "manifest": made if texts else _without_prompt(made), "free": free})
    configs["annotations"] = {"train": folder / "annotations.parquet"}
    trained = all_runs(study.grid) if study.recipe.grid else []
    trained = [run for run in trained if (study.run(run) / "run.json").exists()]
    if trained:
        records = [{"run": str(run), "record": (study.run(run) / "run.json").read_text("utf-8")} for run in trained]
        pq.write_table(pa.Table.from_pylist(records), folder / "runs.parquet")
        tables = [pq.read_table(study.run(run) / "predictions.parquet") for run in trained]
        pq.write_table(pa.concat_tables(tables).unify_dictionaries(), folder / "predictions.parquet")
        configs |= {name: {"train": folder / f"{name}.parquet"} for name in ("runs", "predictions")}
    others = {}
    for name in ("train", "test"):
        rows = study.rows / f"{name}.parquet"
        others[f"rows-{name}.parquet"] = rows if texts else _without_texts(rows, folder / f"rows-{name}.parquet", True)
    others |= {file.name: file for file in (study.results_file, study.labels_file) if file.exists()}
    recipe = yaml.safe_load(study.recipe_file.read_text(encoding="utf-8"))
    manifest = {
        **{"format": FORMAT, "study": study.recipe.name, "texts": texts, "recipe": recipe["recipe"]},
        **{"revisions": read_json(study.revisions_file), "rows": read_json(study.rows / "manifest.json")},
        **{"current": current, "passes": passes},
    }
    return Bundle(configs, others, manifest)


ANNOTATIONS = pa.schema(
    [
        *(("pass", pa.int32()), ("key", pa.string()), ("id", pa.string()), ("prompt_id", pa.string())),
        *(("logprobs", pa.list_(pa.float64())), ("n_tokens", pa.int32()), ("truncated", pa.bool_())),
        *(("status", pa.string()), ("error", pa.string())),
    ]
)


def _final_rows(study: Study, key: str) -> Iterator[pa.Table]:
    """The rows of a pass, each as its last part has it."""
    ids = pq.read_table(study.rows / "train.parquet", columns=["id"])["id"].combine_chunks()
    columns = [name for name in ANNOTATIONS.names if name not in ("pass", "key", "id")]
    tables, places = [], []
    for table, rows in Parts(study.annotations(key)).by_row(ids, *columns):
        tables.append(table)
        places += rows.tolist()
    last = {place: i for i, place in enumerate(places)}
    yield pa.concat_tables(tables).take(pa.array([last[place] for place in sorted(last)]))


def _without_texts(source: Path, target: Path, keep_column: bool = False) -> Path:
    """A copy whose texts are null, or that has no such column."""
    table = pq.read_table(source)
    place = table.column_names.index("text")
    nothing = table.set_column(place, "text", pa.nulls(len(table), pa.string()))
    pq.write_table(nothing if keep_column else _without_feature(table, "text"), target)
    return target


def _without_prompt(manifest: dict[str, Any]) -> dict[str, Any]:
    """What is known of a pass, but for the demonstrations, which are texts; of each a hash stays."""
    ingredients = {name: value for name, value in manifest["ingredients"].items() if name not in ("frame", "per_text")}
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


def _commit(
    api: Any, study: Study, bundle: Bundle, repo: str, branch: str, create_pr: bool, prefix: str | None, cache: str
) -> tuple[str, str, dict[str, str]]:
    """Commits the bundle; returns the commit's address and id, and the published name of each config."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    home, trouble = f"{OURS}/{study.recipe.name}", "nothing was tried"
    for _ in range(ATTEMPTS):
        head = api.repo_info(repo, repo_type="dataset", revision=branch).sha
        card, before = _read(repo, "README.md", head), json.loads(_read(repo, f"{home}/study.json", head) or "{}")
        chosen = _choose_prefix(study, bundle, card, before, prefix)
        names = {config: chosen + config for config in bundle.configs}
        files: dict[str, Path | bytes] = {f"{home}/{name}": file for name, file in bundle.others.items()}
        entries = []
        for config, splits in bundle.configs.items():
            entry: dict[str, Any] = {"config_name": names[config], "data_files": []}
            for split, file in splits.items():
                path = f"data/{chosen}{'test' if split == 'test' else config}/{split}-{SHARD}"
                files[path] = file
                entry["data_files"].append({"split": split, "path": path})
            entries.append(entry)
        content = {name: hash_files(file) for name, file in files.items() if isinstance(file, Path)}
        said = {**bundle.manifest, "prefix": chosen, "configs": list(names.values()), "files": sorted(files)}
        said["publication"] = make_key(content=content, manifest=said)
        files[f"{home}/study.json"] = (json.dumps(said, indent=1, ensure_ascii=False) + "\n").encode()
        made = make_card(study, repo, chosen, bundle.manifest["texts"], list(bundle.configs))
        kept = [] if before else _inferred(repo, head, card, cache)
        files["README.md"] = merge_card(
            card, study.recipe.name, entries, before.get("configs", []), kept, f"{chosen}llm", made
        ).encode()
        stale = set(before.get("files", [])) - files.keys()
        operations: list[Any] = [
            CommitOperationAdd(path, file if isinstance(file, bytes) else str(file)) for path, file in files.items()
        ]
        operations += [CommitOperationDelete(path) for path in sorted(stale)]
        try:
            done = api.create_commit(
                repo,
                operations,
                repo_type="dataset",
                revision=branch,
                parent_commit=head,
                create_pr=create_pr,
                commit_message=f"{study.recipe.name}: labels by {study.recipe.annotate.model}",
                commit_description=f"hf-recipes {said['publication']}",
            )
            return done.pr_url or done.commit_url, done.pr_revision or done.oid, names
        except Exception as error:  # refused, as somebody else has committed; or the answer was lost
            trouble = first_line(error)
            if (landed := _landed(api, repo, branch, create_pr, f"{home}/study.json", said["publication"])) is not None:
                return f"{api.endpoint}/datasets/{repo}/tree/{landed}", landed, names
            if getattr(getattr(error, "response", None), "status_code", 500) in (400, 401, 403, 404):
                break
    raise UserError(f"--repo {repo}: nothing was published: {trouble}")


def _landed(api: Any, repo: str, branch: str, create_pr: bool, path: str, publication: str) -> str | None:
    """The revision that holds this publication, if its answer was lost on the way and not the commit."""
    refs = api.list_repo_refs(repo, repo_type="dataset", include_pull_requests=create_pr)
    found = refs.pull_requests if create_pr else [ref for ref in refs.branches if ref.name == branch]
    for ref in found or []:
        if json.loads(_read(repo, path, ref.target_commit) or "{}").get("publication") == publication:
            return str(ref.target_commit)
    return None


def _read(repo: str, path: str, revision: str) -> str:
    """A text file of the repo at a revision; empty if there is none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        file = hf_hub_download(repo, path, repo_type="dataset", revision=revision)
    except EntryNotFoundError:
        return ""
    return Path(file).read_bytes().decode("utf-8")


def _configs(card: str) -> list[dict[str, Any]]:
    """The configs that a card names."""
    front = yaml.safe_load(split_card(card)[0]) or {}
    return list(front.get("configs") or [])


def _choose_prefix(study: Study, bundle: Bundle, card: str, before: dict[str, Any], asked: str | None) -> str:
    """What the names of the configs begin with; none of them may be somebody else's."""
    others = {str(entry.get("config_name")) for entry in _configs(card)} - set(before.get("configs", []))
    prefix = before.get("prefix", "") if asked is None else asked
    taken = sorted(others & {prefix + config for config in bundle.configs})
    if taken and asked is None:
        prefix = f"{study.recipe.name}-"
        taken = sorted(others & {prefix + config for config in bundle.configs})
    if taken or not re.fullmatch(r"[A-Za-z0-9._-]*", prefix):
        raise UserError(
            f"--prefix: '{prefix}' gives the config '{taken[0] if taken else prefix}', which is taken or no name"
        )
    return prefix


def _inferred(repo: str, revision: str, card: str, cache: str) -> list[dict[str, Any]]:
    """The config as which a repo without any in its card has been loaded, so that it still is.

    Raises:
        UserError: the repo's files are not parquet, and `datasets` loads all configs of a repo in one way.
    """
    from datasets import load_dataset_builder
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DataFilesNotFoundError
    from datasets.packaged_modules.parquet.parquet import Parquet

    named = [entry.get("config_name") for entry in _configs(card)]
    try:
        builder = load_dataset_builder(repo, named[0] if named else None, revision=revision, cache_dir=cache)
    except (DataFilesNotFoundError, EmptyDatasetError):
        return []
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


def _compare(bundle: Bundle, repo: str, revision: str, names: dict[str, str], cache: str) -> None:
    """Reads the published configs back, and compares features, row ids and counts."""
    from datasets import Features, load_dataset

    for config, splits in bundle.configs.items():
        for split, file in splits.items():
            found = load_dataset(repo, names[config], split=split, revision=revision, streaming=True, cache_dir=cache)
            table = pq.read_table(file)
            column = "run" if config == "runs" else "id"
            wanted = Features.from_arrow_schema(table.schema)
            union = {name for other in splits.values() for name in pq.read_schema(other).names}
            shown = {name: kind for name, kind in (found.features or {}).items() if name in wanted}
            ids = [row for batch in found.select_columns([column]).iter(10_000) for row in batch[column]]
            if shown != dict(wanted) or set(found.features or ()) != union or ids != table[column].to_pylist():
                raise UserError(
                    f"--repo {repo}: {names[config]} ({split}) at {revision} is not what was sent: {len(ids)} rows in "
                    f"place of {len(table)}, or other features or ids; push again"
                )


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
    from huggingface_hub import snapshot_download

    try:
        where = snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=[f"{OURS}/*", "data/*"])
    except Exception as error:  # the Hub's own errors, and all that a network can do
        raise UserError(f"{repo}: {first_line(error)}") from None
    found = {path.parent.name: path.parent for path in sorted(Path(where, OURS).glob("*/study.json"))}
    if not found or (name or next(iter(found))) not in found or (name is None and len(found) > 1):
        raise UserError(f"{repo}: holds the studies {', '.join(found) or '(none)'}; name one of them with --study")
    home = found[name or next(iter(found))]
    said = read_json(home / "study.json")
    if said["format"] != FORMAT:
        raise UserError(f"{repo}: published by another version of hf-recipes (format {said['format']})")
    folder = folder or Path("studies", home.name)
    if folder.exists():
        raise UserError(f"{folder}: exists; name another --output_dir")
    with whole_folder(folder) as made:
        _unpack(Path(where), home, said, made)
    return folder


def _unpack(where: Path, home: Path, said: dict[str, Any], made: Path) -> None:
    def table(config: str) -> pa.Table:
        return pq.read_table(where / "data" / f"{said['prefix']}{config}" / f"train-{SHARD}")

    content = {"format": said["format"], "recipe": said["recipe"]}
    write_text(made / "recipe.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    if said["revisions"]:
        write_json(made / "revisions.json", said["revisions"])
    (made / "rows").mkdir()
    for split in ("train", "test"):
        (made / "rows" / f"{split}.parquet").write_bytes((home / f"rows-{split}.parquet").read_bytes())
    write_json(made / "rows" / "manifest.json", said["rows"])
    rows = table("annotations")
    for one in said["passes"]:
        folder = made / "annotations" / one["key"]
        folder.mkdir(parents=True)
        mine = rows.filter(pa.compute.equal(rows["key"], one["key"])).drop_columns(["pass", "key"])
        pq.write_table(mine, folder / "part-00000.parquet")
        pq.write_table(pa.Table.from_pylist(one["free"], mine.schema), folder / "content_free.parquet")
        write_json(folder / "manifest.json", one["manifest"])
    write_json(made / "annotations" / "current.json", said["current"])
    if f"{said['prefix']}runs" in said["configs"]:
        predictions = table("predictions")
        for row in table("runs").to_pylist():
            record = json.loads(row["record"])
            folder = made / "runs" / record["arm"] / f"n{record['size']}" / record["seed"]
            folder.mkdir(parents=True)
            mine = predictions.filter(pa.compute.equal(predictions["run"].cast(pa.string()), row["run"]))
            pq.write_table(mine, folder / "predictions.parquet")
            write_json(folder / "run.json", record)
    (made / "report").mkdir()
    for file in ("results.json", "labels.json"):
        if (home / file).exists():
            (made / "report" / file).write_bytes((home / file).read_bytes())


def push_metric(folder: Path, owner: str, private: bool = False) -> str:
    """Publishes a metric module as a Space, where `evaluate.load("owner/name")` finds it and its page runs.

    Returns:
        `str`: the address of the Space.

    Raises:
        UserError: the folder is no module, or the Hub refuses.
    """
    from huggingface_hub import HfApi

    name = folder.resolve().name
    if not (folder / f"{name}.py").is_file() or not (folder / "README.md").is_file():
        raise UserError(f"{folder}: no metric module; it needs {name}.py and README.md")
    api = HfApi()
    try:
        made = api.create_repo(f"{owner}/{name}", repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        head = api.repo_info(made.repo_id, repo_type="space").sha
        api.upload_folder(
            repo_id=made.repo_id,
            repo_type="space",
            folder_path=folder,
            parent_commit=head,
            ignore_patterns=["__pycache__/*", "*.pyc"],
            commit_message=f"{name} of hf-recipes",
        )
    except Exception as error:  # the Hub's own errors, and all that a network can do
        raise UserError(f"{owner}/{name}: {first_line(error)}; hf auth login, or push again") from None
    return str(made)
