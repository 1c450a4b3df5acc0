"""Merge a bundle with what a dataset repo has: what a commit adds, deletes and writes into the card."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError, first_line
from .bundle import HOME, PREFIX, Bundle, path_in_repo
from .card import merge_card, read_front
from .commit import Change, Target
from .dataset_card import make_card
from .dataset_folder import DatasetFolder


@dataclass(frozen=True)
class ConfigChange(Change):
    """Attributes: `names` (`dict[str, str]`), the published name of each config."""

    names: dict[str, str]


@dataclass(frozen=True)
class Published:
    """The study as the repo has it, by its study.json; empty if the repo does not have it.

    Attributes:
        configs (`list[str]`): their names in the repo.
        files (`list[str]`): their paths in the repo.
        texts (`bool`): whether the texts are published.
    """

    prefix: str = ""
    configs: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    runs: int = 0
    texts: bool = True
    row_ids: str | None = None


Foreign = dict[str, list[str]]  # configs that are not the study's, with the patterns of their files


@dataclass
class Planner:
    """Plans the commit for a repo as it is at the moment of the call.

    Attributes:
        target (`Target`): where to publish.
        content (`DatasetFolder`), bundle (`Bundle`): what to publish.
        prefix (`str`, *optional*): of the configs' names; chosen if None.
        may_add_texts (`bool`): the user asked for texts, even if the repo has the study without them.
        cache (`str`): a folder for `datasets`. It is fresh, as `datasets` falls back to its earlier copy of a repo.
    """

    target: Target
    content: DatasetFolder
    bundle: Bundle
    prefix: str | None
    may_add_texts: bool
    cache: str
    _cards: dict[str, str] = field(default_factory=dict)  # by prefix

    @property
    def repo(self) -> str:
        return self.target.repo

    def plan(self) -> ConfigChange:
        bundle, name = self.bundle, self.content.study.recipe.name
        home = f"{HOME}/{name}"
        head, paths = self.target.list_files()
        script = self.repo.rpartition("/")[2].removesuffix(".py") + ".py"
        if script in paths or self.repo.endswith(".py"):
            raise UserError(
                f"--repo {self.repo}: must not have a loading script. `datasets` refuses every config of a repo with "
                f"`{script}`. Delete the script, or name another --repo."
            )
        card = self.target.read("README.md", head)
        published = self._read_published(f"{home}/study.json", head)
        foreign = _foreign_configs(card, published)
        prefix = self._choose_prefix(card, published, foreign, paths)

        # The configs and files of the study.
        names = {config: prefix + config for config in bundle.configs}
        files: dict[str, Path | bytes] = {f"{home}/{file}": path for file, path in bundle.others.items()}
        entries = []
        for config, splits in bundle.configs.items():
            data_files = [{"split": split, "path": path_in_repo(prefix, config, split)} for split in splits]
            files |= {path_in_repo(prefix, config, split): file for split, file in splits.items()}
            entries.append({"config_name": names[config], "data_files": data_files})
        manifest = {**bundle.manifest, "prefix": prefix, "configs": list(names.values()), "files": sorted(files)}
        files[f"{home}/study.json"] = (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()
        claim = _find_claim(foreign, files)
        if claim:
            raise UserError(
                f"--repo {self.repo}: its config '{claim[1]}' would take `{claim[0]}`. List its data_files in "
                "README.md more precisely, or name another --repo."
            )

        # The card: the study's configs and section replace those of the last push.
        if prefix not in self._cards:
            is_measured, texts = "results.json" in bundle.others, bundle.manifest["texts"]
            self._cards[prefix] = make_card(self.content, self.repo, prefix, texts, list(bundle.configs), is_measured)
        is_foreign_repo = published.row_ids is None and bool(paths - {"README.md", ".gitattributes"})
        kept = self._infer_config(head, card) if is_foreign_repo else []
        own_configs = [config for config in published.configs if config not in foreign]
        merged = merge_card(card, name, entries, own_configs, kept, f"{prefix}llm", self._cards[prefix])
        files["README.md"] = merged.encode()

        # Files of the last push that no config has any more.
        folders = (f"data/{published.prefix}", f"{home}/")
        unused = {path for path in published.files if path.startswith(folders)} & paths - files.keys()
        stale = sorted(path for path in unused if not _find_claim(foreign, [path]))
        notes = []
        removed = sorted(set(own_configs) - set(names.values()))
        if removed:
            notes.append(f"{self.repo}: the configs {', '.join(removed)} are no longer in the study. They are removed.")
        if published.runs > manifest["runs"]:
            notes.append(f"{self.repo}: had {published.runs:,} runs of this study. Now it has {manifest['runs']:,}.")
        if f"{home}/results.json" in stale:
            notes.append(f"{self.repo}: the results are removed, as not all runs are trained.")
        if f"{home}/audit-labels.json" in stale:
            notes.append(f"{self.repo}: people's labels (audit) are removed, as they are not in this study.")
        if notes:
            notes.append(f"The former state is at {head}.")
        return ConfigChange(head, files, stale, notes, names)

    def _read_published(self, path: str, head: str) -> Published:
        """Return the study of this name in the repo.

        Raises:
            UserError: its study.json is damaged, it is another study, or the texts would come or go.
        """
        try:
            content: dict[str, Any] = json.loads(self.target.read(path, head) or "{}")
            if not content:
                return Published()
            required = ("prefix", "configs", "files", "texts", "row_ids")
            published = Published(**{name: content[name] for name in required}, runs=content.get("runs", 0))
            if not isinstance(published.configs, list) or not isinstance(published.files, list):
                raise ValueError("`configs` and `files` must be lists")
            if not re.fullmatch(PREFIX, published.prefix):
                raise ValueError("`prefix` must be the start of a name")
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise UserError(
                f"--repo {self.repo}: `{path}` is damaged. {first_line(error)}. Correct or delete it."
            ) from None
        manifest = self.bundle.manifest
        if published.row_ids != manifest["row_ids"]:
            raise UserError(f"--repo {self.repo}: has another study of this name. Change `name` in the recipe.")
        if published.texts and not manifest["texts"]:
            raise UserError(f"--no-texts: {self.repo} has the texts, also in its history. Name another --repo.")
        if manifest["texts"] and not published.texts and not self.may_add_texts:
            raise UserError(
                f"--repo {self.repo}: has this study without its texts. Repeat --no-texts, or add them with --texts."
            )
        return published

    def _choose_prefix(self, card: str, published: Published, foreign: Foreign, paths: set[str]) -> str:
        """Return a prefix with which no config and no file has the name of a foreign one."""
        infos = read_front(card).get("dataset_info") or []
        described = {str(entry.get("config_name")) for entry in ([infos] if isinstance(infos, dict) else infos)}
        foreign_names = foreign.keys() | described - set(published.configs)
        foreign_paths = paths - set(published.files)

        def find_collisions(prefix: str) -> list[str]:
            names, targets = set(), set()
            for config, splits in self.bundle.configs.items():
                names.add(prefix + config)
                targets |= {path_in_repo(prefix, config, split) for split in splits}
            claims = {path for path in targets & paths if _find_claim(foreign, [path])}
            return sorted(foreign_names & names) + sorted(foreign_paths & targets | claims)

        prefix = published.prefix if self.prefix is None else self.prefix
        collisions = find_collisions(prefix)
        if collisions and self.prefix is None:
            prefix = f"{self.content.study.recipe.name}-"
            collisions = find_collisions(prefix)
        if collisions:
            raise UserError(f"--prefix: '{prefix}' gives '{collisions[0]}', which is taken. Try another prefix.")
        if not re.fullmatch(PREFIX, prefix):
            raise UserError(f"--prefix must have letters, digits and . _ - only. Got '{prefix}'.")
        return prefix

    def _infer_config(self, revision: str, card: str) -> list[dict[str, Any]]:
        """Return the config as which `datasets` loads a repo without any in its card, to keep it loadable.

        Raises:
            UserError: the repo's files are not parquet, but `datasets` loads all configs of a repo in one way; or its
                first config cannot be loaded.
        """
        from datasets import load_dataset_builder
        from datasets.data_files import EmptyDatasetError
        from datasets.exceptions import DataFilesNotFoundError
        from datasets.packaged_modules.parquet.parquet import Parquet
        from huggingface_hub.errors import LocalEntryNotFoundError

        first = next((entry.get("config_name") for entry in read_front(card).get("configs") or []), None)
        try:
            builder = load_dataset_builder(on_hub(self.repo), first, revision=revision, cache_dir=self.cache)
        except (DataFilesNotFoundError, EmptyDatasetError):
            return []
        except (ValueError, FileNotFoundError) as error:
            if first is None or isinstance(error, LocalEntryNotFoundError):  # the latter is trouble on the network
                raise
            raise UserError(
                f"--repo {self.repo}: `datasets` must load the config '{first}' of its README.md. It reports: "
                f"{first_line(error)}. Correct the config first."
            ) from None
        if not isinstance(builder, Parquet):
            raise UserError(
                f"--repo {self.repo}: its files are not parquet ({type(builder).__name__}), but `datasets` loads all "
                "configs of a repo like the first one. Convert them to parquet, or name another --repo."
            )
        if first is not None:
            return []
        files = [
            {"split": str(split), "path": [str(path).split(f"@{revision}/", 1)[1] for path in paths]}
            for split, paths in (builder.config.data_files or {}).items()
        ]
        return [{"config_name": "default", "data_files": files}]


def on_hub(repo: str) -> str:
    """Return a path that `datasets` only looks for on the Hub. It prefers a local folder to a repo of the same name."""
    return f"hf://datasets/{repo}"


def _foreign_configs(card: str, published: Published) -> Foreign:
    """Return the configs of a card that are not the study's.

    A config is the study's as long as it has a name that the study published, and only files that it published.
    """
    foreign = {}
    for entry in read_front(card).get("configs") or []:
        # A path, a list of paths or of {split, path}, or a mapping of splits to paths; a path may be a list.
        data_files = entry.get("data_files") or []
        if isinstance(data_files, dict):
            data_files = list(data_files.values())
        paths: list[str] = []
        for item in [data_files] if isinstance(data_files, str) else data_files:
            path = item.get("path") if isinstance(item, dict) else item
            paths += map(str, path if isinstance(path, list) else [path])
        folder = str(entry.get("data_dir") or "").strip("/")
        patterns = [f"{folder}/{path}" if folder else path.removeprefix("./") for path in paths or ["**"]]
        name = str(entry.get("config_name"))
        if name not in published.configs or not set(patterns) <= set(published.files):
            foreign[name] = patterns
    return foreign


def _find_claim(foreign: Foreign, paths: Iterable[str]) -> tuple[str, str] | None:
    """Return a path that a foreign config would load, and the config."""
    from fsspec.utils import glob_translate

    for name, patterns in foreign.items():
        for pattern in patterns:
            path = next(filter(re.compile(glob_translate(pattern)).match, paths), None)
            if path:
                return path, name
    return None
