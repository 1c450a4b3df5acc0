"""Training: a run is a function of its key, whatever ran before it; failures, kills and launches side by side."""

import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from itertools import product

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ENCODER, ROOT, SMALL_RECIPE
from scipy.stats import entropy
from steps import load_rows, measure, open_runs, write_dataset

from hf_recipes.analysis.annotator import divergence
from hf_recipes.analysis.measure import without_nan
from hf_recipes.analysis.texts import NOT_CLASSIFIED, read_out_of_bag
from hf_recipes.annotation.annotate import annotate
from hf_recipes.errors import UserError
from hf_recipes.hub.bundle import collect
from hf_recipes.labels.pool import read_labels
from hf_recipes.models import Model, load_tokenizer
from hf_recipes.plan import make_plan
from hf_recipes.report.findings import describe
from hf_recipes.report.page import write_report
from hf_recipes.study import Study, cpu_capability, read_json
from hf_recipes.training.fine_tuning import fine_tune, pad, predict
from hf_recipes.training.grid import all_runs, describe_few_steps, find_probes, make_run
from hf_recipes.training.runs import Runs, check_training, other_runs
from hf_recipes.training.train import train
from hf_recipes.variants import CONTROLS, VARIANTS

SETTINGS = [
    *("--data.pool_size=120", "--data.test_size=30", "--annotate.prompt.shots_per_class=1"),
    *("--grid.sizes=[10, 20]", "--train.epochs=1"),
]
FEW = ["--grid.sizes=[20]", "--grid.variants=[gold, llm]", "--grid.seeds=[0, 1]"]


@pytest.fixture
def annotated(make_study, engine, tiny_encoder):
    """Annotated studies; the engine's answers are made up: it has tests of its own, with the real one, end to end."""

    def make(*overrides, folder="study"):
        study = make_study(*SETTINGS, f"--train.encoder={tiny_encoder}", *overrides, folder=folder)
        annotate(study)
        return study

    return make


def the_run(study, variant, size, seed):
    level = study.grid.seeds.index(seed)
    return make_run(study.grid, variant, size, dict.fromkeys(study.grid.vary, level))


def predictions(study, run):
    return pq.read_table(study.run(run) / "predictions.parquet")["probs"].to_pylist()


def table(study):
    return {str(run): predictions(study, run) for run in all_runs(study.grid)}


def test_the_same_key_gives_the_same_bits_whatever_ran_before(annotated):
    alone = annotated("--grid.variants=[gold, llm]", "--grid.seeds=[1, 0]", "--grid.sizes=[20]", folder="alone")
    train(alone)
    grid = annotated("--grid.seeds=[0, 1]", folder="grid")
    train(grid)
    for variant in ("gold", "llm"):
        for seed in (0, 1):
            runs = [(study, the_run(study, variant, 20, seed)) for study in (alone, grid)]
            assert predictions(*runs[0]) == predictions(*runs[1])
            keys = [read_json(study.run(run) / "run.json")["key"] for study, run in runs]
            assert keys[0] == keys[1]
    found = table(grid)
    assert found["llm/n20/0"] != found["llm/n20/1"]
    assert found["llm/n20/0"] != found["gold/n20/0"]
    records = {
        variant: read_json(grid.run(the_run(grid, variant, 20, 0)) / "run.json") for variant in grid.grid.variants
    }
    assert {variant: record["gold_train_labels"] for variant, record in records.items()} == {
        "gold": 20,
        "llm": 0,
        "llm-entropy-replace": 5,
        "llm-random-replace": 5,
    }
    assert records["gold"]["train_label_accuracy"] == 1
    assert records["gold"]["curves"]["step"] == [3]
    assert records["gold"]["train"]["epochs"] == 1
    assert (
        records["gold"]["environment"]["threads"]
        == open_runs(grid).environment(the_run(grid, "gold", 20, 0))["threads"]
    )
    assert open_runs(grid).left() == []


def test_runs_of_another_machine_are_measured_and_not_taken_for_ones_own(annotated, monkeypatch):
    study = annotated(*FEW)
    train(study)
    monkeypatch.setattr("hf_recipes.training.devices.cpu_threads", lambda: 99)
    assert len(open_runs(study).left()) == 4
    monkeypatch.undo()
    assert open_runs(study).left() == []
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx512" if cpu_capability() == "AVX2" else "avx2")
    assert len(open_runs(study).left()) == 4
    assert measure(study).R == 2


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere the machine's kind stands for its instructions")
@pytest.mark.parametrize("chosen", [None, "default"])
def test_the_instructions_in_the_environment_are_those_that_torch_reports(chosen, monkeypatch):
    if chosen:
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", chosen)
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == cpu_capability()


def test_every_ingredient_of_a_run_is_in_its_key(annotated, monkeypatch):
    study = annotated()
    run = the_run(study, "llm", 10, 0)
    base = open_runs(study).key(run)
    same = annotated(
        *("--name=other", "--grid.seeds=[0, 9]", "--grid.sizes=[10, 15]"),
        *(
            "--train.save_models=true",
            "--train.trackers=[tensorboard]",
            "--grid.crossed={levels: 2}",
            "--grid.vary=[init, order]",
        ),
    )
    assert open_runs(same).key(run) == base
    changes = {
        "epochs": "--train.epochs=2",
        "rate": "--train.learning_rate=1e-5",
        "batch": "--train.batch_size=4",
        "parts": "--train.gradient_accumulation_steps=2",
        "length": "--train.max_length=32",
        "decay": "--train.weight_decay=0.1",
        "warm-up": "--train.warmup_ratio=0.2",
        "clipping": "--train.max_grad_norm=2",
        "test rows": "--data.test_size=29",
        "rows": "--data.seed=3",
        "encoder": "--train.encoder=models/SmolLM2-135M-Instruct",
        "validation": "--train.validation_size=10",
    }
    keys = {
        name: open_runs(annotated(change)).key(run) for name, change in changes.items()
    }  # one folder: annotated once
    keys["best"] = open_runs(annotated(changes["validation"], "--train.checkpoint=best")).key(run)
    keys["gold validation"] = open_runs(annotated(changes["validation"], "--train.validation_labels=gold")).key(run)
    for other in ("seed", "size", "variant"):
        place = {"seed": ("llm", 10, 1), "size": ("llm", 20, 0), "variant": ("gold", 10, 0)}[other]
        keys[other] = open_runs(study).key(the_run(study, *place))
    monkeypatch.setattr("hf_recipes.training.devices.cpu_threads", lambda: 99)
    keys["threads"] = open_runs(study).key(run)
    monkeypatch.setattr("hf_recipes.training.runs.versions", lambda *names: {"torch": "0"})
    keys["versions"] = open_runs(study).key(run)
    assert len({base, *keys.values()}) == len(keys) + 1


@pytest.fixture
def texts_twice(tmp_path):
    """The first texts of the sample twice, which differ in white space alone."""
    (tmp_path / "twice").mkdir()
    for split, count in (("train", 60), ("test", 30)):
        rows = pq.read_table(
            next((SMALL_RECIPE.parent.parent / "sample" / "vader_tweets" / "data").glob(f"{split}-*"))
        ).to_pylist()
        copies = [row | {"text": f"  {row['text']} "} for row in rows[:count]]
        names = ["negative", "neutral", "positive"]
        lines = [{"text": row["text"], "label": names[row["label"]]} for row in rows[:count] + copies]
        (tmp_path / "twice" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return [f"--data.path={tmp_path / 'twice'}", "--data.label_names=[negative, neutral, positive]"]


def test_out_of_bag_texts_are_those_that_no_variant_of_a_seed_trained_on(annotated, texts_twice):
    variants = "--grid.variants=[gold, llm, llm-entropy-drop, llm-random-drop, gold-only]"
    study = annotated(*texts_twice, variants, "--train.validation_size=10")
    work = open_runs(study)
    texts = np.array([" ".join(text.split()) for text in work.pool.texts])
    by_seed = {}
    for run in work.all:
        rows = work.out_of_bag(run)
        trained_on = set(texts[work.subset(run)])
        assert rows.tolist() == [row for row in work.pool_sample if texts[row] not in trained_on]
        assert not set(rows) & {*work.subset(run), *work.labels(run).rows, *work.validation}
        assert len(rows) < len(work.pool_sample) - run.size  # without the copies of its texts
        assert by_seed.setdefault((run.size, run.name), rows.tolist()) == rows.tolist()
    assert len(set(map(tuple, by_seed.values()))) == 2 * 3
    capped = open_runs(annotated(*texts_twice, variants, "--train.validation_size=10", "--train.out_of_bag=20"))
    assert len(capped.pool_sample) == 20
    assert set(capped.pool_sample) < set(work.pool_sample)
    none = open_runs(annotated(*texts_twice, variants, "--train.validation_size=10", "--train.out_of_bag=0"))
    assert not len(none.pool_sample)
    assert not len(none.out_of_bag(none.all[0]))


def test_out_of_bag_texts_are_of_other_clusters_where_test_texts_are(annotated):
    study = annotated(*FEW)
    labels = read_labels(study)
    clusters = np.array([f"thread {i % 30}" for i in range(len(labels.training_pool.ids))], dtype=object)
    clusters[::7] = None
    pool = replace(labels.training_pool, clusters=clusters)
    names = np.array(["elsewhere", None] * (len(labels.test) // 2), dtype=object)
    split = Runs(study, replace(labels, training_pool=pool, test=replace(labels.test, clusters=names)))
    whole = Runs(study, labels)
    for run in split.all:
        trained_on = set(clusters[split.subset(run)]) - {None}
        expected = [row for row in whole.out_of_bag(run) if clusters[row] not in trained_on]
        assert split.out_of_bag(run).tolist() == expected
        assert 0 < len(expected) < len(whole.out_of_bag(run))
        assert split.key(run) == whole.key(run)  # which texts a run classifies does not change it
    names[0] = "thread 3"  # the test split was drawn without regard to clusters
    mixed = Runs(study, replace(labels, training_pool=pool, test=replace(labels.test, clusters=names)))
    assert all(mixed.out_of_bag(run).tolist() == whole.out_of_bag(run).tolist() for run in mixed.all)


def test_the_classes_of_out_of_bag_texts_are_the_classifiers_own(annotated, tmp_path):
    from transformers import pipeline

    study = annotated(*FEW, "--train.save_models=true", "--train.out_of_bag=70")
    assert train(study) == {}
    work = open_runs(study)
    names = work.test.label_names
    classes = read_out_of_bag(study, work, work.all)
    assert classes.shape == (4, 70)
    for run, run_classes in zip(work.all, classes, strict=True):
        rows = work.out_of_bag(run)
        assert read_json(study.run(run) / "run.json")["out_of_bag_texts"] == len(rows) < 70
        columns = pq.read_table(study.run(run) / "out_of_bag.parquet").to_pydict()
        assert columns["id"] == [work.pool.ids[row] for row in rows]
        assert columns["gold"] == work.pool.gold[rows].tolist()
        assert set(columns["run"]) == {str(run)}
        kept = pipeline("text-classification", str(study.run(run) / "model"), top_k=None)
        for row, probs in zip(rows, columns["probs"], strict=True):
            expected = {entry["label"]: entry["score"] for entry in kept([work.pool.texts[row]])[0]}
            assert probs == pytest.approx([expected[name] for name in names], abs=1e-5)
        is_classified = np.isin(work.pool_sample, rows)
        assert (run_classes[~is_classified] == NOT_CLASSIFIED).all()
        assert run_classes[is_classified].tolist() == np.argmax(columns["probs"], axis=1).tolist()

    # Without them the predictions are the same, and no table of them is published.
    off = annotated(*FEW, "--train.out_of_bag=0", folder="off")
    assert train(off) == {}
    assert table(off) == table(study)
    assert not list(off.root.glob("runs/*/*/*/out_of_bag.parquet"))
    assert read_out_of_bag(off, open_runs(off), all_runs(off.grid)).shape == (4, 0)
    for folder, made, has_table in ((tmp_path / "on-hub", study, True), (tmp_path / "off-hub", off, False)):
        folder.mkdir()
        write_dataset(made)
        assert ("out_of_bag" in collect(made, read_labels(made), folder, texts=True).configs) == has_table


def test_another_sample_of_out_of_bag_texts_trains_no_run_again(annotated):
    study = annotated(*FEW, "--train.out_of_bag=30")
    assert train(study) == {}
    assert measure(study).out_of_bag is not None
    assert measure(annotated(*FEW, "--train.out_of_bag=0")).out_of_bag is None  # measured again
    wider = annotated(*FEW, "--train.out_of_bag=70")
    work = open_runs(wider)
    assert work.left() == []
    classes = read_out_of_bag(wider, work, work.all)
    assert classes.shape == (4, 70)
    known = np.isin(work.pool_sample, open_runs(study).pool_sample)
    assert (classes[:, ~known] == NOT_CLASSIFIED).all()
    for run, run_classes in zip(work.all, classes, strict=True):
        assert ((run_classes != NOT_CLASSIFIED) == (known & np.isin(work.pool_sample, work.out_of_bag(run)))).all()
    # A run of an earlier version has no such texts.
    file = study.run(work.all[0]) / "run.json"
    record = read_json(file)
    del record["out_of_bag_texts"]
    file.write_text(json.dumps(record))
    assert (read_out_of_bag(wider, work, work.all)[0] == NOT_CLASSIFIED).all()


def test_out_of_bag_texts_of_another_run_are_refused(annotated):
    study = annotated(*FEW)
    assert train(study) == {}
    work = open_runs(study)
    run, control = (study.run(the_run(study, variant, 20, 0)) / "out_of_bag.parquet" for variant in ("llm", "gold"))
    shutil.copyfile(control, run)
    with pytest.raises(UserError, match=f"`{run}` must have the out-of-bag texts of this run. Delete `{run.parent}`"):
        read_out_of_bag(study, work, work.all)
    run.unlink()
    with pytest.raises(UserError, match=f"`{run}` is missing. Delete `{run.parent}`"):
        read_out_of_bag(study, work, work.all)


def test_a_source_of_chance_that_does_not_vary_keeps_its_first_seed(annotated):
    study = annotated("--grid.vary=[init]", "--grid.seeds=[4, 7]", "--grid.sizes=[20]")
    one, other = (the_run(study, "llm", 20, seed) for seed in (4, 7))
    assert (one.subset_seed, one.init_seed, one.order_seed) == (4, 4, 4)
    assert (other.subset_seed, other.init_seed, other.order_seed, other.name) == (4, 7, 4, "7")
    work = open_runs(study)
    assert work.subset(one).tolist() == work.subset(other).tolist()
    assert work.key(one) != work.key(other)


def test_crossed_runs_share_all_seeds_but_one_and_grow_from_the_paired_grid(annotated):
    study = annotated("--grid.crossed={variants: [gold, llm], levels: 2}", "--grid.seeds=[4, 7, 9]")
    runs = all_runs(study.grid)
    assert len(runs) == len(set(map(str, runs))) == len(study.grid.variants) * 2 * 3 + 2 * (8 - 2)
    run = next(run for run in runs if str(run) == "llm/n20/s4-i7-o4")
    assert (run.subset_seed, run.init_seed, run.order_seed, run.annotation_pass) == (4, 7, 4, 0)


PASSES = ["--annotate.passes=[{prompt: {seed: 5}}, {prompt: {seed: 6}}]", "--grid.vary=[subset, init, order, pass]"]


def test_the_annotation_pass_is_a_source_of_chance_too(annotated):
    study = annotated(*PASSES, "--grid.crossed={variants: [gold, llm], levels: 2}", "--grid.sizes=[20]")
    work = open_runs(study)
    for seed, number in ((0, 0), (1, 1), (2, 2)):
        run = the_run(study, "llm", 20, seed)
        assert run.annotation_pass == number
        assert work.labels(run).labels.tolist() == work.pool.votes[work.subset(run), number].tolist()
        assert the_run(study, "gold", 20, seed).annotation_pass == 0
    names = [str(run) for run in all_runs(study.grid)]
    assert "llm/n20/s0-i0-o0-p1" in names
    assert len([name for name in names if name.startswith("llm/")]) == 3 + 16 - 2
    assert len([name for name in names if name.startswith("gold/")]) == 3 + 8 - 2
    with pytest.raises(UserError, match="requires an annotation pass for each of 3 seeds, as it has pass. Got 2"):
        annotated(PASSES[1], "--annotate.passes=[{prompt: {seed: 5}}]", folder="few")


def test_soft_labels_are_the_distribution_and_validation_rows_are_trained_on_by_nobody(annotated):
    study = annotated(
        *("--grid.variants=[gold, llm, llm-soft]", "--train.validation_size=15", "--train.validation_labels=gold"),
        *("--train.checkpoint=best", "--train.epochs=2", "--grid.sizes=[20]", "--train.save_models=true"),
    )
    work = open_runs(study)
    run = the_run(study, "llm-soft", 20, 1)
    assert work.labels(run).targets.tolist() == work.pool.probs[work.subset(run)].tolist()
    assert not any(set(work.validation) & set(work.subset(run)) for run in all_runs(study.grid))
    assert train(study) == {}
    record = read_json(study.run(run) / "run.json")
    assert record["gold_validation_labels"] == 15
    assert len(record["curves"]["validation_macro_f1"]) == 2
    from transformers import pipeline

    kept = pipeline("text-classification", str(study.run(run) / "model"), top_k=None)
    text = work.test.texts[0]
    told = {one["label"]: one["score"] for one in kept([text])[0]}
    assert [told[name] for name in work.test.label_names] == pytest.approx(predictions(study, run)[0], abs=1e-5)


def test_every_variant_trains_and_stands_beside_its_control_in_dataset_results_and_report(annotated):
    variants = [name for name, variant in VARIANTS.items() if variant.num_models == 1]
    study = annotated(
        *(f"--grid.variants={json.dumps(variants)}", "--grid.sizes=[20]", "--grid.seeds=[0, 1]"),
        "--data.raters=votes",
        "--annotate.passes=[{prompt: {seed: 5}}]",
    )
    assert train(study) == {}
    spent = {run.variant: read_json(study.run(run) / "run.json")["gold_train_labels"] for run in all_runs(study.grid)}
    assert {spent[variant] for variant in ("llm-entropy-replace", "llm-random-replace", "gold-only")} == {5}
    assert spent["llm-entropy-drop"] == spent["llm-majority"] == 0
    steps = {run.variant: read_json(study.run(run) / "run.json")["curves"]["step"] for run in all_runs(study.grid)}
    assert (steps["gold-only"], steps["llm-random-drop"]) == ([3], [2])
    write_dataset(study)
    results = measure(study)
    pairs = {(one.variant, one.against) for one in results.comparisons}
    assert {pair for pair in CONTROLS.items() if set(pair) <= set(variants)} <= pairs
    assert ("llm", "noise-fixed") in pairs
    write_report(study, read_labels(study).training_pool, results)
    said = (study.report / "report.md").read_text()
    has_learnt = [results.at_top[name].above_chance is not False for name in ("llm", "noise-fixed")]
    assert ("**Systematic or random.**" in said) == all(has_learnt)
    assert "**The mitigation (llm-entropy-drop).**" in said
    kept = pq.read_table(next((study.dataset / "data" / "llm-entropy-drop").iterdir()))
    whole = pq.read_table(next((study.dataset / "data" / "llm").iterdir()))
    assert len(kept) == len(whole) - round(0.25 * len(whole))
    noise = pq.read_table(next((study.dataset / "data" / "noise-fixed").iterdir()))
    assert set(noise["label_source"].to_pylist()) == {"noise"}


def test_the_cells_of_the_llms_errors_are_counts_over_runs_and_test_texts(annotated):
    from test_annotate import forget_test_rows

    study = annotated("--grid.variants=[gold, llm, llm-soft, llm-majority]", "--annotate.passes=[{prompt: {seed: 5}}]")
    assert train(study) == {}
    results = measure(study)
    work, teacher = open_runs(study), read_labels(study).teacher
    known = teacher >= 0
    found = {(one.variant, one.size): one for one in results.error_cells}
    assert set(found) == {(variant, size) for variant in ("gold", "llm", "llm-soft") for size in (10, 20)}
    for (variant, size), cells in found.items():
        counts = Counter()
        for seed in study.grid.seeds:
            labels = np.argmax(predictions(study, the_run(study, variant, size, seed)), axis=1)
            for label, llm, gold in zip(labels[known], teacher[known], work.test.gold[known], strict=True):
                counts["right" if llm == gold else "wrong", "same" if label == llm else "other"] += 1
                counts["correct"] += label == gold
        total = len(study.grid.seeds) * known.sum()
        shares = {name: getattr(cells, "_".join(name)) for name in (*product(("right", "wrong"), ("same", "other")),)}
        assert shares == pytest.approx({name: counts[name] / total for name in shares})
        assert sum(shares.values()) == pytest.approx(1)
        assert cells.agreement == pytest.approx((counts["right", "same"] + counts["wrong", "same"]) / total)
        assert cells.accuracy == pytest.approx(counts["correct"] / total)
        wrong = counts["wrong", "same"] + counts["wrong", "other"]
        assert cells.copied == pytest.approx(counts["wrong", "same"] / wrong)
        assert (cells.n, cells.n_wrong, cells.R) == (known.sum(), wrong / cells.R, len(study.grid.seeds))
        assert cells.teacher_accuracy == pytest.approx(1 - cells.n_wrong / cells.n)
        low, high = cells.copied_interval or (cells.copied,) * 2
        assert low <= cells.copied <= high
        base = found["gold", size]
        if variant != "gold":
            assert cells.copied_above_gold.difference == pytest.approx(cells.copied - base.copied)
        if size == 20:
            gain = cells.agreement - found[variant, 10].agreement
            assert cells.since.agreement.difference == pytest.approx(gain)
    assert "Copied errors." in dict(describe(results).more)
    forget_test_rows(study)
    before = measure(study)
    assert before.error_cells == []
    assert any("hf-recipes annotate" in note for note in before.notes)
    assert before.variants == results.variants
    assert open_runs(study).left() == []
    write_report(study, read_labels(study).training_pool, before)


@pytest.mark.parametrize("given", [None, np.zeros((3, 2), int)])
def test_without_raters_there_is_no_divergence_from_them(given):
    assert divergence(given, np.full((3, 2), 0.5)) == {"kl": None, "kl_interval": None, "kl_n": 0}


def test_the_divergence_from_the_raters_is_the_mean_over_texts_with_raters():
    raters, probs = (
        np.array([[3, 1], [0, 0], [2, 2], [0, 4]]),
        np.array([[0.5, 0.5], [0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]),
    )
    each = [entropy(raters[i] / 4, probs[i]) for i in (0, 2, 3)]
    found = divergence(raters, probs)
    assert found["kl"] == pytest.approx(np.mean(each))
    assert found["kl_n"] == 3
    assert found["kl_interval"][0] <= found["kl"] <= found["kl_interval"][1]
    assert without_nan(divergence(raters, np.eye(2)[[0, 0, 0, 0]]))["kl"] is None  # infinitely far


def test_a_size_beyond_the_gold_rows_is_refused_before_anything_is_launched(annotated):
    with pytest.raises(UserError, match="`grid.sizes` must be at most 107"):
        open_runs(annotated("--grid.sizes=[10, 117]", "--train.validation_size=10")).left()
    assert "more than a fifth of the 117" in open_runs(annotated("--grid.sizes=[10, 60]", folder="half")).notes[0]


def test_a_failed_run_is_a_row_with_its_traceback_and_the_others_go_on(annotated, monkeypatch, command):
    study = annotated(*FEW)

    def breaks(accelerator, model, tokenizer, settings, order_seed, texts, *arguments):
        if order_seed == 1 and texts.targets.argmax(1).tolist() == bad:
            raise IndexError("a bug of a test")
        return fine_tune(accelerator, model, tokenizer, settings, order_seed, texts, *arguments)

    run = the_run(study, "llm", 20, 1)
    bad = open_runs(study).labels(run).labels.tolist()
    monkeypatch.setattr("hf_recipes.training.train.fine_tune", breaks)
    assert train(study) == {run: "IndexError: a bug of a test"}
    record = read_json(study.run(run) / "failed.json")
    assert 'raise IndexError("a bug of a test")' in record["traceback"]
    assert open_runs(study).left() == [run]
    assert train(study) == {run: "IndexError: a bug of a test"}  # it is not tried again unasked
    monkeypatch.undo()
    assert open_runs(study).failures()
    open_runs(study).forget_failures()
    assert train(study) == {}
    good = predictions(study, run)
    assert other_runs(annotated("--grid.sizes=[20]", "--grid.variants=[gold, llm]", "--grid.seeds=[0, 2]")).startswith(
        "2 "
    )
    longer = study.recipe.model_copy(update={"train": study.training.model_copy(update={"epochs": 2})})
    changed = Study(longer, accept_changes=True)
    monkeypatch.setattr("hf_recipes.training.train.fine_tune", breaks)
    assert list(train(changed)) == [run]
    assert predictions(changed, run) == good  # what was there stays until the new run is whole
    with pytest.raises(UserError, match="a bug of a test.*remove their seeds, variants or sizes"):
        measure(changed)


def test_a_run_that_diverges_fails_with_what_to_do(annotated):
    study = annotated(*FEW, "--train.learning_rate=1e30", "--train.max_grad_norm=1e30")
    failures = train(study)
    assert len(failures) == len(all_runs(study.grid))
    assert all("Lower `train.learning_rate`" in error for error in failures.values())


def test_a_run_whose_last_epochs_diverge_fails_though_its_best_one_was_good(annotated, monkeypatch):
    from torch.nn import functional

    cross_entropy = functional.cross_entropy
    rest = []  # the steps of a run before its loss is not finite

    def start(*arguments):
        rest[:] = [True] * 4
        return fine_tune(*arguments)

    def breaks(*arguments, **options):
        return cross_entropy(*arguments, **options) * (1 if rest and rest.pop() else float("nan"))

    monkeypatch.setattr("hf_recipes.training.train.fine_tune", start)
    monkeypatch.setattr(functional, "cross_entropy", breaks)
    study = annotated(*FEW, "--train.epochs=3", "--train.checkpoint=best", "--train.validation_size=9")
    failures = train(study)
    assert len(failures) == len(all_runs(study.grid))
    assert all("Training diverged" in error for error in failures.values())


def test_accepted_changes_reach_the_processes_that_train(annotated, command):
    study = annotated(*FEW)
    train(study)
    settings = [f"--output_dir={study.root}", *SETTINGS, f"--train.encoder={study.training.encoder}", *FEW]
    code, _, errors = command("train", SMALL_RECIPE, *settings, "--train.learning_rate=1e-5")
    assert code == 2
    assert "differs in train.learning_rate" in errors
    child = launch(study, *FEW, "--train.learning_rate=1e-5")
    output, _ = child.communicate(timeout=300)
    assert child.returncode == 0, output
    assert read_json(study.run(the_run(study, "llm", 20, 1)) / "run.json")["train"]["learning_rate"] == 1e-5


def test_an_encoder_with_a_head_is_refused(annotated, tmp_path):
    shutil.copytree(ENCODER, tmp_path / "classifier")
    config = json.loads((ENCODER / "config.json").read_text())
    config["architectures"] = ["BertForSequenceClassification"]
    (tmp_path / "classifier" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="must have no classification head, as the seed draws it"):
        check_training(annotated(f"--train.encoder={tmp_path / 'classifier'}"))


@pytest.mark.parametrize(
    ("kind", "pad", "longest"), [("roberta", 1, 512), ("roberta", 3, 510), ("mpnet", 0, 512), ("bert", 0, 514)]
)
def test_the_longest_text_depends_on_where_positions_begin(kind, pad, longest, annotated, tmp_path):
    shutil.copytree(ENCODER, tmp_path / "encoder")
    config = {"model_type": kind, "pad_token_id": pad, "max_position_embeddings": 514}
    (tmp_path / "encoder" / "config.json").write_text(json.dumps(config))
    settings = f"--train.encoder={tmp_path / 'encoder'}", f"--train.max_length={longest}"
    check_training(annotated(*settings, folder="fits"))
    with pytest.raises(UserError, match=f"must be at most {longest}"):
        check_training(annotated(settings[0], f"--train.max_length={longest + 1}", folder="too-long"))


def test_an_encoder_without_a_padding_token_is_trained_to_the_same_predictions(annotated, tiny_encoder, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(tiny_encoder, bare)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
    (bare / "tokenizer_config.json").write_text(json.dumps(settings))
    content = json.loads((bare / "tokenizer.json").read_text())
    (bare / "tokenizer.json").write_text(json.dumps(content | {"padding": None}))
    assert load_tokenizer("train.encoder", Model("bare", bare, "x")).pad_token is None
    studies = [annotated(*FEW, f"--train.encoder={path}", folder=f"study-{path.name}") for path in (bare, tiny_encoder)]
    for study in studies:
        assert train(study) == {}
    run = the_run(studies[0], "gold", 20, 0)
    assert np.array(predictions(studies[0], run)) == pytest.approx(np.array(predictions(studies[1], run)))


def test_bfloat16_is_another_run_and_nearly_the_same_one(annotated, tmp_path):
    config = yaml.safe_load((SMALL_RECIPE.parent / "accelerate" / "cpu.yaml").read_text())
    (tmp_path / "bf16.yaml").write_text(yaml.safe_dump({**config, "mixed_precision": "bf16"}))
    half = annotated(*FEW, f"--train.accelerate_config={tmp_path / 'bf16.yaml'}", folder="half")
    child = launch(half, *FEW, f"--train.accelerate_config={tmp_path / 'bf16.yaml'}")
    output, _ = child.communicate(timeout=300)
    assert child.returncode == 0, output
    full = annotated(*FEW, folder="full")
    train(full)
    run = the_run(full, "gold", 20, 0)
    assert open_runs(full).key(run) != open_runs(half).key(run)
    assert predictions(half, run) != predictions(full, run)
    assert np.array(predictions(half, run)) == pytest.approx(np.array(predictions(full, run)), abs=0.05)


def test_deterministic_training_uses_no_other_kernels_and_has_a_key_of_its_own(annotated, monkeypatch):
    import torch

    states = []

    def record(*arguments):
        is_set = os.environ.get("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"
        states.append((torch.are_deterministic_algorithms_enabled(), is_set))
        return fine_tune(*arguments)

    monkeypatch.setattr("hf_recipes.training.train.fine_tune", record)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # restored at the end of the test
    plain = annotated(*FEW, folder="plain")
    train(plain)
    exact = annotated(*FEW, "--train.deterministic=true", folder="exact")
    train(exact)
    assert states == [(False, False)] * 4 + [(True, True)] * 4
    assert table(exact) == table(plain)  # on the CPU all kernels are deterministic
    run = the_run(exact, "gold", 20, 0)
    assert open_runs(exact).key(run) != open_runs(plain).key(run)
    assert open_runs(exact).left() == []
    train(annotated(*FEW, "--grid.seeds=[0, 1, 2]", folder="plain"))
    assert states[-1][0] is False  # the setting of an earlier study does not remain


def test_when_memory_runs_out_smaller_parts_give_the_same_path(annotated, monkeypatch, tiny_encoder, tmp_path):
    import torch

    calm = tmp_path / "calm"
    arguments = [*FEW, f"--train.encoder={calm}"]
    shutil.copytree(tiny_encoder, calm)
    config = json.loads((calm / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (calm / "config.json").write_text(json.dumps(config))
    whole = annotated(*arguments, folder="whole")
    train(whole)

    def too_big(tokenizer, tokens, rows, device):
        if len(rows) > 2 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate a test")
        return pad(tokenizer, tokens, rows, device)

    monkeypatch.setattr("hf_recipes.training.fine_tuning.pad", too_big)
    halved = annotated(*arguments, folder="halved")
    assert train(halved) == {}
    run = the_run(halved, "llm", 20, 1)
    assert [read_json(study.run(run) / "run.json")["micro_batch_size"] for study in (whole, halved)] == [8, 2]
    assert np.array(predictions(halved, run)) == pytest.approx(np.array(predictions(whole, run)), abs=1e-4)


def launch(study, *arguments, before=(), go_on=True):
    settings = [f"--output_dir={study.root}", "--accept-changes", *SETTINGS]
    settings += [f"--train.encoder={study.training.encoder}", *arguments, *(["--go-on"] if go_on else [])]
    return subprocess.Popen(
        [*before, sys.executable, "-m", "hf_recipes.cli", "train", str(SMALL_RECIPE), *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  a background job ignores it
    )


GRID = ["--grid.sizes=[40]", "--grid.variants=[gold, llm]", "--train.epochs=20"]
LONG = [*GRID, "--grid.sizes=[40, 50]", "--train.epochs=200"]


@pytest.fixture
def one_thread(monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # of this process and of the launches: they run side by side


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kills", "grid"), [(2, GRID), pytest.param(15, LONG, marks=pytest.mark.slow)])
def test_killed_at_random_moments_the_table_is_that_of_an_undisturbed_grid(kills, grid, annotated, one_thread):
    undisturbed = annotated(*grid, folder="undisturbed")
    train(undisturbed)
    whole = table(undisturbed)
    study = annotated(*grid)
    chance = random.Random(kills)
    times = {}
    for _ in range(kills):
        child = launch(study, *grid)
        while not list((study.root / "runs").glob("*/*/.*.lock")) and child.poll() is None:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 12 if kills > 2 else 4))
        with suppress(psutil.NoSuchProcess):
            for process in [*psutil.Process(child.pid).children(recursive=True), psutil.Process(child.pid)]:
                process.kill()
        child.wait()
        for record in study.run_records():
            assert times.setdefault(record, record.stat().st_mtime_ns) == record.stat().st_mtime_ns
    child = launch(study, *grid)
    output, _ = child.communicate(timeout=1800)
    assert child.returncode == 0, output
    assert table(study) == whole


def processes_of(study):
    """The ids of all processes that work in a study's folder, the command among them."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if f"--output_dir={study.root}" in process.cmdline():
                found.append(process.pid)
    return found


def wait_for_processes(study, count, child):
    while len(processes_of(study)) < count:
        assert child.poll() is None, child.communicate()[0]
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at a parent's death is Linux's")
@pytest.mark.parametrize(
    ("processes", "config"),  # the command and its launcher; these and a process that trains
    [
        (2, "cpu"),
        (3, "cpu-two"),
        pytest.param(2, "cpu-two", marks=pytest.mark.slow),
        pytest.param(3, "cpu", marks=pytest.mark.slow),
    ],
)
def test_a_killed_command_leaves_no_process_that_trains_on(processes, config, annotated, one_thread):
    long = [*FEW, "--train.epochs=400", f"--train.accelerate_config={config}"]
    study = annotated(*long)
    child = launch(study, *long)
    wait_for_processes(study, processes, child)
    child.kill()
    child.wait()
    end = time.monotonic() + 10
    while left := processes_of(study):
        assert time.monotonic() < end, [psutil.Process(pid).cmdline() for pid in left]
        time.sleep(0.1)
    assert not list(study.run_records())


def test_a_launcher_adds_no_line_to_the_errors_of_its_processes(tmp_path):
    # One write for each line, so that those of two processes do not mix.
    fail = "import os\nos.write(2, b'error: `train.epochs` must be higher.\\n')\nos._exit(1)\n"
    (tmp_path / "fail.py").write_text(fail)
    launcher = [sys.executable, "-m", "hf_recipes.child", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "HF_RECIPES_PARENT": str(os.getpid()), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*launcher, str(tmp_path / "fail.py")], check=False, capture_output=True, text=True, env=environment
    )
    assert ended.returncode == 1
    assert set(ended.stderr.splitlines()) == {"error: `train.epochs` must be higher."}


@pytest.mark.parametrize("late", [0, 5])  # while it imports its libraries; while it trains
def test_an_interrupt_of_the_process_that_trains_alone_ends_the_command(late, annotated, one_thread):
    long = [*FEW, "--train.epochs=400"]
    study = annotated(*long)
    child = launch(study, *long)
    wait_for_processes(study, 3, child)
    time.sleep(late + 0.3)
    os.kill(max(processes_of(study)), signal.SIGINT)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 130, output
    assert "Traceback" not in output
    assert output.strip().splitlines()[-1] == "Interrupted. Completed work is kept. Run again to continue."


def test_a_run_that_finds_no_memory_has_not_failed(annotated, monkeypatch):
    """The next command trains it, without --retry-failed."""

    def no_memory(*_):
        raise MemoryError("Cannot allocate memory")

    study = annotated(*FEW)
    with monkeypatch.context() as patch:
        patch.setattr("hf_recipes.training.train.fine_tune", no_memory)
        with pytest.raises(MemoryError):
            train(study)
    assert open_runs(study).failures() == {}
    assert train(study) == {}


@pytest.mark.parametrize("two", ["--train.accelerate_config=cpu-two", "--train.runs_per_device=2"])
def test_processes_are_counted_and_share_the_grid(two, annotated):
    """Two processes on the CPU; the number that started is checked."""
    study = annotated(*FEW, two)
    with pytest.raises(UserError, match="Got 2, but 1 started"):
        train(study)
    child = launch(study, *FEW, two)
    output, _ = child.communicate(timeout=300)
    assert child.returncode == 0, output
    assert open_runs(study).left() == []


BROKEN = """
import sys
from hf_recipes.training import train
fine_tune = train.fine_tune

def breaks(accelerator, model, tokenizer, settings, order_seed, *arguments):
    if order_seed == 0:
        raise IndexError("a bug of a test")
    return fine_tune(accelerator, model, tokenizer, settings, order_seed, *arguments)

train.fine_tune = breaks
train.main()
"""


def test_a_failed_run_in_one_of_several_processes_stops_no_other(annotated, one_thread, tmp_path):
    arguments = ["--grid.sizes=[20]", "--grid.variants=[gold, llm]", "--train.accelerate_config=cpu-two"]
    study = annotated(*arguments)
    (tmp_path / "broken.py").write_text(BROKEN)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launcher, tmp_path / "broken.py", study.recipe_file],
        check=False,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    failures = open_runs(study).failures()
    assert {run.order_seed for run in failures} == {0}
    assert open_runs(study).left() == list(failures)


def test_runs_are_tracked_by_variant(annotated):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    study = annotated(
        *("--train.trackers=[tensorboard]", "--train.epochs=2", "--grid.variants=[gold, llm]", "--grid.seeds=[0, 1]"),
        *("--grid.sizes=[20]", "--train.validation_size=10"),
    )
    train(study)
    for run in all_runs(study.grid):
        found = EventAccumulator(str(study.tracking / str(run) / study.recipe.name)).Reload()
        curves = read_json(study.run(run) / "run.json")["curves"]
        for name in ("train_loss", "validation_macro_f1"):
            logged = found.Scalars(name)
            assert [one.step for one in logged] == curves["step"]
            assert [one.value for one in logged] == pytest.approx(curves[name])


@pytest.mark.parametrize("many", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_number_of_runs(many, annotated):
    import gc

    used = []
    for runs in (4, many):
        study = annotated(
            *(
                "--grid.variants=[gold, llm]",
                "--grid.sizes=[4]",
                f"--grid.seeds={list(range(runs // 2))}",
                "--data.test_size=5",
            ),
            folder=str(runs),
        )
        train(study)
        gc.collect()
        used.append(psutil.Process().memory_info().rss)
    assert used[1] - used[0] < 60e6  # eight classifiers with their optimisers are 96 MB


def test_training_stops_if_the_first_gold_runs_learn_nothing(annotated, one_thread):
    study = annotated(*FEW, "--grid.sizes=[10, 20]")
    probes = find_probes(study.grid)
    assert list(map(str, probes)) == ["gold/n20/0", "gold/n20/1"]
    assert all_runs(study.grid)[:2] == probes
    with pytest.raises(UserError, match="first 2 runs on 20 gold labels agree with gold no more than by chance"):
        train(study, go_on=False)
    assert len(open_runs(study).left()) == len(all_runs(study.grid)) - 2
    for run in probes:
        shutil.rmtree(study.run(run))
    two = "--train.accelerate_config=cpu-two"
    child = launch(study, *FEW, "--grid.sizes=[10, 20]", two, go_on=False)
    output, _ = child.communicate(timeout=300)
    assert (child.returncode, "Raise `train.learning_rate` (now 0.0002" in output) == (2, True), output
    study = annotated(*FEW, "--grid.sizes=[10, 20]", two)
    assert not {*probes} & {*open_runs(study).left()}
    assert len(open_runs(study).left()) >= len(all_runs(study.grid)) - 3  # one may have started before the stop


def test_training_goes_on_if_the_first_gold_runs_learnt(annotated, monkeypatch):
    study = annotated(*FEW)

    def know(accelerator, model, tokenizer, tokens, rows, batch_size):
        gold = load_rows(study)[1].gold
        return (
            np.eye(3)[gold]
            if len(rows) == len(gold)
            else predict(accelerator, model, tokenizer, tokens, rows, batch_size)
        )

    monkeypatch.setattr("hf_recipes.training.train.predict", know)
    assert train(study, go_on=False) == {}
    assert open_runs(study).left() == []


@pytest.mark.parametrize(
    ("settings", "warning"),
    [
        # The rate of large encoders, with MiniLM: a user's whole grid learnt nothing.
        (["--grid.sizes=[60, 200]", "--train.learning_rate=2e-5"], "75 optimiser steps at a rate of 2e-05"),
        (["--grid.sizes=[60, 200]", "--train.learning_rate=2e-4"], None),  # docs/study
        (["--grid.sizes=[50]", "--train.learning_rate=2e-4"], "Try `train.learning_rate` 2.4e-04"),
        (["--grid.sizes=[2000]", "--train.learning_rate=2e-5", "--train.batch_size=16"], None),  # roberta-base
    ],
)
def test_few_optimiser_steps_for_the_rate_are_a_warning(settings, warning, make_study):
    study = make_study(*settings, "--train.epochs=3")
    found = describe_few_steps(study.grid, study.training)
    assert found is None if warning is None else warning in found


def test_plan_warns_of_few_optimiser_steps(annotated):
    assert any("classifiers may learn nothing" in note for note in make_plan(annotated(*FEW))[1])
