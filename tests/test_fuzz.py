"""Input of any shape: it is taken for what it says, or refused in a sentence; no traceback, no hang, no wrong number.

`make test` tries some examples of each kind, the same ones every time; `pytest -m slow tests/test_fuzz.py` many more.
"""

import copy
import csv
import io
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import SMALL_RECIPE
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from steps import load_rows, measure
from test_report import made

from hf_recipes import logs
from hf_recipes.data import NO_GOLD
from hf_recipes.errors import UserError
from hf_recipes.hub.bundle import collect, path_in_repo
from hf_recipes.hub.pull import pull_study
from hf_recipes.labels.audit import draw_audit
from hf_recipes.labels.audit_import import import_audit
from hf_recipes.labels.pool import read_labels
from hf_recipes.metric_loading import metrics_folder
from hf_recipes.recipe import Recipe, load_recipe
from hf_recipes.report.compare import compare
from hf_recipes.study import Study, read_json

NAMES = ["negative", "neutral", "positive"]


def some(few: int, many: int):
    return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.slow)])


def search(examples, *strategies):
    """Tries the decorated function on that many examples."""

    few = examples < 200  # the same ones every time, shown as they are found
    phases = [Phase.generate] if few else list(Phase)
    options = {"deadline": None, "suppress_health_check": list(HealthCheck)}

    def run(check):
        settings(max_examples=examples, derandomize=few, phases=phases, **options)(given(*strategies)(check))()

    return run


def answer(function, *arguments, **options):
    """What the function returns; None where it refuses its input in a sentence."""
    try:
        return function(*arguments, **options)
    except UserError:
        return None


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 3),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(NAMES),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def paths_of(value, path=()):
    """Where there is something in a nest of mappings and lists."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, one in inner:
        yield from paths_of(one, (*path, key))


def changed(content, path, value):
    """A copy with another value at a place; without the place where the value is Ellipsis."""
    if not path:
        return value
    content = copy.deepcopy(content)
    target = content
    for key in path[:-1]:
        target = target[key]
    if value is ...:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return content


# ------------------------------------------------------------------------------------------------------------ recipes
RECIPE_CONTENT = Recipe.model_validate(yaml.safe_load(SMALL_RECIPE.read_text())).model_dump()
SETTINGS = list(paths_of(RECIPE_CONTENT))[1:]
ODD_YAML = ["!!bool x", "!!int ''", "!!timestamp x", "&a [*a]", "{? [a]: b}", "[" * 1200, "- " * 1200, "2020-13-45"]


def check_recipe(path, overrides=()):
    recipe = answer(load_recipe, path, overrides)
    if recipe is not None:
        assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


@some(120, 5000)
def test_a_file_of_any_bytes_is_a_recipe_or_refused(examples, tmp_path):
    @search(
        examples,
        st.binary(max_size=60) | st.text(max_size=80).map(str.encode) | st.sampled_from(ODD_YAML).map(str.encode),
    )
    def check(content):
        (tmp_path / "recipe.yaml").write_bytes(content)
        check_recipe(tmp_path / "recipe.yaml")
        (tmp_path / "recipe.yaml").write_bytes(b"format: 3\nrecipe: " + content)
        check_recipe(tmp_path / "recipe.yaml")


@some(150, 5000)
def test_a_recipe_with_anything_anywhere_is_one_or_refused(examples, tmp_path):
    @search(examples, st.sampled_from(SETTINGS), VALUES | st.just(...) | st.dates(), SCALARS, st.booleans())
    def check(path, value, key, add):
        place = (*path[:-1], key) if add and isinstance(key, str | int) and not isinstance(path[-1], int) else path
        content = changed(RECIPE_CONTENT, path if value is ... else place, value)
        try:
            text = yaml.safe_dump(content, allow_unicode=True)
        except (yaml.YAMLError, UnicodeEncodeError):
            assume(False)
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
        check_recipe(tmp_path / "recipe.yaml")


@some(120, 5000)
def test_settings_of_any_shape_are_taken_or_refused(examples):
    named = st.sampled_from([".".join(map(str, path)) for path in SETTINGS])
    keys = named | st.lists(st.text(max_size=4), max_size=4).map(".".join)
    values = st.text(max_size=12) | VALUES.map(str) | st.sampled_from(ODD_YAML)
    setting = st.builds("--{}={}".format, keys, values) | st.text(max_size=15)

    @search(examples, st.lists(setting, max_size=3))
    def check(overrides):
        check_recipe(SMALL_RECIPE, overrides)


# --------------------------------------------------------------------------------------------------------------- data
TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.sampled_from(
        ['say "x", y', "a\nb", "a\r\nb", "null", "NaN", "007", "", " ", "é" * 9000, "\u2028", "2020-01-01"]
    ),
)
LABELS = st.sampled_from([*NAMES, *NAMES, *NAMES, "", "0", "2", "3", "other"])


def open_file(file, tmp_path):
    """Pool and test rows of a file, by their text; None if it is refused."""
    settings = [f"--data.path={file}", f"--output_dir={tmp_path / 'study'}", f"--data.label_names={json.dumps(NAMES)}"]
    settings += ["--data.pool_size=null", "--data.test_size=1"]
    found = answer(lambda: load_rows(Study(load_recipe(SMALL_RECIPE, settings))))
    if found is None:
        return None
    pool, test = found
    return [(text, int(gold)) for rows in found for text, gold in zip(rows.texts, rows.gold, strict=True)], test, pool


def gold_of(label, as_text):
    if label is None or label == "":
        return NO_GOLD
    if isinstance(label, str) and label in NAMES:
        return NAMES.index(label)
    if as_text and label in ("0", "2"):
        return int(label)
    return int(label) if type(label) is int and 0 <= label < 3 else None


def compare_rows(found, expected):
    """The rows are those of the file; a text that was drawn for the test is in the pool no more."""
    if any(gold is None for _, gold in expected):
        assert found is None
    if found is None:
        return False
    rows, test, _ = found
    apart = {" ".join(str(text).split()) for text in test.texts}
    assert len(test) == 1
    assert set(rows) <= set(expected)
    left = [text for text, _ in expected if text is None or " ".join(text.split()) not in apart]
    assert len(rows) >= len(left)
    return True


@some(25, 1500)
def test_rows_of_a_csv_file_are_its_rows(examples, tmp_path):
    taken = []

    @search(examples, st.lists(st.tuples(TEXTS, LABELS), max_size=8), st.sampled_from(["", "\ufeff"]))
    def check(rows, mark):
        sheet = io.StringIO()
        csv.writer(sheet).writerows([("text", "label"), *rows])
        (tmp_path / "a.csv").write_text(mark + sheet.getvalue(), encoding="utf-8", newline="")
        found = open_file(tmp_path / "a.csv", tmp_path)
        taken.append(compare_rows(found, [(text, gold_of(label, True)) for text, label in rows]))

    assert any(taken)


@some(25, 1500)
def test_rows_of_a_jsonl_file_are_its_rows(examples, tmp_path):
    taken = []
    texts, labels = TEXTS | st.none(), LABELS | st.sampled_from([None, 0, 1, 2, 3, -1, True, 0.5])
    row = st.fixed_dictionaries({"text": texts, "label": labels}, optional={"more": VALUES})

    @search(examples, st.lists(row, max_size=6), st.booleans())
    def check(rows, ascii_only):
        lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
        (tmp_path / "a.jsonl").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        found = open_file(tmp_path / "a.jsonl", tmp_path)
        golds = [gold_of(row["label"], False) for row in rows]
        if found is not None and all(type(row["label"]) in (str, int, type(None)) for row in rows):
            taken.append(compare_rows(found, [(row["text"], gold) for row, gold in zip(rows, golds, strict=True)]))

    assert any(taken)


ARRAYS = st.one_of(
    st.lists(TEXTS | st.none(), max_size=5).flatmap(
        lambda texts: st.sampled_from([pa.string(), pa.large_string()]).map(lambda kind: pa.array(texts, kind))
    ),
    st.lists(TEXTS, max_size=5).map(lambda texts: pa.array(texts, pa.string()).dictionary_encode()),
    st.lists(st.integers(-2, 4) | st.none(), max_size=5).map(lambda values: pa.array(values, pa.int64())),
    st.lists(st.floats(), max_size=5).map(lambda values: pa.array(values, pa.float64())),
    st.lists(st.binary(max_size=4), max_size=5).map(lambda values: pa.array(values, pa.binary())),
    st.lists(st.lists(st.text(st.characters(codec="utf-8"), max_size=3), max_size=2), max_size=5).map(
        lambda values: pa.array(values, pa.list_(pa.string()))
    ),
    st.lists(st.fixed_dictionaries({"a": st.integers(0, 3)}), max_size=5).map(pa.array),
)


@some(30, 1500)
def test_a_parquet_file_of_any_columns_is_read_or_refused(examples, tmp_path):
    @search(examples, st.lists(st.tuples(st.sampled_from(["text", "label", "other"]), ARRAYS), max_size=4))
    def check(columns):
        length = min((len(array) for _, array in columns), default=0)
        arrays = [array.slice(0, length) for _, array in columns]
        pq.write_table(pa.table(arrays, [name for name, _ in columns]), tmp_path / "a.parquet")
        found = open_file(tmp_path / "a.parquet", tmp_path)
        if found is not None:
            texts = next(array for name, array in columns if name == "text").slice(0, length).to_pylist()
            assert {text for text, _ in found[0]} <= set(texts)


@some(25, 1500)
def test_a_damaged_or_foreign_file_is_read_or_refused(examples, tmp_path):
    pq.write_table(pa.table({"text": ["a b", "c"] * 20, "label": ["positive", "neutral"] * 20}), tmp_path / "good")
    whole = (tmp_path / "good").read_bytes()

    @search(
        examples,
        st.binary(max_size=80) | st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=4),
        st.sampled_from(["csv", "jsonl", "json", "parquet", "txt"]),
    )
    def check(content, suffix):
        if isinstance(content, list):
            damaged = bytearray(whole)
            for place, value in content:
                damaged[place] = value
            content = bytes(damaged)
        (tmp_path / f"a.{suffix}").write_bytes(content)
        open_file(tmp_path / f"a.{suffix}", tmp_path)


# ------------------------------------------------------------------------------------------------------------ metrics
def labels(draw, *shape):
    return np.reshape([draw(st.integers(0, 2)) for _ in range(int(np.prod(shape)))], shape).tolist()


def shares(draw, *shape):
    return np.random.default_rng(draw(st.integers(0, 99))).dirichlet(np.ones(shape[-1]), shape[:-1]).tolist()


#: What a module takes, for R runs of n texts.
INPUTS = {
    "seed_instability": lambda draw, runs, n: {
        **{"predictions": labels(draw, runs, n), "references": labels(draw, n)},
        **{"num_classes": 3, "at_r": [2], "confidence_level": 0.9},
    },
    "seed_scores": lambda draw, runs, n: {
        **{"predictions": labels(draw, runs, n), "references": labels(draw, n)},
        **{"num_classes": 3, "confidence_level": 0.9},
    },
    "seed_divergence": lambda draw, runs, n: {
        **{"predictions": shares(draw, runs, n, 3), "references": labels(draw, n)},
        **{"bins": 5, "confidence_level": 0.9},
    },
    "learning_plateau": lambda draw, runs, n: {
        **{"sizes": [10 * 2**i for i in range(n)], "scores": shares(draw, n, runs)},
        **{"against": shares(draw, n, runs), "confidence_level": 0.9},
    },
    "instability_comparison": lambda draw, runs, n: {
        **{"predictions1": labels(draw, runs, n), "predictions2": labels(draw, runs, n)},
        **{"references": labels(draw, n), "confidence_level": 0.9},
    },
    "annotation_uncertainty": lambda draw, runs, n: {
        **{"predictions": shares(draw, n, 3), "references": labels(draw, n), "votes": labels(draw, n, runs)},
        **{"label_mass": shares(draw, n), "alphas": [0.5], "bins": 5, "confidence_level": 0.9},
    },
}


OPTIONS = ("num_classes", "at_r", "bins", "alphas", "confidence_level")


@st.composite
def inputs_of(draw, name):
    """What the module takes, often with anything in place of something of it, or without it; and what was changed."""
    made, path = INPUTS[name](draw, draw(st.integers(2, 4)), draw(st.integers(1, 6))), (None,)
    if draw(st.booleans()):
        path = draw(st.sampled_from(list(paths_of(made))[1:]))
        made = changed(made, path, draw(VALUES | st.just(...)))
    return made, path[0]


SHARES = (
    "accuracy",
    "accuracy_mean",
    "macro_f1",
    "macro_f1_mean",
    "unanimity",
    "pairwise_disagreement",
    "label_mass_mean",
)


def check_numbers(value, name=""):
    """Plain values, and shares between 0 and 1 wherever they are defined."""
    if isinstance(value, dict):
        for key, inner in value.items():
            check_numbers(inner, str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            check_numbers(inner, name)
    else:
        assert value is None or isinstance(value, bool | int | float | str), (name, type(value))
        if name in SHARES and value is not None:
            assert np.isnan(value) or -1e-12 <= value <= 1 + 1e-12, (name, value)


@pytest.mark.parametrize("name", INPUTS)
@some(60, 3000)
def test_a_metric_answers_or_refuses_whatever_it_is_given(examples, name, tmp_path):
    import evaluate

    module, taken = evaluate.load(str(metrics_folder() / name), keep_in_memory=True), []

    @search(examples, inputs_of(name))
    def check(example):
        inputs, place = example
        try:
            found = module.compute(**inputs)
        except ValueError:  # what the modules say of bad input
            return
        except TypeError:  # and Python of an option that is of another kind
            assert place in OPTIONS
            return
        check_numbers(found)
        taken.append(found)

    assert taken


# ---------------------------------------------------------------------------------------------------------------- Hub
@pytest.fixture
def repo(study, tmp_path, monkeypatch):
    """A published study as a folder of files, and `pull` that finds it there."""
    bundle = collect(study, read_labels(study), tmp_path, True)
    home = tmp_path / "repo" / "hf-recipes" / "tweets"
    home.mkdir(parents=True)
    for name, file in bundle.others.items():
        shutil.copyfile(file, home / name)
    for config, splits in bundle.configs.items():
        for split, file in splits.items():
            place = tmp_path / "repo" / path_in_repo("", config, split)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
    said = {**bundle.manifest, "prefix": "", "configs": list(bundle.configs), "files": []}
    (home / "study.json").write_text(json.dumps(said))
    there = [
        SimpleNamespace(rfilename=str(path.relative_to(tmp_path / "repo")), size=path.stat().st_size)
        for path in (tmp_path / "repo").rglob("*.*")
    ]
    monkeypatch.setattr(
        "huggingface_hub.HfApi.repo_info", lambda *_, **__: SimpleNamespace(sha="0" * 40, siblings=there)
    )
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path / "repo"))
    return SimpleNamespace(root=tmp_path / "repo", said=said, home=home, study=study)


def look_at(repo, target, tmp_path):
    """Pulls the study and goes on with it; None if that is refused. Nothing is written beside its folder."""
    shutil.rmtree(target, ignore_errors=True)
    before = sorted(os.listdir(tmp_path))
    folder = answer(pull_study, "any/body", target)
    assert sorted({*os.listdir(tmp_path)} - {target.name}) == [name for name in before if name != target.name]
    if folder is None:
        assert not target.exists()
        return None
    try:
        with logs.in_a_line():  # what a repo says of its runs shows where it is used
            return measure(Study(load_recipe(folder / "recipe.yaml")))
    except SystemExit:
        return None


@some(25, 1000)
def test_a_repo_that_says_anything_is_a_study_or_refused(examples, repo, tmp_path):
    places = [path for path in paths_of(repo.said) if len(path) < 7]
    wanted = look_at(repo, tmp_path / "pulled", tmp_path)
    assert wanted.model_dump(mode="json")["variants"] == read_json(repo.study.results_file)["variants"]
    hostile = st.sampled_from(["../../x", "/etc/passwd", "a/b", "..", ".", "x" * 300, "\0", "%2e%2e/"])

    @search(examples, st.sampled_from(places), VALUES | hostile | st.just(...))
    def check(path, value):
        try:
            text = json.dumps(changed(repo.said, path, value), ensure_ascii=True)
        except TypeError:  # nothing is left at all
            text = ""
        (repo.home / "study.json").write_text(text)
        look_at(repo, tmp_path / "pulled", tmp_path)


@some(25, 1000)
def test_a_repo_of_damaged_files_is_a_study_or_refused(examples, repo, tmp_path):
    files = [path for path in sorted(repo.root.rglob("*")) if path.is_file()]
    files = [path for path in files if path.name != "study.json" and "llm" not in str(path) and "gold" not in str(path)]

    @search(
        examples,
        st.sampled_from(files),
        st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
        st.floats(0, 1) | st.none(),
    )
    def check(file, places, cut):
        whole = file.read_bytes()
        damaged = bytearray(whole)
        for place, value in places:
            damaged[min(int(place * len(whole)), len(whole) - 1)] = value
        file.write_bytes(damaged if cut is None else damaged[: int(cut * len(whole))])
        try:
            look_at(repo, tmp_path / "pulled", tmp_path)
        finally:
            file.write_bytes(whole)


# ------------------------------------------------------------------------------------------------ comparison and audit
@some(40, 2000)
def test_results_of_any_shape_are_compared_or_refused(examples, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_recipes.report.compare.save_figure", lambda *_: None)  # drawing is most of the time
    monkeypatch.setattr("hf_recipes.report.compare._draw_curves", lambda *_: None)
    results = made().model_dump(mode="json")
    (tmp_path / "report").mkdir()

    @search(examples, st.sampled_from([path for path in paths_of(results) if len(path) < 5]), VALUES | st.just(...))
    def check(path, value):
        content = {} if not path and value is ... else changed(results, path, value)
        (tmp_path / "report" / "results.json").write_text(json.dumps(content))
        if answer(compare, [tmp_path], tmp_path / "out"):
            assert "<" not in (tmp_path / "out" / "comparison.md").read_text().replace("&lt;", "")


@pytest.fixture
def audited(study, tmp_path):
    draw_audit(study, 12, tmp_path / "sample.csv")
    return study


@some(80, 4000)
def test_an_audit_of_any_shape_is_taken_or_refused(examples, audited, tmp_path):
    ids = read_json(audited.audit / "sample.json")["parts"]["pool"]["ids"]
    entry = st.fixed_dictionaries(
        {"id": st.sampled_from(ids) | VALUES, "label": st.sampled_from(NAMES) | VALUES},
        optional={"text": TEXTS, "annotations": VALUES, "responses": VALUES, "data": VALUES},
    )

    @search(
        examples,
        st.lists(entry, max_size=3) | VALUES | st.binary(max_size=40),
        st.sampled_from(["csv", "jsonl", "json"]),
    )
    def check(content, suffix):
        file = tmp_path / f"labels.{suffix}"
        if isinstance(content, bytes):
            file.write_bytes(content)
        elif suffix == "jsonl" and isinstance(content, list):
            file.write_text("\n".join(json.dumps(one, ensure_ascii=False) for one in content), errors="surrogatepass")
        else:
            file.write_text(json.dumps(content))
        if answer(import_audit, audited, file) is not None:
            labels = read_json(audited.audit / "labels.json")
            assert set(labels) <= set(ids)
            assert set(labels.values()) <= set(NAMES)


@some(40, 1000)
def test_texts_of_any_kind_go_out_for_an_audit_and_come_back(examples, audited, tmp_path):
    from hf_recipes.labels.audit import _render
    from hf_recipes.labels.audit_import import _read

    @search(examples, st.lists(TEXTS, min_size=1, max_size=4), st.sampled_from(["csv", "jsonl", "label-studio"]))
    def check(texts, form):
        texts = [*texts, "\r"]  # which a CSV file's writer may leave unquoted
        named = {f"{i:024x}": text for i, text in enumerate(texts)}
        file = tmp_path / ("back.csv" if form == "csv" else "back.jsonl" if form == "jsonl" else "back.json")
        written = "".join(_render(named, NAMES, form))
        if form == "label-studio":
            written = json.dumps([task | {"annotations": []} for task in json.loads(written)])
        with file.open("w", encoding="utf-8", newline="") as stream:
            stream.write(written)
        assert [entry.id for entry in _read(file)] == list(named)
