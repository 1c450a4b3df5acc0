"""Show what would run, what is done, and what the remaining work costs. A plan writes nothing and asks no server."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from .analysis.measure import is_measured
from .annotation.passes import PromptPass, count_rows_left, count_rows_left_of, plan_passes, read_servers
from .cost import (
    ANNOTATION_BYTES,
    CONFIG_BYTES,
    PREDICTION_BYTES,
    TRAINING_SHARE,
    Device,
    RunWork,
    count_pass,
    find_device,
    fit_line,
    read_shape,
    row_bytes,
)
from .data import RowFiles, count_usable, open_rows
from .errors import UserError
from .hub.dataset_folder import DatasetFolder
from .labels.pool import StudyLabels, read_labels
from .models import load_tokenizer
from .report.render import make_console
from .study import Run, Study, read_json
from .training.devices import check_precision, find_accelerator, list_gpus, read_accelerate_config
from .training.grid import check_sizes, describe_few_steps, list_runs
from .training.runs import (
    FAST,
    Runs,
    check_encoder,
    check_training,
    other_runs,
)
from .variants import CONFIDENT

logger = logging.getLogger(__name__)

MAX_SAMPLE = 500  # texts whose tokens are counted
START_SECONDS = {"annotate": 30, "train": 20, "report": 20}
FAST_SECONDS = 0.1  # of a head or a TF-IDF model, its files included
#: The columns of the plan, and their widths: a line is printed before the next one is known.
COLUMNS = {"step": 15, "done": 9, "left": 17, "tokens": 12, "about": 14, "device hours": 12, "on disk": 11}


@dataclass
class Step:
    """A step of the study, and what is left of it.

    Attributes:
        name (`str`): the command.
        done (`int`), total (`int`), unit (`str`): the progress.
        tokens (`float`): what the models compute.
        seconds (`float`), device_seconds (`float`): on the clock, and of all devices together.
        bytes (`float`): on the disk.
        is_measured (`bool`): whether the time rests on rates that a study measured.
    """

    name: str
    done: int
    total: int
    unit: str
    tokens: float = 0
    seconds: float = 0
    device_seconds: float = 0
    bytes: float = 0
    is_measured: bool = True


def make_plan(study: Study, rates_of: Study | None = None, device: str | None = None) -> tuple[list[Step], list[str]]:
    """Return the steps, and notes on the recipe in words; see `predict_steps`."""
    lines = list(predict_steps(study, rates_of, device))
    return [line for line in lines if isinstance(line, Step)], [line for line in lines if isinstance(line, str)]


def predict_steps(study: Study, rates_of: Study | None = None, device: str | None = None) -> Iterator[Step | str]:
    """Yield the steps, each as soon as it is known, and notes on the recipe in words.

    Args:
        study (`Study`):
            The study; its folder need not exist.
        rates_of (`Study`, *optional*):
            The study whose measured rates are used, by default the study itself. Machine and models must be the same.
        device (`str`, *optional*):
            A name in `cost.DEVICES`: predict for this device, without measured rates.

    Raises:
        UserError: the recipe or its data has an error, or the device is not in the table.
    """
    recipe, files = study.recipe, open_rows(study)
    hardware, rates = find_device(device), None if device else rates_of or study
    num_usable = count_usable(recipe, files)
    if recipe.grid:
        check_training(study, weights=False, is_elsewhere=device is not None)
        config = read_accelerate_config(study.training)
        if device and config["use_cpu"]:
            yield (
                f"The times are those of {device}, but `train.accelerate_config` trains on the CPU. Got "
                f"{config['path']}. Try one-gpu."
            )
        elif device:
            check_precision(config, hardware.has_bfloat16, device)
        yield from check_sizes(recipe.grid, num_usable)
    if models := {section.model for section in recipe.annotate.all_passes() if section.engine == "server"}:
        unknown = ", ".join(sorted(models - read_servers(study).keys()))
        yield (
            f"No server was asked: all texts count as left for {unknown}, as no server has labelled texts here."
            if unknown
            else "No server was asked: the plan assumes that the servers still run the models of the last annotate."
        )

    num_test, sections = files.manifest["rows"]["test"], recipe.annotate.all_passes()
    logger.info("%s texts and %s test texts. Counting what is left to label ...", f"{len(files):,}", f"{num_test:,}")

    # A sample from the whole pool, for the tokens and bytes of all texts. A study may be without texts.
    places = np.unique(np.linspace(0, len(files) - 1, min(MAX_SAMPLE, len(files))).astype(int))
    sample = [] if files.withheld else [text for text in files.texts(places) if text]
    classes, text_bytes = len(files.label_names), float(np.mean([len(text.encode()) for text in sample] or [0]))

    left = count_rows_left(study, files, contact=False)
    total = sum(len(files) + min(section.repeat_check, len(files)) for section in sections) + num_test
    annotate = Step("annotate", total - left, total, "texts", bytes=left * row_bytes(ANNOTATION_BYTES, classes))
    if left:
        yield from _predict_annotation(annotate, study, files, sample, hardware, rates)
    yield annotate
    is_labelled = not left or not count_rows_left(study, files, with_test=False, contact=False)
    labels = read_labels(study, files) if is_labelled else None
    num_configs = len(set(recipe.grid.variants) - set(CONFIDENT)) if recipe.grid else 1
    is_written = labels is not None and DatasetFolder(study, labels).is_written()
    variants = Step("variants", num_configs * is_written, num_configs, "configs")
    config_bytes = len(files) * row_bytes(CONFIG_BYTES, classes, text_bytes) + files.source_bytes
    variants.bytes = (num_configs - variants.done) * config_bytes
    yield variants
    if not recipe.grid:
        return
    yield from _plan_training(study, labels, (num_usable, num_test, classes), sample, hardware, rates)


def _plan_training(
    study: Study,
    labels: StudyLabels | None,
    counts: tuple[int, int, int],
    sample: list[str],
    hardware: Device,
    rates: Study | None,
) -> Iterator[Step | str]:
    """Yield the steps after labelling, and notes. `counts` are the usable rows, the test texts and the classes."""
    num_usable, num_test, num_classes = counts
    settings = study.training
    fast = fast_left = list(chain.from_iterable(list_runs(study.grid, settings, method) for method in FAST))
    is_fine_tuned = settings.method == "finetune"
    runs = runs_to_train = list_runs(study.grid, settings, "finetune") if is_fine_tuned else []
    is_reported = False
    if labels is not None:
        study_runs = Runs(study, labels)
        fast_left, runs_to_train = study_runs.left_in_seconds(), study_runs.left() if is_fine_tuned else []
        for run, error in study_runs.failures().items():
            yield f"Failed: {run}: {error}. Retry with hf-recipes train --retry-failed."
        has_report = not fast_left and not runs_to_train and (study.report / "report.html").exists()
        is_reported = has_report and is_measured(study, labels, study_runs)
    # A run classifies the test texts and, on average over seeds, this share of the sample of the pool.
    num_sampled = 0 if study.recipe.few_gold else min(study.training.out_of_bag, num_usable)
    out_of_bag = {size: num_sampled * (1 - size / num_usable) for size in study.grid.sizes}
    encode = Step("heads, TF-IDF", len(fast) - len(fast_left), len(fast), "runs", is_measured=False)
    encode.bytes = sum(num_test + out_of_bag[run.size] for run in fast_left) * row_bytes(PREDICTION_BYTES, num_classes)
    if fast_left:
        work = _count_training(study, sample)
        encode.tokens = work.own * (num_usable + num_test)
        encode.device_seconds = work.shape.flops(encode.tokens, work.own) / (TRAINING_SHARE * hardware.float32)
        encode.seconds = encode.device_seconds + FAST_SECONDS * len(fast_left) + START_SECONDS["train"]
    yield encode
    train = Step("train", len(runs) - len(runs_to_train), len(runs), "runs")
    num_classified = sum(num_test + out_of_bag[run.size] for run in runs_to_train)
    train.bytes = num_classified * row_bytes(PREDICTION_BYTES, num_classes)
    if runs_to_train:
        if warning := describe_few_steps(study.grid, study.training):
            yield warning
        yield from _predict_training(train, study, runs_to_train, num_test, out_of_bag, sample, hardware, rates)
    if is_fine_tuned:
        yield train
    report = Step("measure, report", int(is_reported), 1, "reports", is_measured=False)
    report.seconds = 0 if is_reported else START_SECONDS["report"]
    yield report


def _predict_annotation(
    step: Step, study: Study, files: RowFiles, sample: list[str], device: Device, rates: Study | None
) -> list[str]:
    """Predict what the remaining texts cost. Return warnings on the rates."""
    passes = [plan for plan in plan_passes(study, files, contact=False) if isinstance(plan, PromptPass)]
    if not passes:
        return []  # labels made elsewhere cost nothing
    if not device.has_bfloat16 and any(plan.section.dtype == "bfloat16" for plan in passes):
        raise UserError(
            "`annotate.dtype` must be auto, float16 or float32 on a GPU without bfloat16. Got bfloat16. Try auto."
        )
    work = [count_pass(plan.model, plan.section, [ids for ids, _ in plan.prompts.encode(sample)]) for plan in passes]

    manifests = [read_json(file) for file in rates.annotations_root.glob("*/manifest.json")] if rates else []
    load = 0.0
    for plan, pass_work in zip(passes, work, strict=True):
        left = count_rows_left_of(study, files, plan)
        # The rate in FLOP/s of all earlier sessions with this model, device and precision. Of a server that was not
        # asked, the engine has no version.
        flops = seconds = 0.0
        for manifest in manifests if left else ():
            sessions = manifest.get("all_sessions", manifest["last_session"])
            is_alike = plan.ingredients["engine"].items() <= manifest["ingredients"]["engine"].items()
            if is_alike and manifest["model"] == plan.section.model and sessions["texts"]:
                flops += pass_work.flops(sessions["texts"])
                seconds += sessions["seconds"] - sessions.get("start_seconds", 0)
                load = max(load, manifest.get("load_average", 0.0))
        step.tokens += pass_work.tokens(left)
        step.device_seconds += pass_work.flops(left) * seconds / flops if seconds else pass_work.seconds(left, device)
        step.is_measured &= not left or seconds > 0
    step.seconds = step.device_seconds + START_SECONDS["annotate"]
    return _check_load("texts were labelled", load)


def _count_training(study: Study, sample: list[str]) -> RunWork:
    """Count the encoder's tokens by a sample of the texts."""
    encoder = check_encoder(study, weights=False)
    tokenizer = load_tokenizer("train.encoder", encoder)
    ids = tokenizer(sample, truncation=True, max_length=study.training.max_length)["input_ids"] if sample else [[]]
    own, config = float(np.mean([len(tokens) for tokens in ids])), read_accelerate_config(study.training)
    return RunWork(read_shape(encoder), own, study.training, config["mixed_precision"])


def _predict_training(
    step: Step,
    study: Study,
    runs: list[Run],
    num_test: int,
    out_of_bag: dict[int, float],
    sample: list[str],
    device: Device,
    rates: Study | None,
) -> list[str]:
    """Predict what the remaining runs cost. Return warnings on the rates."""
    work, encoder = _count_training(study, sample), check_encoder(study, weights=False)

    def num_forward(name: str, size: int, num_out_of_bag: float) -> float:
        """Return the texts that pass the encoder forward only. Confident learning adds the training set."""
        return num_test + num_out_of_bag + (size if name in CONFIDENT else 0)

    records = [read_json(file) for file in rates.run_records()] if rates else []
    config = read_accelerate_config(study.training)
    accelerator = None if config["use_cpu"] else find_accelerator(list_gpus(config)[0])
    alike = {"encoder": encoder.identity, "mixed_precision": config["mixed_precision"], "accelerator": accelerator}
    points, loads = [], []
    for record in records:
        if all(record["environment"].get(name) == value for name, value in alike.items()):
            # Runs of earlier versions classified no out-of-bag texts.
            forward = num_forward(record["variant"], record["size"], record.get("out_of_bag_texts", 0))
            num_sharing = record["train"].get("runs_per_device", 1)  # earlier versions did not have it
            points.append((work.flops(record["size"], forward), record["seconds"] / num_sharing))
            loads.append(record.get("load_average", 0.0))
    least, slope = fit_line(points) if points else (0.0, 0.0)
    for run in runs:
        shape = run.size, num_forward(run.variant, run.size, out_of_bag[run.size])
        step.tokens += work.tokens(*shape)
        step.device_seconds += least + work.flops(*shape) * slope if points else work.seconds(*shape, device)
    step.seconds = step.device_seconds / config["num_devices"] + START_SECONDS["train"]  # they share the grid
    step.is_measured = bool(points)
    return _check_load("runs were trained", float(np.mean(loads or [0.0])))


def print_plan(study: Study, device: str | None = None) -> None:
    """Print the plan, each step as soon as it is known; see `predict_steps`."""
    recipe, console = study.recipe, make_console()
    is_predicted = False
    notes: list[str] = []
    for line in predict_steps(study, device=device):
        if isinstance(line, str):
            notes.append(line)
            continue
        if line.name == "annotate":  # An error in the recipe comes before the head of the table.
            console.print(f"{recipe.name} in {study.root}", soft_wrap=True)
            console.print(_align(list(COLUMNS)), soft_wrap=True)
        console.print(_align(_show_step(line)), soft_wrap=True)
        is_predicted |= line.seconds > 0 and not line.is_measured
    console.print()
    if recipe.grid and recipe.train:
        grid, below = recipe.grid, ""
        if grid.curves is not None and len(grid.sizes) > 1:
            below = f", below {grid.sizes[-1]:,} texts {', '.join(grid.curves)} alone"
        console.print(
            f"{len(grid.variants)} variants ({', '.join(grid.variants)}) x sizes {grid.sizes} x seeds {grid.seeds}"
            f"{below}; {recipe.annotate.model} labels, {recipe.train.encoder} is trained."
        )
    for note in notes:
        console.print(note)
    warning = other_runs(study) if recipe.grid else None
    if warning:
        console.print(warning)
    if is_predicted:
        where = f"{device}'s data sheet" if device else "the models' sizes and a table of devices"
        console.print(f"Times with ? are not measured: they follow from {where}.")
    if not device and (load := _describe_load()):
        console.print(load)


def _show_step(step: Step) -> list[str]:
    num_left = step.total - step.done
    return [
        step.name,
        f"{step.done:,}",
        f"{num_left:,} {step.unit.removesuffix('s') if num_left == 1 else step.unit}",
        f"{step.tokens / 1e6:,.2f} M" if step.tokens else "-",
        _format_time(step.seconds) + ("" if step.is_measured or not step.seconds else " ?"),
        f"{step.device_seconds / 3600:,.2f}" if step.device_seconds else "-",
        _format_size(step.bytes),
    ]


def _align(cells: list[str]) -> str:
    """Return a line of the plan: the step on the left, numbers on the right."""
    first, *others = [
        cell.rjust(width) if place else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(cells, COLUMNS.values(), strict=True))
    ]
    return "  ".join([first, *others]).rstrip()


def _describe_load() -> str | None:
    """Return a warning if other work leaves this machine less than the core that the plan itself uses."""
    load, num_cores = os.getloadavg()[0], os.cpu_count() or 1
    if load <= max(1, num_cores - 1):
        return None
    return (
        f"The load average is {load:.1f} on {num_cores} cores: other work slows this machine. Estimates from rates "
        "that are measured here now are too high. Stop the other work first."
    )


def _check_load(work: str, load: float) -> list[str]:
    """Return a warning if other work loaded the machine while the rates of a step were measured."""
    num_cores = os.cpu_count() or 1
    if load <= num_cores + 1:  # a step takes all cores
        return []
    return [
        f"Other work loaded the machine while {work} (load average {load:.1f} on {num_cores} cores). Estimates from "
        "their times are too high for an idle machine."
    ]


def _format_time(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:,.1f} hours"
    return f"{seconds / 60:.1f} min" if seconds else "-"


def _format_size(count: float) -> str:
    if count >= 1e9:
        return f"{count / 1e9:,.2f} GB"
    return f"{count / 1e6:,.2f} MB" if count else "-"
