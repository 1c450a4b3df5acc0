"""The script that labels on a machine which may be lost: what it saves on a branch, and how it continues."""

import io
import json
import math
import os
import re
import runpy
import subprocess
import sys
import tomllib
import urllib.request
from contextlib import suppress
from types import SimpleNamespace

import psutil
import pyarrow.parquet as pq
import pytest
from conftest import LLM, ROOT, SAMPLE, SMALL_RECIPE
from test_annotate import STAND_IN
from test_nodes import wait_for

from hf_recipes.annotation.annotate import annotate
from hf_recipes.annotation.store import PartRow, write_rows
from hf_recipes.recipe import load_recipe
from hf_recipes.study import Study, read_json

SCRIPT = ROOT / "dataset_scripts" / "annotate_and_push.py"
JOB = {"JOB_ID": "6893", "ACCELERATOR": "a10g-small", "CPU_CORES": "4", "MEMORY": "15Gi"}
SAVED = "annotations-so-far"


def test_the_script_names_what_it_needs_within_the_limits_of_the_package():
    text = SCRIPT.read_text()
    block = re.search(r"(?m)^# /// script\n((?:#.*\n)+?)# ///$", text)[1]
    script = tomllib.loads(re.sub(r"(?m)^# ?", "", block))
    assert set(script["dependencies"]) <= set(re.findall(r'"([^"\n]+)"', (ROOT / "setup.py").read_text()))
    (vllm,) = (name for name in script["dependencies"] if name.startswith("vllm"))
    image = re.search(r"--image vllm/vllm-openai:v([\d.]+) ", text)[1]
    assert vllm.startswith(f"vllm>={image.removesuffix('.0')},")
    assert "--timeout" in text


def read(hub, path):
    with urllib.request.urlopen(f"{hub.address}/{path}") as answer:
        return answer.read()


def list_saved(hub, repo, branch="labelling-tweets"):
    """The files on the branch, or none without it."""
    files, cursor = [], 0
    with suppress(urllib.error.HTTPError):  # after the last page, too
        while page := hub.ask(f"api/datasets/{repo}/tree/{branch}/{SAVED}?recursive=true&cursor={cursor}"):
            files += [entry["path"] for entry in page if entry["type"] == "file"]
            cursor += len(page)
    return files


def list_branches(hub, repo):
    return [branch["name"] for branch in hub.ask(f"api/datasets/{repo}/refs")["branches"]]


@pytest.fixture
def start(hub, tmp_path):
    """Starts the script with the stand-in in a folder for each machine."""
    (tmp_path / "path").mkdir()

    def start(repo, machine, seconds="0.002", engine=STAND_IN):
        (tmp_path / machine).mkdir()
        (tmp_path / "path" / "sitecustomize.py").write_text(engine)
        command = [sys.executable, SCRIPT, SAMPLE, "--model", LLM, "--instruction", "Glad, sad or neither?"]
        command += ["--repo", repo, "--name", "tweets", "--no-texts", "--checkpoint-minutes", "0.01"]
        command += ["--data.pool_size=300", "--annotate.max_model_len=384"]
        stand_in = {"DIES": "0", "AFTER": "0", "SECONDS": seconds, "ASKED": str(tmp_path / f"asked-{machine}")}
        env = {**hub.env, **JOB, **stand_in, "PYTHONPATH": f"{tmp_path / 'path'}:{ROOT}"}
        output = (tmp_path / f"{machine}.log").open("w")
        return subprocess.Popen(command, cwd=tmp_path / machine, env=env, stdout=output, stderr=output)

    return start


def test_a_job_that_is_killed_continues_on_another_machine_with_what_it_saved(hub, start, tmp_path):
    def count_asked(machine):
        return len((tmp_path / f"asked-{machine}").read_text().splitlines())

    whole = start("me/whole", "alone")
    assert whole.wait(600) == 0, (tmp_path / "alone.log").read_text()
    lost = start("me/lost", "first", seconds="0.1")
    wait_for(lambda: len([path for path in list_saved(hub, "me/lost") if "/part-" in path]) >= 2)
    processes = psutil.Process(lost.pid).children(recursive=True)
    lost.kill()
    lost.wait()
    assert len(processes) >= 2
    assert psutil.wait_procs(processes, timeout=10)[1] == []  # The annotator ends with the script.
    saved = list_saved(hub, "me/lost")
    assert {os.path.basename(path) for path in saved} >= {"content_free.parquet", "part-00000.parquet"}
    assert not [path for path in saved if path.endswith((".tmp", "manifest.json")) or "/.tmp-" in path]
    parts = [path for path in saved if "/part-" in path]
    tables = [pq.read_table(io.BytesIO(read(hub, f"datasets/me/lost/resolve/labelling-tweets/{p}"))) for p in parts]
    assert "text" not in tables[0].column_names
    num_saved = sum(table["prompt_id"].drop_null().length() for table in tables)

    again = start("me/lost", "second")
    assert again.wait(600) == 0, (tmp_path / "second.log").read_text()
    num_content_free = len(pq.read_table(next((tmp_path / "second").rglob("content_free.parquet"))))
    assert 0 < num_saved < count_asked("second") + num_saved == count_asked("alone") - num_content_free
    assert list_branches(hub, "me/lost") == ["main"]
    states = [hub.ask(f"state/datasets/{repo}") for repo in ("me/whole", "me/lost")]
    first, second = ({path: oid for path, oid in state.items() if path.startswith("data/")} for state in states)
    assert first == second
    assert len(first) >= 2
    study = json.loads(read(hub, "datasets/me/lost/resolve/main/hf-recipes/tweets/study.json"))
    assert study["passes"][0]["manifest"]["job"] == {name.lower(): value for name, value in JOB.items()}
    assert "Job on the Hub" in read(hub, "datasets/me/lost/resolve/main/README.md").decode()

    # The manifest of a pass has its few-shot texts: it is saved with texts alone.
    code = """
import json, runpy
from hf_recipes.recipe import load_recipe
from hf_recipes.study import Study
script = runpy.run_path({script!r})
study = Study(load_recipe({recipe!r}, ["--data.pool_size=300", "--annotate.max_model_len=384"]))
for no_texts in (True, False):
    script["save"](study, "me/lost", "saved-{{}}".format(no_texts), no_texts, 0.05)
print(json.dumps(0))
"""
    hub.python(
        f"import os; os.chdir({str(tmp_path / 'second')!r})"
        + code.format(script=str(SCRIPT), recipe="studies/tweets.yaml")
    )
    with_texts, without = (list_saved(hub, "me/lost", f"saved-{no_texts}") for no_texts in (False, True))
    assert {os.path.basename(path) for path in set(with_texts) - set(without)} == {"manifest.json"}
    assert without


def test_labels_of_a_prompt_that_fails_never_reach_the_hub(hub, start, tmp_path):
    engine = STAND_IN.replace("/ 1000 + 0.01", "/ 1e6 + 1e-6")
    engine += "    Engine.sample = lambda self, *_: ([['Sure']], {})\n"
    assert "1e-6" in engine
    failing = start("me/failing", "alone", seconds="0.02", engine=engine)
    assert failing.wait(300) == 2, (tmp_path / "alone.log").read_text()
    assert "below 0.05. The model begins an answer with 'Sure'" in (tmp_path / "alone.log").read_text()
    assert list((tmp_path / "alone").rglob("part-*.parquet"))
    assert list_branches(hub, "me/failing") == ["main"]
    assert not [line for line in hub.ask("log") if "/branch/" in line]  # There was none meanwhile either.


class FakeHub:
    """Branches in place of the Hub's, which upload nothing, and the upload's error."""

    def __init__(self, monkeypatch, error=None):
        self.branches, self.num_uploads, self.error = ["main"], 0, error
        for name in ("create_repo", "auth_check", "list_repo_refs", "create_branch", "delete_branch", "upload_folder"):
            monkeypatch.setattr(f"huggingface_hub.HfApi.{name}", getattr(self, name))

    def create_repo(self, *_, **options):
        pass

    auth_check = create_repo

    def list_repo_refs(self, *_, **options):
        return SimpleNamespace(branches=[SimpleNamespace(name=name) for name in self.branches])

    def create_branch(self, *_, branch, **options):
        self.branches = sorted({*self.branches, branch})

    def delete_branch(self, *_, branch, **options):
        self.branches.remove(branch)

    def upload_folder(self, **options):
        self.num_uploads += 1
        if self.error:
            raise self.error


@pytest.fixture
def run_script(tmp_path, monkeypatch):
    """Runs the script, in which an annotator that writes a part and ends with `code` replaces the real one."""

    def run(mass, code, *flags):
        script, commands = runpy.run_path(str(SCRIPT)), []

        def begin(command, env):
            commands.append(command[4])
            study = Study(load_recipe(tmp_path / "studies" / "tweets.yaml", []))
            with study.lock():
                study.annotations("0a").mkdir(parents=True)
                row = PartRow("id", "ok", "hash", [math.log(mass / 2), math.log(mass / 2)])
                write_rows(study.annotations("0a") / "part-00000.parquet", [row], study.checksums)
            waits = iter([subprocess.TimeoutExpired(command, 0), code])

            def wait(seconds):
                end = next(waits)
                if isinstance(end, Exception):
                    raise end
                return end

            return SimpleNamespace(wait=wait)

        def push(command, check):
            commands.append(command[3])
            return subprocess.CompletedProcess(command, 0)

        monkeypatch.setattr("subprocess.Popen", begin)
        monkeypatch.setattr("subprocess.run", push)
        monkeypatch.chdir(tmp_path)
        labels = SimpleNamespace(annotator=SimpleNamespace(label_mass_mean=mass))
        monkeypatch.setitem(script["main"].__globals__, "read_label_quality", lambda study: labels)
        arguments = ["annotate_and_push.py", str(SAMPLE), "--model", str(LLM), "--instruction", "Glad or sad?"]
        monkeypatch.setattr("sys.argv", [*arguments, "--repo", "me/tweets", *flags])
        with pytest.raises(SystemExit) as end:
            script["main"]()
        return end.value.code, commands

    return run


@pytest.mark.parametrize("error", [ValueError("Provided path is not a file"), RuntimeError("xet"), OSError("network")])
def test_a_save_that_fails_does_not_end_the_labelling(error, run_script, monkeypatch, capfd):
    hub = FakeHub(monkeypatch, error)
    assert run_script(0.9, 0) == (0, ["annotate", "push"])
    assert hub.num_uploads == 1
    assert f"The labels so far were not saved: {error}." in capfd.readouterr().err
    assert hub.branches == ["main"]


@pytest.mark.parametrize(
    ("mass", "code", "flags", "num_uploads", "is_kept"),
    [
        (0.9, 70, [], 2, True),  # after 10 minutes, and when the annotator has died
        (0.9, 2, [], 1, True),  # an error of the user: nothing more is saved, and what was saved remains
        (0.01, 2, [], 0, False),  # the stop for a low label mass
        (0.01, 70, [], 0, True),  # a save that is skipped deletes nothing
        (0.01, 0, [], 0, False),  # the script's own refusal
        (0.01, 70, ["--allow-low-label-mass"], 2, True),
        (0.01, 2, ["--allow-low-label-mass"], 1, True),
    ],
)
def test_what_is_saved_depends_on_the_annotators_end_and_the_label_mass(
    mass, code, flags, num_uploads, is_kept, run_script, monkeypatch
):
    hub = FakeHub(monkeypatch)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **options: None)
    hub.branches.append("labelling-tweets")  # of an earlier job that saved nothing
    ended, commands = run_script(mass, code, *flags)
    assert commands == ["annotate"]
    assert ended == code or (code == 0 and "must be at least 0.05 to publish. Got 0.010" in ended)
    assert hub.num_uploads == num_uploads
    assert ("labelling-tweets" in hub.branches) == is_kept


RESTORE = """
import io, json, os, runpy
from pathlib import Path
from huggingface_hub import HfApi
from hf_recipes.recipe import load_recipe
from hf_recipes.study import Study
script = runpy.run_path({script!r})
study = Study(load_recipe({recipe!r}, ["--output_dir={folder}"]))
HfApi().create_repo("me/labels", repo_type="dataset", exist_ok=True)
HfApi().create_branch("me/labels", repo_type="dataset", branch="saved", exist_ok=True)
{before}
script["restore"](study, "me/labels", "saved")
print(json.dumps({{str(path.relative_to(study.root)): path.read_text() for path in study.root.rglob("*.*")
    if path.is_file() and path.name[0] != "." and path.name not in ("recipe.yaml", "checksums.json")}}))
"""
UPLOAD = """
for path in ("annotations/0a/part-00000.parquet", "annotations/0a/part-00001.parquet", "revisions.json",
             "recipe.yaml", "rows/train.parquet"):
    HfApi().upload_file(path_or_fileobj=path.encode(), path_in_repo="annotations-so-far/" + path,
                        repo_id="me/labels", repo_type="dataset", revision="saved")
"""
KILLED = """
print(0, flush=True)
study.checksums.publish = lambda *_: os._exit(0)
"""


def test_restoring_takes_what_is_saved_and_survives_an_empty_branch_and_a_kill(hub, tmp_path):
    def restore(before=""):
        values = {
            "script": str(SCRIPT),
            "recipe": str(SMALL_RECIPE),
            "folder": str(tmp_path / "study"),
            "before": before,
        }
        return hub.python(RESTORE.format(**values))

    root = tmp_path / "study"
    assert restore() == {}  # The job ended between the branch and its first upload.
    assert restore(UPLOAD + KILLED) == 0
    assert not (root / "annotations").exists()
    assert len(list((root / ".tmp-annotations" / "0a").iterdir())) == 2
    files = ("annotations/0a/part-00000.parquet", "annotations/0a/part-00001.parquet", "revisions.json")
    assert restore() == {path: path for path in files}  # no file that `save` does not write
    assert not (root / ".tmp-annotations").exists()
    assert set(read_json(root / "checksums.json")) == set(files[:2])
    (root / files[0]).unlink()
    assert files[0] not in restore()  # This disk has labels.


@pytest.mark.parametrize(("variables", "is_job"), [(JOB, True), ({"JOB_ID": "6893"}, False)])
def test_a_job_of_a_cluster_is_not_a_job_on_the_hub(variables, is_job, make_study, engine, monkeypatch):
    for name in JOB:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    study = make_study("--data.pool_size=30", "--data.test_size=5", "--grid=null", "--train=null")
    (key,) = annotate(study)
    job = read_json(study.annotations(key) / "manifest.json").get("job")
    assert job == ({name.lower(): value for name, value in JOB.items()} if is_job else None)
