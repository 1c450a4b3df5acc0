"""Test the Space's data: studies, refusals, uploads of every kind, endpoints, and many users at the same time."""

import csv
import io
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx
import numpy as np
import psutil
import published
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tables
import uploads
import words
import yaml
from conftest import ROOT
from gradio_client import Client, handle_file
from hypothesis import given, settings
from hypothesis import strategies as st
from space_app import APP, SAMPLE, copy_study, serve

HOSTILE = '<img src=x onerror="alert(1)"> <script>alert(2)</script> [x](javascript:alert(3)) $x$ `y` {{ z }}'


@pytest.fixture(scope="module")
def study():
    return published.read_folder(SAMPLE)


def change_json(folder, name, change):
    file = next(folder.glob(f"hf-recipes/*/{name}.json"))
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


# ------------------------------------------------------------------------------------------------ published studies


def test_what_is_shown_is_what_the_study_says(study):
    home = next(SAMPLE.glob("hf-recipes/*/"))
    results = json.loads((home / "results.json").read_text())
    findings = json.loads((home / "findings.json").read_text())
    verdict = tables.verdict(study)
    assert verdict["decision"] == results["verdict"]["decision"]
    assert [tuple(pair) for pair in findings["findings"]] == verdict["findings"]
    assert [variant["macro_f1_mean_interval"] for variant in verdict["variants"]] == [
        variant["macro_f1_mean_interval"] for variant in results["variants"]
    ]
    llm = next(variant for variant in verdict["variants"] if variant["variant"] == "llm")
    same = tables.seeds(study, "llm", llm["size"], "all")
    assert same["mean"] == pytest.approx(llm["pairwise_disagreement"])
    cost = next(test for test in results["comparisons"] if (test["variant"], test["against"]) == ("llm", "gold"))
    there = tables.compare(study, variant="llm", against="gold", size=cost["size"])["tests"]
    back = tables.compare(study, variant="gold", against="llm", size=cost["size"])["tests"]
    test = next(comparison for comparison in there if comparison["figure"] == cost["figure"])
    assert test["difference"] == cost["difference"]
    turned = next(comparison for comparison in back if comparison["figure"] == cost["figure"])
    assert list(turned["interval"]) == [-cost["interval"][1], -cost["interval"][0]]


def test_labels_are_filtered_counted_and_explained(study):
    everything = tables.labels(study)
    wrong = tables.labels(study, kind="wrong", order="unsure")
    right = tables.labels(study, kind="right")
    assert wrong["found"] + right["found"] == everything["judged"] == sum(map(sum, everything["confusion"]))
    assert all(row["gold"] != row["llm"] for row in wrong["rows"])
    entropies = [row["entropy"] for row in wrong["rows"]]
    assert entropies == sorted(entropies, reverse=True)
    assert everything["risk_coverage"]["kept"][-1] == 1
    assert everything["risk_coverage"]["wrong"][-1] == pytest.approx(wrong["found"] / everything["judged"])
    word = everything["rows"][0]["text"].split()[-1]
    matches = tables.labels(study, search=word.upper())
    assert matches["found"]
    assert all(word.lower() in row["text"].lower() for row in matches["rows"])
    replaced = tables.labels(study, kind="changed", variant="llm-entropy-replace", order="unsure")
    assert replaced["found"] == replaced["variant"]["sources"]["gold"]
    assert replaced["rows"][0]["why"].startswith("gold label (entropy")
    assert [row["rank"] for row in replaced["rows"]] == list(range(1, len(replaced["rows"]) + 1))
    assert tables.labels(study, page=10**9)["page"] == everything["pages"]


def test_seeds_are_those_of_the_predictions(study):
    content = tables.seeds(study, "llm", 0, "flips")
    row = content["rows"][0]
    assert len(set(row["labels"])) > 1
    details = tables.seeds(study, text=row["id"])["one"]
    cell = next(c for c in details["cells"] if (c["variant"], c["size"]) == (content["variant"], content["size"]))
    assert [run["label"] for run in cell["runs"]] == row["labels"]
    assert tables.seeds(study, text="nobody")["one"] is None


@pytest.mark.parametrize("missing", ["runs", "texts", "gold", "findings", "results"])
def test_what_is_not_published_is_said_and_the_rest_is_shown(missing, tmp_path):
    folder = copy_study(tmp_path / "study")
    if missing == "runs":
        shutil.rmtree(folder / "data" / "predictions")
        next(folder.glob("hf-recipes/*/results.json")).unlink()
    if missing in ("findings", "results"):
        next(folder.glob(f"hf-recipes/*/{missing}.json")).unlink()
    for path in folder.glob("data/*/*.parquet") if missing in ("texts", "gold") else ():
        table = pq.read_table(path)
        if missing == "texts" and "text" in table.column_names:
            pq.write_table(table.drop_columns(["text"]), path)
        if missing == "gold" and "label_source" in table.column_names:
            nothing = pa.array([-1] * len(table), table["gold"].type)
            pq.write_table(table.set_column(table.column_names.index("gold"), "gold", nothing), path)
    study = published.read_folder(folder)
    sentences = " ".join(tables.missing(study))
    expected = {"runs": "No classifiers", "texts": "not published", "gold": "no gold", "results": "results are not"}
    assert expected.get(missing, "") in sentences
    page = words.verdict_top(tables.verdict(study)) + words.verdict_rest(tables.verdict(study))
    page += words.labels_count(tables.labels(study)) + words.labels_table(tables.labels(study))
    page += words.seeds_top(tables.seeds(study)) + words.seeds_table(tables.seeds(study))
    page += words.compare_table(tables.compare(study), tables.FIGURES)
    assert "None" not in page
    assert tables.use(study)["load_dataset"]


def test_texts_and_names_are_shown_as_text(tmp_path):
    folder = copy_study(tmp_path / "study")
    for path in [*folder.glob("data/*/train-*.parquet"), *folder.glob("data/test/*.parquet")]:
        table = pq.read_table(path)
        if "text" in table.column_names:
            texts = pa.array([HOSTILE] * len(table))
            pq.write_table(table.set_column(table.column_names.index("text"), "text", texts), path)

    def poison(content):
        for name in ("findings", "more", "limits", "labels"):
            content[name] = [[HOSTILE, HOSTILE]] if name in ("findings", "more") else [HOSTILE]
        content["variants"] = dict.fromkeys(content["variants"], HOSTILE)
        content["methods"] = HOSTILE

    change_json(folder, "findings", poison)
    change_json(folder, "study", lambda content: content["recipe"]["annotate"].update(model=HOSTILE))
    study = published.read_folder(folder)
    verdict, labels, seeds = tables.verdict(study), tables.labels(study, variant="gold"), tables.seeds(study)
    seeds["one"] = tables.seeds(study, text=study.test.ids[0])["one"]
    page = words.verdict_top(verdict) + words.verdict_rest(verdict) + words.header(verdict["about"], HOSTILE)
    page += words.labels_count(labels) + words.labels_table(labels) + words.seeds_table(seeds) + words.one_text(seeds)
    page += words.compare_table(tables.compare(study), tables.FIGURES)
    assert page.count("&lt;script&gt;") > 50
    for sign in ("<script", "<img", 'onerror="'):
        assert sign not in page


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("empty", "holds no study of hf-recipes"),
        ("prefix", "damaged"),
        ("configs", "damaged"),
        ("classes", "damaged"),
        ("label", "damaged"),
        ("no parquet", "damaged"),
        ("results", "damaged"),
        ("deep", "damaged"),
        ("runs", "damaged"),
        ("many", "more than is shown"),
    ],
)
def test_a_repo_that_is_none_of_ours_or_damaged_gets_a_sentence(damage, message, tmp_path, monkeypatch):
    folder = copy_study(tmp_path / "study")
    file = folder / "data" / "llm" / "train-00000-of-00001.parquet"
    table = pq.read_table(file)
    if damage == "empty":
        shutil.rmtree(folder / "hf-recipes")
        shutil.rmtree(folder / "data" / "llm")
    elif damage in ("prefix", "configs"):
        change_json(folder, "study", lambda c: c.update({damage: "../../" if damage == "prefix" else ["../../etc"]}))
    elif damage == "classes":
        pq.write_table(table.replace_schema_metadata({}), file)
    elif damage == "label":
        bad = pa.array([7] * len(table), pa.int64())
        pq.write_table(table.set_column(table.column_names.index("gold"), "gold", bad), file)
    elif damage == "no parquet":
        file.write_bytes(b"PAR1 and nothing else")
    elif damage == "results":
        change_json(folder, "results", lambda c: c["variants"][0].update(macro_f1_mean={"a": 1}))
    elif damage == "deep":
        next(folder.glob("hf-recipes/*/findings.json")).write_text('{"a":' + "[" * 100_000)
    elif damage == "runs":
        path = folder / "data" / "predictions" / "train-00000-of-00001.parquet"
        pq.write_table(pq.read_table(path).slice(1), path)
    elif damage == "many":
        monkeypatch.setattr(published, "MAX_ROWS", 10)
    with pytest.raises(published.UnreadableError, match=message):
        published.read_folder(folder)


def test_a_few_studies_stay_in_memory_and_nobody_waits_for_ever(study, monkeypatch):
    import app

    read = []
    monkeypatch.setattr(app, "read_hub", lambda spec: read.append(spec) or study)
    monkeypatch.setattr(app, "MAX_WAIT", 0.05)
    shelf = app.Shelf(study, SAMPLE)
    assert shelf.get("") is shelf.get(f"{study.where}/{study.name}") is study
    for spec in ("a/1", "a/2", " a/1/ ", "https://huggingface.co/datasets/a/3", "a/4", "a/1", "a/2"):
        shelf.get(spec)
    assert read == ["a/1", "a/2", "a/3", "a/4", "a/2"]
    with shelf._reading, pytest.raises(published.UnreadableError, match="try again"):
        shelf.get("a/5")
    assert shelf.get("a/1") is study


# ------------------------------------------------------------------------------------------------------------ uploads


def wide(runs, gold=None):
    table = {f"run {i}": run for i, run in enumerate(runs)} | ({} if gold is None else {"gold": gold})
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return text.getvalue()


RUNS = [["a", "b", "a", "c"], ["a", "b", "b", "c"], ["a", "a", "a", "c"]]
GOLD = ["a", "b", "a", "a"]


def test_csv_json_and_parquet_say_the_same(tmp_path):
    long = []
    for run, labels in enumerate(RUNS):
        long += [(run, i, label, GOLD[i]) for i, label in enumerate(labels)]
    run, text, label, gold = (list(column) for column in zip(*long[::-1], strict=True))
    pq.write_table(pa.table({"run": run, "id": text, "label": label, "gold": gold}), tmp_path / "long.parquet")
    pq.write_table(
        pa.table({**{f"r{i}": labels for i, labels in enumerate(RUNS)}, "gold": GOLD}), tmp_path / "w.parquet"
    )
    (tmp_path / "x.json").write_text(json.dumps({"predictions": RUNS, "references": GOLD}))
    (tmp_path / "x.csv").write_text(wide(RUNS, GOLD))
    results = [uploads.measure(uploads.read(str(tmp_path / name), "")) for name in ("x.csv", "x.json", "w.parquet")]
    results.append(uploads.measure(uploads.read(None, wide(RUNS, GOLD))))
    assert results[0] == results[1] == results[2] == results[3]
    by_run = uploads.read(str(tmp_path / "long.parquet"), "")
    assert by_run.labels.tolist() == uploads.read(None, wide(RUNS)).labels.tolist()
    seed_instability = uploads.metric("seed_instability")
    codes = [["abc".index(k) for k in labels] for labels in RUNS]
    expected = seed_instability(np.array(codes), np.array(["abc".index(k) for k in GOLD]), num_classes=3)
    figures = {row["figure"]: row for row in results[0]["figures"]}
    assert figures["pairwise_disagreement"]["value"] == expected["pairwise_disagreement"]
    assert figures["pairwise_disagreement"]["interval"] == expected["pairwise_disagreement_interval"]


@pytest.mark.parametrize(
    ("table", "ignored"),
    [
        (",seed0,seed1,gold\n0,a,a,a\n1,b,a,b\n2,c,c,c\n3,a,b,a\n", ["Unnamed: 0"]),
        ("Unnamed: 0,seed0,seed1,y_true\n0,a,a,a\n1,b,a,b\n2,c,c,c\n3,a,b,a\n", ["Unnamed: 0"]),
        ("seed0,seed1,label\na,a,a\nb,a,b\nc,c,c\na,b,a\n", []),
        ("tweet,seed0,seed1,labels\nhi,a,a,a\nyo,b,a,b\nso,c,c,c\nno,a,b,a\n", ["tweet"]),
        ("tweet_id,seed0,seed1,true\n7,a,a,a\n7,b,a,b\n8,c,c,c\n9,a,b,a\n", ["tweet_id"]),
        (
            "nr,tweet,seed0,seed1,label,true\n1,hi,a,a,b,a\n2,yo,b,a,b,b\n3,so,c,c,c,c\n4,no,a,b,b,a\n",
            ["label", "nr", "tweet"],
        ),
        ("nr,seed0,seed1,gold\n0,1,1,1\n1,2,1,2\n2,3,3,3\n3,1,2,1\n", ["nr"]),
        ("seed0,seed1,target\n1,1.0,1.0\n2,1.0,2.0\n3,3.0,3.0\n1,2.0,1.0\n", []),
    ],
)
def test_row_numbers_ids_texts_and_gold_are_not_runs(table, ignored):
    figures = uploads.measure(uploads.read(None, table))
    assert (figures["R"], len(figures["classes"]), figures["ignored"]) == (2, 3, ignored)
    assert figures["full"]["seed_scores"]["accuracy_mean"] == 0.75


def test_a_run_of_which_all_labels_differ_is_a_run():
    table = "seed0,seed1,seed2\na,a,a\nb,a,b\nc,c,c\nd,b,a\n"
    assert uploads.measure(uploads.read(None, table))["R"] == 3
    probabilities = "run,id,true,false\n0,x,0.9,0.1\n1,x,0.2,0.8\n0,y,0.9,0.1\n1,y,0.2,0.8\n"
    assert uploads.measure(uploads.read(None, probabilities))["classes"] == ["true", "false"]


def test_probabilities_come_as_json_parquet_and_the_projects_own_table(study, tmp_path):
    probs = np.random.default_rng(0).dirichlet(np.ones(3), (4, 30))
    gold = [str(k) for k in probs[0].argmax(axis=1)]
    (tmp_path / "p.json").write_text(json.dumps({"predictions": probs.tolist(), "references": gold}))
    pq.write_table(
        pa.table({f"r{i}": list(run) for i, run in enumerate(probs)} | {"gold": gold}), tmp_path / "p.parquet"
    )
    result, from_parquet = (uploads.measure(uploads.read(str(tmp_path / name), "")) for name in ("p.json", "p.parquet"))
    assert result == from_parquet
    assert {row["metric"] for row in result["figures"]} == {"seed_scores", "seed_instability", "seed_divergence"}
    table = pq.read_table(SAMPLE / "data" / "predictions" / "train-00000-of-00001.parquet")
    name, size = study.test.cells()[0]
    is_variant = [str(run).startswith(f"{name}/n{size}/") for run in table["run"].to_pylist()]
    pq.write_table(table.filter(pa.array(is_variant)), tmp_path / "ours.parquet")
    result = uploads.measure(uploads.read(str(tmp_path / "ours.parquet"), ""))
    expected = next(variant for variant in study.results.variants if (variant.variant, variant.size) == (name, size))
    figures = {row["figure"]: row["value"] for row in result["figures"]}
    assert figures["pairwise_disagreement"] == pytest.approx(expected.pairwise_disagreement)
    assert figures["macro_f1_mean"] == pytest.approx(expected.macro_f1_mean)


BAD = {
    "nothing": ("", "Upload a file"),
    "one run": ("a\nx\ny\n", "it takes two"),
    "only gold": ("gold\nx\ny\n", "no column of a run"),
    "no rows": ("a,b\n", "no rows"),
    "an empty cell": ("a,b\nx,\ny,y\n", "row 1 is empty"),
    "twice": ("a,a\nx,y\n", "same name"),
    "one label": ("a,b\nx,x\nx,x\n", "nothing to measure"),
    "texts": ("a,b\n" + "".join(f"t{i},u{i}\n" for i in range(200)), "different labels"),
    "many columns": (",".join(map(str, range(500))) + "\n", "columns"),
    "no json": ("{", "no JSON"),
    "deep": ("[" * 200_000, "nested too deeply|no JSON"),
    "no predictions": ('{"a": 1}', "should be"),
    "uneven": ("[[0, 1], [0]]", "differ in their number"),
    "numbers": ("[[0.5, 1.5], [0, 1]]", "A label is 0.5"),
    "no sum": ("[[[0.5, 0.6]], [[0.5, 0.5]]]", "sum to 1.1"),
    "negative": ("[[[-0.5, 1.5]], [[0.5, 0.5]]]", "between 0 and 1"),
    "nan": ("[[[NaN, 1]], [[0.5, 0.5]]]", "between 0 and 1"),
    "classes": ("[[[1, 0]], [[0.5, 0.2, 0.3]]]", "a list of probabilities, one for each class"),
    "gold": ('{"predictions": [[0, 1], [1, 1]], "references": [0]}', "1 gold labels for 2"),
    "unknown gold": ('{"predictions": [[[1, 0]], [[1, 0]]], "references": ["z"]}', "none of the classes"),
    "bool": ("[[true, 1], [1, 1]]", "A label is True"),
    "inf": ("a,b\n1,0\ninf,1\n", "row 2 is 'inf', which is not a label"),
    "a nan": ("a,b\n1,NaN\n0,1\n", "row 1 is 'NaN', which is not a label"),
    "a long paste": ("a,b\n" + "x,y\n" * 300_000, "larger than 1 MB"),
    "long": ("run,id,label\n0,a,x\n0,b,y\n1,a,x\n", "should be 4 rows"),
    "long twice": ("run,id,label\n0,a,x\n0,a,y\n1,b,x\n1,b,x\n", "twice"),
    "long without": ("run,id,other\n0,a,x\n1,a,y\n", "a column label"),
    "long gold": ("run,id,label,gold\n0,a,x,x\n1,a,y,y\n", "differ in the gold"),
    "null byte": ("a,b\nx,\0\n", "null byte"),
    "long rows": ("a,b\nx,y,z\nx,y,z\n", "more cells than the header"),
    "a long row": ("a,b\nx,y\nx,y,z\n", "no CSV table.*line 3"),
    "a short row": ("a,b\nx,y\nx\n", "run 2: row 2 is empty"),
}


@pytest.mark.parametrize("kind", BAD)
def test_each_kind_of_bad_table_has_its_sentence(kind):
    text, message = BAD[kind]
    with pytest.raises(uploads.UploadError, match=message):
        uploads.measure(uploads.read(None, text))


def test_each_kind_of_bad_file_has_its_sentence(tmp_path, monkeypatch):
    def refuse(name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(uploads.UploadError, match=message):
            uploads.read(str(tmp_path / name), "")

    refuse("x.exe", b"MZ", "should be .csv")
    refuse("x.csv", b"a,b\n\xff\xfe,1\n", "not UTF-8")
    refuse("e.csv", b" ", "is empty")
    refuse("x.parquet", b"PAR1", "no parquet")
    refuse("big.json", b" " * (uploads.MAX_JSON + 1), "at most 8 MB")
    pq.write_table(pa.table({"a": ["x", None], "b": ["x", "y"]}), tmp_path / "null.parquet")
    with pytest.raises(uploads.UploadError, match="1 empty cells"):
        uploads.read(str(tmp_path / "null.parquet"), "")
    pq.write_table(pa.table({"a": [{"x": 1}], "b": [{"x": 1}]}), tmp_path / "struct.parquet")
    with pytest.raises(uploads.UploadError, match="no labels"):
        uploads.read(str(tmp_path / "struct.parquet"), "")


def test_a_small_file_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path):
    many = uploads.MAX_PROBS + 1
    table = pa.table({"a": pa.array(np.zeros(many, dtype=np.int8)), "b": pa.array(np.zeros(many, dtype=np.int8))})
    pq.write_table(table, tmp_path / "bomb.parquet", compression="zstd")
    assert (tmp_path / "bomb.parquet").stat().st_size < 1_000_000
    with pytest.raises(uploads.UploadError, match="too much"):
        uploads.read(str(tmp_path / "bomb.parquet"), "")
    long = pa.array(["x" * 1_000_000]).dictionary_encode()
    wide_text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(50_000, dtype=np.int32)), long.dictionary)
    pq.write_table(pa.table({"a": wide_text, "b": wide_text}), tmp_path / "text.parquet")
    with pytest.raises(uploads.UploadError, match="nothing to measure|too much"):
        uploads.measure(uploads.read(str(tmp_path / "text.parquet"), ""))


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=300), st.binary(max_size=300).map(lambda b: b.decode("latin-1"))))
def test_whatever_is_pasted_there_is_an_answer_or_a_sentence(text):
    try:
        result = uploads.measure(uploads.read(None, text))
    except uploads.UploadError:
        return
    assert json.dumps(result, allow_nan=False)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(VALUES, VALUES, VALUES)
def test_whatever_json_is_given_there_is_an_answer_or_a_sentence(runs, gold, classes):
    text = json.dumps({"predictions": runs, "references": gold, "classes": classes})
    try:
        result = uploads.measure(uploads.read(None, text))
    except uploads.UploadError:
        return
    assert json.dumps(result, allow_nan=False)


# --------------------------------------------------------------------------------------------------------- the app


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Return the file of the app's output."""
    return tmp_path_factory.mktemp("space") / "app.log"


@pytest.fixture(scope="module")
def address(log):
    """Start the app, in which an import of torch, vllm, transformers or hf_recipes is an error."""
    with serve(APP, log=log) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


def test_every_pages_data_is_an_endpoint_with_names_and_types(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/studies", "/verdict", "/labels", "/seeds", "/compare", "/measure", "/use"}
    parameters = {parameter["parameter_name"]: parameter for parameter in endpoints["/labels"]["parameters"]}
    assert list(parameters) == ["study", "label", "kind", "search", "order", "variant", "page"]
    assert parameters["page"]["python_type"]["type"] == "int"
    assert all(parameter["parameter_has_default"] for parameter in parameters.values())
    assert "recall" not in endpoints["/verdict"]
    assert client.predict(api_name="/verdict")["decision"]
    can = client.predict(api_name="/studies")["choices"]
    assert client.predict(label=can["classes"][0], kind="wrong", api_name="/labels")["rows"]
    for variant in can["variants"]:
        assert client.predict(variant=variant, order="unsure", api_name="/labels")["variant"]["sources"]
    assert client.predict(variant="llm", api_name="/seeds")["rows"]
    assert client.predict(variant="llm", against="gold", api_name="/compare")["tests"]
    assert "load_dataset" in client.predict(api_name="/use")["load_dataset"]


def test_a_pair_that_the_study_did_not_test_is_tested_by_the_module(client, study):
    sizes = sorted({size for _, size in study.test.cells()})
    pair = client.predict(variant="gold", against="llm-random-replace", size=sizes[-1], api_name="/compare")
    assert {test["by"] for test in pair["tests"]} == {"app"}
    assert "was tested here" in pair["said"][0]
    assert all(test["interval"] for test in pair["tests"])


def test_a_file_is_measured_and_a_path_of_the_server_is_refused(client, tmp_path):
    (tmp_path / "mine.csv").write_text(wide(RUNS, GOLD))
    result = client.predict(file=handle_file(tmp_path / "mine.csv"), pasted="", api_name="/measure")
    assert result["R"] == 3
    assert result["full"]["seed_scores"]["n"] == 4
    for path in ("/etc/passwd", str(APP / "app.py"), str(SAMPLE / "README.md")):
        with pytest.raises(Exception, match="(?i)error|not allowed|invalid"):
            client.predict(file={"path": path, "meta": {"_type": "gradio.FileData"}}, pasted="", api_name="/measure")
    with pytest.raises(Exception, match="it takes two"):
        client.predict(file=None, pasted="a\nx\n", api_name="/measure")


@pytest.mark.parametrize("name", ["../../etc", "/etc/passwd", "a/b/c/d", "x", "..", "file:///etc"])
def test_a_visitor_names_no_folder(client, name):
    with pytest.raises(Exception, match="owner/name|no public|could not be reached"):
        client.predict(study=name, api_name="/verdict")


def test_fifty_users_at_once_are_served_and_none_sees_anothers(address):
    def visit(i):
        client = Client(address, verbose=False, httpx_kwargs={"timeout": 120})  # served, however busy the machine is
        labels = [[f"user{i}", "b", "b"], [f"user{i}", "b", f"user{i}"]]
        result = client.predict(file=None, pasted=wide(labels), api_name="/measure")
        client.predict(api_name="/labels")
        return result["classes"]

    with ThreadPoolExecutor(50) as pool:
        classes = list(pool.map(visit, range(50)))
    assert classes == [["b", f"user{i}"] for i in range(50)]


def test_bodies_are_bounded(address):
    def post(content, route="queue/join"):
        head = {"Content-Type": "application/json"}
        return httpx.post(f"{address}/gradio_api/{route}", content=content, headers=head, timeout=60)

    assert post(b" " * 24_000_001).status_code == 413
    assert post(b" " * 4_000_001, "upload").status_code == 400

    def endless():
        for _ in range(40):
            yield b" " * 1_000_000

    with pytest.raises(httpx.HTTPError):
        post(endless()).raise_for_status()
    # Four megabytes of JSON can hold a million values, and 200 questions wait in memory.
    for values in (
        b"[]," * 1_200_000 + b"1",
        b'"",' * 1_200_000 + b"1",
        b'"' + b'\\"' * 1_000_000 + b'",' + b"1," * 200_000 + b"1",
    ):
        assert post(b'{"data": [' + values + b"]}", "call/labels").status_code == 413
    assert post(b'{"data": [' + b"[]," * 1_200_000 + b"1]}", "call/upload").status_code == 413  # not the upload route
    table = "\n".join(['"a","b"', *['"x","y"'] * 100_000, '"x","x"'])
    assert post(json.dumps({"data": [None, table]}), "call/measure").status_code == 200


def test_uploads_that_break_off_fill_no_disk_and_close_nothing(address, log, client, tmp_path):
    def send(size):
        """Open a connection that sends a part of an upload."""
        sent = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
        sent.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 19000000\r\n\r\n--x\r\n"
            b'Content-Disposition: form-data; name="files"; filename="a.csv"\r\n\r\n' + b"a" * size
        )
        return sent

    def used():
        return sum(path.stat().st_size for path in (log.parent / "gradio").rglob("*") if path.is_file())

    before = len(log.read_text())
    with send(1_000_000):  # one upload that arrives, so that a file at the top is not always a broken one
        for _ in range(60):
            send(18_000_000).close()
            assert used() < 1_100_000_000
        (tmp_path / "mine.csv").write_text(wide(RUNS, GOLD))
        result = client.predict(file=handle_file(tmp_path / "mine.csv"), pasted="", api_name="/measure")
        assert result["R"] == 3
    # Complete requests leave files too, where the form is not the one that Gradio expects.
    head = {"Content-Type": "multipart/form-data; boundary=x"}
    for name, end in (("other", "--x--"), ("files", "")):
        form = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="a"\r\n\r\n{"a" * 9_000_000}\r\n{end}'
        httpx.post(f"{address}/gradio_api/upload", content=form, headers=head)
    for _ in range(100):
        if used() < 1_000_000:
            break
        time.sleep(0.1)
    assert used() < 1_000_000
    assert "Traceback" not in log.read_text()[before:]


def varint(number, length=0):
    """Encode a number as in a footer, in `length` bytes or more."""
    number, digits = 2 * number, []
    while number or len(digits) < max(length, 1):
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits[:-1], digits[-1] & 127])


def write_zeros(path, values, columns, width=None, table=None, is_false=False):
    """Write a small file of columns of zeros, or of lists of them. A false footer counts 30 values."""
    column = pa.array(np.zeros(values))
    if width:
        column = pa.FixedSizeListArray.from_arrays(column, width).cast(pa.list_(pa.float64()))
    table = pa.table(dict.fromkeys(columns, column)) if table is None else table
    for name in set(columns) - set(table.column_names):
        table = table.append_column(name, column)
    pq.write_table(table, path)
    if is_false:
        content = path.read_bytes()
        start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        true = varint(values)
        assert content[start:].count(true) >= len(columns)
        path.write_bytes(content[:start] + content[start:].replace(true, varint(30, len(true))))


def write_attack(kind, path):
    names = [f"r{i}" for i in range(50)]
    if kind == "zeros":
        write_zeros(path, 4_000_000, names)
    elif kind == "lists":
        write_zeros(path, 7_900_000, names[:20], 100)
    elif kind == "false footer":
        write_zeros(path, 9_999_999, names[:20], 3_333_333, is_false=True)
    elif kind == "one batch":  # a megabyte in each row, all of one dictionary
        words = pa.DictionaryArray.from_arrays(pa.array(np.zeros(4_000, np.int32)), pa.array([b"x" * 1_000_000]))
        pq.write_table(pa.table({"a": words, "b": words}), path, store_schema=False, compression="zstd")
    assert path.stat().st_size < 2_000_000


@contextmanager
def memory_below(limit):
    """Measure the memory of the app and its processes during requests."""
    app = next(process for process in psutil.Process().children() if "app.py" in process.cmdline())
    peak, is_done = 0, threading.Event()

    def watch():
        nonlocal peak
        while not is_done.wait(0.02):
            used = 0
            for process in (app, *app.children(recursive=True)):
                with suppress(psutil.Error):
                    used += process.memory_info().rss
            peak = max(peak, used)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        is_done.set()
        watcher.join()
    print(f"peak: {peak / 1e6:,.0f} MB")
    assert 100_000_000 < peak < limit


@pytest.mark.parametrize("kind", ["zeros", "lists", "false footer", "one batch"])
def test_a_small_upload_takes_little_memory_whatever_it_unpacks_to(kind, address, client, tmp_path):
    path = tmp_path / "attack.parquet"
    write_attack(kind, path)

    def upload(_):
        with pytest.raises(Exception, match="too much|more than 800 MB of memory"):
            Client(address, verbose=False).predict(file=handle_file(path), pasted="", api_name="/measure")

    with memory_below(1_500_000_000), ThreadPoolExecutor(2) as pool:
        list(pool.map(upload, range(2)))
    assert client.predict(file=None, pasted=wide(RUNS, GOLD), api_name="/measure")["R"] == 3


def test_a_small_published_study_takes_little_memory_whatever_it_unpacks_to(tmp_path):
    folder = copy_study(tmp_path / "study")
    path = folder / "data" / "llm" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    width = 20_000_000 // len(table)
    extra = [*(f"x{i}" for i in range(10)), "votes"]
    table = table.drop_columns([name for name in extra if name in table.column_names])
    write_zeros(path, 2 * width * len(table), extra, 2 * width, table)
    assert path.stat().st_size < 1_000_000
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    push = (
        "import sys, time, huggingface_hub as hub\n"
        "for _ in range(100):\n    try: hub.create_repo('me/study', repo_type='dataset'); break\n"
        "    except Exception: time.sleep(0.1)\n"
        "hub.upload_folder(repo_id='me/study', repo_type='dataset', folder_path=sys.argv[1])"
    )
    server = subprocess.Popen([sys.executable, ROOT / "tests" / "hub_server.py", str(port)])
    try:
        subprocess.run(
            [sys.executable, "-c", push, folder], check=True, env={**os.environ, **env, "HF_TOKEN": "hf_secret"}
        )
        with serve(APP, log=tmp_path / "app.log", env=env) as address:
            client = Client(address, verbose=False)
            with memory_below(1_500_000_000), pytest.raises(Exception, match="more than is shown"):
                client.predict(study="me/study", api_name="/verdict")
            assert client.predict(api_name="/verdict")["decision"]
    finally:
        server.kill()
        server.wait()


WRONG = [
    None,
    1.5,
    float("nan"),
    float("inf"),
    -1,
    10**30,
    True,
    [],
    ["a"],
    {},
    {"a": 1},
    {"path": "/etc/passwd"},
    "\0",
]


def test_a_wrong_argument_gets_a_sentence_and_never_a_traceback(address, log):
    before = len(log.read_text())
    endpoints = httpx.get(f"{address}/gradio_api/info").json()["named_endpoints"]
    head = {"Content-Type": "application/json"}
    with httpx.Client(base_url=f"{address}/gradio_api", timeout=60) as http:

        def ask(name, data):
            response = http.post(f"/call{name}", content=json.dumps({"data": data}), headers=head)
            assert response.status_code == 200
            return http.get(f"/call{name}/{response.json()['event_id']}").text

        for name, endpoint in endpoints.items():
            usual = [parameter.get("parameter_default") for parameter in endpoint["parameters"]]
            if name == "/measure":
                usual = [None, wide(RUNS, GOLD)]
            for i, value in itertools.product(range(len(usual)), WRONG):
                answer = ask(name, [value if i == k else default for k, default in enumerate(usual)])
                event, _, message = answer.partition("\ndata: ")
                is_text = endpoint["parameters"][i]["parameter_name"] not in ("file", "page", "size")
                is_right = (value == "\0") == is_text or (name == "/measure" and value is None)
                assert event in ("event: error", "event: complete")
                if event == "event: error":
                    assert json.loads(message)["error"]
                else:
                    assert is_right, (name, i, value)
        assert "error" in ask("/verdict", ["a", "b", "c"])
    assert "Traceback" not in log.read_text()[before:]


def test_the_card_and_the_requirements_agree_with_the_project():
    front = yaml.safe_load((APP / "README.md").read_text().split("---")[1])
    pins = dict(line.split("==") for line in (APP / "requirements.txt").read_text().splitlines() if "==" in line)
    listed = (ROOT / "requirements" / "cpu.in").read_text().splitlines()
    ours = dict(line.split("==") for line in listed if "==" in line)
    assert front["sdk"] == "gradio"
    assert front["sdk_version"] == pins["gradio"] == ours["gradio"]
    assert all(ours[name] == version for name, version in pins.items())
    assert not {"torch", "vllm", "transformers"} & set(pins)
    size = sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file())
    assert size < 4_000_000
