"""Plan the passes of a study: their prompts, models and keys, and the rows that they have not annotated yet."""

import os
import unicodedata
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np

from .. import parquet
from ..data import RowFiles, open_rows, rows_key, strings
from ..errors import UserError
from ..hashing import hash_order, make_key
from ..models import Model, load_tokenizer, resolve_model
from ..recipe import Annotate
from ..study import Study, read_json, versions
from .calibration import ON_GOLD, not_enough_gold
from .engines import import_engine
from .few_shot import FewShotExamples, draw_examples
from .prompts import Prompts
from .store import CONTENT_FREE_FILE, FAILED, REPEAT_FILE, REPEAT_SCHEMA, SCHEMA, STATUSES, PartFiles

#: What a job on the Hub finds in its environment. A job of Grid Engine has JOB_ID, too.
JOB_VARIABLES = ("JOB_ID", "ACCELERATOR", "CPU_CORES", "MEMORY")
SERVERS_FILE = "servers.json"  # by model, what the servers ran when they were last asked


@dataclass(frozen=True)
class Pass:
    """One pass of the recipe: `key` is the hash of `ingredients`, which are all that changes an answer.

    `splits` are the files of the rows that the pass labels. They change no answer.
    """

    section: Annotate
    key: str
    ingredients: dict[str, Any]
    splits: tuple[str, ...]

    @property
    def engine_settings(self) -> tuple[Any, ...]:
        """Return what an engine starts with. Passes in a row with equal settings share an engine."""
        section = self.section
        return section.model, section.revision, self.ingredients["engine"], section.max_model_len, section.base_url


@dataclass(frozen=True)
class PromptPass(Pass):
    """A pass that asks an LLM."""

    model: Model
    prompts: Prompts
    examples: FewShotExamples


@dataclass(frozen=True)
class Progress:
    """The progress of a pass.

    Attributes:
        model (`str`): as in the recipe.
        num_rows (`int`), num_left (`int`): all rows, and those without an annotation.
        statuses (`dict[str, int]`): the number of rows with each status.
        errors (`dict[str, int]`): the number of rows with each error.
    """

    model: str
    num_rows: int
    num_left: int
    statuses: dict[str, int]
    errors: dict[str, int]


def plan_passes(study: Study, files: RowFiles, contact: bool = True) -> list[Pass]:
    """Return all passes of the recipe, without starting an engine.

    Args:
        contact (`bool`, *optional*, defaults to `True`):
            Ask servers for the version and model that they run. Otherwise the study's record counts, and without a
            record the key of a pass is one that no folder has.

    Raises:
        UserError: an error in prompt, labels, model or engine.
    """
    day = _read_day(study)
    num_gold = len(files.find_gold_rows())
    passes: list[Pass] = []
    for section in study.recipe.annotate.all_passes():
        splits = ("train",) if passes else ("train", "test")
        if section.columns is not None:
            ingredients = {
                "engine": {"engine": "columns"},
                "columns": section.columns.model_dump(mode="json"),
                "reader": 1,  # the version of `column_labels`
                "rows": files.manifest["key"],  # which depends on the source and on `data`
                "labels": files.label_names,
            }
            _require_gold(section, num_gold)
            passes.append(Pass(section, make_key(**ingredients), ingredients, splits))
            continue
        if section.engine == "server" and not contact:
            engine = read_servers(study).get(section.model, {"engine": "server"})
        else:
            engine = import_engine(section.engine).identity(section)
        model = resolve_model(study, "annotate.model", section.model, section.revision, weights=False)
        examples = draw_examples(files, section.asked)
        tokenizer = load_tokenizer("annotate.model", model)
        prompts = Prompts(section, study.recipe.data, files.label_names, examples, tokenizer, day)
        frame = prompts.frame
        ingredients = {
            "model": model.identity,
            "tokenizing": {
                **versions("transformers", "tokenizers"),
                "unicode": unicodedata.unidata_version,
                "rules": 3 if prompts.has_open_tokens else 2,  # 3: all added tokens are text, not special ones alone
            },
            "engine": engine,
            "max_model_len": section.max_model_len,
            "scoring": section.scoring,
            "labels": files.label_names,
            "answers": dict(zip(prompts.answers, prompts.answer_ids, strict=True)),
            "frame": [frame.before, frame.head, frame.tail, frame.after],
            "shown": sorted(set(examples.texts)),
        }
        if section.scoring == "votes":
            sampling = {"samples", "temperature", "max_tokens", "seed", "thinking"}
            ingredients["votes"] = section.model_dump(include=sampling)
        if section.scoring != "distribution":
            ingredients["reader"] = 3  # The version of `read_answer`, whose results are in the parts.
        _require_gold(section, num_gold - len(examples.rows))
        passes.append(PromptPass(section, make_key(**ingredients), ingredients, splits, model, prompts, examples))

    numbers: dict[tuple[str, str], int] = {}
    for number, plan in enumerate(passes):
        first = numbers.setdefault((plan.key, plan.section.calibration), number)
        if first != number:
            raise UserError(
                f"`annotate.passes` must differ, or they vote twice. Got the same passes {first} and {number}. Try "
                "another prompt, prompt seed, model or column; seed, samples and temperature matter to votes only."
            )
    return passes


def _require_gold(section: Annotate, num_gold: int) -> None:
    if section.calibration in ON_GOLD and num_gold <= section.calibration_rows:
        raise not_enough_gold(section, num_gold)


def _read_day(study: Study) -> date:
    """Return the date that chat templates are rendered with: that of the study's record, else today."""
    day = (read_json(study.revisions_file) or {}).get("date")
    try:
        return date.today() if day is None else date.fromisoformat(day)
    except (TypeError, ValueError):
        raise UserError(
            f"`date` in {study.revisions_file} must be a date like 2026-01-31. Got {day!r}. Try the day of the first "
            "annotation."
        ) from None


def read_servers(study: Study) -> dict[str, Any]:
    """Return what the servers ran when `annotate` last asked them, by the model of the pass."""
    manifests = map(read_json, study.annotations_root.glob("*/manifest.json"))
    engines = {manifest["model"]: manifest["ingredients"]["engine"] for manifest in manifests}
    servers = {model: engine for model, engine in engines.items() if engine["engine"] == "server"}
    return servers | (read_json(study.annotations_root / SERVERS_FILE) or {})


def hash_passes(study: Study) -> str:
    """Return a hash of the rows and of the recipe's passes, without what changes no annotation."""
    excluded = {"calibration", "calibration_rows", "base_url", "ray", "passes", "min_label_mass", "repeat_check"}
    sections = study.recipe.annotate.all_passes()
    # Passes without columns keep the hash that earlier versions gave them.
    passes = [
        section.model_dump(mode="json", exclude=excluded | (set() if section.columns else {"columns"}))
        for section in sections
    ]
    return make_key(rows=rows_key(study), descriptions=study.recipe.data.descriptions, passes=passes)


def count_rows_left(study: Study, files: RowFiles, with_test: bool = True, contact: bool = True) -> int:
    """Return the number of texts to ask about, over all passes; 0 if `annotate` has nothing to do.

    Without the test rows and `repeat_check` it is 0 if the later steps can go on. For `contact` see `plan_passes`.
    """
    current = read_json(study.annotations_root / "current.json") or {}
    if files.withheld and current.get("asked") == hash_passes(study):
        return 0  # Only complete annotations are published.
    files.need_texts()
    passes = plans = plan_passes(study, files, contact)
    if not with_test:
        optional = {"repeat_check": 0}
        plans = [replace(plan, splits=("train",), section=plan.section.model_copy(update=optional)) for plan in passes]
    num_left = sum(count_rows_left_of(study, files, plan) for plan in plans)
    return num_left or int(current != {"asked": hash_passes(study), "keys": [plan.key for plan in passes]})


def count_rows_left_of(study: Study, files: RowFiles, plan: Pass) -> int:
    """Return the number of rows without an annotation in one pass, and of texts that `repeat_check` asks about again.

    It is at least 1 if the other files of the pass are incomplete.
    """
    folder = study.annotations(plan.key)
    statuses = PartFiles(folder).statuses(files.column("id", plan.splits))
    num_left = int(np.sum((statuses < 0) | (statuses == STATUSES.index(FAILED))))
    is_complete = has_manifest(study, files, plan)
    if (folder / CONTENT_FREE_FILE).exists():
        parquet.read(folder / CONTENT_FREE_FILE, SCHEMA)  # Damage is reported before an engine starts.
    else:
        is_complete = False
    num_left += 0 if has_repeat(study, files, plan) else min(plan.section.repeat_check, len(files))
    return num_left or int(not is_complete)


def draw_repeat(files: RowFiles, size: int) -> np.ndarray:
    """Return the positions of the rows of the pool that the engine is asked about twice, in the order of asking."""
    return hash_order(strings(files.column("id")), "repeat-check")[:size]


def has_repeat(study: Study, files: RowFiles, plan: Pass) -> bool:
    """Return whether a pass has asked again about the texts of `repeat_check`."""
    if not plan.section.repeat_check:
        return True
    file = study.annotations(plan.key) / REPEAT_FILE
    if not file.exists():
        return False
    ids = strings(files.column("id"), draw_repeat(files, plan.section.repeat_check))
    return parquet.read(file, REPEAT_SCHEMA, ["id"])["id"].to_pylist() == list(ids)


def has_manifest(study: Study, files: RowFiles, plan: Pass) -> bool:
    """Return whether every row of a pass has been annotated. Some of them may have failed."""
    manifest = read_json(study.annotations(plan.key) / "manifest.json") or {}
    return bool(manifest.get("rows") == files.manifest["key"])


def write_manifest(study: Study, files: RowFiles, plan: Pass, session: dict[str, float]) -> None:
    """Write the manifest of a pass, of which every row has an annotation.

    Args:
        session (`dict[str, float]`):
            `texts` that this session scored, its `seconds`, and of these `start_seconds`.
    """
    folder = study.annotations(plan.key)
    manifest = read_json(folder / "manifest.json") or {"last_session": {"texts": 0, "seconds": 0.0}}
    earlier = manifest.get("all_sessions", manifest["last_session"])  # Earlier versions have no "all_sessions".
    job = {name.lower(): os.environ[name] for name in JOB_VARIABLES if name in os.environ}
    asked: dict[str, Any] = {"prompt": None, "answers": files.label_names, "demonstrations": []}
    if isinstance(plan, PromptPass):
        asked = {
            "prompt": str(plan.prompts.frame),
            "answers": plan.prompts.answers,
            "demonstrations": plan.examples.ids,
        }
    study.write_json(
        folder / "manifest.json",
        {
            "key": plan.key,
            "rows": files.manifest["key"],
            "ingredients": plan.ingredients,
            "label_names": files.label_names,
            "model": plan.section.model,
            **asked,
            "status": count_statuses(PartFiles(folder).statuses(files.column("id"))),
            "last_session": session,
            "all_sessions": {name: round(earlier.get(name, 0) + value, 1) for name, value in session.items()},
            "load_average": max(round(os.getloadavg()[0], 1), manifest.get("load_average", 0.0)),
            **({"job": job} if len(job) == len(JOB_VARIABLES) else {}),
        },
    )


def count_rows_done(study: Study) -> int:
    """Return the number of rows with an answer in all parts, which does not grow by retries that fail again."""
    parts = study.annotations_root.glob("*/part-*.parquet")
    return sum(int(np.sum(parquet.read(part, SCHEMA, ["status"])["status"].to_numpy() != FAILED)) for part in parts)


def count_statuses(codes: np.ndarray) -> dict[str, int]:
    """Return the number of rows with each status of `PartFiles.statuses`."""
    counts = np.bincount(codes[codes >= 0], minlength=len(STATUSES)).tolist()
    return {name: count for name, count in zip(STATUSES, counts, strict=True) if count}


def read_progress(study: Study) -> list[Progress]:
    """Return the progress of each pass."""
    files = open_rows(study)
    progress = []
    for plan in plan_passes(study, files):
        ids, parts = files.column("id", plan.splits), PartFiles(study.annotations(plan.key))
        statuses = count_statuses(parts.statuses(ids))
        num_left = len(ids) - sum(statuses.values())
        progress.append(Progress(plan.section.model, len(ids), num_left, statuses, parts.count_errors(ids)))
    return progress
