"""The source's own columns: every one of them is in the published configs, as it was."""

import csv
import datetime
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value, load_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from steps import write_dataset

from hf_recipes.annotation.annotate import annotate
from hf_recipes.data import keep_rows, open_rows
from hf_recipes.errors import UserError
from hf_recipes.hub.pull import _batches
from hf_recipes.source_columns import RESERVED, Keep, publish_columns
from hf_recipes.study import read_json

LABELS_ONLY = [
    *("--grid=null", "--train=null", "--data.pool_size=null", "--data.test_size=null", "--annotate.engine=columns"),
    *("--annotate.model=an-llm", "--annotate.prompt=null", "--annotate.calibration=none", "--annotate.dtype=auto"),
    *("--annotate.columns.label=answer", "--data.label_names=[good, bad]"),
]
ANSWERS = ["good", "bad", "bad", "good"]


@pytest.fixture
def published(make_study):
    """Labels a source by its column `answer`, and returns the rows of the config `llm`."""

    def publish(path, *overrides, folder="study"):
        study = make_study(*LABELS_ONLY, f"--data.path={path}", *overrides, folder=folder)
        annotate(study)
        write_dataset(study)
        file = next((study.dataset / "data" / "llm").iterdir())
        return Dataset.from_parquet(str(file), cache_dir=str(study.root.parent / f"cache-{folder}"))

    return publish


def write(path, rows, features=None):
    if path.suffix == ".csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        Dataset.from_list(rows, features=features).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_column_is_published_and_a_taken_name_gets_a_prefix(suffix, published, tmp_path):
    rows = [
        {"tweet": f"text {k}", "label": answer, "answer": answer, "id": str(k), "source_id": "x", "stars": k}
        for k, answer in enumerate(ANSWERS)
    ]
    path = write(tmp_path / f"rows{suffix}", rows)
    data = published(path, "--data.text_column=tweet")
    assert data["text"] == [row["tweet"] for row in rows]  # the text and gold columns, by our names
    assert data.features["gold"].int2str(data["gold"]) == ANSWERS
    assert {"tweet", "source_label"}.isdisjoint(data.column_names)
    assert data["answer"] == ANSWERS
    assert data["source_source_id"] == ["0", "1", "2", "3"]
    assert data["source_id"] == ["x"] * 4
    assert data["stars"] == [str(k) if suffix == ".csv" else k for k in range(4)]


def test_gold_that_a_map_changes_is_kept_as_the_source_has_it(published, tmp_path):
    rows = [{"text": f"text {k}", "label": "+-"[k % 2], "answer": answer} for k, answer in enumerate(ANSWERS)]
    data = published(write(tmp_path / "rows.csv", rows), '--data.label_map={"+": good, "-": bad}')
    assert data["source_label"] == ["+", "-", "+", "-"]
    assert data.features["gold"].int2str(data["gold"]) == ["good", "bad", "good", "bad"]


def test_a_name_stays_in_its_cell_of_the_card(published, tmp_path):
    name = "a`|b\n| <img src=x> [x](y) |"
    published(write(tmp_path / "rows.jsonl", [{"text": "t", "label": "good", "answer": "bad", name: 1}]))
    card = (tmp_path / "study" / "dataset" / "README.md").read_text()
    assert "\n| `a'\\|b \\| <img src=x> [x](y) \\|` | int64 | as in the source |\n" in card


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("all", {"answer", "a", "b"}), ("none", set()), ("[b]", {"b"}), ("[text, a]", {"source_text", "a"})],
)
def test_columns_can_be_chosen_at_no_cost_in_labels(setting, expected, published, make_study, tmp_path):
    rows = [{"text": f"text {k}", "label": "good", "answer": "bad", "a": k, "b": "x"} for k in range(4)]
    path = write(tmp_path / "rows.jsonl", rows)
    before = published(path, "--data.keep_columns=none")
    keys = read_json(tmp_path / "study" / "annotations" / "current.json")
    data = published(path, f"--data.keep_columns={setting}")
    ours = {"id", "text", "label", "label_source", "gold", "llm_label", "llm_probs", "entropy"}
    assert set(data.column_names) == ours | expected
    assert set(before.column_names) == ours
    assert read_json(tmp_path / "study" / "annotations" / "current.json") == keys


def test_a_column_that_is_not_there_is_an_error(published, tmp_path):
    path = write(tmp_path / "rows.csv", [{"text": "a", "label": "good", "answer": "bad"}])
    with pytest.raises(UserError, match=r"`data.keep_columns` must name one column of .*Got date\. Try one of text"):
        published(path, "--data.keep_columns=[date]")
    with pytest.raises(UserError, match=r"`annotate.columns` must name one column of .*Got llm\. Try one of text"):
        published(path, "--annotate.columns.label=llm")


def test_rows_of_an_earlier_version_stay_readable(make_study, tmp_path):
    """Their manifest lists no columns. A recipe that names a column reads the source again."""
    path = write(tmp_path / "rows.csv", [{"text": f"text {k}", "label": "good", "date": "x"} for k in range(4)])
    settings = [f"--data.path={path}", "--data.label_names=[good, bad]", "--grid=null", "--train=null"]
    study = make_study(*settings, "--data.pool_size=null", "--data.test_size=null")
    files = keep_rows(study, open_rows(study))
    manifest = {name: value for name, value in files.manifest.items() if name != "kept" and "columns" not in name}
    with study.lock():
        study.write_json(study.rows / "manifest.json", manifest)
    assert open_rows(study).source_columns == []
    named = make_study(*settings, "--data.pool_size=null", "--data.test_size=null", "--data.keep_columns=[date]")
    files = open_rows(named)
    assert (files.source_columns, files.manifest["key"]) == (["date"], manifest["key"])


def test_arrow_types_and_class_names_are_kept(published, tmp_path):
    features = Features(
        {
            **{"text": Value("string"), "label": ClassLabel(names=["good", "bad"]), "answer": Value("string")},
            **{"topic": ClassLabel(names=["sports", "arts"]), "day": Value("date32"), "tags": [Value("string")]},
            **{"who": {"name": Value("string"), "age": Value("int8")}, "score": Value("float32")},
        }
    )
    rows = [
        {
            **{"text": f"text {k}", "label": k % 2, "answer": answer, "topic": k % 2, "tags": ["a"] * k},
            **{"day": datetime.date(2026, 1, k + 1), "who": {"name": "x", "age": k}, "score": k / 2},
        }
        for k, answer in enumerate(ANSWERS)
    ]
    data = published(write(tmp_path / "rows.parquet", rows, features))
    kept = ("topic", "day", "tags", "who", "score", "answer")
    assert {name: data.features[name] for name in kept} == {name: features[name] for name in kept}
    assert data.select_columns(list(kept)).to_list() == [{name: row[name] for name in kept} for row in rows]


def test_shards_that_differ_become_one_type_or_json_text(published, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    first = {"text": ["a", "b"], "label": ["good"] * 2, "answer": ["bad"] * 2}
    shards = {"same": (pa.int32(), pa.int64()), "other": (pa.int32(), pa.string())}
    for k in range(2):
        columns = {name: pa.array([k, k]).cast(kinds[k]) for name, kinds in shards.items()}
        columns |= {"kind": pa.array(["x", "y"]).dictionary_encode()} if k else {}
        texts = [f"{text}{k}" for text in first["text"]]
        pq.write_table(pa.table({**first, "text": texts, **columns}), folder / f"train-{k}.parquet")
    data = published(folder)
    assert data["same"] == [0, 0, 1, 1]
    assert data["other"] == ["0", "0", '"1"', '"1"']
    assert data["kind"] == [None, None, "x", "y"]


def test_both_splits_have_the_columns_of_either(make_study, tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    rows = [{"text": f"text {k}", "label": ANSWERS[k % 4], "answer": "good", "url": f"u{k}"} for k in range(60)]
    write(folder / "train.csv", rows[:40])
    write(folder / "test.csv", [{**row, "label": "bad", "page": k} for k, row in enumerate(rows[40:])])
    study = make_study(
        *(*LABELS_ONLY[2:], f"--data.path={folder}", "--data.test_size=7", "--data.pool_size=11"),
        *("--grid.variants=[gold, llm, llm-random-replace]", "--grid.curves=null", "--grid.sizes=[4]"),
    )
    annotate(study)
    write_dataset(study)
    for variant in ("llm", "llm-random-replace"):
        data = load_dataset(str(study.dataset), variant, cache_dir=str(tmp_path / "cache"))
        assert data["train"].features == data["test"].features
        assert (len(data["train"]), len(data["test"])) == (11, 7)
        by_text = {row["text"]: row["url"] for row in rows}
        for split in ("train", "test"):
            assert data[split]["url"] == [by_text[text] for text in data[split]["text"]]
        pages = {f"text {40 + k}": str(k) for k in range(20)}
        assert data["test"]["page"] == [pages[text] for text in data["test"]["text"]]
        assert data["train"]["page"] == [None] * 11


cells = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3), st.just("null")
)
values = st.recursive(cells, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    columns=st.dictionaries(
        st.text(max_size=3) | st.sampled_from(RESERVED),
        st.one_of(
            *(st.lists(kind, min_size=3, max_size=3) for kind in (values, st.integers(), st.floats(), st.text()))
        ),
        max_size=3,
    )
)
def test_json_values_come_back_as_they_were(columns, make_study, tmp_path, monkeypatch):
    """Whatever the type of a column is: it returns each value, or the text that JSON has for it."""
    monkeypatch.setattr("hf_recipes.source.BATCH", 2)  # types are found over batches
    columns = {name: column for name, column in columns.items() if name not in ("text", "label", "answer")}
    rows = [
        {"text": f"text {k}", "label": "good", "answer": "bad", **{name: column[k] for name, column in columns.items()}}
        for k in range(3)
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    files = open_rows(make_study(*LABELS_ONLY, f"--data.path={path}", folder="none"))
    read = pa.Table.from_batches(files.source_batches(files.source_columns, "train")).to_pydict()
    assert list(read) == ["answer", *columns]
    for name, column in columns.items():
        if name in files.manifest["json_columns"]:
            read[name] = [None if text is None else json.loads(text) for text in read[name]]
        assert json.dumps(numbered(read[name])) == json.dumps(numbered(column))


def numbered(value):
    """A JSON value in which 1 is 1.0, as a column of integers and fractions has it, and surrogates are replaced."""
    if isinstance(value, list):
        return list(map(numbered, value))
    if isinstance(value, dict):
        return {numbered(key): numbered(inner) for key, inner in value.items()}
    return float(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53 else value


@given(names=st.lists(st.sampled_from([*RESERVED, "source_id", "source_source_id", "a", "", "unnamed"]), unique=True))
def test_published_names_are_distinct_and_change_only_where_they_must(names):
    published = publish_columns(names, "all")
    assert list(published.values()) == names
    assert not published.keys() & set(RESERVED)
    assert all(published[name] == name for name in set(names) - {*RESERVED, ""})
    assert publish_columns(names, "none") == {}


def test_a_pulled_column_of_any_type_is_read_within_limits(tmp_path):
    """A text in a list, or in an object, stands once in the file, however many rows have it."""
    rows = [{"a": [str(k % 2)], "b": {"c": "x", "d": [["y"]]}, "e": k, "f": None} for k in range(3000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    schema = pq.read_schema(tmp_path / "rows.parquet")
    tables = list(_batches(tmp_path / "rows.parquet", schema))
    assert pa.concat_tables(tables).to_pylist() == rows
    for column in ([["x" * 20_000]] * 3000, [{"c": "x" * 20_000}] * 3000):
        file = tmp_path / "bomb.parquet"
        pq.write_table(pa.table({"a": column}), file)
        assert file.stat().st_size < 100_000
        with pytest.raises(ValueError, match="has more than 33,554,432 bytes"):
            list(_batches(file, pq.read_schema(file)))


def test_a_name_that_a_file_has_twice_is_left_out():
    assert Keep(is_all=True).choose(["a", "b", "a"]) == ["b"]
