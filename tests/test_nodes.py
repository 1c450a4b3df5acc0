"""Several machines: two hosts share a grid and one is lost; the launch files."""

import errno
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, SAMPLE, SMALL_RECIPE
from steps import open_runs
from test_train import SETTINGS, annotated, launch, one_thread, predictions, table  # noqa: F401  (fixtures)

from hf_recipes.errors import UserError
from hf_recipes.study import read_json
from hf_recipes.training.devices import read_accelerate_config
from hf_recipes.training.grid import all_runs
from hf_recipes.training.train import train

GRID = ["--grid.sizes=[40]", "--grid.variants=[gold, llm]", "--train.epochs=25"]
SLURM = ROOT / "hf_recipes" / "examples" / "slurm"
#: A host with name, processes and network of its own, as far as one machine can be two; it ends with its first process.
HOST = ["unshare", "--user", "--map-root-user", "--uts", "--net", "--pid", "--fork", "--kill-child", "sh", "-c"]
HOST += ['hostname "$0" && exec "$@"']


def kill(process):
    """As if its machine had lost power: nothing is told to end."""
    with suppress(psutil.NoSuchProcess):
        for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()


def wait_for(what, process=None):
    for _ in range(6000):
        if what():
            return
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise AssertionError("it took too long")


def hosts():
    """The command lines before that of a launch on two hosts; plain processes where there are no namespaces."""
    with suppress(OSError):
        if subprocess.run([*HOST, "probe", "true"], check=False, capture_output=True).returncode == 0:
            return [[*HOST, "node-0"], [*HOST, "node-1"]]
    return [[], []]


def test_a_node_lost_on_the_way_costs_a_shared_grid_its_runs_in_flight_alone(annotated, one_thread):  # noqa: F811
    whole = annotated(*GRID, folder="whole")
    train(whole)
    study = annotated(*GRID)
    nodes = [launch(study, *GRID, before=host) for host in hosts()]

    def done():
        return {file: file.stat().st_mtime_ns for file in study.run_records()}

    wait_for(lambda: len(done()) >= 2, nodes[0])
    kill(nodes[1])
    before = done()
    output = nodes[0].communicate(timeout=600)[0]
    assert nodes[0].returncode == 0, output
    assert len(before) < len(done())
    assert before.items() <= done().items()  # nothing that was done is done again
    assert table(study) == table(whole)


def test_an_accelerate_configuration_of_several_machines_is_refused(annotated, tmp_path):  # noqa: F811
    (tmp_path / "two.yaml").write_text("{num_machines: 2, num_processes: 2, use_cpu: true}")
    study = annotated(f"--train.accelerate_config={tmp_path / 'two.yaml'}")
    with pytest.raises(
        UserError, match="must be 1. Got 2. To share the grid, start `hf-recipes train` on each machine"
    ):
        read_accelerate_config(study.training)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_refused_and_no_file_stands_in_for_one(make_study, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    study = make_study()
    with pytest.raises(UserError, match="must be on a file system with locks"), study.lock():
        pass
    assert not study.recipe_file.exists()


@pytest.fixture
def slurm(tmp_path):
    """The environment of a job."""
    (tmp_path / "hf-recipes").write_text(f'#!/bin/sh\nexec {sys.executable} -m hf_recipes.cli "$@"\n')
    (tmp_path / "hf-recipes").chmod(0o755)
    job = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_CPUS_PER_TASK": "1"}
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), **job}


def submit(script, environment, study, *arguments):
    settings = [f"--output_dir={study.root}", *SETTINGS, f"--train.encoder={study.training.encoder}", *arguments]
    return subprocess.Popen(
        ["/bin/bash", SLURM / script, SMALL_RECIPE, *settings],
        **{"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True},
    )


def test_the_tasks_of_a_slurm_array_share_the_grid(annotated, slurm, one_thread):  # noqa: F811
    arguments = ["--grid.sizes=[20]", "--grid.variants=[gold, llm]"]
    study = annotated(*arguments)
    tasks = [submit("grid.sh", {**slurm, "SLURM_ARRAY_TASK_ID": str(i)}, study, *arguments, "--go-on") for i in (1, 2)]
    outputs = [task.communicate(timeout=600)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], outputs
    assert open_runs(study).left() == []


@pytest.mark.slow
def test_jobs_on_the_hub_train_a_part_each_and_the_parts_are_one_study(
    annotated,  # noqa: F811
    hub,
    tmp_path,
    one_thread,  # noqa: F811
):
    grid = ["--grid.sizes=[20]", "--grid.variants=[gold, llm]", "--grid.seeds=[0, 1, 2, 3]", "--name=parts"]
    study = annotated(*grid, f"--data.path={SAMPLE}")
    hub.cli("push", "dataset", study.recipe_file, "--repo", "me/labels")
    environment = {**hub.env, "PYTHONPATH": str(ROOT), "LOKY_MAX_CPU_COUNT": "1"}
    script = ROOT / "dataset_scripts" / "train_and_push.py"
    for part, seeds in (("part-1", "[0, 1]"), ("part-2", "[2, 3]")):
        job = tmp_path / part  # a disk that is gone afterwards
        job.mkdir()
        done = subprocess.run(
            [sys.executable, script, "me/labels", "--revision", part, f"--grid.seeds={seeds}", "--go-on"],
            check=False,
            **{"cwd": job, "env": environment, "capture_output": True, "text": True},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        hub.cli("pull", "me/labels", "--revision", part, "--output_dir", tmp_path / f"pulled-{part}")
    shutil.copytree(tmp_path / "pulled-part-2" / "runs", tmp_path / "pulled-part-1" / "runs", dirs_exist_ok=True)
    train(study)
    pulled = tmp_path / "pulled-part-1"
    hub.cli("report", pulled / "recipe.yaml", "--grid.seeds=[0, 1, 2, 3]")
    for run in all_runs(study.grid):
        name = study.run(run).relative_to(study.root)
        assert read_json(pulled / name / "run.json")["key"] == read_json(study.run(run) / "run.json")["key"]
        theirs = pq.read_table(pulled / name / "predictions.parquet")["probs"].to_pylist()
        assert theirs == predictions(study, run)
