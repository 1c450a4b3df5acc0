"""Annotation on Ray gives the rows of the in-process engine, whatever is killed. Real clusters on this machine."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, SMALL_RECIPE

from hf_recipes.annotation.annotate import ENGINE_DIED
from hf_recipes.annotation.engines import ray_engine
from hf_recipes.annotation.passes import plan_passes
from hf_recipes.annotation.store import MAX_PART_ROWS
from hf_recipes.data import open_rows
from hf_recipes.errors import UserError
from hf_recipes.study import read_json

SMALL = ["--data.test_size=6", "--annotate.prompt.shots_per_class=1", "--grid.sizes=[10, 20]"]
RAY = ["--annotate.engine=ray", "--annotate.ray.cpus=1"]

# In place of a language model, in Ray's workers and in a driver that labels by itself: it notes what it is asked.
STAND_IN = """
import os, sys, time
if "default_worker" in " ".join(sys.orig_argv) or "hf_recipes.annotation.annotate" in " ".join(sys.orig_argv):
    import numpy as np
    from hf_recipes.annotation.engines import vllm_engine

    class Engine:
        def __init__(self, section, folder):
            pass
        def score(self, prompts, token_ids):
            if os.environ.get("DIES"):
                os._exit(1)
            time.sleep(float(os.environ["SECONDS_EACH"]) * len(prompts))
            with open(os.environ["ASKED"], "a") as file:
                file.writelines(f"{os.getpid()} {hash(tuple(prompt))}" + chr(10) for prompt in prompts)
            return np.log([[(sum(p) * (i + 3)) % 97 / 1000 + 0.01 for i in token_ids] for p in prompts]), {}
    vllm_engine.Engine = Engine
"""


@pytest.fixture
def start(tmp_path):
    """Starts what `hf-recipes annotate` runs; with `seconds` for a text, on the stand-in."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(STAND_IN)
    children = []

    def call(name, *arguments, seconds=None, **environment):
        path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
        if seconds is not None:
            environment |= {"SECONDS_EACH": str(seconds), "ASKED": str(tmp_path / f"asked-{name}")}
            path = f"{tmp_path / 'path'}:{path}"
        command = [
            sys.executable,
            "-m",
            "hf_recipes.annotation.annotate",
            str(SMALL_RECIPE),
            f"--output_dir={tmp_path / name}",
        ]
        with (tmp_path / f"log-{name}").open("a") as log:
            child = subprocess.Popen(
                [*command, *SMALL, *arguments],
                env={**os.environ, "PYTHONPATH": path, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        children.append(child)
        return child

    yield call
    for child in children:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def finish(child, tmp_path, name):
    assert child.wait(timeout=600) == 0, (tmp_path / f"log-{name}").read_text()[-3000:]


def wait_for(condition, child=None, seconds=300):
    for _ in range(seconds * 10):
        if condition():
            return
        assert child is None or child.poll() is None, "the command has ended"
        time.sleep(0.1)
    raise AssertionError("the condition did not become true")


def parts(folder):
    return sorted(folder.glob("annotations/*/part-*.parquet"))


def actors():
    """The processes of Ray's actors that hold an engine."""
    return [p for p in psutil.process_iter(["cmdline"]) if "_Actor" in " ".join(p.info["cmdline"] or [])[:80]]


def all_rows(folder):
    rows = [row for part in parts(folder) for row in pq.read_table(part).to_pylist()]
    assert len(rows) == len({row["id"] for row in rows})  # none doubled
    return {row.pop("id"): row for row in rows}


def content_free(folder):
    (file,) = folder.glob("annotations/*/content_free.parquet")
    return pq.read_table(file).to_pylist()


def assert_equal_tables(*folders, tolerance=1e-4):
    """The same rows in all columns, log-probabilities within float32's rounding."""
    first, second = map(all_rows, folders)
    assert first.keys() == second.keys()
    pairs = [*((first[i], second[i]) for i in first), *zip(*map(content_free, folders), strict=True)]
    for expected, row in pairs:
        logprobs = [expected.pop("logprobs") or [], row.pop("logprobs") or []]
        assert expected == row
        assert logprobs[0] == pytest.approx(logprobs[1], rel=0, abs=tolerance)
    manifests = []
    for folder in folders:
        (file,) = folder.glob("annotations/*/manifest.json")
        manifests.append(read_json(file))
        for session in ("last_session", "all_sessions", "load_average"):
            del manifests[-1][session]
    assert manifests[0] == manifests[1]


#: Seconds that the stand-in takes for a text; None is the real model, whose actor takes half a minute to start again.
@pytest.mark.parametrize(("kills", "seconds"), [(0, None), (1, 0.1), pytest.param(1, None, marks=pytest.mark.slow)])
def test_an_actor_gives_the_rows_of_the_in_process_engine_although_it_is_killed(kills, seconds, start, tmp_path):
    """On a cluster of the command's own."""
    size = "--data.pool_size=40"
    one_core = {"LOKY_MAX_CPU_COUNT": "1"}
    finish(start("alone", size, seconds=seconds, **one_core), tmp_path, "alone")
    child = start("ray", size, *RAY, seconds=seconds)
    for _ in range(kills):
        wait_for(lambda: parts(tmp_path / "ray"), child)
        (actor,) = actors()
        actor.kill()
    finish(child, tmp_path, "ray")
    if kills and seconds:
        asked = (tmp_path / "asked-ray").read_text().splitlines()
        assert len({line.split()[0] for line in asked}) == 2  # another actor went on
    assert_equal_tables(tmp_path / "alone", tmp_path / "ray")
    wait_for(lambda: not actors(), seconds=30)


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of one CPU each on this machine, of which one can be killed."""
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # it listens on 127.0.0.1 alone
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "200")
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:  # sockets: be short

        def begin(environment):
            for name, value in {"RAY_TMPDIR": folder, **environment}.items():
                monkeypatch.setenv(name, value)
            Path(folder, "ray").mkdir()
            node = {"num_cpus": 1, "node_ip_address": "127.0.0.1"}
            cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **node})
            clusters.append(cluster)
            cluster.second = cluster.add_node(**node)
            return cluster

        clusters = []
        yield begin
        for cluster in clusters:
            cluster.shutdown()


def stand_in(tmp_path, seconds):
    path = f"{tmp_path / 'path'}:{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    return {"PYTHONPATH": path, "SECONDS_EACH": str(seconds), "ASKED": str(tmp_path / "asked-nodes")}


def test_of_two_nodes_one_may_be_killed(start, cluster, tmp_path):
    """And the command that drives them too; the cluster outlives it and is given by its address."""
    size = "--data.pool_size=150"
    finish(start("alone", size, seconds=0, LOKY_MAX_CPU_COUNT="1"), tmp_path, "alone")
    nodes = cluster(stand_in(tmp_path, 0.1))
    on_two = [size, "--annotate.engine=ray", f"--annotate.ray={{address: '{nodes.address}', actors: 2, cpus: 1}}"]
    asked = tmp_path / "asked-nodes"

    def askers():
        return {line.split()[0] for line in asked.read_text().splitlines()} if asked.exists() else set()

    child = start("nodes", *on_two, seconds=0.1)
    wait_for(lambda: len(askers()) == 2, child)
    wait_for(lambda: parts(tmp_path / "nodes"), child)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    before = len(all_rows(tmp_path / "nodes"))
    assert 0 < before < 156
    killed = askers()
    child = start("nodes", *on_two, seconds=0.1)
    wait_for(lambda: len(askers() - killed) == 2, child)
    nodes.remove_node(nodes.second, allow_graceful=False)
    finish(child, tmp_path, "nodes")
    assert_equal_tables(tmp_path / "alone", tmp_path / "nodes", tolerance=0)
    lines = [line.split()[1] for line in asked.read_text().splitlines()]
    assert len(set(lines)) >= 150 - 10
    assert len(lines) - len(set(lines)) < 120  # blocks in flight at either kill; what is in parts is not asked about


def test_actors_that_only_die_end_the_command_with_one_line(start, tmp_path):
    child = start("dying", "--data.pool_size=40", *RAY, seconds=0, DIES="1")
    assert child.wait(timeout=300) == ENGINE_DIED
    output = (tmp_path / "log-dying").read_text()
    assert "\nerror: annotate: the actors on Ray died: The actor died unexpectedly" in output
    assert "Traceback" not in output
    wait_for(lambda: not actors(), seconds=30)


def test_the_answers_of_blocks_are_joined_in_their_order(monkeypatch):
    class Local:
        def score(self, prompts, token_ids):
            scores = np.array([[sum(prompt) + token for token in token_ids] for prompt in prompts], float)
            odd = {i: f"no {prompt[0]}" for i, prompt in enumerate(prompts) if prompt[0] % 100 == 7}
            scores[list(odd)] = np.nan
            return scores, odd

        def sample(self, prompts, samples, temperature, max_tokens, seeds, choices):
            _, odd = self.score(prompts, [1])
            texts = [f"{sum(p)}/{seed}/{temperature}/{max_tokens}" for p, seed in zip(prompts, seeds, strict=True)]
            return [[] if i in odd else [text] * samples for i, text in enumerate(texts)], odd

    engine = ray_engine.Engine.__new__(ray_engine.Engine)
    engine._num_actors, engine._has_gpus = 2, False
    sizes = []

    def run(method, tasks):
        sizes.append([len(task[0]) for task in tasks])
        return [getattr(Local(), method)(*task) for task in tasks]

    monkeypatch.setattr(engine, "_run", run)
    for count in (0, 1, 16, 700):
        prompts = [[i, i % 7] for i in range(count)]
        for method, *arguments in (("score", [3, 1]), ("sample", 2, 0.7, 5, list(range(count)), None)):
            (answers, refused), (expected, odd) = (
                getattr(asked, method)(prompts, *arguments) for asked in (engine, Local())
            )
            assert refused == odd
            if method == "sample":
                assert answers == expected
            elif count:
                assert np.array_equal(answers, expected, equal_nan=True)
            else:
                assert answers.shape == (0, 2)
    assert sizes[-1] == [43] * 16 + [12]

    # An actor with a GPU has two blocks at a time, and a chunk may have 16,384 prompts.
    engine._has_gpus = True
    for engine._num_actors in (1, 2):
        engine.score([[1]] * MAX_PART_ROWS, [3])
        assert ray_engine.NUM_AHEAD * sizes[-1][0] >= 4096


def test_the_key_is_the_in_process_engines_and_no_address_or_number_of_actors_changes_it(make_study, monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")

    def key(*settings, folder):
        study = make_study(*SMALL, *settings, folder=folder)
        return plan_passes(study, open_rows(study))[0].key

    base = key(folder="alone")
    on_ray = "--annotate.engine=ray"
    same = [[], ["--annotate.ray.address=10.0.0.1:6379"], ["--annotate.ray.actors=4"], ["--annotate.ray.cpus=1"]]
    assert {key(on_ray, *settings, folder=f"same-{i}") for i, settings in enumerate(same)} == {base}
    assert key(on_ray, "--annotate.ray.cpus=2", folder="threads") != base


def test_where_a_cluster_is_does_not_matter_to_a_study_that_is_there(make_study):
    study = make_study(*SMALL, *RAY, "--annotate.ray.address=10.0.0.1:6379", folder="one")
    with study.lock():
        pass
    assert "10.0.0.1" not in study.recipe_file.read_text()
    moved = make_study(*SMALL, *RAY, "--annotate.ray.address=auto", "--annotate.ray.actors=3", folder="one")
    moved.accept_changes = False
    moved.check()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("--annotate.ray.address=http://x", "host:port as ray start"),
        ("--annotate.ray.actors=0", "greater than 0"),
        ("--annotate.ray.cpu=2", "Did you mean `annotate.ray.cpus`"),
        ("--annotate.passes=[{ray: {actors: 2}}]", "`annotate.passes` must not change `ray`"),
    ],
)
def test_settings_that_cannot_be_are_named(setting, message, make_study):
    with pytest.raises(UserError, match=message):
        make_study(*SMALL, *RAY, setting)


def test_without_ray_it_is_said_what_to_install(make_study, monkeypatch):
    monkeypatch.setattr("hf_recipes.annotation.engines.ray_engine.versions", lambda *names: {})
    study = make_study(*SMALL, *RAY)
    with pytest.raises(UserError, match=r"Got ray without Ray. Try pip install 'hf-recipes\[ray\]'"):
        plan_passes(study, open_rows(study))


def test_an_actor_on_another_gpu_is_refused(monkeypatch):
    installed = {"vllm": "0.33.0"}
    monkeypatch.setattr("hf_recipes.annotation.engines.ray_engine.versions", lambda *names: installed)
    monkeypatch.setattr("hf_recipes.annotation.engines.vllm_engine.find_accelerator", lambda: "NVIDIA A100 (8.0)")
    actor = ray_engine._Actor(None, None, {**installed, "accelerator": "NVIDIA H200 (9.0)"})
    with pytest.raises(UserError, match=r"Got accelerator NVIDIA A100 \(8.0\) on .*, NVIDIA H200 \(9.0\) where the"):
        actor.start()


@pytest.mark.slow
def test_what_is_wrong_with_a_cluster_or_a_node_is_one_line(start, cluster, tmp_path):
    def last_line(name, *arguments, **environment):
        child = start(name, *arguments, "--data.pool_size=40", **environment)
        assert child.wait(timeout=300) == 2
        return (tmp_path / f"log-{name}").read_text().strip().splitlines()[-1]

    nowhere = last_line("nowhere", *RAY, "--annotate.ray.address=127.0.0.1:9")
    assert "No Ray cluster answers at 127.0.0.1:9 (" in nowhere
    nodes = cluster({"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"})
    there = [*RAY, f"--annotate.ray.address={nodes.address}"]
    large = last_line("large", *there, "--annotate.ray.cpus=64")
    assert "Got actors of 64 CPUs and 0 GPUs, and nodes of 1 CPUs, 0 GPUs; 1" in large
    bad = last_line("bad", *there, "--annotate.engine_args={max_num_batched_tokens: 1}")
    assert bad.startswith("error: annotate: vLLM could not load models/SmolLM2-135M-Instruct: ")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_driver_killed_at_random_moments_goes_on(start, tmp_path):
    rng = np.random.default_rng()
    size = "--data.pool_size=150"
    finish(start("alone", size, seconds=0, LOKY_MAX_CPU_COUNT="1"), tmp_path, "alone")
    for _ in range(8):
        child = start("ray", size, *RAY, seconds=0.1)
        try:
            child.wait(timeout=rng.uniform(5, 50))
            break
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    finish(start("ray", size, *RAY, seconds=0.1), tmp_path, "ray")
    assert_equal_tables(tmp_path / "alone", tmp_path / "ray", tolerance=0)
    wait_for(lambda: not actors(), seconds=60)
