"""Rows: ids by content, every kind of source, and what is said about bad ones."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SAMPLE, SMALL_RECIPE
from hypothesis import given
from hypothesis import strategies as st
from steps import load_rows

from hf_recipes.data import NO_GOLD, keep_rows, open_rows
from hf_recipes.errors import UserError
from hf_recipes.hashing import hash_order, row_ids
from hf_recipes.row_reader import class_index

TEXTS = st.lists(
    st.one_of(st.none(), st.text(max_size=6), st.sampled_from(["a", "a", "None", "null", ""])), max_size=12
)


@given(TEXTS, st.randoms())
def test_ids_come_from_content_not_position(texts, random):
    ids = row_ids("train", texts)
    assert len(set(ids)) == len(texts)
    shuffled = random.sample(texts, len(texts))
    assert sorted(row_ids("train", shuffled)) == sorted(ids)
    assert not set(ids) & set(row_ids("test", texts))


@given(st.sets(st.text("abc", min_size=1, max_size=4), max_size=30), st.integers(0, 3))
def test_a_draw_does_not_change_when_rows_come_or_go(names, salt):
    ids = sorted(names)
    order = [ids[i] for i in hash_order(ids, str(salt))]
    assert sorted(order) == ids
    fewer = ids[::2]
    assert [i for i in order if i in set(fewer)] == [fewer[i] for i in hash_order(fewer, str(salt))]


ROWS = {"text": ["good", "bad", "fine", "good"], "label": ["yes", "no", "yes", "no"]}


def write_source(folder, kind, rows=ROWS):
    """A source of the kind, with a train and a test split where it can have them; returns the settings for it."""
    folder.mkdir(exist_ok=True)
    names = "--data.label_names=['no', 'yes']"
    if kind == "parquet folder":
        pq.write_table(pa.table(rows), folder / "train-00000-of-00001.parquet")
        key = "text" if "text" in rows else next(iter(rows))
        others = [f"{value} in the test" if isinstance(value, str) else value for value in rows[key]]
        pq.write_table(pa.table({**rows, key: others}), folder / "test-00000-of-00001.parquet")
        return [f"--data.path={folder}", names]
    file = folder / {"csv": "rows.csv", "jsonl": "rows.jsonl", "parquet": "rows.parquet"}[kind]
    if kind == "csv":
        lines = [",".join(rows), *(",".join(map(str, values)) for values in zip(*rows.values(), strict=True))]
        file.write_text("\n".join(lines) + "\n")
    elif kind == "jsonl":
        records = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
        file.write_text("\n".join(map(json.dumps, records)) + "\n")
    else:
        pq.write_table(pa.table(rows), file)
    return [f"--data.path={file}", names, "--data.test_size=1"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "parquet folder"])
def test_every_kind_of_source_gives_the_same_rows(kind, make_study, tmp_path):
    pool, test = load_rows(make_study(*write_source(tmp_path / "source", kind), "--data.pool_size=null"))
    expected = dict(zip(row_ids("train", ROWS["text"]), zip(ROWS["text"], [1, 0, 1, 0], strict=True), strict=True))
    if kind == "parquet folder":
        assert pool.ids == list(expected)
    else:  # one file: a test row is drawn, and no row of the pool has its text
        assert len(test) == 1
        assert not set(test.texts) & set(pool.texts)
        assert [i for i, (text, _) in expected.items() if text not in test.texts] == pool.ids
    for i, text, gold in zip(pool.ids, pool.texts, pool.gold, strict=True):
        assert expected[i] == (text, gold)
    again, _ = load_rows(make_study(*write_source(tmp_path / "source", kind), "--data.pool_size=null"))
    assert again.ids == pool.ids


@pytest.fixture
def elsewhere():
    """A file system of fsspec that is no folder of this machine."""
    import fsspec

    system = fsspec.filesystem("memory")
    system.makedirs("/bucket", exist_ok=True)
    yield system
    system.rm("/bucket", recursive=True)


def test_parquet_files_at_any_url_of_fsspec_are_one_source(elsewhere, make_study, tmp_path):
    for i in range(2):
        table = pa.table({name: values[2 * i : 2 * i + 2] for name, values in ROWS.items()})
        with elsewhere.open(f"/bucket/texts-{i}.parquet", "wb") as file:
            pq.write_table(table, file)
    _, *settings = [*write_source(tmp_path / "local", "parquet"), "--data.pool_size=null"]
    there = make_study("--data.path=memory://bucket/texts-*.parquet", *settings)
    local = make_study(f"--data.path={tmp_path / 'local' / 'rows.parquet'}", *settings)
    for found, expected in zip(load_rows(there), load_rows(local), strict=True):
        assert (found.ids, found.texts) == (expected.ids, expected.texts)
        assert found.gold.tolist() == expected.gold.tolist()
    kept = keep_rows(there, open_rows(there)).manifest["key"]
    with elsewhere.open("/bucket/texts-2.parquet", "wb") as file:  # a file more is another source
        pq.write_table(pa.table({"text": ["new"], "label": ROWS["label"][:1]}), file)
    assert open_rows(there).manifest["key"] != kept
    elsewhere.rm("/bucket/texts-*.parquet")
    assert open_rows(there).manifest["key"] == kept  # out of reach: what is kept will do


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory://bucket/none.parquet", "must name files that exist. Got"),
        ("memory://bucket/none.csv", "must name .parquet files if it is a URL"),
        ("s3://key:secret@bucket/x.parquet", "must not hold a password, token or key"),
        ("nowhere://x.parquet", "Protocol not known: nowhere"),
    ],
)
def test_a_url_that_cannot_be_read_is_said_and_no_password(url, said, elsewhere, make_study):
    with pytest.raises(UserError, match=said) as error:
        open_rows(make_study(f"--data.path={url}"))
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ([1, 3, 5], ["1", "2", "3", "4", "5"], [0, 2, 4]),
        ([0, 1, 2], ["a", "b", "c"], [0, 1, 2]),
        ([-1, 0, 1], ["-1", "0", "1"], [0, 1, 2]),
        ([True, False], ["True", "False"], [0, 1]),
        (["b", None, "a", ""], ["a", "b"], [1, NO_GOLD, 0, NO_GOLD]),
        ([-1, 0], ["a", "b"], "label in line 1 must be one of a, b. Got -1"),
        ([0, 1], ["1", "2"], "label in line 1 must be one of 1, 2. Got 0"),
        ([2], ["a", "b"], "label in line 1 must be one of a, b. Got 2"),
    ],
)
def test_labels_are_names_first_and_indices_only_where_names_are_no_numbers(labels, names, expected):
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            [class_index(label, names, "x.csv", line) for line, label in enumerate(labels, 1)]
    else:
        assert [class_index(label, names, "x.csv", line) for line, label in enumerate(labels, 1)] == expected


@pytest.mark.parametrize("names", [None, ["b", "a"], ["3", "1", "2"]])
def test_a_class_label_goes_by_its_names(names, make_study, tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    own = ["1", "2", "3"] if names and "3" in names else ["a", "b"]
    features = Features({"text": Value("string"), "label": ClassLabel(names=own)})
    values = {"text": ["x", "y", "z"], "label": [0, 1, len(own) - 1]}
    (tmp_path / "source").mkdir()
    for split, texts in (("train", values["text"]), ("test", ["p", "q", "r"])):
        rows = Dataset.from_dict({**values, "text": texts}, features=features)
        rows.to_parquet(tmp_path / "source" / f"{split}.parquet")
    setting = f"--data.label_names={names}" if names else "--data.label_names=null"
    pool, _ = load_rows(make_study(f"--data.path={tmp_path / 'source'}", setting))
    assert [pool.label_names[k] for k in pool.gold] == [own[k] for k in values["label"]]


def test_a_csv_may_say_null(make_study, tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\nnull,None\nN/A,b\nok,None\nfine,b\n")
    settings = [f"--data.path={tmp_path / 'rows.csv'}", "--data.label_names=['None', 'b']", "--data.test_size=1"]
    pool, test = load_rows(make_study(*settings))
    assert {*pool.texts, *test.texts} == {"null", "N/A", "ok", "fine"}


def test_a_source_that_changed_is_read_anew(make_study, tmp_path):
    settings = write_source(tmp_path / "source", "parquet folder")
    study = make_study(*settings)
    keep_rows(study, open_rows(study))
    assert load_rows(study)[0].texts == ROWS["text"]
    write_source(tmp_path / "source", "parquet folder", {"text": ["new", "newer"], "label": ["no", "yes"]})
    assert load_rows(make_study(*settings))[0].texts == ["new", "newer"]


def test_the_sample_with_its_class_names(make_study):
    pool, test = load_rows(make_study("--data.pool_size=50", "--data.test_size=20"))
    assert (len(pool), len(test), pool.label_names) == (50, 20, ["negative", "neutral", "positive"])
    wider, _ = load_rows(make_study("--data.pool_size=80", folder="wider"))
    assert set(pool.ids) < set(wider.ids)
    table = pq.read_table(SAMPLE / "data" / "train-00000-of-00001.parquet").to_pydict()
    gold = dict(zip(table["text"], table["label"], strict=True))
    assert [gold[text] for text in pool.texts] == pool.gold.tolist()


def test_missing_gold_is_kept_in_the_pool_and_refused_in_the_test_split(make_study, tmp_path):
    rows = {"text": ["a", "b", "c"], "label": ["yes", None, "no"]}
    folder = write_source(tmp_path / "folder", "parquet folder", rows)
    with pytest.raises(
        UserError, match="every row of 'test' must have a text and a gold label. 1 rows have not, for example row 2"
    ):
        load_rows(make_study(*folder))
    write_source(tmp_path / "folder", "parquet folder")
    pq.write_table(pa.table(rows), tmp_path / "folder" / "train-00000-of-00001.parquet")
    assert load_rows(make_study(*folder, folder="other"))[0].gold.tolist() == [1, NO_GOLD, 0]


BAD_DATA = {
    "missing column": (
        {"tweet": ["a"], "label": ["yes"]},
        "`data.text_column` must name one column of ",
        "Got text. Try one of tweet, label.",
    ),
    "missing labels": (
        {"text": ["a"], "klass": ["yes"]},
        "`data.label_column` must name one column of ",
        "Got label. Try one of text, klass.",
    ),
    "unknown label": (
        {"text": ["a", "b"], "label": ["yes", "maybe"]},
        "the label in line 2 must be one of no, yes",
        "Got 'maybe'",
    ),
    "no text": (
        {"text": [1.5], "label": ["yes"]},
        "`data.text_column` must name a column of texts",
        "Got text, which has double",
    ),
    "no rows": (
        {"text": pa.array([], pa.string()), "label": pa.array([], pa.string())},
        "split 'train'",
        "must have rows. Got none.",
    ),
}


@pytest.mark.parametrize(("rows", "part", "mend"), BAD_DATA.values(), ids=BAD_DATA)
def test_bad_data_is_one_line_and_leaves_no_study(rows, part, mend, command, tmp_path):
    settings = write_source(tmp_path / "source", "parquet folder", rows)
    for step in ("plan", "run"):
        code, _, errors = command(step, SMALL_RECIPE, f"--output_dir={tmp_path / 'study'}", *settings)
        assert code == 2
        assert errors.count("\n") == 1
        assert part in errors
        assert mend in errors
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("step", "setting"),
    [
        ("run", "--train.encoder=models/none"),
        ("run", "--grid.sizes=[450]"),
        ("run", "--annotate.prompt.template=x"),
        ("annotate", "--annotate.prompt.template=x"),
    ],
)
def test_a_recipe_that_stops_with_an_error_leaves_no_study_to_refuse_the_mended_one(step, setting, command, tmp_path):
    code, _, errors = command(step, SMALL_RECIPE, f"--output_dir={tmp_path / 'study'}", setting)
    assert code == 2, errors
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (["--data.label_names=null"], ["`data.label_names` must list the classes", "Try ['no', 'yes']."]),
        (["--data.train_split=dev"], ["`data.train_split` must name a split of", "Got dev. Try one of train, test"]),
        (
            ["--data.path=no/such/folder/here"],
            ["Got no/such/folder/here, which does not exist here and is not a Hub id."],
        ),
        (
            ["--data.path=LICENSE"],
            ["`data.path` must be a folder or a file .parquet, .csv, .tsv, .json or .jsonl. Got LICENSE."],
        ),
        (["--data.path=nobody/nothing"], ["Got nobody/nothing, which is not here and on the Hub: "]),
        (
            ["--data.path=nosuch.csv"],
            ["`data.path` must be a file, a folder or a Hub dataset. Got nosuch.csv, which does not exist."],
        ),
        (
            ["--annotate.model=models/nothing"],
            ["`annotate.model` must be a local folder or a model"],
        ),
        (["--train.encoder=tests"], ["train.encoder: tests has no .safetensors file"]),
        (
            ["--train.accelerate_config=README.md"],
            ["`train.accelerate_config` must be an accelerate configuration. Got README.md."],
        ),
        (
            ["--train.accelerate_config=one-gpu"],
            ["must suit this machine, which has too few CUDA GPUs. Got ", "one-gpu.yaml. Try cpu."],
        ),
        (
            ["--train.max_length=600"],
            ["`train.max_length` must be at most 512, the maximum of models/all-MiniLM-L6-v2. Got 600."],
        ),
        (["--grid.sizes=[1000]"], ["`grid.sizes` must be at most 2", "Got 1000"]),
        (
            ["--data.test_split=train"],
            ["`data.test_size` must be the number of test rows to draw", "has no test split."],
        ),
        (
            ["--annotate.prompt.template='{{ text }}{{ x }}'"],
            ["`annotate.prompt.template` must be a jinja2 template that renders. Got 'x' is undefined."],
        ),
        (
            ["--train.accelerate_config=tpu"],
            [
                "`train.accelerate_config` must be a file or one of cpu, cpu-bf16, cpu-two, multi-gpu, one-gpu, "
                "one-gpu-float32. Got tpu."
            ],
        ),
    ],
)
def test_what_a_recipe_names_must_exist(settings, parts, command, tmp_path):
    source = write_source(tmp_path / "source", "parquet folder")
    small = ["--annotate.prompt.shots_per_class=1", "--grid.sizes=[2]", "--data.test_size=null"]
    code, _, errors = command("plan", SMALL_RECIPE, f"--output_dir={tmp_path / 'study'}", *small, *source, *settings)
    assert code == 2
    assert errors.count("\n") == 1
    for part in parts:
        assert part in errors


def test_plan_writes_nothing(command, tmp_path):
    code, output, _ = command("plan", SMALL_RECIPE, f"--output_dir={tmp_path / 'study'}")
    assert code == 0
    assert "920 texts" in output
    assert "24 runs" in output
    assert not (tmp_path / "study").exists()


def test_gold_is_an_integer_array(make_study):
    assert load_rows(make_study("--data.pool_size=5"))[0].gold.dtype == np.int64


def test_a_text_may_be_made_of_several_columns(make_study, tmp_path):
    rows = {"title": ["a", None, "c"], "stars": [1, 2, 3], "label": ["yes", "no", "yes"]}
    settings = write_source(tmp_path / "source", "parquet folder", rows)
    template = "--data.text_template='{{ title }} ({{ stars }} stars)'"
    pool, test = load_rows(make_study(*settings, template))
    assert pool.texts == ["a (1 stars)", "c (3 stars)"]  # the other text is in the test, too
    assert test.texts == ["a in the test (1 stars)", " (2 stars)", "c in the test (3 stars)"]
    for wrong, part in (
        ("{{ name }}", "`data.text_template` must name one column of"),
        ("{{ title", "`data.text_template` must be a jinja2 template"),
        ("words", "`data.text_template` must name a column. Got none"),
        ("{{ stars + title }}", "`data.text_template` must make a text of each row"),
        ("{{ title.__class__.__mro__ }}", "`data.text_template` must make a text of each row"),
    ):
        with pytest.raises(UserError) as error:
            load_rows(make_study(*settings, f"--data.text_template='{wrong}'"))
        assert part in str(error.value)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_odd_texts_are_rows_too(suffix, make_study, tmp_path):
    texts = ["bidi \u202e \u2066", "\x00\x1b[2J", "", "\U0001f600", "word " * 250_000, "{{ text }}", None, "fine"]
    halves = ["half \ud83d of a pair", "\ude00 the other half", "\ud800"] if suffix == "jsonl" else []
    file = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        records = [{"text": text, "label": "yes"} for text in texts + halves]
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        pq.write_table(pa.table({"text": texts, "label": ["yes"] * len(texts)}), file)
    settings = [f"--data.path={file}", "--data.label_names=['no', 'yes']", "--grid=null", "--train=null"]
    files = open_rows(make_study(*settings, "--data.pool_size=null", "--data.test_size=null"))
    pool = files.load("train")
    assert pool.texts == [
        *texts,
        *(
            half.encode("utf-8", "surrogatepass").decode("utf-8", "replace").replace("\ufffd" * 3, "\ufffd")
            for half in halves
        ),
    ]
    assert len(set(pool.ids)) == len(pool.ids)
    nothing = [text for text, i in zip(pool.texts, files.column("text_id").to_pylist(), strict=True) if i is None]
    assert nothing == ["", None]


def test_a_recipe_that_only_labels_needs_no_test_rows(make_study, tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\na,yes\nb,no\n")
    settings = [f"--data.path={tmp_path / 'rows.csv'}", "--data.label_names=['no', 'yes']", "--data.test_size=null"]
    pool, test = load_rows(make_study(*settings, "--grid=null", "--train=null"))
    assert (len(pool), len(test)) == (2, 0)
    unlabelled = ["--data.label_column=null", "--grid=null", "--train=null"]
    pool, _ = load_rows(make_study(*settings, *unlabelled, folder="unlabelled"))
    assert pool.gold.tolist() == [NO_GOLD, NO_GOLD]


def test_rows_are_read_in_batches_and_keep_their_order_and_ids(make_study, tmp_path, monkeypatch):
    texts = [f"text {i % 40}" for i in range(100)]
    settings = write_source(tmp_path / "source", "parquet folder", {"text": texts, "label": ["yes", "no"] * 50})
    monkeypatch.setattr("hf_recipes.data.BATCH", 7)
    pool, _ = load_rows(make_study(*settings, "--data.pool_size=null", "--data.test_size=null"))
    assert pool.texts == texts
    assert pool.ids == row_ids("train", texts)
    drawn, _ = load_rows(make_study(*settings, "--data.pool_size=31", "--data.test_size=null", folder="drawn"))
    assert set(drawn.ids) < set(pool.ids)
    assert drawn.ids == [i for i in pool.ids if i in set(drawn.ids)]
    files = open_rows(make_study(*settings, "--data.pool_size=null", "--data.test_size=null", folder="files"))
    assert files.texts(np.array([93, 2, 14])) == [texts[93], texts[2], texts[14]]


def test_raters_are_counted_by_class_from_lists_and_from_counts(make_study, tmp_path):
    import pandas as pd

    table = pd.DataFrame(
        {
            "text": ["one", "two", "three"],
            "label": ["x", "y", "x"],
            "votes": [["x", "y", "x"], [], ["y", None]],
            "share_x": [0.7, 0.0, 0.3],
            "less": [1, -1, 0],
            "said_x": [2, 0, 0],
            "said_y": [1, 0, 1],
        }
    )
    table.to_parquet(tmp_path / "source.parquet")
    common = [f"--data.path={tmp_path / 'source.parquet'}", "--data.label_names=[x, y]", "--data.pool_size=null"]
    common += ["--data.test_size=1", "--grid=null", "--train=null"]
    for number, asked in enumerate(("votes", "{x: said_x, y: said_y}")):
        rows, _ = load_rows(make_study(*common, f"--data.raters={asked}", folder=f"study{number}"))
        assert dict(zip(rows.texts, rows.raters.tolist(), strict=True)) == {
            "one": [2, 1],
            "two": [0, 0],
            "three": [0, 1],
        }
    assert load_rows(make_study(*common, folder="none"))[0].raters is None
    for asked, said in (
        ("said_x", "must have a list of labels in `said_x`"),
        ("{x: text, y: said_y}", "line 1 must have a number of annotators in `text`. Got 'one'"),
        ("{x: share_x, y: said_y}", "line 1 must have a number of annotators in `share_x`. Got 0.7"),
        ("{x: said_x, y: less}", "line 2 must have a number of annotators in `less`. Got -1"),
    ):
        with pytest.raises(UserError, match=said):
            load_rows(make_study(*common, f"--data.raters={asked}", folder=f"bad{len(said)}"))
    with pytest.raises(UserError, match="raters` must name a column for each class"):
        make_study(*common, "--data.raters={x: said_x}")


def test_a_rater_without_a_label_is_none_and_classes_have_to_be_named(make_study, tmp_path):
    from datasets import ClassLabel, Dataset, Features, List, Value

    classes = ClassLabel(names=["x", "y"])
    features = Features({"text": Value("string"), "label": classes, "votes": List(classes), "said": Value("int64")})
    rows = {"text": ["one", "two"], "label": [0, 1], "votes": [[0, -1], [1, 1]], "said": [1, 1]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    common = [f"--data.path={tmp_path}", "--data.pool_size=null", "--grid=null", "--train=null"]
    found, _ = load_rows(make_study(*common, "--data.raters=votes"))
    assert dict(zip(found.texts, found.raters.tolist(), strict=True)) == {"one": [1, 0], "two": [0, 2]}
    with pytest.raises(UserError, match="a column for each of the classes x, y"):
        load_rows(make_study(*common, "--data.raters={x: said}", folder="other"))


def test_what_a_csv_file_holds_is_text_and_its_numbers_are_classes(make_study, tmp_path):
    file = tmp_path / "a [final].csv"
    texts = ["word"] * 1200 + ["0010497", "1.50", "True"]
    file.write_text("text,label\n" + "".join(f"{t},{i % 2 if i < 1000 else ''}\n" for i, t in enumerate(texts)))
    settings = [
        f"--data.path={file}",
        "--data.label_names=[neg, pos]",
        "--data.pool_size=null",
        "--data.test_size=null",
    ]
    pool, _ = load_rows(make_study(*settings, "--grid=null", "--train=null"))
    assert sorted(pool.texts) == sorted(texts)
    assert pool.gold.tolist().count(NO_GOLD) == 203
    assert set(pool.gold.tolist()) == {NO_GOLD, 0, 1}


def test_only_halves_of_surrogate_pairs_are_mended(make_study, tmp_path):
    file = tmp_path / "rows.jsonl"
    said = [
        r"literal \\ud83d\\ude00",
        r"pair \ud83d\ude00",
        r"half \ud83d",
        r"after one \\\ude00",
        r"\ud83d\ud83d\ude00",
    ]
    file.write_text("".join(f'{{"text": "{text}"}}\n' for text in said))
    settings = [f"--data.path={file}", "--data.label_column=null", "--data.label_names=[a, b]", "--data.test_size=null"]
    pool, _ = load_rows(make_study(*settings, "--grid=null", "--train=null"))
    assert sorted(pool.texts) == sorted(
        [r"literal \ud83d\ude00", "pair \U0001f600", "half \ufffd", "after one \\\ufffd", "\ufffd\U0001f600"]
    )


def test_groups_are_what_the_column_says_and_few_enough_to_be_told_apart(make_study, tmp_path):
    rows = [{"text": f"text {i}", "label": "xy"[i % 2], "year": 2000 + i % 3, "day": str(i)} for i in range(120)]
    rows[0]["year"] = None
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    common = [f"--data.path={tmp_path / 'rows.parquet'}", "--data.label_names=[x, y]", "--data.pool_size=null"]
    common += ["--data.test_size=60", "--grid.sizes=[5]"]
    study = make_study(*common, "--data.group_column=year")
    said = {row["text"]: None if row["year"] is None else str(row["year"]) for row in rows}
    for found in load_rows(study):
        assert found.groups.tolist() == [said[text] for text in found.texts]
        assert found.take(np.array([3, 1])).groups.tolist() == found.groups[[3, 1]].tolist()
    assert load_rows(make_study(*common, folder="none"))[0].groups is None
    from datasets import ClassLabel, Dataset

    named = Dataset.from_list(
        [{**row, "year": i % 3 - 1, "party": [" ", "", "a\nb"][i % 3]} for i, row in enumerate(rows)]
    )
    named.cast_column("year", ClassLabel(names=["left", "right"])).to_parquet(tmp_path / "rows.parquet")
    for column, names in (("year", [None, "left", "right"]), ("party", [None, None, "a b"])):
        found = load_rows(make_study(*common, f"--data.group_column={column}", folder=column))[1]
        assert found.groups.tolist() == [names[int(text.split()[1]) % 3] for text in found.texts]
    pq.write_table(pa.Table.from_pylist([{**row, "day": "x" * 101} for row in rows]), tmp_path / "rows.parquet")
    with pytest.raises(UserError, match="line 1 must have a group of at most 100 characters in `day`"):
        load_rows(make_study(*common, "--data.group_column=day", folder="long"))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with pytest.raises(UserError, match="`data.group_column` must have at most 50 values in the test rows. Got 60"):
        load_rows(make_study(*common, "--data.group_column=day", folder="many"))
    with pytest.raises(UserError, match="`data.group_column` must name one column of .* Got month"):
        load_rows(make_study(*common, "--data.group_column=month", folder="missing"))


def write_threads(folder, splits):
    """A folder with a parquet file for each split: texts, labels and the column `thread`."""
    folder.mkdir()
    for split, threads in splits.items():
        columns = {"text": [f"{split} {i}" for i in range(len(threads))], "thread": threads}
        columns["label"] = ["x" if i % 2 else "y" for i in range(len(threads))]
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    return [f"--data.path={folder}", "--data.label_names=[x, y]", "--data.pool_size=null", "--data.test_size=null"]


def test_clusters_are_read_in_both_splits(make_study, tmp_path):
    threads = {"train": ["a", None, "b", " ", "a\nb", "a"], "test": ["b", None, None, "c" * 1000]}
    settings = write_threads(tmp_path / "source", threads)
    pool, test = load_rows(make_study(*settings, "--data.cluster_column=thread"))
    assert pool.clusters.tolist() == ["a", None, "b", None, "a b", "a"]
    assert test.clusters.tolist() == threads["test"]
    assert pool.take(np.array([5, 1])).clusters.tolist() == ["a", None]
    assert pool.groups is None
    for rows in load_rows(make_study(*settings, folder="none")):
        assert rows.clusters is None
        assert rows.take(np.array([0])).clusters is None
    columns = ["--data.cluster_column=label", "--data.group_column=label"]  # one column may be all three
    pool, _ = load_rows(make_study(*settings, *columns, folder="both"))
    assert pool.clusters.tolist() == pool.groups.tolist() == ["y", "x"] * 3


def test_clusters_have_names_of_any_number(make_study, tmp_path):
    threads = {"train": [float(i) for i in range(200)], "test": [float(i) for i in range(99)] + [None]}
    settings = write_threads(tmp_path / "source", threads)
    pool, test = load_rows(make_study(*settings, "--data.cluster_column=thread"))
    assert pool.clusters.tolist() == [str(i) for i in range(200)]
    assert test.clusters.tolist() == [*map(str, range(99)), None]


@pytest.mark.parametrize(
    ("threads", "message"),
    [
        (["a"] * 4, "`data.cluster_column` must have at least 2 values in the test rows. Got 1 in 'thread'"),
        ([None], "`data.cluster_column` must have at least 2 values in the test rows. Got 1 in 'thread'"),
        (["a", "c" * 1001], "line 2 must have a cluster of at most 1,000 characters in `thread`"),
    ],
)
def test_clusters_must_differ_in_the_test_rows(threads, message, make_study, tmp_path):
    settings = write_threads(tmp_path / "source", {"train": ["a", "b"], "test": threads})
    with pytest.raises(UserError, match=message):
        open_rows(make_study(*settings, "--data.cluster_column=thread"))


def test_a_null_is_a_cluster_and_a_study_without_a_grid_has_no_test_rows(make_study, tmp_path):
    settings = write_threads(tmp_path / "source", {"train": ["a", "a"], "test": ["a", None]})
    assert load_rows(make_study(*settings, "--data.cluster_column=thread"))[1].clusters.tolist() == ["a", None]
    labels_only = ["--grid=null", "--train=null", "--data.cluster_column=thread"]
    pool, test = load_rows(make_study(*settings, *labels_only, folder="labels"))
    assert (pool.clusters.tolist(), len(test), test.clusters) == (["a", "a"], 0, None)


def test_the_key_of_the_rows_depends_on_the_cluster_column(make_study, tmp_path):
    settings = write_threads(tmp_path / "source", {"train": ["a", "b"], "test": ["a", "b"]})
    options = [[], ["--data.cluster_column=thread"], ["--data.cluster_column=label"], ["--data.group_column=thread"]]
    studies = [make_study(*settings, *option, folder=str(number)) for number, option in enumerate(options)]
    assert len({open_rows(study).manifest["key"] for study in studies}) == len(options)
    with pytest.raises(UserError, match="`data.cluster_column` must name one column of .* Got month"):
        open_rows(make_study(*settings, "--data.cluster_column=month", folder="missing"))


@pytest.mark.parametrize("name", ["[x]", "a*b?", "[!c] (1)"])
def test_a_folder_or_file_may_have_any_name(name, make_study, tmp_path):
    (tmp_path / name).mkdir()
    for split in ("train", "test"):
        table = pa.table({"text": [f"{split} {i}" for i in range(9)], "label": ["a", "b", "c"] * 3})
        pq.write_table(table, tmp_path / name / f"{split}.parquet")
    settings = ["--data.label_names=[a, b, c]", "--data.pool_size=null"]
    pool, test = load_rows(make_study(f"--data.path={tmp_path / name}", "--data.test_size=null", *settings))
    assert (len(pool), len(test)) == (9, 9)
    file = tmp_path / name / "train.parquet"
    pool, test = load_rows(make_study(f"--data.path={file}", "--data.test_size=4", *settings))
    assert (len(pool), len(test)) == (5, 4)
