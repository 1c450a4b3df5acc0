"""A published classifier: the repo, its card, and the check that it gives the study's predictions."""

import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ROOT
from huggingface_hub import ModelCard
from steps import open_runs

from hf_recipes.analysis.schema import read_results
from hf_recipes.annotation.annotations import Annotations
from hf_recipes.errors import UserError
from hf_recipes.hub.card import merge_model_card, split_card
from hf_recipes.hub.model_card import Published, make_model_card
from hf_recipes.labels.pool import read_labels
from hf_recipes.report.first_screen.numbers import estimate
from hf_recipes.study import read_json
from hf_recipes.training.classifiers import classifier_folder, find_classifiers

COMMIT = """
import json
from huggingface_hub import CommitOperationAdd, HfApi
api = HfApi()
api.create_repo("{repo}", exist_ok=True)
files = {files}
operations = [CommitOperationAdd(path, text.encode()) for path, text in files.items()]
api.create_commit("{repo}", operations, commit_message="theirs")
print(json.dumps(None))
"""
READ = """
import json
from pathlib import Path
from huggingface_hub import snapshot_download
folder = Path(snapshot_download("me/model"))
files = {path.name: path.read_text() for path in folder.iterdir() if path.suffix in (".md", ".json")}
print(json.dumps([sorted(path.name for path in folder.iterdir()), files["README.md"], files["hf-recipes.json"]]))
"""
PUSH = """
import json
from hf_recipes.errors import UserError
from hf_recipes.hub.push_model import push_model
from hf_recipes.recipe import load_recipe
from hf_recipes.study import Study
messages = []
for options in {options}:
    try:
        messages.append(push_model(Study(load_recipe({recipe!r})), **{{"variant": "llm", **options}}))
    except UserError as error:
        messages.append(str(error))
print(json.dumps(messages))
"""
TEXTS = ["What a day!", "I hate rain."]


def push(hub, study, *options):
    """Push once for each of the options, in one process. Return the addresses and errors."""
    return hub.python(PUSH.format(options=options, recipe=str(study.recipe_file)))


def commits(hub):
    return [line for line in hub.ask("log") if "/commit/" in line]


def nearest_run(study):
    """The nearest run by its definition, and the share of the ensemble's labels that it gives."""
    chosen = find_classifiers(study, open_runs(study), "llm")
    probs = [np.array(pq.read_table(study.run(run) / "predictions.parquet")["probs"].to_pylist()) for run in chosen]
    mean = sum(probs) / len(probs)
    agreement = [np.mean(run_probs.argmax(1) == mean.argmax(1)) for run_probs in probs]
    distances = [(-share, np.abs(p - mean).sum()) for share, p in zip(agreement, probs, strict=True)]
    place = distances.index(min(distances))
    return chosen[place], agreement[place]


def test_the_nearest_seed_is_published_with_a_card_and_gives_the_studys_predictions(
    hub, kept_classifiers, command, tmp_path
):
    study = kept_classifiers
    said = hub.cli("push", "model", study.recipe_file, "--variant", "llm", "--repo", "me/model")
    run, agreement = nearest_run(study)
    assert f"{hub.address}/me/model/commit/" in said
    assert f"Seed {run.name} is published. Its predictions of 30 test texts are equal to the study's." in said
    names, card, manifest = hub.python(READ)
    expected = ["README.md", "config.json", "hf-recipes.json", "model.safetensors", "tokenizer.json"]
    assert set(names) == {*expected, ".gitattributes", "tokenizer_config.json"}
    assert json.loads(manifest)["seed"] == run.name

    # The card: metrics of all seeds, in the Hub's own format.
    results = read_results(study.results_file.read_bytes())
    metrics = {entry.metric_type: entry.metric_value for entry in ModelCard(card).data.eval_results}
    result = results.at_top["llm"]
    assert metrics == {
        "accuracy": pytest.approx(result.accuracy_mean, abs=1e-4),
        "f1": pytest.approx(result.macro_f1_mean, abs=1e-4),
        "seed_instability": pytest.approx(result.pairwise_disagreement, abs=1e-4),
    }
    front, text = split_card(card)
    assert {"base_model", "datasets"} & yaml.safe_load(front).keys() == set()  # both are local folders
    assert f"| llm | {estimate(result, 'accuracy_mean')} | {estimate(result, 'macro_f1_mean')} |" in text
    assert f"has seed `{run.name}`: accuracy " in text
    assert f"the ensemble's label to {agreement:.1%} of 30 test texts." in text
    assert str(ROOT) not in card
    assert str(tmp_path) not in card + manifest

    # The example of the card, and the study's own labels of the same texts.
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    example = example.replace('["A text."]', str(TEXTS)).replace("print(", "import json\nprint(json.dumps(")
    published = [{entry["label"]: entry["score"] for entry in scores} for scores in hub.python(f"{example.strip()})")]
    (tmp_path / "new.csv").write_text("text\n" + "".join(f"{line}\n" for line in TEXTS))
    options = ("--seed", run.name, "--output", tmp_path / "out.parquet")
    assert command("predict", study.recipe_file, tmp_path / "new.csv", *options)[0] == 0
    for row, scores in zip(pq.read_table(tmp_path / "out.parquet").to_pylist(), published, strict=True):
        assert scores == {name: pytest.approx(row[f"prob_{name}"], abs=1e-5) for name in results.label_names}

    # Nothing is sent twice; another variant replaces the files, and the owner's lines remain.
    push(hub, study, {"repo": "me/model"})
    assert len(commits(hub)) == 1
    theirs = f"---\nlicense: mit\n{front}\n---\n# Mine\n{text}\nMore of mine.\n"
    hub.python(COMMIT.format(repo="me/model", files={"README.md": theirs, "LICENSE": "x"}))
    said = hub.cli("push", "model", study.recipe_file, "--repo", "me/model", "--variant", "gold")
    assert f"me/model: had the classifier {run}. Now it has gold/n20/" in said
    names, card, manifest = hub.python(READ)
    assert set(names) == {*expected, ".gitattributes", "tokenizer_config.json", "LICENSE"}
    front, text = split_card(card)
    assert yaml.safe_load(front)["license"] == "mit"
    assert text.startswith("# Mine\n")
    assert text.endswith("\nMore of mine.\n")
    assert text.count("<!-- hf-recipes tweets: begin -->") == 1
    assert json.loads(manifest)["variant"] == "gold"


def test_the_card_links_the_published_study_whose_texts_predict_reads_from_the_hub(hub, kept_classifiers, tmp_path):
    study = kept_classifiers
    hub.cli("push", "dataset", study.recipe_file, "--repo", "me/labels")
    push(hub, study, {"repo": "me/model", "dataset": "me/labels"})
    assert yaml.safe_load(split_card(hub.python(READ)[1])[0])["datasets"] == ["me/labels"]
    run, _ = nearest_run(study)
    options = ("--seed", run.name, "--config", "llm", "--output", tmp_path / "out.parquet")
    said = hub.cli("predict", study.recipe_file, "me/labels", *options, "--split", "test")
    assert "(30 texts, abstains on 0)" in said
    stored = pq.read_table(study.run(run) / "predictions.parquet")["probs"].to_pylist()
    table = pq.read_table(tmp_path / "out.parquet")
    probs = np.column_stack([table[f"prob_{name}"] for name in open_runs(study).test.label_names])
    assert probs == pytest.approx(np.array(stored), abs=1e-6)


def test_a_repo_with_another_model_is_refused_and_a_wrong_model_is_not_published(hub, kept_classifiers):
    study = kept_classifiers
    manifest = {"study": "other", "variant": "llm", "seed": "0", "size": 9, "files": ["config.json"]}
    contents = {
        "me/foreign": {"config.json": "{}"},
        "me/other": {"config.json": "{}", "hf-recipes.json": json.dumps(manifest)},
        "me/damaged": {"config.json": "{}", "hf-recipes.json": '{"study": "tweets"}'},
    }
    hub.python("".join(COMMIT.format(repo=repo, files=files) for repo, files in contents.items()))
    messages = push(hub, study, *({"repo": repo} for repo in contents), {"repo": "me/x", "dataset": "me/none"})
    assert "has another model, for example `config.json`" in messages[0]
    assert "has a classifier of the study other" in messages[1]
    assert "`hf-recipes.json` is damaged" in messages[2]
    assert messages[3].startswith("--dataset me/none: The repo does not exist")
    assert len(commits(hub)) == 3  # all of them theirs

    # As if the stored predictions were another model's.
    run, _ = nearest_run(study)
    other = next(r for r in open_runs(study).all if r.variant == "gold")
    shutil.copy(*(classifier_folder(study, place) / "model.safetensors" for place in (other, run)))
    (message,) = push(hub, study, {"repo": "me/wrong"})
    assert message.startswith(f"`{classifier_folder(study, run)}` must be the study's model.")
    assert "The model gives other predictions than the study: probabilities differ by up to " in message
    assert len(commits(hub)) == 3


def test_a_push_survives_a_race_and_opens_one_pull_request(hub, kept_classifiers):
    hub.ask("faults", {"commit": ["race", "503", "drop"]})
    request = {"repo": "me/model", "variant": "gold", "create_pr": True}
    first, *requests = push(hub, kept_classifiers, {"repo": "me/model", "private": True}, request, request)
    assert first.startswith(f"{hub.address}/me/model/commit/")
    assert requests == [f"{hub.address}/me/model/discussions/1"] * 2
    names, _, manifest = hub.python(READ)
    assert {"SOMEBODY", "model.safetensors"} <= set(names)
    assert json.loads(manifest)["variant"] == "llm"


HOSTILE = "a|b](http://x.y) <script>`{{ 7 * 7 }}"


def test_a_card_links_what_is_on_the_hub_and_escapes_the_rest(kept_classifiers):
    study = kept_classifiers
    labels = read_labels(study)
    results = read_results(study.results_file.read_bytes())
    run, _ = nearest_run(study)
    annotations: list[Annotations] = labels.annotations
    with study.lock():
        pinned = {f"{study.training.encoder}@main": "0" * 40}
        study.write_json(study.revisions_file, pinned)
        manifest = read_json(study.rows / "manifest.json")
        study.write_json(study.rows / "manifest.json", {**manifest, "source": {"sha": "0" * 40}})
    published = Published("me/model", run, 0, 3, 0.9, 30, "me/labels")
    hostile = results.model_copy(update={"label_names": [HOSTILE, "b"], "lines": {"llm": HOSTILE}})
    card = make_model_card(study, hostile, published, annotations)
    front, text = split_card(card)
    metadata = yaml.safe_load(front)
    assert metadata["base_model"] == study.training.encoder
    assert metadata["datasets"] == [study.recipe.data.path, "me/labels"]
    assert metadata["pipeline_tag"] == "text-classification"
    assert "](https://huggingface.co/datasets/me/labels)" in text
    assert "<script>" not in text
    assert "](http://x.y)" not in text
    assert "{{ 7 * 7 }}" in text.replace("\\", "")  # is shown as it is


CARD = "---\ntags:\n- mine\n- hf-recipes\nlicense: mit\npipeline_tag: other\n---\nmine\n"
MADE = "---\npipeline_tag: text-classification\ntags:\n- hf-recipes\n---\n# New\n"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_model_card_keeps_the_owners_metadata_and_is_the_same_after_a_second_merge(newline):
    card = CARD.replace("\n", newline)
    merged = merge_model_card(card, "s", MADE)
    front, text = split_card(merged)
    assert yaml.safe_load(front) == {
        "tags": ["mine", "hf-recipes"],
        "license": "mit",
        "pipeline_tag": "text-classification",
    }
    assert text.startswith(f"mine{newline}")
    assert merge_model_card(merged, "s", MADE) == merged
    assert split_card(merge_model_card("", "s", MADE))[1].startswith("<!-- hf-recipes s: begin -->\n# New\n")
    with pytest.raises(UserError, match="one of the marks of s without the other"):
        merge_model_card(f"{CARD}<!-- hf-recipes s: begin -->", "s", MADE)
