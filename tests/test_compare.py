"""Several studies in one table: what stands in it is what their results say."""

import json
import re

import pytest
from test_report import made

from hf_recipes.errors import UserError
from hf_recipes.report.compare import compare
from hf_recipes.report.first_screen.numbers import interval, number


@pytest.fixture
def folders(tmp_path):
    paths = []
    for name, cost in (("tweets", -0.2), ("a|b <script>", -0.01)):
        results = made(cost=cost, cost_interval=(cost - 0.05, cost + 0.05), name="x").model_copy(update={"study": name})
        folder = tmp_path / f"study{len(paths)}" / "report"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(results.model_dump_json())
        paths.append(folder.parent)
    return paths


def test_every_study_has_its_row_and_every_pair_its_difference(folders, tmp_path, command):
    code, output, _ = command("compare", *folders, "--output_dir", tmp_path / "out")
    assert code == 0
    assert "comparison.md" in output
    text = (tmp_path / "out" / "comparison.md").read_text()
    for cost in (-0.2, -0.01):
        assert f"{number(cost)} {interval([cost - 0.05, cost + 0.05])}" in text
    rows = [line for line in text.splitlines() if line.startswith("| llm | gold |")]
    assert len(rows) == 2
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 8 for line in rows)  # a name that holds a bar is escaped
    assert "<script" not in text
    assert all((tmp_path / "out" / f"{name}.png").stat().st_size > 5000 for name in ("comparison", "curves"))
    assert [results.top for results in compare(folders, tmp_path / "again")] == [20, 20]


def test_studies_that_learnt_nothing_are_named_first_without_differences_from_them(folders, tmp_path):
    file = folders[1] / "report" / "results.json"
    content = json.loads(file.read_text())
    for result in content["variants"]:
        result["above_chance"] = result["variant"] not in ("gold", "llm-random-replace")
    file.write_text(json.dumps(content))
    compare(folders, tmp_path / "out")
    text = (tmp_path / "out" / "comparison.md").read_text()
    note = "classifiers with gold and llm-random-replace are not better than chance."
    assert text.index(note) < text.index("comparison.png")
    assert text.count("**Not learnt.**") == 1
    for pair in ("| llm | gold |", "| llm-entropy-replace | llm-random-replace |"):
        assert sum(line.startswith(pair) for line in text.splitlines()) == 1  # of the other study


def test_a_study_that_does_not_compare_llm_with_gold_is_refused(folders, tmp_path):
    file = folders[0] / "report" / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"comparisons": []}))
    with pytest.raises(UserError, match="must compare llm with gold"):
        compare(folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_compared_is_said(folders, tmp_path):
    with pytest.raises(UserError, match="Two studies are named tweets"):
        compare([folders[0], folders[0]], tmp_path / "out")
    with pytest.raises(UserError, match="report/results.json is missing"):
        compare([tmp_path / "nothing"], tmp_path / "out")
    old = json.loads((folders[0] / "report" / "results.json").read_text())
    del old["error_cells"]
    (folders[0] / "report" / "results.json").write_text(json.dumps(old))
    with pytest.raises(UserError, match="must be results of this version"):
        compare(folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"gold_train_labels": []},
        {"gold_train_labels": [10**400]},
        {"size": 10**400},
        {"size": 0},
        {"variant": r"$\bad$"},
    ],
)
def test_results_that_nobody_could_show_are_refused(change, folders, tmp_path):
    file = folders[0] / "report" / "results.json"
    content = json.loads(file.read_text())
    content["variants"][0] |= change
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="must be results of this version"):
        compare(folders, tmp_path / "out")


def test_a_field_of_a_later_version_is_left_out(folders, tmp_path):
    file = folders[0] / "report" / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"later": 1}))
    assert len(compare(folders, tmp_path / "out")) == 2
