"""Several machines: two hosts share a grid and one is lost; two hosts share every batch of a run; the launch files."""

import errno
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import DEMO, ROOT, SAMPLE
from steps import open_runs
from test_annotate import engine  # noqa: F401  (a fixture)
from test_hub import hub  # noqa: F401  (a fixture)
from test_train import SETTINGS, annotated, launch, one_thread, predictions, table  # noqa: F401  (fixtures)

from hf_recipes.grid import all_runs
from hf_recipes.recipe import UserError
from hf_recipes.runs import read_accelerate_config
from hf_recipes.study import read_json
from hf_recipes.train import train

GRID = ["--grid.sizes=[20, 40]", "--grid.arms=[gold, llm]", "--train.epochs=25", "--train.save_steps=5"]
TEAM = ["--grid.sizes=[40]", "--grid.arms=[gold, llm]", "--grid.seeds=[0, 1]", "--train.distribute=batches"]
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
        return {file: file.stat().st_mtime_ns for file in study.root.glob("runs/*/*/*/run.json")}

    wait_for(lambda: len(done()) >= 2 and len(list(study.root.glob("runs/*/*/.*.pt"))) >= 2, nodes[0])
    kill(nodes[1])
    before = done()
    output = nodes[0].communicate(timeout=600)[0]
    assert nodes[0].returncode == 0, output
    assert len(before) < len(done())
    assert before.items() <= done().items()  # nothing that was done is done again
    assert table(study) == table(whole)
    assert not list(study.root.glob("runs/*/*/.*.pt"))


def team_launch(study, machines, rank, port, tmp_path, *arguments):
    config = yaml.safe_load((DEMO.parent / "accelerate" / "cpu-multi-node.yaml").read_text())
    config |= {"num_machines": machines, "main_process_port": port}
    file = tmp_path / f"{machines}.yaml"
    file.write_text(yaml.safe_dump(config))
    given = [*arguments, f"--train.accelerate_config={file}"]
    return launch(study, *given, *(["--machine-rank", str(rank)] if machines > 1 else []))


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_one_run_over_two_nodes_has_the_bits_of_one_over_two_processes(annotated, one_thread, tmp_path):  # noqa: F811
    tables = []
    for machines in (1, 2):
        study = annotated(*TEAM, folder=f"machines-{machines}")
        port = free_port()
        started = [team_launch(study, machines, rank, port, tmp_path, *TEAM) for rank in range(machines)]
        outputs = [one.communicate(timeout=600)[0] for one in started]
        assert [one.returncode for one in started] == [0] * machines, outputs
        tables.append(table(study))
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_a_node_of_a_team_that_is_lost_and_comes_back_costs_what_came_after_the_last_state(
    annotated,  # noqa: F811
    one_thread,  # noqa: F811
    tmp_path,
):
    long = [*TEAM, "--train.epochs=60", "--train.save_steps=5"]
    tables = []
    for lost in (False, True):
        study = annotated(*long, folder=f"lost-{lost}")
        port = free_port()
        nodes = [team_launch(study, 2, rank, port, tmp_path, *long) for rank in (0, 1)]
        if lost:
            wait_for(lambda s=study: list(s.root.glob("runs/*/*/.*.pt")), nodes[0])
            kill(nodes[1])
            time.sleep(20)
            nodes[1] = team_launch(study, 2, 1, port, tmp_path, *long)
        outputs = [one.communicate(timeout=600)[0] for one in nodes]
        assert [one.returncode for one in nodes] == [0, 0], outputs
        assert open_runs(study).failures() == {}
        tables.append(table(study))
    assert tables[0] == tables[1]


def test_ranks_and_numbers_of_machines_that_do_not_fit_are_refused(annotated, tmp_path, command):  # noqa: F811
    study = annotated(*TEAM)
    settings = [f"--output_dir={study.root}", *SETTINGS, f"--train.encoder={study.training.encoder}", *TEAM]
    several = "--train.accelerate_config=cpu-multi-node"
    assert "--machine-rank: 2, but" in command("train", DEMO, *settings, several, "--machine-rank", 2)[2]
    assert "--machine-rank: 1, but" in command("train", DEMO, *settings, "--machine-rank", 1)[2]
    odd = tmp_path / "odd.yaml"
    odd.write_text("{num_machines: 2, num_processes: 3, use_cpu: true}")
    assert "no multiple of num_machines 2" in command("train", DEMO, *settings, f"--train.accelerate_config={odd}")[2]
    odd.write_text("{num_machines: 2, num_processes: 2, use_cpu: true}")
    assert "no main_process_ip" in command("train", DEMO, *settings, f"--train.accelerate_config={odd}")[2]
    config = read_accelerate_config(study.training.model_copy(update={"accelerate_config": "multi-node"}))
    assert (config["num_machines"], config["num_processes"]) == (2, 16)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_refused_and_no_file_stands_in_for_one(make_study, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    study = make_study()
    with pytest.raises(UserError, match="its file system has no locks"), study.lock():
        pass
    assert not study.recipe_file.exists()


STAND_INS = {
    "scontrol": "#!/bin/sh\necho 127.0.0.1\necho other\n",
    "srun": '#!/bin/sh\nSLURM_NODEID=1 "$@" & other=$!\nSLURM_NODEID=0 "$@" && wait $other\n',
    "hf-recipes": f'#!/bin/sh\nexec {sys.executable} -m hf_recipes.cli "$@"\n',
}


@pytest.fixture
def slurm(tmp_path):
    """The environment of a job, with stand-ins of Slurm's commands."""
    for name, text in STAND_INS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_NODELIST": "node-[0-1]"}
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), **job}


def submit(script, environment, study, *arguments):
    settings = [f"--output_dir={study.root}", *SETTINGS, f"--train.encoder={study.training.encoder}", *arguments]
    return subprocess.Popen(
        ["/bin/bash", SLURM / script, DEMO, *settings],
        **{"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True},
    )


def test_the_tasks_of_a_slurm_array_share_the_grid(annotated, slurm, one_thread):  # noqa: F811
    arguments = ["--grid.sizes=[20]", "--grid.arms=[gold, llm]"]
    study = annotated(*arguments)
    tasks = [submit("grid.sh", {**slurm, "SLURM_ARRAY_TASK_ID": str(i)}, study, *arguments) for i in (1, 2)]
    outputs = [task.communicate(timeout=600)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], outputs
    assert open_runs(study).left() == []


def test_the_nodes_of_a_slurm_job_share_a_run(annotated, slurm, one_thread, tmp_path):  # noqa: F811
    config = yaml.safe_load((DEMO.parent / "accelerate" / "cpu-multi-node.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({**config, "main_process_ip": "192.0.2.1", "main_process_port": free_port()})
    )
    arguments = [*TEAM, f"--train.accelerate_config={tmp_path / 'mine.yaml'}"]
    study = annotated(*arguments)
    job = submit("one_run.sh", slurm, study, *arguments)
    output = job.communicate(timeout=600)[0]
    assert job.returncode == 0, output
    assert open_runs(study).left() == []


def test_jobs_on_the_hub_train_a_part_each_and_the_parts_are_one_study(
    annotated,  # noqa: F811
    hub,  # noqa: F811
    tmp_path,
    one_thread,  # noqa: F811
):
    grid = ["--grid.sizes=[20]", "--grid.arms=[gold, llm]", "--grid.seeds=[0, 1, 2, 3]", "--name=parts"]
    study = annotated(*grid, f"--data.path={SAMPLE}")
    hub.cli("push", "dataset", study.recipe_file, "--repo", "me/labels")
    environment = {**hub.env, "PYTHONPATH": str(ROOT), "LOKY_MAX_CPU_COUNT": "1"}
    script = ROOT / "dataset_scripts" / "train_and_push.py"
    for part, seeds in (("part-1", "[0, 1]"), ("part-2", "[2, 3]")):
        job = tmp_path / part  # a disk that is gone afterwards
        job.mkdir()
        done = subprocess.run(
            [sys.executable, script, "me/labels", "--revision", part, f"--grid.seeds={seeds}"],
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
