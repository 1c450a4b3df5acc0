"""Classifiers at home: labels of new texts, and when they abstain."""

import csv
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from steps import open_runs

from hf_recipes.analysis.abstention import RISK, choose_threshold, find_best_accuracy, read_held_out
from hf_recipes.analysis.schema import read_results
from hf_recipes.labels.pool import read_labels
from hf_recipes.predict import Source, _open_texts
from hf_recipes.recipe import Data
from hf_recipes.report.findings import describe_warning
from hf_recipes.study import read_json
from hf_recipes.training.classifiers import Classifiers, classifier_folder, find_classifiers, find_nearest
from hf_recipes.training.runs import Runs


def write_texts(path, texts, column="text"):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([[column], *([text] for text in texts)])
    return path


def read_probs(table):
    names = [name for name in table.column_names if name.startswith("prob_")]
    return np.column_stack([table[name].to_numpy() for name in names])


def stored(study, run):
    return np.array(pq.read_table(study.run(run) / "predictions.parquet")["probs"].to_pylist())


def test_test_texts_get_the_stored_probabilities_of_a_seed_and_their_mean_of_the_ensemble(
    kept_classifiers, command, tmp_path
):
    study = kept_classifiers
    runs = open_runs(study)
    texts = [*runs.test.texts, "", " \n"]
    new = write_texts(tmp_path / "new.csv", texts)
    each = {run.name: stored(study, run) for run in runs.all if run.variant == "llm"}
    assert list(each) == ["0", "1", "2"]
    for seed, expected in [("1", each["1"]), ("ensemble", np.mean(list(each.values()), axis=0))]:
        output = tmp_path / f"{seed}.parquet"
        code, said, errors = command("predict", study.recipe_file, new, "--seed", seed, "--output", output)
        assert code == 0, errors
        assert said == f"labels: {output} (32 texts, abstains on 2, 2 of which are empty)\n"
        table = pq.read_table(output)
        assert table["row"].to_pylist() == list(range(1, 33))
        assert table["text"].to_pylist() == texts
        assert read_probs(table)[:30] == pytest.approx(expected, abs=1e-6)
        labels = [runs.test.label_names[k] for k in expected.argmax(axis=1)]
        assert table["label"].to_pylist() == [*labels, None, None]
        assert table["abstain"].to_pylist() == [False] * 30 + [True] * 2
        assert np.isnan(read_probs(table)[30:]).all()

    # the same as CSV, by another column and variant
    output = tmp_path / "out.csv"
    other = write_texts(tmp_path / "other.csv", runs.test.texts, "body")
    options = ("--variant", "gold", "--seed", "0", "--text", "body", "--output", output)
    assert command("predict", study.recipe_file, other, *options)[0] == 0
    rows = list(csv.DictReader(output.open()))
    (gold_run,) = (run for run in runs.all if run.variant == "gold" and run.name == "0")
    probs = [[float(row[f"prob_{name}"]) for name in runs.test.label_names] for row in rows]
    assert np.array(probs) == pytest.approx(stored(study, gold_run), abs=1e-6)


def test_an_ensemble_reads_a_large_file_in_blocks(kept_classifiers, command, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_recipes.predict.BLOCK", 1500)  # the reader yields 1,000 texts at a time
    texts = [f"text {place}" for place in range(4500)]
    output = tmp_path / "out.parquet"
    new = write_texts(tmp_path / "new.csv", texts)
    assert command("predict", kept_classifiers.recipe_file, new, "--output", output)[0] == 0
    table = pq.read_table(output)
    assert table["text"].to_pylist() == texts
    assert table["row"].to_pylist() == list(range(1, 4501))

    new.write_text(f"{new.read_text()}a,b\n")  # two cells in the last row, when two blocks are written
    code, _, errors = command("predict", kept_classifiers.recipe_file, new, "--output", tmp_path / "other.parquet")
    assert code == 2
    assert "line 4502 must have 1 cells like the header. Got 2." in errors
    new.write_text("text\n")
    code, _, errors = command("predict", kept_classifiers.recipe_file, new, "--output", tmp_path / "other.parquet")
    assert code == 2
    assert "The source must have texts. Got none." in errors
    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["new.csv", "out.parquet"]


def test_texts_are_made_by_the_recipes_template_unless_a_column_is_named(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("title,body,label\nA,b,no class\n")
    data = Data(path="x", text_template="{{ title }}: {{ body }}", label_names=["c", "d"])
    for column, expected in ((None, "A: b"), ("body", "b")):
        reader = _open_texts(data, Source(str(path), column), ["c", "d"], tmp_path)
        assert [batch.rows["text"].to_pylist() for batch in reader] == [[expected]]


def test_it_abstains_below_the_threshold_of_the_held_out_texts(
    kept_classifiers, command, tmp_path, caplog, monkeypatch
):
    study = kept_classifiers
    monkeypatch.setattr(Runs, "out_of_bag", lambda self, run: np.array([], dtype=int))  # validation rows are then most
    labels, runs = read_labels(study), open_runs(study)
    chosen = find_classifiers(study, runs, "llm")
    classifiers = Classifiers([classifier_folder(study, run) for run in chosen], study.training)
    held_out = read_held_out(study, labels, runs, chosen, classifiers.predict)
    assert held_out.source == "validation rows"
    assert len(held_out.gold) == 40
    pool = labels.training_pool
    assert held_out.gold.tolist() == pool.gold[labels.validation].tolist()
    is_right = held_out.probs.argmax(axis=1) == held_out.gold
    best = find_best_accuracy(held_out.probs.max(axis=1), is_right)
    threshold = choose_threshold(held_out.probs.max(axis=1), is_right, best)
    new, output = write_texts(tmp_path / "new.csv", runs.test.texts), tmp_path / "out.parquet"
    code, _, errors = command("predict", study.recipe_file, new, "--output", output, "--accuracy", best)
    assert code == 0, errors
    line = f"{threshold.value:.4f}, chosen on 40 validation rows with gold. It keeps {threshold.num_kept} of them"
    assert line in caplog.text
    table = pq.read_table(output)
    highest = read_probs(table).max(axis=1)
    assert table["abstain"].to_pylist() == (highest < threshold.value).tolist()
    refused = command("predict", study.recipe_file, new, "--output", tmp_path / "x.csv", "--accuracy", best + 0.01)
    assert refused[0] == 2
    assert f"`--accuracy` must be at most {best:g} with 95% confidence, by 40 validation rows." in refused[2]
    assert not list(tmp_path.glob("*x.csv"))


def test_out_of_bag_texts_choose_it_where_they_are_most_and_else_the_test_texts(kept_classifiers):
    study = kept_classifiers
    labels, runs = read_labels(study), open_runs(study)
    chosen = find_classifiers(study, runs, "llm")
    # As if the validation rows chose the epoch: they do not count.
    settings = study.recipe.train.model_copy(update={"checkpoint": "best"})
    study.recipe = study.recipe.model_copy(update={"train": settings})
    held_out = read_held_out(study, labels, runs, chosen, None)
    assert held_out.source == "out-of-bag texts"
    by_run = [pq.read_table(study.run(run) / "out_of_bag.parquet").to_pydict() for run in chosen]
    common = set.intersection(*(set(table["id"]) for table in by_run))
    assert 0 < len(held_out.gold) == len(common) < min(len(table["id"]) for table in by_run)
    ids = sorted(common, key=labels.training_pool.ids.index)
    expected = [np.mean([table["probs"][table["id"].index(i)] for table in by_run], axis=0) for i in ids]
    assert held_out.probs == pytest.approx(np.array(expected), abs=0)
    assert held_out.gold.tolist() == [by_run[0]["gold"][by_run[0]["id"].index(i)] for i in ids]

    for run in chosen:
        record = study.run(run) / "run.json"
        record.write_text(record.read_text().replace('"out_of_bag_texts": ', '"out_of_bag_texts": 0, "x": '))
    held_out = read_held_out(study, labels, runs, chosen, None)
    assert held_out.source == "test texts"
    assert held_out.gold.tolist() == labels.test.gold.tolist()
    assert held_out.probs == pytest.approx(np.mean([stored(study, run) for run in chosen], axis=0), abs=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variant", "llm-soft"], "`--variant` must be one of gold, llm. Got llm-soft."),
        (
            ["--train.encoder_mode=frozen"],
            "`train.encoder_mode` must be finetune or both, as linear heads are not kept.",
        ),
        (["--seed", "7"], "`--seed` must be ensemble or one of 0, 1, 2. Got 7."),
        (["--text", "body"], "`--text` must name a column of {new}. Got body. Try one of text."),
        (["--accuracy", "1"], "`--accuracy` must be between 0 and 1. Got 1."),
        (["--output", "out.json"], "`--output` must end with .parquet or .csv. Got out.json."),
        (["--output", "README.csv"], "`README.csv` must not exist."),
    ],
)
def test_wrong_arguments_are_named(kept_classifiers, command, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.csv").write_text("x")
    new = write_texts(tmp_path / "new.csv", ["a"])
    code, _, errors = command("predict", kept_classifiers.recipe_file, new, *arguments)
    assert code == 2
    assert message.format(new=new) in errors
    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["README.csv", "new.csv"]


def test_a_split_is_named_if_a_folder_has_several(kept_classifiers, command, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("validation", "test"):
        pq.write_table(pa.table({"text": [split]}), folder / f"{split}.parquet")
    output = tmp_path / "out.parquet"
    options = ("predict", kept_classifiers.recipe_file, folder, "--seed", "0", "--output", output)
    code, _, errors = command(*options)
    assert code == 2
    assert "`--split` must name a split of" in errors
    assert "Try one of validation, test." in errors
    assert command(*options, "--split", "test")[0] == 0
    assert pq.read_table(output)["text"].to_pylist() == ["test"]


def test_a_study_without_classifiers_says_what_to_set(kept_classifiers, command, tmp_path):
    study = kept_classifiers
    new = write_texts(tmp_path / "new.csv", ["a"])
    options = ("predict", study.recipe_file, new, "--output", tmp_path / "out.parquet")
    (run,) = (run for run in open_runs(study).all if str(run) == "llm/n20/1")
    (classifier_folder(study, run) / "model.safetensors").write_bytes(b"damaged")
    code, _, errors = command(*options)
    assert code == 2
    assert "must be a classifier with safetensors" in errors
    shutil.rmtree(classifier_folder(study, run))
    code, _, errors = command(*options)
    assert code == 2
    assert "`train.save_models` must be true to keep classifiers. Got no " in errors
    assert "Set it and run hf-recipes train again." in errors
    assert command(*options, "--seed", "0")[0] == 0  # whose classifier exists
    shutil.rmtree(study.run(run))
    (tmp_path / "out.parquet").unlink()
    assert "llm/n20/1: must be trained with this recipe." in command(*options)[2]
    assert [path.name for path in tmp_path.glob(".tmp*")] == []


def test_it_warns_of_a_verdict_do_not_ship_and_of_a_missing_one(
    kept_classifiers, command, tmp_path, caplog, monkeypatch
):
    study = kept_classifiers
    new = write_texts(tmp_path / "new.csv", ["a"])

    def warnings(name, *options):
        caplog.clear()
        output = tmp_path / f"{name}.parquet"
        assert command("predict", study.recipe_file, new, "--seed", "0", "--output", output, *options)[0] == 0
        return [record.message for record in caplog.records if record.name == "hf_recipes.predict"]

    assert read_json(study.results_file)["verdict"]["decision"] == "inconclusive"
    assert warnings("inconclusive") == []
    results = read_results((ROOT / "docs" / "study" / "tweets" / "report" / "results.json").read_bytes())
    monkeypatch.setattr("hf_recipes.predict.read_study_results", lambda study: results)
    (warning,) = warnings("refused")
    assert warning == describe_warning(results, "llm")
    assert warning.startswith("The verdict on the LLM's labels is: do not ship. Macro-F1 loss against gold labels: 0.")
    assert ". Limit 0.02: exceeded. F1 of the worst class, neutral: " in warning
    assert warnings("gold", "--variant", "gold") == []
    study.results_file.unlink()
    monkeypatch.undo()
    (warning,) = warnings("unknown")
    assert warning.startswith("This study has no current verdict")


def test_the_nearest_seed_has_the_ensembles_labels_most_often_and_then_the_nearest_probabilities():
    rng = np.random.default_rng(0)
    for _ in range(50):
        probs = rng.dirichlet(np.ones(3), (4, 12))
        mean = probs.mean(axis=0)
        distances = [(np.mean(run.argmax(axis=1) != mean.argmax(axis=1)), np.abs(run - mean).sum()) for run in probs]
        assert find_nearest(probs) == distances.index(min(distances))
    same = np.array([[[0.9, 0.1]], [[0.8, 0.2]], [[0.6, 0.4]]])  # labels are equal; the mean is 0.77
    assert find_nearest(same) == 1
    assert find_nearest(np.array([[[0.9, 0.1]]])) == 0


texts = st.lists(st.tuples(st.floats(0.2, 1.0).map(lambda p: round(p, 2)), st.booleans()), max_size=300)


@given(texts, st.floats(0.05, 0.99), st.randoms(use_true_random=False))
def test_a_threshold_has_the_bound_that_it_states_and_no_order_changes_it(pairs, accuracy, chance):
    probs, is_right = (np.array([pair[place] for pair in pairs]) for place in (0, 1))
    threshold = choose_threshold(probs, is_right.astype(bool), accuracy)
    best = find_best_accuracy(probs, is_right.astype(bool))
    shuffled = chance.sample(pairs, len(pairs))
    again, right_again = (np.array([pair[place] for pair in shuffled]) for place in (0, 1))
    assert choose_threshold(again, right_again.astype(bool), accuracy) == threshold
    if threshold is None:
        assert best is None or best < accuracy + 0.01
        return
    kept = probs >= threshold.value
    assert threshold.value in probs
    assert (threshold.num_kept, threshold.num_right) == (kept.sum(), is_right[kept].sum())
    assert accuracy <= threshold.bound < threshold.num_right / threshold.num_kept
    # at most the whole risk was spent on it
    interval = binomtest(threshold.num_right, threshold.num_kept).proportion_ci(1 - 2 * RISK, method="exact")
    assert threshold.bound <= interval.low + 1e-9


def test_all_right_texts_are_all_kept_and_too_few_none():
    probs = np.linspace(0.4, 1, 200)
    assert choose_threshold(probs, np.ones(200, bool), 0.9).num_kept == 200
    assert choose_threshold(probs[:28], np.ones(28, bool), 0.9) is None  # 0.9 ** 28 > 0.05
    assert choose_threshold(probs[:29], np.ones(29, bool), 0.9).num_kept == 29
    assert choose_threshold(probs[:0], np.ones(0, bool), 0.9) is None
    assert find_best_accuracy(probs, np.zeros(200, bool)) is None


CURVES = {
    "calibrated": lambda p: p,
    "overconfident": lambda p: 0.5 + 0.6 * (p - 0.5),
    "a step": lambda p: np.where(p > 0.8, 0.93, 0.8),
    "just below": lambda p: np.full_like(p, 0.899),
    "not monotone": lambda p: np.where(p > 0.9, 0.85, 0.95),
}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("num_texts", [60, 300])
def test_the_stated_accuracy_holds_in_95_of_100_studies(curve, num_texts):
    """The accuracy of new texts at or above the threshold is below the stated one in at most 5% of the draws."""
    rng = np.random.default_rng(0)
    population = rng.beta(4, 1.2, 200_000) / 2 + 0.5
    true = np.sort(population)[::-1]
    mean_above = CURVES[curve](true).cumsum() / np.arange(1, len(true) + 1)
    num_draws, num_broken = 400, 0
    for _ in range(num_draws):
        probs = rng.choice(population, num_texts)
        threshold = choose_threshold(probs, rng.random(num_texts) < CURVES[curve](probs), 0.9)
        if threshold is not None:
            place = np.searchsorted(-true, -threshold.value, side="right") - 1
            num_broken += mean_above[place] < 0.9
    assert binomtest(num_broken, num_draws, RISK, alternative="greater").pvalue > 0.001


def test_a_larger_sample_keeps_nearly_all_texts_that_could_be_kept():
    rng = np.random.default_rng(1)
    probs = rng.uniform(0.5, 1, 20_000)
    threshold = choose_threshold(probs, rng.random(20_000) < probs, 0.9)
    # above 0.8 the mean of uniform probabilities is 0.9
    assert 0.8 <= threshold.value < 0.82
