"""To the Hub and back: the stock clients over HTTP against a Hub in miniature, which can be told to misbehave."""

import ast
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import LLM, ROOT, SAMPLE, SMALL_RECIPE

from hf_recipes.annotation.annotate import annotate
from hf_recipes.study import read_json


@pytest.fixture
def small(make_study, engine):
    """A study of labels alone."""

    def make(name, *more):
        overrides = ("--data.pool_size=40", "--annotate.prompt.shots_per_class=1", "--grid=null", "--train=null")
        made = make_study(*overrides, f"--name={name}", *more, folder=name)
        annotate(made)
        return made

    return make


LOAD = """
import json
from datasets import load_dataset
from huggingface_hub import hf_hub_download
found = {{}}
for config in {configs}:
    data = load_dataset("me/labels", config)
    stream = load_dataset("me/labels", config, streaming=True)
    found[config] = {{split: data[split].to_list() for split in data}}
    assert found[config] == {{split: list(stream[split]) for split in stream}}
    assert {{s: str(data[s].features) for s in data}} == {{s: str(stream[s].features) for s in stream}}
    found[config]["features"] = list(data["train"].features)
    names = getattr(data["train"].features.get("label"), "names", None)
    found[config]["names"] = names
found["card"] = open(hf_hub_download("me/labels", "README.md", repo_type="dataset")).read()
print(json.dumps(found))
"""


SNAPSHOT = """
import json, pathlib
import pyarrow.parquet as pq
from huggingface_hub import snapshot_download
files = pathlib.Path(snapshot_download('me/labels', repo_type='dataset', revision='main')).rglob('*.*')
print(json.dumps([str(pq.read_table(f).to_pydict()) if f.suffix == '.parquet' else f.read_text(errors='replace')
                  for f in files if f.is_file()]))
"""


def commits(hub):
    return [line for line in hub.ask("log") if "/commit/" in line]


def test_a_study_is_published_whole_and_pulled_back(hub, study, tmp_path):
    said = hub.cli("push", "dataset", study.recipe_file, "--repo", "me/labels")
    assert f"{hub.address}/datasets/me/labels/commit/" in said
    assert len(commits(hub)) == 1
    variants = ["gold", "llm", "llm-entropy-replace", "llm-random-replace"]
    tables = ["annotations", "runs", "predictions", "out_of_bag", "results"]
    found = hub.python(LOAD.format(configs=[*variants, *tables]))
    for variant in variants:
        local = pq.read_table(study.dataset / "data" / variant / "train-00000-of-00001.parquet").to_pylist()
        assert found[variant]["train"] == [{**row} for row in local]
        assert found[variant]["names"] == ["negative", "neutral", "positive"]
        assert len(found[variant]["test"]) == 21
    assert {row["pass"] for row in found["annotations"]["train"]} == {0, 1}
    assert len(found["annotations"]["train"]) == 2 * 90 + 21  # the first pass has the test rows too
    assert len(found["runs"]["train"]) == 8
    assert len(found["predictions"]["train"]) == 8 * 21
    files = sorted(study.root.glob("runs/*/*/*/out_of_bag.parquet"))
    assert len(files) == 8
    out_of_bag = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert sorted(map(str, found["out_of_bag"]["train"])) == sorted(map(str, out_of_bag))
    figures = {(row["variant"], row["against"], row["figure"], row["size"]): row for row in found["results"]["train"]}
    results = read_json(study.results_file)
    for variant in results["variants"]:
        row = figures[variant["variant"], None, "macro_f1_mean", 20]
        assert [row["value"], row["R"], row["n"]] == [variant["macro_f1_mean"], 2, 21]
        assert [row["low"], row["high"]] == variant["macro_f1_mean_interval"]
        assert row["primary"] is None
    for one in results["comparisons"]:
        row = figures[one["variant"], one["against"], one["figure"], 20]
        assert [row["value"], row["p_holm"], row["verdict"]] == [one["difference"], one.get("p_holm"), one["verdict"]]
    assert len(figures) == len(found["results"]["train"])
    card = found["card"]
    assert "license: mit" in card
    assert "machine-generated" in card
    assert "Is each tweet positive, neutral or negative?" in card
    assert "/resolve/main/hf-recipes/tweets/figure.png)\n" in card
    (example,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    loaded = f"{example}\nimport json\nprint(json.dumps([len(predictions), len(out_of_bag), len(data['test'])]))"
    assert hub.python(loaded) == [8 * 21, len(found["out_of_bag"]["train"]), 21]

    sent = [line for line in hub.ask("log") if line.startswith("PUT")]
    hub.cli("push", "dataset", study.recipe_file, "--repo", "me/labels")
    assert [line for line in hub.ask("log") if line.startswith("PUT")] == sent  # nothing is sent twice
    assert len(commits(hub)) == 1

    everything = hub.python(SNAPSHOT)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any("hf_secret" in text for text in everything)
    assert not any(b"hf_secret" in content for content in written)

    hub.cli("pull", "me/labels", "--output_dir", tmp_path / "pulled")
    recipe = tmp_path / "pulled" / "recipe.yaml"
    before = read_json(study.results_file)
    (tmp_path / "pulled" / "report" / "results.json").unlink()
    hub.cli("report", recipe)
    after = read_json(tmp_path / "pulled" / "report" / "results.json")
    assert {k: v for k, v in after.items() if k != "key"} == {k: v for k, v in before.items() if k != "key"}
    for file in [*files, *study.rows.glob("*.parquet")]:
        pulled = pq.read_table(tmp_path / "pulled" / file.relative_to(study.root))
        assert pulled.to_pylist() == pq.read_table(file).to_pylist()
    assert "exists" in hub.cli("pull", "me/labels", "--output_dir", tmp_path / "pulled", code=2)
    assert "has the studies tweets" in hub.cli("pull", "me/labels", "--study", "other", code=2)
    assert "The repo does not exist" in hub.cli("pull", "me/nothing", code=2)
    assert "no such branch" in hub.cli("pull", "me/labels", "--revision", "x", code=2)
    assert "owner/name" in hub.cli("pull", "a/b/c", code=2)

    fewer = ["push", "dataset", study.recipe_file, "--repo", "me/labels", "--grid.variants=[gold, llm]"]
    said = hub.cli(*fewer)
    assert "llm-entropy-replace, llm-random-replace are no longer in the study" in said
    assert "had 8 runs of this study. Now it has 4." in said
    assert "is up to date" in hub.cli(*fewer)


THEIRS = """
import json
import pyarrow as pa, pyarrow.parquet as pq
from huggingface_hub import HfApi, CommitOperationAdd
api = HfApi()
api.create_repo("me/labels", repo_type="dataset")
files = {{p: c.encode() for p, c in {files}.items()}}
pq.write_table(pa.table({{"a": [1], "b": [2]}}), "{folder}/raw.parquet")
files["raw.{kind}"] = open("{folder}/raw.parquet", "rb").read() if "{kind}" == "parquet" else b"a,b\\n1,2\\n"
api.create_commit("me/labels", [CommitOperationAdd(p, c) for p, c in files.items()], repo_type="dataset",
                  commit_message="theirs")
print(json.dumps(None))
"""
CARD = (
    "---\nlicense: cc0-1.0 # theirs\nconfigs:\n- config_name: llm   # theirs\n  data_files: raw.parquet\n---\n"
    "# Their own\n"
)


def test_a_repo_without_configs_is_still_loaded_as_it_was_and_other_formats_are_refused(hub, study, tmp_path):
    hub.python(THEIRS.format(files={"notes.md": "x"}, kind="parquet", folder=tmp_path))
    hub.cli("push", "dataset", study.recipe_file, "--repo", "me/labels")
    found = hub.python(
        "import json\nfrom datasets import load_dataset\n"
        "theirs, ours = load_dataset('me/labels'), load_dataset('me/labels', 'llm')\n"
        "print(json.dumps([theirs['train'].to_list(), len(ours['test'])]))"
    )
    assert found == [[{"a": 1, "b": 2}], 21]
    hub.python(THEIRS.replace("me/labels", "me/csv").format(files={"notes.md": "x"}, kind="csv", folder=tmp_path))
    said = hub.cli("push", "dataset", study.recipe_file, "--repo", "me/csv", code=2)
    assert "its files are not parquet (Csv" in said


def test_a_card_that_cannot_be_read_is_not_taken_for_an_empty_one(hub, study, tmp_path):
    hub.python(THEIRS.format(files={"README.md": CARD}, kind="parquet", folder=tmp_path))
    hub.ask("faults", {"read": ["403"]})
    said = hub.cli("push", "dataset", study.recipe_file, "--repo", "me/labels", code=2)
    assert "nothing was published" in said
    assert len(commits(hub)) == 1
    hub.ask("faults", {})
    wide = CARD.replace("raw.parquet", '"**/*.parquet"')
    hub.python(
        THEIRS.replace("me/labels", "me/wide").format(files={"README.md": wide}, kind="parquet", folder=tmp_path)
    )
    said = hub.cli("push", "dataset", study.recipe_file, "--repo", "me/wide", code=2)
    assert "config 'llm' would take" in said
    assert "is public" in hub.cli("push", "dataset", study.recipe_file, "--repo", "me/wide", "--private", code=2)


FIRST = (
    "import json\nfrom huggingface_hub import HfApi\n"
    "HfApi().create_branch('me/labels', branch='first', repo_type='dataset')\nprint(json.dumps(None))"
)
EVIL = """
import json
from huggingface_hub import HfApi, hf_hub_download
api = HfApi()
said = json.load(open(hf_hub_download("me/labels", "hf-recipes/tweets/study.json", repo_type="dataset",
                                      revision="first")))
{change}
api.upload_file(path_or_fileobj=json.dumps(said).encode(), path_in_repo="hf-recipes/tweets/study.json",
                repo_id="me/labels", repo_type="dataset")
print(json.dumps(None))
"""


def test_what_is_pulled_is_not_believed(hub, study, tmp_path):
    hub.cli("push", "dataset", study.recipe_file, "--repo", "me/labels")
    hub.python(FIRST)
    out = tmp_path / "outside"
    changes = (f"said['passes'][0]['key'] = '{out}'", f"said['prefix'] = '{out}/'", "said['recipe']['name'] = '../x'")
    for change in (*changes, "said['recipe']['annotate']['engine_args'] = {'trust_remote_code': True}", "said = [1]"):
        hub.python(EVIL.format(change=change))
        said = hub.cli("pull", "me/labels", "--output_dir", tmp_path / "pulled", code=2)
        assert "is damaged" in said
        assert not out.exists()
        assert not (tmp_path / "pulled").exists()


@pytest.fixture
def listener():
    """A port and the number of connections it received."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)

        def count():
            calls = 0
            while True:
                try:
                    server.accept()[0].close()
                    calls += 1
                except BlockingIOError:
                    return calls

        yield SimpleNamespace(address=f"127.0.0.1:{server.getsockname()[1]}", count=count)


def files_with(folder, text):
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


PASSES = "--annotate.passes=[{prompt: {seed: 5}, base_url: 'http://%s'}]"


def test_a_pulled_study_calls_no_server_of_a_stranger(hub, small, tmp_path, listener):
    """Push sends no address and pull writes none, for any study.json."""
    study = small("tweets", PASSES % listener.address, f"--annotate.base_url=http://{listener.address}")
    hub.cli("push", "dataset", study.recipe_file, "--repo", "me/labels")
    assert not [text for text in hub.python(SNAPSHOT) if listener.address in text]
    hub.cli("pull", "me/labels", "--output_dir", tmp_path / "honest")
    assert not files_with(tmp_path / "honest", listener.address)
    hub.cli("plan", tmp_path / "honest" / "recipe.yaml")

    hub.python(FIRST)
    evil = f"""
where = 'http://{listener.address}'
section = said['recipe']['annotate']
section.update(engine='server', base_url=[where], ray={{**section['ray'], 'address': '{listener.address}'}})
section['passes'][0].update(engine='server', base_url=where)
said['recipe']['output_dir'] = '/elsewhere'
"""
    hub.python(EVIL.format(change=evil))
    hub.cli("pull", "me/labels", "--output_dir", tmp_path / "evil")
    assert not files_with(tmp_path / "evil", listener.address)
    assert not files_with(tmp_path / "evil", "/elsewhere")
    plan = [sys.executable, "-m", "hf_recipes.cli", "plan", tmp_path / "evil" / "recipe.yaml"]
    done = subprocess.run(plan, check=False, cwd=ROOT, env={**hub.env, "VLLM_API_KEY": "secret"}, capture_output=True)
    assert done.returncode in (0, 2)
    assert b"was made by another recipe" not in done.stderr
    assert listener.count() == 0


STRANGER = """
import json
from huggingface_hub import CommitOperationAdd, HfApi
files = {files}
api = HfApi()
api.create_repo("{repo}", repo_type="dataset", exist_ok=True)
operations = [CommitOperationAdd(path, text.encode()) for path, text in files.items()]
api.create_commit("{repo}", operations, repo_type="dataset", commit_message="theirs")
print(json.dumps(None))
"""


def test_second_answers_are_published_and_pulled(hub, small, tmp_path):
    study = small("tweets", "--annotate.repeat_check=20")
    (file,) = study.annotations_root.glob("*/repeat.parquet")
    hub.cli("push", "dataset", study.recipe_file, "--repo", "me/labels", "--no-texts")
    hub.cli("pull", "me/labels", "--output_dir", tmp_path / "pulled")
    pulled = tmp_path / "pulled" / file.relative_to(study.root)
    assert pq.read_table(pulled).equals(pq.read_table(file))
    assert len(pq.read_table(pulled)) == 20


def test_pull_fetches_the_files_of_the_study_alone(hub, small, tmp_path):
    hub.cli("push", "dataset", small("tweets").recipe_file, "--repo", "me/labels")
    others = (
        "data/x-annotations/train.bin",
        "hf-recipes/tweets/more.json",
        "hf-recipes/other/study.json",
        "data/annotations/x",
    )
    hub.python(STRANGER.format(files=dict.fromkeys(others, "x"), repo="me/labels"))
    start = len(hub.ask("log"))
    hub.cli("pull", "me/labels", "--study", "tweets", "--output_dir", tmp_path / "pulled")
    fetched = {line.split("/")[-1].split()[0] for line in hub.ask("log")[start:] if line.startswith("GET /datasets/")}
    rows = {"rows-train.parquet", "rows-test.parquet", "train-00000-of-00001.parquet"}
    rows |= {"rows-train-source.parquet", "rows-test-source.parquet"}
    assert fetched == {"study.json", "labels.json", *rows}


def test_a_folder_named_like_the_repo_is_not_taken_for_it(hub, small, tmp_path):
    study = small("tweets", f"--data.path={SAMPLE}", f"--annotate.model={LLM}")
    (tmp_path / "me" / "labels").mkdir(parents=True)
    (tmp_path / "me" / "labels" / "x.csv").write_text("a,b\n1,2\n")
    command = [sys.executable, "-m", "hf_recipes.cli", "push", "dataset", study.recipe_file, "--repo", "me/labels"]
    env = {**hub.env, "PYTHONPATH": str(ROOT)}
    for _ in range(2):  # the second one asks for the config that was there
        done = subprocess.run(command, check=False, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "datasets/me/labels/commit/" in done.stdout


def test_configs_in_braces_are_kept_and_a_loading_script_is_refused_at_once(hub, small, tmp_path):
    recipe = small("tweets").recipe_file
    card = "---\nconfigs:\n- {config_name: x, data_files: raw.parquet}\n---\n"
    hub.python(THEIRS.format(files={"README.md": card}, kind="parquet", folder=tmp_path))
    hub.cli("push", "dataset", recipe, "--repo", "me/labels")
    found = hub.python(
        "import json\nfrom datasets import load_dataset\n"
        "theirs, ours = load_dataset('me/labels'), load_dataset('me/labels', 'llm')\n"
        "print(json.dumps([theirs['train'].to_list(), len(ours['train'])]))"
    )
    assert found == [[{"a": 1, "b": 2}], 37]

    def refuse(repo, files, sentence):
        hub.python(STRANGER.format(files=files, repo=repo))
        start = len(hub.ask("log"))
        assert sentence in hub.cli("push", "dataset", recipe, "--repo", repo, code=2)
        assert len([line for line in hub.ask("log")[start:] if "/revision/" in line]) < 5  # a try asks once or twice
        assert len([line for line in hub.ask("log")[start:] if "/commit/" in line]) == 0

    refuse("me/script", {"script.py": "x"}, "must not have a loading script. `datasets` refuses every config of a")
    refuse("me/all", {"README.md": "---\nconfigs:\n- {config_name: x}\n---\n"}, "its config 'x' would take")
    braces = {"README.md": "---\nconfigs: [{config_name: x, data_files: a.parquet}]\n---\n"}
    refuse("me/brackets", braces, "one item with a dash after the other")
    gone = {"README.md": "---\nconfigs:\n- config_name: x\n  data_files: gone.parquet\n---\n", "y.txt": "y"}
    refuse("me/gone", gone, "config 'x' of its README.md")


UPLOAD = """
import json
from huggingface_hub import HfApi
HfApi().upload_file(path_or_fileobj="{file}", path_in_repo="{path}", repo_id="me/labels", repo_type="dataset")
print(json.dumps(None))
"""
PULL = """
from pathlib import Path
from hf_recipes.hub.pull import pull_study
try:
    refusals.append(str(pull_study("me/labels", Path("{folder}"))))
except ValueError as error:
    refusals.append(str(error))
"""
NESTED = "'{% for a in labels %}{% for b in labels %}{{ a }}{% endfor %}{% endfor %}{{ text }}'"
MANY_RUNS = "grid={'sizes': list(range(2, 402)), 'seeds': list(range(100))}, train={'encoder': 'x'}"
PROMPT = "said['recipe']['annotate']['prompt']"


def test_what_a_pulled_study_may_cost(hub, small, tmp_path):
    study = small("tweets")
    hub.cli("push", "dataset", study.recipe_file, "--repo", "me/labels")
    hub.python(FIRST)

    def refuse(sentence):
        said = hub.cli("pull", "me/labels", "--study", "tweets", "--output_dir", tmp_path / "pulled", code=2)
        assert sentence in said
        assert "\x1b" not in said
        assert not (tmp_path / "pulled").exists()

    changes = {
        f"{PROMPT}['template'] = {NESTED}": "it has a loop inside a loop",
        f"{PROMPT}['template'] = '{{% for i in range(9) %}}{{% endfor %}}{{{{ text }}}}'": "something else than labels",
        f"{PROMPT}['template'] = '{{% for l in labels %}}{{{{ labels }}}}{{% endfor %}}{{{{ text }}}}'": "a whole list",
        f"said['recipe'].update({MANY_RUNS})": "`grid` must have at most 100,000 runs",
        f"{PROMPT}['template'] = '{{{{ text * 1000000 }}}}'": "it has Mul",
        f"{PROMPT}['template'] = '{{{{ text.center(99999999) }}}}'": "it has Call",
        f"{PROMPT}['template'] = '{{{{ text | center(99999999) }}}}'": "it has the filter center",
        f"{PROMPT}['template'] = '{{{{ text }}}}' + 'x' * 10000": "it has 10,010 characters",
        "said['recipe']['data'].update(text_template='{{ a ~ b }}')": "`data.text_template` must be a simple template",
        f"{PROMPT}['instruction'] = 'x' * 200000": "`recipe` must have at most 200,000 characters",
        "said['rows']['label_names'] = ['\\x1b]0;title']": "must not have control characters",
        "said['rows']['x'] = 'x' * 17_000_000": "must have at most 16,777,216 bytes",
        f"{PROMPT}['instruction'] = '\\x1b[31mred'": "must not have control characters",
    }
    pull = PULL.format(folder=tmp_path / "pulled")
    found = hub.python(
        "refusals = []\n"
        + "".join(EVIL.format(change=change).replace("print(json.dumps(None))", pull) for change in changes)
        + "print(json.dumps(refusals))"
    )
    for sentence, refusal in zip(changes.values(), found, strict=True):
        assert sentence in refusal
    refuse("must not have control characters")  # the last of them
    deep = tmp_path / "deep.json"
    deep.write_text('{"a":' * 200_000 + "1" + "}" * 200_000)
    hub.python(UPLOAD.format(file=deep, path="hf-recipes/tweets/study.json"))
    refuse("is damaged")

    # a table of some kilobytes that stands for eight gigabytes
    hub.python(EVIL.format(change=""))
    rows, text = pq.read_table(study.rows / "train.parquet").slice(0, 1), pa.array(["x" * 200_000])
    rows = rows.take(pa.array([0] * 40_000))
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 40_000, pa.int32()), text)
    rows = rows.set_column(rows.column_names.index("text"), "text", texts)
    pq.write_table(rows, tmp_path / "bomb.parquet", store_schema=False)
    assert (tmp_path / "bomb.parquet").stat().st_size < 100_000
    hub.python(UPLOAD.format(file=tmp_path / "bomb.parquet", path="hf-recipes/tweets/rows-train.parquet"))
    refuse("`rows-train.parquet` has more than 33,554,432 bytes")
    peak = hub.python(f"""
import json, resource
from pathlib import Path
import datasets, huggingface_hub, torch, transformers
from hf_recipes.hub.pull import pull_study
libraries = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    pull_study("me/labels", Path("{tmp_path}/pulled"))
except ValueError:
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - libraries))
""")
    assert peak < 1_000_000  # kilobytes, without the libraries themselves

    many = {f"hf-recipes/study{number}/study.json": "x" for number in range(1999)}
    hub.python(STRANGER.format(files=many, repo="me/labels"))
    start = len(hub.ask("log"))
    said = hub.cli("pull", "me/labels", code=2)
    assert "study0, study1, " in said
    assert "and 1,990 more" in said
    assert len(said) < 300
    assert len(hub.ask("log")) < start + 9


def test_into_a_repo_with_content_of_others(hub, study, tmp_path):
    files = {"README.md": CARD, "notes/x.txt": "mine"}
    hub.python(THEIRS.format(files=files, kind="parquet", folder=tmp_path))
    hub.ask("faults", {"commit": ["race"]})
    hub.cli("push", "dataset", study.recipe_file, "--repo", "me/labels")
    assert len(commits(hub)) == 3  # theirs, the one that was refused, and the one after it
    found = hub.python(LOAD.format(configs=["llm", "tweets-llm", "tweets-annotations"]))
    assert found["llm"]["train"] == [{"a": 1, "b": 2}]
    assert "license: cc0-1.0 # theirs\n" in found["card"]
    assert "- config_name: llm   # theirs\n  data_files: raw.parquet\n  default: true\n" in found["card"]
    assert "---\n# Their own\n" in found["card"]
    kept = hub.python(
        "import json\nfrom huggingface_hub import hf_hub_download as get\n"
        "print(json.dumps([open(get('me/labels', p, repo_type='dataset')).read() for p in "
        "('README.md', 'notes/x.txt', 'SOMEBODY')]))"
    )
    assert kept[1] == "mine"
    assert kept[2]
    assert "taken" in hub.cli("push", "dataset", study.recipe_file, "--repo", "me/labels", "--prefix", "", code=2)
    hub.ask("faults", {"commit": ["drop"]})  # the commit lands, its answer is lost
    hub.cli("push", "dataset", study.recipe_file, "--repo", "me/labels", "--prefix", "mine-")
    log = commits(hub)
    assert len(log) == 4
    after = hub.python(LOAD.format(configs=["llm", "mine-llm"]))
    assert "config_name: tweets-" not in after["card"]
    assert after["mine-llm"]["train"] == found["tweets-llm"]["train"]


def test_without_texts_into_a_branch_and_as_a_pull_request(hub, study, command, tmp_path):
    hub.cli("push", "dataset", study.recipe_file, "--repo", "me/labels", "--no-texts", "--revision", "quiet")
    code = LOAD.format(configs=["llm", "annotations"]).replace(
        '"me/labels", config', '"me/labels", config, revision="quiet"'
    )
    found = hub.python(code.replace('repo_type="dataset"', 'repo_type="dataset", revision="quiet"'))
    assert {"text", "mean_rating", "ratings", "source_id"}.isdisjoint(found["llm"]["features"])
    assert set(found["llm"]["test"][0]) == set(found["llm"]["features"])
    texts = pq.read_table(study.rows / "train.parquet")["text"].to_pylist()
    everything = hub.python(SNAPSHOT.replace("'main'", "'quiet'"))
    long = [text for text in texts if len(text) > 25]
    assert not [text for text in long if any(text in one or json.dumps(text)[1:-1] in one for one in everything)]
    (snippet,) = [code for code in re.findall(r"```python\n(.*?)```", found["card"], re.DOTALL) if "row_ids" in code]
    ids = hub.python(f"{snippet}\nimport json\nprint(json.dumps(texts))")
    local = {row["id"]: row["text"] for row in pq.read_table(study.rows / "train.parquet").to_pylist()}
    assert all(ids[row["id"]] == local[row["id"]] for row in found["llm"]["train"])
    hub.cli("pull", "me/labels", "--revision", "quiet", "--output_dir", tmp_path / "pulled")
    again = ["push", "dataset", tmp_path / "pulled" / "recipe.yaml", "--repo", "me/labels", "--revision", "quiet"]
    assert "Publish it with --no-texts" in hub.cli(*again, code=2)
    made = len(commits(hub))
    hub.cli(*again, "--no-texts")
    assert len(commits(hub)) == made  # it is the same
    assert command("report", tmp_path / "pulled" / "recipe.yaml")[0] == 0
    assert "201" in command("plan", tmp_path / "pulled" / "recipe.yaml")[1]
    assert command("run", tmp_path / "pulled" / "recipe.yaml")[0] == 0  # there is nothing left to do
    for step in (
        ["plan", "--annotate.prompt.seed=9"],
        ["train", "--grid.seeds=[0, 1, 2]"],
        ["train", "--train.epochs=2"],
    ):
        status, _, said = command(step[0], tmp_path / "pulled" / "recipe.yaml", *step[1:], "--accept-changes")
        assert status == 2
        assert "has no texts" in said
    again[2] = study.recipe_file
    assert "Repeat --no-texts, or add them with --texts" in hub.cli(*again, code=2)
    assert len(commits(hub)) == made
    pull_request = ["push", "dataset", study.recipe_file, "--repo", "me/labels", "--create-pr"]
    for number, fault in enumerate(([], ["drop"])):
        more = [f"--prefix=p{number}-"]
        hub.ask("faults", {"commit": fault})
        assert f"/discussions/{number + 1}" in hub.cli(*pull_request, *more)
        assert f"/discussions/{number + 1}" in hub.cli(*pull_request, *more)
        assert len(commits(hub)) == made + number + 1  # neither the lost answer nor the second call has opened another
    main = hub.python(
        "import json\nfrom huggingface_hub import HfApi\n"
        "print(json.dumps(HfApi().list_repo_files('me/labels', repo_type='dataset')))"
    )
    assert main == [".gitattributes"]  # a branch and a pull request leave main alone
    hub.cli(*again, "--texts")
    quiet = hub.python(code.replace('repo_type="dataset"', 'repo_type="dataset", revision="quiet"'))
    assert "text" in quiet["llm"]["features"]


def test_groups_and_clusters_are_published_without_texts_too(hub, small, tmp_path):
    study = small("tweets", "--data.group_column=label", "--data.cluster_column=id")
    local = pq.read_table(study.rows / "train.parquet").to_pydict()
    assert len(set(local["cluster"])) == 40
    for option in ("--texts", "--no-texts"):
        repo, folder = f"me/labels{option[1:]}", tmp_path / option
        hub.cli("push", "dataset", study.recipe_file, "--repo", repo, option)
        hub.cli("pull", repo, "--output_dir", folder)
        pulled = pq.read_table(folder / "rows" / "train.parquet").to_pydict()
        for column in ("id", "group", "cluster"):
            assert pulled[column] == local[column]
        assert (pulled["text"] == local["text"]) == (option == "--texts")


def test_two_studies_in_one_repo(hub, study, small):
    other = small("other")
    hub.cli("push", "dataset", other.recipe_file, "--repo", "me/labels")
    hub.cli("push", "dataset", study.recipe_file, "--repo", "me/labels")
    found = hub.python(LOAD.format(configs=["llm", "annotations", "tweets-gold", "tweets-llm", "tweets-predictions"]))
    assert len(found["llm"]["train"]) < 40 < len(found["tweets-llm"]["train"])
    assert found["card"].count("begin -->") == 2
    assert "other, tweets" in hub.cli("pull", "me/labels", code=2)
    hub.cli("push", "dataset", other.recipe_file, "--repo", "me/labels")
    assert hub.python(LOAD.format(configs=["llm"]))["card"] == found["card"]


IGNORES = r"""
import json, pathlib
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download as get
api = HfApi()
card = pathlib.Path(get("me/labels", "README.md", repo_type="dataset")).read_text()
paths = [line for line in card.splitlines() if "data/llm/" in line]
operations = [CommitOperationAdd(".gitignore", b"*.parquet\n*.json\nREADME.md\n"),
              CommitOperationAdd("theirs/data.parquet", open(get("me/labels", "data/llm/train-00000-of-00001.parquet",
                                                                  repo_type="dataset"), "rb").read()),
              CommitOperationAdd("README.md", card.replace(paths[0], "    path: theirs/data.parquet").encode())]
api.preupload_lfs_files("me/labels", operations, repo_type="dataset", gitignore_content="#")
api.create_commit("me/labels", operations, repo_type="dataset", commit_message="llm is somebody else's now")
print(json.dumps(None))
"""


def test_what_was_the_studys_may_be_somebody_elses_now(hub, study):
    """A config made anew by others under its old name, which still uses a file of the study; and a .gitignore."""
    hub.cli("push", "dataset", study.recipe_file, "--repo", "me/labels")
    hub.python(IGNORES)
    hub.cli("push", "dataset", study.recipe_file, "--repo", "me/labels")
    found = hub.python(LOAD.format(configs=["llm", "tweets-llm", "tweets-annotations"]))
    assert "path: theirs/data.parquet" in found["card"]
    assert found["llm"]["train"] == found["tweets-llm"]["train"]
    assert found["llm"]["test"] == found["tweets-llm"]["test"]


@pytest.mark.parametrize(("fault", "after"), [("stall", "old"), pytest.param("late", "new", marks=pytest.mark.slow)])
def test_a_push_that_is_killed_leaves_the_old_state_or_the_new_one(fault, after, hub, small):
    study = small("tweets")
    hub.ask("faults", {"commit": [fault]})
    command = [sys.executable, "-m", "hf_recipes.cli", "push", "dataset", study.recipe_file, "--repo", "me/labels"]
    with subprocess.Popen(command, cwd=ROOT, env=hub.env, start_new_session=True) as push:
        while not commits(hub):
            assert push.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
        os.killpg(push.pid, signal.SIGKILL)
    killed = hub.ask("state/datasets/me/labels")
    hub.cli("push", "dataset", study.recipe_file, "--repo", "me/labels")
    whole = hub.ask("state/datasets/me/labels")
    assert killed == (whole if after == "new" else {".gitattributes": whole[".gitattributes"]})
    assert len(hub.python(LOAD.format(configs=["llm"]))["llm"]["train"]) == 37


MATRIX = """
import json, os, resource, shutil, time, urllib.request
from pathlib import Path
from huggingface_hub import CommitOperationAdd, HfApi
from hf_recipes.hub.push import push_dataset
from hf_recipes.errors import UserError
from hf_recipes.recipe import load_recipe
from hf_recipes.study import Study

older, study = (Study(load_recipe("{recipe}", change), accept_changes=True) for change in ({older}, []))
sleep, time.sleep = time.sleep, lambda seconds: None  # the waits are left out

def ask(path, content=None):
    data = None if content is None else json.dumps(content).encode()
    return json.load(urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/" + path, data))

def push(repo, study=study):
    try:
        return push_dataset(study, repo)
    except (UserError, OSError) as error:
        return str(error)

def make(repo, token="hf_secret"):
    api = HfApi(token=token)
    api.create_repo(repo, repo_type="dataset")
    api.create_commit(repo, [CommitOperationAdd("LICENSE", b"x")], repo_type="dataset", commit_message="theirs")

make("me/undisturbed")
push("me/undisturbed")
new = ask("state/datasets/me/undisturbed")
shutil.rmtree(study.dataset)
found = []
for place, (name, faults, token, again) in enumerate({matrix}):
    repo = name if "/" in name else f"me/case{{place}}"
    if name != "not/there":
        make(repo, "hf_other" if name.startswith("other/") else "hf_secret")
    if again:
        push(repo, older)
    old = ask(f"state/datasets/{{repo}}")
    tries = len([line for line in ask("log") if "/commit/" in line])
    ask("faults", faults)
    os.environ["HF_TOKEN"] = token
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if name == "disk full":
        shutil.rmtree(study.dataset)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    said = push(repo)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    os.environ["HF_TOKEN"] = "hf_secret"
    ask("faults", {{}})
    tries = len([line for line in ask("log") if "/commit/" in line]) - tries

    def state():
        files = ask(f"state/datasets/{{repo}}")
        files.pop("SOMEBODY", None)
        return "old" if files == old else "new" if files == new else "a mixture"

    first = state()
    again = push(repo)
    found.append([name, tries, first, said.splitlines()[0], state()])
print(json.dumps(found))
"""


def test_fault_matrix(hub, small):
    """Prints the table of docs/dev/faults.md."""
    ok, cannot = "http", "nothing was published"
    cases = {  # name: faults, token, state afterwards, what is said, state after a second push
        "upload cut once": ({"put": ["cut"]}, "hf_secret", "new", ok, "new"),
        "upload answered 503 twice": ({"put": ["503", "503"]}, "hf_secret", "new", ok, "new"),
        "upload answered 429": ({"put": ["429"]}, "hf_secret", "new", ok, "new"),
        "upload answered 503 for ever": ({"put": ["503"] * 999}, "hf_secret", "old", cannot, "new"),
        "upload modes answered 503": ({"preupload": ["503"]}, "hf_secret", "new", ok, "new"),
        "commit cut before it is made": ({"commit": ["cut"]}, "hf_secret", "new", ok, "new"),
        "commit made, answer lost": ({"commit": ["drop"]}, "hf_secret", "new", ok, "new"),
        "commit answered 429": ({"commit": ["429"]}, "hf_secret", "new", ok, "new"),
        "commit answered 503 for ever": ({"commit": ["503"] * 99}, "hf_secret", "old", cannot, "new"),
        "12 others commit first (412)": ({"commit": ["race"] * 12}, "hf_secret", "new", ok, "new"),
        "reading the repo answered 503 thrice": ({"revision": ["503"] * 3}, "hf_secret", "new", ok, "new"),
        "making the repo cut once": ({"create": ["cut"]}, "hf_secret", "old", ". Try again", "new"),
        "disk full": ({}, "hf_secret", "old", "File too large", "new"),
        "token without write rights": ({}, "hf_read", "old", "403", "new"),
        "expired token": ({}, "hf_expired", "old", "401", "new"),
        "no token": ({}, "", "old", "401", "new"),
        "not/there": ({}, "hf_secret", "old", "403", "old"),
        "other/taken": ({}, "hf_secret", "old", "403", "old"),
    }
    first = [(name, faults, token, False) for name, (faults, token, *_) in cases.items()]
    later = [(*case[:3], True) for case in first if case[2] == "hf_secret" and "/" not in case[0]]
    recipe = small("tweets").recipe_file
    older = ["--annotate.calibration=none"]
    rows = hub.python(MATRIX.format(recipe=recipe, matrix=first + later, older=older))
    assert len(rows) == len(first) + len(later)
    for name, tries, first, said, second in rows:
        print(f"| {name} | {tries} | {first} | {said} | {second} |")
        assert (first, second) == (cases[name][2], cases[name][4]), (name, said)
        assert cases[name][3] in said
        assert "hf_" not in said.replace("hf_recipes", "")


@pytest.mark.slow
def test_eight_writers_at_once_all_land(hub, small):
    names = [f"study{i}" for i in range(8)]
    command = [sys.executable, "-m", "hf_recipes.cli", "push", "dataset"]
    writers = [
        subprocess.Popen([*command, small(name).recipe_file, "--repo", "me/labels"], cwd=ROOT, env=hub.env)
        for name in names
    ]
    assert [writer.wait() for writer in writers] == [0] * 8
    card = hub.python(LOAD.format(configs=[]))["card"]
    assert card.count("begin -->") == 8
    assert card.count("config_name: ") == 16
    held = hub.ask("state/datasets/me/labels")
    assert len([path for path in held if path.startswith("data/")]) == 16


def test_a_metric_becomes_a_space_that_evaluate_loads(hub):
    said = hub.cli("push", "metric", "metrics/seed_instability", "--owner", "me")
    assert "spaces/me/seed_instability" in said
    value = hub.python(
        "import evaluate, json\nmetric = evaluate.load('me/seed_instability')\n"
        "print(json.dumps(metric.compute(predictions=[[0, 1], [0, 0]])['pairwise_disagreement']))"
    )
    assert value == pytest.approx(np.mean([0, 1]))
    assert "must be a metric module" in hub.cli("push", "metric", "metrics", "--owner", "me", code=2)


@pytest.mark.parametrize(
    ("mass", "flags", "is_pushed"), [(0.01, [], False), (0.01, ["--allow-low-label-mass"], True), (0.9, [], True)]
)
def test_the_script_publishes_no_labels_without_label_mass(mass, flags, is_pushed, study, tmp_path, monkeypatch):
    main = runpy.run_path(str(ROOT / "dataset_scripts" / "annotate_and_push.py"))["main"]
    commands = []

    def run(command, check):
        commands.append(command[3])
        return subprocess.CompletedProcess(command, 0)

    labels = read_json(study.labels_file)
    labels["annotator"]["label_mass_mean"] = mass
    monkeypatch.chdir(tmp_path)

    def start(command, env):
        commands.append(command[4])
        target = tmp_path / "studies" / "tweets" / "report" / "labels.json"
        target.parent.mkdir(parents=True)
        target.write_text(json.dumps(labels))
        return SimpleNamespace(wait=lambda seconds: 0)

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr("subprocess.Popen", start)
    monkeypatch.setattr(
        "huggingface_hub.HfApi.list_repo_refs", lambda self, *arguments, **options: SimpleNamespace(branches=[])
    )
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, *arguments, **options: None)
    monkeypatch.setattr("huggingface_hub.HfApi.auth_check", lambda self, *arguments, **options: None)
    arguments = ["annotate_and_push.py", str(SAMPLE), "--model", str(LLM), "--instruction", "Glad or sad?"]
    monkeypatch.setattr("sys.argv", [*arguments, "--repo", "me/tweets", *flags])
    with pytest.raises(SystemExit, match="0" if is_pushed else "must be at least 0.05 to publish. Got 0.010"):
        main()
    assert commands == ["annotate", *(["push"] if is_pushed else [])]


@pytest.mark.slow
def test_the_script_annotates_and_pushes_in_one_go(hub, tmp_path):
    script = ROOT / "dataset_scripts" / "annotate_and_push.py"
    command = [sys.executable, script, SAMPLE, "--model", LLM, "--instruction", "Is the tweet glad, sad or neither?"]
    settings = ["--data.pool_size=30", "--data.test_size=5", "--annotate.dtype=float32", "--annotate.max_model_len=384"]
    command += ["--repo", "me/labels", "--name", "tweets", *settings]
    env = {**hub.env, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, check=False, cwd=tmp_path, env=env).returncode == 0
    assert len(hub.python(LOAD.format(configs=["llm"]))["llm"]["train"]) == 27


def test_the_space_of_a_study_is_published_and_runs_from_what_the_hub_holds(hub, study, tmp_path):
    from space_app import serve

    def refuse(study_id, said, repo="me/space"):
        assert said in hub.cli("push", "space", "--repo", repo, "--study", study_id, code=2)

    refuse("me/nowhere", "--study me/nowhere: The repo does not exist")
    hub.cli("push", "dataset", study.recipe_file, "--repo", "me/labels")
    refuse("me/labels/other", "Got tweets")
    assert f"{hub.address}/spaces/me/space" in hub.cli("push", "space", "--repo", "me/space", "--study", "me/labels")
    once = hub.ask("state/spaces/me/space")
    hub.cli("push", "space", "--repo", "me/space", "--study", "me/labels")
    assert hub.ask("state/spaces/me/space") == once
    for space in ("me/space", "me/other"):
        hub.python(f"""
import json
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("{space}", repo_type="space", space_sdk="gradio", exist_ok=True)
name = "sample/stale.txt" if "{space}" == "me/space" else "mine.py"
api.upload_file(path_or_fileobj=b"x", path_in_repo=name, repo_id="{space}", repo_type="space")
print(json.dumps(0))
""")
    refuse("me/labels", "has other files, for example `mine.py`", repo="me/other")
    hub.cli("push", "space", "--repo", "me/space", "--study", "me/labels")
    assert hub.ask("state/spaces/me/space") == once  # what is stale in the app's own folders is gone
    where = hub.python(
        """
import json
from huggingface_hub import snapshot_download
print(json.dumps(snapshot_download("me/space", repo_type="space", local_dir="%s")))
"""
        % (tmp_path / "downloaded")
    )
    card = (tmp_path / "downloaded" / "README.md").read_text()
    assert "datasets:\n- me/labels\n" in card
    assert "app_file: app.py" in card
    assert "thumbnail: https://huggingface.co/datasets/me/labels/resolve/main/hf-recipes/tweets/figure.png\n" in card
    quiet = {name: value for name, value in hub.env.items() if name != "HF_TOKEN"}
    with serve(where, env={**quiet, "HF_TOKEN": ""}, log=tmp_path / "app.log") as address:
        from gradio_client import Client

        client = Client(address, verbose=False)
        about = client.predict(api_name="/list_studies")["about"]
        assert (about["repo"], about["study"], len(about["sha"])) == ("me/labels", "tweets", 40)
        assert client.predict(api_name="/read_verdict")["decision"]
        assert client.predict(None, "a,b\nx,y\nx,x\n", api_name="/measure")["R"] == 2
        lines = client.predict(variant="gold", api_name="/show_code")
        assert client.predict(study="me/labels/tweets", api_name="/list_studies")["about"]["study"] == "tweets"
        for name, private, said in (
            ("foreign", False, "must have a study"),
            ("secret", True, "must be in a public dataset repo"),
        ):
            hub.python(f"""
import json
from huggingface_hub import create_repo
print(json.dumps(str(create_repo("me/{name}", repo_type="dataset", private={private}))))
""")
            with pytest.raises(Exception, match=said):
                client.predict(study=f"me/{name}", api_name="/read_verdict")
    code = f"{lines['load_dataset']}\n{lines['evaluate']}\nimport json\nprint(json.dumps(len(data['train'])))"
    assert hub.python(code) == len(pq.read_table(study.dataset / "data" / "gold" / "train-00000-of-00001.parquet"))
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    subprocess.run(["/bin/sh", "-ec", lines["hf_recipes"]], check=True, cwd=tmp_path, env={**hub.env, "PATH": path})
    assert (tmp_path / "studies" / "tweets" / "report" / "report.html").is_file()


@pytest.mark.slow
def test_the_space_runs_in_an_environment_of_its_own(hub, study, tmp_path):
    from gradio_client import Client
    from space_app import call_tools, serve

    hub.cli("push", "dataset", study.recipe_file, "--repo", "me/labels")
    hub.cli("push", "space", "--repo", "me/space", "--study", "me/labels")
    hub.python(f"""
import json
from huggingface_hub import snapshot_download
print(json.dumps(snapshot_download("me/space", repo_type="space", local_dir="{tmp_path}/downloaded")))
""")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-qr", tmp_path / "downloaded" / "requirements.txt"], check=True)
    env = {name: value for name, value in hub.env.items() if name != "PYTHONPATH"}
    with serve(tmp_path / "downloaded", env=env, log=tmp_path / "app.log", python=python) as address:
        client = Client(address, verbose=False)
        assert client.predict(api_name="/list_studies")["about"]["repo"] == "me/labels"
        assert client.predict(None, "a,b\nx,y\nx,x\n", api_name="/measure")["R"] == 2
        _, (answer,) = call_tools(address, [("list_studies", {})])
        assert ast.literal_eval(answer.content[0].text)["about"]["repo"] == "me/labels"


READS = """
import json, sys
from collections import Counter
from hf_recipes import cli
from hf_recipes.data import RowFiles
from hf_recipes.labels import pool

reads = Counter()
load, annotations = RowFiles.load, pool.load_annotations

def load_rows(files, name, *arguments):
    reads[name] += 1
    return load(files, name, *arguments)

def load_annotations(*arguments):
    reads["annotations"] += 1
    return annotations(*arguments)

RowFiles.load, pool.load_annotations = load_rows, load_annotations
sys.argv = ["hf-recipes", *{arguments}]
try:
    cli.main()
except SystemExit as end:
    assert not end.code
print(json.dumps(reads))
"""


@pytest.mark.parametrize(
    "arguments", [["run"], ["report"], ["plan"], ["push", "dataset", "--repo", "me/labels"]], ids=lambda a: a[0]
)
def test_a_command_reads_rows_and_annotations_once(arguments, hub, study):
    assert hub.python(READS.format(arguments=[*arguments, str(study.recipe_file)])) == {
        **{"train": 1, "test": 1, "annotations": 1}
    }


def test_a_repo_of_csv_files_gives_the_rows_of_the_folder_and_of_the_file(hub, tmp_path):
    folder = tmp_path / "stances"
    folder.mkdir()
    (folder / "train.csv").write_text("text,label\ntweet 0,Favor\nnull,None\n42,NA\nTRUE,\n")
    code = (
        "import json\nfrom huggingface_hub import HfApi\nfrom hf_recipes.data import open_rows\n"
        "from hf_recipes.recipe import load_recipe\nfrom hf_recipes.study import Study\n"
        "HfApi().create_repo('me/stances', repo_type='dataset', exist_ok=True)\n"
        f"HfApi().upload_folder(repo_id='me/stances', repo_type='dataset', folder_path={str(folder)!r})\n"
        f"sources = ['me/stances', {str(folder)!r}, {str(folder / 'train.csv')!r}]\n"
        "settings = ['--data.label_names=[Favor, None, NA]', '--grid=null', '--train=null', '--data.pool_size=null']\n"
        f"recipes = [load_recipe({str(SMALL_RECIPE)!r}, [f'--data.path={{source}}', '--output_dir={tmp_path}/none', "
        "'--data.test_size=null', *settings]) for source in sources]\n"
        "rows = [open_rows(Study(recipe)).load('train') for recipe in recipes]\n"
        "print(json.dumps([[part.ids, part.texts, part.gold.tolist()] for part in rows]))"
    )
    repo, local, file = hub.python(code)
    assert repo == local == file
    assert repo[1:] == [["tweet 0", "null", "42", "TRUE"], [0, 1, 2, -1]]
