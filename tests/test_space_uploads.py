"""Test uploads of every kind, and refusals."""

import json

import measuring
import numpy as np
import page_html
import published
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uploads
from hypothesis import given, settings
from hypothesis import strategies as st
from space_app import GOLD, RUNS, SAMPLE, wide


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
    results = [measuring.measure(uploads.read(str(tmp_path / name), "")) for name in ("x.csv", "x.json", "w.parquet")]
    results.append(measuring.measure(uploads.read(None, wide(RUNS, GOLD))))
    assert results[0] == results[1] == results[2] == results[3]
    by_run = uploads.read(str(tmp_path / "long.parquet"), "")
    assert by_run.labels.tolist() == uploads.read(None, wide(RUNS)).labels.tolist()
    seed_instability = measuring.metric("seed_instability")
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
    figures = measuring.measure(uploads.read(None, table))
    assert (figures["R"], len(figures["classes"]), figures["ignored"]) == (2, 3, ignored)
    assert figures["full"]["seed_scores"]["accuracy_mean"] == 0.75


def test_a_run_of_which_all_labels_differ_is_a_run():
    table = "seed0,seed1,seed2\na,a,a\nb,a,b\nc,c,c\nd,b,a\n"
    assert measuring.measure(uploads.read(None, table))["R"] == 3
    probabilities = "run,id,true,false\n0,x,0.9,0.1\n1,x,0.2,0.8\n0,y,0.9,0.1\n1,y,0.2,0.8\n"
    assert measuring.measure(uploads.read(None, probabilities))["classes"] == ["true", "false"]


def test_probabilities_come_as_json_parquet_and_the_projects_own_table(tmp_path):
    study = published.read_folder(SAMPLE)
    probs = np.random.default_rng(0).dirichlet(np.ones(3), (4, 30))
    gold = [str(k) for k in probs[0].argmax(axis=1)]
    (tmp_path / "p.json").write_text(json.dumps({"predictions": probs.tolist(), "references": gold}))
    pq.write_table(
        pa.table({f"r{i}": list(run) for i, run in enumerate(probs)} | {"gold": gold}), tmp_path / "p.parquet"
    )
    result, from_parquet = (
        measuring.measure(uploads.read(str(tmp_path / name), "")) for name in ("p.json", "p.parquet")
    )
    assert result == from_parquet
    assert {row["metric"] for row in result["figures"]} == {"seed_scores", "seed_instability", "seed_divergence"}
    table = pq.read_table(SAMPLE / "data" / "predictions" / "train-00000-of-00001.parquet")
    name, size = study.test.cells()[0]
    is_variant = [str(run).startswith(f"{name}/n{size}/") for run in table["run"].to_pylist()]
    pq.write_table(table.filter(pa.array(is_variant)), tmp_path / "ours.parquet")
    result = measuring.measure(uploads.read(str(tmp_path / "ours.parquet"), ""))
    expected = next(variant for variant in study.results.variants if (variant.variant, variant.size) == (name, size))
    figures = {row["figure"]: row["value"] for row in result["figures"]}
    assert figures["pairwise_disagreement"] == pytest.approx(expected.pairwise_disagreement)
    assert figures["macro_f1_mean"] == pytest.approx(expected.macro_f1_mean)


def test_texts_on_which_runs_differ_are_listed(tmp_path):
    table = "id,text,a,b,c\n7,same,x,x,x\n8,<b>one</b> differs,x,y,x\n9,all differ,x,y,z\n"
    result = measuring.measure(uploads.read(None, table))
    assert result["differing"] == 2
    assert [(row["row"], row["text"]) for row in result["rows"]] == [(3, "all differ"), (2, "<b>one</b> differs")]
    page = page_html.measured_top(result)
    assert "Your runs differ on 67% of texts" in page
    assert "&lt;b&gt;one&lt;/b&gt; differs" in page
    assert "z <b>×1</b>" in page
    long = {"run": [0, 1, 0, 1], "id": [1, 1, 2, 2], "text": ["p", "p", None, None], "label": ["x", "y", "y", "y"]}
    pq.write_table(pa.table(long), tmp_path / "long.parquet")
    rows = measuring.measure(uploads.read(str(tmp_path / "long.parquet"), ""))["rows"]
    assert [(row["text"], row["labels"]) for row in rows] == [("p", ["x", "y"])]
    assert measuring.measure(uploads.read(None, "a,b\nx,x\nx,y\n"))["rows"][0]["text"] == ""


BAD = {
    "nothing": ("", "Upload a file"),
    "one run": ("a\nx\ny\n", "two runs or more"),
    "only gold": ("gold\nx\ny\n", "a column for each run"),
    "must have rows": ("a,b\n", "must have rows"),
    "an empty cell": ("a,b\nx,\ny,y\n", "Got `` in row 1"),
    "twice": ("a,a\nx,y\n", "must differ"),
    "one label": ("a,b\nx,x\nx,x\n", "two classes or more"),
    "texts": ("a,b\n" + "".join(f"t{i},u{i}\n" for i in range(200)), "at most 100 classes"),
    "many columns": (",".join(map(str, range(500))) + "\n", "columns"),
    "no json": ("{", "must be JSON"),
    "deep": ("[" * 200_000, "deeper lists|must be JSON"),
    "no predictions": ('{"a": 1}', "The JSON must be"),
    "uneven": ("[[0, 1], [0]]", "same number of texts"),
    "numbers": ("[[0.5, 1.5], [0, 1]]", "Got 0.5"),
    "no sum": ("[[[0.5, 0.6]], [[0.5, 0.5]]]", "Got 1.1 in run 1"),
    "negative": ("[[[-0.5, 1.5]], [[0.5, 0.5]]]", "between 0 and 1"),
    "nan": ("[[[NaN, 1]], [[0.5, 0.5]]]", "between 0 and 1"),
    "classes": ("[[[1, 0]], [[0.5, 0.2, 0.3]]]", "a list of probabilities, one for each class"),
    "gold": ('{"predictions": [[0, 1], [1, 1]], "references": [0]}', "Got 1 for 2 texts"),
    "unknown gold": ('{"predictions": [[[1, 0]], [[1, 0]]], "references": ["z"]}', "must be one of"),
    "bool": ("[[true, 1], [1, 1]]", "Got True"),
    "inf": ("a,b\n1,0\ninf,1\n", "Got `inf` in row 2"),
    "a nan": ("a,b\n1,NaN\n0,1\n", "Got `NaN` in row 1"),
    "a long paste": ("a,b\n" + "x,y\n" * 300_000, "at most 1 MB"),
    "long": ("run,id,label\n0,a,x\n0,b,y\n1,a,x\n", "4 rows for 2 runs"),
    "long twice": ("run,id,label\n0,a,x\n0,a,y\n1,b,x\n1,b,x\n", "an id twice"),
    "long without": ("run,id,other\n0,a,x\n1,a,y\n", "a column `label`"),
    "long gold": ("run,id,label,gold\n0,a,x,x\n1,a,y,y\n", "two gold labels"),
    "null byte": ("a,b\nx,\0\n", "null byte"),
    "long rows": ("a,b\nx,y,z\nx,y,z\n", "as long as the header"),
    "a long row": ("a,b\nx,y\nx,y,z\n", "must be CSV.*line 3"),
    "a short row": ("a,b\nx,y\nx\n", "run 2 must have a label.*row 2"),
}


@pytest.mark.parametrize("kind", BAD)
def test_each_kind_of_bad_table_has_its_sentence(kind):
    text, message = BAD[kind]
    with pytest.raises(uploads.UploadError, match=message):
        measuring.measure(uploads.read(None, text))


def test_each_kind_of_bad_file_has_its_sentence(tmp_path, monkeypatch):
    def refuse(name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(uploads.UploadError, match=message):
            uploads.read(str(tmp_path / name), "")

    refuse("x.exe", b"MZ", "must be .csv")
    refuse("x.csv", b"a,b\n\xff\xfe,1\n", "must be UTF-8")
    refuse("e.csv", b" ", "an empty file")
    refuse("x.parquet", b"PAR1", "must be parquet")
    refuse("big.json", b" " * (uploads.MAX_JSON + 1), "at most 8 MB")
    pq.write_table(pa.table({"a": ["x", None], "b": ["x", "y"]}), tmp_path / "null.parquet")
    with pytest.raises(uploads.UploadError, match="empty cells. Got 1"):
        uploads.read(str(tmp_path / "null.parquet"), "")
    pq.write_table(pa.table({"a": [{"x": 1}], "b": [{"x": 1}]}), tmp_path / "struct.parquet")
    with pytest.raises(uploads.UploadError, match="must have labels"):
        uploads.read(str(tmp_path / "struct.parquet"), "")


def test_a_small_file_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path):
    many = uploads.MAX_PROBS + 1
    table = pa.table({"a": pa.array(np.zeros(many, dtype=np.int8)), "b": pa.array(np.zeros(many, dtype=np.int8))})
    pq.write_table(table, tmp_path / "bomb.parquet", compression="zstd")
    assert (tmp_path / "bomb.parquet").stat().st_size < 1_000_000
    with pytest.raises(uploads.UploadError, match="unpack to at most|at most"):
        uploads.read(str(tmp_path / "bomb.parquet"), "")
    long = pa.array(["x" * 1_000_000]).dictionary_encode()
    wide_text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(50_000, dtype=np.int32)), long.dictionary)
    pq.write_table(pa.table({"a": wide_text, "b": wide_text}), tmp_path / "text.parquet")
    with pytest.raises(uploads.UploadError, match="two classes or more|at most"):
        measuring.measure(uploads.read(str(tmp_path / "text.parquet"), ""))


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=300), st.binary(max_size=300).map(lambda b: b.decode("latin-1"))))
def test_whatever_is_pasted_there_is_an_answer_or_a_sentence(text):
    try:
        result = measuring.measure(uploads.read(None, text))
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
        result = measuring.measure(uploads.read(None, text))
    except uploads.UploadError:
        return
    assert json.dumps(result, allow_nan=False)
