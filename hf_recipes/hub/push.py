"""Publish a study as configs of a dataset repo, in one guarded commit.

What is published:

    data/<prefix><variant>/     the configs of the dataset folder; data/<prefix>test/ is the test split of all
    data/<prefix>annotations/   every row of every pass, raw
    data/<prefix>runs/          where runs are trained; predictions/, out_of_bag/ and results/ beside it
    hf-recipes/<study>/         study.json, rows and results: with the above all that a study folder is made of;
                                findings.json: the findings in words; figure.png: the figure of the card
    README.md                   the configs, and a section between two marks; all other bytes are kept

docs/hub.md lists the guarantees.
"""

import logging
import random
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import UserError, first_line
from ..labels.pool import read_labels
from ..report.label_quality import write_labels
from ..study import Study
from .bundle import Bundle, collect, path_in_repo
from .change import Change, Planner, on_hub
from .dataset_folder import DatasetFolder
from .hub_errors import explain_error, http_status

logger = logging.getLogger(__name__)

MAX_TRIES = 5  # if the Hub or the network has trouble
MAX_RACES = 30  # if another writer was faster: each time the commit of one writer has landed


def push_dataset(
    study: Study,
    repo: str,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    prefix: str | None = None,
    texts: bool | None = None,
) -> str:
    """Publish the study as configs of a dataset repo, in one commit.

    The commit is guarded by its parent, so that no writer overwrites another: a refused commit is planned again from
    the new state. Afterwards it is read back and compared.

    Args:
        study (`Study`):
            An annotated study; runs and results are published if the study has them.
        repo (`str`):
            `owner/name`; created if missing.
        private (`bool`, *optional*, defaults to `False`):
            Create the repo as private.
        revision (`str`, *optional*):
            A branch; created if missing. `main` by default.
        create_pr (`bool`, *optional*, defaults to `False`):
            Open a pull request instead of committing.
        prefix (`str`, *optional*):
            The start of the configs' names. Empty by default, or the study's name if its configs would collide.
        texts (`bool`, *optional*):
            Whether to publish the texts. True by default; required if the repo has the study without its texts.

    Returns:
        `str`: the address of the commit, or of the pull request. What the commit takes away is logged as a warning.

    Raises:
        UserError: the repo cannot be created or written, a config or the card cannot be merged, or the commit does not
            have what was sent.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    branch = revision or "main"
    if texts is False and any(section.prompt.examples for section in study.recipe.annotate.all_passes()):
        raise UserError("--no-texts: `annotate.prompt.examples` must be empty, as its texts are part of the recipe.")
    _make_repo(api, repo, private, branch, create_pr)
    with TemporaryDirectory(prefix="hf-recipes-") as folder, study.lock():
        labels = read_labels(study)
        write_labels(study, labels)
        content = DatasetFolder(study, labels)
        content.write()
        if texts is not False and labels.files.withheld:
            raise UserError(f"{study.root}: was published without its texts. Publish it with --no-texts.")
        bundle = collect(study, labels, Path(folder), texts is not False)
        cache = f"{folder}/cache"
        planner = Planner(api, repo, branch, content, bundle, prefix, texts is True, cache)
        address, commit, change = _commit(planner, create_pr)
        try:
            _verify(api, bundle, repo, commit, change, cache)
        except Exception as error:  # the Hub's own errors, and all that a network can do
            raise UserError(
                f"--repo {repo}: published at {address}, but the check failed. {first_line(error)}"
            ) from None
    for note in change.notes:
        logger.warning(note)
    if commit == change.parent:
        logger.warning("%s: is up to date. No commit was made.", repo)
    return address


def _make_repo(api: Any, repo: str, private: bool, branch: str, create_pr: bool) -> None:
    try:
        # None leaves the choice to the owner: an organisation may create private repos by default.
        api.create_repo(repo, repo_type="dataset", private=private or None, exist_ok=True)
        is_public = private and not api.repo_info(repo, repo_type="dataset").private
        if branch != "main" and not create_pr and not is_public:
            api.create_branch(repo, branch=branch, repo_type="dataset", exist_ok=True)
    except Exception as error:  # the Hub's own errors, and all that a network can do
        raise UserError(f"--repo {repo}: nothing was published. {explain_error(error)}") from None
    if is_public:
        raise UserError(f"--private: {repo} exists and is public. Make it private first, or name another --repo.")


def _commit(planner: Planner, create_pr: bool) -> tuple[str, str, Change]:
    """Plan and commit until a commit lands. Return its address, its id and the change.

    A lost answer does no harm on a branch: what has landed is no change at the next try. Before a pull request is
    opened, the open ones are searched.
    """
    api, repo = planner.api, planner.repo
    num_races = num_tries = 0
    while True:
        try:
            change = planner.plan()
            if create_pr and not change.stale and _find_difference(api, repo, change.parent, change) is None:
                return f"{api.endpoint}/datasets/{repo}/tree/{planner.branch}", change.parent, change
            for number, commit in _open_requests(api, repo) if create_pr else ():
                if _find_difference(api, repo, commit, change) is None:
                    return f"{api.endpoint}/datasets/{repo}/discussions/{number}", commit, change
            return (*_send(planner, create_pr, change), change)
        except UserError:
            raise
        except Exception as error:  # another writer was faster; or all that a network can do
            trouble = error
        status = http_status(trouble)
        is_race = status in (409, 412)
        num_races, num_tries = num_races + is_race, num_tries + (not is_race)
        if status in (400, 401, 403, 404) or num_races == MAX_RACES or num_tries == MAX_TRIES:
            doubt = "" if status < 500 else ", as far as is known"
            raise UserError(f"--repo {repo}: nothing was published{doubt}. {explain_error(trouble)}") from None
        time.sleep(random.uniform(0.5, 1) * (0.5 if is_race else 2**num_tries / 2))  # noqa: S311


def _send(planner: Planner, create_pr: bool, change: Change) -> tuple[str, str]:
    """Commit, or open a pull request. Return its address and the commit's id."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    added = [
        CommitOperationAdd(path, file if isinstance(file, bytes) else str(file)) for path, file in change.files.items()
    ]
    planner.api.preupload_lfs_files(
        planner.repo,
        added,
        repo_type="dataset",
        revision=planner.branch,
        create_pr=create_pr,
        free_memory=False,
        gitignore_content="# nothing is ignored",  # a repo's .gitignore would leave out files that the card names
    )
    recipe = planner.content.study.recipe
    commit = planner.api.create_commit(
        planner.repo,
        [*added, *(CommitOperationDelete(path) for path in change.stale)],
        repo_type="dataset",
        revision=planner.branch,
        parent_commit=change.parent,
        create_pr=create_pr,
        commit_message=f"{recipe.name}: labels by {recipe.annotate.model}",
    )
    return commit.pr_url or commit.commit_url, commit.oid


def _open_requests(api: Any, repo: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the commit of each open pull request."""
    refs = api.list_repo_refs(repo, repo_type="dataset", include_pull_requests=True).pull_requests or []
    commits = {ref.ref: ref.target_commit for ref in refs}
    for request in api.get_repo_discussions(repo, repo_type="dataset", discussion_type="pull_request"):
        ref = f"refs/pr/{request.num}"
        if request.status in ("open", "draft") and ref in commits:
            yield request.num, commits[ref]


def _verify(api: Any, bundle: Bundle, repo: str, revision: str, change: Change, cache: str) -> None:
    """Check that the commit has what was sent, to the byte, and that `load_dataset` finds it under each config's name.

    The hashes are those that the Hub gives for its files; equal bytes are equal features, rows and counts.
    """
    from datasets import load_dataset_builder

    path = _find_difference(api, repo, revision, change)
    if path:
        raise ValueError(f"`{path}` at {revision} differs from what was sent.")
    for config, splits in bundle.configs.items():
        name = change.names[config]
        builder = load_dataset_builder(on_hub(repo), name, revision=revision, cache_dir=cache)
        data_files = builder.config.data_files or {}
        places = {
            str(split): [path.rpartition(f"@{revision}/")[2] for path in paths] for split, paths in data_files.items()
        }
        if places != {split: [path_in_repo(name.removesuffix(config), config, split)] for split in splits}:
            raise ValueError(f"load_dataset finds other files as {name} at {revision}: {places}.")


def _find_difference(api: Any, repo: str, revision: str, change: Change) -> str | None:
    """Return a file that differs at the revision from the change; None if all are equal."""
    from huggingface_hub.utils.sha import git_hash, sha_fileobj

    infos = api.get_paths_info(repo, list(change.files), repo_type="dataset", revision=revision)
    hashes = {info.path: info.lfs.sha256 if info.lfs else info.blob_id for info in infos}
    for path, file in change.files.items():
        with BytesIO(file) if isinstance(file, bytes) else file.open("rb") as content:
            is_lfs = len(hashes.get(path, "")) == 64  # a SHA-256; otherwise git's own hash
            if hashes.get(path) != (sha_fileobj(content).hex() if is_lfs else git_hash(content.read())):
                return path
    return None
