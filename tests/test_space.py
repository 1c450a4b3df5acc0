"""Test what the Space reads and shows of a published study."""

import json
import shutil
from dataclasses import replace
from importlib.metadata import requires

import address
import comparison
import numpy as np
import page_html
import published
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shelf as shelf_module
import study_tables
import tables
import words
import yaml
from code_lines import code_lines
from conftest import ROOT
from packaging.requirements import Requirement
from space_app import APP, SAMPLE, copy_study

HOSTILE = '<img src=x onerror="alert(1)"> <script>alert(2)</script> [x](javascript:alert(3)) $x$ `y` {{ z }}'


@pytest.fixture(scope="module")
def study():
    return published.read_folder(SAMPLE)


def change_json(folder, name, change):
    file = next(folder.glob(f"hf-recipes/*/{name}.json"))
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_what_is_shown_is_what_the_study_says(study):
    home = next(SAMPLE.glob("hf-recipes/*/"))
    results = json.loads((home / "results.json").read_text())
    findings = json.loads((home / "findings.json").read_text())
    verdict = tables.verdict(study)
    assert verdict["decision"] == results["verdict"]["decision"]
    assert [tuple(pair) for pair in findings["findings"]] == verdict["findings"]
    assert [variant["macro_f1_mean_interval"] for variant in verdict["variants"]] == [
        variant["macro_f1_mean_interval"] for variant in results["variants"]
    ]
    llm = next(variant for variant in verdict["variants"] if variant["variant"] == "llm")
    same = tables.seeds(study, "llm", llm["size"], "all")
    assert same["mean"] == pytest.approx(llm["pairwise_disagreement"])
    cost = next(test for test in results["comparisons"] if (test["variant"], test["against"]) == ("llm", "gold"))
    forth = comparison.compare(study, variant="llm", against="gold", size=cost["size"])["tests"]
    back = comparison.compare(study, variant="gold", against="llm", size=cost["size"])["tests"]
    test = next(test for test in forth if test["figure"] == cost["figure"])
    assert test["difference"] == cost["difference"]
    turned = next(test for test in back if test["figure"] == cost["figure"])
    assert list(turned["interval"]) == [-cost["interval"][1], -cost["interval"][0]]


def test_labels_are_filtered_counted_and_explained(study):
    everything = tables.labels(study, kind="all", order="study")
    wrong = tables.labels(study)
    right = tables.labels(study, kind="right")
    assert wrong["found"] + right["found"] == everything["judged"] == sum(map(sum, everything["confusion"]))
    assert all(row["gold"] != row["llm"] for row in wrong["rows"])
    entropies = [row["entropy"] for row in wrong["rows"]]
    assert entropies == sorted(entropies)
    assert everything["risk_coverage"]["kept"][-1] == 1
    assert everything["risk_coverage"]["wrong"][-1] == pytest.approx(wrong["found"] / everything["judged"])
    word = everything["rows"][0]["text"].split()[-1]
    matches = tables.labels(study, kind="all", search=word.upper())
    assert matches["found"]
    assert all(word.lower() in row["text"].lower() for row in matches["rows"])
    replaced = tables.labels(study, kind="changed", variant="llm-entropy-replace", order="unsure")
    assert replaced["found"] == replaced["variant"]["sources"]["gold"]
    assert replaced["rows"][0]["why"].startswith("gold label (entropy")
    assert [row["rank"] for row in replaced["rows"]] == list(range(1, len(replaced["rows"]) + 1))
    assert tables.labels(study, page=10**9)["page"] == wrong["pages"]


def test_counts_and_charts_ignore_their_own_filter(study):
    everything = tables.labels(study, kind="all")
    gold, llm = study.classes[1], study.classes[2]
    cell = tables.labels(study, gold=gold, llm=llm, kind="wrong")
    assert cell["found"] == everything["confusion"][1][2] > 0
    assert {(row["gold"], row["llm"]) for row in cell["rows"]} == {(gold, llm)}
    for name in ("confusion", "risk_coverage", "judged", "wrong"):
        assert cell[name] == everything[name]
    assert 'data-id="1 2" dir="auto" style' in page_html.confusion(cell)
    assert page_html.confusion(cell).count('aria-pressed="true"') == 1
    assert 'aria-pressed="true"' not in page_html.confusion(everything)


def test_many_classes_are_listed_and_distinguishable():
    count = 150
    names = [f"card_payment_{k}" for k in range(count)]
    matrix = np.zeros((count, count), int)
    np.fill_diagonal(matrix, 9)
    matrix[3, 4], matrix[7, 5], matrix[:20, 149] = 90, 30, 1
    data = {"classes": names, "confusion": matrix.tolist(), "judged": int(matrix.sum()), "gold": "", "llm": ""}
    page = page_html.confusion(data)
    classes, confusions = page.split("<table>")[1:]
    assert classes.count("<tr>") == count + 1
    f1 = [float(row.rpartition(">")[2]) for row in classes.split("</td></tr>")[:-1]]
    assert f1 == sorted(f1)
    assert f1[0] == pytest.approx(18 / 109, abs=5e-4)
    assert confusions.count("<tr>") == 11
    assert confusions.index("card_payment_3 → card_payment_4") < confusions.index("card_payment_7 → card_payment_5")
    assert len({words.colour(k) for k in range(count)}) == count
    assert len({words.chip(name, names) for name in names}) == count
    assert words.votes([names[12], names[121], names[12]], names).count("card_payment_12<") == 0
    assert "card_payment_12 <b>×2</b>" in words.votes([names[12], names[121], names[12]], names)


def test_a_better_result_never_has_the_colour_of_warnings():
    assert page_html.judge("macro_f1", "higher") == page_html.judge("pairwise_disagreement", "lower") == "better"
    assert page_html.judge("macro_f1", "lower") == page_html.judge("pairwise_disagreement", "higher") == "worse"
    warnings = {"#A84300", "#B34700", "#D55E00"}
    assert not warnings & {words.colour(k).upper() for k in range(150)}


def test_compare_without_gold_shows_two_variants(study):
    results = study.results
    without = [result for result in results.variants if result.variant != "gold"]
    study = replace(study, results=results.model_copy(update={"variants": without}))
    first, second = comparison.compare(study)["sides"]
    assert (first["variant"], second["variant"] == "llm") == ("llm", False)
    study = replace(study, test=replace(study.test, runs=[run for run in study.test.runs if run[0] != "gold"]))
    values, notices = address.read_address(study, {})
    assert values["first"] == "llm" != values["second"]
    assert not notices


def test_seeds_are_those_of_the_predictions(study):
    content = tables.seeds(study, "llm", 0, "flips")
    row = content["rows"][0]
    assert len(set(row["labels"])) > 1
    details = tables.seeds(study, text=row["id"])["one"]
    cell = next(c for c in details["cells"] if (c["variant"], c["size"]) == (content["variant"], content["size"]))
    assert [run["label"] for run in cell["runs"]] == row["labels"]
    assert tables.seeds(study, text="nobody")["one"] is None


@pytest.mark.parametrize("missing", ["runs", "texts", "gold", "findings", "results"])
def test_what_is_not_published_is_said_and_the_rest_is_shown(missing, tmp_path):
    folder = copy_study(tmp_path / "study")
    if missing == "runs":
        shutil.rmtree(folder / "data" / "predictions")
        next(folder.glob("hf-recipes/*/results.json")).unlink()
    if missing in ("findings", "results"):
        next(folder.glob(f"hf-recipes/*/{missing}.json")).unlink()
    for path in folder.glob("data/*/*.parquet") if missing in ("texts", "gold") else ():
        table = pq.read_table(path)
        if missing == "texts" and "text" in table.column_names:
            pq.write_table(table.drop_columns(["text"]), path)
        if missing == "gold" and "label_source" in table.column_names:
            nothing = pa.array([-1] * len(table), table["gold"].type)
            pq.write_table(table.set_column(table.column_names.index("gold"), "gold", nothing), path)
    study = published.read_folder(folder)
    sentences = " ".join(tables.missing(study))
    expected = {
        "runs": "no classifiers",
        "texts": "not published",
        "gold": "no gold",
        "results": "results of this study are not",
    }
    assert expected.get(missing, "") in sentences
    verdict, labels, seeds = tables.verdict(study), tables.labels(study), tables.seeds(study)
    page = page_html.verdict_details(verdict) if study.results else page_html.no_verdict(verdict)
    page += page_html.labels_count(labels) + page_html.labels_table(labels) + page_html.confusion(labels)
    page += page_html.risk(labels) + page_html.seeds_top(seeds) + page_html.seeds_table(seeds)
    page += page_html.compare_table(comparison.compare(study), comparison.FIGURES)
    page += page_html.cards([published.summarize(study.where, study.name, study.manifest, study.results)])
    assert "None" not in page
    assert labels["rows"]
    assert code_lines(study, "llm", folder)["load_dataset"]


def test_texts_and_names_are_shown_as_text(tmp_path):
    folder = copy_study(tmp_path / "study")
    for path in [*folder.glob("data/*/train-*.parquet"), *folder.glob("data/test/*.parquet")]:
        table = pq.read_table(path)
        if "text" in table.column_names:
            texts = pa.array([HOSTILE] * len(table))
            pq.write_table(table.set_column(table.column_names.index("text"), "text", texts), path)

    def poison(content):
        for name in ("findings", "more", "limits", "labels"):
            content[name] = [[HOSTILE, HOSTILE]] if name in ("findings", "more") else [HOSTILE]
        content["variants"] = dict.fromkeys(content["variants"], HOSTILE)
        content["methods"] = HOSTILE

    change_json(folder, "findings", poison)
    change_json(folder, "study", lambda content: content["recipe"]["annotate"].update(model=HOSTILE))
    study = published.read_folder(folder)
    verdict, labels, seeds = tables.verdict(study), tables.labels(study, variant="gold"), tables.seeds(study)
    seeds["one"] = tables.seeds(study, text=study.test.ids[0])["one"]
    page = page_html.verdict_details(verdict) + page_html.no_verdict(verdict) + words.notice(HOSTILE)
    page += page_html.header({**verdict["about"], "repo": HOSTILE, "studies": [HOSTILE]}, "")
    page += page_html.labels_count(labels) + page_html.labels_table(labels)
    page += page_html.seeds_table(seeds) + page_html.one_text(seeds)
    page += page_html.compare_table(comparison.compare(study), comparison.FIGURES)
    page += page_html.cards([published.summarize(HOSTILE, HOSTILE, study.manifest, study.results)])
    runs = {"row": 1, "text": HOSTILE, "gold": HOSTILE, "labels": [HOSTILE], "disagreement": 1}
    measured = {"differing": 1, "n": 1, "R": 1, "classes": [HOSTILE], "ignored": [HOSTILE], "rows": [runs]}
    page += page_html.measured_top(measured)
    assert page.count("&lt;script&gt;") > 50
    for sign in ("<script", "<img", 'onerror="'):
        assert sign not in page


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("empty", "must have a study of hf-recipes"),
        ("prefix", "damaged"),
        ("configs", "damaged"),
        ("classes", "damaged"),
        ("label", "damaged"),
        ("no parquet", "damaged"),
        ("results", "damaged"),
        ("deep", "damaged"),
        ("runs", "damaged"),
        ("many", "more than is shown"),
    ],
)
def test_a_repo_that_is_none_of_ours_or_damaged_gets_a_sentence(damage, message, tmp_path, monkeypatch):
    folder = copy_study(tmp_path / "study")
    file = folder / "data" / "llm" / "train-00000-of-00001.parquet"
    table = pq.read_table(file)
    if damage == "empty":
        shutil.rmtree(folder / "hf-recipes")
        shutil.rmtree(folder / "data" / "llm")
    elif damage in ("prefix", "configs"):
        change_json(folder, "study", lambda c: c.update({damage: "../../" if damage == "prefix" else ["../../etc"]}))
    elif damage == "classes":
        pq.write_table(table.replace_schema_metadata({}), file)
    elif damage == "label":
        bad = pa.array([7] * len(table), pa.int64())
        pq.write_table(table.set_column(table.column_names.index("gold"), "gold", bad), file)
    elif damage == "no parquet":
        file.write_bytes(b"PAR1 and nothing else")
    elif damage == "results":
        change_json(folder, "results", lambda c: c["variants"][0].update(macro_f1_mean={"a": 1}))
    elif damage == "deep":
        next(folder.glob("hf-recipes/*/findings.json")).write_text('{"a":' + "[" * 100_000)
    elif damage == "runs":
        path = folder / "data" / "predictions" / "train-00000-of-00001.parquet"
        pq.write_table(pq.read_table(path).slice(1), path)
    elif damage == "many":
        monkeypatch.setattr(study_tables, "MAX_ROWS", 10)
    with pytest.raises(published.UnreadableError, match=message):
        published.read_folder(folder)


def test_a_few_studies_stay_in_memory_and_nobody_waits_for_ever(study, monkeypatch):
    read = []
    monkeypatch.setattr(shelf_module, "read_hub", lambda spec: read.append(spec) or study)
    monkeypatch.setattr(shelf_module, "MAX_WAIT", 0.05)
    shelf = shelf_module.Shelf(study, SAMPLE)
    assert shelf.get("") is shelf.get(f"{study.where}/{study.name}") is study
    for spec in ("a/1", "a/2", " a/1/ ", "https://huggingface.co/datasets/a/3", "a/4", "a/1", "a/2"):
        shelf.get(spec)
    assert read == ["a/1", "a/2", "a/3", "a/4", "a/2"]
    with shelf._reading, pytest.raises(published.UnreadableError, match="Try again"):
        shelf.get("a/5")
    assert shelf.get("a/1") is study


def test_cards_are_sorted_by_loss(study):
    shelf = shelf_module.Shelf(study, SAMPLE)
    own = shelf.summaries()[0]
    assert (own.spec, own.model, own.encoder) == (
        "sample/tweets",
        "models/Qwen2.5-Coder-0.5B-Instruct",
        "models/all-MiniLM-L6-v2",
    )
    assert own == published.read_summary(SAMPLE, study.name, study.where)
    shelf._public = [replace(own, spec=f"me/{loss}", loss=loss) for loss in (-0.01, None, 0.5)]
    assert [summary.loss for summary in shelf.summaries()] == [0.5, own.loss, -0.01, None]
    card = page_html.cards([own])
    assert f"<b>{words.number(own.loss, own.interval)}</b>" in card
    assert "Qwen2.5-Coder-0.5B-Instruct → all-MiniLM-L6-v2" in card
    assert "do not ship" in card


def read_pins(path):
    """Return the versions of packages by their names."""
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    return dict(line.split("==") for line in lines if line)


def test_the_card_and_the_requirements_agree_with_the_project():
    front = yaml.safe_load((APP / "README.md").read_text().split("---")[1])
    pins = read_pins(APP / "requirements.txt")
    ours = read_pins(ROOT / "requirements" / "cpu.in") | read_pins(ROOT / "requirements" / "mcp.in")
    assert front["sdk"] == "gradio"
    assert front["sdk_version"] == pins["gradio"] == ours["gradio"]
    # The tools of Gradio require an older pydantic than all the rest.
    assert all(ours[name] == version for name, version in pins.items() if name != "pydantic")
    for required in map(Requirement, requires("gradio")):
        if required.name in pins and (not required.marker or required.marker.evaluate({"extra": "mcp"})):
            assert pins[required.name] in required.specifier
    assert not {"torch", "vllm", "transformers"} & set(pins)
    size = sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file())
    assert size < 9_000_000
