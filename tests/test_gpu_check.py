"""`make gpu-check` on the CPU in small: real training, real labelling, and its table when a check fails."""

import re
import runpy
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu_check.py"


def read_table(output):
    """The status and the result of each check."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines() if line[:1] == "|"]
    return {name: (status, result) for _, name, status, result in rows[2:]}


def run(*arguments):
    command = [sys.executable, SCRIPT, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return read_table(done.stdout)


@pytest.mark.slow
def test_training_on_the_cpu():
    table = run("--cpu", "training")
    assert {status for status, _ in table.values()} == {"ok"}
    assert table["fit, BERT"][1].startswith("4 runs, training loss")
    assert re.match(r"probabilities differ by at most [\d.e-]+ from float32", table["bf16"][1])
    assert table["replicate floor"][1] == "probabilities of the same run differ by at most 0, 0.0000 of the labels"
    assert re.match(r"probabilities of the same run are equal, in \d\.\d\d of", table["deterministic"][1])
    assert re.fullmatch(r"\d+ texts/s in float32, \d+ in bf16: ratio \d+\.\d\d", table["throughput"][1])
    assert "runs at a time" in table["two runs on one device"][1]


@pytest.mark.slow
def test_labelling_on_the_cpu():
    table = run("--cpu", "labelling")
    assert {status for status, _ in table.values()} == {"ok"}
    num_texts, num_tied, num_tied_model = re.findall(r"[\d.]+", table["head and ties"][1])[:3]
    assert int(num_texts) > 50
    assert float(num_tied) <= float(num_tied_model)
    assert re.search(r": 1: \d+, 8: \d+, 32: \d+$", table["prompts in flight"][1])


@pytest.fixture
def check(monkeypatch, capsys):
    """Run the script in this process with other parts. Return the exit code and the table."""

    def call(parts=None, reasons=None):
        names = runpy.run_path(str(SCRIPT))
        if parts:
            names["main"].__globals__.update(PARTS=parts, find_reason=lambda part, _: (reasons or {}).get(part))
        monkeypatch.setattr("sys.argv", [str(SCRIPT)])
        return names["main"](), read_table(capsys.readouterr().out)

    return call


def test_a_failed_check_is_a_row_and_the_exit_code(check):
    def fail(place):
        raise OSError("the disk is full\nand more")

    code, table = check({"training": {"fit": fail, "bf16": lambda place: "fine"}})
    assert code == 1
    assert table == {"fit": ("**failed**", "OSError: the disk is full"), "bf16": ("ok", "fine")}


def test_without_a_gpu_each_part_is_skipped_with_its_reason_and_the_exit_code_is_1(check, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, table = check()
    assert code == 1
    assert table == {"all": ("skipped", "Torch finds no GPU: run hf-recipes doctor, or use --cpu.")}


def test_a_part_that_is_skipped_does_not_fail_the_others(check):
    parts = {"training": {"fit": lambda place: "fine"}, "labelling": {"engine": lambda place: "fine"}}
    code, table = check(parts, {"labelling": "vllm is not installed"})
    assert code == 0
    assert table == {"fit": ("ok", "fine"), "all": ("skipped", "vllm is not installed")}


def test_deterministic_runs_that_differ_are_an_error():
    names = runpy.run_path(str(SCRIPT))
    way, ways = names["Way"], []

    def train(place, way):
        ways.append(way)
        return {"gold": {"probs": np.full((2, 3), 0.1 * way.repetition * is_noisy), "seconds": 2 - is_noisy}}

    names["check_deterministic"].__globals__["train"] = train
    is_noisy = 0
    assert names["check_deterministic"](None) == "probabilities of the same run are equal, in 1.00 of the time"
    assert ways == [way(is_deterministic=True), way(is_deterministic=True, repetition=1), way()]
    is_noisy = 1
    with pytest.raises(RuntimeError, match=r"must give the same bits. Probabilities differ by 0.1"):
        names["check_deterministic"](None)


def test_a_command_that_fails_or_takes_too_long_is_an_error(tmp_path):
    names = runpy.run_path(str(SCRIPT))
    place = names["Place"](tmp_path, True, 0.0)
    with pytest.raises(RuntimeError, match="hf-recipes plan must end within the time limit"):
        names["call"](place, "plan")
    with pytest.raises(RuntimeError, match="`grid.sizes` must"):
        names["call"](place._replace(end=time.monotonic() + 300), "plan", "--grid.sizes=[]")
