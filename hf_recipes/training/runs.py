"""The runs of a study: what each trains on, its key, and whether it is done, failed or left."""

import copy
import hashlib
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import UserError
from ..hashing import hash_ids, hash_order, make_key
from ..labels.pool import StudyLabels
from ..labels.rules import Labels, training_labels
from ..models import Model, resolve_model
from ..study import Method, Run, Study, cpu_capability, cpu_threads, read_json, versions
from ..variants import CONFIDENT
from .confident import RULE
from .devices import FLOAT32_PRECISION, check_gpus, find_accelerator, list_gpus, read_accelerate_config, threads
from .fine_tuning import RULES as TRAINING_RULES
from .grid import all_runs, check_sizes, crossed_runs, list_runs, paired_runs, permutation

PREDICTIONS = pa.schema(
    {
        "run": pa.dictionary(pa.int32(), pa.string()),
        "id": pa.string(),
        "gold": pa.int64(),
        "probs": pa.list_(pa.float64()),
    }
)
LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers", "numpy")
#: Settings that change how a run is trained but not its result; encoder and mixed precision are in its environment.
NOT_IN_KEY = {
    *("encoder", "revision", "encoder_mode", "accelerate_config", "save_models", "trackers", "out_of_bag"),
    "runs_per_device",
}
#: The settings that change a head, and the versions of what else does: to be increased when heads.py, features.py or
#: linear.py computes something else.
HEAD_SETTINGS, HEAD_RULES, TFIDF_RULES = {"max_length", "warmup_ratio", "weight_decay"}, 1, 1
FAST: tuple[Method, ...] = ("frozen", "tfidf")  # the methods that take seconds, in one process for all runs
#: Model types whose first token has the position after that of padding: `pad_token_id` + 1.
SHIFTED = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "data2vec-text", "xlm-roberta-xl")


class Runs:
    """All runs of a study by one method: the one that decides the verdict, or by `of` another.

    Args:
        study (`Study`), labels (`StudyLabels`):
            An annotated study, and what `read_labels` returned for it.

    Attributes:
        method (`Method`): how they are trained.
        all (`list[Run]`): the runs, in the order in which they are trained.
        pool (`Pool`): the texts that they train on.
        pool_sample (`np.ndarray` of shape `(n,)`): sorted indices of at most `train.out_of_bag` rows of the pool. Each
            run classifies those that it did not train on. Empty where gold is incomplete.
        notes (`list[str]`): warnings on the sizes.

    Raises:
        UserError: a size is larger than the pool, or a variant requires labels that the study does not have.
    """

    def __init__(self, study: Study, labels: StudyLabels):
        grid, settings = study.grid, study.training
        self.method: Method = settings.method
        self.all = list_runs(grid, settings, self.method)
        self.pool, self.test, self.validation = labels.training_pool, labels.test, labels.validation
        self.notes = check_sizes(grid, len(labels.trainable))
        self._study, self._files = study, labels.files
        self._keys: dict[Run, str] = {}
        ids = [self.pool.ids[i] for i in labels.trainable]
        self._orders = {seed: labels.trainable[permutation(ids, seed)] for seed in grid.seeds}
        num_sampled = 0 if study.recipe.few_gold else settings.out_of_bag
        self.pool_sample = np.sort(labels.trainable[hash_order(ids, "out-of-bag")[:num_sampled]])
        self._common = {
            "test": hash_ids(f"{i} {g}" for i, g in zip(self.test.ids, self.test.gold, strict=True)),
            "label_names": self.test.label_names,
        }
        for run in {run.variant: run for run in self.all}.values():
            self.labels(run)  # what a variant lacks is an error before anything is trained

    def of(self, method: Method) -> "Runs":
        """Return the runs of the same study by another method."""
        runs = copy.copy(self)
        runs.method, runs.all, runs._keys = method, list_runs(self._study.grid, self._study.training, method), {}
        return runs

    @property
    def methods(self) -> list["Runs"]:
        """The runs by each method that has a report, the one that decides the verdict last.

        Heads have one besides that of fine-tuning if all are trained; a pulled study has some of them alone.
        """
        settings, heads = self._study.training, self.of("frozen")
        has_heads = settings.encoder_mode == "both" and all(map(heads.is_valid, heads.all))
        return [*([heads] if has_heads else []), self.of(settings.method)]

    @property
    def baselines(self) -> list["Runs"]:
        """The runs of heads and of TF-IDF with which these are compared."""
        return [self.of(method) for method in FAST if method != self.method]

    def left_in_seconds(self) -> list[Run]:
        """Return the runs of heads and TF-IDF that are not done and have not failed; none without texts."""
        if self._files.withheld:
            return []
        return list(chain.from_iterable(self.of(method).untried() for method in FAST))

    def untried(self) -> list[Run]:
        """Return the runs that are not done and have not failed; raises like `left`."""
        return [run for run in self.left() if self.failure(run) is None]

    def paired(self, variant: str, size: int) -> list[Run]:
        """Return a variant's runs at a size, one for each seed in order; see `grid.paired_runs`."""
        return [replace(run, method=self.method) for run in paired_runs(self._study.grid, variant, size)]

    def crossed(self, variant: str) -> dict[tuple[int, ...], Run]:
        """Return the crossed runs of a variant by their levels; see `grid.crossed_runs`."""
        crossed = crossed_runs(self._study.grid, variant)
        return {levels: replace(run, method=self.method) for levels, run in crossed.items()}

    @cached_property
    def encoder(self) -> Model:
        """The encoder; its weights are not read."""
        return check_encoder(self._study, weights=False)

    @cached_property
    def accelerate(self) -> dict[str, Any]:
        """The accelerate configuration."""
        return read_accelerate_config(self._study.training)

    def environment(self, run: Run) -> dict[str, Any]:
        """Return the hardware and software that change the result of a run."""
        if run.method == "tfidf":
            return {"rules": TFIDF_RULES, "versions": versions("scikit-learn", "scipy", "numpy")}
        config, is_head = self.accelerate, run.method == "frozen"
        if config["use_cpu"]:
            device = {"threads": cpu_threads() if is_head else threads(config), "cpu": cpu_capability()}
        else:
            device = {"threads": None, "accelerator": find_accelerator(list_gpus(config)[0])}
            if not is_head:
                device["float32_matmul_precision"] = FLOAT32_PRECISION
        return {
            "encoder": self.encoder.identity,
            "rules": HEAD_RULES if is_head else TRAINING_RULES,
            "versions": versions(*LIBRARIES, *(["cleanlab", "scikit-learn"] if run.variant in CONFIDENT else [])),
            **device,
            "mixed_precision": "no" if is_head else config["mixed_precision"],
        }

    def settings(self, run: Run) -> dict[str, Any]:
        """Return the settings of `train` that change the result of a run."""
        settings = self._study.training
        if run.method == "finetune":
            # Runs of earlier versions have no `deterministic` in their keys.
            unset = set() if settings.deterministic else {"deterministic"}
            return settings.model_dump(mode="json", exclude=NOT_IN_KEY | unset)
        return settings.model_dump(mode="json", include=HEAD_SETTINGS) if run.method == "frozen" else {}

    def subset(self, run: Run) -> np.ndarray:
        """Return the run's rows, of shape `(size,)`, as indices into the pool, in the order that all variants share."""
        return self._orders[run.subset_seed][: run.size]

    def out_of_bag(self, run: Run) -> np.ndarray:
        """Return the rows of `pool_sample` that the run classifies: no row of its subset has the same text.

        If the test split has no cluster of the pool, no row of the subset is of the same cluster either, so that these
        texts are as far from the subset as the test texts. All variants of a seed have the same, as they share the
        subset.
        """
        subset = self.subset(run)
        is_trained_on = np.isin(self._text_numbers[self.pool_sample], self._text_numbers[subset])
        if self._clusters is not None:
            names = self._clusters[subset]
            is_trained_on |= np.isin(self._clusters[self.pool_sample], names[names != ""])
        return self.pool_sample[~is_trained_on]

    @cached_property
    def _clusters(self) -> np.ndarray | None:
        """The cluster of each row of the pool, empty if unknown; None if the test split shares clusters with it."""
        if self.pool.clusters is None or self.test.clusters is None:
            return None
        of_pool, of_test = (
            np.array([name or "" for name in names]) for names in (self.pool.clusters, self.test.clusters)
        )
        return None if (set(of_pool) & set(of_test)) - {""} else of_pool

    @cached_property
    def _text_numbers(self) -> np.ndarray:
        """A number for each row of the pool, the same for equal texts. A study without its texts has it too."""
        places = pc.index_in(pa.array(self.pool.ids), value_set=self._files.column("id"))
        text_ids = self._files.column("text_id").take(places)
        return np.asarray(text_ids.dictionary_encode().indices)

    def labels(self, run: Run) -> Labels:
        """Return the run's training labels.

        For `CONFIDENT` variants these are all labels; the run's `run.json` lists the rows that it left out.
        """
        share, pool = self._study.grid.replace_share, self.pool.of_pass(run.annotation_pass)
        return training_labels(run.variant, pool, self.subset(run), share, run.subset_seed)

    def validation_labels(self, run: Run) -> np.ndarray:
        """Return the classes of the validation rows. Gold ones count as consumed."""
        if self._study.training.validation_labels == "gold":
            return self.pool.gold[self.validation]
        return self.pool.of_pass(run.annotation_pass).llm[self.validation]

    @property
    def gold_validation_labels(self) -> int:
        """The gold labels that the choice of the checkpoint consumes; heads keep the last one."""
        uses_gold = self.method == "finetune" and self._study.training.validation_labels == "gold"
        return len(self.validation) if uses_gold else 0

    def key(self, run: Run) -> str:
        """Return the hash of the run's rows and labels, and of everything else that changes its result."""
        if run not in self._keys:
            self._keys[run] = self._make_key(run, self.environment(run))
        return self._keys[run]

    def _make_key(self, run: Run, environment: dict[str, Any]) -> str:
        labels = self.labels(run)
        content = [
            hash_ids(self.pool.ids[i] for i in labels.rows),
            hashlib.sha256(labels.targets.tobytes()).hexdigest(),
            *([run.variant, RULE, run.subset_seed] if run.variant in CONFIDENT else []),
        ]
        rows = zip(self.validation, self.validation_labels(run), strict=True) if run.method == "finetune" else ()
        validation = hash_ids(f"{self.pool.ids[i]} {label}" for i, label in rows)
        seeds = {"init": run.init_seed, "order": run.order_seed}
        settings = {"train": self.settings(run), **self._common}
        return make_key(content=content, validation=validation, seeds=seeds, **settings, **environment)

    def is_done(self, run: Run) -> bool:
        """Return whether the run need not be trained here."""
        folder = self._study.run(run)
        record = read_json(folder / "run.json")
        has_model = (folder / "model").exists() or run.method != "finetune" or not self._study.training.save_models
        return record is not None and record["key"] == self.key(run) and has_model

    def is_valid(self, run: Run) -> bool:
        """Return whether the run belongs to this study, on whatever machine it was trained."""
        record = read_json(self._study.run(run) / "run.json")
        return record is not None and record["key"] == self._make_key(run, record["environment"])

    def failure(self, run: Run) -> str | None:
        """Return the error of a run that failed, in a line."""
        record = read_json(self._study.run(run) / "failed.json")
        return record["error"] if record is not None and record["key"] == self.key(run) else None

    def left(self) -> list[Run]:
        """Return the runs that are not done, failed ones included.

        Raises:
            UserError: they cannot be trained, as the study was published without its texts.
        """
        left = [run for run in self.all if not self.is_done(run)]
        if left:
            self._files.need_texts()
        return left

    def failures(self) -> dict[Run, str]:
        """Return the runs that failed, each with its error in a line."""
        errors = {run: self.failure(run) for run in self.all if not self.is_done(run)}
        return {run: error for run, error in errors.items() if error is not None}

    def forget_failures(self) -> None:
        """Delete the records of runs that failed, so that they are trained again."""
        for run in self.failures():
            with self._study.run_lock(run):  # another process may be training it
                if self.failure(run) is not None:
                    (self._study.run(run) / "failed.json").unlink()


def check_training(study: Study, weights: bool = True, is_elsewhere: bool = False) -> None:
    """Check the encoder and the accelerate configuration before anything is trained.

    Args:
        study (`Study`), weights (`bool`):
            The study, and whether the encoder's weights are required.
        is_elsewhere (`bool`, *optional*, defaults to `False`):
            Another machine will train, so this one needs no GPU.

    Raises:
        UserError: the encoder or configuration does not exist or cannot be used here.
    """
    check_encoder(study, weights)
    confident = set(CONFIDENT) & set(study.grid.variants)
    if confident and not versions("cleanlab"):
        raise UserError(
            f"`grid.variants`: {min(confident)} requires cleanlab. Try `pip install 'hf-recipes[cleanlab]'`."
        )
    config = read_accelerate_config(study.training)
    if not config["use_cpu"] and not is_elsewhere:
        check_gpus(config)


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
        longest -= 2 if model["model_type"] == "mpnet" else (model.get("pad_token_id", 1) or 0) + 1
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


def other_runs(study: Study) -> str | None:
    """Return a sentence on trained runs in the folder that are not in the recipe, or None without such runs."""
    folders = {study.run(run) for run in all_runs(study.grid)}
    count = sum(path.parent not in folders for path in study.run_records())
    if not count:
        return None
    return (
        f"{count:,} trained runs in {study.root} are not in this recipe and are left out. Repeat command-line settings "
        "in every step, or write them into the recipe."
    )
