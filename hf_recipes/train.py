"""Training: one encoder per run of the grid, under accelerate.

    accelerate launch --config_file hf_recipes/recipes/accelerate/cpu.yaml -m hf_recipes.train RECIPE [--key=value ...]

`hf-recipes train RECIPE` launches just that. With several processes each takes its share of the runs.
"""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from .annotate import Annotations, load_annotations
from .arms import Labels, Pool, build_pool, training_labels
from .data import load_rows
from .grid import Run, all_runs, check_sizes, permutation
from .models import Model, load_tokenizer, resolve_model
from .recipe import Train, UserError, first_line, load_recipe
from .study import Study, cpu_threads, follow_parent, hash_ids, make_key, read_json, versions, whole_folder, write_json

logger = logging.getLogger(__name__)

MEGABATCH = 32  # batches among which texts are sorted by length: little padding, and still a random order


class Work:
    """What all runs of a study share, read once.

    Args:
        study (`Study`):
            An annotated study.

    Attributes:
        rows (`Rows`), annotations (`list[Annotations]`): the whole pool, as it was read and annotated, pass by pass.
        pool (`Pool`): its usable rows.
        test (`Rows`), encoder (`Model`)
        notes (`list[str]`): doubts about the sizes.
    """

    def __init__(self, study: Study):
        self.rows, self.test = load_rows(study)
        self.annotations: list[Annotations] = load_annotations(study, self.rows)
        self.pool: Pool = build_pool(self.rows, self.annotations)
        self.notes = check_sizes(study.grid, len(self.pool.ids))
        self.encoder, self.accelerate = check_training(study)
        self._study = study
        self._orders = {seed: permutation(self.pool.ids, seed) for seed in study.grid.seeds}
        settings = study.training.model_dump(mode="json", exclude={"encoder", "revision", "accelerate_config"})
        self._common = {
            "encoder": self.encoder.identity,
            "train": settings,
            "test": hash_ids(f"{i} {g}" for i, g in zip(self.test.ids, self.test.gold, strict=True)),
            "label_names": self.test.label_names,
            "versions": versions("torch", "transformers", "accelerate"),
            "threads": cpu_threads() if self.accelerate["use_cpu"] else None,
            "mixed_precision": self.accelerate["mixed_precision"],
        }

    def subset(self, run: Run) -> np.ndarray:
        """Indices of the run's rows in the pool, of shape `(size,)`, in the order all arms share."""
        return self._orders[run.subset_seed][: run.size]

    def labels(self, run: Run) -> Labels:
        """The run's training labels, in the order of `subset(run)`."""
        share = self._study.grid.replace_share
        return training_labels(run.arm, self.pool, self.subset(run), share, run.subset_seed)

    def key(self, run: Run) -> str:
        """The run's key: of the very rows and labels it trains on, and of everything else that changes its outcome."""
        labels = self.labels(run).labels
        content = hash_ids(f"{self.pool.ids[i]} {label}" for i, label in zip(self.subset(run), labels, strict=True))
        return make_key(content=content, seeds={"init": run.init_seed, "order": run.order_seed}, **self._common)

    def is_done(self, run: Run) -> bool:
        record = read_json(self._study.run(run.arm, run.size, run.seed) / "run.json")
        return record is not None and record["key"] == self.key(run)


def check_training(study: Study, weights: bool = True) -> tuple[Model, dict[str, Any]]:
    """The encoder and the accelerate configuration, as far as they can be checked without a run.

    Raises:
        UserError: no such encoder or configuration, one that cannot be used, texts longer than the encoder takes.
    """
    train = study.training
    encoder = resolve_model(study, "train.encoder", train.encoder, train.revision, weights)
    longest = (read_json(encoder.folder / "config.json") or {}).get("max_position_embeddings")
    if longest is not None and train.max_length > longest:
        raise UserError(f"train.max_length: {train.max_length} tokens, but {encoder.name} takes {longest} at most")
    config = read_accelerate_config(train)
    if not config["use_cpu"]:
        import torch

        if not torch.accelerator.is_available():
            raise UserError(f"train.accelerate_config: {config['path']} wants a GPU, and there is none; use cpu")
    return encoder, config


def runs_left(study: Study) -> list[Run]:
    """The runs of the grid that are still to be trained.

    Raises:
        UserError: what is wrong with the input, before anything is launched.
    """
    work = Work(study)
    return [run for run in all_runs(study.grid) if not work.is_done(run)]


def read_accelerate_config(train: Train) -> dict[str, Any]:
    """The accelerate configuration that the recipe names, with its `path`.

    Raises:
        UserError: there is no such file, or it is none.
    """
    name = train.accelerate_config
    folder = Path(__file__).parent / "recipes" / "accelerate"
    path = folder / f"{name}.yaml" if (folder / f"{name}.yaml").exists() else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise UserError(f"train.accelerate_config: '{name}' is neither a file nor one of {known}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict):
        raise UserError(
            f"train.accelerate_config: {path} is no accelerate configuration; make one with accelerate config"
        )
    config = {"use_cpu": False, "mixed_precision": "no", **content, "path": str(path)}
    if config["mixed_precision"] not in ("no", "bf16"):
        raise UserError(
            f"train.accelerate_config: {path}: mixed_precision must be 'no' or bf16 (fp16 wants loss scaling)"
        )
    return config


def train(study: Study) -> None:
    """Trains the runs that are not done; to be called in a process that `accelerate launch` started.

    Args:
        study (`Study`):
            An annotated study; gains `runs/<arm>/n<size>/<seed>/`.

    Raises:
        UserError: no annotations, more rows asked for than there are, an encoder that does not load.
    """
    import torch
    from accelerate import Accelerator

    torch.set_num_threads(cpu_threads())
    accelerator = Accelerator()
    with study.lock() if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()
        _train(study, accelerator)
        accelerator.wait_for_everyone()


def _train(study: Study, accelerator: Any) -> None:
    import torch
    from accelerate.utils import broadcast_object_list
    from tqdm import tqdm

    work = Work(study)
    wanted = (work.accelerate["use_cpu"], work.accelerate["mixed_precision"])
    if wanted != (accelerator.device.type == "cpu", accelerator.mixed_precision):
        raise UserError(
            f"train.accelerate_config: accelerate runs on {accelerator.device} with mixed precision "
            f"{accelerator.mixed_precision}, unlike {work.accelerate['path']}; launch with that file, or name another"
        )
    if accelerator.is_main_process:
        for note in work.notes:
            logger.warning(note)
    tokenizer = load_tokenizer("train.encoder", work.encoder)
    limit = study.training.max_length

    def tokenize(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, truncation=True, max_length=limit)["input_ids"] if texts else []

    runs = all_runs(study.grid)
    todo = [run for run in runs if not work.is_done(run)]
    todo = broadcast_object_list([todo])[0]  # the main process's: others may look when a run more is done
    mine = todo[accelerator.process_index :: accelerator.num_processes]
    needed = np.unique(np.concatenate([work.subset(run) for run in mine] or [np.array([], np.int64)]))
    encoded = dict(zip(needed.tolist(), tokenize([work.pool.texts[i] for i in needed]), strict=True))
    test_encoded = tokenize([str(text) for text in work.test.texts])
    bar = tqdm(
        total=len(runs),
        initial=len(runs) - len(todo),
        desc="train",
        unit=" runs",
        disable=not accelerator.is_main_process,
    )
    for run in mine:
        bar.set_postfix_str(str(run))
        labels = work.labels(run)
        start = time.monotonic()
        inputs = [encoded[i] for i in work.subset(run).tolist()]
        try:
            probs, losses = _fit(accelerator, tokenizer, work, study.training, run, inputs, labels.labels, test_encoded)
        except torch.OutOfMemoryError:
            raise UserError(f"train: {run} does not fit into the GPU's memory; lower train.batch_size") from None
        seconds = time.monotonic() - start
        with whole_folder(study.run(run.arm, run.size, run.seed)) as folder:
            _write_run(folder, run, work, labels, probs, losses, seconds)
        bar.update(accelerator.num_processes)
    bar.close()


def _fit(
    accelerator: Any,
    tokenizer: Any,
    work: Work,
    settings: Train,
    run: Run,
    inputs: list[list[int]],
    labels: np.ndarray,
    test_inputs: list[list[int]],
) -> tuple[np.ndarray, list[float]]:
    """Trains one classifier; returns its test probabilities of shape (n, K), and the mean loss of each epoch."""
    import torch
    from accelerate.utils import set_seed
    from transformers import AutoModelForSequenceClassification, get_linear_schedule_with_warmup

    set_seed(run.init_seed)  # before the model is made: its head is drawn from it
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            work.encoder.folder, num_labels=len(work.pool.label_names), use_safetensors=True, dtype=torch.float32
        ).to(accelerator.device)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"train.encoder: {work.encoder.name} is no sequence classifier ({first_line(error)})") from None
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]  # biases and norms
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        fused=True,
    )
    steps = settings.epochs * -(-len(inputs) // settings.batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, round(settings.warmup_ratio * steps), steps)
    targets = torch.tensor(labels)

    def collate(indices: np.ndarray, texts: list[list[int]]) -> Any:
        padded = tokenizer.pad({"input_ids": [texts[i] for i in indices]}, return_tensors="pt")
        return padded.to(accelerator.device)

    set_seed(run.order_seed)
    rng = np.random.default_rng(run.order_seed)
    lengths = np.array([len(ids) for ids in inputs])
    losses = []
    model.train()
    for _ in range(settings.epochs):
        total = 0.0
        for batch in bucketed_batches(lengths, settings.batch_size, rng):
            with accelerator.autocast():
                logits = model(**collate(batch, inputs)).logits
                loss = torch.nn.functional.cross_entropy(logits.float(), targets[batch].to(accelerator.device))
            accelerator.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total += loss.item() * len(batch)
        losses.append(total / len(inputs))

    model.eval()
    probs = np.empty((len(test_inputs), len(work.pool.label_names)))
    by_length = np.argsort([len(ids) for ids in test_inputs], kind="stable")
    with torch.inference_mode(), accelerator.autocast():
        for start in range(0, len(by_length), settings.eval_batch_size):
            batch = by_length[start : start + settings.eval_batch_size]
            probs[batch] = model(**collate(batch, test_inputs)).logits.double().softmax(-1).cpu().numpy()
    if not np.isfinite(probs).all():
        raise UserError(f"train: {run} diverged (its probabilities are not finite); lower train.learning_rate")
    return probs, losses


def bucketed_batches(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """One epoch of batches of similar lengths, in random order.

    Texts are shuffled, cut into runs of `MEGABATCH` batches, sorted by length inside each, and the batches are shuffled
    again: every text comes once, and only the last megabatch holds a smaller batch.

    Args:
        lengths (`np.ndarray` of shape `(n,)`):
            Tokens of each text.
        batch_size (`int`):
            Texts in a batch.
        rng (`np.random.Generator`):
            The source of chance.

    Yields:
        `np.ndarray` of shape `(<= batch_size,)`: indices of the batch's texts.
    """
    order = rng.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), MEGABATCH * batch_size):
        part = order[start : start + MEGABATCH * batch_size]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    for i in rng.permutation(len(batches)):
        yield batches[i]


def _write_run(
    folder: Path, run: Run, work: Work, labels: Labels, probs: np.ndarray, losses: list[float], seconds: float
) -> None:
    table = pa.table(
        {
            "run": pa.array([str(run)] * len(work.test)).dictionary_encode(),
            "id": work.test.ids,
            "gold": work.test.gold,
            "probs": pa.array(list(probs), pa.list_(pa.float64())),
        }
    )
    pq.write_table(table, folder / "predictions.parquet")
    write_json(
        folder / "run.json",
        {
            "key": work.key(run),
            "arm": run.arm,
            "size": run.size,
            "seed": run.seed,
            "seeds": {"subset": run.subset_seed, "init": run.init_seed, "order": run.order_seed},
            "gold_train_labels": int(labels.from_gold.sum()),
            "train_label_accuracy": float((labels.labels == work.pool.gold[work.subset(run)]).mean()),
            "losses": losses,
            "encoder": work.encoder.identity,
            "versions": versions("torch", "transformers", "accelerate"),
            "threads": cpu_threads(),
            "seconds": round(seconds, 2),
        },
    )


def main() -> None:
    """What `accelerate launch` runs."""
    from . import logs

    logs.set_up()
    follow_parent()
    try:
        if len(sys.argv) < 2:
            raise UserError("which recipe? accelerate launch ... -m hf_recipes.train RECIPE [--key=value ...]")
        train(Study(load_recipe(sys.argv[1], sys.argv[2:])))
    except KeyboardInterrupt:
        sys.exit(130)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
