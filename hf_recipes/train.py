"""Training: the runs of the grid, under accelerate.

    accelerate launch --config_file hf_recipes/recipes/accelerate/cpu.yaml -m hf_recipes.train RECIPE [--key=value ...]

`hf-recipes train RECIPE` launches just that. Several processes, and several launches, share the grid: each takes the
next run that nobody has taken. With `train.distribute: batches` they compute each run together instead.
"""

import logging
import os
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import Timeout

from . import tables
from .child import follow_parent
from .data import hash_order
from .fit import DIVERGED, Fit, Texts, Tokens
from .grid import Run
from .labels.pool import read_labels
from .labels.rules import Labels, Subset, confident_errors
from .models import load_tokenizer
from .recipe import UserError, first_line, load_recipe
from .redact import redact
from .runs import FOLDS, PREDICTIONS, Runs, check_training, read_accelerate_config, threads
from .study import Study, hash_ids, read_json, write_json
from .variants import CONFIDENT

logger = logging.getLogger(__name__)

POLL_SECONDS = 20  # others may be waiting in a collective, which has a time limit
STARTS_AGAIN = 75  # the exit code that says: a run failed in one of several processes; start all again and go on


def train(study: Study) -> dict[Run, str]:
    """Trains the runs that are not done; to be called in a process that `accelerate launch` started.

    Args:
        study (`Study`):
            An annotated study; gains `runs/<arm>/n<size>/<seed>/`.

    Returns:
        `dict[Run, str]`: the runs that failed, now or before, with their errors; the others are all done.

    Raises:
        UserError: no annotations, more rows asked for than there are, an encoder that does not load, another number of
            processes than the configuration says.
    """
    config = read_accelerate_config(study.training)
    together = study.training.distribute == "batches"
    first = _count_processes(config, together)
    with study.lock():  # the folder becomes this recipe's, and the encoder's revision is written down
        check_training(study)
    import torch
    from accelerate import Accelerator, DistributedDataParallelKwargs

    os.environ.pop("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", None)  # a fit accumulates by itself
    torch.set_num_threads(threads(config))
    accelerator = Accelerator(
        log_with=[*study.training.trackers] or None,
        project_dir=study.tracking,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    wanted = (config["use_cpu"], config["mixed_precision"])
    if wanted != (accelerator.device.type == "cpu", accelerator.mixed_precision):
        raise UserError(
            f"train.accelerate_config: accelerate runs on {accelerator.device} with mixed precision "
            f"{accelerator.mixed_precision}, unlike {config['path']}; launch with that file, or name another"
        )
    runs = Runs(study, read_labels(study))
    if first:
        for note in runs.notes:
            logger.warning(note)
    with tempfile.TemporaryDirectory(prefix="hf-recipes-") as folder:
        _Trainer(study, runs, accelerator, Path(folder), first).train_all()
    return runs.failures()


def _lost_others(error: Exception) -> bool:
    """Whether another process of a team is gone, as its machine may be."""
    from torch import distributed

    gone = (distributed.DistBackendError, distributed.DistNetworkError)
    return isinstance(error, gone) or "gloo" in str(error)


def _count_processes(config: dict[str, Any], together: bool) -> bool:
    """Checks that there are as many processes as the configuration says; returns whether this is the first.

    Processes that share the grid are strangers to each other: each is on its own for accelerate, on a GPU of its own.
    """
    found = int(os.environ.get("WORLD_SIZE", "1"))
    if found != config["num_processes"]:
        raise UserError(
            f"train.accelerate_config: {config['path']} asks for {config['num_processes']} processes, and {found} "
            "started; launch with that file. On the CPU accelerate launch starts one whatever it is asked: there use "
            "hf-recipes train, or ACCELERATE_USE_CPU=true torchrun --nproc_per_node"
        )
    first, local = os.environ.get("RANK", "0") == "0", int(os.environ.get("LOCAL_RANK", "0"))
    if not together and found > 1:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
        if not config["use_cpu"]:  # before CUDA is asked for its devices
            here = found // config["num_machines"]
            seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(here)))
            if local >= len(seen.split(",")):
                raise UserError(f"train.accelerate_config: {here} processes, but CUDA_VISIBLE_DEVICES is {seen}")
            os.environ["CUDA_VISIBLE_DEVICES"] = seen.split(",")[local]
    return first


@dataclass
class _Trainer:
    """The grid at work in this process."""

    study: Study
    runs: Runs
    accelerator: Any
    folder: Path
    first: bool

    def train_all(self) -> None:
        """Takes run after run until each is done or has failed, by this process or by another."""
        from tqdm import tqdm

        runs = self.runs.all
        done = [run for run in runs if self.runs.is_done(run)]
        with tqdm(total=len(runs), initial=len(done), desc="train", unit=" runs", disable=not self.first) as self._bar:
            todo = self._agree([run for run in runs if not self._is_settled(run)])
            self._open = set(todo)
            if todo:
                self._tokenize(todo)
            for wait in (False, True):  # what others hold is left to them at first, and taken over if they die
                for run in todo:
                    self._take(run, wait)

    def _agree(self, value: Any) -> Any:
        """The first process's view, where all compute each run together: another launch may finish one meanwhile."""
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0] if self.accelerator.num_processes > 1 else value

    def _is_settled(self, run: Run) -> bool:
        return self.runs.is_done(run) or self.runs.failure(run) is not None

    def _take(self, run: Run, wait: bool) -> None:
        """Trains a run unless it is settled, or another process is at it and shall not be waited for."""
        lock, view = self.study.run_lock(run), "taken"
        needed = self.study.run_lock(replace(run, arm=CONFIDENT[0])) if run.arm == CONFIDENT[1] else None
        while view == "taken":
            if self.accelerator.is_main_process:
                with suppress(Timeout):
                    lock.acquire(timeout=POLL_SECONDS if wait else 0)
                    if needed:  # another process may just be finding the number of rows that this one leaves out
                        try:
                            needed.acquire(timeout=POLL_SECONDS if wait else 0)
                            needed.release()
                        except Timeout:
                            lock.release()
                view = "settled" if self._is_settled(run) else "free" if lock.is_locked else "taken"
            view = self._agree(view)
            if view == "taken":
                self._bar.set_postfix_str(f"{run} is trained by another process")
                if not wait:
                    return
        if view == "free":
            self._bar.set_postfix_str(str(run))
            self._train_one(run)
        lock.release()
        settled = {one for one in self._open if self._is_settled(one)} if self.first else set()
        self._open -= settled
        self._bar.update(len(settled))

    def _tokenize(self, todo: list[Run]) -> None:
        study, runs = self.study, self.runs
        self._tokenizer = load_tokenizer("train.encoder", runs.encoder)
        needed = np.unique(np.concatenate([runs.validation, *(runs.labels(run).rows for run in todo)]))
        self._places = np.full(len(runs.pool.ids), -1)
        self._places[needed] = np.arange(len(needed))
        longest = study.training.max_length
        texts = [runs.pool.texts[i] for i in needed]
        name = f"{self.accelerator.process_index}.tokens"
        self._tokens = Tokens(texts, self._tokenizer, longest, self.folder / f"pool-{name}")
        tested = [str(text) for text in runs.test.texts]
        self._test = Tokens(tested, self._tokenizer, longest, self.folder / f"test-{name}")

    def _train_one(self, run: Run) -> None:
        """Trains a run and writes its folder, or what it failed of: the others go on."""
        study, main = self.study, self.accelerator.is_main_process
        self._start = time.monotonic()
        try:
            labels, key = self.runs.labels(run), self.runs.key(run)
            if run.arm in CONFIDENT:
                labels = self._doubt(run, labels)
                key += hash_ids(self.runs.pool.ids[i] for i in labels.rows)
            fitted, at_once = self._fit(run, labels, key)
            probs = fitted.predict(self._test, np.arange(len(self.runs.test)))
            if not np.isfinite(probs).all():
                raise FloatingPointError(DIVERGED)
            if main:
                with study.whole_folder(study.run(run)) as folder:
                    self._write(folder, run, labels, fitted, probs, at_once)
                study.run_state(run).unlink(missing_ok=True)
        except (UserError, OSError):  # the latter: a full disk and the like are not the run's fault
            raise
        except Exception as error:
            if self.accelerator.num_processes > 1 and _lost_others(error):  # the run has not failed
                os._exit(STARTS_AGAIN)
            study.run(run).mkdir(parents=True, exist_ok=True)  # what is there stays until there is better
            reason = redact(f"{type(error).__name__}: {first_line(error)}")
            trouble = {"error": reason, "traceback": redact(traceback.format_exc())}
            write_json(study.run(run) / "failed.json", {"key": self.runs.key(run), **trouble})
            if self.accelerator.num_processes > 1:  # the others wait for this process in vain: all start again
                os._exit(STARTS_AGAIN)
        self.accelerator.free_memory()

    def _doubt(self, run: Run, labels: Labels) -> Labels:
        """The labels without those that confident learning calls wrong, or without as many at random.

        Each fold's probabilities are those of a classifier fitted to the other folds of the run's own rows, with the
        run's settings and seeds. A killed run does this anew; the control takes the number from the other arm's run.
        """
        found = replace(run, arm=CONFIDENT[0])
        record = read_json(self.study.run(found) / "run.json") if self.runs.is_done(found) else None
        count = self._agree(record and len(record["dropped"]))
        if count is None:
            probs = np.empty_like(labels.targets)
            texts = [self.runs.pool.texts[i] for i in labels.rows]
            number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
            places = np.argsort(hash_order(number, "folds"))
            fold = places[[number[text] for text in texts]] % FOLDS  # equal texts in one
            for one in np.unique(fold):
                here = fold == one
                fitted, _ = self._fit(run, labels.without(here))
                probs[here] = fitted.predict(self._tokens, self._places[labels.rows[here]])
                self.accelerator.free_memory()
            if not np.isfinite(probs).all():
                raise FloatingPointError(DIVERGED)
            wrong = confident_errors(labels.labels, probs)
            count = int(wrong.sum())
        if run != found:
            subset = Subset(self.runs.pool, labels.rows, self.study.grid.replace_share, run.subset_seed)
            wrong = subset.draw(count, "confident-random-drop")
        return labels.without(wrong)

    def _fit(self, run: Run, labels: Labels, key: str | None = None) -> tuple[Fit, int]:
        """A fitted classifier, and how many texts at once went into memory: half as many after each try that did not.

        With the run's key it starts where a killed process left off, keeps states and has trackers.
        Processes that compute a run together do not try: they would have to run out of memory at the same place.
        """
        from accelerate.utils import find_executable_batch_size

        runs, settings = self.runs, self.study.training
        team = self.accelerator.num_processes
        at_once = -(-settings.batch_size // (settings.gradient_accumulation_steps * team))
        train = Texts(self._tokens, self._places[labels.rows], labels.targets)
        classes = np.eye(len(runs.pool.label_names))
        checked = Texts(self._tokens, self._places[runs.validation], classes[runs.validation_labels(run)])
        if state := self._read_state(run, key):
            at_once = min(at_once, state["at_once"])
            self._start -= state["seconds"]

        def halve() -> int:
            nonlocal at_once
            at_once //= 2
            logger.warning("train: %s does not fit into memory; trying %d texts at once", run, at_once)
            return at_once

        def attempt(size: int) -> Fit:
            fit = Fit(
                self.accelerator,
                self._load_model(run),
                self._tokenizer,
                settings,
                run.order_seed,
                train,
                checked if settings.validation_size else None,
                size,
                lambda state: self._save_state(run, {"key": key, "at_once": size, **state}) if key else None,
                self._log,
            )
            fit.run(self._read_state(run, key))
            return fit

        if key:
            self._start_trackers(run)
        try:
            if team > 1:
                return attempt(at_once), at_once
            fitted = find_executable_batch_size(attempt, starting_batch_size=at_once, reduce_batch_size_fn=halve)()
        finally:
            for tracker in self.accelerator.trackers:
                with suppress(Exception):  # a run is not lost because a tracker's server is
                    tracker.finish()
            self.accelerator.trackers.clear()
        return fitted, at_once

    def _load_model(self, run: Run) -> Any:
        import torch
        from accelerate.utils import set_seed
        from transformers import AutoModelForSequenceClassification

        names = self.runs.pool.label_names
        set_seed(run.init_seed)  # before the model is made: its head is drawn from it
        try:
            return AutoModelForSequenceClassification.from_pretrained(
                self.runs.encoder.folder,
                num_labels=len(names),
                id2label=dict(enumerate(names)),
                label2id={name: i for i, name in enumerate(names)},
                problem_type="single_label_classification",
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
            )
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"train.encoder: {self.runs.encoder.name} is no sequence classifier ({first_line(error)})"
            ) from None

    def _save_state(self, run: Run, state: dict[str, Any]) -> None:
        import torch

        if self.accelerator.is_main_process:
            file = self.study.run_state(run)
            temporary = file.with_name(f".tmp-{file.name}")
            with temporary.open("wb") as stream:  # of a name torch makes a RuntimeError of a full disk
                torch.save({**state, "seconds": time.monotonic() - self._start}, stream)
            temporary.replace(file)

    def _read_state(self, run: Run, key: str | None) -> dict[str, Any] | None:
        """Where a killed process left the run; a state of other labels or settings, or a damaged one, is of no use.

        Of a team the first reads it for all: another machine may see an older file, or none yet.
        """
        import torch

        state: dict[str, Any] | None = None
        file = self.study.run_state(run)
        if self.accelerator.is_main_process and file.exists():
            with suppress(Exception):  # of a damaged file torch raises many kinds
                state = torch.load(file, map_location="cpu", weights_only=True)
        found: dict[str, Any] | None = self._agree(state if state and state["key"] == key else None)
        return found

    def _start_trackers(self, run: Run) -> None:
        if self.study.training.trackers:
            self.accelerator.project_configuration.logging_dir = str(self.study.tracking / str(run))
            group = {"group": run.arm, "name": str(run)}
            self.accelerator.init_trackers(
                self.study.recipe.name,
                config={"arm": run.arm, "size": run.size, "seed": run.name},
                init_kwargs={"wandb": group, "trackio": group},
            )

    def _log(self, values: dict[str, float], step: int) -> None:
        self.accelerator.log(values, step=step)

    def _write(self, folder: Path, run: Run, labels: Labels, fitted: Fit, probs: np.ndarray, at_once: int) -> None:
        runs, settings = self.runs, self.study.training
        dropped = [runs.pool.ids[i] for i in np.setdiff1d(runs.subset(run), labels.rows)]
        named = pa.array([str(run)] * len(runs.test), pa.string()).dictionary_encode()
        table = pa.table([named, runs.test.ids, runs.test.gold, list(probs)], schema=PREDICTIONS)
        tables.write(folder / "predictions.parquet", table)
        if settings.save_models:
            fitted.model.save_pretrained(folder / "model")
            self._tokenizer.save_pretrained(folder / "model")
        write_json(
            folder / "run.json",
            {
                "key": runs.key(run),
                "arm": run.arm,
                "size": run.size,
                "seed": run.name,
                "seeds": {"subset": run.subset_seed, "init": run.init_seed, "order": run.order_seed},
                "annotation_pass": run.annotation_pass,
                "gold_train_labels": labels.gold_labels,
                "gold_validation_labels": len(runs.validation) if settings.validation_labels == "gold" else 0,
                **({"dropped": dropped} if run.arm in CONFIDENT else {}),
                "train_label_accuracy": labels.accuracy(runs.pool.of_pass(run.annotation_pass)),
                "curves": {name: values for name, values in vars(fitted.curves).items() if values},
                "train": settings.model_dump(mode="json"),
                "environment": runs.environment(run),
                "texts_at_once": at_once,
                "seconds": round(time.monotonic() - self._start, 2),
            },
        )


def main() -> None:
    """What `accelerate launch` runs. The exit code is 1 if a run failed."""
    from . import logs

    logs.set_up()
    with logs.in_a_line():
        if len(sys.argv) < 2:
            raise UserError("which recipe? accelerate launch ... -m hf_recipes.train RECIPE [--key=value ...]")
        failures = train(Study(load_recipe(sys.argv[1], sys.argv[2:])))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    follow_parent()  # a launcher that the user started
    main()
