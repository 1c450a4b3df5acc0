"""Run annotation and training in processes. Memory is freed at their end; after a crash another process continues."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from .child import INTERRUPTED, PARENT, end
from .errors import UserError
from .logs import BAD_INPUT
from .study import Study

if TYPE_CHECKING:
    from .data import RowFiles
    from .training.runs import Runs

CHILD = [sys.executable, "-m", "hf_recipes.child"]  # a process that ends with this one
CRASHES = [-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS]  # memory ran out, or a bug
MAX_CRASHES = 3  # in a row, without progress between them


def annotate(study: Study, files: "RowFiles", num_left: int, recipe: Path, overrides: list[str]) -> None:
    """Annotate the texts that are left in a process for each model, which is started again after a crash.

    Two models would need their memory at the same time, as much of it is free only when a process ends.
    """
    from .annotation.annotate import annotate as annotate_here
    from .annotation.passes import count_rows_left_of, plan_passes
    from .data import keep_rows

    keep_rows(study, files)  # the later steps require them, even if no text is left
    if not num_left:
        return
    passes = plan_passes(study, files)
    left = [number for number, plan in enumerate(passes) if count_rows_left_of(study, files, plan)]
    # Columns need no engine, so no process. They come first, as they would part passes of one model.
    copied = [number for number in left if passes[number].section.engine == "columns"]
    asked = [number for number in left if number not in copied]
    if copied or not asked:  # Without rows that are left, the file that names the passes is written.
        annotate_here(study, copied)
    for _, numbers in groupby(asked, key=lambda number: passes[number].engine_settings):
        flag = f"--passes={','.join(map(str, numbers))}"
        _annotate_in_child(study, [str(recipe), flag, *overrides])


def _annotate_in_child(study: Study, arguments: list[str]) -> None:
    from .annotation.annotate import ENGINE_DIED
    from .annotation.passes import count_rows_done

    num_crashes = 0
    while True:
        num_rows = count_rows_done(study)
        code = run_child([*CHILD, "hf_recipes.annotation.annotate", *arguments])
        if code != ENGINE_DIED and code not in CRASHES:
            return _check(code)
        num_crashes = 0 if count_rows_done(study) > num_rows else num_crashes + 1
        if num_crashes == MAX_CRASHES:
            raise UserError(
                f"The engine died {MAX_CRASHES} times without labelling a text (code {code}). Labels are kept. If "
                "memory is short, lower `annotate.max_model_len` or `annotate.engine_args.max_num_seqs`."
            )
        typer.echo(f"The engine died (code {code}). Labels are kept. Starting it again.", err=True)


def train_baselines(recipe: Path, overrides: list[str]) -> None:
    """Train the heads and TF-IDF models that are left, in a process."""
    _check(run_child([*CHILD, "hf_recipes.training.linear", str(recipe), *overrides]))


def train(study: Study, runs: "Runs", recipe: Path, overrides: list[str], go_on: bool) -> None:
    """Train the runs that are left in processes, which are started again after a crash.

    They stop if the first gold runs learn nothing, unless `go_on`.
    """
    arguments = [str(recipe), *overrides, *(["--go-on"] if go_on else [])]
    launcher = make_launcher(runs.accelerate)
    num_left = len(runs.left())
    num_crashes = 0
    while True:
        code = run_child([*launcher, *CHILD[1:], "hf_recipes.training.train", *arguments])
        failures = runs.failures()
        num_before, num_left = num_left, len(runs.left()) - len(failures)
        if not num_left or code == BAD_INPUT:
            break
        num_crashes = 0 if num_left < num_before else num_crashes + 1
        if num_crashes == MAX_CRASHES:
            raise UserError(
                f"Training died {MAX_CRASHES} times without finishing a run (code {code}). Finished runs are kept. If "
                "memory is short, raise `train.gradient_accumulation_steps`. --verbose shows all logs."
            )
        typer.echo(f"Training died (code {code}). Finished runs are kept. Starting it again.", err=True)
    if failures:
        run, error = next(iter(failures.items()))
        typer.echo(
            f"error: {len(failures)} {'run' if len(failures) == 1 else 'runs'} failed, for example {run}: {error} "
            f"(traceback: {study.run(run) / 'failed.json'}). Retry with --retry-failed. If they fail again, remove the "
            "seed, variant or size from the recipe.",
            err=True,
        )
        raise SystemExit(1)
    _check(code)


def make_launcher(config: dict[str, Any]) -> list[str]:
    """Return the command that starts the training processes."""
    from .training.devices import threads

    num_processes = config["num_processes"]
    if config["use_cpu"] and num_processes > 1:  # `accelerate launch` would start one
        os.environ |= {"ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": config["mixed_precision"]}
        os.environ |= {"OMP_NUM_THREADS": str(threads(config))}
        return [*CHILD, "torch.distributed.run", "--nproc_per_node", str(num_processes), "--standalone"]
    launcher = [*CHILD, "accelerate.commands.launch", "--config_file", config["path"]]
    # Each process takes its GPU by itself: for several processes accelerate requires several `gpu_ids`.
    launcher += ["--num_cpu_threads_per_process", str(threads(config)), "--gpu_ids", "all"]
    # Port 0 is a free one, as another launcher may run on this machine.
    several = ["--multi_gpu", "--num_processes", str(num_processes), "--main_process_port", "0"]
    return [*launcher, *(several if num_processes > 1 else [])]


def run_child(command: list[str]) -> int:
    """Run a child to its end and return its exit code. Ctrl-C reaches only this process, which ends the child."""
    environment = {**os.environ, PARENT: str(os.getpid())}
    with subprocess.Popen(command, env=environment, process_group=0) as child:
        try:
            code = child.wait()
        except SystemExit:
            for name in (signal.SIGTERM, signal.SIGKILL):  # at the first a launcher ends its workers
                with suppress(ProcessLookupError, subprocess.TimeoutExpired):  # the former: it has ended
                    os.killpg(child.pid, name)
                    child.wait(timeout=10)
            raise
    if code < 0:  # a signal ended it in the middle of a line, so the next message starts a new one
        typer.echo(err=True)
    if code == INTERRUPTED:  # only the child was interrupted
        _report_interrupt()
        raise SystemExit(code)
    return code


def _check(code: int) -> None:
    if code not in (0, BAD_INPUT):
        typer.echo(f"error: A step ended with code {code}. Completed work is kept. Run again to continue.", err=True)
    if code:
        raise SystemExit(code if 0 < code < 256 else 1)


def _report_interrupt() -> None:
    typer.echo("\nInterrupted. Completed work is kept. Run again to continue.", err=True)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Report Ctrl-C and end this process, as a signal handler."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # before the message, which a second Ctrl-C would cut
    _report_interrupt()
    end(number, frame)
