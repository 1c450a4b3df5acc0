"""The examples as a user runs them, on a study whose labels are made up."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from steps import measure, write_dataset

from hf_recipes.annotation.annotate import annotate
from hf_recipes.study import read_json
from hf_recipes.training.grid import all_runs
from hf_recipes.training.train import train

EXAMPLES = ROOT / "hf_recipes" / "examples"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def call(*arguments, launcher=()):
    done = subprocess.run(
        [sys.executable, *launcher, *map(str, arguments)],
        check=False,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def study(make_study, engine, tiny_encoder):
    made = make_study(
        *("--data.pool_size=120", "--data.test_size=41", "--annotate.prompt.shots_per_class=1", "--grid.sizes=[20]"),
        *("--grid.seeds=[0, 1]", "--grid.variants=[gold, llm]", "--train.epochs=1", f"--train.encoder={tiny_encoder}"),
    )
    annotate(made)
    write_dataset(made)
    return made


def test_minimal_is_short_and_scores_every_test_text_once_on_one_process_and_on_two(study, tiny_encoder):
    script = EXAMPLES / "minimal.py"
    assert len(script.read_text().splitlines()) < 80
    arguments = [script, study.dataset, "gold", tiny_encoder, "--size=40", "--epochs=2", "--batch_size=8", "--cpu"]
    for launcher in ((), TORCHRUN):
        lines = re.findall(r"epoch (\d): macro-F1 ([\d.]+), n = (\d+)", call(*arguments, launcher=launcher))
        assert [(epoch, n) for epoch, _, n in lines] == [("0", "41"), ("1", "41")]


def test_two_processes_take_the_path_of_one(study, tiny_encoder):
    arguments = [
        EXAMPLES / "by_feature" / "ddp.py",
        study.dataset,
        "gold",
        tiny_encoder,
        "--size=40",
        "--batch_size=8",
        "--cpu",
    ]
    found = [call(*arguments, launcher=launcher) for launcher in ((), TORCHRUN)]
    assert [re.search(r"(\d) processes", text)[1] for text in found] == ["1", "2"]
    ends = [
        tuple(map(float, re.search(r"last loss ([\d.]+), norm of the weights ([\d.]+)", text).groups()))
        for text in found
    ]
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)


def test_soft_labels_learn_the_distribution(study, tiny_encoder):
    arguments = [EXAMPLES / "by_feature" / "soft_labels.py", study.dataset, tiny_encoder, "--size=60", "--epochs=4"]
    losses = [float(loss) for loss in re.findall(r"distribution ([\d.]+) nats", call(*arguments))]
    assert len(losses) == 4
    assert losses[-1] < losses[0]


def test_multiple_seeds_needs_runs_and_the_root_of_the_repository(tmp_path, monkeypatch):
    script = EXAMPLES / "by_feature" / "multiple_seeds.py"

    def fail(*arguments):
        done = subprocess.run([sys.executable, script, *arguments], check=False, capture_output=True, text=True)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        return done.stderr

    assert "must have two or more runs. Got 0" in fail(tmp_path, "llm", "20")
    for seed in "01":
        (tmp_path / "runs" / "llm" / "n20" / seed).mkdir(parents=True)
        (tmp_path / "runs" / "llm" / "n20" / seed / "predictions.parquet").touch()
    monkeypatch.chdir(tmp_path)
    assert "Got metrics/seed_instability. Try it in the root of the repository" in fail(tmp_path, "llm", "20")


def test_the_examples_on_finished_runs_agree_with_the_study(study, tmp_path):
    train(study)
    results = measure(study)
    (variant,) = [one for one in results.variants if one.variant == "llm"]
    said = call(EXAMPLES / "by_feature" / "multiple_seeds.py", study.root, "llm", 20)
    assert f"disagree on {variant.pairwise_disagreement:.3f}" in said
    assert "of R = 2 runs" in said
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    call(EXAMPLES / "by_feature" / "tracking.py", study.root, "--logging_dir", tmp_path / "logs")
    for run in all_runs(study.grid):
        events = EventAccumulator(str(tmp_path / "logs" / str(run) / "study")).Reload()
        curves = read_json(study.run(run) / "run.json")["curves"]
        assert [one.value for one in events.Scalars("train_loss")] == pytest.approx(curves["train_loss"])
