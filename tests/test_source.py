"""One reader for all sources: files as people have them, read to the same rows wherever they are."""

import gzip
import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from steps import load_rows

from hf_recipes.data import open_rows
from hf_recipes.errors import UserError
from hf_recipes.recipe import Data
from hf_recipes.source import find_split

LABELS_ONLY = ["--grid=null", "--train=null", "--data.pool_size=null", "--data.test_size=null"]


def read(make_study, path, names, *overrides, folder="study"):
    """The rows of the training split, in the order of the source."""
    return load_rows(
        make_study(f"--data.path={path}", f"--data.label_names={names}", *LABELS_ONLY, *overrides, folder=folder)
    )[0]


def named(rows):
    return {text: None if k < 0 else rows.label_names[k] for text, k in zip(rows.texts, rows.gold, strict=True)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\nbad film,negative,\ngood,positive,\n", "line 2 must have 2 cells like the header. Got 3"),
        ("id,text,label\n1,Well, I like it,positive\n2,bad,negative\n", "line 2 must have 3 cells .* Got 4"),
        ('text,label\n"so ""good""",a\n"say \\"hi, you\\"",b\n', "line 3 is not valid CSV .*quotes in a cell twice"),
        ('text,label\n"open,a\nmore,b\n', "line 3 is not valid CSV"),
        ("text,label\na\n", "line 2 must have 2 cells like the header. Got 1"),
        ("text;label\na, b;positive\n", "must be separated by ','. Got ';'"),
        ("text\tlabel\na\tpositive\n", r"must be separated by ','. Got '\\t'"),
        (
            "text,label,label\na,b,c\n",
            "`data.label_column` must name one column of .* Got label. Try one of text, label, label",
        ),
        ("", "must start with a line of column names. Got no content"),
        (b"text,label\ncaf\xe9,a\n", "must be UTF-8 .* Try saving it as UTF-8"),
    ],
)
def test_csv_that_would_shift_columns_is_refused_with_its_line(content, message, make_study, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read(make_study, file, "[positive, negative]")


STANCES = "text,label\ntweet 0,Favor\ntweet 1,Against\ntweet 2,None\nnull,Favor\n42,NA\n\nTRUE,\n"


@pytest.mark.parametrize("kind", ["file", "folder", "gz", "CSV", "tsv", "tsv folder", "[v1] folder"])
def test_a_csv_file_and_a_folder_of_it_give_the_same_rows(kind, make_study, tmp_path):
    folder = tmp_path / (kind if "folder" in kind else "source")
    folder.mkdir()
    names = {"gz": "rows.csv.gz", "CSV": "ROWS.CSV", "tsv": "rows.tsv", "tsv folder": "train.tsv"}
    file = folder / names.get(kind, "train.csv")
    content = STANCES.replace(",", "\t" if "tsv" in kind else ",").encode()
    file.write_bytes(gzip.compress(content) if kind == "gz" else b"\xef\xbb\xbf" * (kind == "file") + content)
    path = folder if "folder" in kind else file
    rows = read(make_study, path, "['Favor', 'Against', 'None', 'NA']")
    expected = {"tweet 0": "Favor", "tweet 1": "Against", "tweet 2": "None", "null": "Favor", "42": "NA", "TRUE": None}
    assert named(rows) == expected
    assert rows.texts == list(expected)


def test_all_classes_are_offered_to_copy(make_study, tmp_path):
    """The last class comes after the first records that are read."""
    names = [f"class {number:02}" for number in range(30)] + ["no"]
    labels = [*(names[:30] * 40), "no"]
    file = tmp_path / "rows.csv"
    file.write_text("text,label\n" + "".join(f"text {i},{label}\n" for i, label in enumerate(labels)))
    with pytest.raises(UserError, match="must list the classes") as raised:
        read(make_study, file, "null")
    offered = str(raised.value).split("Try ")[1].removesuffix(".")
    assert yaml.safe_load(offered) == names
    assert sorted(set(named(read(make_study, file, offered)).values())) == names
    with pytest.raises(UserError, match="must name a column of classes. Got text with more than 500 values"):
        read(make_study, file, "null", "--data.label_column=text")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_values_are_mapped_to_classes(kind, make_study, tmp_path):
    values = ["1.0", "2", "neg", "", "good"] if kind == "csv" else [1.0, 2.0, -1.0, None, 7.0]
    rows = [{"text": text, "label": value} for text, value in zip("abcde", values, strict=True)]
    file = tmp_path / f"rows.{kind}"
    if kind == "csv":
        file.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows))
    elif kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)
    other = "neg: bad" if kind == "csv" else "-1: bad, 7: good"
    label_map = f"--data.label_map={{1: bad, 2: good, {other}}}"
    expected = {"a": "bad", "b": "good", "c": "bad", "d": None, "e": "good"}
    found = read(make_study, file, "null", label_map)
    assert (named(found), found.label_names) == (expected, ["bad", "good"])
    # With names their order and descriptions count.
    found = read(make_study, file, "{good: a good film, bad: a bad film}", label_map, folder="named")
    assert (named(found), found.label_names) == (expected, ["good", "bad"])


def test_classes_of_a_class_label_are_renamed_and_merged(make_study, tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos", "very pos"])})
    Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 2]}, features).to_parquet(tmp_path / "rows.parquet")
    found = read(make_study, tmp_path / "rows.parquet", "null", "--data.label_map={pos: positive, very pos: positive}")
    assert (named(found), found.label_names) == (
        {"a": "neg", "b": "positive", "c": "positive"},
        ["neg", "positive"],
    )


def test_a_label_that_differs_in_case_gets_a_suggestion(make_study, tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\na,positive\nb,Positive\n")
    with pytest.raises(UserError, match=r"line 3 must be one of .* Got 'Positive'. Did you mean 'positive'\?"):
        read(make_study, tmp_path / "rows.csv", "[negative, positive]")


@pytest.mark.parametrize("values", [["1", "", "0"], ["1.0", "", "0.0"], [1.0, float("nan"), 0.0], [True, None, False]])
def test_integers_with_a_gap_are_indices_however_pandas_wrote_them(values, make_study, tmp_path):
    rows = [{"text": text, "label": value} for text, value in zip("abc", values, strict=True)]
    files = {name: tmp_path / f"rows.{name}" for name in ("jsonl", "csv", "parquet")}
    files["jsonl"].write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )  # with NaN, as pandas and Python write it
    files["csv"].write_text(
        "text,label\n"
        + "".join(f"{row['text']},{row['label'] or ''}\n" for row in rows if row["label"] == row["label"])
    )
    pq.write_table(pa.Table.from_pylist(rows), files["parquet"])
    for kind, file in files.items():
        if kind == "csv" and not isinstance(values[0], str):
            continue
        rows_read = read(make_study, file, "['no', 'yes']", folder=kind)
        assert named(rows_read) == {"a": "yes", "b": None, "c": "no"}, kind


def test_json_values_keep_the_type_of_their_line(make_study, tmp_path):
    records = [
        {"title": "Alien", "day": "2020-01-01", "year": 2020, "label": "good"},
        {"title": 1984, "day": "2021-01-02", "year": "unknown", "label": "bad"},
        {"title": None, "day": None, "label": "bad"},
    ]
    template = "--data.text_template='{{ title }} on {{ day }}'"
    lines = "".join(json.dumps(record) + "\n" for record in records)
    columns = {key: [record.get(key) for record in records] for key in records[0]}
    documents = {
        "rows.jsonl": lines,
        "array.json": json.dumps(records, indent=1),
        "columns.json": json.dumps(columns, indent=1),
    }
    for name, content in documents.items():
        (tmp_path / name).write_text(content)
        columns = ["--data.group_column=year", "--data.cluster_column=day"]
        rows = read(make_study, tmp_path / name, "[good, bad]", template, *columns, folder=name[:3])
        assert rows.texts == ["Alien on 2020-01-01", "1984 on 2021-01-02", " on "]
        assert rows.groups.tolist() == ["2020", "unknown", None]
        assert rows.clusters.tolist() == ["2020-01-01", "2021-01-02", None]
        assert rows.gold.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a", "label": "x"}\n{"text": "b", "label"\n', "line 2 is not valid JSON"),
        ('{"text": "a", "label": "x"}\n[1]\n', "line 2 must be a JSON object"),
        ('{"text": {"en": "a"}, "label": "x"}\n', "line 1 must have a text in `text`. Got {'en': 'a'}"),
        (
            '{"txt": "a", "label": "x"}\n',
            "`data.text_column` must name one column of .* Got text. Try one of txt, label",
        ),
    ],
)
def test_bad_json_is_refused_with_its_line(content, message, make_study, tmp_path):
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        read(make_study, tmp_path / "rows.jsonl", "[x, y]")


def test_shards_may_differ_in_types_and_the_order_of_columns(make_study, tmp_path):
    shards = [
        pa.table({"text": pa.array(["a"]), "label": pa.nulls(1)}),
        pa.table({"label": [1.0, 0.0], "text": ["b", "c"]}),
        pa.table({"text": pa.array(["d", None], pa.large_string()), "label": pa.array([0, 1], pa.int8())}),
    ]
    for number, shard in enumerate(shards):
        pq.write_table(shard, tmp_path / f"train-0000{number}-of-00003.parquet")
    assert read(make_study, tmp_path, "['no', 'yes']").gold.tolist() == [-1, 1, 0, 0, 1]
    pq.write_table(pa.table({"text": ["e"]}), tmp_path / "train-00002-of-00003.parquet")
    with pytest.raises(UserError, match="one column of .*train-00002-of-00003.parquet. Got label. Try one of text"):
        read(make_study, tmp_path, "['no', 'yes']")


def test_counts_of_raters_may_be_cells_of_a_csv_file(make_study, tmp_path):
    (tmp_path / "rows.csv").write_text("text,label,p,n\na,positive,2,1.0\nb,negative,0,3\n")
    rows = read(make_study, tmp_path / "rows.csv", "[positive, negative]", "--data.raters={positive: p, negative: n}")
    assert rows.raters.tolist() == [[2, 1], [0, 3]]


def test_a_training_row_with_the_text_of_a_test_row_is_left_out(make_study, tmp_path, caplog):
    texts = {"train": ["a", "b ", "c", "b", ""], "test": ["b", "x"]}
    for split, values in texts.items():
        pq.write_table(
            pa.table({"text": values, "label": ["no", "yes", "no", "yes", "no"][: len(values)]}),
            tmp_path / f"{split}.parquet",
        )
    overrides = [
        f"--data.path={tmp_path}",
        "--data.label_names=['no', 'yes']",
        "--data.pool_size=null",
        "--grid.sizes=[2]",
    ]
    with caplog.at_level(logging.WARNING):
        files = open_rows(make_study(*overrides, "--data.test_size=null"))
    assert files.load("train").texts == ["a", "c", ""]
    assert files.load("test").texts == ["b", "x"]
    assert files.manifest["rows"]["excluded"] == 2
    assert "2 rows of 'train' have the text of a test row. They are left out of the pool." in caplog.text


@pytest.mark.parametrize(
    ("files", "overrides", "message"),
    [
        (
            ["train"],
            [],
            r"`data.test_split` must name a split of .*. Got test. Try one of train, or set `data.test_split`",
        ),
        (
            ["train", "test"],
            ["--data.train_split='train[:1000]'"],
            r"must name a split .* Got train\[:1000\]. Try one of",
        ),
    ],
)
def test_a_missing_split_is_named_with_what_to_do(files, overrides, message, make_study, tmp_path):
    for split in files:
        (tmp_path / f"{split}.csv").write_text("text,label\na,no\nb,yes\n")
    with pytest.raises(UserError, match=message):
        open_rows(make_study(f"--data.path={tmp_path}", "--data.label_names=['no', 'yes']", *overrides))


def test_a_dataset_of_several_configs_asks_for_data_name(make_study, tmp_path):
    for name in ("en", "de"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.csv").write_text("text,label\na,no\nb,yes\n")
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/train.csv\n" for name in ("en", "de"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    with pytest.raises(UserError, match="`data.name` must name a config of .*. Got none. Try one of en, de."):
        read(make_study, tmp_path, "['no', 'yes']")
    assert read(make_study, tmp_path, "['no', 'yes']", "--data.name=de").texts == ["a", "b"]


TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\x00"), max_size=8)


@given(st.lists(st.tuples(TEXT, st.sampled_from(["x", "y", ""])), min_size=1, max_size=8))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_survives_csv_and_json_alike(tmp_path, rows):
    import csv

    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows(rows)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": t, "label": k}) + "\n" for t, k in rows))
    for name in ("rows.csv", "rows.jsonl"):
        source = find_split(Data(path=str(tmp_path / name)), None, "train", tmp_path)
        batches = list(source.batches({"text": "data.text_column", "label": "data.label_column"}))
        assert [text for batch in batches for text in batch.columns["text"]] == [text for text, _ in rows]
        assert [label for batch in batches for label in batch.columns["label"]] == [label for _, label in rows]


def write_class_labels(folder, shards, card=None):
    """Parquet or CSV shards of `(names, labels)`; with `card`, CSV files whose classes the README names."""
    from datasets import ClassLabel, Dataset, Features, Value

    for number, (names, labels) in enumerate(shards):
        rows = {"text": [f"{number}-{place}" for place in range(len(labels))], "label": labels}
        if card is None:
            features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
            Dataset.from_dict(rows, features=features).to_parquet(folder / f"train-{number}.parquet")
        else:
            lines = [f"{text},{label}\n" for text, label in zip(*rows.values(), strict=True)]
            (folder / f"train-{number}.csv").write_text("text,label\n" + "".join(lines))
    if card is not None:
        names = "".join(f"          '{k}': {name}\n" for k, name in enumerate(card))
        (folder / "README.md").write_text(
            "---\ndataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: label\n    dtype:\n"
            f"      class_label:\n        names:\n{names}---\n"
        )


def test_the_index_of_a_class_label_is_one_in_every_kind_of_file(make_study, tmp_path):
    write_class_labels(tmp_path, [(None, ["1", "0", "1.0", "-1", "good", ""])], card=["bad", "good"])
    for place, names in enumerate(("[good, bad]", "[bad, good]")):
        rows = read(make_study, tmp_path, names, folder=str(place))
        assert list(named(rows).values()) == ["good", "bad", "good", None, "good", None]
    write_class_labels(tmp_path, [(None, ["2"])], card=["bad", "good"])
    with pytest.raises(UserError, match="label in line 2 must be an index of bad, good. Got '2'"):
        read(make_study, tmp_path, "[good, bad]", folder="bad")


def test_shards_with_other_classes_are_refused(make_study, tmp_path):
    write_class_labels(tmp_path, [(["neg", "pos"], [1, 0]), (["pos", "neg"], [0, 1])])
    with pytest.raises(UserError, match="train-1.parquet: `label` must have the classes of the other files, neg, pos"):
        read(make_study, tmp_path, "[neg, pos]")


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_classes_that_are_named_by_decimals_are_names(suffix, make_study, tmp_path):
    rows = [{"text": text, "label": label} for text, label in (("a", 1.0), ("b", 2.0), ("c", 0.5))]
    file = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif suffix == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        file.write_text("text,label\na,1.0\nb,2.0\nc,0.5\n")
    assert read(make_study, file, "['0.5', '1.0', '2.0']").gold.tolist() == [1, 2, 0]


def test_a_missing_text_is_null_also_where_pandas_wrote_nan(make_study, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": NaN, "label": "x"}\n{"text": 7, "label": "y"}\n')
    assert read(make_study, tmp_path / "rows.jsonl", "[x, y]").texts == [None, "7"]
    template = "--data.text_template={{ text }}!"
    assert read(make_study, tmp_path / "rows.jsonl", "[x, y]", template, folder="t").texts == ["!", "7!"]


def test_json_is_read_by_its_content_and_not_by_its_layout(make_study, tmp_path):
    record, columns = {"text": "ok", "label": "x"}, {"text": ["a", "b"], "label": ["x", "y"]}
    for number, (content, texts) in enumerate(
        [
            (json.dumps(record, indent=1), ["ok"]),
            (json.dumps(record), ["ok"]),
            (json.dumps(columns), ["a", "b"]),
            (json.dumps(columns, indent=1), ["a", "b"]),
            (f"\n\n{json.dumps(record)}\n\n{json.dumps(record)}\n", ["ok", "ok"]),
        ]
    ):
        (tmp_path / "rows.json").write_text(content)
        assert read(make_study, tmp_path / "rows.json", "[x, y]", folder=str(number)).texts == texts
    (tmp_path / "rows.json").write_text(json.dumps({"text": ["a", "b"], "label": ["x"]}, indent=1))
    with pytest.raises(UserError, match="columns of a JSON document must have the same length"):
        read(make_study, tmp_path / "rows.json", "[x, y]", folder="uneven")


def test_a_column_may_first_occur_late_and_a_shard_may_be_empty(make_study, tmp_path):
    lines = [json.dumps({"text": f"t{i}"}) for i in range(1500)] + [json.dumps({"text": "last", "label": "x"})]
    (tmp_path / "train-0.jsonl").write_text("\n".join(lines))
    (tmp_path / "train-1.jsonl").write_text("")
    rows = read(make_study, tmp_path, "[x, y]")
    assert (len(rows), rows.gold.tolist().count(0)) == (1501, 1)


def test_what_a_card_sets_for_csv_files_is_read_or_refused(make_study, tmp_path):
    card = "---\nconfigs:\n- config_name: default\n  data_files: train.csv\n  {}\n---\n"
    (tmp_path / "train.csv").write_bytes("text;label\n'caf\u00e9; bar';x\n".encode("latin-1"))
    (tmp_path / "README.md").write_text(card.format("sep: ';'\n  quotechar: \"'\"\n  encoding: latin-1"))
    assert read(make_study, tmp_path, "[x, y]").texts == ["caf\u00e9; bar"]
    (tmp_path / "README.md").write_text(card.format("header: null"))
    with pytest.raises(UserError, match="its card must not set `header` for CSV files. Got None"):
        read(make_study, tmp_path, "[x, y]", folder="header")


def test_rows_left_out_of_a_single_file_are_counted_and_no_copy_of_the_source_stays(make_study, tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"t{i % 10},{'xy'[i % 2]}\n" for i in range(50)))
    files = open_rows(
        make_study(
            f"--data.path={tmp_path / 'rows.csv'}",
            "--data.label_names=[x, y]",
            "--data.pool_size=null",
            "--data.test_size=3",
            "--grid.sizes=[2]",
        )
    )
    tested = files.load("test").texts
    assert files.manifest["rows"] == {
        "train": 50 - 5 * len(set(tested)),
        "test": 3,
        "excluded": 5 * len(set(tested)) - 3,
    }
    assert sorted(path.name for path in files.folder.iterdir()) == ["test.parquet", "train.parquet"]
