"""What training costs: the grid beside the usual ways to fine-tune a classifier over several seeds.

    .venv/bin/python benchmarks/train.py grid [--size=400] [--seeds=4] [--repeats=3]
    .venv/bin/python benchmarks/train.py loop [--size=400] [--repeats=5]
    .venv/bin/python benchmarks/train.py levers [--size=400] [--seeds=10]

`grid` sets `hf-recipes train` on gold labels of the sample's tweets (annotation is made up, and left out) beside
transformers' Trainer as its text-classification example uses it: a process for every run, texts padded to the longest
possible or to the longest of their batch. Same encoder, texts, batch size, epochs and precision; predicting the test
texts is included, and so is the start of every process. A repeat takes other seeds, and one run of each Trainer way,
whose time stands for the others.

`loop` sets the library's `fine_tune` beside a bare loop, tuned by hand, over the very same batches, in one process:
what the library costs.

`levers` trains with and without what makes the loop fast, and shows accuracy, its standard deviation and the
disagreement of two seeds beside the time: a lever that changed what is measured would be no lever.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import typer
from annotate import ROOT, SMALL_RECIPE
from push import RandomEngine
from ratio import show

ENCODER = "models/all-MiniLM-L6-v2"
SAMPLE = "hf_recipes/sample/vader_tweets/data"
BATCH, EPOCHS, RATE, TEST = 16, 2, 2e-4, 500
LENGTH = 128  # as in the example of transformers
SETTINGS = [
    *(f"--train.batch_size={BATCH}", f"--train.epochs={EPOCHS}", f"--train.max_length={LENGTH}"),
    *(
        f"--train.learning_rate={RATE}",
        f"--data.test_size={TEST}",
        "--grid.variants=[gold, llm]",
        "--grid.replace_share=0.25",
    ),
]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

#: As in transformers' examples/pytorch/text-classification/run_classification.py, less what loads files and logs.
TRAINER = """
import json, sys
import numpy as np
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer
from transformers import TrainingArguments, default_data_collator, set_seed

size, seed, padding, settings = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
files = {split: f"{settings['sample']}/{split}-*.parquet" for split in ("train", "test")}
data = load_dataset("parquet", data_files=files)
data["train"] = data["train"].shuffle(seed).select(range(size))
data["test"] = data["test"].select(range(settings["test"]))
tokenizer = AutoTokenizer.from_pretrained(settings["encoder"])
pad = {"padding": "max_length"} if padding == "max_length" else {}
data = data.map(
    lambda rows: tokenizer(rows["text"], truncation=True, max_length=settings["length"], **pad), batched=True
)
set_seed(seed)
model = AutoModelForSequenceClassification.from_pretrained(settings["encoder"], num_labels=3, dtype="float32")
trainer = Trainer(
    model=model,
    args=TrainingArguments(
        output_dir=settings["folder"], seed=seed, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True,
        per_device_train_batch_size=settings["batch"], per_device_eval_batch_size=64,
        num_train_epochs=settings["epochs"], learning_rate=settings["rate"], logging_strategy="no",
    ),
    train_dataset=data["train"],
    processing_class=tokenizer,
    data_collator=default_data_collator if pad else DataCollatorWithPadding(tokenizer),
)
trainer.model_accepts_loss_kwargs = False
trainer.train()
found = trainer.predict(data["test"])
print(json.dumps((found.predictions.argmax(1) == found.label_ids).mean()))
"""


def quiet() -> dict[str, str]:
    """The environment of the children: no network, no noise."""
    more = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    return {**os.environ, **more, "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}


def timed(command: list[str]) -> tuple[float, str]:
    """Seconds and output of a command."""
    start = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=quiet())
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.perf_counter() - start, done.stdout


def annotated(folder: str, size: int, seeds: list[int]) -> list[str]:
    """A study whose labels are drawn at random; returns the settings that open it."""
    from hf_recipes.annotation.annotate import annotate
    from hf_recipes.annotation.engines import vllm_engine
    from hf_recipes.recipe import load_recipe
    from hf_recipes.study import Study

    vllm_engine.Engine = RandomEngine  # type: ignore[misc, assignment]
    settings = [*SETTINGS, f"--output_dir={folder}/study", f"--grid.sizes=[{size}]", f"--grid.seeds={seeds}"]
    settings += [f"--data.pool_size={2 * size + 50}"]
    annotate(Study(load_recipe(SMALL_RECIPE, settings)))
    return settings


@app.command(name="grid")
def measure_grid(size: int = 400, seeds: int = 4, repeats: int = 3) -> None:
    """The grid and the usual ways, a process of their own each; 10 minutes."""
    seconds: dict[str, list[float]] = {"max_length": [], "longest": [], "hf-recipes": []}
    accuracy: dict[str, list[float]] = {way: [] for way in seconds}
    for repeat in range(repeats):
        numbers = list(range(repeat * seeds, (repeat + 1) * seeds))
        ways = list(seconds)
        random.Random(repeat).shuffle(ways)  # noqa: S311
        with tempfile.TemporaryDirectory() as folder:
            given = {"sample": SAMPLE, "encoder": ENCODER, "length": LENGTH, "batch": BATCH, "epochs": EPOCHS}
            given |= {"rate": RATE, "test": TEST, "folder": folder}
            opened = annotated(folder, size, numbers)
            for way in ways:
                if way == "hf-recipes":
                    took, _ = timed([sys.executable, "-m", "hf_recipes.cli", "train", SMALL_RECIPE, *opened])
                    seconds[way].append(took / (2 * seeds))
                    accuracy[way] += scores(folder)
                else:
                    command = [sys.executable, "-c", TRAINER, str(size), str(numbers[0]), way, json.dumps(given)]
                    took, said = timed(command)
                    seconds[way].append(took)
                    accuracy[way].append(json.loads(said.splitlines()[-1]))
    names = {
        "max_length": "Trainer, padded to the maximum",
        "longest": "Trainer, padded to the batch's longest",
        "hf-recipes": "hf-recipes train",
    }
    print(f"{size} texts, {EPOCHS} epochs, batches of {BATCH}, {TEST} test texts; the grid has {2 * seeds} runs.\n")
    print("| way | s a run | accuracy on gold labels (runs) | hf-recipes / way |")
    print("|---|---|---|---|")
    for way, name in names.items():
        ratios = np.array(seconds["hf-recipes"]) / np.array(seconds[way])
        found = accuracy[way]
        print(
            f"| {name} | {np.median(seconds[way]):.1f} | {np.mean(found):.3f} ({len(found)}) | "
            f"{np.median(ratios):.2f} ({ratios.min():.2f}-{ratios.max():.2f}) |"
        )
    for way in ("max_length", "longest"):
        show("time, a run of the grid", names[way], np.median(np.array(seconds["hf-recipes"]) / seconds[way]))


def scores(folder: str) -> list[float]:
    """The accuracy of each run on gold labels."""
    import pyarrow.parquet as pq

    found = []
    for file in Path(folder).glob("study/runs/gold/*/*/predictions.parquet"):
        table = pq.read_table(file)
        found.append(float((np.array(table["probs"].to_pylist()).argmax(1) == table["gold"].to_numpy()).mean()))
    return found


class Sample:
    """The sample's texts as token ids, some to train on and the test texts."""

    def __init__(self, folder: str):
        import pyarrow.parquet as pq
        from transformers import AutoTokenizer

        from hf_recipes.training.fine_tuning import Tokens

        self.tokenizer = AutoTokenizer.from_pretrained(ENCODER)
        self.tokens, self.labels = {}, {}
        for split in ("train", "test"):
            table = pq.read_table(next(Path(SAMPLE).glob(f"{split}-*.parquet")))
            table = table.slice(0, TEST) if split == "test" else table
            self.labels[split] = table["label"].to_numpy()
            self.tokens[split] = Tokens(table["text"].to_pylist(), self.tokenizer, LENGTH, Path(folder, split))

    def pad(self, split: str, rows: np.ndarray) -> Any:
        ids = {"input_ids": [self.tokens[split][row] for row in rows]}
        return self.tokenizer.pad(ids, return_tensors="pt")

    def model(self, seed: int) -> Any:
        import torch
        from accelerate.utils import set_seed
        from transformers import AutoModelForSequenceClassification

        set_seed(seed)
        return AutoModelForSequenceClassification.from_pretrained(ENCODER, num_labels=3, dtype=torch.float32)


def bare(
    sample: Sample, rows: np.ndarray, seed: int, bucket: bool = True, fused: bool = True, bf16: bool = False
) -> Any:
    """A loop as one would tune it by hand; returns seconds and test probabilities."""
    import torch
    from transformers import get_linear_schedule_with_warmup

    from hf_recipes.training.fine_tuning import bucketed_batches

    start = time.perf_counter()
    model = sample.model(seed)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01, fused=fused)
    steps = EPOCHS * -(-len(rows) // BATCH)
    schedule = get_linear_schedule_with_warmup(optimizer, round(0.05 * steps), steps)
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    labels = torch.tensor(sample.labels["train"])[rows]
    lengths = sample.tokens["train"].lengths[rows]
    model.train()
    cast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
    for _ in range(EPOCHS):
        order = rng.permutation(len(rows))
        plain = (order[i : i + BATCH] for i in range(0, len(rows), BATCH))
        for batch in bucketed_batches(lengths, BATCH, rng) if bucket else plain:
            with cast:
                logits = model(**sample.pad("train", rows[batch])).logits
            torch.nn.functional.cross_entropy(logits.float(), labels[batch]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval()
    order = np.argsort(sample.tokens["test"].lengths) if bucket else np.arange(TEST)
    probs = np.empty((TEST, 3))
    with torch.inference_mode(), cast:
        for i in range(0, TEST, 64):
            some = order[i : i + 64]
            probs[some] = model(**sample.pad("test", some)).logits.double().softmax(-1).numpy()
    return time.perf_counter() - start, probs


@app.command(name="loop")
def measure_loop(size: int = 400, repeats: int = 5) -> None:
    """The library's `fine_tune` beside a bare loop on the same batches; 3 minutes."""
    from accelerate import Accelerator

    from hf_recipes.recipe import Train
    from hf_recipes.training.fine_tuning import LabelledTexts, fine_tune, predict

    settings = Train(encoder=ENCODER, batch_size=BATCH, epochs=EPOCHS, learning_rate=RATE, max_length=LENGTH)
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        sample = Sample(folder)
        accelerator = Accelerator(cpu=True)
        for repeat in range(repeats + 1):
            rows = np.random.default_rng(repeat).permutation(len(sample.labels["train"]))[:size]
            targets = np.eye(3)[sample.labels["train"][rows]]

            def ours(rows: np.ndarray = rows, targets: np.ndarray = targets, seed: int = repeat) -> float:
                start = time.perf_counter()
                texts, model = LabelledTexts(sample.tokens["train"], rows, targets), sample.model(seed)
                fine_tune(accelerator, model, sample.tokenizer, settings, seed, texts, None, BATCH)
                predict(accelerator, model, sample.tokenizer, sample.tokens["test"], np.arange(TEST), 64)
                return time.perf_counter() - start

            if repeat % 2:
                mine, theirs = ours(), bare(sample, rows, repeat)
            else:
                theirs, mine = bare(sample, rows, repeat), ours()
            if repeat:  # the first one warms up
                ratios.append(theirs[0] / mine)
    print(f"speed of the library's fine_tune over that of a bare loop: {np.median(ratios):.2f} ", end="")
    print(f"({min(ratios):.2f}-{max(ratios):.2f}, {repeats} repeats)")
    show("time, the library's fine_tune", "a bare loop, tuned by hand", 1 / np.median(ratios))


@app.command(name="levers")
def measure_levers(size: int = 400, seeds: int = 10) -> None:
    """The loop with and without each lever; 10 minutes."""
    import evaluate

    ways = {
        "random batches, AdamW as it comes": {"bucket": False, "fused": False},
        "+ batches of like lengths": {"fused": False},
        "+ fused AdamW": {},
        "+ bfloat16": {"bf16": True},
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    labels: dict[str, list[Any]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        sample = Sample(folder)
        for seed in range(-1, seeds):
            rows = np.random.default_rng(seed + 1).permutation(len(sample.labels["train"]))[:size]
            for way in random.Random(seed).sample(list(ways), len(ways)):  # noqa: S311
                took, probs = bare(sample, rows, seed + 1, **ways[way])
                if seed >= 0:  # the first one warms up
                    seconds[way].append(took)
                    labels[way].append(probs.argmax(1))
        gold = sample.labels["test"]
    first = np.array(seconds[next(iter(ways))])
    stable, scored = evaluate.load("metrics/seed_instability"), evaluate.load("metrics/seed_scores")
    print(f"{size} texts, {EPOCHS} epochs, batches of {BATCH}, {TEST} test texts, R = {seeds} seeds; 95% intervals.\n")
    print("| loop | time / that of the first | accuracy | SD of accuracy | two seeds disagree |")
    print("|---|---|---|---|---|")

    def shown(found: Any, name: str) -> str:
        low, high = found[f"{name}_interval"]
        return f"{found[name]:.3f} [{low:.3f}, {high:.3f}]"

    for way, runs in labels.items():
        given = {"predictions": runs, "references": gold, "num_classes": 3}
        score, agree = scored.compute(**given), stable.compute(**given)
        ratios = np.array(seconds[way]) / first
        print(
            f"| {way} | {np.median(ratios):.2f} ({ratios.min():.2f}-{ratios.max():.2f}) | "
            f"{shown(score, 'accuracy_mean')} | {shown(score, 'accuracy_sd')} | "
            f"{shown(agree, 'pairwise_disagreement')} |"
        )
    for way in list(ways)[1:]:
        show(f"time, the loop {way}", next(iter(ways)), np.median(np.array(seconds[way]) / first))


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    app()
