"""Linear heads on frozen features, TF-IDF and the baselines in the results."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier
from steps import load_rows, measure, open_runs
from transformers import AutoModel, AutoTokenizer, get_linear_schedule_with_warmup

from hf_recipes.annotation.annotate import annotate
from hf_recipes.errors import UserError
from hf_recipes.labels.pool import StudyLabels, read_labels
from hf_recipes.labels.votes import NO_VOTE
from hf_recipes.report.page import write_report
from hf_recipes.training import features, heads, linear
from hf_recipes.training.heads import BATCH_SIZE, EPOCHS, LEARNING_RATE, predict_heads, scale_features, train_heads
from hf_recipes.training.linear import predict_tfidf, train_baselines
from hf_recipes.training.train import train

SMALL = [
    *("--data.pool_size=120", "--data.test_size=30", "--annotate.prompt.shots_per_class=1"),
    *("--grid.sizes=[10, 20]", "--grid.variants=[gold, llm, llm-soft]", "--grid.seeds=[0, 1, 2]"),
]


@pytest.fixture
def annotated(make_study, engine, tiny_encoder):
    def make(*overrides):
        study = make_study(*SMALL, f"--train.encoder={tiny_encoder}", *overrides)
        annotate(study)
        return study

    return make


def make_problem(num_texts, width, num_classes, seed=0):
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(num_texts, width)).astype(np.float32)
    targets = rng.dirichlet(np.ones(num_classes), size=num_texts)
    return scale_features(raw), targets


def train_by_autograd(texts, targets, init_seed, order_seed, warmup_ratio, weight_decay):
    """One head by torch's own AdamW, loss and derivatives."""
    num_texts, num_classes = targets.shape
    linear = torch.nn.Linear(texts.shape[1] - 1, num_classes)
    first = np.random.default_rng(init_seed).normal(scale=0.02, size=(texts.shape[1] - 1, num_classes))
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(first.T))
        linear.bias.zero_()
    groups = [{"params": [linear.weight]}, {"params": [linear.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, weight_decay=weight_decay)
    num_steps = EPOCHS * -(-num_texts // BATCH_SIZE)
    schedule = get_linear_schedule_with_warmup(optimizer, round(warmup_ratio * num_steps), num_steps)
    rng = np.random.default_rng(order_seed)
    for _ in range(EPOCHS):
        order = rng.permutation(num_texts)
        for start in range(0, num_texts, BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            loss = torch.nn.functional.cross_entropy(linear(texts[batch, :-1]), torch.tensor(targets[batch]).float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return torch.cat([linear.weight.T, linear.bias[None]]).detach()


@pytest.mark.parametrize(
    ("num_texts", "warmup_ratio", "weight_decay"), [(70, 0.05, 0.01), (32, 0.0, 0.5), (7, 0.3, 0.0)]
)
def test_a_head_is_what_torch_trains(num_texts, warmup_ratio, weight_decay):
    texts, targets = make_problem(num_texts, 12, 3)
    expected = train_by_autograd(texts, targets, 4, 5, warmup_ratio, weight_decay)
    rows = [np.arange(num_texts)]
    head = train_heads(texts, rows, [targets], [(4, 5)], warmup_ratio, weight_decay)[0]
    assert torch.allclose(head, expected, atol=2e-5)
    logits = texts[:, :-1] @ expected[:-1] + expected[-1]
    assert np.allclose(predict_heads(texts, head), logits.double().softmax(1), atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(2, 70), min_size=2, max_size=40), seed=st.integers(0, 99))
def test_no_head_depends_on_the_others(sizes, seed):
    texts, targets = make_problem(80, 6, 4, seed)
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(80)[:size] for size in sizes]
    seeds = [(seed + i, seed - i + 50) for i in range(len(sizes))]
    heads = train_heads(texts, rows, [targets[r] for r in rows], seeds, 0.05, 0.01)
    i = len(sizes) // 2
    alone = train_heads(texts, rows[i : i + 1], [targets[rows[i]]], seeds[i : i + 1], 0.05, 0.01)[0]
    assert torch.allclose(heads[i], alone, atol=1e-5)


def test_signed_targets_and_rows_that_repeat_give_the_weighted_loss():
    texts, targets = make_problem(20, 6, 2)
    rows = np.resize(np.arange(5), 20)
    signed = np.where(np.arange(20)[:, None] % 2, targets[rows] * 3, -targets[rows])
    expected = train_by_autograd(texts[rows], signed, 0, 1, 0.05, 0.01)
    assert torch.allclose(train_heads(texts, [rows], [signed], [(0, 1)], 0.05, 0.01)[0], expected, atol=2e-5)


def test_features_are_the_mean_over_tokens_and_a_text_is_encoded_once(annotated, tiny_encoder, monkeypatch):
    from accelerate import Accelerator

    study = annotated("--train.encoder_mode=frozen", "--train.max_length=16")
    runs = open_runs(study)
    texts = ["a tweet", "another, much longer tweet " * 9, "a tweet", "third"]
    encoded = []
    embed = features.embed
    monkeypatch.setattr(features, "embed", lambda *args: encoded.append(len(args[4])) or embed(*args))
    monkeypatch.setattr(features, "PART_ROWS", 2)
    values = features.read_features(study, runs, Accelerator(cpu=True), texts)
    assert encoded == [2, 1]
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_encoder), AutoModel.from_pretrained(tiny_encoder).eval()
    for text, row in zip(texts, values, strict=True):
        inputs = tokenizer(text, truncation=True, max_length=16, return_tensors="pt")
        with torch.no_grad():
            assert np.allclose(row, model(**inputs).last_hidden_state.mean(1)[0], atol=1e-5)

    # A part that is lost is computed again, and no other part with it. One that is damaged is an error.
    folder = next(study.features.iterdir())
    (folder / "part-00000.parquet").unlink()
    again = features.read_features(study, runs, Accelerator(cpu=True), [*texts, "new"])
    assert np.allclose(again[:4], values, atol=1e-6)
    assert encoded == [2, 1, 2, 1]
    features.read_features(study, runs, Accelerator(cpu=True), [*texts, "new"])
    assert encoded == [2, 1, 2, 1]
    (folder / "part-00001.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="is damaged"):
        features.read_features(study, runs, Accelerator(cpu=True), texts)


def test_tfidf_knows_the_classes_that_it_saw():
    texts, labels = ["good :)", "bad :(", "so good", "so bad"], np.array([2, 0, 2, 0])
    probs = predict_tfidf(texts, labels, ["good", "bad", "好"], 4)
    assert probs.argmax(axis=1).tolist()[:2] == [2, 0]
    assert np.allclose(probs.sum(axis=1), 1)
    assert not probs[:, [1, 3]].any()
    assert (predict_tfidf(["好", "bad"], np.array([1, 1]), texts, 3) == [0, 1, 0]).all()


def test_a_frozen_study_is_measured_and_names_its_method(annotated, monkeypatch):
    study = annotated("--train.encoder_mode=frozen")
    train_baselines(study)
    assert {path.name for path in study.root.iterdir()} >= {"heads", "tfidf", "features"}
    assert not (study.root / "runs").exists()
    results = measure(study)
    assert results.method == "frozen"
    assert {(result.variant, result.size) for result in results.variants} == {
        (variant, size) for variant in study.grid.variants for size in (10, 20)
    }
    write_report(study, read_labels(study).training_pool, results)
    report = (study.report / "report.md").read_text(encoding="utf-8")
    assert "linear heads on frozen features" in report
    assert "was fine-tuned" not in report

    # Nothing is trained again. A run without its folder is, to the same predictions.
    monkeypatch.setattr(features, "embed", None)
    run = open_runs(study).all[3]
    before = (study.run(run) / "predictions.parquet").read_bytes()
    train_baselines(study)
    shutil.rmtree(study.run(run))
    train_baselines(study)
    assert (study.run(run) / "predictions.parquet").read_bytes() == before


def test_the_settings_of_fine_tuning_change_no_head(annotated):
    study = annotated("--train.encoder_mode=frozen")
    keys = [open_runs(study).key(run) for run in open_runs(study).all]
    for setting, is_same in (
        *((f"--train.{name}=7", True) for name in ("epochs", "batch_size")),
        ("--train.learning_rate=0.1", True),
        ("--train.max_length=9", False),
        ("--train.weight_decay=0.3", False),
    ):
        changed = open_runs(annotated("--train.encoder_mode=frozen", setting))
        assert ([changed.key(run) for run in changed.all] == keys) == is_same, setting


def test_with_both_the_heads_have_a_report_of_their_own(annotated):
    study = annotated("--train.encoder_mode=both")
    train_baselines(study)
    runs = open_runs(study)
    assert [of_method.method for of_method in runs.methods] == ["frozen", "finetune"]
    labels, heads = read_labels(study), runs.methods[0]
    from hf_recipes.analysis.measure import measure as measure_runs

    results = measure_runs(study, labels, heads)
    write_report(study, labels.training_pool, results)
    assert json.loads((study.report / "heads" / "results.json").read_text())["method"] == "frozen"
    assert (study.report / "heads" / "report.html").exists()
    assert not (study.report / "results.json").exists()


def test_a_head_that_diverges_is_a_failed_run_and_stops_no_other(annotated, monkeypatch):
    study = annotated("--train.encoder_mode=frozen")
    monkeypatch.setattr(heads, "LEARNING_RATE", float("inf"))
    train_baselines(study)
    runs = open_runs(study)
    assert runs.failures().keys() == set(runs.all)
    assert "The head diverged" in runs.failure(runs.all[0])
    assert not runs.left_in_seconds()
    assert not runs.of("tfidf").left()
    monkeypatch.undo()
    runs.forget_failures()
    train_baselines(study)
    assert not open_runs(study).left()


def test_a_frozen_study_is_not_fine_tuned(annotated):
    with pytest.raises(UserError, match="must be finetune or both to fine-tune"):
        train(annotated("--train.encoder_mode=frozen"))


def test_an_llm_without_labels_of_test_texts_is_no_baseline(study, monkeypatch):
    labels = read_labels(study)
    unlabelled = np.full(len(labels.test), NO_VOTE)
    monkeypatch.setattr(StudyLabels, "teacher", property(lambda self: unlabelled))
    (study.report / "results.json").unlink()
    assert {row.name for row in measure(study).baselines} == {"most-frequent", "tfidf", "frozen"}


def test_baselines_are_what_other_libraries_compute(study):
    results, labels, runs = measure(study), read_labels(study), open_runs(study)
    rows = {(row.name, row.variant): row for row in results.baselines}
    assert rows.keys() == {
        *((name, variant) for name in ("most-frequent", "tfidf", "frozen") for variant in ("gold", "llm")),
        ("llm", "llm"),
    }
    test = load_rows(study)[1]
    teacher = labels.teacher
    assert rows["llm", "llm"].accuracy_mean == pytest.approx((teacher == test.gold)[teacher >= 0].mean())
    accuracies = []
    for run in runs.paired("gold", 20):
        dummy = DummyClassifier().fit(np.zeros((20, 1)), runs.labels(run).labels)
        accuracies.append(dummy.score(np.zeros((len(test), 1)), test.gold))
    assert rows["most-frequent", "gold"].accuracy_mean == pytest.approx(np.mean(accuracies))
    for row in results.baselines:
        assert row.difference.first - row.difference.second == pytest.approx(row.difference.difference)
        assert row.macro_f1_mean == pytest.approx(row.difference.second)


def test_a_kill_between_two_folders_leaves_no_half_of_a_run(annotated, monkeypatch):
    study = annotated("--train.encoder_mode=frozen")
    write_run, written = linear.write_run, []

    def die(folder, *args, **details):
        written.append(folder)
        if len(written) == 4:
            raise KeyboardInterrupt
        write_run(folder, *args, **details)

    monkeypatch.setattr(linear, "write_run", die)
    with pytest.raises(KeyboardInterrupt):
        train_baselines(study)
    assert not any(open_runs(study).is_done(run) for run in open_runs(study).all)
    monkeypatch.setattr(linear, "write_run", write_run)
    train_baselines(study)
    assert all(open_runs(study).is_done(run) for run in open_runs(study).all)
    study.checksums.verify()
