"""A pilot, and what it says of the whole study."""

import numpy as np
import pytest
from test_annotate import engine  # noqa: F401  (a fixture)

from hf_recipes.advise import chances, pilot_settings, print_advice
from hf_recipes.annotate import annotate
from hf_recipes.train import train


@pytest.mark.parametrize(("value", "limit"), [(0.0, 0.02), (0.03, 0.02), (0.02, 0.02)])
def test_chances_are_those_of_simulated_studies(value, limit):
    pilot = {"seed_se": 0.01, "item_se": 0.02, "R": 4, "n": 200}
    found = chances(pilot, value, limit, runs=16, items=3200)
    rng = np.random.default_rng(0)
    runs = rng.normal(0, 0.01 * 4**0.5, (20_000, 16)).mean(axis=1)
    texts = rng.normal(0, 0.02 * (200 / 3200) ** 0.5, 20_000)
    estimates, se = value + runs + texts, found["se"]
    assert (estimates + 1.96 * se < limit).mean() == pytest.approx(found["holds"], abs=0.015)
    assert (estimates - 1.96 * se > limit).mean() == pytest.approx(found["fails"], abs=0.015)
    assert np.std(estimates) == pytest.approx(se, rel=0.03)


def test_a_pilot_is_small_has_a_folder_of_its_own_and_speaks(make_study, engine, tiny_encoder, capsys, tmp_path):  # noqa: F811
    overrides = [
        *(
            "--data.pool_size=200",
            "--data.test_size=40",
            "--annotate.prompt.shots_per_class=1",
            "--grid.sizes=[20, 80]",
        ),
        *("--grid.seeds=[0, 1, 2, 3, 4, 5]", "--train.epochs=1", f"--train.encoder={tiny_encoder}"),
        "--annotate.passes=[{prompt: {seed: 5}}]",
    ]
    study = make_study(*overrides)
    pilot = make_study(*overrides, *pilot_settings(study))
    assert pilot.root == tmp_path / "study-pilot"
    assert (pilot.grid.sizes, pilot.grid.seeds, pilot.grid.arms) == ([10, 20], [0, 1, 2, 3], ["gold", "llm"])
    assert pilot.recipe.data.pool_size == 2 * 20 + 3 + 50
    annotate(pilot)
    assert train(pilot) == {}
    print_advice(study, pilot)
    said = " ".join(capsys.readouterr().out.split())
    assert "The whole study: about" in said
    assert "with R = 6 and 40 test texts, by the pilot's standard errors (R = 4, n = 40, 20 training texts)" in said
    assert said.count("to show that the limit holds") == 2
    assert not study.root.exists()
