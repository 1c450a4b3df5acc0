"""The card of a dataset: verdict, table, how to load it, columns, limits, and details folded."""

import re
import shutil

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ROOT

from hf_recipes.analysis.schema import read_results
from hf_recipes.hub import dataset_card
from hf_recipes.hub.card import split_card
from hf_recipes.hub.dataset_card import make_card
from hf_recipes.hub.dataset_folder import DatasetFolder
from hf_recipes.labels.pool import read_labels
from hf_recipes.report.first_screen import describe_headline
from hf_recipes.report.first_screen.numbers import estimate

TABLES = ["annotations", "runs", "predictions", "out_of_bag", "results"]


@pytest.fixture
def content(study):
    return DatasetFolder(study, read_labels(study))


def publish(content, texts=True):
    return make_card(content, "me/labels", "p-", texts, [*content.variants, *TABLES], True)


def rows_after(card, heading):
    """Return the cells of the first table after a heading, without its two first lines."""
    table = re.search(rf"{heading}\n((?:\|.*\n)+)", card)[1]
    return [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in table.splitlines()[2:]]


def test_the_verdict_comes_first_and_details_are_folded(content):
    front, text = split_card(publish(content))
    parts = ["# tweets: labels by", "**", "labelled the 84 training texts", "## At 20 training texts", "## Load it"]
    parts += ["## Columns", "## What this study leaves open", "<details>", "</details>", "## Citation"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert "https://arxiv.org/abs/2504.15432" in text.split("## Load it")[0]
    assert "Is each tweet positive, neutral or negative?" in text.split("<details>")[-1]
    assert yaml.safe_load(front) | {"configs": 0} == {
        "pretty_name": "tweets: labels by SmolLM2-135M-Instruct",
        "license": "mit",
        "language": "en",
        "task_categories": ["text-classification"],
        "size_categories": ["n<1K"],
        "annotations_creators": ["machine-generated", "found"],
        "source_datasets": ["extended|other-vader_tweets"],
        "tags": ["hf-recipes", "llm-labels"],
        "thumbnail": "https://huggingface.co/datasets/me/labels/resolve/main/hf-recipes/tweets/figure.png",
        "configs": 0,
    }
    assert not re.search(r"^[*|].*\n\n[*|]", text, re.MULTILINE)
    assert len(re.search(r"## What this study leaves open\n((?:\* .*\n)+)", text)[1].splitlines()) <= 4


@pytest.mark.parametrize(
    ("name", "variants"),
    [
        ("tweets", ["gold", "llm", "llm-flip-replace", "llm-flip-random-replace"]),
        ("sms-spam", ["gold", "llm"]),
    ],
)
def test_the_table_has_gold_llm_the_best_mitigation_and_its_control(name, variants, content, monkeypatch):
    results = read_results((ROOT / "docs" / "study" / name / "report" / "results.json").read_bytes())
    monkeypatch.setattr(dataset_card, "read_study_results", lambda study: results)
    card = publish(content)
    rows = rows_after(card, "## At 200 training texts")
    assert [row[0] for row in rows] == variants
    assert [row[3] for row in rows] == [estimate(results.at_top[variant], "macro_f1_mean") for variant in variants]
    assert f"**{describe_headline(results).decision}.** " in card


def test_a_model_and_a_source_of_the_hub_are_linked_and_local_ones_have_their_base_name(content):
    card = publish(content)
    assert "`SmolLM2-135M-Instruct` labelled the" in card
    assert "* Texts and gold labels: `vader_tweets`," in card
    assert "* Classifiers: tiny was fine-tuned" in card
    with content.study.lock():
        model = content.study.recipe.annotate.model
        content.study.write_json(content.study.revisions_file, {f"{model}@main": "0" * 40})
    assert f"[{model}](https://huggingface.co/{model}) labelled the" in publish(content)


def test_the_columns_are_those_of_every_file_and_train_and_test_have_the_same(content):
    folder = content.study.dataset / "data"
    test = pq.read_table(folder / "test" / "test-00000-of-00001.parquet")
    columns = [row[0].strip("`") for row in rows_after(publish(content), "## Columns")]
    for variant in content.variants:
        train = pq.read_schema(folder / variant / "train-00000-of-00001.parquet")
        assert train.equals(test.schema, check_metadata=True)
        assert train.names == columns
    rows = test.to_pylist()
    assert all(row["label"] == row["gold"] and row["label_source"] == "gold" for row in rows)
    empty = ("llm_label", "llm_probs", "entropy", "label_mass", "votes", "flipped")
    assert all(row[name] is None for row in rows for name in empty)


def test_a_local_card_loads_its_folder_as_it_says(content):
    shutil.rmtree(content.study.dataset)  # its card names the folder in which it was made
    content.write()
    _, text = split_card((content.study.dataset / "README.md").read_text())
    assert "**This card has no verdict.**" in text
    scope = {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], scope)  # noqa: S102
    assert list(scope["data"]) == ["train", "test"]
    assert scope["data"]["train"].features["label"].names == ["negative", "neutral", "positive"]


def test_without_texts_no_column_and_no_sentence_mentions_them(content):
    card = publish(content, texts=False)
    assert "`text`" not in card
    assert "row_ids" in card
