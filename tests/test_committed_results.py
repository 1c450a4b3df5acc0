"""Every results.json in the repository renders with this version."""

import itertools
import json
import re
import runpy
import shutil
import sys
from collections import Counter
from html import unescape

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT

from hf_recipes.advise import HEADS_ERROR, HEADS_WIDTH
from hf_recipes.analysis.schema import read_results
from hf_recipes.errors import UserError
from hf_recipes.labels.pool import read_labels
from hf_recipes.recipe import load_recipe
from hf_recipes.report.compare import compare
from hf_recipes.report.findings import OF_HEADS
from hf_recipes.report.first_screen import describe_headline
from hf_recipes.report.label_quality import write_labels
from hf_recipes.report.page import make_report, render_html
from hf_recipes.report.render import cell, render
from hf_recipes.study import Study

BY_BOTH = sorted(file.parts[-3] for file in ROOT.glob("docs/study/*/report/results.json"))
FILES = sorted([*ROOT.glob("docs/study/*/*/results.json"), *ROOT.glob("spaces_app/sample/*/*/results.json")])


def test_there_are_results_of_each_study():
    """Each study by both methods is in the comparison of heads with fine-tuned encoders."""
    assert sorted(runpy.run_path(str(ROOT / "benchmarks" / "heads_vs_fine_tuning.py"))["NAMES"]) == BY_BOTH
    folders = Counter(file.parent.name for file in FILES if file.is_relative_to(ROOT / "docs"))
    # Heads with a hundred seeds: of three small studies and six large ones.
    others = {"heads-100": 9, "heads-contextual": 1, "sources": 1}
    assert folders == {"report": len(BY_BOTH), "heads": len(BY_BOTH), **others}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.parent.relative_to(ROOT)))
def test_committed_results_render_with_their_verdict(file):
    results = read_results(file.read_bytes())
    headline = describe_headline(results)
    report = make_report(results, "Methods.")
    page = render("report.md", report=report, texts=[])
    assert f"**{cell(headline.decision)}.** {cell(headline.sentence)}" in page
    html = unescape(render_html(report, results, [], "key"))
    assert headline.decision in html
    assert headline.sentence in html
    assert (OF_HEADS in report.limits) == (results.method == "frozen")
    limits = {criterion.name: criterion.limit for criterion in results.verdict.criteria}
    assert results.verdict.at(limits) == results.verdict
    assert results.verdict.at(limits | {"macro_f1_loss": 1.0}).criteria[0].status == "holds"


def test_the_headline_of_the_tweets_names_the_class_that_the_llm_never_gives():
    headline = describe_headline(read_results((ROOT / "docs/study/tweets/report/results.json").read_bytes()))
    assert headline.decision == "Do not train on these labels"
    assert headline.sentence.startswith(
        "Classifiers trained on them lose 19 points of macro-F1 (0.63 → 0.44). 58% of that loss is one class, "
        "'neutral': the LLM calls 1% of the texts 'neutral', people 21%."
    )


@pytest.mark.parametrize("study", BY_BOTH)
def test_heads_have_the_labels_and_training_texts_of_fine_tuned_encoders(study):
    tuned, heads = (
        read_results((ROOT / "docs/study" / study / folder / "results.json").read_bytes())
        for folder in ("report", "heads")
    )
    for field in ("model", "n", "n_gold", "accuracy", "macro_f1", "llm_share", "recall", "status"):
        assert getattr(tuned.annotator, field) == getattr(heads.annotator, field), field
    assert (tuned.method, heads.method) == ("finetune", "frozen")
    assert (tuned.seeds, tuned.n) == (heads.seeds, heads.n)
    by_place = {(result.variant, result.size): result for result in heads.variants}
    assert len(by_place) >= len(tuned.variants)  # heads have a quarter of the size too
    for result in tuned.variants:  # the share of right training labels in each run
        assert by_place[result.variant, result.size].train_label_accuracy == result.train_label_accuracy


def test_the_page_on_heads_follows_from_the_results(capsys):
    """The table of what heads predict has the errors with which `advise` uses them."""
    runpy.run_path(str(ROOT / "benchmarks" / "heads_vs_fine_tuning.py"))["main"]()
    page = capsys.readouterr().out
    command = "python benchmarks/heads_vs_fine_tuning.py > docs/study/heads.md"
    assert (ROOT / "docs/study/heads.md").read_text() == page, f"run {command}"
    errors = re.findall(r"^\| RMSE .*? \| .*? \| .*? \| (\S+) \|", page, re.MULTILINE)
    assert list(HEADS_ERROR.values()) == [float(error) for error in errors]
    width = re.search(r"^\| geometric mean \|.*\| (\S+) \|$", page, re.MULTILINE)
    assert round(float(width.group(1)), 1) == HEADS_WIDTH


def test_results_of_an_earlier_schema_are_refused_with_the_file_and_what_to_do(tmp_path):
    content = json.loads(FILES[0].read_text())
    content["arms"] = content.pop("variants")
    file = tmp_path / "report" / "results.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content))
    with pytest.raises(UserError) as refusal:
        compare([tmp_path], tmp_path / "out")
    assert str(refusal.value) == (
        f"`{file}` must be results of this version. Got variants: Field required. Try hf-recipes report on its recipe."
    )


@pytest.mark.parametrize("name", ["tweets-0.5b", "tweets-1.5b"])  # whose texts are in the package
def test_kept_labels_are_those_of_the_results_and_need_no_llm(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # `data.path` of the recipe
    folder = shutil.copytree(ROOT / "docs/study/labels" / name, tmp_path / name)
    study = Study(load_recipe(folder / "recipe.yaml", [f"--output_dir={folder}"]))
    labels = write_labels(study, read_labels(study)).annotator
    kept = read_results((ROOT / "docs/study" / name / "heads-100/results.json").read_bytes()).annotator
    assert (labels.n_gold, labels.accuracy) == (kept.n_gold, pytest.approx(kept.accuracy, abs=1e-12))
    assert labels.macro_f1 == pytest.approx(kept.macro_f1, abs=1e-12)


def test_classifiers_train_on_kept_labels_and_all_later_steps_follow(tmp_path, monkeypatch, command, tiny_encoder):
    restore = runpy.run_path(str(ROOT / "benchmarks" / "keep_labels.py"))["restore"]
    texts = shutil.copytree(ROOT / "hf_recipes/sample/vader_tweets", tmp_path / "texts")
    (train,) = texts.glob("data/train-*")
    table = pq.read_table(train)
    pq.write_table(table, train, compression="none")  # the same texts in other bytes
    monkeypatch.chdir(ROOT)
    settings = [f"--data.path={texts}", "--annotate.passes=[]", "--grid.variants=[gold, llm]", "--grid.sizes=[100]"]
    settings += ["--grid.curves=null", "--grid.seeds=[0, 1, 2, 3, 4, 5]", f"--train.encoder={tiny_encoder}"]
    restore("tweets-0.5b", tmp_path, settings)
    recipe = tmp_path / "tweets-0.5b" / "recipe.yaml"
    for step in ("train", "variants", "report"):
        code, _, errors = command(step, recipe)
        assert code == 0, errors
    results = read_results((recipe.parent / "report" / "results.json").read_bytes())
    assert (results.method, results.R, results.n) == ("frozen", 6, 1000)
    for variant in results.variants:
        files = [recipe.parent / f"heads/{variant.variant}/n100/{seed}/predictions.parquet" for seed in range(6)]
        labels = [np.argmax(pq.read_table(file)["probs"].to_pylist(), axis=1) for file in files]
        agree = [np.ptp(five, axis=0) == 0 for five in itertools.combinations(labels, 5)]
        assert variant.unanimity_of_5 == pytest.approx(np.mean(agree))
    assert {path.name for path in (recipe.parent / "dataset" / "data").iterdir()} == {"gold", "llm", "test"}
    with pytest.raises(SystemExit, match="`annotate` must have the kept passes"):
        restore("tweets-0.5b", tmp_path / "again", [*settings, "--annotate.prompt.seed=7"])
    changed = pa.array(["another text", *table["text"].to_pylist()[1:]])
    pq.write_table(table.set_column(table.schema.get_field_index("text"), "text", changed), train)
    with pytest.raises(SystemExit, match=r"Got .*texts, where 1 of 3,6\d\d texts have no label"):
        restore("tweets-0.5b", tmp_path / "again", settings)
    assert not any((tmp_path / "again").iterdir())


def test_the_tables_of_the_study_follow_from_the_results(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["study_tables.py"])
    runpy.run_path(str(ROOT / "benchmarks" / "study_tables.py"))["main"]()
    tables = capsys.readouterr().out
    command = "python benchmarks/study_tables.py > docs/study/tables.md"
    assert (ROOT / "docs/study/tables.md").read_text() == tables, f"run {command}"
    study, readme = ((ROOT / name).read_text() for name in ("docs/study.md", "README.md"))
    places = {
        "Summary": readme,
        "The paper's claims": study,
        "The larger LLM less the smaller one": study,
        "Runs that differ only in ...": study,
    }
    for heading, page in places.items():
        table = tables.split(f"## {heading}\n\n")[1].split("\n\n## ")[0]
        assert table[table.index("|") :].strip() in page, heading


def test_the_table_of_annotators_follows_from_the_full_one(capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    page = ROOT / "docs/study/annotators.md"
    runpy.run_path(str(ROOT / "benchmarks" / "annotators.py"))["print_best"](page)
    assert capsys.readouterr().out.strip() in (ROOT / "docs/annotators.md").read_text()
