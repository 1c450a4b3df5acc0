"""Annotate: store the LLM's raw log-probability of every label for every text, in append-only parts.

The first pass also labels the test texts, after the pool, only to show which of its errors classifiers copy. No
variant, calibration, few-shot example or figure of the pool depends on them.

    python -m hf_recipes.annotation.annotate RECIPE [--key=value ...]

`hf-recipes annotate RECIPE` runs this in a child process, and starts another when the engine dies.
"""

import gc
import hashlib
import sys
import time
import unicodedata
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from .. import tables
from ..data import NO_GOLD, RowFiles, Rows, keep_rows, open_rows, rows_key
from ..errors import UserError
from ..hashing import make_key
from ..models import Model, load_tokenizer, resolve_model
from ..recipe import Annotate, load_recipe
from ..redact import redact
from ..row_reader import text_id
from ..study import Study, read_json, versions, write_json
from .calibration import ON_GOLD, not_enough_gold
from .engines import MAX_TOKEN_IDS, EngineError, engine_module
from .prompts import Demonstrations, Prompter, draw_demonstrations
from .store import (
    FAILED,
    MAX_PART_ROWS,
    MAX_SMALL_PARTS,
    NO_LABEL,
    SCHEMA,
    STATUSES,
    Parts,
    matrix,
    part_number,
    write_rows,
)

CHUNK_SECONDS = 20.0  # of work between two parts: what a kill can cost
CHUNK_SIZES = (16, MAX_PART_ROWS)  # texts in a part, at least and at most
ENOUGH = 128  # texts without one answer, or with next to no mass on the labels, after which the pass stops
MASKED = -9999.0  # what a vLLM server writes for minus infinity
TINY = 1e-6  # what a log-probability may be above 0 by rounding
MAX_MASS = 1.1  # of all labels: those that are asked about in several requests are rounded apart
SERVERS_FILE = "servers.json"  # by model, what the servers ran when they were last asked
CONTENT_FREE_FILE = "content_free.parquet"
CONTENT_FREE = ["N/A", "", "[MASK]"]  # Zhao et al. 2021, section 5
ENGINE_DIED = 75  # the exit code that says: start another process and go on


@dataclass(frozen=True)
class Annotations:
    """The annotations of one pass over the pool, or of the first pass over the test texts, in the order of the rows.

    Attributes:
        key (`str`): the name of their folder.
        section (`Annotate`): the pass's section of the recipe.
        logprobs (`np.ndarray` of shape `(n, K)`): natural log over the full vocabulary (of votes and guided answers: of
            their shares, -inf where there is none); nan where there is no label.
        status (`list[str]`): `ok`, `null_text`, `empty_text`, `demonstration`, `no_label` or `engine_error`.
        truncated (`np.ndarray` of shape `(n,)`, bool): the text was cut to fit.
        content_free (`np.ndarray` of shape `(3, K)`): the log-probabilities for inputs without content; empty for votes
            and guided answers.
    """

    key: str
    section: Annotate
    logprobs: np.ndarray
    status: list[str]
    truncated: np.ndarray
    content_free: np.ndarray


@dataclass(frozen=True)
class Pass:
    """One pass of the recipe: `key` is the hash of `ingredients`, which are all that changes an answer.

    `splits` are the files of the rows that the pass labels. They change no answer.
    """

    section: Annotate
    key: str
    ingredients: dict[str, Any]
    model: Model
    prompter: Prompter
    demonstrations: Demonstrations
    splits: tuple[str, ...]


def annotate(study: Study) -> list[str]:
    """Annotate rows that have no answer yet, and retry those at which the engine failed.

    Args:
        study (`Study`):
            The study; `annotations/<key>/` of each pass gains parts, and a manifest once every row is there.

    Returns:
        `list[str]`: the keys of the passes.

    Raises:
        UserError: see `open_rows`, `resolve_model`, `Prompter` and the engines.
        EngineError: the engine died; what is labelled stays.
    """
    files = open_rows(study)
    passes = plan_passes(study, files)  # Errors of prompt and model come before anything is written.
    with study.lock():
        files = keep_rows(study, files)
        study.annotations_root.mkdir(exist_ok=True)
        if any(p.prompter.is_dated for p in passes):
            # The date of the first annotation is kept, so that the prompts are the same a day later.
            kept = read_json(study.revisions_file) or {}
            write_json(study.revisions_file, {"date": date.today().isoformat(), **kept})
            passes = plan_passes(study, files)
        servers = {p.section.model: p.ingredients["engine"] for p in passes if p.section.engine == "server"}
        if servers:
            study.write_json(study.annotations_root / SERVERS_FILE, servers)
        engine, running = None, None
        for number, plan in enumerate(passes):
            section = plan.section
            wanted = (plan.model, section.engine, plan.ingredients["engine"], section.max_model_len, section.base_url)
            if rows_left_of(study, files, plan):
                if running != wanted:
                    engine = None
                    gc.collect()  # This frees the memory of the previous model.
                engine, running = _make_pass(study, files, plan, engine, number), wanted
        current = {"asked": _asked(study), "keys": [p.key for p in passes]}
        study.write_json(study.annotations_root / "current.json", current)
    return [p.key for p in passes]


def plan_passes(study: Study, files: RowFiles, contact: bool = True) -> list[Pass]:
    """Return all passes of the recipe, without starting an engine.

    Args:
        study (`Study`):
            The study.
        files (`RowFiles`):
            Its rows.
        contact (`bool`, *optional*, defaults to `True`):
            Whether servers are asked what they run. Otherwise the study's record counts, and without a record the key
            of a pass is one that no folder has.

    Raises:
        UserError: an error in prompt, labels, model or engine.
    """
    data, day = study.recipe.data, _day(study)
    passes: list[Pass] = []
    for section in study.recipe.annotate.all_passes():
        if section.engine == "server" and not contact:
            engine = recorded_servers(study).get(section.model, {"engine": "server"})
        else:
            engine = engine_module(section.engine).identity(section)
        model = resolve_model(study, "annotate.model", section.model, section.revision, weights=False)
        demonstrations = draw_demonstrations(files, section.prompt)
        tokenizer = load_tokenizer("annotate.model", model)
        prompter = Prompter(section, data, files.label_names, demonstrations, tokenizer, day)
        ingredients = {
            "model": model.identity,
            "tokenizing": {
                **versions("transformers", "tokenizers"),
                "unicode": unicodedata.unidata_version,
                "rules": 3 if prompter.has_open_tokens else 2,  # 3: all added tokens are text, not special ones alone
            },
            "engine": engine,
            "max_model_len": section.max_model_len,
            "scoring": section.scoring,
            "labels": files.label_names,
            "answers": dict(zip(prompter.answers, prompter.answer_ids, strict=True)),
            "frame": [prompter.frame.before, prompter.frame.head, prompter.frame.tail, prompter.frame.after],
            "shown": sorted(set(demonstrations.texts)),
        }
        if section.scoring == "votes":
            ingredients["votes"] = section.model_dump(
                include={"samples", "temperature", "max_tokens", "seed", "thinking"}
            )
        if section.scoring != "distribution":
            ingredients["reader"] = 3  # parts keep what Prompter.read made of the answers: a change of it counts up
        splits = ("train",) if passes else ("train", "test")
        passes.append(Pass(section, make_key(**ingredients), ingredients, model, prompter, demonstrations, splits))
    able = int(
        np.sum((files.column("gold").to_numpy() != NO_GOLD) & files.column("text_id").is_valid().to_numpy(False))
    )
    for plan in passes:
        left = able - len(plan.demonstrations.rows)
        if plan.section.calibration in ON_GOLD and left <= plan.section.calibration_rows:
            raise not_enough_gold(plan.section, left)
    asked = [(plan.key, plan.section.calibration) for plan in passes]
    for number, question in enumerate(asked):
        if (first := asked.index(question)) < number:
            raise UserError(
                f"annotate.passes: passes {first} and {number} are the same and would vote twice; change the "
                "prompt, its seed or the model of one (seed, samples and temperature matter to votes alone)"
            )
    return passes


def _day(study: Study) -> date:
    """Return the date that chat templates are rendered with: that of the study's record, else today."""
    kept = (read_json(study.revisions_file) or {}).get("date")
    try:
        return date.today() if kept is None else date.fromisoformat(kept)
    except (TypeError, ValueError):
        raise UserError(
            f"`date` in {study.revisions_file} must be a date like 2026-01-31. Got {kept!r}. Try the day of the first "
            "annotation."
        ) from None


def recorded_servers(study: Study) -> dict[str, Any]:
    """Return what the servers ran when `annotate` last asked them, by the model of the pass."""
    engines = {
        manifest["model"]: manifest["ingredients"]["engine"]
        for manifest in map(read_json, study.annotations_root.glob("*/manifest.json"))
        if manifest["ingredients"]["engine"]["engine"] == "server"
    }
    return engines | (read_json(study.annotations_root / SERVERS_FILE) or {})


def rows_left(study: Study, files: RowFiles, with_test: bool = True, contact: bool = True) -> int:
    """Return the number of rows without an answer, over all passes; 0 if `annotate` has nothing to do.

    Without the test rows it is 0 if the later steps can go on. For `contact` see `plan_passes`.
    """
    current = read_json(study.annotations_root / "current.json") or {}
    if files.withheld and current.get("asked") == _asked(study):
        return 0  # Only complete annotations are published.
    files.need_texts()
    passes = plan_passes(study, files, contact)
    left = sum(rows_left_of(study, files, p if with_test else replace(p, splits=("train",))) for p in passes)
    return left or int(current != {"asked": _asked(study), "keys": [p.key for p in passes]})


def rows_left_of(study: Study, files: RowFiles, plan: Pass) -> int:
    """Return the number of rows without an answer in one pass; at least 1 if its other files are incomplete."""
    folder = study.annotations(plan.key)
    statuses = Parts(folder).statuses(files.column("id", plan.splits))
    left = int(np.sum((statuses < 0) | (statuses == STATUSES.index(FAILED))))
    manifest = read_json(folder / "manifest.json") or {}
    whole = (folder / CONTENT_FREE_FILE).exists() and manifest.get("rows") == files.manifest["key"]
    if (folder / CONTENT_FREE_FILE).exists():
        tables.read(folder / CONTENT_FREE_FILE, SCHEMA)  # Damage is reported before an engine starts.
    return left or int(not whole)


def status(study: Study) -> list[dict[str, Any]]:
    """Return the progress of each pass.

    Returns:
        `list[dict]`: for each pass `key`, `model`, `rows` (the number of all its rows), `left`, `status` (the count of
        each) and `reasons` (of failures, each with its count).
    """
    files = open_rows(study)
    progress = []
    for plan in plan_passes(study, files):
        ids = files.column("id", plan.splits)
        parts = Parts(study.annotations(plan.key))
        counts = _count(parts.statuses(ids))
        progress.append(
            {
                "key": plan.key,
                "model": plan.section.model,
                "rows": len(ids),
                "left": len(ids) - sum(counts.values()),
                "status": counts,
                "reasons": parts.reasons(ids),
            }
        )
    return progress


def _count(codes: np.ndarray) -> dict[str, int]:
    counts = np.bincount(codes[codes >= 0], minlength=len(STATUSES)).tolist()
    return {name: count for name, count in zip(STATUSES, counts, strict=True) if count}


def shown_rows(study: Study, passes: list[Annotations]) -> int:
    """Return the number of few-shot examples over all passes. Each uses up a gold label."""
    manifests = [read_json(study.annotations(p.key) / "manifest.json") for p in passes]
    return len({text for manifest in manifests for text in manifest["ingredients"]["shown"]})


def rows_in_parts(study: Study) -> int:
    """Return the number of rows with an answer in all parts, which does not grow by retries that fail again."""
    parts = study.annotations_root.glob("*/part-*.parquet")
    return sum(int(np.sum(tables.read(part, SCHEMA, ["status"])["status"].to_numpy() != FAILED)) for part in parts)


def load_annotations(study: Study, pool: Rows) -> list[Annotations]:
    """Return the finished annotations of a study, pass by pass, without the LLM.

    Raises:
        UserError: these rows have no finished annotations yet.
    """
    current = read_json(study.annotations_root / "current.json") or {}
    if current.get("asked") != _asked(study):
        raise _not_finished(study)
    ids = pa.array(pool.ids, pa.string())
    passes = zip(current["keys"], study.recipe.annotate.all_passes(), strict=True)
    return [_load_pass(study, key, section, ids, len(pool.label_names)) for key, section in passes]


def load_test_annotations(study: Study, test: Rows) -> Annotations | None:
    """Return the first pass over the test texts of an annotated study; None where a test text was not asked about.

    Studies of earlier versions have no annotations of test texts.
    """
    key = read_json(study.annotations_root / "current.json")["keys"][0]
    ids = pa.array(test.ids, pa.string())
    if (Parts(study.annotations(key)).statuses(ids) < 0).any():
        return None
    return _load_pass(study, key, study.recipe.annotate.all_passes()[0], ids, len(test.label_names))


def _load_pass(study: Study, key: str, section: Annotate, ids: pa.Array, classes: int) -> Annotations:
    folder = study.annotations(key)
    parts = Parts(folder)
    statuses = parts.statuses(ids)
    if (statuses < 0).any() or not (folder / CONTENT_FREE_FILE).exists():
        raise _not_finished(study)
    truncated = np.zeros(len(ids), dtype=bool)
    logprobs = np.full((len(ids), classes), np.nan)
    for table, rows in parts.by_row(ids, "logprobs", "truncated"):
        logprobs[rows] = matrix(table["logprobs"], classes)
        truncated[rows] = table["truncated"].fill_null(False).to_numpy()
    free = tables.read(folder / CONTENT_FREE_FILE, SCHEMA, ["id", "logprobs"])
    if free["id"].to_pylist() != (CONTENT_FREE if section.scoring == "distribution" else []):
        raise UserError(f"{folder / CONTENT_FREE_FILE}: not the inputs without content; delete it and run again")
    content_free = matrix(free["logprobs"], classes)
    return Annotations(key, section, logprobs, [STATUSES[code] for code in statuses], truncated, content_free)


def _not_finished(study: Study) -> UserError:
    return UserError(
        f"{study.root}: no finished annotations for this recipe; run hf-recipes annotate first, with the same settings"
    )


def _asked(study: Study) -> str:
    """Return a hash of the rows and of the recipe's passes, without what changes no annotation."""
    excluded = {"calibration", "calibration_rows", "base_url", "ray", "passes", "min_label_mass"}
    sections = study.recipe.annotate.all_passes()
    passes = [section.model_dump(mode="json", exclude=excluded) for section in sections]
    return make_key(rows=rows_key(study), descriptions=study.recipe.data.descriptions, passes=passes)


def _make_pass(study: Study, files: RowFiles, plan: Pass, engine: Any, number: int) -> Any:
    """Score the rows of a pass that have no answer, write its manifest, and return the engine if one was needed."""
    folder = study.annotations(plan.key)
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    work = _Scoring(study, files, plan, engine)
    work.run(f"annotate, pass {number}" if study.recipe.annotate.passes else "annotate")
    statuses = Parts(folder).statuses(files.column("id"))
    prompter = plan.prompter
    taken = {"seconds": time.monotonic() - start, "start_seconds": work.starting}
    session = {"texts": work.scored, **{what: round(seconds, 1) for what, seconds in taken.items()}}
    made = read_json(folder / "manifest.json") or {"last_session": {"texts": 0, "seconds": 0.0}}
    before = made.get("all_sessions", made["last_session"])  # Earlier versions have no "all_sessions".
    study.write_json(
        folder / "manifest.json",
        {
            "key": plan.key,
            "rows": files.manifest["key"],
            "ingredients": plan.ingredients,
            "label_names": files.label_names,
            "model": plan.section.model,
            "prompt": str(prompter.frame),
            "answers": prompter.answers,
            "demonstrations": plan.demonstrations.ids,
            "status": _count(statuses),
            "last_session": session,
            "all_sessions": {what: round(before.get(what, 0) + session[what], 1) for what in session},
        },
    )
    return work.engine


class _Scoring:
    """A pass at work. It keeps a few bytes for every row, in arrays.

    Attributes:
        engine: the engine, which starts when the first text needs it.
        scored (`int`): model inputs scored so far.
        starting (`float`): seconds that the engine took to start.
    """

    def __init__(self, study: Study, files: RowFiles, plan: Pass, engine: Any):
        self._study, self._files, self._pass = study, files, plan
        self.engine, self.scored, self.starting = engine, 0, 0.0
        self._folder = study.annotations(plan.key)
        self._classes = len(files.label_names)
        texts = files.column("text_id", plan.splits)
        shown = pa.array([text_id(text) for text in plan.demonstrations.texts], texts.type)
        self._shown = pc.is_in(texts, value_set=shown).to_numpy(False) & texts.is_valid().to_numpy(False)
        self._slots = _slots(texts)
        self._answers = np.full((int(self._slots.max(initial=-1)) + 1, self._classes), np.nan)
        self._resume()

    def _resume(self) -> None:
        """Read the parts of earlier sessions: the rows that have an answer, and the answers to repeated texts."""
        ids = self._files.column("id", self._pass.splits)
        if len(list(self._folder.glob("part-*.parquet"))) > MAX_SMALL_PARTS:
            Parts(self._folder).merge(self._study.checksums)
        self._settled = np.zeros(len(ids), dtype=bool)
        self._silent = 0  # texts before the first answer
        self._answered = False
        self._masses: list[float] = []  # on the labels, of the first texts
        parts = Parts(self._folder)
        for table, rows in parts.by_row(ids, "status", "logprobs"):
            self._settled[rows] = pc.not_equal(table["status"], FAILED).to_numpy()
            self._answered |= bool(table["logprobs"].is_valid().to_numpy().any())
            for logprobs in table["logprobs"].drop_null()[: ENOUGH - len(self._masses)].to_pylist():
                self._masses.append(float(np.exp(logprobs).sum()))
            unread = (self._slots[rows] >= 0) & pc.equal(table["status"], "no_label").to_numpy()
            self._answers[self._slots[rows[unread]]] = -np.inf
            again = (self._slots[rows] >= 0) & table["logprobs"].is_valid().to_numpy()
            self._answers[self._slots[rows[again]]] = matrix(table["logprobs"].filter(again), self._classes)
        self._next_part = 1 + max(map(part_number, self._folder.glob("part-*.parquet")), default=-1)
        self._small_parts = 0

    def run(self, title: str) -> None:
        """Score the rows without an answer, chunk by chunk. Each chunk becomes a part."""
        self._check_mass()  # An earlier session may have labelled enough to stop before an engine starts.
        size = CHUNK_SIZES[0]
        done = int(self._settled.sum())
        with tqdm(total=len(self._settled), initial=done, desc=title, unit=" texts") as self._bar:
            if not (self._folder / CONTENT_FREE_FILE).exists():
                self._score_content_free()
            waiting: list[tuple[int, str, str | None]] = []
            for rows in self._rows_left():
                waiting += rows
                while len(waiting) >= size:
                    chunk, waiting = waiting[:size], waiting[size:]
                    start = time.monotonic()
                    self._score(chunk)
                    fitting = size * CHUNK_SECONDS / max(time.monotonic() - start, 1e-9)  # A clock may stand still.
                    size = int(np.clip(fitting, CHUNK_SIZES[0], min(2 * size, CHUNK_SIZES[1])))
            if waiting:
                self._score(waiting)
            self._check_mass(len(self._masses))

    def _check_mass(self, enough: int = ENOUGH) -> None:
        """Stop a pass whose model gives the labels a low probability. Labels are kept."""
        section = self._pass.section
        if section.scoring != "distribution" or not self._masses or len(self._masses) < enough:
            return
        mean = float(np.mean(self._masses))
        if mean < section.min_label_mass:
            plain = "`annotate.prompt.chat: false`, " if section.prompt.chat else ""
            raise UserError(
                "`annotate.prompt` must make the model answer with a label. Got a mean label mass of "
                f"{mean:.3f} over the first {len(self._masses)} texts, below {section.min_label_mass:g}. Try {plain}"
                "another prompt, a few-shot example or `annotate.prompt.answers: letters`; "
                "`annotate.min_label_mass: 0` goes on."
            )

    def _rows_left(self) -> Iterator[list[tuple[int, str, str | None]]]:
        """Yield position, id and text of the rows without an answer, a batch at a time."""
        start = 0
        for batch in self._files.batches("id", "text", splits=self._pass.splits):
            left = np.flatnonzero(~self._settled[start : start + len(batch)])
            rows = batch.take(pa.array(left))
            places = (left + start).tolist()
            yield list(zip(places, rows["id"].to_pylist(), rows["text"].to_pylist(), strict=True))
            start += len(batch)

    def _score(self, chunk: list[tuple[int, str, str | None]]) -> None:
        """Ask about the texts of a chunk, about equal texts once, and write a part."""
        rows: list[dict[str, Any]] = [
            {"id": row_id, "status": self._status(place, text)} for place, row_id, text in chunk
        ]
        asked = [i for i, row in enumerate(rows) if row["status"] == "ok"]
        encoded = self._pass.prompter.encode([str(chunk[i][2]) for i in asked])
        inputs: dict[str, list[int]] = {}
        answers: dict[str, np.ndarray] = {}
        for i, (ids, cut) in zip(asked, encoded, strict=True):
            prompt_id = _prompt_id(ids)
            rows[i] |= {"prompt_id": prompt_id, "n_tokens": len(ids), "truncated": cut}
            slot = self._slots[chunk[i][0]]
            if slot >= 0 and not np.isnan(self._answers[slot, 0]):
                answers[prompt_id] = self._answers[slot]
            else:
                inputs[prompt_id] = ids
        refused: dict[str, dict[str, str]] = {}
        if inputs:
            self.scored += len(inputs)
            new, refused = ask(self._running_engine(), self._pass.section, self._pass.prompter, inputs)
            self._check_silence(len(new), list(refused.values()))
            answers |= new
        for i in asked:
            prompt_id, slot = rows[i]["prompt_id"], self._slots[chunk[i][0]]
            answer = answers.get(prompt_id)
            if answer is None:
                rows[i] |= refused[prompt_id]
                answer = np.array(-np.inf if rows[i]["status"] == "no_label" else np.nan)
            elif np.isneginf(answer).all():
                rows[i] |= NO_LABEL
            else:
                rows[i]["logprobs"] = answer.tolist()
                if len(self._masses) < ENOUGH:
                    self._masses.append(float(np.exp(answer).sum()))
            if slot >= 0:  # for rows with an equal text
                self._answers[slot] = answer
        self._write(rows)

    def _check_silence(self, num_answers: int, refused: list[dict[str, str]]) -> None:
        """Stop a pass that gets no answer at all. A pass with answers goes on where some rows fail again."""
        self._answered |= bool(num_answers)
        self._silent += len(refused)
        if self._silent >= ENOUGH and not self._answered:
            if refused[-1]["status"] == FAILED:
                raise UserError(f"annotate: the engine refuses every text: {refused[-1]['error']}")
            raise UserError(
                f"annotate: none of the first {self._silent} texts got an answer that names a label; raise "
                "annotate.max_tokens, or tell the model in the prompt to answer with a label alone"
            )

    def _write(self, rows: list[dict[str, Any]]) -> None:
        checksums = self._study.checksums
        write_rows(self._folder / f"part-{self._next_part:05d}.parquet", rows, checksums.publish)
        self._next_part += 1
        self._small_parts += 1
        if self._small_parts == MAX_SMALL_PARTS:
            Parts(self._folder).merge(checksums)
            self._small_parts = 0
        self._bar.update(len(rows))
        self._check_mass()

    def _status(self, place: int, text: str | None) -> str:
        """Return the status of a row before its text is asked about; `ok` where the text has to be asked about."""
        if text is None:
            return "null_text"
        if text_id(text) is None:
            return "empty_text"
        return "demonstration" if self._shown[place] else "ok"

    def _running_engine(self) -> Any:
        if self.engine is None:
            section = self._pass.section
            self._bar.set_postfix_str("starting the engine")
            start = time.monotonic()
            local = section.engine != "server"
            model = resolve_model(self._study, "annotate.model", section.model, section.revision, weights=local)
            self.engine = engine_module(section.engine).Engine(section, model)
            self.starting += time.monotonic() - start
            self._bar.set_postfix_str("")
            self._bar.unpause()
        return self.engine

    def _score_content_free(self) -> None:
        """Score the inputs without content, by which all others are calibrated."""
        rows = []
        if self._pass.section.scoring == "distribution":
            inputs = [ids for ids, _ in self._pass.prompter.encode(CONTENT_FREE)]
            answers, errors = score_answers(self._running_engine(), inputs, self._pass.prompter.answer_ids)
            reasons = [*errors.values(), *filter(None, map(_doubt, answers))]
            if reasons:
                raise UserError(f"annotate: the engine refused an input without content ({reasons[0]})")
            rows = [
                {"id": text, "prompt_id": _prompt_id(ids), "logprobs": answer, "n_tokens": len(ids), "status": "ok"}
                for text, ids, answer in zip(CONTENT_FREE, inputs, answers.tolist(), strict=True)
            ]
        write_rows(self._folder / CONTENT_FREE_FILE, rows, self._study.checksums.publish)


def ask(
    engine: Any, section: Annotate, prompter: Prompter, inputs: dict[str, list[int]]
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, str]]]:
    """Return the answers to model inputs, and status and error of inputs without an answer, by prompt id."""
    by_length = sorted(inputs, key=lambda prompt_id: len(inputs[prompt_id]))
    prompts = [inputs[prompt_id] for prompt_id in by_length]
    if section.scoring == "distribution":
        logprobs, errors = score_answers(engine, prompts, prompter.answer_ids)
    else:
        logprobs, errors = _shares(engine, section, prompter, by_length, prompts)
    answers, refused = {}, {}
    for i, prompt_id in enumerate(by_length):
        if i in errors:
            refused[prompt_id] = {"status": FAILED, "error": errors[i]}
        elif section.scoring == "distribution" and (reason := _doubt(logprobs[i])):
            refused[prompt_id] = {"status": FAILED, "error": reason}
        elif np.isneginf(logprobs[i]).all():
            refused[prompt_id] = NO_LABEL
        else:
            answers[prompt_id] = logprobs[i]
    return answers, refused


def _doubt(logprobs: np.ndarray) -> str | None:
    """Return why these are not the log-probabilities of labels, or None.

    A softmax over the vocabulary gives every label some probability: minus infinity is a label that the engine masks.
    """
    if np.isnan(logprobs).any():
        return "a log-probability is not a number"
    if (logprobs <= MASKED).any():
        return "the engine masks a label: its log-probability is minus infinity"
    if (logprobs > TINY).any():
        return "a log-probability is above 0"
    if np.exp(logprobs).sum() > MAX_MASS:
        return "the probabilities of the labels sum to more than 1"
    return None


def _slots(texts: pa.Array) -> np.ndarray:
    """Return a number for each row that equal texts share; -1 where the text occurs once or is missing."""
    present = np.flatnonzero(texts.is_valid().to_numpy(False))
    width = texts.type.byte_width
    words = np.frombuffer(texts.buffers()[1], dtype=[("high", "<u8"), ("low", "<u4")], offset=texts.offset * width)
    words = words[present]
    order = np.lexsort((words["low"], words["high"]))
    words = words[order]
    group = np.cumsum(np.append(True, words[1:] != words[:-1])[: len(words)]) - 1
    often = np.bincount(group) > 1
    slots = np.full(len(texts), -1, dtype=np.int32)
    slots[present[order]] = np.where(often, np.cumsum(often) - 1, -1)[group]
    return slots


def score_answers(engine: Any, prompts: list[list[int]], answers: list[list[int]]) -> tuple[np.ndarray, dict[int, str]]:
    """Return the log-probability of each answer, a sequence of tokens, after each prompt: the sum over its tokens.

    Answers of one token take one call. Longer answers take one more call for each beginning, which the engine's prefix
    cache makes cheap. The sum is not normalised by length.

    Args:
        engine (`Engine`):
            See `hf_recipes.annotation.engines`.
        prompts (`list[list[int]]`), answers (`list[list[int]]`):
            Token ids; no answer begins with another one.

    Returns:
        `tuple[np.ndarray, dict[int, str]]`: an array of shape `(n, K)`, and the reasons of refused prompts by index.
    """
    following: dict[tuple[int, ...], list[int]] = {}
    for answer in answers:
        for length, token in enumerate(answer):
            after = following.setdefault(tuple(answer[:length]), [])
            if token not in after:
                after.append(token)
    total = np.zeros((len(prompts), len(answers)))
    errors: dict[int, str] = {}
    for start, tokens in following.items():
        inputs = [[*prompt, *start] for prompt in prompts]
        blocks = []
        for first in range(0, len(tokens), MAX_TOKEN_IDS):
            logprobs, refused = engine.score(inputs, tokens[first : first + MAX_TOKEN_IDS])
            blocks.append(logprobs)
            errors |= refused
        logprobs = np.concatenate(blocks, axis=1)
        for k, answer in enumerate(answers):
            if tuple(answer[: len(start)]) == start and len(answer) > len(start):
                total[:, k] += logprobs[:, tokens.index(answer[len(start)])]
    return total, errors


def _shares(
    engine: Any, section: Annotate, prompter: Prompter, prompt_ids: list[str], prompts: list[list[int]]
) -> tuple[np.ndarray, dict[int, str]]:
    """Return the log of each label's share among the sampled answers, or of the single constrained answer."""
    guided = section.scoring == "guided"
    samples, temperature = (1, 0.0) if guided else (section.samples, section.temperature)
    longest = prompter.longest_choice if guided else section.max_tokens
    seeds = [int(hashlib.sha256(f"{section.seed}\0{name}".encode()).hexdigest()[:7], 16) for name in prompt_ids]
    choices = prompter.choices if guided else None
    answers, errors = engine.sample(prompts, samples, temperature, longest, seeds, choices)
    counts = np.zeros((len(prompts), len(prompter.answers)))
    for i, texts in enumerate(answers):
        for text in texts:
            label = prompter.read(text)
            if label is not None:
                counts[i, label] += 1
    with np.errstate(divide="ignore"):
        return np.log(counts / samples), errors


def _prompt_id(token_ids: list[int]) -> str:
    return hashlib.blake2b(array("q", token_ids).tobytes(), digest_size=12).hexdigest()


def main() -> None:
    """Run `annotate` as the child process of the command line."""
    from .. import logs

    logs.set_up()
    with logs.in_a_line():
        try:
            annotate(Study(load_recipe(sys.argv[1], sys.argv[2:])))
        except EngineError as error:
            print(f"error: {redact(str(error))}", file=sys.stderr)
            sys.exit(ENGINE_DIED)


if __name__ == "__main__":
    main()
