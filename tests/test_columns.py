"""Labels made elsewhere: read from columns of the source, checked, and used like those of an engine."""

import json
import re

import numpy as np
import pytest
from conftest import LLM, ROOT
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import given
from hypothesis import strategies as st
from steps import load_rows, measure, open_runs, write_dataset, write_labels

from hf_recipes.annotation.annotate import annotate
from hf_recipes.annotation.calibration import calibrate
from hf_recipes.annotation.passes import read_progress
from hf_recipes.certify import describe_invalid
from hf_recipes.doctor import diagnose
from hf_recipes.errors import UserError
from hf_recipes.hub.dataset_card import make_card
from hf_recipes.hub.dataset_folder import DatasetFolder
from hf_recipes.labels.audit import draw_audit
from hf_recipes.labels.pool import read_labels
from hf_recipes.labels.votes import NO_VOTE
from hf_recipes.recipe import load_recipe
from hf_recipes.report.page import write_report
from hf_recipes.training.train import train

NAMES = ["good", "bad", "odd"]
RECIPE = """
name: elsewhere
data:
  path: {path}
  label_names: [good, bad, odd]
annotate:
  engine: columns
  columns: {{label: llm}}
"""


@pytest.fixture
def make(tmp_path):
    """Returns a study of records that have a text, gold and what a test adds, in a file of a kind."""
    from hf_recipes.study import Study

    def make_study(records, *overrides, kind="jsonl", features=None, folder="study"):
        path = tmp_path / f"rows.{kind}"
        rows = [{"text": f"text {k}", "label": NAMES[k % 3], **record} for k, record in enumerate(records)]
        if kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif kind == "csv":
            Dataset.from_list(rows).to_csv(path)
        else:
            Dataset.from_list(rows, features=features).to_parquet(path)
        file = tmp_path / "recipe.yaml"
        file.write_text(RECIPE.format(path=path))
        return Study(load_recipe(file, [f"--output_dir={tmp_path / folder}", *overrides]), accept_changes=True)

    return make_study


def labels_of(study):
    """The label of each row that has one, by its text; and the errors of the others."""
    annotate(study)
    pool = read_labels(study).pool
    return dict(zip(pool.texts, (NAMES[k] for k in pool.llm), strict=True)), read_progress(study)[0].errors


def test_certify_warns_of_labels_that_do_not_count(make):
    study = make([{"llm": label} for label in ["good", "Bad", "Bad", None, "odd", "odd", "bad"]])
    annotate(study)
    (warning,) = describe_invalid(study)
    assert warning.startswith("Warning: 3 of 7 texts have no valid label and do not count.")
    assert "(2 texts): `Bad` is not a class. Did you mean 'bad'?" in warning
    clean = make([{"llm": label} for label in NAMES], folder="clean")
    annotate(clean)
    assert not list(describe_invalid(clean))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_labels_are_spelled_like_gold_and_rows_without_one_say_why(kind, make):
    records = [{"llm": label} for label in ["good", " bad\n", "odd", None, "Bad", "the text is good", "odd"]]
    study = make(records, kind=kind)
    labels, errors = labels_of(study)
    assert labels == {"text 0": "good", "text 1": "bad", "text 2": "odd", "text 6": "odd"}
    assert errors == {
        "the label is missing": 1,
        "`Bad` is not a class. Did you mean 'bad'?": 1,
        "`the text is good` is not a class": 1,
    }
    assert read_progress(study)[0].statuses == {"ok": 4, "no_label": 3}


@pytest.mark.parametrize(
    ("cells", "settings"),
    [
        ([0, 1, 2, None], []),
        ([0.0, 1.0, None, 2.0], []),
        (["0", "1", "2", ""], []),
        ([True, False, True, None], []),
        (["+", "-", "bad", None], ['--data.label_map={"+": good, "-": bad}']),
    ],
)
def test_labels_may_be_indices_or_mapped(cells, settings, make):
    meaning = {"0": "good", "False": "good", "1": "bad", "True": "bad", "2": "odd", "+": "good", "-": "bad"}
    expected = {
        f"text {k}": meaning.get(str(cell).removesuffix(".0"), cell)
        for k, cell in enumerate(cells)
        if cell not in ("", None)
    }
    assert labels_of(make([{"llm": cell} for cell in cells], *settings))[0] == expected


def test_a_class_label_goes_by_its_names(make):
    classes = {"label": ClassLabel(names=NAMES), "llm": ClassLabel(names=["odd", "good", "bad", "none of these"])}
    features = Features({"text": Value("string"), **classes})
    labels, errors = labels_of(make([{"llm": k} for k in (0, 1, 2, -1, 3)], kind="parquet", features=features))
    assert labels == {"text 0": "odd", "text 1": "good", "text 2": "bad"}
    assert errors == {"the label is missing": 1, "`none of these` is not a class": 1}


def test_labels_of_several_types_are_read_as_they_are(make):
    assert labels_of(make([{"llm": cell} for cell in ("good", 1, True, "odd")]))[0] == {
        **{"text 0": "good", "text 1": "bad", "text 2": "bad", "text 3": "odd"},
    }


def test_mostly_unknown_labels_are_a_wrong_recipe_and_a_map_is_offered(make, tmp_path):
    records = [
        {"llm": label} for label in ["GOOD"] * 5 + ["Bad."] * 4 + ["o"] * 3 + ["?"] * 2 + ["good"] * 8 + [None] * 9
    ]
    with pytest.raises(UserError) as error:
        annotate(make(records))
    text = str(error.value)
    assert "must name a column with the classes good, bad, odd. Got llm with GOOD (5 rows), Bad. (4 rows)" in text
    offered = re.search(r"Try `data\.label_map: (.*)`\.", text)[1]
    assert offered == "{'?': CLASS, Bad.: bad, GOOD: good, o: odd}"
    assert not list((tmp_path / "study").glob("annotations/*/*.parquet"))
    study = make(records, f"--data.label_map={offered.replace('CLASS', 'odd')}")
    assert len(labels_of(study)[0]) == 22


def test_a_column_without_labels_is_an_error(make):
    with pytest.raises(UserError, match=r"`annotate.columns.label` must name a column with labels. Got llm, which has"):
        annotate(make([{"llm": None}] * 3 + [{"llm": ""}]))


PROBS = [[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.33, 0.33, 0.34], [0.5, 0.5, 0.0]]
LABELS = ["good", "bad", "odd", "bad"]  # of the last row, the label decides between equal probabilities


def forms():
    named = [dict(zip(NAMES, row, strict=True)) for row in PROBS]
    columns = [{f"p_{name}": value for name, value in row.items()} for row in named]
    by_class = "{good: p_good, bad: p_bad, odd: p_odd}"
    sparse = [{name: value for name, value in row.items() if value} for row in named]
    for kind in ("jsonl", "parquet"):
        yield kind, [{"p": row} for row in PROBS], "p"
        yield kind, [{"p": row} for row in named], "p"
        yield kind, columns, by_class
    yield "jsonl", [{"p": row} for row in sparse], "p"
    for kind in ("csv", "jsonl", "parquet"):
        yield kind, [{"p": json.dumps(row)} for row in PROBS], "p"
        yield kind, [{"p": json.dumps(row)} for row in sparse], "p"
    yield "csv", columns, by_class


@pytest.mark.parametrize(("kind", "records", "setting"), list(forms()))
def test_probabilities_may_have_many_forms(kind, records, setting, make):
    rows = [{"llm": label, **record} for label, record in zip(LABELS, records, strict=True)]
    study = make(rows, f"--annotate.columns.probs={setting}", kind=kind)
    assert list(labels_of(study)[0].values()) == LABELS
    probs = read_labels(study).pool.probs
    assert np.allclose(probs, PROBS, atol=1e-8)
    assert (probs[1] == [0, 1, 0]).all()


@pytest.mark.parametrize(
    ("probs", "error"),
    [
        ([0.5, 0.2, 0.1], "the probabilities sum to 0.8"),
        ([1.2, -0.2, 0.0], "a probability is below 0"),
        ([0.5, 0.5], "there are 2 probabilities for 3 classes"),
        ([0.5, 0.5, None], "`None` is not a probability"),
        ([0.5, 0.5, float("nan")], "`nan` is not a probability"),
        (["x", 0.5, 0.5], "`x` is not a probability"),
        (None, "the probabilities are missing"),
        ({"good": 0.6, "fine": 0.4}, "`fine` in the probabilities is not a class"),
        ("[0.5", "the probabilities are not JSON"),
        ([0.1, 0.8, 0.1], "the label is `good`, but `bad` has the highest probability"),
    ],
)
def test_a_row_whose_probabilities_are_not_valid_has_no_label(probs, error, make):
    rows = [{"llm": "good", "p": json.dumps(row)} for row in [[0.8, 0.1, 0.1]] * 3]
    rows.append({"llm": "good", "p": probs if isinstance(probs, str | None) else json.dumps(probs)})
    labels, errors = labels_of(make(rows, "--annotate.columns.probs=p"))
    assert len(labels) == 3
    assert errors == {error: 1}


def test_mostly_invalid_probabilities_are_a_wrong_recipe(make):
    log = [{"llm": "good", "p": [-0.1, -3.0, -4.0]}] * 4
    with pytest.raises(UserError, match=r"4 of 4 rows without, for example: a probability is below 0. Try exp\(\) of"):
        annotate(make(log, "--annotate.columns.probs=p"))
    other_order = [{"llm": "good", "p": [0.1, 0.1, 0.8]}] * 3 + [{"llm": "bad", "p": [0.1, 0.8, 0.1]}]
    with pytest.raises(UserError, match="3 of 4 rows without, .* in the order of the classes: good, bad, odd"):
        annotate(make(other_order, "--annotate.columns.probs=p"))
    with pytest.raises(UserError, match="must name a column for each of the classes good, bad, odd. Got good, fine"):
        annotate(make(other_order, "--annotate.columns.probs={good: p, fine: p}"))


def test_passes_are_columns_too(make):
    labels = [["good", "good", "bad"], ["bad", "odd", "odd"], ["odd", None, "odd"]]
    records = [{"llm": a, "b": b, "c": c, "p": [1.0 * (a == name) for name in NAMES]} for a, b, c in labels]
    passes = "[{columns: {label: b}, model: B}, {columns: {label: c}}]"
    study = make(records, "--annotate.columns.probs=p", f"--annotate.passes={passes}")
    annotate(study)
    pool = read_labels(study).pool
    assert pool.votes.tolist() == [[0, 0, 1], [1, 2, 2], [2, NO_VOTE, 2]]
    assert [section.model for section in study.recipe.annotate.all_passes()] == ["llm", "B", "c"]
    quality = write_labels(study)
    assert [result.name for result in quality.passes][:3] == ["pass 0: llm", "pass 1: B", "pass 2: c"]
    same = make(records, "--annotate.passes=[{columns: {label: llm}}]", folder="same")
    with pytest.raises(UserError, match="`annotate.passes` must differ"):
        annotate(same)


def test_a_pass_of_an_engine_may_follow(make, engine):
    records = [{"llm": NAMES[k % 3]} for k in range(12)]
    change = f"{{engine: vllm, columns: null, model: {LLM}, prompt: {{instruction: Which one, shots_per_class: 0}}}}"
    study = make(records, f"--annotate.passes=[{change}]")
    annotate(study)
    assert read_labels(study).pool.votes.shape == (12, 2)
    assert engine.started == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--annotate.columns=null"], "`annotate.columns` is missing. Add it, with `label`."),
        (["--annotate.engine=vllm"], "`annotate.columns` requires `engine: columns`. Got vllm. Remove one."),
        (["--annotate.prompt.instruction=x"], "`annotate.prompt` must be absent with `engine: columns`"),
        (["--annotate.repeat_check=5"], "`annotate.repeat_check` must be 0 with `engine: columns`"),
        (
            ["--annotate.calibration=batch"],
            "must be none with `engine: columns`, as `annotate.columns` names no `probs`",
        ),
        (
            ["--annotate.columns.probs=p", "--annotate.calibration=contextual"],
            "must be none or batch or temperature or auto with `engine: columns`. Got contextual.",
        ),
        (["--annotate.columns.label=label"], "`annotate.columns` must not have the gold labels. Got label"),
        (["--annotate.columns.prob=p"], "`annotate.columns.prob` is not a key. Did you mean `annotate.columns.probs`?"),
    ],
)
def test_a_recipe_that_does_not_fit_is_one_sentence(settings, message, make):
    with pytest.raises(UserError) as error:
        make([{"llm": "good"}], *settings)
    assert message in str(error.value)
    assert len(error.value.args) == 1


GRID = ["--grid.sizes=[20]", "--grid.seeds=[0, 1]", "--data.test_size=15", "--train.encoder=models/all-MiniLM-L6-v2"]


@pytest.mark.parametrize("variant", ["llm-soft", "llm-entropy-replace", "llm-entropy-drop"])
def test_variants_of_probabilities_are_refused_without_any(variant, make):
    controls = {"llm-entropy-replace": ", llm-random-replace", "llm-entropy-drop": ", llm-random-drop"}
    variants = f"--grid.variants=[gold, llm, {variant}{controls.get(variant, '')}]"
    message = f"`grid.variants`: {variant} requires the probabilities of the labels. Set `annotate.columns.probs`, or"
    with pytest.raises(UserError, match=message):
        make([{"llm": "good"}], *GRID, variants)
    make([{"llm": "good"}], *GRID, variants, "--annotate.columns.probs=p")
    passes = "--annotate.passes=[{columns: {label: other}}]"
    with pytest.raises(UserError, match=message):
        make([{"llm": "good"}], *GRID, variants, "--annotate.columns.probs=p", passes, "--grid.vary=[subset, pass]")


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(any), min_size=4, max_size=8), st.integers(0, 2))
def test_calibration_takes_probabilities_of_zero(rows, empty):
    """A class that no text has any probability of keeps none, and no figure is infinite."""
    probs = np.insert(np.array(rows), empty, 0.0, axis=1)
    probs /= probs.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        logprobs = np.log(probs)
    gold = np.arange(len(rows)) % 3
    for method in ("none", "batch", "temperature", "auto"):
        calibrated, calibration = calibrate(logprobs, np.zeros((0, 3)), method, gold, np.arange(len(rows)))
        assert np.allclose(calibrated.sum(axis=1), 1)
        assert not calibrated[:, empty].any()
        assert np.isfinite(list(calibration.log_loss.values())).all()
        assert "contextual" not in calibration.log_loss


def made(with_probs):
    """Records whose labels are right for three texts of four."""
    chance = np.random.default_rng(0)
    for k in range(120):
        label = NAMES[(k + (k % 4 == 0)) % 3]
        rest = chance.uniform(0.0, 0.3)
        probs = {name: 1 - 2 * rest if name == label else rest for name in NAMES}
        yield {"text": f"{NAMES[k % 3]} text {k}", "llm": label, "url": f"u{k}", **({"p": probs} if with_probs else {})}


@pytest.mark.parametrize("with_probs", [False, True])
def test_a_whole_study_of_labels_made_elsewhere(with_probs, make, tiny_encoder, command, tmp_path, engine):
    variants = "gold, llm, llm-soft" if with_probs else "gold, llm, llm-random-replace"
    settings = [
        *("--grid.sizes=[20]", "--grid.seeds=[0, 1]", "--data.test_size=30", f"--grid.variants=[{variants}]"),
        *(
            f"--train.encoder={tiny_encoder}",
            "--train.epochs=1",
            "--train.out_of_bag=0",
            "--annotate.model=org/big-llm",
        ),
    ]
    if with_probs:
        settings += [
            "--annotate.columns.probs=p",
            "--annotate.calibration=temperature",
            "--annotate.calibration_rows=9",
        ]
    study = make(list(made(with_probs)), *settings)
    arguments = [tmp_path / "recipe.yaml", f"--output_dir={study.root}", *settings]
    for step in ("plan", "annotate", "plan", "variants"):
        code, output, errors = command(step, *arguments)
        assert code == 0, errors
        if step == "plan":
            assert re.search(r"annotate +(0|120) +(0|120) texts +- +- +- ", output), output
    train(study)
    measure(study)
    labels = read_labels(study)
    results = measure(study)
    write_report(study, labels.training_pool, results)
    assert results.annotator.column == "llm"
    assert results.error_cells  # the test texts have labels too
    quality = write_labels(study)
    assert quality.scoring == ("probabilities" if with_probs else "labels")
    code, status, _ = command("annotate", *arguments, "--status")
    assert "org/big-llm" in status
    card = make_card(DatasetFolder(study, labels), "me/x", "", True, ["llm", "annotations"], True)
    assert "Labels of `org/big-llm`: made elsewhere, read from the column `llm` of this source" in card
    assert ("with probabilities from `p`" in card) == with_probs
    assert f"sha256 `{labels.files.manifest['source']['sha256']}`" in card
    assert "| `url` | string | as in the source |" in card
    pages = [card, status, output, *(file.read_text() for file in study.report.glob("*.md"))]
    pages.append((study.report / "report.html").read_text())
    for page in pages:
        words = re.sub(r"<style.*?</style>|<script.*?</script>", "", page, flags=re.DOTALL)
        assert not re.search(r"prompt|demonstration|few-shot|label.mass|renormalis|cut to fit", words, re.IGNORECASE)
    assert engine.started == 0
    assert open_runs(study).left() == []


def test_an_audit_evaluates_labels_made_elsewhere(make, tmp_path):
    study = make(list(made(False)), "--data.label_column=null")
    annotate(study)
    draw_audit(study, 40, tmp_path / "sample.csv")
    rows, _ = load_rows(study)
    texts = dict(zip(rows.ids, rows.texts, strict=True))
    sheet = [line.split(",") for line in (tmp_path / "sample.csv").read_text().splitlines()[1:]]
    from hf_recipes.labels.audit_import import import_audit

    labelled = "".join(f"{line[0]},{texts[line[0]].split()[0]}\n" for line in sheet)
    (tmp_path / "labelled.csv").write_text(f"id,label\n{labelled}")
    import_audit(study, tmp_path / "labelled.csv")
    annotator = write_labels(study).annotator
    assert annotator.n_gold == 40
    low, high = annotator.accuracy_interval
    assert low <= 0.75 <= high


def test_doctor_asks_for_no_model(make, monkeypatch):
    monkeypatch.setattr("hf_recipes.doctor.PROBES", {})
    recipe = make([{"llm": "good"}], "--annotate.model=org/big-llm").recipe
    assert not [check for check in diagnose(recipe) if check.name.startswith("model")]


def test_a_changed_source_or_column_is_read_again(make):
    records = [{"llm": NAMES[k % 3], "other": "good"} for k in range(6)]
    study = make(records)
    first, _ = labels_of(study)
    second, _ = labels_of(make(records, "--annotate.columns.label=other"))
    third, _ = labels_of(make([*records[:5], {"llm": "good"}]))
    assert list(first.values()) == NAMES * 2
    assert set(second.values()) == {"good"}
    assert third["text 5"] == "good"
    write_dataset(study)


def test_the_recipe_of_the_docs_runs(command, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "labelling.md").read_text()
    monkeypatch.chdir(tmp_path)
    for name in ("reviews-gpt.csv", "gpt.yaml"):
        (tmp_path / name).write_text(re.search(rf"^```\w+ {name}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[1])
    for step in ("annotate", "variants"):
        code, output, errors = command(step, "gpt.yaml")
        assert code == 0, output + errors
    data = Dataset.from_parquet(str(next((tmp_path / "studies/gpt/dataset/data/llm").iterdir())))
    assert data.features["llm_label"].int2str(data["llm_label"]) == ["negative", "positive", "positive"]
    assert np.allclose(data["llm_probs"], [[0.97, 0.03], [0.01, 0.99], [0.4, 0.6]])
    assert data["product"] == ["lamp", "radio", "radio"]
    assert data["human"] == ["negative", "positive", "negative"]
