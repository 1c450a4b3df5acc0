"""Annotations: for every text the LLM's log-probability of every label, raw, in append-only parts.

hf-recipes annotate RECIPE
"""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from .data import Rows, keep_rows, load_rows
from .engines import engine_module
from .models import Model, load_tokenizer, resolve_model
from .prompts import Frame, build_frame, draw_demonstrations, one_line
from .recipe import UserError
from .study import Study, hash_ids, make_key, read_json, write_json

CHUNK = 128  # texts between two parts: what a kill can cost, some seconds on a CPU
CONTENT_FREE_FILE = "content_free.parquet"
CONTENT_FREE = ["N/A", "", "[MASK]"]  # Zhao et al. 2021, section 5
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "pass": pa.int32(),
        "prompt_id": pa.string(),
        "logprobs": pa.list_(pa.float64()),
        "n_tokens": pa.int32(),
        "truncated": pa.bool_(),
        "status": pa.string(),
        "error": pa.string(),
    }
)


@dataclass(frozen=True)
class Annotations:
    """One pass over the pool, in the pool's order.

    Attributes:
        key (`str`): the folder they lie in.
        logprobs (`np.ndarray` of shape `(n, K)`): natural log over the full vocabulary; nan where there is no label.
        status (`list[str]`): `ok`, `null_text`, `empty_text` or `demonstration`.
        truncated (`np.ndarray` of shape `(n,)`, bool): the text was cut to fit.
        content_free (`np.ndarray` of shape `(3, K)`): the log-probabilities for inputs without content.
    """

    key: str
    logprobs: np.ndarray
    status: list[str]
    truncated: np.ndarray
    content_free: np.ndarray


def annotate(study: Study) -> Annotations:
    """Annotates what is not annotated yet.

    Args:
        study (`Study`):
            The study; its `annotations/<key>/` gains parts, and a manifest once every row is there.

    Returns:
        `Annotations`

    Raises:
        UserError: see `load_rows`, `resolve_model`, `build_frame` and the engines.
    """
    pool, test = load_rows(study)
    plan = _plan(study, pool)  # what is wrong with prompt or model is said before anything is written
    with study.lock():
        keep_rows(study, pool, test)
        folder = study.annotations(plan.key)
        if not _is_complete(study, plan.key, pool):
            folder.mkdir(parents=True, exist_ok=True)
            start = time.monotonic()
            scored = _score_rows(study, pool, plan, _read_parts(study, plan.key))
            rows = _read_parts(study, plan.key)
            statuses = [rows[row_id, 0]["status"] for row_id in pool.ids]
            write_json(
                folder / "manifest.json",
                {
                    "key": plan.key,
                    "rows": hash_ids(pool.ids),
                    "ingredients": plan.ingredients,
                    "label_names": pool.label_names,
                    "model": study.recipe.annotate.model,
                    "prompt": plan.frame.head + "{text}" + plan.frame.tail,
                    "demonstrations": [pool.ids[i] for i in plan.demonstrations],
                    "status": {status: statuses.count(status) for status in sorted(set(statuses))},
                    "last_session": {"texts": scored, "seconds": round(time.monotonic() - start, 1)},
                },
            )
        write_json(study.annotations_root / "current.json", {"key": plan.key})
    return load_annotations(study, pool)


def rows_left(study: Study, pool: Rows) -> int:
    """How many rows of the pool are still to be annotated; 0 if `annotate` has nothing to do."""
    key = _plan(study, pool).key
    current = read_json(study.annotations_root / "current.json") or {}
    if _is_complete(study, key, pool) and current.get("key") == key:
        return 0
    return max(1, len(pool) - len(_read_parts(study, key)))


def _is_complete(study: Study, key: str, pool: Rows) -> bool:
    """Whether the manifest is of these rows, and the parts still hold them."""
    manifest = read_json(study.annotations(key) / "manifest.json")
    if manifest is None or manifest["rows"] != hash_ids(pool.ids):
        return False
    held = _read_parts(study, key)
    return all((row_id, 0) in held for row_id in pool.ids) and (study.annotations(key) / CONTENT_FREE_FILE).exists()


def load_annotations(study: Study, pool: Rows) -> Annotations:
    """The finished annotations of a study; needs neither the LLM nor vLLM.

    Raises:
        UserError: there are none yet for these rows.
    """
    current = read_json(study.annotations_root / "current.json")
    if (
        current is None
        or not _is_complete(study, current["key"], pool)
        or read_json(study.annotations(current["key"]) / "manifest.json")["ingredients"]["asked"] != _asked(study)
    ):
        raise UserError(f"{study.root}: no finished annotations for this recipe; run hf-recipes annotate first")
    rows = _read_parts(study, current["key"])
    ordered = [rows[row_id, 0] for row_id in pool.ids]
    nothing = [np.nan] * len(pool.label_names)
    return Annotations(
        current["key"],
        np.array([row["logprobs"] or nothing for row in ordered]),
        [row["status"] for row in ordered],
        np.array([bool(row["truncated"]) for row in ordered]),
        np.array([row["logprobs"] for row in _read_table(study.annotations(current["key"]) / CONTENT_FREE_FILE)]),
    )


@dataclass(frozen=True)
class _Plan:
    key: str
    ingredients: dict[str, Any]
    model: Model
    tokenizer: Any
    frame: Frame
    demonstrations: np.ndarray


def _asked(study: Study) -> dict[str, Any]:
    """What the recipe says of the annotator. Calibration is derived later and changes no annotation."""
    return study.recipe.annotate.model_dump(mode="json", exclude={"calibration", "base_url"})


def _plan(study: Study, pool: Rows) -> _Plan:
    section = study.recipe.annotate
    engine = engine_module(section.engine).identity(section)
    model = resolve_model(study, "annotate.model", weights=False)
    tokenizer = load_tokenizer("annotate.model", model)
    demonstrations = draw_demonstrations(pool, section.prompt)
    frame = build_frame(section.prompt, pool.take(demonstrations), tokenizer)
    ingredients = {
        "asked": _asked(study),
        "model": model.identity,
        "engine": engine,
        "head": frame.head,
        "tail": frame.tail,
        "labels": dict(zip(pool.label_names, frame.label_ids, strict=True)),
        "demonstrations": [pool.ids[i] for i in demonstrations],
    }
    return _Plan(make_key(**ingredients), ingredients, model, tokenizer, frame, demonstrations)


def _read_parts(study: Study, key: str) -> dict[tuple[str, int], dict[str, Any]]:
    """All rows of all parts by id and pass; a later part overrides an earlier one."""
    parts = sorted(study.annotations(key).glob("part-*.parquet"))
    return {(row["id"], row["pass"]): row for part in parts for row in _read_table(part)}


def _read_table(path: Path) -> list[dict[str, Any]]:
    try:
        return pq.read_table(path).to_pylist()
    except (pa.ArrowInvalid, OSError):
        raise UserError(f"{path}: damaged; delete it and run hf-recipes annotate again") from None


def _score_rows(study: Study, pool: Rows, plan: _Plan, done: dict[tuple[str, int], dict[str, Any]]) -> int:
    """Scores the rows not done yet, in chunks of which each becomes a part; equal inputs are scored once."""
    section = study.recipe.annotate
    folder = study.annotations(plan.key)
    limit = section.max_model_len - 1  # one token is generated
    next_part = 1 + max((int(part.stem.removeprefix("part-")) for part in folder.glob("part-*.parquet")), default=-1)
    shown = {one_line(str(pool.texts[i])) for i in plan.demonstrations}
    left = [i for i, row_id in enumerate(pool.ids) if (row_id, 0) not in done]
    scores = {row["prompt_id"]: row["logprobs"] for row in done.values() if row["status"] == "ok"}
    scored, engine = 0, None
    with tqdm(total=len(pool), initial=len(pool) - len(left), desc="annotate", unit=" texts") as bar:
        for start in range(0, len(left), CHUNK):
            chunk = left[start : start + CHUNK]
            rows: list[dict[str, Any]] = []
            inputs: dict[str, list[int]] = {}
            for i in chunk:
                status = _row_status(pool.texts[i], shown)
                row: dict[str, Any] = {"id": pool.ids[i], "pass": 0, "status": status}
                if status == "ok":
                    ids, cut = plan.frame.encode(plan.tokenizer, str(pool.texts[i]), limit)
                    prompt_id = _prompt_id(ids)
                    row |= {"prompt_id": prompt_id, "n_tokens": len(ids), "truncated": cut}
                    if prompt_id not in scores:
                        inputs[prompt_id] = ids
                rows.append(row)
            if inputs:
                if engine is None:
                    engine = _start_engine(study, plan, bar)
                by_length = sorted(inputs, key=lambda prompt_id: len(inputs[prompt_id]))
                answers = engine.score([inputs[prompt_id] for prompt_id in by_length], plan.frame.label_ids)
                scores.update(zip(by_length, answers.tolist(), strict=True))
                scored += len(inputs)
            for row in rows:
                row["logprobs"] = scores.get(row.get("prompt_id"))
            _write_rows(folder / f"part-{next_part:05d}.parquet", rows)
            next_part += 1
            bar.update(len(chunk))
        if not (folder / CONTENT_FREE_FILE).exists():
            _start_engine(study, plan, bar)
    return scored


def _start_engine(study: Study, plan: _Plan, bar: tqdm) -> Any:
    """The running engine; the inputs without content are scored first, as everything else is calibrated by them."""
    section = study.recipe.annotate
    weights = resolve_model(study, "annotate.model", weights=section.engine == "vllm")
    bar.set_postfix_str("starting the engine")
    engine = engine_module(section.engine).Engine(section, weights.folder)
    _score_content_free(study.annotations(plan.key), plan, engine, section.max_model_len - 1)
    bar.set_postfix_str("")
    bar.unpause()
    return engine


def _score_content_free(folder: Path, plan: _Plan, engine: Any, limit: int) -> None:
    if (folder / CONTENT_FREE_FILE).exists():
        return
    inputs = [plan.frame.encode(plan.tokenizer, text, limit)[0] for text in CONTENT_FREE]
    answers = engine.score(inputs, plan.frame.label_ids).tolist()
    rows = [
        {"id": text, "pass": 0, "prompt_id": _prompt_id(ids), "logprobs": answer, "n_tokens": len(ids), "status": "ok"}
        for text, ids, answer in zip(CONTENT_FREE, inputs, answers, strict=True)
    ]
    _write_rows(folder / CONTENT_FREE_FILE, rows)


def _row_status(text: str | None, shown: set[str]) -> str:
    """A text that is among the demonstrations, in whatever row, has its answer in the prompt and is not asked about."""
    if text is None:
        return "null_text"
    if not one_line(text):
        return "empty_text"
    return "demonstration" if one_line(text) in shown else "ok"


def _prompt_id(token_ids: list[int]) -> str:
    return hashlib.blake2b(np.array(token_ids, np.int64).tobytes(), digest_size=12).hexdigest()


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """A part appears whole or not at all; columns that a row lacks are null."""
    columns = {name: pa.array([row.get(name) for row in rows], SCHEMA.field(name).type) for name in SCHEMA.names}
    temporary = path.with_name(f".tmp-{path.name}")
    pq.write_table(pa.table(columns, schema=SCHEMA), temporary)
    temporary.replace(path)
