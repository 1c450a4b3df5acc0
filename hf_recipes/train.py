"""Training: one encoder per run of the grid, under accelerate.

    accelerate launch --config_file hf_recipes/recipes/accelerate/cpu.yaml -m hf_recipes.train RECIPE [--key=value ...]

`hf-recipes train RECIPE` launches just that. Several processes share the grid, a run each at a time.
"""

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

from .annotate import load_annotations
from .arms import Labels, Pool, build_pool, training_labels
from .data import load_rows
from .grid import Run, all_runs, check_sizes, subset
from .models import Model, resolve_model
from .recipe import Recipe, UserError, load_recipe
from .study import Study, cpu_threads, hash_ids, make_key, read_json, versions, whole_folder, write_json

MEGABATCH = 32  # batches among which texts are sorted by length: little padding, and still a random order


class Work:
    """What all runs of a study share, read once.

    Args:
        study (`Study`):
            An annotated study.

    Attributes:
        pool (`Pool`), test (`Rows`), encoder (`Model`)
    """

    def __init__(self, study: Study):
        recipe = study.recipe
        rows, self.test = load_rows(study)
        self.pool: Pool = build_pool(rows, load_annotations(study, rows), recipe.annotate.calibration)
        self.notes = check_sizes(recipe, self.pool)
        self.encoder: Model = resolve_model("train.encoder", recipe.train.encoder, recipe.train.revision)
        self.accelerate = read_accelerate_config(recipe)
        self._study = study
        test_content = "\n".join(f"{i} {g}" for i, g in zip(self.test.ids, self.test.gold, strict=True))
        settings = recipe.train.model_dump(mode="json", exclude={"encoder", "revision", "accelerate_config"})
        self._common = {
            "encoder": self.encoder.identity,
            "train": settings,
            "test": hash_ids([test_content]),
            "label_names": self.test.label_names,
            "versions": versions("torch", "transformers", "accelerate"),
            "cpu": self.accelerate["use_cpu"],
            "threads": cpu_threads(),
            "mixed_precision": self.accelerate["mixed_precision"],
        }

    def rows(self, run: Run) -> np.ndarray:
        return subset(self.pool, run.size, run.subset_seed)

    def labels(self, run: Run) -> Labels:
        """The run's training labels, in the order of `rows(run)`."""
        share = self._study.recipe.grid.replace_share
        return training_labels(run.arm, self.pool, self.rows(run), share, run.subset_seed)

    def key(self, run: Run) -> str:
        """The run's key: of the very rows and labels it trains on, and of everything else that changes its outcome."""
        labels = self.labels(run).labels
        content = "\n".join(f"{self.pool.ids[i]} {label}" for i, label in zip(self.rows(run), labels, strict=True))
        seeds = {"init": run.init_seed, "order": run.order_seed}
        return make_key(content=hash_ids([content]), seeds=seeds, **self._common)

    def is_done(self, run: Run) -> bool:
        record = read_json(self._study.run(run.arm, run.size, run.seed) / "run.json")
        return record is not None and record["key"] == self.key(run)


def runs_left(study: Study) -> list[Run]:
    """The runs of the grid that are still to be trained.

    Raises:
        UserError: what is wrong with the input, before anything is launched.
    """
    work = Work(study)
    return [run for run in all_runs(study.recipe) if not work.is_done(run)]


def read_accelerate_config(recipe: Recipe) -> dict[str, Any]:
    """The accelerate configuration that the recipe names, with its `path`.

    Raises:
        UserError: there is no such file.
    """
    name = recipe.train.accelerate_config
    folder = Path(__file__).parent / "recipes" / "accelerate"
    path = folder / f"{name}.yaml" if (folder / f"{name}.yaml").exists() else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise UserError(f"train.accelerate_config: '{name}' is neither a file nor one of {known}")
    return {
        "use_cpu": False,
        "mixed_precision": "no",
        **yaml.safe_load(path.read_text(encoding="utf-8")),
        "path": str(path),
    }


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
    from tqdm import tqdm
    from transformers import AutoTokenizer

    work = Work(study)
    wanted = (work.accelerate["use_cpu"], work.accelerate["mixed_precision"])
    if wanted != (accelerator.device.type == "cpu", accelerator.mixed_precision):
        raise UserError(
            f"train.accelerate_config: accelerate runs on {accelerator.device} with mixed precision "
            f"{accelerator.mixed_precision}, unlike {work.accelerate['path']}; launch with that file, or name another"
        )
    tokenizer = AutoTokenizer.from_pretrained(work.encoder.folder)
    limit = study.recipe.train.max_length

    def tokenize(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, truncation=True, max_length=limit)["input_ids"] if texts else []

    runs = all_runs(study.recipe)
    todo = [run for run in runs if not work.is_done(run)]
    needed = np.unique(np.concatenate([work.rows(run) for run in todo] or [np.array([], np.int64)]))
    encoded = dict(zip(needed.tolist(), tokenize([work.pool.texts[i] for i in needed]), strict=True))
    test_encoded = tokenize([str(text) for text in work.test.texts])
    with accelerator.split_between_processes(todo) as mine:
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
            inputs = [encoded[i] for i in work.rows(run).tolist()]
            probs, losses = _fit(accelerator, tokenizer, work, study.recipe, run, inputs, labels.labels, test_encoded)
            seconds = time.monotonic() - start
            with whole_folder(study.run(run.arm, run.size, run.seed)) as folder:
                _write_run(folder, run, work, labels, probs, losses, seconds)
            bar.update(1)
        bar.close()


def _fit(
    accelerator: Any,
    tokenizer: Any,
    work: Work,
    recipe: Recipe,
    run: Run,
    inputs: list[list[int]],
    labels: np.ndarray,
    test_inputs: list[list[int]],
) -> tuple[np.ndarray, list[float]]:
    """Trains one classifier; returns its test probabilities of shape (n, K), and the mean loss of each epoch."""
    import torch
    from accelerate.utils import set_seed
    from transformers import AutoModelForSequenceClassification, get_linear_schedule_with_warmup

    settings = recipe.train
    set_seed(run.init_seed)  # before the model is made: its head is drawn from it
    model = AutoModelForSequenceClassification.from_pretrained(
        work.encoder.folder, num_labels=len(work.pool.label_names), use_safetensors=True
    ).to(accelerator.device)
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
            "gold_labels": int(labels.from_gold.sum()),
            "train_label_accuracy": float((labels.labels == work.pool.gold[work.rows(run)]).mean()),
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
    arguments = sys.argv[1:]
    try:
        train(Study(load_recipe(arguments[0], arguments[1:])))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
