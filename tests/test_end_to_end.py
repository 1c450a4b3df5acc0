"""The main job on real parts: vLLM, SmolLM2-135M, tweets, MiniLM, accelerate; undisturbed, killed, and by a server."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import LLM, ROOT, SMALL_RECIPE
from test_server import ASK, MODEL, section

from hf_recipes.annotation.engines import server_engine
from hf_recipes.errors import UserError
from hf_recipes.recipe import load_recipe
from hf_recipes.study import Study, read_json
from hf_recipes.training.grid import all_runs, paired_runs

POOL, TEST = 160, 40  # more than one chunk of annotations
SMALL = [
    f"--data.pool_size={POOL}",
    f"--data.test_size={TEST}",
    "--annotate.prompt.shots_per_class=2",
    "--annotate.max_model_len=384",
    "--grid.sizes=[24, 48]",
    "--grid.seeds=[0, 1]",
    "--train.epochs=1",
]
CLI = [sys.executable, "-m", "hf_recipes.cli"]


def call(step, study_folder, home, *overrides):
    go_on = ["--go-on"] if step in ("run", "train") else []  # so few texts may teach nothing
    return [*CLI, step, str(SMALL_RECIPE), f"--output_dir={study_folder}", *go_on, *SMALL, *overrides], {
        "cwd": ROOT,
        "env": {**os.environ, "HF_HOME": str(home)},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }


def run(step, study_folder, home, *overrides):
    command, options = call(step, study_folder, home, *overrides)
    return subprocess.run(command, check=False, **options)


def open_study(folder, *overrides):
    return Study(load_recipe(SMALL_RECIPE, [f"--output_dir={folder}", *SMALL, *overrides]))


def annotation_rows(study, split="train"):
    folder = study.annotations(read_json(study.annotations_root / "current.json")["keys"][0])
    ids = set(pq.read_table(study.rows / f"{split}.parquet")["id"].to_pylist())
    rows = [row for part in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]
    return [row for row in rows if row["id"] in ids]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study that ran without a disturbance, and what the command printed."""
    folder = tmp_path_factory.mktemp("finished")
    done = run("run", folder / "study", folder / "home")
    assert done.returncode == 0, done.stdout
    return open_study(folder / "study"), done.stdout, folder / "home"


def test_the_study_is_complete_and_speaks(finished):
    study, output, _ = finished
    rows = annotation_rows(study)
    assert len(rows) == len({row["id"] for row in rows}) == POOL
    for row in rows:
        if row["status"] == "ok":
            assert 0 < np.exp(row["logprobs"]).sum() <= 1 + 1e-6
            assert row["n_tokens"] > 0
        else:
            assert row["status"] == "demonstration"
            assert row["logprobs"] is None
    pool = pq.read_table(study.rows / "train.parquet").to_pydict()
    texts = dict(zip(pool["id"], pool["text"], strict=True))
    shown = [row["id"] for row in rows if row["status"] == "demonstration"]
    assert len(shown) == len({texts[i] for i in shown}) == 6
    assert {row["status"] for row in annotation_rows(study, "test")} <= {"ok", "demonstration"}
    results = read_json(study.results_file)
    assert (results["R"], results["n"], len(results["variants"])) == (2, TEST, 8)
    for cells in results["error_cells"]:
        assert sum(cells[name] for name in ("right_same", "right_other", "wrong_same", "wrong_other")) == pytest.approx(
            1
        )
        assert cells["n"] == sum(row["status"] == "ok" for row in annotation_rows(study, "test"))
    report = (study.report / "report.md").read_text()
    assert "**What they cost.** With 48 training texts" in report
    assert "R = 2 runs a variant" in report
    assert "**Copied errors.** Of the " in report
    assert "llm-entropy-replace" in output
    assert str(study.report / "report.html") in output
    html = (study.report / "report.html").read_text()
    assert html.count("<svg") > 10  # charts
    assert "data:image" not in html
    assert not re.search(r"(src|href)=|url\(", html)  # nothing is loaded; texts may have addresses
    assert not list(study.root.rglob(".tmp-*"))
    assert yaml.safe_load(study.recipe_file.read_text())["recipe"]["train"]["weight_decay"] == 0.01


def test_every_config_loads_offline_and_says_where_its_labels_come_from(finished):
    from datasets import load_dataset

    study, _, _ = finished
    for variant in study.recipe.grid.variants:
        data = load_dataset(str(study.dataset), variant)
        assert data["train"].features["label"].names == ["negative", "neutral", "positive"]
        assert len(data["test"]) == TEST
        train = data["train"].to_pandas()
        assert len(train) == POOL - 6
        taken = train["label_source"] == "gold"
        assert (train["label"][taken] == train["gold"][taken]).all()
        assert (train["label"][~taken] == train["llm_label"][~taken]).all()
        share = {"gold": 1, "llm": 0}.get(variant, 0.25)
        assert taken.sum() == round(share * (POOL - 6))
        assert np.allclose(np.stack(train["llm_probs"]).sum(axis=1), 1)
        if variant == "llm-entropy-replace":
            assert train["entropy"][taken].min() >= train["entropy"][~taken].max()
    assert (
        load_dataset(str(study.dataset), split="train")["label"]
        == load_dataset(str(study.dataset), "llm")["train"]["label"]
    )
    card = (study.dataset / "README.md").read_text()
    assert "Is each tweet positive, neutral or negative?" in card
    assert "machine-generated" in card


def test_metric_tables_follow_from_the_stored_predictions_alone(finished):
    from sklearn.metrics import accuracy_score, f1_score

    study, _, _ = finished
    for variant in read_json(study.results_file)["variants"]:
        labels = []
        for run in paired_runs(study.grid, variant["variant"], variant["size"]):
            table = pq.read_table(study.run(run) / "predictions.parquet").to_pydict()
            probs = np.array(table["probs"])
            assert np.allclose(probs.sum(axis=1), 1)
            labels.append(probs.argmax(axis=1))
        gold = table["gold"]
        assert variant["accuracy_runs"] == pytest.approx([accuracy_score(gold, one) for one in labels])
        assert variant["macro_f1_runs"] == pytest.approx([f1_score(gold, one, average="macro") for one in labels])
        assert variant["pairwise_disagreement"] == pytest.approx(np.mean(labels[0] != labels[1]))
        assert variant["unanimity_of_5"] is None


def test_log_probabilities_are_those_of_transformers(finished):
    """The engine's numbers against a plain forward pass of the same model in the same dtype, on the stored prompts."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    study, _, _ = finished
    pool = pq.read_table(study.rows / "train.parquet").to_pydict()
    texts = dict(zip(pool["id"], pool["text"], strict=True))
    manifest = read_json(
        study.annotations(read_json(study.annotations_root / "current.json")["keys"][0]) / "manifest.json"
    )
    tokenizer = AutoTokenizer.from_pretrained(LLM)
    model = AutoModelForCausalLM.from_pretrained(LLM, dtype=torch.float32)
    labels = [tokens for (tokens,) in manifest["ingredients"]["answers"].values()]
    for row in [row for row in annotation_rows(study) if row["status"] == "ok"][:6]:
        ids = tokenizer(manifest["prompt"].replace("{text}", " ".join(texts[row["id"]].split())))["input_ids"]
        with torch.inference_mode():
            expected = model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)[labels]
        assert len(ids) == row["n_tokens"]
        assert row["logprobs"] == pytest.approx(expected.tolist(), abs=2e-3)


def test_a_second_run_finds_everything_done(finished):
    study, _, home = finished
    before = {
        path: path.stat().st_mtime_ns for path in study.root.rglob("*") if path.is_file() and path.name != ".lock"
    }
    again = run("run", study.root, home)
    assert again.returncode == 0, again.stdout
    assert "annotate:" not in again.stdout
    assert "train:" not in again.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def kill_when(command, options, condition, seconds=240):
    """Starts a command, kills its whole process group once the condition holds; False if it ended first."""
    child = subprocess.Popen(command, start_new_session=True, **options)
    end = time.monotonic() + seconds
    while not condition():
        if child.poll() is not None:
            return False
        assert time.monotonic() < end, "the moment to kill never came"
        time.sleep(0.002)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    return True


def test_killed_in_every_step_it_finishes_with_the_same_tables_and_redoes_nothing(finished, tmp_path):
    undisturbed, _, _ = finished
    study = open_study(tmp_path / "study")
    home = tmp_path / "home"

    def kill(step, pattern, count=1):
        command, options = call(step, study.root, home)
        return kill_when(command, options, lambda: len(list(study.root.glob(pattern))) >= count)

    def finish(step, kept):
        before = {path: path.stat().st_mtime_ns for path in study.root.glob(kept)}
        done = run(step, study.root, home)
        assert done.returncode == 0, done.stdout
        assert {path: path.stat().st_mtime_ns for path in before} == before
        return len(before)

    assert kill("annotate", "annotations/*/part-*.parquet")  # one part is there
    assert not list(study.annotations_root.glob("*/manifest.json"))
    assert finish("annotate", "annotations/*/part-*.parquet") == 1
    ours, theirs = annotation_rows(study), annotation_rows(undisturbed)
    assert [(r["id"], r["status"], r["prompt_id"]) for r in ours] == [
        (r["id"], r["status"], r["prompt_id"]) for r in theirs
    ]
    for one, other in zip(ours, theirs, strict=True):
        assert one["logprobs"] == pytest.approx(other["logprobs"], abs=1e-4)

    assert kill("variants", ".tmp-dataset/data/*")
    assert not study.dataset.exists()
    finish("variants", "rows/*")
    for variant in study.recipe.grid.variants:
        tables = [
            pq.read_table(s.dataset / "data" / variant / "train-00000-of-00001.parquet") for s in (study, undisturbed)
        ]
        for column in ("id", "text", "label", "label_source", "gold", "llm_label"):
            assert tables[0][column].equals(tables[1][column])

    # Complete runs are kept, so most of the grid is copied.
    for complete in list(all_runs(undisturbed.grid))[5:]:
        shutil.copytree(undisturbed.run(complete), study.run(complete))
    assert kill("train", "runs/*/*/[!.]*/run.json", 12)
    assert 12 <= finish("train", "runs/*/*/[!.]*/*") / 3 < 16
    for path in undisturbed.root.glob("runs/*/*/[!.]*/*.parquet"):
        assert pq.read_table(study.root / path.relative_to(undisturbed.root)).equals(pq.read_table(path))

    command, options = call("measure", study.root, tmp_path / "new_home")
    assert kill_when(command, options, (tmp_path / "new_home" / "modules").exists)  # its metrics are being loaded
    assert not study.results_file.exists()
    finish("measure", "runs/*/*/[!.]*/*")
    assert kill("report", "report/*.svg")
    assert not (study.report / "report.html").exists()
    finish("report", "runs/*/*/[!.]*/*")
    mine, others = read_json(study.results_file), read_json(undisturbed.results_file)
    assert mine["variants"] == others["variants"]
    assert mine["comparisons"] == others["comparisons"]
    assert (study.report / "report.md").read_text() == (undisturbed.report / "report.md").read_text()
    assert not [path for path in study.root.rglob(".tmp-*") if path.is_dir()]


@pytest.fixture(scope="module")
def real_server(tmp_path_factory):
    """The address of a vLLM server that wants a key and knows the model by another name."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(LLM)]
    serve += ["--served-model-name", "smol"]
    settings = ["--dtype", "float32", "--enforce-eager", "--block-size", "32", "--max-model-len", "384"]
    settings += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096", "--max-num-seqs", "64"]
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
        "TORCH_COMPILE_DISABLE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_API_KEY": "k3y",
    }
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*serve, *settings, "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "server.log").read_text()[-2000:]
                time.sleep(1)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_a_running_vllm_server_gives_the_same_labels(finished, real_server, tmp_path):
    """The real server; this side's process is kept from importing vllm."""
    undisturbed, _, _ = finished
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise ImportError('this side needs no vllm')")
    settings = ["--annotate.engine=server", f"--annotate.base_url={real_server}"]
    command, options = call("annotate", tmp_path / "study", tmp_path / "home", *settings)
    options["env"] |= {"PYTHONPATH": str(tmp_path), "VLLM_API_KEY": "k3y"}
    done = subprocess.run(command, check=False, **options)
    assert done.returncode == 0, done.stdout
    rows = {row["id"]: row for row in annotation_rows(open_study(tmp_path / "study", *settings))}
    for row in annotation_rows(undisturbed):
        assert rows[row["id"]]["status"] == row["status"]
        if row["status"] == "ok":
            assert rows[row["id"]]["logprobs"] == pytest.approx(row["logprobs"], abs=1e-3)


def test_the_real_server_and_the_engine_in_this_process_agree(real_server, tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    monkeypatch.setenv("VLLM_API_KEY", "k3y")
    tokenizer = AutoTokenizer.from_pretrained(LLM)
    texts = ["What a lovely day", "I hate waiting", "The bus leaves at nine", "meh", "so good " * 15, "Why??"]
    prompts = [tokenizer(f"Is it positive, neutral or negative?\nText: {t}\nLabel:")["input_ids"] for t in texts * 3]
    labels = [tokenizer.encode(word)[0] for word in (" positive", " neutral", " negative")]
    tokens = [*labels, *range(1000, 1125)]
    choices = ["positive", "neutral", "negative", "none of these"]
    common = {"model": MODEL, "dtype": "float32", "max_model_len": 256, "prompt": {"instruction": "?"}}
    engines = [{**common, "engine": "server", "base_url": real_server}, {**common, "engine": "vllm"}]
    (tmp_path / "ask.py").write_text(ASK)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "ask.py"), str(tmp_path / "answers.json")],
        input=json.dumps({"engines": engines, "questions": [prompts, tokens, choices]}),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    server, local = json.loads((tmp_path / "answers.json").read_text())
    assert np.shape(server["scores"]) == (len(prompts), len(tokens))
    np.testing.assert_allclose(server["scores"], local["scores"], atol=1e-4)
    assert (np.exp(local["scores"]).sum(axis=1) < 1).all()
    assert server["guided"] == local["guided"]
    assert all(len(answer) == 1 and answer[0] in choices for answer in server["guided"])
    assert all(len(answers) == 3 for answers in server["votes"] + local["votes"])
    assert Counter(map(tuple, server["votes"])).most_common(1)[0][1] < len(prompts) / 2
    assert not any("<|" in text for answers in server["votes"] for text in answers)

    too_long = section(real_server, max_model_len=256)
    scores, refused = server_engine.Engine(too_long, None).score([prompts[0], [5] * 500, prompts[1]], labels)
    assert list(refused) == [1]
    assert "384" in refused[1]
    np.testing.assert_allclose(scores[[0, 2]], np.array(server["scores"])[[0, 1], :3], atol=1e-4)
    monkeypatch.setenv("VLLM_API_KEY", "wrong")
    with pytest.raises(UserError, match="Got a wrong key"):
        server_engine.identity(section(real_server))


HEAD = """
import json, sys
from vllm import SamplingParams
from hf_recipes.annotation.engines.vllm_engine import Engine
from hf_recipes.errors import UserError
from hf_recipes.models import Model
from hf_recipes.recipe import Annotate

if __name__ == "__main__":
    folder, prompt = sys.argv[1], list(range(1000, 1100))
    asked = Annotate(model=folder, dtype="bfloat16", max_model_len=256, prompt={"instruction": "?"})
    engine = Engine(asked, Model(folder, folder, ""))
    scores, _ = engine.score([prompt], list(range(500, 600)))
    cached = []
    for engine.cache_salt in ("", "again", "again"):
        cached.append(engine._generate([prompt], SamplingParams(max_tokens=1))[0].num_cached_tokens)
    engine._llm.apply_model(lambda model: setattr(model.lm_head, "quant_method", object()))
    try:
        engine.score([prompt], [500])
        message = ""
    except UserError as error:
        message = str(error)
    with open(sys.argv[2], "w") as file:
        json.dump([scores.tolist(), cached, message], file)
"""


def test_the_head_is_in_float32_a_quantised_one_is_explained_and_a_salt_keeps_the_cache_out(tmp_path):
    (tmp_path / "head.py").write_text(HEAD)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "head.py"), str(LLM), str(tmp_path / "answers.json")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "VLLM_ALLOW_INSECURE_SERIALIZATION": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    scores, cached, message = json.loads((tmp_path / "answers.json").read_text())
    # A head in bfloat16 gives about half of 100 tokens the logit of another one. In float32 a pair is equal by chance.
    assert len(np.unique(scores)) >= 98
    assert cached[0] > 0 == cached[1] < cached[2]
    assert "`annotate.engine_args.hf_overrides` must contain `head_dtype: model`" in message


def test_no_server_is_one_line(tmp_path):
    settings = ["--annotate.engine=server", "--annotate.base_url=http://127.0.0.1:9"]
    failed = run("annotate", tmp_path / "study", tmp_path / "home", *settings)
    assert failed.returncode == 2
    last = failed.stdout.splitlines()[-1]
    assert last.startswith("error: `annotate.base_url` must be a running server. No vLLM server answers at http://127.")
    assert "Traceback" not in failed.stdout


def test_texts_that_are_null_empty_or_too_long_are_rows_too(tmp_path, tiny_encoder):
    """Real engine: bad texts are kept and counted, long ones cut and flagged, and a repeated text is asked once."""
    import pyarrow as pa

    good = [f"I {verb} this {thing}!" for verb in ("love", "hate", "own") for thing in ("cat", "car", "day", "song")]
    texts = [*good, None, "", " \n", "so good " * 2000, "I love this cat!", "null"]
    labels = [{"love": "positive", "hate": "negative"}.get(t.split()[1], "neutral") for t in good] + ["neutral"] * 6
    (tmp_path / "source").mkdir()
    pq.write_table(pa.table({"text": texts, "label": labels}), tmp_path / "source" / "train.parquet")
    tests = [f"I {verb} this {thing}." for verb in ("love", "hate", "own") for thing in ("tree", "book")]
    tests = {"text": [good[0], *tests], "label": ["positive", *labels[0:2], *labels[4:6], *labels[8:10]]}
    pq.write_table(pa.table(tests), tmp_path / "source" / "test.parquet")
    settings = [f"--data.path={tmp_path / 'source'}", "--data.label_names=[negative, neutral, positive]"]
    settings += ["--annotate.prompt.shots_per_class=1", "--grid.sizes=[8]", "--grid.variants=[gold, llm]"]
    settings += [f"--train.encoder={tiny_encoder}"]
    done = run("run", tmp_path / "study", tmp_path / "home", *settings)
    assert done.returncode == 0, done.stdout
    study = open_study(tmp_path / "study", *settings)
    rows = annotation_rows(study)
    pool = pq.read_table(study.rows / "train.parquet").to_pydict()
    assert pool["text"] == [text for text in texts if text != good[0]]  # which is a text of the test, too
    assert len(rows) == len(texts) - 2
    by_text = dict(zip(pool["id"], pool["text"], strict=True))
    status = {by_text[row["id"]]: row["status"] for row in rows}
    assert (status[None], status[""], status[" \n"], status["null"]) == ("null_text", "empty_text", "empty_text", "ok")
    assert [by_text[row["id"]] for row in rows if row["truncated"]] == ["so good " * 2000]
    assert max(row["n_tokens"] for row in rows if row["n_tokens"]) <= 383
    report = (study.report / "report.md").read_text()
    assert r"null\_text 1" in report
    assert r"empty\_text 2" in report
    assert "texts cut to fit: 1" in report
    assert "more than a fifth of the" in report
    assert "2 rows of the training split have the text of a test row and are left out" in report
