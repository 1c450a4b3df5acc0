"""A pilot, and what it says of the whole study."""

from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
from scipy import stats
from steps import measure

from hf_recipes.advise import _advice, chances, pilot_settings, print_advice
from hf_recipes.analysis.schema import Comparison, ErrorVariance
from hf_recipes.annotation.annotate import annotate
from hf_recipes.annotation.few_shot import draw_examples
from hf_recipes.data import open_rows
from hf_recipes.errors import UserError
from hf_recipes.plan import make_plan
from hf_recipes.training.train import train


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


def test_a_pilot_is_small_has_a_folder_of_its_own_and_speaks(make_study, engine, tiny_encoder, tmp_path):
    overrides = [
        *("--data.pool_size=420", "--data.test_size=40", "--annotate.prompt.shots_per_class=1"),
        "--grid.sizes=[50, 200]",
        *("--grid.seeds=[0, 1, 2, 3, 4, 5]", "--train.epochs=1", f"--train.encoder={tiny_encoder}"),
        "--annotate.passes=[{prompt: {seed: 5}}]",
    ]
    study = make_study(*overrides)
    pilot = make_study(*overrides, *pilot_settings(study))
    assert pilot.root == tmp_path / "study-pilot"
    assert (pilot.grid.sizes, pilot.grid.seeds, pilot.grid.variants) == ([25, 50], [0, 1, 2, 3], ["gold", "llm"])
    assert pilot.recipe.data.pool_size == 2 * 50 + 3 + 50
    annotate(pilot)
    assert train(pilot) == {}
    with redirect_stdout(StringIO()) as output:
        print_advice(study, pilot, measure(pilot))
    said = " ".join(output.getvalue().split())
    assert "The remaining work takes about" in said
    assert "Its chances are unknown: at 50 training texts classifiers on gold and llm labels are not better" in said
    results = measure(pilot)
    learnt = [result.model_copy(update={"above_chance": True}) for result in results.variants]
    results = results.model_copy(update={"variants": learnt})
    said = " ".join(_advice(study, open_rows(study), results, make_plan(study, pilot)[0]))
    assert (
        "with 6 seeds and 40 test texts, by the pilot's standard errors (4 seeds, 40 test texts, 50 training texts)"
        in said
    )
    assert said.count("the study shows in") == 2
    assert not study.root.exists()
    with pytest.raises(UserError, match="must have at least 3 seeds"):
        pilot_settings(make_study(*overrides, "--grid.seeds=[0, 1]", folder="two"))
    with pytest.raises(UserError, match="must end with 200 or more.* Got 199. The study is too small for a pilot"):
        pilot_settings(make_study(*overrides, "--grid.sizes=[50, 199]", folder="small"))


def test_a_pilot_has_the_examples_of_a_rare_class(make_study, tmp_path):
    """Of 2,000 texts 20 are of the class: a pool of 150 has one or two of them, and the prompt shows four."""
    lines = [f"text number {i},{'rare' if i % 100 == 0 else 'common' if i % 2 else 'usual'}" for i in range(2000)]
    (tmp_path / "rows.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    overrides = [
        *(f"--data.path={tmp_path / 'rows.csv'}", "--data.label_names=[common, usual, rare]", "--data.test_size=100"),
        *("--data.pool_size=1500", "--grid.sizes=[50, 200]", "--grid.seeds=[0, 1, 2]"),
        "--annotate.prompt.shots_per_class=4",
    ]
    study = make_study(*overrides)
    pilot = make_study(*overrides, *pilot_settings(study))
    rows, examples = open_rows(pilot), draw_examples(open_rows(pilot), pilot.recipe.annotate.prompt)
    assert sorted(examples.gold) == [0] * 4 + [1] * 4 + [2] * 4
    assert int((rows.column("gold").to_numpy() == 2).sum()) == 4  # no larger than necessary
