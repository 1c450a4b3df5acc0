"""Publish a metric module, or the app that shows a study, as a Space."""

import re
from pathlib import Path
from typing import Any

import yaml

from ..analysis.metric_modules import metrics_folder
from ..errors import UserError
from ..study import PACKAGE, read_json
from .card import split_card
from .pull import list_names, list_studies
from .push import OURS, explain_error


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
        raise UserError(f"{owner}/{name}: {explain_error(error)}") from None
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
        raise UserError(f"--repo {repo}: {explain_error(error)}") from None
    return str(made)


def _find_study(api: Any, study: str) -> tuple[str, str, list[str]]:
    """The repo and name of a published study, `owner/name` or `owner/name/study`, and its models on the Hub."""
    from huggingface_hub import hf_hub_download

    *first, name = study.split("/") if study.count("/") == 2 else (*study.split("/"), "")
    source = "/".join(first)
    try:
        info = api.repo_info(source, repo_type="dataset")
        paths = [file.rfilename for file in info.siblings]
        found = list_studies(paths)
        if not found or (name and name not in found):
            held = f"it has {list_names(found)}" if found else f"it has no {OURS}/*/study.json"
            raise UserError(f"--study {study}: no study of hf-recipes was published there ({held})")
        manifest = f"{OURS}/{name or found[0]}/study.json"
        said = read_json(Path(hf_hub_download(source, manifest, repo_type="dataset", revision=info.sha)))
        return source, name, sorted({asked.rpartition("@")[0] for asked in said["revisions"] or {} if "@" in asked})
    except UserError:
        raise
    except Exception as error:  # the Hub's own errors, and all that a network can do
        raise UserError(f"--study {study}: {explain_error(error)}") from None


def spaces_folder() -> Path:
    """Where the app lies: inside the installed package, or beside it in a clone."""
    inside = PACKAGE / "spaces_app"
    return inside if inside.is_dir() else PACKAGE.parent / "spaces_app"


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
