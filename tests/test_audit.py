"""The audit: a random sample out, people's labels back, and what they say of the LLM."""

import csv
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from steps import load_rows, write_labels

from hf_recipes.annotation.annotate import annotate
from hf_recipes.errors import UserError
from hf_recipes.labels.audit import Drawn, draw_audit, half_width
from hf_recipes.labels.audit_import import ImportCounts, import_audit
from hf_recipes.report.label_findings import describe
from hf_recipes.report.label_quality import render_labels
from hf_recipes.study import read_json

SETTINGS = ("--data.pool_size=150", "--annotate.prompt.shots_per_class=1", "--grid=null", "--train=null")


@pytest.fixture
def study(make_study, engine):
    made = make_study(*SETTINGS)
    annotate(made)
    return made


def gold_of(study):
    rows, _ = load_rows(study)
    return {i: rows.label_names[k] for i, k in zip(rows.ids, rows.gold, strict=True)}


def fill(file, labels):
    rows = list(csv.DictReader(file.open(newline="")))
    with file.open("w", newline="") as sheet:
        writer = csv.DictWriter(sheet, rows[0])
        writer.writeheader()
        writer.writerows([row | {"label": labels.get(row["id"], "")} for row in rows])
    return [row["id"] for row in rows]


def test_the_sample_is_random_nested_and_says_what_all_texts_would(study, tmp_path):
    everything = write_labels(study).annotator  # the source has gold: the truth
    assert draw_audit(study, 20, tmp_path / "a.csv").num_written == 20
    ids = fill(tmp_path / "a.csv", gold_of(study))
    assert import_audit(study, tmp_path / "a.csv") == ImportCounts(20, 0, 0, 0, 0)
    assert draw_audit(study, 60, tmp_path / "b.csv").num_written == 40  # those that have no label yet
    more = fill(tmp_path / "b.csv", gold_of(study))
    assert not set(ids) & set(more)
    import_audit(study, tmp_path / "b.csv")
    assert set(read_json(study.audit / "sample.json")["parts"]["pool"]["ids"]) == {*ids, *more}
    audited = write_labels(study)
    low, high = audited.annotator.accuracy_interval
    assert audited.annotator.n_gold == 60
    assert low <= everything.accuracy <= high
    assert "People labelled 60 of 60 texts that were drawn at random from all 147" in " ".join(describe(audited))
    draw_audit(study, 147, tmp_path / "c.csv")
    fill(tmp_path / "c.csv", gold_of(study))
    import_audit(study, tmp_path / "c.csv")
    whole = write_labels(study).annotator
    assert whole == everything  # all texts audited are all texts


def test_a_sample_says_how_exact_it_will_be_and_lists_the_classes(study, tmp_path, command):
    file = tmp_path / "a.csv"
    code, output, errors = command("audit", "sample", study.recipe_file, "--n", 100, "--output", file)
    assert code == 0, errors
    assert "100 texts to label: " in output
    assert "Pool: 100 texts, which evaluate the LLM's labels. The 95% interval of an accuracy is at most 0.10" in output
    assert {row["classes"] for row in csv.DictReader(file.open(newline=""))} == {"negative | neutral | positive"}
    fill(file, gold_of(study))
    assert import_audit(study, file).labelled == 100  # the column is ignored
    widest = write_labels(study).annotator.accuracy_interval
    assert widest[1] - widest[0] <= 2 * half_width(100)
    drawn = Drawn({"pool": 29, "test": 400}, 429)
    assert list(drawn.describe()) == [
        "Pool: 29 texts, which evaluate the LLM's labels. No figures are given for fewer than 30: raise --n.",
        "Test: 400 texts, which evaluate the classifiers. The 95% interval of an accuracy is at most 0.05 to either "
        "side.",
    ]


def test_label_studio_gets_its_interface(study, tmp_path, command):
    file = tmp_path / "tasks.json"
    arguments = ["--n", 5, "--output", file, "--format", "label-studio"]
    code, output, errors = command("audit", "sample", study.recipe_file, *arguments)
    assert (code, f"Labelling interface for Label Studio: {tmp_path / 'tasks.xml'}" in output) == (0, True), errors
    view = ElementTree.parse(tmp_path / "tasks.xml").getroot()  # noqa: S314  it was written here
    choices = view.find("Choices")
    assert view.find("Text").attrib == {"name": "text", "value": "$text"}
    assert (choices.get("name"), choices.get("toName"), choices.get("choice")) == ("label", "text", "single")
    assert [choice.get("value") for choice in choices] == ["negative", "neutral", "positive"]
    file.unlink()
    code, _, errors = command("audit", "sample", study.recipe_file, *arguments)
    assert (code, "tasks.xml` exists" in errors) == (2, True)


def test_a_draw_is_fair(study, tmp_path):
    """Ids are hashes, so that over many studies each text is drawn as often; here: not by class, length or the LLM."""
    draw_audit(study, 75, tmp_path / "a.csv")
    drawn = set(read_json(study.audit / "sample.json")["parts"]["pool"]["ids"])
    rows, _ = load_rows(study)
    inside = np.array([i in drawn for i in rows.ids])
    lengths = np.array([len(text) for text in rows.texts])
    for values in (lengths, *(rows.gold == k for k in range(3))):
        spread = values.std() * np.sqrt(1 / inside.sum() + 1 / (~inside).sum())
        assert abs(values[inside].mean() - values[~inside].mean()) < 4 * spread


@pytest.mark.parametrize("form", ["jsonl", "label-studio"])
def test_other_forms_come_back_too(form, study, tmp_path):
    file = tmp_path / ("a.jsonl" if form == "jsonl" else "a.json")
    draw_audit(study, 30, file, form)
    gold = gold_of(study)
    if form == "jsonl":
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("\n".join(json.dumps(row | {"label": gold[row["id"]]}) for row in rows))
    else:
        tasks = json.loads(file.read_text())
        assert set(tasks[0]["data"]) == {"id", "text", "labels"}
        for task in tasks:
            result = [{"type": "choices", "value": {"choices": [gold[task["data"]["id"]]]}}]
            task["annotations"] = [{"result": [], "was_cancelled": True}, {"result": result}]
        file.write_text(json.dumps(tasks))
    assert import_audit(study, file).labelled == 30
    assert all(gold[i] == name for i, name in read_json(study.audit / "labels.json").items())


def test_what_is_missing_or_wrong_is_said(study, tmp_path, command):
    with pytest.raises(UserError, match="has no sample"):
        import_audit(study, tmp_path / "none.csv")
    draw_audit(study, 40, tmp_path / "a.csv")
    with pytest.raises(UserError, match="exists, and may have labels"):
        draw_audit(study, 40, tmp_path / "a.csv")
    with pytest.raises(UserError, match="must draw 1 to 147 texts of the pool. Got 148"):
        draw_audit(study, 148, tmp_path / "b.csv")
    some = gold_of(study)
    ids = fill(tmp_path / "a.csv", some)
    fill(tmp_path / "a.csv", {i: some[i] for i in ids[:25]})
    assert import_audit(study, tmp_path / "a.csv") == ImportCounts(25, 15, 0, 0, 0)
    few = write_labels(study)
    assert "Only 25 texts with gold are left. No figures are given for fewer than 30." in describe(few)[-1]
    assert "ccuracy" not in render_labels(study, few)
    assert "Against gold" not in render_labels(study, few)
    fill(tmp_path / "a.csv", {i: some[i] for i in ids[:35]})
    assert import_audit(study, tmp_path / "a.csv") == ImportCounts(35, 5, 0, 0, 0)
    assert "Of the other 5 nothing is known" in " ".join(describe(write_labels(study)))
    assert "Against gold" in render_labels(study, write_labels(study))
    cases = {
        "id,label\nx,positive\n": "1 entries are of other texts, and no entry of the sample has a label",
        "text,label\na,positive\n": "1 entries are of other texts, and no entry",
        f"id,label\n{ids[0]},good\n": "label of entry 1 must be one of negative, neutral, positive. Got good",
        f"id,label\n{ids[0]},Positive\n": "Got Positive. Did you mean 'positive'",
        f"id,label,label\n{ids[0]},positive,negative\n": "must have one column `label`. Got 2",
        f"id,label\n{ids[0]},positive,x\n": "entry 1 must have 2 cells like the header. Got 3",
        f"id,text\n{ids[0]},a\n": "must have a column `label`. Got id, text",
        f"id,label\n{ids[0]},\n": "no entry of the sample has a label. Try a file",
    }
    for content, said in cases.items():
        (tmp_path / "bad.csv").write_text(content)
        with pytest.raises(UserError, match=said):
            import_audit(study, tmp_path / "bad.csv")
    before = (study.audit / "labels.json").read_bytes()
    other = next(name for name in ("positive", "negative") if name != some[ids[0]])
    (tmp_path / "other.csv").write_text(f"id,label\n{ids[0]},{other}\n")
    with pytest.raises(UserError, match=f"1 labels differ from .*{ids[0]}: {some[ids[0]]} before, {other} now"):
        import_audit(study, tmp_path / "other.csv")
    assert (study.audit / "labels.json").read_bytes() == before
    assert import_audit(study, tmp_path / "other.csv", replace=True) == ImportCounts(35, 5, 1, 0, 0)
    (tmp_path / "bad.json").write_text('[{"id": 1, "annotations": {"label": 3}}]')
    with pytest.raises(UserError, match="must have entries with id, text and label, or be an export"):
        import_audit(study, tmp_path / "bad.json")
    recipe = study.recipe_file
    code, _, errors = command("audit", "sample", recipe, "--n", 5, "--output", tmp_path / "d", "--format", "xml")
    assert (code, "`--format` must be one of csv, jsonl" in errors) == (2, True)
    code, _, errors = command("audit", "import", recipe, tmp_path / "not-there.csv")
    assert (code, "not-there.csv" in errors) == (2, True)


def choice(*names, question="label", **fields):
    """What one annotator ticked in Label Studio, after a comment."""
    comment = {"type": "textarea", "from_name": "comment", "value": {"text": ["unsure"]}}
    result = {"type": "choices", "from_name": question, "value": {"choices": list(names)}}
    return {"result": [comment, result] if names else [], "was_cancelled": False} | fields


def tasks_of(study, tmp_path, n=6):
    draw_audit(study, n, tmp_path / "tasks.json", "label-studio")
    return json.loads((tmp_path / "tasks.json").read_text())


def test_annotators_are_counted_and_a_tie_is_a_conflict(study, tmp_path):
    tasks = tasks_of(study, tmp_path)
    answers = [
        [choice("positive"), choice("positive"), choice("negative")],
        [choice("positive"), choice("negative")],
        [choice("negative", was_cancelled=True), choice("neutral")],
        [choice()],
        [
            choice("neutral"),
        ],
        [],
    ]
    for task, annotations in zip(tasks, answers, strict=True):
        task |= {"annotations": annotations, "drafts": [choice("negative")]}
    foreign = {"id": 9, "data": {"text": "somebody else's"}, "annotations": [choice("positive")]}
    (tmp_path / "export.json").write_text(json.dumps([*tasks, foreign]))
    counts = import_audit(study, tmp_path / "export.json")
    assert (counts.labelled, counts.missing, counts.conflicts, counts.foreign) == (3, 3, 1, 1)
    labels = read_json(study.audit / "labels.json")
    assert [labels.get(task["data"]["id"]) for task in tasks] == ["positive", None, "neutral", None, "neutral", None]
    tasks[0]["annotations"] = [choice("positive", "negative")]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    with pytest.raises(UserError, match="entry 1 must have one label. Got positive, negative"):
        import_audit(study, tmp_path / "export.json")
    tasks[0]["annotations"] = [choice("positive")]
    tasks[0]["annotations"][0]["result"].append({"from_name": "tone", "value": {"choices": ["rude"]}})
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    assert import_audit(study, tmp_path / "export.json").changed == 0


@pytest.mark.parametrize("form", ["csv", "tsv", "semicolons", "json-min"])
def test_exports_that_replace_the_ids_are_matched_by_text(form, study, tmp_path):
    tasks = tasks_of(study, tmp_path)
    gold = gold_of(study)
    rows = [
        {"id": 100 + place, "text": f"  {task['data']['text']} ", "label": gold[task["data"]["id"]], "lead_time": 1.5}
        for place, task in enumerate(tasks)
    ]
    rows.append({"id": 200, "text": "a foreign task", "label": "of another project", "lead_time": 1})
    if form == "json-min":
        rows[0]["label"] = {"choices": [rows[0]["label"]]}
        rows[1]["status"] = "discarded"
        file = tmp_path / "min.json"
        file.write_text(json.dumps(rows))
    else:
        file = tmp_path / ("min.tsv" if form == "tsv" else "min.csv")
        with file.open("w", newline="") as sheet:
            writer = csv.DictWriter(sheet, rows[0], delimiter={"csv": ",", "tsv": "\t", "semicolons": ";"}[form])
            writer.writeheader()
            writer.writerows(rows)
    counts = import_audit(study, file)
    assert (counts.labelled, counts.foreign) == (5 if form == "json-min" else 6, 1)
    assert all(gold[row_id] == name for row_id, name in read_json(study.audit / "labels.json").items())


def test_a_spreadsheets_ways_of_writing_stop_no_import(study, tmp_path):
    draw_audit(study, 6, tmp_path / "a.csv")
    rows = list(csv.DictReader((tmp_path / "a.csv").open(newline="")))
    entries = [{"id": row["id"], "text": 12.0, "label": "neutral"} for row in rows[:2]]
    entries += [{"id": rows[2]["id"], "text": "changed", "label": float("nan")}]
    (tmp_path / "a.json").write_text(json.dumps(entries))
    assert import_audit(study, tmp_path / "a.json").labelled == 2
    (tmp_path / "b.json").write_text(json.dumps([entries[0] | {"text": ["x"]}]))
    with pytest.raises(UserError, match="entry 1 must have a text"):
        import_audit(study, tmp_path / "b.json")
    # a conflict takes an earlier label away only with --replace
    conflict = "".join(f"{rows[0]['id']},{name}\n" for name in ("neutral", "negative"))
    (tmp_path / "c.csv").write_text(f"id,label\n{conflict}{rows[3]['id']},neutral\n")
    counts = import_audit(study, tmp_path / "c.csv")
    assert (counts.labelled, counts.conflicts) == (3, 1)
    counts = import_audit(study, tmp_path / "c.csv", replace=True)
    assert (counts.labelled, counts.conflicts) == (2, 1)
    assert rows[0]["id"] not in read_json(study.audit / "labels.json")


def test_ids_that_were_sorted_apart_from_their_texts_are_refused(study, tmp_path):
    draw_audit(study, 6, tmp_path / "a.csv")
    rows = list(csv.DictReader((tmp_path / "a.csv").open(newline="")))
    ids = sorted((row["id"] for row in rows), reverse=True)
    with (tmp_path / "sorted.csv").open("w", newline="") as sheet:
        writer = csv.DictWriter(sheet, rows[0])
        writer.writeheader()
        writer.writerows(row | {"id": row_id, "label": "neutral"} for row, row_id in zip(rows, ids, strict=True))
    with pytest.raises(UserError, match="Were ids sorted apart from texts. Try removing the column `id`"):
        import_audit(study, tmp_path / "sorted.csv")
    assert not (study.audit / "labels.json").exists()
