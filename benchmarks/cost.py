"""The cost model beside what was measured, what the steps hold in memory, and both carried on to 100 million rows.

    .venv/bin/python benchmarks/cost.py check
    .venv/bin/python benchmarks/cost.py memory [--rows=100000]
    .venv/bin/python benchmarks/cost.py paper

`check` annotates and trains tweets-small.yaml at three sizes with real models. Before each, `plan` says what it will
take: by the table of devices, and by the rates of a small study that was made first. What is printed is
predicted / measured. Other work on the machine is in both or in one of them: let there be none.

`memory` makes studies of texts made of the sample's, with answers at random in place of a language model, and takes
each step's peak in a process of its own; bytes a row are the slope between a quarter of the rows and all of them.

`paper` prints what the formulas say for 100 million rows and 8 GPUs. Nothing of it has been run.
"""

import json
import os
import resource
import tempfile
from pathlib import Path
from typing import Any

import typer
from annotate import ROOT, SMALL_RECIPE, in_fresh_process
from push import RandomEngine, make_source
from ratio import show

SIZES = [50, 100, 200]  # texts to learn from; twice as many are annotated
SMALL = 30
TEST = 100
TRAIN = ["--grid.variants=[gold, llm]", "--grid.seeds=[0, 1]", "--train.epochs=2", "--train.max_length=128"]
APART = ["--annotate.prompt.shots_per_class=1", "--grid.variants=[gold, llm, llm-entropy-replace, llm-random-replace]"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


def open_study(folder: str, *overrides: str) -> Any:
    from hf_recipes.recipe import load_recipe
    from hf_recipes.study import Study

    return Study(load_recipe(SMALL_RECIPE, [f"--output_dir={folder}", *overrides]), accept_changes=True)


# ----------------------------------------------------------------------------------------------------------- check


def of_size(folder: str, size: int) -> Any:
    pool = 2 * size + 20
    return open_study(folder, *TRAIN, f"--grid.sizes=[{size}]", f"--data.pool_size={pool}", f"--data.test_size={TEST}")


def predict(folder: str, size: int, small: str | None) -> dict[str, dict[str, float]]:
    from hf_recipes.plan import make_plan

    steps, _ = make_plan(of_size(folder, size), of_size(small, SMALL) if small else None)
    return {step.name: {what: getattr(step, what) for what in ("device_seconds", "bytes", "tokens")} for step in steps}


def make(folder: str, size: int) -> None:
    from hf_recipes.annotation.annotate import annotate
    from hf_recipes.hub.dataset_folder import DatasetFolder
    from hf_recipes.labels.pool import read_labels
    from hf_recipes.training.train import train

    study = of_size(folder, size)
    annotate(study)
    DatasetFolder(study, read_labels(study)).write()
    train(study)


def measured(folder: str) -> dict[str, dict[str, float]]:
    root = Path(folder)
    sessions = [json.loads(file.read_text())["all_sessions"] for file in root.glob("annotations/*/manifest.json")]
    records = [json.loads(file.read_text()) for file in root.glob("runs/*/*/*/run.json")]

    def size(pattern: str) -> int:
        return sum(file.stat().st_size for file in root.glob(pattern))

    return {
        "annotate": {
            "device_seconds": sum(one["seconds"] - one["start_seconds"] for one in sessions),
            "bytes": size("annotations/*/part-*.parquet"),
        },
        "variants": {"bytes": size("dataset/data/*/train-*.parquet")},
        "train": {
            "device_seconds": sum(one["seconds"] for one in records),
            "bytes": size("runs/*/*/*/*.parquet"),
        },
    }


@app.command()
def check() -> None:
    """Predicted / measured at three sizes; some 4 minutes on two idle cores."""
    print("| texts | what | measured | device table / measured | by a small study's rates / measured |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        small = f"{folder}/small"
        in_fresh_process(make, small, SMALL)
        for size in SIZES:
            where = f"{folder}/{size}"
            table, rates = (in_fresh_process(predict, where, size, given) for given in (None, small))
            in_fresh_process(make, where, size)
            measured_last = measured(where)
            for step, values in measured_last.items():
                for what, truth in values.items():
                    shown = f"{truth:.1f} s" if "seconds" in what else f"{truth / 1000:,.0f} KB"
                    ratios = " | ".join(f"{found[step][what] / truth:.2f}" for found in (table, rates))
                    print(f"| {size} | {step}: {what.replace('device_', '')} | {shown} | {ratios} |", flush=True)
    for step, values in measured_last.items():
        for what, truth in values.items():
            show(f"{what.replace('device_', '')} that plan says of {step}", "measured", rates[step][what] / truth)


# ---------------------------------------------------------------------------------------------------------- memory


def step(name: str, folder: str) -> float:
    """Bytes at the peak beyond those of the imports."""
    import datasets
    import torch  # noqa: F401

    from hf_recipes.annotation.annotate import annotate
    from hf_recipes.annotation.engines import vllm_engine
    from hf_recipes.data import keep_rows, open_rows
    from hf_recipes.hub.dataset_folder import DatasetFolder
    from hf_recipes.labels.pool import read_labels
    from hf_recipes.training.runs import Runs

    datasets.disable_progress_bars()
    vllm_engine.Engine = RandomEngine
    names = "--data.label_names=[negative, neutral, positive]"
    own = [f"--data.path={folder}/source", names, "--data.pool_size=null", "--data.test_size=null"]
    study = open_study(f"{folder}/study", *own, *APART, "--grid.sizes=[1000]")
    before = peak()
    if name == "rows":
        keep_rows(study, open_rows(study))
    elif name == "annotate":
        annotate(study)
    elif name == "variants":
        DatasetFolder(study, read_labels(study)).write()
    else:
        runs = Runs(study, read_labels(study))
        runs.labels(runs.all[0])
    return peak() - before


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


@app.command()
def memory(rows: int = 100_000) -> None:
    """Bytes a row of each step; some 5 minutes on an idle machine."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (rows // 4, rows):
            where = f"{folder}/{count}"
            Path(where).mkdir()
            in_fresh_process(make_source, f"{where}/source", count)
            for name in ("rows", "annotate", "variants", "train"):
                found.setdefault(name, []).append(in_fresh_process(step, name, where))
        print(f"| step | {rows:,} rows: GB beyond the imports | bytes for each further row |\n|---|---|---|")
        for name, (few, many) in found.items():
            print(f"| {name} | {many / 1e9:.2f} | {(many - few) / (rows - rows // 4):,.0f} |")
        for what in ("rows/train.parquet", "annotations/*/part-*.parquet", "dataset/data/llm/*.parquet"):
            size = sum(file.stat().st_size for file in Path(where, "study").glob(what))
            print(f"{what}: {size / rows:.0f} bytes a row")


# ----------------------------------------------------------------------------------------------------------- paper


@app.command()
def paper(rows: int = 100_000_000, gpus: int = 8, own: float = 100, shared: int = 200) -> None:
    """100 million texts of 100 tokens, a 3B LLM, ten seeds of five variants of roberta-base."""
    from hf_recipes import cost
    from hf_recipes.recipe import Train

    llm = cost.PassWork(cost.Shape(2_775_000_000, 36, 2048, 311_000_000), shared, own, 0)  # Qwen2.5-3B
    shape, settings = cost.Shape(85_600_000, 12, 768, 38_600_000), Train(encoder="FacebookAI/roberta-base")
    print(f"{rows:,} rows, {gpus} GPUs: {llm.tokens(rows):.2e} tokens, {llm.flops(rows):.2e} FLOPs\n")
    print("| GPU | annotation, GPU hours | hours on all | texts/s | 50 runs of 100,000 texts, hours on all | of 10 M |")
    print("|---|---|---|---|---|---|")
    for name, device in cost.DEVICES.items():
        encoder = cost.RunWork(shape, own, settings, "bf16" if device.has_bfloat16 else "no")
        hours = llm.seconds(rows, device) / 3600
        runs = [50 * encoder.seconds(size, 10_000, device) / 3600 / gpus for size in (100_000, 10_000_000)]
        wanted = rows / (hours / gpus * 3600)
        shown = f"{hours:,.0f} | {hours / gpus:,.1f} | {wanted:,.0f} | {runs[0]:,.1f} | {runs[1]:,.0f}"
        print(f"| {name} | {shown} |")
    sizes = {
        "annotations": rows * cost.row_bytes(cost.ANNOTATION_BYTES, 3),
        "dataset, five variants": 5 * rows * cost.row_bytes(cost.CONFIG_BYTES, 3, 4.5 * own),
        "predictions, 50 runs of 10,000 test texts": 50 * 10_000 * cost.row_bytes(cost.PREDICTION_BYTES, 3),
    }
    print("\n" + "\n".join(f"{what}: {size / 1e9:,.2f} GB" for what, size in sizes.items()))
    print(f"parts of annotations: {-(-rows // 16_384):,}")


if __name__ == "__main__":
    os.chdir(ROOT)
    app()
