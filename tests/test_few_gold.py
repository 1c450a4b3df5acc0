"""Few gold labels: a study trained on LLM labels alone, judged by what people say of random samples."""

import csv
import json

import numpy as np
import pytest
from made import make_figures
from scipy import stats
from steps import load_rows, measure, open_runs, write_dataset, write_labels
from test_planted import NAMES, Planted, write_texts

from hf_recipes.advise import pilot_settings
from hf_recipes.analysis.class_shares import powered_share
from hf_recipes.analysis.verdict import decide
from hf_recipes.annotation.annotate import annotate
from hf_recipes.errors import UserError
from hf_recipes.labels.audit import draw_audit
from hf_recipes.labels.audit_import import ImportCounts, import_audit
from hf_recipes.labels.pool import read_labels
from hf_recipes.recipe import Accept
from hf_recipes.report.compare import compare
from hf_recipes.report.findings import describe
from hf_recipes.report.label_findings import describe as describe_labels
from hf_recipes.report.page import print_summary, write_report
from hf_recipes.study import read_json
from hf_recipes.training.train import train

ALONE = "llm, llm-entropy-drop, llm-random-drop"
AUDITED = "llm, llm-audit, llm-random-replace, gold-only"


@pytest.fixture
def source(monkeypatch, tmp_path):
    """Texts whose classes only the test and the planted annotator know: pool and test by text."""
    (tmp_path / "texts").mkdir()
    gold = write_texts(tmp_path / "texts" / "train.parquet", 240, 0)
    gold |= write_texts(tmp_path / "texts" / "test.parquet", 120, 1)
    monkeypatch.setattr("hf_recipes.annotation.engines.vllm_engine.Engine", Planted)
    for name, value in (("gold", gold), ("errors", "random"), ("knows", True)):
        monkeypatch.setattr(Planted, name, value, raising=False)
    return tmp_path / "texts", gold


@pytest.fixture
def make(source, make_study, tiny_encoder):
    def make(variants, *more):
        return make_study(
            *(f"--data.path={source[0]}", "--data.pool_size=null", "--data.test_size=null", "--data.label_column=null"),
            *(f"--data.label_names=[{', '.join(NAMES)}]", "--annotate.model=models/SmolLM2-135M-Instruct"),
            *("--annotate.prompt.template='{{ instruction }} Text: {{ text }} Label:'", "--annotate.calibration=none"),
            *("--annotate.prompt.shots_per_class=0", f"--train.encoder={tiny_encoder}", "--train.epochs=1"),
            *("--grid.sizes=[60]", "--grid.seeds=[0, 1, 2]", f"--grid.variants=[{variants}]", *more),
        )

    return make


def label(file, gold, share=1.0):
    """Fills in a CSV file as people would; of the texts `share`, from the top."""
    with file.open(newline="") as sheet:
        rows = list(csv.DictReader(sheet))
    some = len(rows) * share
    said = [row | {"label": NAMES[gold[row["text"]]] if place < some else ""} for place, row in enumerate(rows)]
    with file.open("w", newline="") as sheet:
        writer = csv.DictWriter(sheet, rows[0])
        writer.writeheader()
        writer.writerows(said)
    return [row["id"] for row in rows]


def findings(results):
    words = describe(results)
    return " ".join(f"{title} {text}" for title, text in words.findings + words.more)


def report(study):
    results = measure(study)
    write_report(study, read_labels(study).training_pool, results)
    write_dataset(study)
    print_summary(study, results)
    return results, (study.report / "report.md").read_text(), (study.report / "report.html").read_text()


def test_a_grid_without_any_gold_tells_what_wants_none(make, tmp_path):
    study = make(ALONE, "--grid.crossed={variants: [llm], levels: 2}")
    annotate(study)
    assert train(study) == {}
    assert not len(open_runs(study).pool_sample)
    assert not list(study.root.glob("runs/*/*/*/out_of_bag.parquet"))
    results, page, html = report(study)
    assert results.audit.model_dump() == {part: {"drawn": 0, "labelled": 0} for part in ("pool", "test")}
    for variant in results.variants:
        low, high = variant.pairwise_disagreement_interval
        assert 0 <= low <= variant.pairwise_disagreement <= high <= 1
        assert variant.unanimity_interval[0] <= variant.unanimity <= variant.unanimity_interval[1]
        assert (variant.n, variant.n_gold, variant.macro_f1_mean) == (120, 0, None)
        assert variant.train_label_accuracy == [None] * 3
    assert {c.figure for c in results.comparisons} == {"pairwise_disagreement"}
    assert {(c.variant, c.against) for c in results.comparisons} >= {("llm-entropy-drop", "llm-random-drop")}
    assert results.components[0].macro_f1["total"].sd is None
    assert results.verdict.decision == "inconclusive"
    assert [one.status for one in results.verdict.criteria] == ["inconclusive"] * 3
    said = findings(results)
    assert "What they cost against full gold: not identifiable." in said
    assert "Macro-F1 loss against gold labels is not identifiable" in said
    assert "these labels are not checked" in said
    for text in (page, html):
        assert "not identifiable" in text
        assert "two seeds disagree" in text.lower()
        assert "curves.svg" not in text
    with pytest.raises(UserError, match="a pilot compares LLM labels with gold labels"):
        pilot_settings(study)
    with pytest.raises(UserError, match="the study must compare llm with gold"):
        compare([study.root], tmp_path / "out")


def test_an_audit_judges_classifiers_and_trains_them_but_no_text_does_both(make, source, tmp_path):
    study = make(AUDITED)
    annotate(study)
    with pytest.raises(UserError, match="require gold labels, and the study has none"):
        open_runs(study).left()
    _, gold = source
    assert draw_audit(study, 40, tmp_path / "a.csv").num_written == 40
    first = label(tmp_path / "a.csv", gold)
    import_audit(study, tmp_path / "a.csv")
    assert draw_audit(study, 80, tmp_path / "b.csv").num_written == 40
    second = label(tmp_path / "b.csv", gold)
    import_audit(study, tmp_path / "b.csv")
    parts = read_json(study.audit / "sample.json")["parts"]
    assert {*first, *second} == {*parts["pool"]["ids"], *parts["test"]["ids"]}  # nested
    assert not set(parts["pool"]["ids"]) & set(parts["test"]["ids"])
    pool, test = load_rows(study)
    assert set(parts["pool"]["ids"]) <= set(pool.ids)
    assert set(parts["test"]["ids"]) <= set(test.ids)
    assert [(part["population"], part["pi"]) for part in parts.values()] == [(240, 40 / 240), (120, 40 / 120)]

    assert train(study) == {}
    work = open_runs(study)
    for run in (run for run in runs_of(study) if run.variant != "llm"):
        trained = {work.pool.ids[i] for i in work.labels(run).rows[work.labels(run).from_gold]}
        assert trained <= set(parts["pool"]["ids"])
        if run.variant == "gold-only":
            assert len(trained) == 40
        if run.variant == "llm-audit":
            assert work.labels(run).targets.max() == pytest.approx(240 / 40)
    results, page, html = report(study)
    truth = np.array([gold[text] for text in test.texts])
    places = np.array([test.ids.index(i) for i in parts["test"]["ids"]])
    llm = next(variant for variant in results.variants if (variant.variant, variant.size) == ("llm", 60))
    assert (llm.n, llm.n_gold) == (120, 40)
    predicted = read_predictions(study, "llm")
    assert llm.accuracy_mean == pytest.approx((predicted == truth)[:, places].mean())
    assert llm.pairwise_disagreement == pytest.approx(
        np.mean([(predicted[i] != predicted[j]).mean() for i, j in ((0, 1), (0, 2), (1, 2))])
    )
    low, high = results.annotator.accuracy_interval
    known = np.array([gold[text] for text in pool.texts])
    assert low <= (work.pool.llm == known).mean() <= high
    assert results.annotator.n_gold == 40
    shares = [one for one in results.class_shares if one.variant == "llm"]
    for k, one in enumerate(shares):
        voted = (predicted == k).mean(axis=0)
        assert one.gold == pytest.approx(voted.mean() + ((truth == k) - voted)[places].mean())
        assert one.gold_interval[0] <= (truth == k).mean() <= one.gold_interval[1]
    figures = {(c.variant, c.against, c.figure): c.n for c in results.comparisons}
    assert figures["llm-audit", "llm-random-replace", "macro_f1"] == 40
    assert figures["llm-audit", "llm-random-replace", "pairwise_disagreement"] == 120
    verdict = results.verdict
    assert [one.value is None for one in verdict.criteria] == [True, True, False]
    said = findings(results)
    assert "on the 40 test texts, drawn at random of 120, that people labelled" in said
    assert "On the 40 gold labels of the audit alone (gold-only)" in said
    assert (
        "The mitigation (llm-audit). The LLM's labels, with gold for the audited texts drawn at random, weighted"
        in said
    )
    for text in (page, html):
        assert "of which 40 have people" in text
        assert "scores" in text
    card = (study.dataset / "README.md").read_text()
    assert "people's labels of 40 of them, drawn at random," in card
    assert "annotations_creators:\n- machine-generated\n- expert-generated\n" in card
    from datasets import load_dataset

    dataset = load_dataset(str(study.dataset), "llm-audit")
    published = {row["id"]: row for row in dataset["train"]}
    for i in parts["pool"]["ids"]:  # signed targets are published as the label that people gave
        assert (published[i]["label"], published[i]["label_source"]) == (gold[published[i]["text"]], "gold")
    assert sum(row["label_source"] == "gold" for row in published.values()) == 40
    assert sum(row["label"] != -1 for row in dataset["test"]) == 40


def test_fewer_labels_than_the_least_give_no_figures_on_any_page(make, source, tmp_path):
    study = make(AUDITED)
    annotate(study)
    draw_audit(study, 58, tmp_path / "a.csv")
    label(tmp_path / "a.csv", source[1])
    import_audit(study, tmp_path / "a.csv")
    assert train(study) == {}
    results, page, html = report(study)
    assert (results.annotator.n_gold, results.annotator.accuracy, results.annotator.confusion) == (29, None, None)
    assert {(result.n_gold, result.macro_f1_mean) for result in results.variants} == {(0, None)}
    assert [criterion.value for criterion in results.verdict.criteria] == [None] * 3
    words = findings(results)
    assert "people labelled 29 of them. No figures are given for fewer than 30" in words
    assert "Not known: 29 of the 120 test texts have people's labels. No figures are given for fewer than 30" in words
    assert "How often the LLM is right is unknown: only 29 texts have a gold label." in html
    assert "accuracy 0." not in page
    card = (study.dataset / "README.md").read_text()
    assert "29 of them have a gold label. No figures are given for fewer than 30." in card
    assert "labels agree with" not in card
    assert "No figures are given for fewer than 30" in " ".join(describe_labels(write_labels(study)))


def test_an_audit_goes_to_the_hub_and_back(make, source, hub, tmp_path):
    study = make("llm, llm-random-replace, gold-only", "--grid.seeds=[0, 1]")
    annotate(study)
    draw_audit(study, 80, tmp_path / "a.csv")
    label(tmp_path / "a.csv", source[1])
    import_audit(study, tmp_path / "a.csv")
    assert train(study) == {}
    results = measure(study)
    push = ["push", "dataset", study.recipe_file, "--repo", "me/labels"]
    hub.cli(*push)
    hub.cli("pull", "me/labels", "--output_dir", tmp_path / "pulled")
    for name in ("sample", "labels"):
        file = f"audit/{name}.json"
        assert (tmp_path / "pulled" / file).read_bytes() == (study.root / file).read_bytes()
    (tmp_path / "pulled" / "report" / "results.json").unlink()
    hub.cli("report", tmp_path / "pulled" / "recipe.yaml")
    again = read_json(tmp_path / "pulled" / "report" / "results.json")
    assert again["audit"] == {"test": {"drawn": 40, "labelled": 40}, "pool": {"drawn": 40, "labelled": 40}}
    assert {**again, "key": None} == {**results.model_dump(mode="json"), "key": None}
    (study.audit / "labels.json").unlink()  # without people's labels the runs on them are no longer this study's
    said = hub.cli(*push, "--grid.variants=[llm]")
    assert "people's labels (audit) are removed" in said


def runs_of(study):
    from hf_recipes.training.grid import all_runs

    return all_runs(study.grid)


def read_predictions(study, variant):
    import pyarrow.parquet as pq

    files = [study.root / "runs" / variant / "n60" / str(seed) / "predictions.parquet" for seed in range(3)]
    return np.stack([np.array(pq.read_table(file)["probs"].to_pylist()).argmax(axis=1) for file in files])


def test_test_labels_change_no_run_and_those_that_are_missing_are_said(make, source, tmp_path):
    study = make("llm", "--grid.sizes=[30, 60]")
    annotate(study)
    train(study)
    _, gold = source
    draw_audit(study, 40, tmp_path / "a.csv", test_share=1.0)
    label(tmp_path / "a.csv", gold, share=0.5)
    assert import_audit(study, tmp_path / "a.csv") == ImportCounts(20, 20, 0, 0, 0)
    assert open_runs(study).left() == []
    results = measure(study)
    assert (results.audit.test.drawn, results.audit.test.labelled) == (40, 20)
    assert "20 of the 40 texts of the test that were drawn" in " ".join(describe(results).limits)
    assert "There is no gold" in " ".join(describe_labels(write_labels(study)))  # of the pool's labels
    label(tmp_path / "a.csv", gold)
    import_audit(study, tmp_path / "a.csv")
    results = measure(study)
    assert results.audit.test.labelled == 40
    plateaus = [(plateau.variant, plateau.n, plateau.premature_plateau) for plateau in results.plateaus]
    assert plateaus == [("llm", 40, None)] * bool(results.at_top["llm"].above_chance)


def test_a_sample_that_does_not_do_is_said_in_one_line(make, source, tmp_path):
    study = make("llm")
    annotate(study)
    _, gold = source
    for settings, said in (
        ({"n": 242}, "must draw 1 to 120 texts of the test. Got 121"),
        ({"n": 0}, "must draw 1 to 240 texts of the pool. Got 0"),
        ({"n": 9, "test_share": 1.2}, "`--test-share` must be from 0 to 1. Got 1.2"),
    ):
        with pytest.raises(UserError, match=said):
            draw_audit(study, file=tmp_path / "x.csv", **settings)
    draw_audit(study, 40, tmp_path / "a.csv")
    with pytest.raises(UserError, match="must keep the 20 texts of the test that were drawn before. Got 4"):
        draw_audit(study, 40, tmp_path / "b.csv", test_share=0.1)
    label(tmp_path / "a.csv", gold)
    import_audit(study, tmp_path / "a.csv")
    sample = read_json(study.audit / "sample.json")
    (study.audit / "sample.json").write_text(json.dumps(sample | {"label_names": ["other", "names"]}))
    with pytest.raises(UserError, match="has labels of other classes"):
        write_labels(study)
    (study.audit / "sample.json").write_text(json.dumps(sample))
    assert draw_audit(study, 60, tmp_path / "c.csv").num_written == 20  # labels are kept: 40 were there
    assert write_labels(study).audit_drawn == 30


@pytest.mark.parametrize(("n", "rate", "quality"), [(40, 0.3, 0.8), (100, 0.1, 0.9), (100, 0.05, 1.0), (200, 0.5, 0.0)])
def test_the_powered_share_is_right_on_average_and_covers_as_often_as_it_says(n, rate, quality):
    """Simulated populations of 1,000 test texts; classifiers from useless to perfect."""
    rng = np.random.default_rng(0)
    estimates, covered, widths = [], 0, []
    for _ in range(2000):
        truth = rng.random(1000) < rate
        votes = np.where(rng.random((5, 1000)) < quality, truth, rng.random((5, 1000)) < 0.4).mean(axis=0)
        share, (low, high) = powered_share(votes, votes[:n], truth[:n], 0.95)
        estimates.append(votes.mean() + (truth[:n] - votes[:n]).mean())
        covered += low <= rate <= high
        widths.append(high - low)
        assert 0 <= low <= share <= high <= 1
    assert np.mean(estimates) == pytest.approx(rate, abs=4 * np.std(estimates) / 2000**0.5)
    assert covered / 2000 > 0.94
    if quality > 0.8:  # good classifiers make it more exact than the labels alone are
        alone = 2 * stats.t.ppf(0.975, n - 1) * np.sqrt(rate * (1 - rate) / n)
        assert np.mean(widths) < alone


def test_the_powered_share_by_hand():
    found, gold = np.array([1.0, 0.5, 0.0, 0.5, 0.0, 1.0]), np.array([True, False])
    share, (low, high) = powered_share(found, found[:2], gold, 0.95)
    assert share == pytest.approx(3 / 6 + ((1 - 1) + (0 - 0.5)) / 2)  # .25
    variance = (1 / 2 - 1 / 6) * ((0.25**2 * 2 + 2) / 3) + 0.25 * 0.75 / 6
    half = stats.t.ppf(0.975, 1) * variance**0.5
    assert (low, high) == (max(0, 0.25 - half), min(1, 0.25 + half))
    whole, _ = powered_share(found, found, np.array([1, 0, 0, 1, 0, 1]) > 0, 0.95)
    assert whole == pytest.approx(0.5)  # where all are labelled, what they say


def test_without_gold_the_verdict_is_on_classes_alone_and_never_ships():
    def found(f1, error=0.03, n_gold=80):
        variance = {"runs": 0.005**2, "items": error**2, "both": 0.0, "run_freedom": 9.0, "item_freedom": 39.0}
        class_f1 = [
            {"name": name, "n": 40, "value": value, "variance": variance}
            for name, value in zip("ab", f1, strict=True)
            if value is not None
        ]
        audit = {part: {"drawn": n_gold, "labelled": n_gold} for part in ("pool", "test")}
        fields = {"variants": [{"variant": "llm", "size": 10, "n_gold": n_gold}], "class_f1": class_f1, "audit": audit}
        return decide(make_figures(fields | {"label_names": ["a", "b"], "R": 10, "n": 500}), Accept(min_class_f1=0.6))

    def statuses(f1):
        verdict = found(f1)
        return verdict.decision, verdict.criteria[2].status, verdict.advice

    assert statuses([0.9, 0.8]) == ("inconclusive", "holds", None)
    assert statuses([0.9, 0.4]) == ("do not ship", "fails", None)
    assert statuses([0.9, None]) == ("inconclusive", "inconclusive", None)  # nothing is known of the other class
    near = found([0.9, 0.65])
    assert (near.decision, near.criteria[2].status) == ("inconclusive", "inconclusive")
    assert near.advice.test_texts > 80
    enough = found([0.9, 0.65], 0.03 * (80 / near.advice.test_texts) ** 0.5, near.advice.test_texts)
    assert enough.criteria[2].status == "holds"
    nothing = found([None, None], n_gold=0)
    assert (nothing.decision, nothing.criteria[2].value, nothing.advice) == ("inconclusive", None, None)
