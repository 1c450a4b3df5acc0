"""Several studies in one table: what stands in it is what their results say."""

import json
import re

import pytest
from test_report import make_results

from hf_recipes.compare import compare
from hf_recipes.findings import interval, number
from hf_recipes.recipe import UserError


@pytest.fixture
def folders(tmp_path):
    made = []
    for name, cost in (("tweets", -0.2), ("a|b <script>", -0.01)):
        results = make_results(cost=cost, cost_interval=(cost - 0.05, cost + 0.05), name="x") | {"study": name}
        folder = tmp_path / f"study{len(made)}" / "report"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(results))
        made.append(folder.parent)
    return made


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
    rows = compare(folders, tmp_path / "again")
    assert [row["size"] for row in rows] == [20, 20]


def test_a_study_whose_arms_were_not_compared_has_a_row_and_no_point(folders, tmp_path):
    file = folders[0] / "report" / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"comparisons": []}))
    assert [list(row["pairs"]) != [] for row in compare(folders, tmp_path / "out")] == [False, True]
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 5000


def test_what_cannot_be_compared_is_said(folders, tmp_path):
    with pytest.raises(UserError, match="Two studies are named tweets"):
        compare([folders[0], folders[0]], tmp_path / "out")
    with pytest.raises(UserError, match="report/results.json is missing"):
        compare([tmp_path / "nothing"], tmp_path / "out")
    old = json.loads((folders[0] / "report" / "results.json").read_text())
    del old["error_cells"]
    (folders[0] / "report" / "results.json").write_text(json.dumps(old))
    with pytest.raises(UserError, match="damaged or of another version"):
        compare(folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()
