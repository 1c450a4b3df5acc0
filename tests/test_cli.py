"""The command line: light to start, quiet, and honest about what is missing."""

import os
import subprocess
import sys

import pytest
from conftest import DEMO, ROOT

from hf_recipes import launch

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
    code, _, errors = command("annotate", DEMO, f"--output_dir={tmp_path / 'study'}", "--data.pool_size=40")
    assert code == 2
    assert errors.count("\n") == 1
    assert "Got vllm without vLLM. Try pip install 'hf-recipes[vllm]'" in errors
    assert "annotate.engine: server" in errors


@pytest.mark.slow
def test_too_little_memory_for_the_engine_is_one_line(tmp_path):
    """The real engine, asked for more memory than the machine has."""
    settings = [f"--output_dir={tmp_path / 'study'}", "--data.pool_size=40", "--annotate.prompt.shots_per_class=1"]
    done = subprocess.run(
        [sys.executable, "-m", "hf_recipes.cli", "annotate", DEMO, *settings],
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
    code, _, errors = command(step, DEMO, f"--output_dir={tmp_path / 'study'}", "--data.pool_size=40")
    assert code == 2
    assert errors.count("\n") == 1
    assert "Run hf-recipes annotate first" in errors


def test_what_follows_a_child_that_a_signal_ended_has_a_line_of_its_own(capfd):
    code = "import os, signal, sys; print('50% of', end='', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)"
    assert launch.run_child([sys.executable, "-c", code]) == -9
    assert capfd.readouterr().err == "50% of\n"
