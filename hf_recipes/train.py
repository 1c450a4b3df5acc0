"""Train the runs of the grid, under accelerate.

    accelerate launch --config_file hf_recipes/recipes/accelerate/cpu.yaml -m hf_recipes.train RECIPE [--key=value ...]

`hf-recipes train RECIPE` runs this command. Several processes, launches and machines share the grid: each process takes
the next run that no other process has taken.
"""

import hashlib
import logging
import os
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import Timeout

from . import tables
from .annotate import Annotations, load_annotations, load_test_annotations
from .arms import Labels, Pool, build_pool, draw, label_others, training_labels
from .audit import with_audit
from .child import follow_parent
from .confident import RULE, find_label_errors
from .data import hash_order, load_rows, open_rows
from .fit import DIVERGED, RULES, Curves, LabelledTexts, Tokens, embed, fine_tune, predict
from .grid import Run, all_runs, check_sizes, permutation
from .models import Model, load_tokenizer, resolve_model
from .recipe import CONFIDENT, Train, UserError, first_line, load_recipe, parse_yaml
from .redact import redact
from .study import (
    Study,
    cpu_capability,
    cpu_threads,
    hash_ids,
    local_locks,
    make_key,
    read_json,
    versions,
    write_json,
)

logger = logging.getLogger(__name__)

PREDICTIONS = pa.schema(
    {
        "run": pa.dictionary(pa.int32(), pa.string()),
        "id": pa.string(),
        "gold": pa.int64(),
        "probs": pa.list_(pa.float64()),
    }
)
LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers", "numpy")
#: Settings that change how a run is made, and not what comes out; encoder and mixed precision are in its environment.
NOT_IN_KEY = {"encoder", "revision", "accelerate_config", "save_models", "trackers"}
#: Kinds of models whose first positions are not for tokens.
SHIFTED = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "data2vec-text", "xlm-roberta-xl")


class Work:
    """What all runs of a study share, read once.

    Args:
        study (`Study`):
            An annotated study.

    Attributes:
        rows (`Rows`), annotations (`list[Annotations]`): the whole pool, as it was read and annotated, pass by pass.
        pool (`Pool`): its usable rows.
        validation (`np.ndarray`): those of them that no run trains on, indices into the pool.
        test (`Rows`)
        notes (`list[str]`): doubts about the sizes.
    """

    def __init__(self, study: Study):
        grid, settings = study.grid, study.training
        self.rows, self.test = load_rows(study)
        self.annotations: list[Annotations] = load_annotations(study, self.rows)
        few_gold = study.recipe.few_gold
        self.pool: Pool = build_pool(self.rows, self.annotations, not few_gold, by_all="pass" in grid.vary)
        drawn = hash_order(self.pool.ids, "validation")
        self.validation = np.sort(drawn[: settings.validation_size])
        able = np.sort(drawn[settings.validation_size :])
        if few_gold:
            self.pool = with_audit(study, self.pool, self.validation)
        self.notes = check_sizes(grid, len(able))
        self._study = study
        self._keys: dict[Run, str] = {}
        ids = [self.pool.ids[i] for i in able]
        self._orders = {seed: able[permutation(ids, seed)] for seed in grid.seeds}
        self._common = {
            "train": settings.model_dump(mode="json", exclude=NOT_IN_KEY),
            "test": hash_ids(f"{i} {g}" for i, g in zip(self.test.ids, self.test.gold, strict=True)),
            "label_names": self.test.label_names,
        }

    @cached_property
    def encoder(self) -> Model:
        """The encoder; its weights are not looked at."""
        return check_encoder(self._study, weights=False)

    @cached_property
    def teacher(self) -> np.ndarray | None:
        """The LLM's labels of the test texts, of shape `(n,)`, `NO_VOTE` where it gave none.

        None where it was not asked about them, and where runs take their labels from different passes.
        """
        test = load_test_annotations(self._study, self.test)
        if test is None or "pass" in self._study.grid.vary:
            return None
        return label_others(self.pool, self.annotations[0], test)

    @cached_property
    def accelerate(self) -> dict[str, Any]:
        """The accelerate configuration."""
        return read_accelerate_config(self._study.training)

    def environment(self, run: Run) -> dict[str, Any]:
        """What of this machine and its software changes the outcome of a run."""
        config = self.accelerate
        return {
            "encoder": self.encoder.identity,
            "rules": RULES,
            "versions": versions(*LIBRARIES, *(["cleanlab", "scikit-learn"] if run.arm in CONFIDENT else [])),
            "threads": threads(config) if config["use_cpu"] else None,
            **({"cpu": cpu_capability()} if config["use_cpu"] else {}),
            "mixed_precision": config["mixed_precision"],
        }

    def subset(self, run: Run) -> np.ndarray:
        """Indices of the run's rows in the pool, of shape `(size,)`, in the order all arms share."""
        return self._orders[run.subset_seed][: run.size]

    def labels(self, run: Run) -> Labels:
        """The rows that the run trains on, out of `subset(run)` or of the audit, and their labels.

        Of `CONFIDENT` arms all rows: what these leave out follows from them, and stands in the run's `run.json`.
        """
        share, pool = self._study.grid.replace_share, self.pool.of_pass(run.annotation_pass)
        return training_labels(run.arm, pool, self.subset(run), share, run.subset_seed)

    def validation_labels(self, run: Run) -> np.ndarray:
        """Classes of the validation rows; gold ones are labels spent."""
        if self._study.training.validation_labels == "gold":
            return self.pool.gold[self.validation]
        return self.pool.of_pass(run.annotation_pass).llm[self.validation]

    def key(self, run: Run) -> str:
        """The run's key: of the very rows and labels it trains on, and of everything else that changes its outcome."""
        if run not in self._keys:
            self._keys[run] = self._make_key(run, self.environment(run))
        return self._keys[run]

    def _make_key(self, run: Run, environment: dict[str, Any]) -> str:
        labels = self.labels(run)
        content = [
            hash_ids(self.pool.ids[i] for i in labels.rows),
            hashlib.sha256(labels.targets.tobytes()).hexdigest(),
            *([labels.then] if labels.then else []),
            *([run.arm, RULE, run.subset_seed] if run.arm in CONFIDENT else []),
        ]
        checked = zip(self.validation, self.validation_labels(run), strict=True)
        validation = hash_ids(f"{self.pool.ids[i]} {label}" for i, label in checked)
        seeds = {"init": run.init_seed, "order": run.order_seed}
        return make_key(content=content, validation=validation, seeds=seeds, **self._common, **environment)

    def is_done(self, run: Run) -> bool:
        """Whether the run need not be trained here."""
        folder = self._study.run(run)
        record = read_json(folder / "run.json")
        kept = (folder / "model").exists() or not self._study.training.save_models
        return record is not None and record["key"] == self.key(run) and kept

    def is_valid(self, run: Run) -> bool:
        """Whether the run is one of this study, wherever it was trained: what reads runs asks this."""
        record = read_json(self._study.run(run) / "run.json")
        return record is not None and record["key"] == self._make_key(run, record["environment"])

    def failure(self, run: Run) -> str | None:
        """What the run failed of, in a line, if it has been tried."""
        record = read_json(self._study.run(run) / "failed.json")
        return record["error"] if record is not None and record["key"] == self.key(run) else None


def threads(config: dict[str, Any]) -> int:
    """Return the threads of each process on the CPU: an equal share of the machine's."""
    return max(1, cpu_threads() // config["num_processes"])


def check_training(study: Study, weights: bool = True) -> None:
    """Check the encoder and the accelerate configuration before anything is trained.

    Raises:
        UserError: the encoder or configuration does not exist or cannot be used here.
    """
    check_encoder(study, weights)
    confident = set(CONFIDENT) & set(study.grid.arms)
    if confident and not versions("cleanlab"):
        raise UserError(f"`grid.arms`: {min(confident)} requires cleanlab. Try `pip install 'hf-recipes[cleanlab]'`.")
    config = read_accelerate_config(study.training)
    if not config["use_cpu"]:
        import torch

        if not torch.accelerator.is_available():
            raise UserError(
                f"`train.accelerate_config` must suit this machine, which has no GPU. Got {config['path']}. Try cpu."
            )


def check_encoder(study: Study, weights: bool = True) -> Model:
    """Return the recipe's encoder.

    Raises:
        UserError: the encoder does not exist or is a classifier, or `train.max_length` exceeds its maximum.
    """
    train = study.training
    encoder = resolve_model(study, "train.encoder", train.encoder, train.revision, weights)
    model = read_json(encoder.folder / "config.json") or {}
    longest = model.get("max_position_embeddings")
    if longest is not None and model.get("model_type") in SHIFTED:
        longest -= 2
    if longest is not None and longest > 0 and train.max_length > longest:
        raise UserError(
            f"`train.max_length` must be at most {longest}, the maximum of {encoder.name}. Got {train.max_length}."
        )
    if any(name.endswith("ForSequenceClassification") for name in model.get("architectures") or ()):
        raise UserError(
            f"`train.encoder` must have no classification head, as the seed draws it. Got {encoder.name}. Try the "
            "encoder that it was fine-tuned from."
        )
    return encoder


def runs_left(study: Study) -> list[Run]:
    """Return the runs of the grid that are not trained, including failed runs.

    Raises:
        UserError: the study has no annotations, too few rows or no texts.
    """
    work = Work(study)
    left = [run for run in all_runs(study.grid) if not work.is_done(run)]
    if left:
        open_rows(study).need_texts()
    return left


def other_runs(study: Study) -> str | None:
    """Return a sentence on trained runs in the folder that are not in the recipe, or None without such runs."""
    folders = {study.run(run) for run in all_runs(study.grid)}
    count = sum(path.parent not in folders for path in study.root.glob("runs/*/*/*/run.json"))
    if not count:
        return None
    return (
        f"{count:,} trained runs in {study.root} are not in this recipe and are left out. Repeat command-line settings "
        "in every step, or write them into the recipe."
    )


def failed_runs(study: Study) -> dict[Run, str]:
    """Return the failed runs, each with its error in one line."""
    return _failures(study, Work(study))


def forget_failures(study: Study) -> None:
    """Delete the records of failures, so that the runs are trained again."""
    work = Work(study)
    for run in _failures(study, work):
        with study.run_lock(run):  # another process may be training it
            if work.failure(run) is not None:
                (study.run(run) / "failed.json").unlink()


def read_accelerate_config(train: Train) -> dict[str, Any]:
    """Return the recipe's accelerate configuration, with its `path`.

    Raises:
        UserError: the file does not exist or is not a supported configuration.
    """
    name = train.accelerate_config
    folder = Path(__file__).parent / "recipes" / "accelerate"
    path = folder / f"{name}.yaml" if (folder / f"{name}.yaml").exists() else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise UserError(f"`train.accelerate_config` must be a file or one of {known}. Got {name}.")
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(
            f"`train.accelerate_config` must be an accelerate configuration. Got {path}. Try `accelerate config`."
        )
    base = {"use_cpu": False, "mixed_precision": "no", "num_processes": 1, "num_machines": 1}
    config = {**base, **{key: value for key, value in content.items() if value is not None}, "path": str(path)}
    kind = str(content.get("distributed_type") or "NO")
    if kind not in ("NO", "MULTI_GPU", "MULTI_CPU") or content.get("dynamo_config"):
        raise UserError(
            f"`distributed_type` in {path} must be NO, MULTI_GPU or MULTI_CPU, without `dynamo_config`. Got {kind}."
        )
    if config["num_machines"] != 1:
        raise UserError(
            f"`num_machines` in {path} must be 1. Got {config['num_machines']}. To share the grid, start `hf-recipes "
            "train` on each machine."
        )
    if config["mixed_precision"] not in ("no", "bf16"):
        raise UserError(f"`mixed_precision` in {path} must be 'no' or bf16. Got {config['mixed_precision']}.")
    return config


def train(study: Study) -> dict[Run, str]:
    """Train the runs that are not done, in a process that `accelerate launch` started.

    Args:
        study (`Study`):
            An annotated study. Each run adds a folder `runs/<arm>/n<size>/<seed>/`.

    Returns:
        `dict[Run, str]`: the failed runs with their errors, including earlier failures. All other runs are done.

    Raises:
        UserError: the study has no annotations or too few rows, the encoder does not load, or the number of processes
            differs from the configuration.
    """
    config = read_accelerate_config(study.training)
    first = _check_processes(config)
    with study.lock():  # writes the recipe and the encoder's revision
        check_training(study)
    import torch
    from accelerate import Accelerator

    os.environ.pop("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", None)  # `fine_tune` accumulates gradients
    torch.set_num_threads(threads(config))
    accelerator = Accelerator(log_with=[*study.training.trackers] or None, project_dir=study.tracking)
    actual = (accelerator.device.type == "cpu", accelerator.mixed_precision)
    if actual != (config["use_cpu"], config["mixed_precision"]):
        raise UserError(
            f"`train.accelerate_config` must be the configuration of `accelerate launch`. Got {config['path']}, but "
            f"accelerate runs on {accelerator.device} with mixed precision {accelerator.mixed_precision}."
        )
    work = Work(study)
    if first:
        for note in work.notes:
            logger.warning(note)
        if kind := local_locks(study.root):
            logger.warning(
                "%s is on %s, where other machines may not see the locks. Train it on one machine only, or test the "
                "locks as in docs/nodes.md.",
                *(study.root, kind),
            )
    with tempfile.TemporaryDirectory(prefix="hf-recipes-") as folder:
        _Trainer(study, work, accelerator, Path(folder), first).train_all()
    return _failures(study, work)


def _failures(study: Study, work: Work) -> dict[Run, str]:
    failures = {run: work.failure(run) for run in all_runs(study.grid) if not work.is_done(run)}
    return {run: error for run, error in failures.items() if error is not None}


def _check_processes(config: dict[str, Any]) -> bool:
    """Return whether this is the first of the processes that share the grid here.

    For accelerate each of them is the only one, with a GPU of its own.

    Raises:
        UserError: `config` names another number of processes, or more than there are GPUs.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count != config["num_processes"]:
        raise UserError(
            f"`num_processes` in {config['path']} must be the number of processes. Got {config['num_processes']}, but "
            f"{count} started. On the CPU `accelerate launch` starts one. Try `hf-recipes train`, or `torchrun` with "
            "ACCELERATE_USE_CPU=true."
        )
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    if count > 1:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
        if not config["use_cpu"]:  # before CUDA is asked for its devices
            devices = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))).split(",")
            if rank >= len(devices):
                raise UserError(
                    f"`num_processes` in {config['path']} must be at most the number of GPUs. Got {count}, but "
                    f"CUDA_VISIBLE_DEVICES is {','.join(devices)}."
                )
            os.environ["CUDA_VISIBLE_DEVICES"] = devices[rank]
    return rank == 0


@dataclass
class _Trainer:
    """Trains the grid's runs in this process."""

    study: Study
    work: Work
    accelerator: Any
    folder: Path
    first: bool

    def train_all(self) -> None:
        """Train run after run until each is done or has failed, in this process or in another."""
        from tqdm import tqdm

        runs = all_runs(self.study.grid)
        done = [run for run in runs if self.work.is_done(run)]
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
        return self.work.is_done(run) or self.work.failure(run) is not None

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

    def _tokenize(self, runs: list[Run]) -> None:
        study, work = self.study, self.work
        self._tokenizer = load_tokenizer("train.encoder", work.encoder)
        needed = np.unique(np.concatenate([work.validation, *(work.labels(run).rows for run in runs)]))
        self._places = np.full(len(work.pool.ids), -1)
        self._places[needed] = np.arange(len(needed))
        longest = study.training.max_length
        texts = [work.pool.texts[i] for i in needed]
        self._tokens = Tokens(texts, self._tokenizer, longest, self.folder / "pool.tokens")
        tested = [str(text) for text in work.test.texts]
        self._test = Tokens(tested, self._tokenizer, longest, self.folder / "test.tokens")

    def _train_one(self, run: Run) -> None:
        """Train a run and write its folder. If it fails, write `failed.json`, so that the other runs continue."""
        study = self.study
        self._start = time.monotonic()
        try:
            labels = self.work.labels(run)
            if run.arm in CONFIDENT:
                labels = self._leave_out(run, labels)
            self._start_trackers(run)
            model, curves, micro_batch_size = self._fine_tune(run, labels)
            tested, batch_size = np.arange(len(self.work.test)), study.training.eval_batch_size
            probs = predict(self.accelerator, model, self._tokenizer, self._test, tested, batch_size)
            if not np.isfinite(probs).all():
                raise FloatingPointError(DIVERGED)
            with study.whole_folder(study.run(run)) as folder:
                self._write(folder, run, labels, model, curves, probs, micro_batch_size)
        except (UserError, OSError):  # a full disk and the like are not the run's fault
            raise
        except Exception as error:
            study.run(run).mkdir(parents=True, exist_ok=True)  # an earlier run's files remain
            reason = redact(f"{type(error).__name__}: {first_line(error)}")
            record = {"key": self.work.key(run), "error": reason, "traceback": redact(traceback.format_exc())}
            write_json(study.run(run) / "failed.json", record)
        finally:
            self._finish_trackers()
        self.accelerator.free_memory()

    def _leave_out(self, run: Run, labels: Labels) -> Labels:
        """Leave out the labels that confident learning calls wrong; for the control arm, as many at random."""
        import torch
        from transformers import AutoModel

        pool, rows = self.work.pool, labels.rows
        encoder = AutoModel.from_pretrained(
            self.work.encoder.folder, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
        batch_size = self.study.training.eval_batch_size
        features = embed(self.accelerator, encoder, self._tokenizer, self._tokens, self._places[rows], batch_size)
        wrong = find_label_errors([pool.texts[i] for i in rows], labels.labels, features, len(pool.label_names))
        if run.arm == CONFIDENT[1]:
            wrong = draw(pool, rows, int(wrong.sum()), f"confident-random-drop:{run.subset_seed}")
        return labels.without(wrong)

    def _fine_tune(self, run: Run, labels: Labels) -> tuple[Any, Curves, int]:
        """Return a classifier, its curves and its micro-batch size, which is halved whenever memory runs out."""
        from accelerate.utils import find_executable_batch_size

        work, settings = self.work, self.study.training
        train = LabelledTexts(self._tokens, self._places[labels.rows], labels.targets, labels.then)
        validation = None
        if settings.validation_size:
            targets = np.eye(len(work.pool.label_names))[work.validation_labels(run)]
            validation = LabelledTexts(self._tokens, self._places[work.validation], targets)
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

        names = self.work.pool.label_names
        set_seed(run.init_seed)  # draws the head
        try:
            return AutoModelForSequenceClassification.from_pretrained(
                self.work.encoder.folder,
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
                f"`train.encoder` must load as a sequence classifier. {self.work.encoder.name}: {first_line(error)}"
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

    def _finish_trackers(self) -> None:
        for tracker in self.accelerator.trackers:
            with suppress(Exception):  # a tracker's server that fails costs no run
                tracker.finish()
        self.accelerator.trackers.clear()

    def _write(
        self,
        folder: Path,
        run: Run,
        labels: Labels,
        model: Any,
        curves: Curves,
        probs: np.ndarray,
        micro_batch_size: int,
    ) -> None:
        work, settings = self.work, self.study.training
        dropped = [work.pool.ids[i] for i in np.setdiff1d(work.subset(run), labels.rows)]
        named = pa.array([str(run)] * len(work.test), pa.string()).dictionary_encode()
        table = pa.table([named, work.test.ids, work.test.gold, list(probs)], schema=PREDICTIONS)
        tables.write(folder / "predictions.parquet", table)
        if settings.save_models:
            model.save_pretrained(folder / "model")
            self._tokenizer.save_pretrained(folder / "model")
        write_json(
            folder / "run.json",
            {
                "key": work.key(run),
                "arm": run.arm,
                "size": run.size,
                "seed": run.name,
                "seeds": {"subset": run.subset_seed, "init": run.init_seed, "order": run.order_seed},
                "annotation_pass": run.annotation_pass,
                "gold_train_labels": labels.gold_labels,
                "gold_validation_labels": len(work.validation) if settings.validation_labels == "gold" else 0,
                **({"dropped": dropped} if run.arm in CONFIDENT else {}),
                "train_label_accuracy": labels.accuracy(work.pool.of_pass(run.annotation_pass)),
                "curves": {name: values for name, values in vars(curves).items() if values},
                "train": settings.model_dump(mode="json"),
                "environment": work.environment(run),
                "micro_batch_size": micro_batch_size,
                "seconds": round(time.monotonic() - self._start, 2),
            },
        )


def main() -> None:
    """Train the recipe of the command line; exit with code 1 if a run failed."""
    from . import logs

    logs.set_up()
    with logs.in_a_line():
        if len(sys.argv) < 2:
            raise UserError("RECIPE is missing. Try accelerate launch ... -m hf_recipes.train RECIPE [--key=value ...]")
        failures = train(Study(load_recipe(sys.argv[1], sys.argv[2:])))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    follow_parent()  # a launcher that the user started
    main()
