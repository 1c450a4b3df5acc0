"""Publish a metric module, or the app that shows a study, as a Space."""

import re
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..metric_loading import metrics_folder
from ..study import PACKAGE, read_json
from .bundle import HOME
from .card import split_card
from .dataset_card import FIGURE, HUB
from .hub_errors import explain_error
from .pull import list_names, list_studies


def push_metric(folder: Path, owner: str, private: bool = False) -> str:
    """Publish a metric module as a Space, where `evaluate.load("owner/name")` finds it and its page runs.

    Returns:
        `str`: the address of the Space.

    Raises:
        UserError: the folder is not a module, or the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    name = folder.resolve().name
    if not (folder / f"{name}.py").is_file() or not (folder / "README.md").is_file():
        raise UserError(f"`{folder}` must be a metric module, with `{name}.py` and `README.md`.")
    api: Any = HfApi()
    try:
        space = api.create_repo(
            f"{owner}/{name}", repo_type="space", space_sdk="gradio", private=private or None, exist_ok=True
        )
        info = api.repo_info(space.repo_id, repo_type="space")
        paths = {file.rfilename for file in info.siblings} - {"README.md", ".gitattributes"}
        if paths and f"{name}.py" not in paths:
            raise ValueError(f"The Space has other files, for example `{min(paths)}`. Name another --owner")
        api.create_commit(
            space.repo_id,
            [
                CommitOperationAdd(name, _for_space(path, owner, api.endpoint))
                for name, path in metric_files(folder).items()
            ],
            repo_type="space",
            parent_commit=info.sha,
            commit_message=f"{name} of hf-recipes",
        )
    except Exception as error:  # the Hub's own errors, and all that a network can do
        raise UserError(f"{owner}/{name}: {explain_error(error)}") from None
    return str(space)


def metric_files(folder: Path) -> dict[str, Path]:
    """Return the files of a metric's Space by their names there: those of its folder, and the page that ours share."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".md", ".txt")]
    named = {path.relative_to(folder).as_posix(): path for path in files}
    if folder.resolve().parent == metrics_folder().resolve():
        named |= {name: folder.resolve().parent / name for name in ("app.py", "theme.py", "requirements.txt")}
    return named


def push_space(repo: str, study: str, private: bool = False) -> str:
    """Publish the app of `spaces_app/` as a Space that shows a published study.

    Its card is the app's own; `datasets` and `models` in it are the study's, which the app reads. The metric
    modules are published with it, as the app measures its visitors' files.

    Args:
        repo (`str`):
            `owner/name` of the Space; created if missing.
        study (`str`):
            `owner/name` of the dataset repo with the study, or `owner/name/study` if it has several.
        private (`bool`, *optional*, defaults to `False`):
            Create the Space as private.

    Returns:
        `str`: the address of the Space.

    Raises:
        UserError: the study does not exist, the Space has other files, or the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api: Any = HfApi()
    source, name, models, thumbnail = _find_study(api, study)
    app, modules = spaces_folder(), metrics_folder()
    files = {str(path.relative_to(app)): path.read_bytes() for path in _list_files(app)}
    files |= {f"metrics/{path.relative_to(modules)}": path.read_bytes() for path in _list_files(modules)}
    files["README.md"] = _space_card(app / "README.md", source, name, models, thumbnail).encode()
    try:
        space = api.create_repo(repo, repo_type="space", space_sdk="gradio", private=private or None, exist_ok=True)
        head = api.repo_info(space.repo_id, repo_type="space")
        paths = {file.rfilename for file in head.siblings} - {"README.md", ".gitattributes"}
        if paths and not {"app.py", "published.py"} <= paths:
            raise ValueError(f"The Space has other files, for example `{min(paths)}`. Name another --repo")
        stale = [path for path in sorted(paths - files.keys()) if path.startswith(("sample/", "metrics/"))]
        api.create_commit(
            space.repo_id,
            [
                *(CommitOperationAdd(path, content) for path, content in files.items()),
                *(CommitOperationDelete(path) for path in stale),
            ],
            repo_type="space",
            parent_commit=head.sha,
            commit_message=f"The Space of hf-recipes, for {study}",
        )
    except Exception as error:  # the Hub's own errors, and all that a network can do
        raise UserError(f"--repo {repo}: {explain_error(error)}") from None
    return str(space)


def _find_study(api: Any, study: str) -> tuple[str, str, list[str], str | None]:
    """Return the repo and name of a published study, `owner/name[/study]`, its models on the Hub, and its figure."""
    from huggingface_hub import hf_hub_download

    *first, name = study.split("/") if study.count("/") == 2 else (*study.split("/"), "")
    source = "/".join(first)
    try:
        info = api.repo_info(source, repo_type="dataset")
        paths = [file.rfilename for file in info.siblings]
        studies = list_studies(paths)
        if not studies or (name and name not in studies):
            content = f"Got {list_names(studies)}" if studies else f"It has no `{HOME}/*/study.json`"
            raise UserError(f"--study {study}: must be a published study of hf-recipes. {content}.")
        home = f"{HOME}/{name or studies[0]}"
        figure = f"{HUB}/datasets/{source}/resolve/main/{home}/{FIGURE}" if f"{home}/{FIGURE}" in paths else None
        content = read_json(Path(hf_hub_download(source, f"{home}/study.json", repo_type="dataset", revision=info.sha)))
        models = sorted({asked.rpartition("@")[0] for asked in content["revisions"] or {} if "@" in asked})
        return source, name, models, figure
    except UserError:
        raise
    except Exception as error:  # the Hub's own errors, and all that a network can do
        raise UserError(f"--study {study}: {explain_error(error)}") from None


def spaces_folder() -> Path:
    """Return the folder of the app: inside the installed package, or next to it in a clone."""
    inside = PACKAGE / "spaces_app"
    return inside if inside.is_dir() else PACKAGE.parent / "spaces_app"


def _list_files(folder: Path) -> list[Path]:
    """Return the files of a folder, without caches."""
    caches = {"__pycache__", ".gradio", ".cache"}
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in files if not caches & set(path.relative_to(folder).parts)]


def _space_card(card: Path, source: str, name: str, models: list[str], thumbnail: str | None) -> str:
    """Return the app's card with the study in `datasets`, its models in `models` and its figure as thumbnail."""
    front, body = split_card(card.read_text(encoding="utf-8"))
    metadata = {**yaml.safe_load(front), "datasets": [source]}
    metadata |= ({"study": name} if name else {}) | ({"models": models} if models else {})
    metadata |= {"thumbnail": thumbnail} if thumbnail else {}
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n{body}"


def _for_space(path: Path, owner: str, endpoint: str) -> bytes:
    """Return the content of a module's file for its Space, where the card links to the modules' Spaces."""
    content = path.read_text(encoding="utf-8")
    if path.name == "README.md":
        content = re.sub(r"\bmetrics/(\w+)", rf"{owner}/\1", content)
        content = re.sub(r"\]\(\.\./(\w+)/README\.md\)", rf"]({endpoint}/spaces/{owner}/\1)", content)
        content = re.sub(r"\[([^\]]+)\]\(\.\./\.\./[^)]+\)", r"\1 of hf-recipes", content)
    return content.encode()
