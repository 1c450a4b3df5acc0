"""Confident learning: labels that a classifier of the other rows contradicts are left out, beside as many at random."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ENCODER
from steps import measure, open_runs, write_dataset
from test_planted import NAMES, Planted, write_texts

from hf_recipes.annotation.annotate import annotate
from hf_recipes.errors import UserError
from hf_recipes.report.findings import describe
from hf_recipes.study import read_json
from hf_recipes.training.confident import find_label_errors
from hf_recipes.training.grid import all_runs
from hf_recipes.training.runs import check_training
from hf_recipes.training.train import train

TRAINED = ("llm-confident-drop", "llm-confident-random-drop")


@pytest.fixture
def make(make_study, monkeypatch, tmp_path):
    (tmp_path / "texts").mkdir()
    gold = write_texts(tmp_path / "texts" / "train.parquet", 400, 0)
    write_texts(tmp_path / "texts" / "test.parquet", 100, 1)
    monkeypatch.setattr("hf_recipes.annotation.engines.vllm_engine.Engine", Planted)
    for name, value in (("gold", gold), ("errors", "systematic"), ("knows", False)):
        monkeypatch.setattr(Planted, name, value, raising=False)

    def make(encoder, *more):
        return make_study(
            *(f"--data.path={tmp_path / 'texts'}", "--data.pool_size=null", "--data.test_size=null"),
            *(f"--data.label_names=[{', '.join(NAMES)}]", "--annotate.model=models/SmolLM2-135M-Instruct"),
            *("--annotate.prompt.template='{{ instruction }} Text: {{ text }} Label:'", "--annotate.calibration=none"),
            *("--annotate.prompt.shots_per_class=0", f"--train.encoder={encoder}", "--grid.seeds=[0, 1]"),
            *(f"--grid.variants=[gold, llm, {', '.join(TRAINED)}]", *more),
        )

    return make


def records(study):
    found = {}
    for run in all_runs(study.grid):
        if run.variant in TRAINED:
            found[run.variant, run.name] = read_json(study.run(run) / "run.json")
    return found


def predictions(study, run):
    return (study.run(run) / "predictions.parquet").read_bytes()


@pytest.fixture
def planted():
    """Texts that come twice, with features that give away their true class and which text it is; 20% wrong labels."""
    rng = np.random.default_rng(0)
    number = np.repeat(np.arange(200), 2)
    truth = rng.integers(3, size=200)
    wrong = rng.random(200) < 0.2
    labels = np.where(wrong, (truth + 1) % 3, truth)
    features = np.hstack([np.eye(3)[truth] * 3 + rng.normal(size=(200, 3)), np.eye(200) * 30])
    return [f"text {i}" for i in number], labels[number], features[number], wrong[number]


def test_labels_that_a_classifier_contradicts_are_called_wrong_though_a_text_comes_twice(planted):
    texts, labels, features, wrong = planted
    found = find_label_errors(texts, labels, features, 3)
    assert found[wrong].mean() > 0.8
    assert found[~wrong].mean() < 0.1
    memorised = find_label_errors([str(i) for i in range(400)], labels, features, 3)  # as if texts were different
    assert memorised[wrong].mean() < 0.2
    order = np.random.default_rng(1).permutation(400)
    again = find_label_errors([texts[i] for i in order], labels[order], features[order], 3)
    assert again.tolist() == found[order].tolist()
    fewer = find_label_errors(texts, np.array([0, 2, 3])[labels], features, 5)  # two classes without a label
    assert fewer.tolist() == found.tolist()


def test_what_is_marked_is_what_cleanlab_marks_by_out_of_fold_probabilities(planted):
    """The oracle: a loop over folds, each the hash order of distinct texts modulo four."""
    from cleanlab.filter import find_label_issues
    from sklearn.linear_model import LogisticRegression

    from hf_recipes.hashing import hash_order

    texts, labels, features, _ = planted
    distinct = sorted(set(texts))
    rank = {distinct[place]: i for i, place in enumerate(hash_order(distinct, "folds"))}
    fold = np.array([rank[text] % 4 for text in texts])
    probs = np.zeros((400, 3))
    for k in range(4):
        model = LogisticRegression(max_iter=1000).fit(features[fold != k], labels[fold != k])
        probs[fold == k] = model.predict_proba(features[fold == k])
    expected = find_label_issues(labels, probs, filter_by="prune_by_noise_rate", n_jobs=1)
    assert find_label_errors(texts, labels, features, 3).tolist() == expected.tolist()


@pytest.mark.parametrize("labels", [[0] * 8, [0] * 7 + [1]])
def test_where_a_fold_leaves_a_single_class_nothing_is_called_wrong(labels):
    features = np.random.default_rng(0).normal(size=(8, 4))
    assert not find_label_errors([str(i) for i in range(8)], np.array(labels), features, 2).any()
    assert not find_label_errors(["same"] * 8, np.array([0, 1] * 4), features, 2).any()


def test_a_run_leaves_out_doubted_rows_and_its_control_as_many_whichever_comes_first(make, tiny_encoder):
    study = make(tiny_encoder, "--grid.sizes=[40]", "--train.epochs=1")
    annotate(study)
    assert train(study) == {}
    work, kept = open_runs(study), records(study)
    runs = {(run.variant, run.name): run for run in all_runs(study.grid) if run.variant in TRAINED}
    for seed in ("0", "1"):
        one, control = (kept[variant, seed]["dropped"] for variant in TRAINED)
        drawn = {work.pool.ids[i] for i in work.subset(runs[TRAINED[0], seed])}
        assert len(one) == len(control) > 0
        assert set(one) | set(control) <= drawn
        assert one != control
    # without the other variant's run the control finds the number itself, and both come out the same, bit for bit
    before = {where: predictions(study, run) for where, run in runs.items()}
    for run in runs.values():
        shutil.rmtree(study.run(run))
    alone = make(tiny_encoder, "--grid.sizes=[40]", "--train.epochs=1", "--grid.seeds=[1, 0]")
    assert train(alone) == {}
    assert {where: predictions(study, run) for where, run in runs.items()} == before
    assert all(work.is_valid(run) for run in runs.values())
    results = measure(study)
    assert "The LLM's labels without those that confident learning calls wrong: macro-F1 changes by" in str(
        describe(results).more
    )
    variant = next(variant for variant in results.variants if variant.variant == TRAINED[0])
    assert variant.train_label_accuracy == [kept[TRAINED[0], seed]["train_label_accuracy"] for seed in ("0", "1")]
    write_dataset(study)  # each run has rows of its own
    assert not {path.name for path in (study.dataset / "data").iterdir()} & set(TRAINED)


def test_two_launches_at_once_neither_wait_for_each_other_for_ever_nor_differ(make, tiny_encoder, monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # of this process and of the launches: they run side by side
    study = make(tiny_encoder, "--grid.sizes=[40]", "--train.epochs=1")
    annotate(study)
    assert train(study) == {}
    runs = [run for run in all_runs(study.grid) if run.variant in TRAINED]
    before, kept = [predictions(study, run) for run in runs], records(study)
    for run in runs:
        shutil.rmtree(study.run(run))
    command = [sys.executable, "-m", "hf_recipes.cli", "train", str(study.recipe_file), "--go-on"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    outputs = [one.communicate(timeout=300)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], outputs
    assert [predictions(study, run) for run in runs] == before
    assert {where: one["dropped"] for where, one in records(study).items()} == {
        where: one["dropped"] for where, one in kept.items()
    }


def test_without_cleanlab_it_is_said_what_to_install(make, tiny_encoder, monkeypatch):
    study = make(tiny_encoder, "--grid.sizes=[40]")
    monkeypatch.setattr("hf_recipes.training.runs.versions", lambda *names: {})
    with pytest.raises(
        UserError, match=r"llm-confident-drop requires cleanlab. Try `pip install 'hf-recipes\[cleanlab\]'`"
    ):
        check_training(study)


@pytest.mark.slow
def test_it_finds_wrong_labels_more_often_than_chance_does(make, monkeypatch):
    monkeypatch.setattr(Planted, "errors", "random")  # those that go by the text are learnt, and not doubted
    monkeypatch.setattr("test_planted.CHANCE", 0.2)
    study = make(ENCODER, "--grid.sizes=[150]", "--train.learning_rate=2e-4")
    annotate(study)
    assert train(study) == {}
    work = open_runs(study)
    wrong = {i for i, gold, llm in zip(work.pool.ids, work.pool.gold, work.pool.llm, strict=True) if gold != llm}
    hits = {variant: [] for variant in TRAINED}
    for (variant, _), record in records(study).items():
        hits[variant] += [i in wrong for i in record["dropped"]]
    assert np.mean(hits[TRAINED[0]]) > np.mean(hits[TRAINED[1]]) + 0.1
