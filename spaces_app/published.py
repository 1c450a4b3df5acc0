"""Read a copy of a published repo into small tables in memory, and check it.

    study = read_folder(Path("a/copy/of/the/repo"))

A study may be anybody's. None of its files is executed.
"""

import json
import re
import sys
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from schema import Results, read_results
from study_tables import MAX_TEXT, SHARD, Pool, Test, UnreadableError, read_pool, read_test

HOME = "hf-recipes"
NAME = r"[A-Za-z0-9._-]{1,96}"
TABLES = (
    *("annotations", "runs", "predictions", "out_of_bag", "results"),
    *("baseline_runs", "baseline_predictions"),
)
UNREAD = ("annotations", "runs", "results")
MAX_JSON = 30_000_000  # of one of its JSON files
MAX_MEMORY = 200_000_000  # bytes of a study in memory
DAMAGE = (LookupError, TypeError, AttributeError, ValueError, OSError, pa.ArrowException, RecursionError)


@dataclass(frozen=True)
class Study:
    """Record the published parts of a study.

    Attributes:
        where (`str`): the repo, or the name of the folder.
        sha (`str`): the commit; empty for a folder.
        studies (`list[str]`): all studies of the repo.
        prefix (`str`): the common beginning of the names of its configs.
        texts (`bool`): whether the texts are published.
        manifest, findings (`dict`): of study.json and findings.json; empty without.
        results (`Results`, *optional*): the content of results.json.
        pool (`Pool`), test (`Test`, *optional*)
    """

    where: str
    name: str
    sha: str
    studies: list[str]
    prefix: str
    texts: bool
    classes: list[str]
    manifest: dict[str, Any]
    findings: dict[str, Any]
    results: Results | None
    pool: Pool
    test: Test | None


@dataclass(frozen=True)
class Summary:
    """Record what the card of a study shows.

    Attributes:
        spec (`str`): `owner/name/study`.
        model, encoder (`str`): empty if unknown.
        decision (`str`, *optional*): of the verdict; None without results.
        loss (`float`, *optional*), interval (`tuple[float, float]`, *optional*): macro-F1 loss vs. gold.
        sizes (`list[int]`): of the training sets.
    """

    spec: str
    name: str
    model: str
    encoder: str
    decision: str | None
    loss: float | None
    interval: tuple[float, float] | None
    sizes: list[int]
    seeds: int
    texts: int


def read_summary(folder: Path, name: str, where: str) -> Summary:
    """Return the summary of a study from its study.json and results.json.

    Raises:
        UnreadableError: a file is damaged.
    """
    home = folder / HOME / name
    try:
        return summarize(where, name, _manifest(_read_json(home / "study.json")), _read_results(home / "results.json"))
    except UnreadableError:
        raise
    except DAMAGE as error:
        raise UnreadableError(
            f"{where}: the study is damaged or of another version ({type(error).__name__})."
        ) from None


def summarize(where: str, name: str, manifest: dict[str, Any], results: Results | None) -> Summary:
    recipe = manifest.get("recipe") or {}
    loss = next((c for c in results.verdict.criteria if c.name == "macro_f1_loss"), None) if results else None
    return Summary(
        spec=f"{where}/{name}",
        name=name,
        model=(recipe.get("annotate") or {}).get("model") or "",
        encoder=(recipe.get("train") or {}).get("encoder") or "",
        decision=results.verdict.decision if results else None,
        loss=loss.value if loss else None,
        interval=loss.interval if loss else None,
        sizes=sorted({result.size for result in results.variants}) if results else [],
        seeds=results.R if results else 0,
        texts=results.n if results else 0,
    )


def read_configs(path: Path) -> tuple[list[str], str]:
    """Return the names of a study's configs, with the prefix that they share.

    Raises:
        UnreadableError: the file is damaged.
    """
    try:
        return _configs(_read_json(path))
    except UnreadableError:
        raise
    except DAMAGE as error:
        raise UnreadableError(f"study.json is damaged or of another version ({type(error).__name__}).") from None


def choose_study(where: str, names: list[str], name: str | None) -> str:
    if not names:
        raise UnreadableError(
            f"The repo must have a study of hf-recipes. Got {where} without {HOME}/*/study.json. "
            "Try hf-recipes push dataset."
        )
    if name is not None and name not in names:
        raise UnreadableError(f"The study must be in {where}. Got `{name}`. Try {', '.join(names[:20])}.")
    return names[0] if name is None else name


def read_folder(
    folder: Path, name: str | None = None, where: str = "", sha: str = "", studies: list[str] | None = None
) -> Study:
    """Read a copy of a repo, or the `dataset` folder of a study.

    Raises:
        UnreadableError: no such study, or damaged.
    """
    where = where or folder.resolve().name
    names = studies or sorted(path.parent.name for path in folder.glob(f"{HOME}/*/study.json"))
    try:
        if not names and (folder / "data" / "llm").is_dir():  # a dataset folder that is not published
            manifest: dict[str, Any] = {}
            configs, prefix, study_name = sorted(p.name for p in (folder / "data").iterdir()), "", where
            results, findings = None, {}
        else:
            study_name = choose_study(where, names, name)
            home = folder / HOME / study_name
            manifest = _read_json(home / "study.json")
            configs, prefix = _configs(manifest)
            results = _read_results(home / "results.json")
            findings = _findings(_read_json(home / "findings.json"))
        data = folder / "data"
        variants = [config[len(prefix) :] for config in configs]
        files = {
            variant: data / f"{prefix}{variant}" / f"train-{SHARD}"
            for variant in variants
            if variant not in (*TABLES, "test")
        }
        labels = {variant: file for variant, file in files.items() if file.is_file()}
        pool, classes = read_pool(labels, data / f"{prefix}out_of_bag")
        test = read_test(data / f"{prefix}test", data / f"{prefix}predictions", len(classes))
        study = Study(
            **{"where": where, "name": study_name, "sha": sha, "studies": names, "prefix": prefix, "classes": classes},
            **{"texts": any(pool.texts), "manifest": _manifest(manifest), "findings": findings, "results": results},
            **{"pool": pool, "test": test},
        )
        if (size := _size(study, set())) > MAX_MEMORY:
            raise UnreadableError(
                f"A study must take at most {MAX_MEMORY / 1e6:,.0f} MB of memory. Got {size / 1e6:,.0f} MB in {where}."
            )
        return study
    except (UnreadableError, MemoryError):
        raise
    except DAMAGE as error:
        raise UnreadableError(
            f"{where}: the study is damaged or of another version ({type(error).__name__})."
        ) from None


def _size(value: Any, seen: set[int]) -> int:
    """Return the bytes that a value takes in memory, with everything that it refers to."""
    if id(value) in seen:
        return 0
    seen.add(id(value))
    inner: Any = ()
    if is_dataclass(value):
        inner = vars(value).values()
    elif isinstance(value, dict):
        inner = (*value, *value.values())
    elif isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.dtype == object):
        inner = value
    return sys.getsizeof(value) + sum(_size(item, seen) for item in inner)


def _read_json(path: Path) -> dict[str, Any]:
    """Return the file's mapping; empty if the file is missing."""
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_JSON:
        raise UnreadableError(f"{path.name} is larger than {MAX_JSON / 1e6:,.0f} MB.")
    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is no mapping")
    return content


def _read_results(path: Path) -> Results | None:
    """Return the results; None if the file is missing."""
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_JSON:
        raise UnreadableError(f"{path.name} is larger than {MAX_JSON / 1e6:,.0f} MB.")
    return read_results(path.read_bytes())


def _configs(manifest: dict[str, Any]) -> tuple[list[str], str]:
    configs, prefix = manifest["configs"], manifest["prefix"]
    if not re.fullmatch(r"[A-Za-z0-9._-]{0,96}", prefix) or len(configs) > 100:
        raise ValueError("an invalid prefix")
    if not all(re.fullmatch(NAME, config) and config.startswith(prefix) and set(config) != {"."} for config in configs):
        raise ValueError("an invalid config")
    return configs, prefix


def _manifest(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of study.json that the app shows."""
    recipe = raw.get("recipe") or {}
    fields = {"data": "path", "annotate": "model", "train": "encoder"}
    return (
        {"recipe": {name: {key: _text((recipe.get(name) or {}).get(key))} for name, key in fields.items()}}
        if raw
        else {}
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)[:MAX_TEXT]


def _findings(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the sentences of findings.json and its descriptions of the variants."""
    return {
        **{name: [(str(title), str(text)) for title, text in raw.get(name) or []] for name in ("findings", "more")},
        **{name: [str(sentence) for sentence in raw.get(name) or []] for name in ("limits", "labels")},
        **{name: {str(k): str(v) for k, v in (raw.get(name) or {}).items()} for name in ("variants", "controls")},
        "methods": str(raw.get("methods") or ""),
    }
