"""Annotate: store the LLM's raw log-probability of every label for every text, in append-only parts.

The first pass also labels the test texts, after the pool, only to show which of its errors classifiers copy. No
variant, calibration, few-shot example or figure of the pool depends on them.

    python -m hf_recipes.annotation.annotate RECIPE [--passes=0,1] [--key=value ...]

`hf-recipes annotate RECIPE` runs this in a child process for each model, and starts another when the engine dies.
"""

import gc
import secrets
import sys
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data import RowFiles, keep_rows, open_rows
from ..errors import UserError
from ..logs import Progress
from ..models import resolve_model
from ..recipe import load_recipe
from ..redact import redact
from ..row_reader import text_id
from ..study import Study, read_json, write_json
from .column_labels import copy_labels
from .engines import EngineError, import_engine
from .frames import THOUGHTS
from .passes import (
    SERVERS_FILE,
    PromptPass,
    count_rows_left_of,
    draw_repeat,
    has_manifest,
    has_repeat,
    hash_passes,
    plan_passes,
    write_manifest,
)
from .scoring import NO_LABEL, Refusal, ask, hash_prompt
from .store import (
    CONTENT_FREE,
    CONTENT_FREE_FILE,
    FAILED,
    MAX_PART_ROWS,
    MAX_SMALL_PARTS,
    PartFiles,
    PartRow,
    parse_part_number,
    to_matrix,
    write_repeat,
    write_rows,
)

CHUNK_SECONDS = 20.0  # of work between two parts: what a kill can cost
MIN_CHUNK, MAX_CHUNK = 16, MAX_PART_ROWS  # texts in a part
MAX_GROWTH = 4  # of a chunk's size from one to the next but one
MIN_COMPILED = 20_000  # rows of a study, below which a GPU does not make up for compiling and capturing graphs
COMPILING = {  # arguments of vLLM with which a recipe decides on both itself
    *("enforce_eager", "optimization_level", "cudagraph_capture_sizes", "max_cudagraph_capture_size"),
    "performance_mode",
}
NUM_TRIAL = 128  # texts without one answer, or with little mass on the labels, after which the pass stops
NUM_CAUSE_TOKENS = 8  # of the answer that shows why the labels get little mass
ENGINE_DIED = 75  # the exit code after which the command starts another process


def annotate(study: Study, numbers: Collection[int] | None = None) -> list[str]:
    """Annotate rows that have no answer yet, and retry those at which the engine failed.

    Args:
        study (`Study`):
            The study; `annotations/<key>/` of each pass gains parts, and a manifest once every row is there.
        numbers (`Collection[int]`, *optional*):
            The passes to annotate, all by default. The later steps read them once all passes are complete.

    Returns:
        `list[str]`: the keys of the passes.

    Raises:
        UserError: see `open_rows`, `resolve_model`, `Prompts` and the engines.
        EngineError: the engine died. All parts are kept.
    """
    files = open_rows(study)
    passes = plan_passes(study, files)  # Errors of prompt and model come before anything is written.
    with study.lock():
        files = keep_rows(study, files)
        study.annotations_root.mkdir(exist_ok=True)
        if any(isinstance(plan, PromptPass) and plan.prompts.is_dated for plan in passes):
            # The date of the first annotation is kept, so that the prompts are the same a day later.
            revisions = {"date": date.today().isoformat()} | (read_json(study.revisions_file) or {})
            write_json(study.revisions_file, revisions)
            passes = plan_passes(study, files)
        servers = {p.section.model: p.ingredients["engine"] for p in passes if p.section.engine == "server"}
        if servers:
            study.write_json(study.annotations_root / SERVERS_FILE, servers)

        engine, engine_settings = None, None
        for number, plan in enumerate(passes):
            if (numbers is not None and number not in numbers) or not count_rows_left_of(study, files, plan):
                continue
            if not isinstance(plan, PromptPass):
                copy_labels(study, files, plan)
                continue
            if plan.engine_settings != engine_settings:
                engine = None
                gc.collect()  # This frees much of the memory of the previous model. Only its process's end frees all.
            title = f"annotate, pass {number}" if study.recipe.annotate.passes else "annotate"
            engine, engine_settings = _PassWork(study, files, plan, engine).run(title), plan.engine_settings
        keys = [plan.key for plan in passes]
        if all(has_manifest(study, files, plan) for plan in passes):
            study.write_json(study.annotations_root / "current.json", {"asked": hash_passes(study), "keys": keys})
    return keys


class _PassWork:
    """The work on one pass. It keeps a few bytes for every row, in arrays.

    Args:
        engine: the engine of the previous pass, or None. A new one starts when the first text needs it.
    """

    def __init__(self, study: Study, files: RowFiles, plan: PromptPass, engine: Any):
        self._study, self._files, self._plan, self._engine = study, files, plan, engine
        self._start_seconds = 0.0  # of the engine
        self._num_scored = 0
        self._folder = study.annotations(plan.key)
        self._folder.mkdir(parents=True, exist_ok=True)

        texts = files.column("text_id", plan.splits)
        examples = pa.array([text_id(text) for text in plan.examples.texts], texts.type)
        self._is_example = pc.is_in(texts, value_set=examples).to_numpy(False) & texts.is_valid().to_numpy(False)
        # Texts that occur several times share a slot for their answer: nan until they are scored, -inf without a label.
        self._slots = _number_repeated(texts)
        num_labels = len(files.label_names)
        self._answers = np.full((int(self._slots.max(initial=-1)) + 1, num_labels), np.nan)

        # The parts of earlier sessions show which rows are done, and the answers to repeated texts.
        ids = files.column("id", plan.splits)
        if len(list(self._folder.glob("part-*.parquet"))) > MAX_SMALL_PARTS:
            PartFiles(self._folder).merge(study.checksums)
        self._is_done = np.zeros(len(ids), dtype=bool)
        self._num_silent, self._has_answer, self._last_refusal = 0, False, NO_LABEL
        self._masses: list[float] = []  # the label mass of the first texts
        self._last_input: list[int] = []
        for table, rows in PartFiles(self._folder).read(ids, "status", "logprobs"):
            self._is_done[rows] = pc.not_equal(table["status"], FAILED).to_numpy()
            has_logprobs = table["logprobs"].is_valid().to_numpy()
            self._has_answer |= bool(has_logprobs.any())
            self._num_silent += int(pc.sum(pc.equal(table["status"], NO_LABEL.status)).as_py() or 0)
            for logprobs in table["logprobs"].drop_null()[: NUM_TRIAL - len(self._masses)].to_pylist():
                self._masses.append(float(np.exp(logprobs).sum()))
            slots = self._slots[rows]
            self._answers[slots[(slots >= 0) & pc.equal(table["status"], NO_LABEL.status).to_numpy()]] = -np.inf
            is_repeated = (slots >= 0) & has_logprobs
            self._answers[slots[is_repeated]] = to_matrix(table["logprobs"].filter(is_repeated), num_labels)
        self._next_part = 1 + max(map(parse_part_number, self._folder.glob("part-*.parquet")), default=-1)
        self._num_small_parts = 0

    def run(self, title: str) -> Any:
        """Score the rows without an answer, chunk by chunk, and write the manifest. Return the engine, if one runs."""
        start = time.monotonic()
        self._check_mass()  # An earlier session may have labelled enough to stop before an engine starts.
        self._chunk_size = MIN_CHUNK
        num_done = int(self._is_done.sum())
        with (
            Progress(total=len(self._is_done), initial=num_done, desc=title, unit=" texts") as self._bar,
            ThreadPoolExecutor(1) as thread,
        ):
            if not (self._folder / CONTENT_FREE_FILE).exists():
                self._score_content_free()
            # The thread tokenises a chunk while the engine works on the one before it.
            current = None
            for chunk in self._chunks():
                current, previous = thread.submit(self._tokenise, chunk), current
                if previous:
                    self._score(*previous.result())
            if current:
                self._score(*current.result())
            self._check_mass(min_texts=1)
            self._check_silence(min_texts=1)
            if not has_repeat(self._study, self._files, self._plan):
                self._ask_again()

        session = {
            "texts": self._num_scored,
            "seconds": round(time.monotonic() - start, 1),
            "start_seconds": round(self._start_seconds, 1),
        }
        write_manifest(self._study, self._files, self._plan, session)
        return self._engine

    def _chunks(self) -> Iterator[list[tuple[int, str, str | None]]]:
        """Yield position, id and text of the rows without an answer, as many as a part gets."""
        start = 0
        waiting: list[tuple[int, str, str | None]] = []
        for batch in self._files.batches("id", "text", splits=self._plan.splits):
            places = np.flatnonzero(~self._is_done[start : start + len(batch)])
            rows = batch.take(pa.array(places))
            waiting += zip((places + start).tolist(), rows["id"].to_pylist(), rows["text"].to_pylist(), strict=True)
            start += len(batch)
            while len(waiting) >= self._chunk_size:
                size = self._chunk_size  # It changes while the chunk is scored.
                yield waiting[:size]
                waiting = waiting[size:]
        if waiting:
            yield waiting

    def _tokenise(
        self, chunk: list[tuple[int, str, str | None]]
    ) -> tuple[list[PartRow], list[tuple[PartRow, int, list[int]]]]:
        """Return the rows of a chunk's part, and of those with a text the row, the slot and the model input."""
        rows, slots, texts = [], [], []
        for place, row_id, text in chunk:
            row = PartRow(row_id, self._find_status(place, text))
            rows.append(row)
            if row.status == "ok":
                slots.append(self._slots[place])
                texts.append(str(text))
        asked = [row for row in rows if row.status == "ok"]
        encoded = self._plan.prompts.encode(texts)
        for row, (token_ids, is_cut) in zip(asked, encoded, strict=True):
            row.prompt_id, row.n_tokens, row.truncated = hash_prompt(token_ids), len(token_ids), is_cut
        return rows, list(zip(asked, slots, [token_ids for token_ids, _ in encoded], strict=True))

    def _score(self, rows: list[PartRow], requests: list[tuple[PartRow, int, list[int]]]) -> None:
        """Ask about the inputs of a chunk, about equal ones once, and write a part."""
        start = time.monotonic()
        # Answers to repeated texts are taken from earlier chunks.
        inputs: dict[str, list[int]] = {}
        answers: dict[str, np.ndarray] = {}
        for row, slot, token_ids in requests:
            if slot >= 0 and not np.isnan(self._answers[slot, 0]):
                answers[str(row.prompt_id)] = self._answers[slot]
            else:
                inputs[str(row.prompt_id)] = token_ids
        refusals: dict[str, Refusal] = {}
        if inputs:
            self._num_scored += len(inputs)
            self._last_input = next(iter(inputs.values()))
            new, refusals = ask(self._running_engine(), self._plan.section, self._plan.prompts, inputs)
            self._has_answer |= bool(new)
            self._num_silent += len(refusals)
            self._last_refusal = next(iter(refusals.values()), self._last_refusal)
            self._check_silence()
            answers |= new

        for row, slot, _ in requests:
            answer = answers.get(str(row.prompt_id))
            if answer is not None and np.isfinite(answer).any():
                row.logprobs = answer.tolist()
                if len(self._masses) < NUM_TRIAL:
                    self._masses.append(float(np.exp(answer).sum()))
            else:
                # A text that got no label in an earlier chunk is not asked about again.
                row.status, row.error = refusals.get(str(row.prompt_id), NO_LABEL)
                answer = np.array(-np.inf if row.status == NO_LABEL.status else np.nan)
            if slot >= 0:
                self._answers[slot] = answer

        write_rows(self._folder / f"part-{self._next_part:05d}.parquet", rows, self._study.checksums)
        self._next_part += 1
        self._num_small_parts += 1
        if self._num_small_parts == MAX_SMALL_PARTS:
            PartFiles(self._folder).merge(self._study.checksums)
            self._num_small_parts = 0
        self._bar.update(len(rows))
        self._check_mass()
        seconds = max(time.monotonic() - start, 1e-9)  # A clock may stand still.
        largest = min(MAX_GROWTH * len(rows), MAX_CHUNK)
        self._chunk_size = int(np.clip(len(rows) * CHUNK_SECONDS / seconds, MIN_CHUNK, max(MIN_CHUNK, largest)))

    def _find_status(self, place: int, text: str | None) -> str:
        """Return why a text needs no answer, or `ok`."""
        if text is None:
            return "null_text"
        if text_id(text) is None:
            return "empty_text"
        return "demonstration" if self._is_example[place] else "ok"

    def _score_content_free(self) -> None:
        """Score the inputs without content, with which all other answers are calibrated."""
        rows = []
        if self._plan.section.scoring == "distribution":
            inputs = [token_ids for token_ids, _ in self._plan.prompts.encode(CONTENT_FREE)]
            by_text = dict(zip(CONTENT_FREE, inputs, strict=True))
            answers, refusals = ask(self._running_engine(), self._plan.section, self._plan.prompts, by_text)
            if refusals:
                error = next(iter(refusals.values())).error
                raise UserError(f"`annotate.model` must score inputs without content. Got: {error}. Try another model.")
            rows = [
                PartRow(text, "ok", hash_prompt(token_ids), answers[text].tolist(), len(token_ids))
                for text, token_ids in by_text.items()
            ]
        write_rows(self._folder / CONTENT_FREE_FILE, rows, self._study.checksums)

    def _ask_again(self) -> None:
        """Ask again about the texts of `repeat_check`, in other batches and without the engine's cache."""
        places = draw_repeat(self._files, self._plan.section.repeat_check)
        texts = [
            (place, str(text))
            for place, text in zip(places.tolist(), self._files.texts(places), strict=True)
            if self._find_status(place, text) == "ok"
        ]
        encoded = self._plan.prompts.encode([text for _, text in texts])
        prompt_ids = {place: hash_prompt(ids) for (place, _), (ids, _) in zip(texts, encoded, strict=True)}
        inputs = {hash_prompt(ids): ids for ids, _ in encoded}
        engine = self._running_engine()
        self._bar.set_postfix_str("repeat check")
        engine.cache_salt = secrets.token_hex(8)
        answers, _ = ask(engine, self._plan.section, self._plan.prompts, inputs, by_length=False)
        engine.cache_salt = ""
        self._num_scored += len(inputs)
        repeated = [answers.get(prompt_ids.get(place, "")) for place in places.tolist()]
        logprobs = [None if answer is None else answer.tolist() for answer in repeated]
        ids = self._files.column("id").take(pa.array(places)).to_pylist()
        write_repeat(self._folder, ids, logprobs, self._study.checksums)

    def _running_engine(self) -> Any:
        """Return the engine. The first call starts it."""
        if self._engine is None:
            section = self._plan.section
            self._bar.set_postfix_str("starting the engine")
            start = time.monotonic()
            is_local = section.engine != "server"
            model = resolve_model(self._study, "annotate.model", section.model, section.revision, weights=is_local)
            num_rows = len(self._files) + self._files.manifest["rows"]["test"]
            if num_rows < MIN_COMPILED and is_local and section.engine_args.keys().isdisjoint(COMPILING):
                # It is not in the key, as a pool that grows keeps its answers: they differ in rounding, as those of
                # other batches do. All rows count, so that a pass that is interrupted goes on with the same kernels.
                section = section.model_copy(update={"engine_args": {**section.engine_args, "enforce_eager": True}})
            self._engine = import_engine(section.engine).Engine(section, model)
            self._start_seconds += time.monotonic() - start
            self._bar.set_postfix_str("")
            self._bar.unpause()
        return self._engine

    def _check_mass(self, min_texts: int = NUM_TRIAL) -> None:
        """Stop a pass whose model gives the labels a low probability. Labels are kept."""
        section = self._plan.section
        if section.scoring != "distribution" or len(self._masses) < min_texts:
            return
        mean = float(np.mean(self._masses))
        if mean < section.min_label_mass:
            advice = "another prompt, a few-shot example or `annotate.prompt.answers: letters`"
            if section.asked.chat:
                advice = f"`annotate.prompt.chat: false`, {advice}"
            cause = ""
            if self._last_input:
                # A greedy answer shows what the model writes in place of a label.
                answers, _ = self._running_engine().sample([self._last_input], 1, 0.0, NUM_CAUSE_TOKENS, [0])
                text = "".join(answers[0]).strip()
                cause = f" The model begins an answer with {text!r}."
                if text.startswith((*THOUGHTS, "analysis")):  # gpt-oss, whose control tokens engines leave out
                    advice = (
                        "`annotate.scoring: votes` with `annotate.thinking: true` and a higher `annotate.max_tokens` "
                        "for a model that thinks first, or `annotate.prompt.chat: false`"
                    )
            raise UserError(
                "`annotate.prompt` must make the model answer with a label. Got a mean label mass of "
                f"{mean:.3f} over the first {len(self._masses)} texts, below {section.min_label_mass:g}.{cause} Try "
                f"{advice}. `annotate.min_label_mass: 0` goes on."
            )

    def _check_silence(self, min_texts: int = NUM_TRIAL) -> None:
        """Stop a pass that gets no answer at all. A pass with answers goes on where some rows fail again."""
        if self._has_answer or self._num_silent < min_texts:
            return
        if self._last_refusal.status == FAILED:
            raise UserError(
                f"`annotate.engine` must answer. Got {self._num_silent} refusals and no answer, for example: "
                f"{self._last_refusal.error}"
            )
        raise UserError(
            f"`annotate.prompt` must make the model answer with a label. Got none from the first {self._num_silent} "
            "texts. Try a prompt that asks for a label alone, or a higher `annotate.max_tokens`."
        )


def _number_repeated(text_ids: pa.Array) -> np.ndarray:
    """Return a number for each row that equal texts share; -1 where the text occurs once or is missing."""
    present = np.flatnonzero(text_ids.is_valid().to_numpy(False))
    width = text_ids.type.byte_width
    words = np.frombuffer(
        text_ids.buffers()[1], dtype=[("high", "<u8"), ("low", "<u4")], offset=text_ids.offset * width
    )[present]
    order = np.lexsort((words["low"], words["high"]))
    words = words[order]
    group = np.cumsum(np.append(True, words[1:] != words[:-1])[: len(words)]) - 1
    is_repeated = np.bincount(group) > 1
    numbers = np.full(len(text_ids), -1, dtype=np.int32)
    numbers[present[order]] = np.where(is_repeated, np.cumsum(is_repeated) - 1, -1)[group]
    return numbers


def main() -> None:
    """Run `annotate` as the child process of the command line."""
    from .. import logs

    logs.set_up()
    with logs.in_a_line():
        settings, numbers = sys.argv[2:], None
        if settings and settings[0].startswith("--passes="):
            numbers = [int(number) for number in settings.pop(0).removeprefix("--passes=").split(",")]
        try:
            annotate(Study(load_recipe(sys.argv[1], settings)), numbers)
        except EngineError as error:
            print(f"error: {redact(str(error))}", file=sys.stderr)
            sys.exit(ENGINE_DIED)


if __name__ == "__main__":
    main()
