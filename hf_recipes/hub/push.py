"""Publish a study as configs of a dataset repo, in one guarded commit.

What is published:

    data/<prefix><variant>/         the configs of the dataset folder; data/<prefix>test/ is the test split of all
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
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from ..errors import UserError, first_line
from ..labels.pool import read_labels
from ..report.label_quality import write_labels
from ..study import Study
from .bundle import SHARD, Bundle, collect
from .card import merge_card, read_front
from .dataset_folder import DatasetFolder, make_card

logger = logging.getLogger(__name__)

ATTEMPTS = 5  # where the Hub or the network has trouble
RACES = 30  # where somebody else was faster: each time one of all who write has landed
OURS = "hf-recipes"
PREFIX = "[A-Za-z0-9._-]*"


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
        bundle = collect(study, labels, Path(folder), texts is not False)
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
        raise UserError(f"--repo {repo}: nothing was published: {explain_error(error)}") from None
    if public:
        raise UserError(f"--private: {repo} is there and is public; make it private first, or name another")


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
            raise UserError(f"--repo {repo}: nothing was {what}: {explain_error(trouble)}") from None
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
        paths = {split: path_in_repo(chosen, config, split) for split in splits}
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


def explain_error(error: Exception) -> str:
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


def path_in_repo(prefix: str, config: str, split: str) -> str:
    """Where a split of a config lies in the repo; the test split is that of all variants."""
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
        paths = {path_in_repo(prefix, config, split) for config, splits in bundle.configs.items() for split in splits}
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
        if places != {split: [path_in_repo(name.removesuffix(config), config, split)] for split in splits}:
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
