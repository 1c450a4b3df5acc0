"""Soak: the whole command killed at random moments, over and over, ends with the tables of an undisturbed run."""

import os
import random
import signal
import subprocess
import time

import pytest
from test_end_to_end import call, finished, open_study, run  # noqa: F401

from hf_recipes.study import read_json

KILLS = 12


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("whole_group", [True, False], ids=["all processes", "the first process only"])
def test_run_killed_at_random_moments(whole_group, finished, tmp_path):  # noqa: F811
    undisturbed, _, _ = finished
    study = open_study(tmp_path / "study")
    command, options = call("run", study.root, tmp_path / "home")
    options["stdout"] = subprocess.DEVNULL
    chance, kills = random.Random(0), 0
    for _ in range(KILLS):
        child = subprocess.Popen(command, start_new_session=True, **options)
        try:
            child.wait(timeout=chance.uniform(1, 60))
            break
        except subprocess.TimeoutExpired:
            kills += 1
            os.killpg(child.pid, signal.SIGKILL) if whole_group else child.kill()
            child.wait()
            time.sleep(0.2)
    assert kills >= 3
    done = run("run", study.root, tmp_path / "home")
    assert done.returncode == 0, done.stdout
    mine, others = read_json(study.results_file), read_json(undisturbed.results_file)
    assert mine["arms"] == others["arms"]
    assert mine["comparisons"] == others["comparisons"]
    assert mine["annotator"] == others["annotator"]
