"""Annotations: for every text the LLM's log-probability of every label, raw, in append-only parts.

The first pass is asked about the test texts too, after the pool: for nothing but to say which of its errors classifiers
copy. No arm, calibration, demonstration or figure of the pool looks at them.

    python -m hf_recipes.annotate RECIPE [--key=value ...]

`hf-recipes annotate RECIPE` runs just that in a process of its own, and starts another when the engine dies.
"""

import gc
import hashlib
import itertools
import sys
import time
import unicodedata
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from . import tables
from .calibrate import ON_GOLD, not_enough_gold
from .data import NO_GOLD, RowFiles, Rows, keep_rows, open_rows, rows_key, text_id
from .engines import MAX_TOKEN_IDS, EngineError, engine_module
from .models import Model, load_tokenizer, resolve_model
from .parts import (
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
from .prompts import Demonstrations, Prompter, draw_demonstrations
from .recipe import Annotate, UserError, load_recipe
from .redact import redact
from .study import Study, make_key, read_json, versions, write_json

CHUNK_SECONDS = 20.0  # of work between two parts: what a kill can cost
CHUNK_SIZES = (16, MAX_PART_ROWS)  # texts in a part, at least and at most
ENOUGH = 128  # texts without one answer, or with next to no mass on the labels, after which the pass stops
MASKED = -9999.0  # what a vLLM server writes for minus infinity
TINY = 1e-6  # what a log-probability may be above 0 by rounding
MAX_MASS = 1.1  # of all labels: those that are asked about in several requests are rounded apart
SERVERS_FILE = "servers.json"  # by model, what the servers ran when they were last asked
CONTENT_FREE_FILE = "content_free.parquet"
CONTENT_FREE = ["N/A", "", "[MASK]"]  # Zhao et al. 2021, section 5
ASKED = pa.schema({"place": pa.int64(), "id": pa.string(), "text": pa.string()})  # what a cluster gets
ENGINE_DIED = 75  # the exit code that says: start another process and go on


@dataclass(frozen=True)
class Annotations:
    """One pass over the pool, or the first over the test texts, in their order.

    Attributes:
        key (`str`): the folder they lie in.
        section (`Annotate`): how they were made.
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
    """One pass, ready to be made: `key` is the hash of `ingredients`, all that changes an answer.

    `splits` are the files of rows that it is asked about; which they are changes no answer.
    """

    section: Annotate
    key: str
    ingredients: dict[str, Any]
    model: Model
    prompter: Prompter
    demonstrations: Demonstrations
    splits: tuple[str, ...]


def annotate(study: Study) -> list[str]:
    """Annotates what is not annotated yet, and asks again where the engine failed.

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
    passes = plan_passes(study, files)  # what is wrong with prompt or model is said before anything is written
    with study.lock():
        files = keep_rows(study, files)
        study.annotations_root.mkdir(exist_ok=True)
        if any(one.prompter.is_dated for one in passes):
            # The date of the first annotation is kept, so that the prompts are the same a day later.
            kept = read_json(study.revisions_file) or {}
            write_json(study.revisions_file, {"date": date.today().isoformat(), **kept})
            passes = plan_passes(study, files)
        servers = {p.section.model: p.ingredients["engine"] for p in passes if p.section.engine == "server"}
        if servers:
            study.write_json(study.annotations_root / SERVERS_FILE, servers)
        engine, running = None, None
        for number, one in enumerate(passes):
            section = one.section
            wanted = (one.model, section.engine, one.ingredients["engine"], section.max_model_len, section.base_url)
            if rows_left_of(study, files, one):
                if running != wanted:
                    engine = None
                    gc.collect()  # the memory of the model before
                engine, running = _make_pass(study, files, one, engine, number), wanted
        current = {"asked": _asked(study), "keys": [one.key for one in passes]}
        study.write_json(study.annotations_root / "current.json", current)
    return [one.key for one in passes]


def plan_passes(study: Study, files: RowFiles, contact: bool = True) -> list[Pass]:
    """All passes of the recipe; starts nothing.

    Args:
        study (`Study`):
            The study.
        files (`RowFiles`):
            Its rows.
        contact (`bool`, *optional*, defaults to `True`):
            Whether servers are asked what they run. Else the study's record says what they ran, and without a record
            the key of a pass is one that no folder has.

    Raises:
        UserError: what is wrong with prompt, labels, model or engine.
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
    for one in passes:
        left = able - len(one.demonstrations.rows)
        if one.section.calibration in ON_GOLD and left <= one.section.calibration_rows:
            raise not_enough_gold(one.section, left)
    asked = [(one.key, one.section.calibration) for one in passes]
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
    """Return what the servers ran when `annotate` asked them last, by the model of the pass."""
    found = {
        manifest["model"]: manifest["ingredients"]["engine"]
        for manifest in map(read_json, study.annotations_root.glob("*/manifest.json"))
        if manifest["ingredients"]["engine"]["engine"] == "server"
    }
    return found | (read_json(study.annotations_root / SERVERS_FILE) or {})


def rows_left(study: Study, files: RowFiles, with_test: bool = True, contact: bool = True) -> int:
    """How many rows are still to be annotated, over all passes; 0 if `annotate` has nothing to do.

    Without the test rows: 0 if the later steps can go on. For `contact` see `plan_passes`.
    """
    current = read_json(study.annotations_root / "current.json") or {}
    if files.withheld and current.get("asked") == _asked(study):
        return 0  # only whole annotations are published
    files.need_texts()
    passes = plan_passes(study, files, contact)
    left = sum(rows_left_of(study, files, one if with_test else replace(one, splits=("train",))) for one in passes)
    return left or int(current != {"asked": _asked(study), "keys": [one.key for one in passes]})


def rows_left_of(study: Study, files: RowFiles, one: Pass) -> int:
    """The same of one pass."""
    folder = study.annotations(one.key)
    statuses = Parts(folder).statuses(files.column("id", one.splits))
    left = int(np.sum((statuses < 0) | (statuses == STATUSES.index(FAILED))))
    manifest = read_json(folder / "manifest.json") or {}
    whole = (folder / CONTENT_FREE_FILE).exists() and manifest.get("rows") == files.manifest["key"]
    if (folder / CONTENT_FREE_FILE).exists():
        tables.read(folder / CONTENT_FREE_FILE, SCHEMA)  # damage is said before anything is started
    return left or int(not whole)


def status(study: Study) -> list[dict[str, Any]]:
    """What is done, failed and left, by pass.

    Returns:
        `list[dict]`: for each pass `key`, `model`, `rows` (all that it is asked about), `left`, `status` (the count of
        each) and `reasons` (why rows failed, each with its count).
    """
    files = open_rows(study)
    found = []
    for one in plan_passes(study, files):
        ids = files.column("id", one.splits)
        parts = Parts(study.annotations(one.key))
        counts = _count(parts.statuses(ids))
        found.append(
            {
                **{"key": one.key, "model": one.section.model, "rows": len(ids)},
                **{"left": len(ids) - sum(counts.values()), "status": counts, "reasons": parts.reasons(ids)},
            }
        )
    return found


def _count(codes: np.ndarray) -> dict[str, int]:
    counts = np.bincount(codes[codes >= 0], minlength=len(STATUSES)).tolist()
    return {name: count for name, count in zip(STATUSES, counts, strict=True) if count}


def shown_rows(study: Study, passes: list[Annotations]) -> int:
    """How many texts the passes show with their labels: each is a gold label spent."""
    manifests = [read_json(study.annotations(one.key) / "manifest.json") for one in passes]
    return len({text for manifest in manifests for text in manifest["ingredients"]["shown"]})


def rows_in_parts(study: Study) -> int:
    """How many rows with an answer all parts hold: what a process has got done shows here, what it only retried not."""
    parts = study.annotations_root.glob("*/part-*.parquet")
    return sum(int(np.sum(tables.read(part, SCHEMA, ["status"])["status"].to_numpy() != FAILED)) for part in parts)


def load_annotations(study: Study, pool: Rows) -> list[Annotations]:
    """The finished annotations of a study, pass by pass; needs neither the LLM nor vLLM.

    Raises:
        UserError: there are none yet for these rows.
    """
    current = read_json(study.annotations_root / "current.json") or {}
    if current.get("asked") != _asked(study):
        raise _not_finished(study)
    ids = pa.array(pool.ids, pa.string())
    passes = zip(current["keys"], study.recipe.annotate.all_passes(), strict=True)
    return [_load_pass(study, key, section, ids, len(pool.label_names)) for key, section in passes]


def load_test_annotations(study: Study, test: Rows) -> Annotations | None:
    """The first pass over the test texts of an annotated study; None where it was not asked about all of them.

    So it is in studies that were annotated, or published, before it was.
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
    """The rows, and the recipe's annotator. Calibration is derived later and changes no annotation."""
    apart = {"calibration", "calibration_rows", "base_url", "ray", "passes", "min_label_mass"}
    sections = study.recipe.annotate.all_passes()
    passes = [section.model_dump(mode="json", exclude=apart) for section in sections]
    return make_key(rows=rows_key(study), descriptions=study.recipe.data.descriptions, passes=passes)


def _make_pass(study: Study, files: RowFiles, one: Pass, engine: Any, number: int) -> Any:
    """Scores what is left of a pass and writes its manifest; returns the running engine, if one was needed."""
    folder = study.annotations(one.key)
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    work = _Scoring(study, files, one, engine)
    work.run(f"annotate, pass {number}" if study.recipe.annotate.passes else "annotate")
    statuses = Parts(folder).statuses(files.column("id"))
    prompter = one.prompter
    taken = {"seconds": time.monotonic() - start, "start_seconds": work.starting}
    session = {"texts": work.scored, **{what: round(seconds, 1) for what, seconds in taken.items()}}
    made = read_json(folder / "manifest.json") or {"last_session": {"texts": 0, "seconds": 0.0}}
    before = made.get("all_sessions", made["last_session"])  # of this version, or of one before
    study.write_json(
        folder / "manifest.json",
        {
            "key": one.key,
            "rows": files.manifest["key"],
            "ingredients": one.ingredients,
            "label_names": files.label_names,
            "model": one.section.model,
            "prompt": str(prompter.frame),
            "answers": prompter.answers,
            "demonstrations": one.demonstrations.ids,
            "status": _count(statuses),
            "last_session": session,
            "all_sessions": {what: round(before.get(what, 0) + session[what], 1) for what in session},
        },
    )
    return work.engine


class _Scoring:
    """One pass at work: what is known of every row that it is asked about, in arrays of a few bytes a row.

    Attributes:
        engine: the running engine, started when the first text needs it.
        scored (`int`): model inputs scored so far.
        starting (`float`): seconds that the engine took to start.
    """

    def __init__(self, study: Study, files: RowFiles, one: Pass, engine: Any):
        self._study, self._files, self._pass = study, files, one
        self.engine, self.scored, self.starting = engine, 0, 0.0
        self._folder = study.annotations(one.key)
        self._classes = len(files.label_names)
        texts = files.column("text_id", one.splits)
        shown = pa.array([text_id(text) for text in one.demonstrations.texts], texts.type)
        self._shown = pc.is_in(texts, value_set=shown).to_numpy(False) & texts.is_valid().to_numpy(False)
        self._slots = _slots(texts)
        self._answers = np.full((int(self._slots.max(initial=-1)) + 1, self._classes), np.nan)
        self._resume()

    def _resume(self) -> None:
        """What earlier sessions left: which rows are settled, and the answers to texts that come again."""
        ids = self._files.column("id", self._pass.splits)
        if len(list(self._folder.glob("part-*.parquet"))) > MAX_SMALL_PARTS:
            Parts(self._folder).merge(self._study.checksums)
        self._settled = np.zeros(len(ids), dtype=bool)
        self._silent = 0  # texts asked about until one gets an answer
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
        """Scores what is left, chunk by chunk; each chunk becomes a part."""
        self._check_mass()  # of what an earlier session labelled, before an engine starts
        size = CHUNK_SIZES[0]
        done = int(self._settled.sum())
        with tqdm(total=len(self._settled), initial=done, desc=title, unit=" texts") as self._bar:
            if self._pass.section.engine == "ray":
                self._stream()  # and what follows finds all answers there
            if not (self._folder / CONTENT_FREE_FILE).exists():
                self._score_content_free()
            waiting: list[tuple[int, str, str | None]] = []
            for rows in self._rows_left():
                waiting += rows
                while len(waiting) >= size:
                    chunk, waiting = waiting[:size], waiting[size:]
                    start = time.monotonic()
                    self._score(chunk)
                    fitting = size * CHUNK_SECONDS / max(time.monotonic() - start, 1e-9)  # a clock may stand still
                    size = int(np.clip(fitting, CHUNK_SIZES[0], min(2 * size, CHUNK_SIZES[1])))
            if waiting:
                self._score(waiting)
            self._check_mass(len(self._masses))

    def _check_mass(self, enough: int = ENOUGH) -> None:
        """Stop a pass whose model puts next to no probability on the labels; labelled texts are kept."""
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
        """Position, id and text of the rows to be scored, some at a time."""
        start = 0
        for batch in self._files.batches("id", "text", splits=self._pass.splits):
            left = np.flatnonzero(~self._settled[start : start + len(batch)])
            some = batch.take(pa.array(left))
            places = (left + start).tolist()
            yield list(zip(places, some["id"].to_pylist(), some["text"].to_pylist(), strict=True))
            start += len(batch)

    def _score(self, chunk: list[tuple[int, str, str | None]]) -> None:
        """Asks about the texts of a chunk that have no answer yet, equal ones once, and writes a part."""
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
        found, refused = self._ask(inputs) if inputs else ({}, {})
        self._check_silence(len(found), list(refused.values()))
        answers |= found
        for i in asked:
            answer = answers.get(rows[i]["prompt_id"])
            self._settle(rows[i], chunk[i][0], answer, refused.get(rows[i]["prompt_id"], {}))
        self._write(rows)

    def _check_silence(self, found: int, refused: list[dict[str, str]]) -> None:
        """Stops a pass that gets no answer at all; one that works goes on where some rows fail again."""
        self._answered |= bool(found)
        self._silent += len(refused)
        if self._silent >= ENOUGH and not self._answered:
            if refused[-1]["status"] == FAILED:
                raise UserError(f"annotate: the engine refuses every text: {refused[-1]['error']}")
            raise UserError(
                f"annotate: none of the first {self._silent} texts got an answer that names a label; raise "
                "annotate.max_tokens, or tell the model in the prompt to answer with a label alone"
            )

    def _settle(self, row: dict[str, Any], place: int, answer: np.ndarray | None, refusal: dict[str, str]) -> None:
        """Completes the row of a text that was asked about, and remembers the answer for those that equal it."""
        if answer is None:
            row |= refusal
            answer = np.array(-np.inf if row["status"] == "no_label" else np.nan)
        elif np.isneginf(answer).all():
            row |= NO_LABEL
        else:
            row["logprobs"] = answer.tolist()
            if len(self._masses) < ENOUGH:
                self._masses.append(float(np.exp(answer).sum()))
        if self._slots[place] >= 0:
            self._answers[self._slots[place]] = answer

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
        """A text among the demonstrations, in whatever row, has its answer in the prompt and is not asked about."""
        if text is None:
            return "null_text"
        if text_id(text) is None:
            return "empty_text"
        return "demonstration" if self._shown[place] else "ok"

    def _ask(self, inputs: dict[str, list[int]]) -> tuple[dict[str, np.ndarray], dict[str, dict[str, str]]]:
        self.scored += len(inputs)
        return ask(self._running_engine(), self._pass.section, self._pass.prompter, inputs)

    def _stream(self) -> None:
        """Has a cluster answer all that is left, each text once, and writes parts as the answers come.

        First one of each group of equal texts is asked about; then, where the engine failed at that, the others.
        """
        section, prompter = self._pass.section, self._pass.prompter
        engine = engine_module(section.engine)
        for firsts in (True, False):
            tables = self._unanswered(firsts)
            if (first := next(tables, None)) is None:
                continue
            self._bar.set_postfix_str("starting the engines")
            model = resolve_model(self._study, "annotate.model", section.model, section.revision)
            most = len(CONTENT_FREE) + int(np.sum(~self._settled))
            answers = engine.stream(
                section, model, itertools.chain([first], tables), most, partial(answer_table, section, prompter)
            )
            content_free: list[dict[str, Any]] = []
            rows: list[dict[str, Any]] = []
            start = time.monotonic()
            try:
                for table in answers:
                    self._bar.set_postfix_str("")
                    for row in table.to_pylist():
                        (content_free if row["place"] < 0 else rows).append(row)
                    if time.monotonic() - start > CHUNK_SECONDS or len(rows) >= CHUNK_SIZES[1]:
                        whole, rows, start = rows, [], time.monotonic()
                        self._take(whole)
            finally:
                answers.close()
                if rows:
                    self._take(rows)
            if content_free:
                self._take_content_free(content_free)

    def _unanswered(self, firsts: bool) -> Iterator[pa.Table]:
        """Position, id and text of what a cluster is to be asked about, before them the inputs without content."""
        if not (self._folder / CONTENT_FREE_FILE).exists() and self._pass.section.scoring == "distribution":
            places = list(range(-len(CONTENT_FREE), 0))
            yield pa.table({"place": places, "id": CONTENT_FREE, "text": CONTENT_FREE}, schema=ASKED)
        waiting = ~np.isnan(self._answers[:, 0])  # slots that need no asking
        for rows in self._rows_left():
            asked = []
            for place, row_id, text in rows:
                slot = self._slots[place]
                if self._status(place, text) == "ok" and not (slot >= 0 and waiting[slot]):
                    asked.append({"place": place, "id": row_id, "text": text})
                    if slot >= 0 and firsts:
                        waiting[slot] = True
            if asked:
                yield pa.Table.from_pylist(asked, schema=ASKED)

    def _take(self, rows: list[dict[str, Any]]) -> None:
        """A part of what a cluster has answered."""
        refused = [row for row in rows if row["status"] != "ok"]
        for row in rows:
            place, answer = row.pop("place"), row.pop("logprobs")
            refusal = {"status": row["status"], "error": row["error"]}
            self._settle(row, place, None if answer is None else np.array(answer), refusal)
            self._settled[place] = True
        self.scored += len(rows)
        self._write(rows)
        self._check_silence(len(rows) - len(refused), refused)

    def _take_content_free(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if row["status"] != "ok":
                raise UserError(f"annotate: the engine refused an input without content ({row['error']})")
            row["truncated"] = None
        in_order = sorted(rows, key=lambda row: row["place"])
        write_rows(self._folder / CONTENT_FREE_FILE, in_order, self._study.checksums.publish)

    def _running_engine(self) -> Any:
        if self.engine is None:
            section = self._pass.section
            self._bar.set_postfix_str("starting the engine")
            start = time.monotonic()
            local = section.engine == "vllm"
            model = resolve_model(self._study, "annotate.model", section.model, section.revision, weights=local)
            self.engine = engine_module(section.engine).Engine(section, model)
            self.starting += time.monotonic() - start
            self._bar.set_postfix_str("")
            self._bar.unpause()
        return self.engine

    def _score_content_free(self) -> None:
        """The inputs without content are scored first, as everything else is calibrated by them."""
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
    """The answers to model inputs by prompt id, and for those without one what stands in their rows instead."""
    by_length = sorted(inputs, key=lambda prompt_id: len(inputs[prompt_id]))
    prompts = [inputs[prompt_id] for prompt_id in by_length]
    if section.scoring == "distribution":
        logprobs, errors = score_answers(engine, prompts, prompter.answer_ids)
    else:
        logprobs, errors = _shares(engine, section, prompter, by_length, prompts)
    found, refused = {}, {}
    for i, prompt_id in enumerate(by_length):
        if i in errors:
            refused[prompt_id] = {"status": FAILED, "error": errors[i]}
        elif section.scoring == "distribution" and (reason := _doubt(logprobs[i])):
            refused[prompt_id] = {"status": FAILED, "error": reason}
        elif np.isneginf(logprobs[i]).all():
            refused[prompt_id] = NO_LABEL
        else:
            found[prompt_id] = logprobs[i]
    return found, refused


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


def answer_table(section: Annotate, prompter: Prompter, engine: Any, asked: pa.Table) -> pa.Table:
    """What an actor on a cluster does: the rows of a part for rows with `place`, `id` and `text`, with their places."""
    encoded = prompter.encode(asked["text"].to_pylist())
    names = [_prompt_id(ids) for ids, _ in encoded]
    inputs = {name: ids for name, (ids, _) in zip(names, encoded, strict=True)}
    found, refused = ask(engine, section, prompter, inputs)
    columns = {
        "id": asked["id"],
        "prompt_id": names,
        "logprobs": [found[name].tolist() if name in found else None for name in names],
        "n_tokens": [len(ids) for ids, _ in encoded],
        "truncated": [cut for _, cut in encoded],
        "status": [refused.get(name, {"status": "ok"})["status"] for name in names],
        "error": [refused.get(name, {"error": None})["error"] for name in names],
    }
    return pa.table(columns, schema=SCHEMA).append_column("place", asked["place"])


def _slots(texts: pa.Array) -> np.ndarray:
    """For each row a number that equal texts share, or -1 where the text comes once or there is none."""
    known = np.flatnonzero(texts.is_valid().to_numpy(False))
    width = texts.type.byte_width
    words = np.frombuffer(texts.buffers()[1], dtype=[("high", "<u8"), ("low", "<u4")], offset=texts.offset * width)
    words = words[known]
    order = np.lexsort((words["low"], words["high"]))
    words = words[order]
    group = np.cumsum(np.append(True, words[1:] != words[:-1])[: len(words)]) - 1
    often = np.bincount(group) > 1
    slots = np.full(len(texts), -1, dtype=np.int32)
    slots[known[order]] = np.where(often, np.cumsum(often) - 1, -1)[group]
    return slots


def score_answers(engine: Any, prompts: list[list[int]], answers: list[list[int]]) -> tuple[np.ndarray, dict[int, str]]:
    """The log-probability of each answer, a sequence of tokens, after each prompt: the sum over its tokens.

    Answers of one token take one call. Longer ones take a call for each beginning that they share or have alone, of one
    token more each, which the engine's prefix cache makes cheap; there is no normalising by length.

    Args:
        engine (`Engine`):
            See `hf_recipes.engines`.
        prompts (`list[list[int]]`), answers (`list[list[int]]`):
            Token ids; no answer begins with another one.

    Returns:
        `tuple[np.ndarray, dict[int, str]]`: an array of shape `(n, K)`, and why prompts were refused, by their index.
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
    """The log of each label's share among the sampled answers (or of the one constrained answer)."""
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
    """What `hf-recipes annotate` runs in a process of its own."""
    from . import logs

    logs.set_up()
    with logs.in_a_line():
        try:
            annotate(Study(load_recipe(sys.argv[1], sys.argv[2:])))
        except EngineError as error:
            print(f"error: {redact(str(error))}", file=sys.stderr)
            sys.exit(ENGINE_DIED)


if __name__ == "__main__":
    main()
