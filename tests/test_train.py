"""Training: a run is a function of its key, whatever ran before it; batches hold every text once."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_recipes.arms import Pool
from hf_recipes.data import load_rows
from hf_recipes.grid import Run
from hf_recipes.recipe import UserError
from hf_recipes.study import read_json
from hf_recipes.train import Work, bucketed_batches, runs_left, train


@given(st.lists(st.integers(1, 60), min_size=1, max_size=300), st.integers(1, 20), st.integers(0, 3))
def test_every_text_comes_once_an_epoch_in_batches_of_like_lengths(lengths, batch_size, seed):
    lengths = np.array(lengths)
    batches = list(bucketed_batches(lengths, batch_size, np.random.default_rng(seed)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    if len(lengths) <= 32 * batch_size:  # one megabatch: padding cannot be less
        assert sum(np.ptp(lengths[b]) for b in batches) <= np.ptp(lengths)
    again = list(bucketed_batches(lengths, batch_size, np.random.default_rng(seed)))
    assert all((one == other).all() for one, other in zip(batches, again, strict=True))


SETTINGS = ["--data.pool_size=60", "--data.test_size=30", "--grid.sizes=[10, 20]", "--train.epochs=1"]


@pytest.fixture
def annotated(make_study, monkeypatch):
    """Studies whose annotations are made up: the engine has tests of its own, with the real one, end to end."""

    def fake(study):
        rows, _ = load_rows(study)
        rng = np.random.default_rng(0)
        probs = rng.dirichlet(np.ones(3), len(rows))
        votes = probs.argmax(axis=1)[:, None]
        return Pool(rows.ids, rows.texts, rows.label_names, rows.gold, probs, np.ones(len(rows)), votes, [], 0)

    def make(*overrides, folder="study"):
        study = make_study(*SETTINGS, *overrides, folder=folder)
        monkeypatch.setattr("hf_recipes.train.load_annotations", lambda study, rows: study)
        monkeypatch.setattr("hf_recipes.train.build_pool", lambda rows, study: fake(study))
        return study

    return make


def predictions(study, arm, size, seed):
    return pq.read_table(study.run(arm, size, seed) / "predictions.parquet")["probs"].to_pylist()


def test_the_same_key_gives_the_same_bits_whatever_ran_before(annotated):
    alone = annotated("--grid.arms=[gold, llm]", "--grid.seeds=[1, 0]", "--grid.sizes=[20]", folder="alone")
    train(alone)
    grid = annotated("--grid.seeds=[0, 1]", folder="grid")
    train(grid)
    for arm in ("gold", "llm"):
        for seed in (0, 1):
            assert predictions(alone, arm, 20, seed) == predictions(grid, arm, 20, seed)
            keys = [read_json(study.run(arm, 20, seed) / "run.json")["key"] for study in (alone, grid)]
            assert keys[0] == keys[1]
    assert predictions(grid, "llm", 20, 0) != predictions(grid, "llm", 20, 1)
    assert predictions(grid, "llm", 20, 0) != predictions(grid, "gold", 20, 0)
    records = {arm: read_json(grid.run(arm, 20, 0) / "run.json") for arm in grid.recipe.grid.arms}
    assert {arm: record["gold_train_labels"] for arm, record in records.items()} == {
        "gold": 20,
        "llm": 0,
        "llm-entropy-replace": 5,
        "llm-random-replace": 5,
    }
    assert records["gold"]["train_label_accuracy"] == 1
    assert runs_left(grid) == []


def test_every_ingredient_of_a_run_is_in_its_key(annotated, monkeypatch):
    run = Run("llm", 10, 0)
    base = Work(annotated()).key(run)
    assert (
        Work(annotated("--name=other", "--grid.seeds=[0, 9]", "--grid.sizes=[10, 15]", folder="same")).key(run) == base
    )
    changes = {
        "epochs": "--train.epochs=2",
        "rate": "--train.learning_rate=1e-5",
        "batch": "--train.batch_size=4",
        "length": "--train.max_length=32",
        "decay": "--train.weight_decay=0.1",
        "warm-up": "--train.warmup_ratio=0.2",
        "clipping": "--train.max_grad_norm=2",
        "test rows": "--data.test_size=29",
        "rows": "--data.seed=3",
        "encoder": "--train.encoder=models/SmolLM2-135M-Instruct",
    }
    keys = {name: Work(annotated(change, folder=name)).key(run) for name, change in changes.items()}
    keys["seed"] = Work(annotated()).key(Run("llm", 10, 1))
    keys["size"] = Work(annotated()).key(Run("llm", 20, 0))
    keys["arm"] = Work(annotated()).key(Run("gold", 10, 0))
    study = annotated()
    monkeypatch.setattr("hf_recipes.train.cpu_threads", lambda: 99)
    keys["threads"] = Work(study).key(run)
    monkeypatch.setattr("hf_recipes.train.versions", lambda *names: {"torch": "0"})
    keys["versions"] = Work(study).key(run)
    assert len({base, *keys.values()}) == len(keys) + 1


def test_a_size_beyond_the_gold_rows_is_refused_before_anything_is_launched(annotated):
    with pytest.raises(UserError, match="grid.sizes: 70 asked for, but only 60 rows"):
        runs_left(annotated("--grid.sizes=[10, 70]"))
    assert "more than half of the 60" in Work(annotated("--grid.sizes=[10, 40]")).notes[0]


def test_a_run_that_diverges_stops_with_its_name(annotated):
    study = annotated("--train.learning_rate=1e30", "--train.max_grad_norm=1e30", "--grid.sizes=[20]")
    with pytest.raises(UserError, match=r"gold/n20/0 diverged .* lower train.learning_rate"):
        train(study)
    assert not study.run("gold", 20, 0).exists()
