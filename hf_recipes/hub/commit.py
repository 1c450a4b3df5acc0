"""Commit a change to a repo of the Hub: guarded by its parent, tried again, and read back."""

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..errors import UserError, first_line
from .hub_errors import explain_error, http_status

logger = logging.getLogger(__name__)

MAX_TRIES = 5  # if the Hub or the network has trouble
MAX_RACES = 30  # if another writer was faster: each time the commit of one writer has landed


@dataclass(frozen=True)
class Change:
    """What a commit on top of `parent` changes.

    Attributes:
        files (`dict[str, Path | bytes]`): by their path in the repo.
        stale (`list[str]`): files to delete.
        notes (`list[str]`): what the commit takes away, in words.
    """

    parent: str
    files: dict[str, Path | bytes]
    stale: list[str]
    notes: list[str]


AnyChange = TypeVar("AnyChange", bound=Change)


@dataclass(frozen=True)
class Target:
    """Where and how to commit.

    Attributes:
        repo (`str`): `owner/name`.
        kind (`str`): `dataset` or `model`.
        message (`str`): the title of the commit.
        branch (`str`): a branch.
        create_pr (`bool`): open a pull request instead of committing to the branch.
    """

    repo: str
    kind: Literal["dataset", "model"]
    message: str
    branch: str
    create_pr: bool

    @cached_property
    def api(self) -> Any:
        from huggingface_hub import HfApi

        return HfApi()

    @property
    def address(self) -> str:
        return f"{self.api.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"

    def list_files(self) -> tuple[str, set[str]]:
        """Return the last commit of the branch, and the paths of its files."""
        info = self.api.repo_info(self.repo, repo_type=self.kind, revision=self.branch)
        return info.sha, {file.rfilename for file in info.siblings}

    def read(self, path: str, revision: str) -> str:
        """Return a text file of the repo; empty if it does not exist."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError

        try:
            file = hf_hub_download(self.repo, path, repo_type=self.kind, revision=revision)
        except RemoteEntryNotFoundError:  # no other error: an unread card must not count as an empty one
            return ""
        return Path(file).read_bytes().decode("utf-8")


def make_repo(target: Target, private: bool) -> None:
    """Create the repo and the branch, unless they exist.

    Raises:
        UserError: the Hub refuses, or the repo exists and is public although `private` is set.
    """
    api, repo, kind = target.api, target.repo, target.kind
    try:
        # None leaves the choice to the owner: an organisation may create private repos by default.
        api.create_repo(repo, repo_type=kind, private=private or None, exist_ok=True)
        is_public = private and not api.repo_info(repo, repo_type=kind).private
        if target.branch != "main" and not target.create_pr and not is_public:
            api.create_branch(repo, branch=target.branch, repo_type=kind, exist_ok=True)
    except Exception as error:  # the Hub's own errors, and all that a network can do
        raise UserError(f"--repo {repo}: nothing was published. {explain_error(error)}") from None
    if is_public:
        raise UserError(f"--private: {repo} exists and is public. Make it private first, or name another --repo.")


def commit(target: Target, plan: Callable[[], AnyChange]) -> tuple[str, str, AnyChange]:
    """Plan and commit until a commit lands. Return its address, its id and the change.

    A lost answer does no harm on a branch: what has landed is no change at the next try. Before a pull request is
    opened, the open ones are searched.

    Args:
        target (`Target`):
            Where to commit.
        plan (`Callable`):
            Returns the change for the repo as it is at the moment of the call.

    Raises:
        UserError: nothing was published.
    """
    num_races = num_tries = 0
    while True:
        try:
            change = plan()
            if target.create_pr and not change.stale and _find_difference(target, change.parent, change) is None:
                return f"{target.address}/tree/{target.branch}", change.parent, change
            for number, sha in _open_requests(target) if target.create_pr else ():
                if _find_difference(target, sha, change) is None:
                    return f"{target.address}/discussions/{number}", sha, change
            return (*_send(target, change), change)
        except UserError:
            raise
        except Exception as error:  # another writer was faster; or all that a network can do
            trouble = error
        status = http_status(trouble)
        is_race = status in (409, 412)
        num_races, num_tries = num_races + is_race, num_tries + (not is_race)
        if status in (400, 401, 403, 404) or num_races == MAX_RACES or num_tries == MAX_TRIES:
            doubt = "" if status < 500 else ", as far as is known"
            raise UserError(f"--repo {target.repo}: nothing was published{doubt}. {explain_error(trouble)}") from None
        time.sleep(random.uniform(0.5, 1) * (0.5 if is_race else 2**num_tries / 2))  # noqa: S311


@contextmanager
def after_commit(target: Target, address: str) -> Iterator[None]:
    """Raise a `UserError` that names the address of what is published if a check in the block fails."""
    try:
        yield
    except Exception as error:  # the Hub's own errors, and all that a network can do
        message = f"--repo {target.repo}: published at {address}, but the check failed. {first_line(error)}"
        raise UserError(message) from None


def check_files(target: Target, sha: str, change: Change) -> None:
    """Raise `ValueError` unless the commit has what was sent, to the byte, by the hashes that the Hub gives."""
    path = _find_difference(target, sha, change)
    if path:
        raise ValueError(f"`{path}` at {sha} differs from what was sent.")


def log_change(target: Target, sha: str, change: Change) -> None:
    """Log what the commit took away, or that there was nothing to commit."""
    for note in change.notes:
        logger.warning(note)
    if sha == change.parent:
        logger.warning("%s: is up to date. No commit was made.", target.repo)


def _send(target: Target, change: Change) -> tuple[str, str]:
    """Commit, or open a pull request. Return its address and the commit's id."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    added = [
        CommitOperationAdd(path, file if isinstance(file, bytes) else str(file)) for path, file in change.files.items()
    ]
    target.api.preupload_lfs_files(
        target.repo,
        added,
        repo_type=target.kind,
        revision=target.branch,
        create_pr=target.create_pr,
        free_memory=False,
        gitignore_content="# nothing is ignored",  # a repo's .gitignore would leave out files that the card names
    )
    landed = target.api.create_commit(
        target.repo,
        [*added, *(CommitOperationDelete(path) for path in change.stale)],
        repo_type=target.kind,
        revision=target.branch,
        parent_commit=change.parent,
        create_pr=target.create_pr,
        commit_message=target.message,
    )
    return landed.pr_url or landed.commit_url, landed.oid


def _open_requests(target: Target) -> Iterator[tuple[int, str]]:
    """Yield the number and the commit of each open pull request."""
    api, repo, kind = target.api, target.repo, target.kind
    refs = api.list_repo_refs(repo, repo_type=kind, include_pull_requests=True).pull_requests or []
    commits = {ref.ref: ref.target_commit for ref in refs}
    for request in api.get_repo_discussions(repo, repo_type=kind, discussion_type="pull_request"):
        ref = f"refs/pr/{request.num}"
        if request.status in ("open", "draft") and ref in commits:
            yield request.num, commits[ref]


def _find_difference(target: Target, sha: str, change: Change) -> str | None:
    """Return a file that differs at the revision from the change; None if all are equal."""
    from huggingface_hub.utils.sha import git_hash, sha_fileobj

    infos = target.api.get_paths_info(target.repo, list(change.files), repo_type=target.kind, revision=sha)
    hashes = {info.path: info.lfs.sha256 if info.lfs else info.blob_id for info in infos}
    for path, file in change.files.items():
        with BytesIO(file) if isinstance(file, bytes) else file.open("rb") as content:
            is_lfs = len(hashes.get(path, "")) == 64  # a SHA-256; otherwise git's own hash
            if hashes.get(path) != (sha_fileobj(content).hex() if is_lfs else git_hash(content.read())):
                return path
    return None
