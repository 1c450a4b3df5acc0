"""Models by name: a local folder, or a Hub id resolved to a sha; safetensors only."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .errors import UserError, first_line
from .hashing import hash_files
from .study import Study, read_json, write_json

WEIGHTS = ("*.safetensors",)
SETTINGS = ("*.json", "*.txt", "*.model", "*.jinja")
# A second copy of the weights in Mistral's own format. vLLM would load it in place of the first one.
SECOND_COPY = "consolidated*.safetensors"


@dataclass(frozen=True)
class Model:
    """Attributes: `name` as in the recipe; `folder` with its files; `identity`, a Hub sha or a sha256 of the files."""

    name: str
    folder: Path
    identity: str


def resolve_model(study: Study, key: str, name: str, revision: str | None, weights: bool = True) -> Model:
    """Finds a model of the recipe, downloading what is on the Hub and not in the cache.

    A branch or tag on the Hub is resolved once in a study; the sha is kept in `revisions.json` and used from then on.

    Args:
        study (`Study`):
            The study.
        key (`str`):
            The recipe key that names it, for errors: `annotate.model` or `train.encoder`.
        name (`str`), revision (`str`, *optional*):
            As in the recipe.
        weights (`bool`, *optional*, defaults to `True`):
            Whether the weights are wanted, or only tokenizer and configuration.

    Raises:
        UserError: no such model, or one without safetensors.
    """
    folder = Path(name)
    if folder.is_dir():
        folder = folder.absolute()
        identity = f"sha256:{hash_files(folder, WEIGHTS + SETTINGS)}"
    else:
        from huggingface_hub import snapshot_download

        asked = f"{name}@{revision or 'main'}"
        pinned = read_json(study.revisions_file) or {}
        patterns = [*SETTINGS, *(WEIGHTS if weights else ())]
        try:
            sha = pinned.get(asked, revision)
            folder = Path(snapshot_download(name, revision=sha, allow_patterns=patterns, ignore_patterns=SECOND_COPY))
        except Exception as error:  # a name that is no Hub id, the Hub's own errors, and all that a network can do
            raise UserError(
                f"`{key}` must be a local folder or a model on the Hub. Got {name}: {first_line(error)}. Correct the "
                "name, log in with `hf auth login` if it is gated, go online, or give a folder."
            ) from None
        identity = folder.name
        if asked not in pinned and study.recipe_file.exists():
            write_json(study.revisions_file, {**pinned, asked: identity})
    if (weights or Path(name).is_dir()) and not any(folder.glob("*.safetensors")):
        raise UserError(f"{key}: {name} has no .safetensors file; other formats are not loaded")
    return Model(name, folder, identity)


def is_on_hub(study: Study, name: str) -> bool:
    """Return whether a model that the study has resolved is on the Hub. A local folder may be gone by now."""
    return any(asked.rpartition("@")[0] == name for asked in read_json(study.revisions_file) or {})


def short_name(study: Study, name: str) -> str:
    """Return the Hub id of a model that the study has resolved, or the base name of its folder."""
    return name if is_on_hub(study, name) else Path(name).name


def find_again(key: str, model: Model) -> Path:
    """The folder of a model that was resolved on another machine, with the very same files.

    Raises:
        UserError: it is not here, or is another one.
    """
    if not model.identity.startswith("sha256:"):
        from huggingface_hub import snapshot_download

        patterns = [*SETTINGS, *WEIGHTS]
        try:
            return Path(
                snapshot_download(
                    model.name, revision=model.identity, allow_patterns=patterns, ignore_patterns=SECOND_COPY
                )
            )
        except Exception as error:  # the Hub's own errors, and all that a network can do
            raise UserError(f"{key}: '{model.name}' on the node {os.uname().nodename}: {first_line(error)}") from None
    if not model.folder.is_dir() or f"sha256:{hash_files(model.folder, WEIGHTS + SETTINGS)}" != model.identity:
        raise UserError(
            f"{key}: the node {os.uname().nodename} has no folder {model.folder} with the same files; copy it to every "
            "node, or to a file system that they share"
        )
    return model.folder


@cache
def load_tokenizer(key: str, model: Model) -> Any:
    """The model's tokenizer.

    Raises:
        UserError: it has none that loads.
    """
    # Of tekken.json alone transformers makes a tokenizer that does not begin a text with `<s>`.
    if (model.folder / "tekken.json").exists() and not (model.folder / "tokenizer.json").exists():
        raise UserError(
            f"`{key}` must have a tokenizer.json. Got {model.name} with tekken.json alone. Try a repository of the "
            "model in the format of transformers."
        )
    from transformers import AutoTokenizer

    try:
        # Mistral's own format has no offsets, and control tokens in a text could not be split.
        return AutoTokenizer.from_pretrained(model.folder, trust_remote_code=False, mistral_format=False)
    except Exception as error:  # transformers raises many kinds
        raise UserError(f"{key}: no tokenizer of {model.name} loads ({first_line(error)})") from None
