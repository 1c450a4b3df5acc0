"""Read studies from the Hub: one to be shown, or the summaries of all that are tagged `hf-recipes`.

    study = read_hub("owner/name")              # or "owner/name/study" where a repo has several

A download is read into memory by a limited process and deleted.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import limited
from published import HOME, NAME, SHARD, UNREAD, Study, Summary, UnreadableError, choose_study

SPEC = re.compile(rf"({NAME}/{NAME})(?:/({NAME}))?")
MAX_BYTES = 200_000_000  # of the files of a study
MAX_REPOS = 100  # that the landing page lists


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
            f"The study must be `owner/name` or `owner/name/study`. Got `{spec}`. Try the id of a dataset repo."
        )
    repo, name = match[1], match[2]
    api: Any = HfApi(token=token)
    try:
        info = api.repo_info(repo, repo_type="dataset", timeout=10)
        files = {file.rfilename for file in info.siblings}
        names = _names(files)
        study = choose_study(repo, names, name)
        with TemporaryDirectory(prefix="study-") as folder:
            where = Path(folder)
            home = f"{HOME}/{study}"
            _download(api, repo, info.sha, [f"{home}/study.json"], where)
            configs, prefix = limited.call("published.read_configs", where / home / "study.json")
            paths = [f"{home}/{file}.json" for file in ("results", "findings")]
            paths += [f"data/{config}/train-{SHARD}" for config in configs if config[len(prefix) :] not in UNREAD]
            paths += [f"data/{prefix}test/test-{SHARD}"]
            _download(api, repo, info.sha, [path for path in paths if path in files], where)
            return limited.call("published.read_folder", where, study, repo, info.sha, names)
    except limited.LimitError as error:
        raise UnreadableError(f"{repo}: {error}") from None
    except RepositoryNotFoundError:
        raise UnreadableError(
            f"The study must be in a public dataset repo. Got `{repo}`, which does not exist or is private."
        ) from None
    except HfHubHTTPError as error:
        raise UnreadableError(
            f"The Hub answers {error.response.status_code} for {repo}. Try again in a minute."
        ) from None
    except UnreadableError:
        raise
    except Exception as error:  # of the network, whose errors have no common class
        raise UnreadableError(
            f"The Hub cannot be reached for {repo} ({type(error).__name__}). Try again in a minute."
        ) from None


def list_hub() -> Iterator[Summary]:
    """Yield the summaries of the public studies with the tag `hf-recipes`. Repos that cannot be read are left out."""
    from huggingface_hub import HfApi

    api: Any = HfApi(token=False)
    try:
        repos = [info.id for info in api.list_datasets(filter=HOME, limit=MAX_REPOS)]
    except Exception:  # of the network: the page shows the studies that the app has
        return
    for repo in repos:
        try:
            info = api.repo_info(repo, repo_type="dataset", timeout=10)
            files = {file.rfilename for file in info.siblings}
            for name in _names(files):
                with TemporaryDirectory(prefix="study-") as folder:
                    paths = [f"{HOME}/{name}/{file}.json" for file in ("study", "results")]
                    _download(api, repo, info.sha, [path for path in paths if path in files], Path(folder))
                    yield limited.call("published.read_summary", Path(folder), name, repo)
        except Exception:  # noqa: S112 (the repo is damaged, or the network is)
            continue


def _names(files: set[str]) -> list[str]:
    return sorted(path.split("/")[1] for path in files if re.fullmatch(rf"{HOME}/{NAME}/study\.json", path))


def _download(api: Any, repo: str, sha: str, paths: list[str], folder: Path) -> None:
    sizes = {info.path: info.size for info in api.get_paths_info(repo, paths, repo_type="dataset", revision=sha)}
    if (total := sum(sizes.values())) > MAX_BYTES:
        raise UnreadableError(
            f"The files of a study must have at most {MAX_BYTES / 1e6:,.0f} MB. Got {total / 1e6:,.0f} MB in {repo}. "
            "Try python app.py --study with a copy of the repo."
        )
    for path in sizes:
        api.hf_hub_download(repo, path, repo_type="dataset", revision=sha, local_dir=folder)
