"""A pilot, and what it says of the whole study."""

import re
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
from scipy import stats
from steps import measure

from hf_recipes.advise import HEADS_ERROR, _advice, chances, pilot_settings, print_advice
from hf_recipes.analysis.schema import Comparison, ErrorVariance
from hf_recipes.annotation.annotate import annotate
from hf_recipes.annotation.few_shot import draw_examples
from hf_recipes.data import open_rows
from hf_recipes.errors import UserError
from hf_recipes.plan import make_plan
from hf_recipes.training.linear import train_baselines


@pytest.mark.parametrize(("value", "limit"), [(0.0, 0.02), (0.03, 0.02), (0.02, 0.02)])
@pytest.mark.parametrize(("runs", "parts"), [(16, (0.01, 0.02)), (3, (0.005, 0.001)), (5, (0.009, 0.0))])
def test_chances_are_those_of_simulated_studies(value, limit, runs, parts):
    """With the t interval of studies, few seeds among them."""
    over_runs, over_items = np.square(parts)
    variance = {"runs": over_runs, "items": over_items, "both": 0.0, "run_freedom": 3.0, "item_freedom": 199.0}
    pilot = Comparison.model_construct(variance=ErrorVariance(**variance), R=4, n=200)
    found = chances(pilot, value, limit, runs=runs, items=3200)
    rng = np.random.default_rng(0)
    per_run = rng.normal(0, parts[0] * 4**0.5, (20_000, runs))
    item_se = parts[1] * (200 / 3200) ** 0.5
    estimates = value + per_run.mean(axis=1) + rng.normal(0, item_se, 20_000)
    over_runs = per_run.var(axis=1, ddof=1) / runs
    degrees = 1 / (over_runs / (runs - 1) / (over_runs + item_se**2) + 1 / 3199)
    error = np.sqrt(over_runs + item_se**2)
    holds = estimates + stats.t.ppf(0.975, degrees) * error < limit
    fails = estimates - stats.t.ppf(1 - 0.025 / 3, degrees) * error > limit
    assert holds.mean() == pytest.approx(found["holds"], abs=0.03)
    assert fails.mean() == pytest.approx(found["fails"], abs=0.03)
    assert np.std(estimates) == pytest.approx(found["se"], rel=0.03)


@pytest.mark.parametrize(("error", "width"), [(0.02, 1.0), (0.1, 1.0), (0.04, 2.0)])
def test_the_error_of_a_prediction_is_in_the_chances(error, width):
    """As the mean over draws of what the truth may be, with variances that are as wide."""
    parts, freedom = {"runs": 1e-4, "items": 2e-4, "both": 0.0}, {"run_freedom": 9.0, "item_freedom": 499.0}
    pilot = Comparison.model_construct(variance=ErrorVariance(**parts, **freedom), R=10, n=500)
    found = chances(pilot, 0.06, 0.05, runs=10, items=1000, error=error, width=width)
    wider = ErrorVariance(**{name: width**2 * part for name, part in parts.items()}, **freedom)
    wide = Comparison.model_construct(variance=wider, R=10, n=500)
    truths = np.random.default_rng(0).normal(0.06, error, 2000)
    drawn = [chances(wide, truth, 0.05, runs=10, items=1000) for truth in truths]
    assert found["se"] == pytest.approx(drawn[0]["se"])
    for status in ("holds", "fails"):
        assert found[status] == pytest.approx(np.mean([draw[status] for draw in drawn]), abs=0.04)
    assert found["holds"] + found["fails"] < 1


def test_a_pilot_trains_heads_in_another_folder_and_predicts_with_their_error(
    make_study, engine, tiny_encoder, tmp_path
):
    overrides = [
        *("--data.pool_size=420", "--data.test_size=40", "--annotate.prompt.shots_per_class=1"),
        "--grid.sizes=[20, 50]",
        *("--grid.seeds=[0, 1, 2, 3, 4, 5]", "--train.epochs=1", f"--train.encoder={tiny_encoder}"),
        "--annotate.passes=[{prompt: {seed: 5}}]",
    ]
    study = make_study(*overrides)
    pilot = make_study(*overrides, *pilot_settings(study))
    assert pilot.root == tmp_path / "study-pilot"
    assert (pilot.grid.sizes, pilot.grid.seeds, pilot.grid.variants) == ([50], [0, 1, 2, 3, 4, 5], ["gold", "llm"])
    assert pilot.recipe.data.pool_size == 2 * 50 + 3 + 50
    assert pilot.training.encoder_mode == "frozen"
    annotate(pilot)
    train_baselines(pilot)
    assert not (pilot.root / "runs").exists()
    results = measure(pilot)
    with redirect_stdout(StringIO()) as output:
        print_advice(study, pilot, results)
    output = " ".join(output.getvalue().split())
    assert re.search(r"at the pilot's rate, training \d+ by the models' sizes, not measured\.", output)
    assert not study.root.exists()

    def advise(study, is_learnt):
        learnt = [result.model_copy(update={"above_chance": is_learnt}) for result in results.variants]
        changed = results.model_copy(update={"variants": learnt})
        return " ".join(_advice(study, open_rows(study), changed, make_plan(study, pilot)[0]))

    assert "unknown: at 50 training texts linear heads on frozen features on gold and llm" in advise(study, False)
    output = advise(study, True)
    assert "by the pilot's linear heads on frozen features (6 seeds, 40 test texts, 50 training texts)" in output
    assert output.count("the study shows in") == 2
    assert all(f" ± {error:g}, it shows in" in output for error in HEADS_ERROR.values())
    # Where the study has heads too, nothing is predicted across methods.
    output = advise(make_study(*overrides, "--train.encoder_mode=frozen", folder="heads"), True)
    assert output.count("the study shows in") == 2
    assert "±" not in output
    with pytest.raises(UserError, match="must have at least 3 seeds"):
        pilot_settings(make_study(*overrides, "--grid.seeds=[0, 1]", folder="two"))


def test_a_pilot_has_the_examples_of_a_rare_class(make_study, tmp_path):
    """Of 2,000 texts 20 are of the class: a pool of 150 has one or two of them, and the prompt shows four."""
    lines = [f"text number {i},{'rare' if i % 100 == 0 else 'common' if i % 2 else 'usual'}" for i in range(2000)]
    (tmp_path / "rows.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    overrides = [
        *(f"--data.path={tmp_path / 'rows.csv'}", "--data.label_names=[common, usual, rare]", "--data.test_size=100"),
        *("--data.pool_size=1500", "--grid.sizes=[20, 50]", "--grid.seeds=[0, 1, 2]"),
        "--annotate.prompt.shots_per_class=4",
    ]
    study = make_study(*overrides)
    pilot = make_study(*overrides, *pilot_settings(study))
    rows, examples = open_rows(pilot), draw_examples(open_rows(pilot), pilot.recipe.annotate.prompt)
    assert sorted(examples.gold) == [0] * 4 + [1] * 4 + [2] * 4
    assert int((rows.column("gold").to_numpy() == 2).sum()) == 4  # no larger than necessary
