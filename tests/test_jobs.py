"""The script that labels on a machine which may be lost: what it saves on a branch, and how it continues."""

import io
import json
import os
import re
import subprocess
import sys
import tomllib
import urllib.request
from contextlib import suppress

import pyarrow.parquet as pq
from conftest import LLM, ROOT, SAMPLE
from test_annotate import STAND_IN
from test_nodes import kill, wait_for

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


def test_a_job_that_is_killed_continues_on_another_machine_with_what_it_saved(hub, tmp_path):
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(STAND_IN)

    def start(repo, machine, seconds="0.002"):
        (tmp_path / machine).mkdir()
        command = [sys.executable, SCRIPT, SAMPLE, "--model", LLM, "--instruction", "Glad, sad or neither?"]
        command += ["--repo", repo, "--name", "tweets", "--no-texts", "--checkpoint-minutes", "0.01"]
        command += ["--data.pool_size=300", "--annotate.max_model_len=384"]
        stand_in = {"DIES": "0", "AFTER": "0", "SECONDS": seconds, "ASKED": str(tmp_path / f"asked-{machine}")}
        env = {**hub.env, **JOB, **stand_in, "PYTHONPATH": f"{tmp_path / 'path'}:{ROOT}"}
        output = (tmp_path / f"{machine}.log").open("w")
        return subprocess.Popen(command, cwd=tmp_path / machine, env=env, stdout=output, stderr=output)

    def count_asked(machine):
        return len((tmp_path / f"asked-{machine}").read_text().splitlines())

    whole = start("me/whole", "alone")
    assert whole.wait(600) == 0, (tmp_path / "alone.log").read_text()
    lost = start("me/lost", "first", seconds="0.1")
    wait_for(lambda: len([path for path in list_saved(hub, "me/lost") if "/part-" in path]) >= 2)
    kill(lost)
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
    assert hub.ask("api/datasets/me/lost/refs")["branches"] == [
        {**branch, "name": "main"} for branch in hub.ask("api/datasets/me/lost/refs")["branches"]
    ]
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
    script["save"](study, "me/lost", "saved-{{}}".format(no_texts), no_texts)
print(json.dumps(0))
"""
    hub.python(
        f"import os; os.chdir({str(tmp_path / 'second')!r})"
        + code.format(script=str(SCRIPT), recipe="studies/tweets.yaml")
    )
    with_texts, without = (list_saved(hub, "me/lost", f"saved-{no_texts}") for no_texts in (False, True))
    assert {os.path.basename(path) for path in set(with_texts) - set(without)} == {"manifest.json"}
    assert without
