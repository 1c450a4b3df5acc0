"""The command line: light to start, quiet, and honest about what is missing."""

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios

import pytest
import typer
from conftest import ROOT, SMALL_RECIPE

from hf_recipes import cli, launch
from hf_recipes.analysis.measure import read_study_results
from hf_recipes.report.first_screen import describe_headline

HEAVY = ("torch", "vllm", "transformers", "datasets", "evaluate", "matplotlib", "pandas", "sklearn", "scipy", "pyarrow")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        f"import sys; sys.argv = ['hf-recipes', *{arguments}]\n"
        "from hf_recipes.cli import main\n"
        "try: main()\n"
        f"finally: print('HEAVY', sorted(set({HEAVY}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.strip().endswith("HEAVY []"), done.stdout + done.stderr


def test_importing_the_steps_needs_no_vllm():
    code = (
        "import sys; sys.modules['vllm'] = None\n"
        "import hf_recipes.annotation.annotate, hf_recipes.training.train, hf_recipes.analysis.measure\n"
        "import hf_recipes.report.page, hf_recipes.hub.dataset_folder\n"
        "import hf_recipes.annotation.engines.server_engine, hf_recipes.annotation.engines.vllm_engine\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_without_vllm_the_way_out_is_named(command, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_recipes.annotation.engines.vllm_engine.versions", lambda *names: {})
    code, _, errors = command("annotate", SMALL_RECIPE, f"--output_dir={tmp_path / 'study'}", "--data.pool_size=40")
    assert code == 2
    assert errors.count("\n") == 1
    assert "Got vllm without vLLM. Try pip install 'hf-recipes[vllm]'" in errors
    assert "annotate.engine: server" in errors


@pytest.mark.slow
def test_too_little_memory_for_the_engine_is_one_line(tmp_path):
    """The real engine, asked for more memory than the machine has."""
    settings = [f"--output_dir={tmp_path / 'study'}", "--data.pool_size=40", "--annotate.prompt.shots_per_class=1"]
    done = subprocess.run(
        [sys.executable, "-m", "hf_recipes.cli", "annotate", SMALL_RECIPE, *settings],
        env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "4000"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: annotate: vLLM could not load models/SmolLM2-135M-Instruct: ")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("study/annotations/*/part-*"))


@pytest.mark.parametrize("step", ["variants", "train", "measure", "report"])
def test_a_step_before_its_turn_names_the_one_to_run(step, command, tmp_path):
    code, _, errors = command(step, SMALL_RECIPE, f"--output_dir={tmp_path / 'study'}", "--data.pool_size=40")
    assert code == 2
    assert errors.count("\n") == 1
    assert "Run hf-recipes annotate first" in errors


def test_what_follows_a_child_that_a_signal_ended_has_a_line_of_its_own(capfd):
    code = "import os, signal, sys; print('50% of', end='', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)"
    assert launch.run_child([sys.executable, "-c", code]) == -9
    assert capfd.readouterr().err == "50% of\n"


def walk(command, names=()):
    """Yield every command with its name in words."""
    yield names, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, (*names, name))


COMMANDS = {" ".join(names): command for names, command in walk(typer.main.get_command(cli.app))}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_help_has_an_example_that_the_command_line_accepts(name):
    _, *examples = COMMANDS[name].help.split("Example: ")
    (example,) = examples
    program, *words = shlex.split(example)
    assert program == "hf-recipes"
    assert words[: len(name.split())] == name.split()
    (inner,) = (inner for inner in COMMANDS if inner and " ".join(words).startswith(f"{inner} ") and is_leaf(inner))
    COMMANDS[inner].make_context(inner, words[len(inner.split()) :])


def is_leaf(name):
    return not hasattr(COMMANDS[name], "commands")


PROGRESS = """
import time
from hf_recipes import logs
logs.LINE_SECONDS = 0.4
with logs.Progress(total=12, initial=2, desc="train", unit=" runs") as bar:
    for k in range(10):
        bar.set_postfix_str(f"run {k}")
        time.sleep(0.1)
        bar.update()
"""


def test_outside_a_terminal_progress_is_a_line_now_and_then():
    done = subprocess.run([sys.executable, "-c", PROGRESS], check=True, cwd=ROOT, capture_output=True, text=True)
    assert "\r" not in done.stderr
    *lines, last = done.stderr.splitlines()
    assert 1 <= len(lines) <= 5
    assert all(line.startswith("train: ") and " of 12 runs, " in line and line.endswith(" left") for line in lines)
    assert last.startswith("train: 12 of 12 runs, ")


def test_in_a_terminal_progress_is_a_bar():
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    subprocess.run([sys.executable, "-c", PROGRESS], check=True, cwd=ROOT, stderr=theirs)
    os.close(theirs)
    output = os.read(ours, 2**16).decode()
    os.close(ours)
    assert "\rtrain:  17%|" in output
    assert "so far" not in output


def test_durations_are_short():
    from hf_recipes.logs import format_duration

    assert [format_duration(seconds) for seconds in (0.2, 59, 60, 130, 3599.6, 7500)] == [
        *("0s", "59s", "1m00s", "2m10s", "1h00m", "2h05m"),
    ]


def test_run_announces_its_steps_and_begins_with_the_verdict(study, command):
    """Training is done: only the report is left, and then nothing."""
    (study.report / "report.html").unlink(missing_ok=True)
    code, output, errors = command("run", study.recipe_file)
    assert code == 0, errors
    steps = [line for line in errors.splitlines() if line.startswith("[")]
    assert steps[0] == "[1/6] Labelling 111 texts with models/SmolLM2-135M-Instruct ... already done"
    assert [re.sub("done in .*", "done", step) for step in steps[1:]] == [
        "[2/6] Evaluating the labels and writing the dataset ... already done",
        "[3/6] Training linear heads on frozen features, and TF-IDF models ... already done",
        "[4/6] Measuring and writing the report ...",
        "[4/6] Measuring and writing the report ... done",
        f"[5/6] Fine-tuning {len(study.grid.seeds) * len(study.grid.variants)} classifiers ... already done",
        "[6/6] Measuring and writing the report ...",
        "[6/6] Measuring and writing the report ... done",
    ]
    assert output.startswith(f"{describe_headline(read_study_results(study, 'frozen')).decision}. ")
    assert output.index("llm-entropy-replace") < output.index("Report: ")
    _, _, errors = command("run", study.recipe_file)
    assert [line.rpartition(" ... ")[2] for line in errors.splitlines() if line.startswith("[")] == ["already done"] * 6
