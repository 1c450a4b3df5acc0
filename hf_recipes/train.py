"""Training: the runs of the grid, under accelerate.

    accelerate launch --config_file hf_recipes/recipes/accelerate/cpu.yaml -m hf_recipes.train RECIPE [--key=value ...]

`hf-recipes train RECIPE` runs this command. Several processes, launches and machines share the grid: each process takes
the next run that no other process has taken.
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
from .labels.pool import read_labels
from .labels.rules import Labels, Subset, confident_errors
from .models import load_tokenizer
from .recipe import UserError, first_line, load_recipe
from .redact import redact
from .runs import FOLDS, PREDICTIONS, Runs, check_training, read_accelerate_config, threads
from .study import Run, Study, read_json, write_json
from .variants import CONFIDENT

logger = logging.getLogger(__name__)


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
    first = _check_processes(config)
    with study.lock():  # the folder becomes this recipe's, and the encoder's revision is written down
        check_training(study)
    import torch
    from accelerate import Accelerator

    os.environ.pop("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", None)  # a fit accumulates by itself
    torch.set_num_threads(threads(config))
    accelerator = Accelerator(log_with=[*study.training.trackers] or None, project_dir=study.tracking)
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


def _check_processes(config: dict[str, Any]) -> bool:
    """Return whether this is the first of the processes that share the grid here.

    For accelerate each of them is the only one, with a GPU of its own.

    Raises:
        UserError: `config` names another number of processes, or more than there are GPUs.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count != config["num_processes"]:
        raise UserError(
            f"train.accelerate_config: {config['path']} asks for {config['num_processes']} processes, and {count} "
            "started; launch with that file. On the CPU accelerate launch starts one whatever it is asked: there use "
            "hf-recipes train, or ACCELERATE_USE_CPU=true torchrun --nproc_per_node"
        )
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    if count > 1:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
        if not config["use_cpu"]:  # before CUDA is asked for its devices
            devices = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))).split(",")
            if rank >= len(devices):
                raise UserError(
                    f"train.accelerate_config: {count} processes, but CUDA_VISIBLE_DEVICES is {','.join(devices)}"
                )
            os.environ["CUDA_VISIBLE_DEVICES"] = devices[rank]
    return rank == 0


@dataclass
class _Trainer:
    """The grid at work in this process."""

    study: Study
    runs: Runs
    accelerator: Any
    folder: Path
    first: bool

    def train_all(self) -> None:
        """Train run after run until each is done or has failed, in this process or in another."""
        from tqdm import tqdm

        runs = self.runs.all
        done = [run for run in runs if self.runs.is_done(run)]
        with tqdm(total=len(runs), initial=len(done), desc="train", unit=" runs", disable=not self.first) as self._bar:
            todo = [run for run in runs if not self._is_settled(run)]
            self._open = set(todo)
            if todo:
                self._tokenize(todo)
            # The second pass waits for the runs of other processes, and takes over those of processes that died.
            for wait in (False, True):
                for run in todo:
                    self._take(run, wait)

    def _is_settled(self, run: Run) -> bool:
        return self.runs.is_done(run) or self.runs.failure(run) is not None

    def _take(self, run: Run, wait: bool) -> None:
        """Train a run unless it is settled, or another process trains it and `wait` is false."""
        if wait:
            self._bar.set_postfix_str(f"{run}, if no other process trains it")
        try:
            lock = self.study.run_lock(run).acquire(blocking=wait)
        except Timeout:
            return
        with lock:
            if not self._is_settled(run):
                self._bar.set_postfix_str(str(run))
                self._train_one(run)
        settled = {run for run in self._open if self._is_settled(run)} if self.first else set()
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
        self._tokens = Tokens(texts, self._tokenizer, longest, self.folder / "pool.tokens")
        tested = [str(text) for text in runs.test.texts]
        self._test = Tokens(tested, self._tokenizer, longest, self.folder / "test.tokens")

    def _train_one(self, run: Run) -> None:
        """Trains a run and writes its folder, or what it failed of: the others go on."""
        study = self.study
        self._start = time.monotonic()
        try:
            labels = self.runs.labels(run)
            if run.arm in CONFIDENT:
                labels = self._doubt(run, labels)
            fitted, at_once = self._fit(run, labels, tracked=True)
            probs = fitted.predict(self._test, np.arange(len(self.runs.test)))
            if not np.isfinite(probs).all():
                raise FloatingPointError(DIVERGED)
            with study.whole_folder(study.run(run)) as folder:
                self._write(folder, run, labels, fitted, probs, at_once)
        except (UserError, OSError):  # the latter: a full disk and the like are not the run's fault
            raise
        except Exception as error:
            study.run(run).mkdir(parents=True, exist_ok=True)  # what is there stays until there is better
            reason = redact(f"{type(error).__name__}: {first_line(error)}")
            trouble = {"error": reason, "traceback": redact(traceback.format_exc())}
            write_json(study.run(run) / "failed.json", {"key": self.runs.key(run), **trouble})
        self.accelerator.free_memory()

    def _doubt(self, run: Run, labels: Labels) -> Labels:
        """The labels without those that confident learning calls wrong, or without as many at random.

        Each fold's probabilities are those of a classifier fitted to the other folds of the run's own rows, with the
        run's settings and seeds. A killed run does this anew; the control takes the number from the other arm's run.
        """
        found = replace(run, arm=CONFIDENT[0])
        record = read_json(self.study.run(found) / "run.json") if self.runs.is_done(found) else None
        count = record and len(record["dropped"])
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

    def _fit(self, run: Run, labels: Labels, tracked: bool = False) -> tuple[Fit, int]:
        """A fitted classifier, and how many texts at once fit into memory: half as many after each failed try."""
        from accelerate.utils import find_executable_batch_size

        runs, settings = self.runs, self.study.training
        at_once = -(-settings.batch_size // settings.gradient_accumulation_steps)
        train = Texts(self._tokens, self._places[labels.rows], labels.targets)
        classes = np.eye(len(runs.pool.label_names))
        checked = Texts(self._tokens, self._places[runs.validation], classes[runs.validation_labels(run)])

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
                self._log,
            )
            fit.run()
            return fit

        if tracked:
            self._start_trackers(run)
        try:
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
