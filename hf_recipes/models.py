"""Models by name: a local folder, or a Hub id resolved to a sha; safetensors only."""

from dataclasses import dataclass
from pathlib import Path

from .recipe import UserError
from .study import hash_files

FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja")


@dataclass(frozen=True)
class Model:
    """Attributes: `name` as in the recipe; `folder` with its files; `identity`, a Hub sha or a sha256 of the files."""

    name: str
    folder: Path
    identity: str


def resolve_model(key: str, name: str, revision: str | None) -> Model:
    """Finds a model, downloading it if it is on the Hub and not in the cache.

    Args:
        key (`str`):
            The recipe key that names it, for messages.
        name (`str`):
            A local folder, or a Hub id.
        revision (`str`, *optional*):
            A branch, tag or sha on the Hub.

    Raises:
        UserError: no such model, or one without safetensors.
    """
    folder = Path(name)
    if folder.is_dir():
        identity = f"sha256:{hash_files(folder, FILES)}"
    else:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
        except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{key}: '{name}' is no local folder, and the Hub does not have it for us: {reason}"
            ) from None
        identity = folder.name
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{key}: {name} has no .safetensors file; other formats are not loaded")
    return Model(name, folder, identity)
