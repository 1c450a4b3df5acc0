"""Train the runs of the grid, under accelerate.

    accelerate launch --config_file hf_recipes/recipes/accelerate/cpu.yaml \\
      -m hf_recipes.training.train RECIPE [--go-on] [--key=value ...]

`hf-recipes train RECIPE` runs this command. Several processes, launches and machines share the grid: each process takes
the next run that no other process has taken.
"""

import logging
import os
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout

from .. import parquet
from ..child import follow_parent
from ..errors import UserError, first_line
from ..labels.pool import read_labels
from ..labels.rules import Labels
from ..logs import Progress
from ..metric_loading import load_metric
from ..models import load_tokenizer
from ..recipe import load_recipe
from ..study import Run, Study
from ..variants import CONFIDENT
from .confident import leave_out
from .devices import list_gpus, read_accelerate_config, set_precision, threads
from .features import load_encoder
from .fine_tuning import DIVERGED, Curves, LabelledTexts, Tokens, embed, fine_tune, predict
from .grid import NUM_PROBES, find_probes
from .run_folder import write_failure, write_run
from .runs import PREDICTIONS, Runs, check_training

logger = logging.getLogger(__name__)


def train(study: Study, go_on: bool = True) -> dict[Run, str]:
    """Train the runs that are not done, in a process that `accelerate launch` started.

    Args:
        study (`Study`):
            An annotated study. Each run adds a folder `runs/<variant>/n<size>/<seed>/`.
        go_on (`bool`, *optional*, defaults to `True`):
            Train all runs, even if the first gold runs learn nothing.

    Returns:
        `dict[Run, str]`: the failed runs with their errors, including earlier failures. All other runs are done.

    Raises:
        UserError: the study has no annotations or too few rows, the encoder does not load, the number of processes
            differs from the configuration, or the first gold runs learnt nothing and `go_on` is false.
    """
    config = read_accelerate_config(study.training)
    first = check_processes(config)
    if study.training.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # before CUDA starts; torch requires it
    with study.lock():  # writes the recipe and the encoder's revision
        check_training(study)
    import torch
    from accelerate import Accelerator

    os.environ.pop("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", None)  # `fine_tune` accumulates gradients
    torch.set_num_threads(threads(config))
    torch.use_deterministic_algorithms(study.training.deterministic)
    accelerator = Accelerator(log_with=[*study.training.trackers] or None, project_dir=study.tracking)
    actual = (accelerator.device.type == "cpu", accelerator.mixed_precision)
    if actual != (config["use_cpu"], config["mixed_precision"]):
        raise UserError(
            f"`train.accelerate_config` must be the configuration of `accelerate launch`. Got {config['path']}, but "
            f"accelerate runs on {accelerator.device} with mixed precision {accelerator.mixed_precision}."
        )
    set_precision(accelerator.device)
    if study.training.method == "frozen":
        raise UserError("`train.encoder_mode` must be finetune or both to fine-tune. Got frozen. Try hf-recipes train.")
    runs = Runs(study, read_labels(study)).of("finetune")
    if first:
        for note in runs.notes:
            logger.warning(note)
    with tempfile.TemporaryDirectory(prefix="hf-recipes-") as folder:
        _Trainer(study, runs, accelerator, Path(folder), first, go_on).train_all()
    return runs.failures()


def check_processes(config: dict[str, Any]) -> bool:
    """Return whether this is the first of the processes that share the grid here.

    For accelerate each process is the only one, and sees one GPU. Consecutive processes share a GPU.

    Raises:
        UserError: `config` names another number of processes, or more than there are GPUs.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count != config["num_processes"]:
        raise UserError(
            f"`num_processes` in {config['path']}, times `train.runs_per_device`, must be the number of processes. Got "
            f"{config['num_processes']}, but {count} started. On the CPU `accelerate launch` starts one. Try "
            "`hf-recipes train`, or `torchrun` with ACCELERATE_USE_CPU=true."
        )
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    if count > 1:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
    if not config["use_cpu"]:  # before CUDA is asked for its devices
        num_devices = config["num_devices"]
        devices = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, list_gpus(config)))).split(",")
        if num_devices > len(devices):
            raise UserError(
                f"`num_processes` in {config['path']} must be at most the number of GPUs. Got {num_devices}, but "
                f"CUDA_VISIBLE_DEVICES or `gpu_ids` is {','.join(devices)}."
            )
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[rank // (count // num_devices)]
    return rank == 0


@dataclass
class _Trainer:
    """Trains the grid's runs in this process."""

    study: Study
    runs: Runs
    accelerator: Any
    folder: Path
    first: bool
    go_on: bool

    def train_all(self) -> None:
        """Train run after run until each is done or has failed, in this process or in another."""
        runs = self.runs.all
        done = [run for run in runs if self.runs.is_done(run)]
        with Progress(
            total=len(runs), initial=len(done), desc="train", unit=" runs", disable=not self.first
        ) as self._bar:
            todo = [run for run in runs if not self._is_settled(run)]
            self._open = set(todo)
            if todo:
                self._tokenize(todo)
            # The second pass waits for the runs of other processes, and takes over those of processes that died.
            for wait in (False, True):
                for run in todo:
                    self._check_probes()
                    self._take(run, wait)

    def _is_settled(self, run: Run) -> bool:
        return self.runs.is_done(run) or self.runs.failure(run) is not None

    def _check_probes(self) -> None:
        """Check once, as soon as the first gold runs are done, whether they learnt anything.

        Each process that shares the grid does so before its next run.

        Raises:
            UserError: they agree with gold no more than by chance, by the test of `seed_scores`.
        """
        probes, test, settings = find_probes(self.study.grid), self.runs.test, self.study.training
        # With few gold labels, a good classifier may be no better than chance by chance.
        if self.study.recipe.few_gold or len(probes) < NUM_PROBES:
            self.go_on = True
        if self.go_on or not all(self.runs.is_done(run) for run in probes):
            return
        tables = [parquet.read(self.study.run(run) / "predictions.parquet", PREDICTIONS) for run in probes]
        scores = load_metric("seed_scores").compute(
            predictions=[np.argmax(table["probs"].to_pylist(), axis=1) for table in tables],
            references=test.gold,
            num_classes=len(test.label_names),
        )
        if not scores["above_chance"]:
            raise UserError(
                f"The first {len(probes)} runs on {probes[0].size:,} gold labels agree with gold no more than by "
                f"chance on {len(test):,} test texts: the others would show nothing. Raise `train.learning_rate` (now "
                f"{settings.learning_rate:g}; small encoders learn with 2e-4), `train.epochs` (now {settings.epochs}) "
                "or `grid.sizes`. --go-on trains all runs."
            )
        self.go_on = True

    def _take(self, run: Run, wait: bool) -> None:
        """Train a run unless it is settled, or another process trains it and `wait` is false."""
        try:
            lock = self.study.run_lock(run).acquire(blocking=False)
        except Timeout:
            if not wait:
                return
            self._bar.set_postfix_str(f"waiting for {run}")
            lock = self.study.run_lock(run).acquire()
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
        trained_on = [runs.labels(run).rows for run in todo]
        needed = np.unique(np.concatenate([runs.validation, runs.pool_sample, *trained_on]))
        self._places = np.full(len(runs.pool.ids), -1)
        self._places[needed] = np.arange(len(needed))
        longest = study.training.max_length
        texts = [runs.pool.texts[i] for i in needed]
        self._tokens = Tokens(texts, self._tokenizer, longest, self.folder / "pool.tokens")
        tested = [str(text) for text in runs.test.texts]
        self._test = Tokens(tested, self._tokenizer, longest, self.folder / "test.tokens")

    def _train_one(self, run: Run) -> None:
        """Train a run and write its folder. If it fails, write `failed.json`, so that the other runs continue."""
        study = self.study
        start = time.monotonic()
        try:
            labels = self.runs.labels(run)
            if run.variant in CONFIDENT:
                labels = self._leave_out(run, labels)
            self._start_trackers(run)
            model, curves, micro_batch_size = self._fine_tune(run, labels)
            tested, batch_size = np.arange(len(self.runs.test)), study.training.eval_batch_size
            probs = predict(self.accelerator, model, self._tokenizer, self._test, tested, batch_size)
            out_of_bag = self._places[self.runs.out_of_bag(run)]
            out_of_bag_probs = predict(self.accelerator, model, self._tokenizer, self._tokens, out_of_bag, batch_size)
            if not (np.isfinite(probs).all() and np.isfinite(out_of_bag_probs).all()):
                raise FloatingPointError(DIVERGED)
            settings = study.training
            with study.whole_folder(study.run(run)) as folder:
                if settings.save_models:
                    model.save_pretrained(folder / "model")
                    self._tokenizer.save_pretrained(folder / "model")
                write_run(
                    *(folder, self.runs, run, labels, probs, out_of_bag_probs, time.monotonic() - start),
                    curves={name: values for name, values in vars(curves).items() if values},
                    train=settings.model_dump(mode="json"),
                    micro_batch_size=micro_batch_size,
                )
        except (UserError, OSError, MemoryError):  # a full disk or memory is not the run's fault
            raise
        except Exception as error:
            write_failure(study, self.runs, run, error)
        finally:
            self._finish_trackers()
        self.accelerator.free_memory()

    def _leave_out(self, run: Run, labels: Labels) -> Labels:
        """Return the labels without those that confident learning calls wrong, or without as many at random."""
        encoder = load_encoder(self.runs)
        batch_size = self.study.training.eval_batch_size
        places = self._places[labels.rows]
        features = embed(self.accelerator, encoder, self._tokenizer, self._tokens, places, batch_size)
        return leave_out(run, labels, self.runs.pool, self.study.grid.replace_share, features)

    def _fine_tune(self, run: Run, labels: Labels) -> tuple[Any, Curves, int]:
        """Return a classifier, its curves and its micro-batch size, which is halved whenever memory runs out."""
        from accelerate.utils import find_executable_batch_size

        runs, settings = self.runs, self.study.training
        train = LabelledTexts(self._tokens, self._places[labels.rows], labels.targets)
        validation = None
        if settings.validation_size:
            targets = np.eye(len(runs.pool.label_names))[runs.validation_labels(run)]
            validation = LabelledTexts(self._tokens, self._places[runs.validation], targets)
        micro_batch_size = -(-settings.batch_size // settings.gradient_accumulation_steps)

        def halve() -> int:
            nonlocal micro_batch_size
            micro_batch_size //= 2
            logger.warning("train: memory ran out in %s; next try with %d texts a pass", run, micro_batch_size)
            return micro_batch_size

        def attempt(size: int) -> tuple[Any, Curves]:
            model = self._load_model(run)
            accelerator, seed = self.accelerator, run.order_seed
            return model, fine_tune(accelerator, model, self._tokenizer, settings, seed, train, validation, size)

        repeat = find_executable_batch_size(attempt, starting_batch_size=micro_batch_size, reduce_batch_size_fn=halve)
        model, curves = repeat()
        return model, curves, micro_batch_size

    def _load_model(self, run: Run) -> Any:
        import torch
        from accelerate.utils import set_seed
        from transformers import AutoModelForSequenceClassification

        names = self.runs.pool.label_names
        set_seed(run.init_seed)  # draws the head
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
                f"`train.encoder` must load as a sequence classifier. {self.runs.encoder.name}: {first_line(error)}"
            ) from None

    def _start_trackers(self, run: Run) -> None:
        if self.study.training.trackers:
            self.accelerator.project_configuration.logging_dir = str(self.study.tracking / str(run))
            group = {"group": run.variant, "name": str(run)}
            self.accelerator.init_trackers(
                self.study.recipe.name,
                config={"variant": run.variant, "size": run.size, "seed": run.name},
                init_kwargs={"wandb": group, "trackio": group},
            )

    def _finish_trackers(self) -> None:
        for tracker in self.accelerator.trackers:
            with suppress(Exception):  # a tracker's server that fails costs no run
                tracker.finish()
        self.accelerator.trackers.clear()


def main() -> None:
    """Train the recipe of the command line; exit with code 1 if a run failed."""
    from .. import logs

    logs.set_up()
    with logs.in_a_line():
        if len(sys.argv) < 2:
            raise UserError(
                "RECIPE is missing. Try accelerate launch ... -m hf_recipes.training.train RECIPE [--go-on] "
                "[--key=value ...]"
            )
        settings = [argument for argument in sys.argv[2:] if argument != "--go-on"]
        failures = train(Study(load_recipe(sys.argv[1], settings)), go_on="--go-on" in sys.argv)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    follow_parent()  # a launcher that the user started
    main()
