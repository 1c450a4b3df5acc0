"""`hf-recipes init`: recipes for datasets of all kinds, which the loader and the plan accept."""

import csv
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import LLM, SAMPLE

from hf_recipes.recipe import load_recipe
from hf_recipes.training.grid import MIN_POOL

CLASSES = ["ham", "spam: paid", 'say "yes" #1', "日本, é"]


def make_rows(num_rows, classes=CLASSES):
    chance = random.Random(0)
    words = ["alpha", "beta", "gamma", "delta", "omega"]
    return [
        {
            "id": f"row-{i}",
            "language": "en",
            "title": f"{chance.choice(words)} {i}",
            "body": " ".join(chance.choices(words, k=20)) + f" {i}",
            "kind": classes[i % len(classes)],
        }
        for i in range(num_rows)
    ]


def write_rows(path, rows):
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def init(command, tmp_path):
    """Call init and return the recipe that it wrote, and its output. The plan must accept the recipe."""

    def call(dataset, *options):
        path = tmp_path / "made.yaml"
        code, output, errors = command("init", dataset, "--output", path, *options)
        assert code == 0, errors
        assert output.endswith(f"Next:\n  hf-recipes plan {path}\n  hf-recipes run {path}\n")
        # Tests have a smaller model than the one that init takes.
        model = () if "--llm-label" in options else (f"--annotate.model={LLM}",)
        code, _, errors = command("plan", path, f"--output_dir={tmp_path / 'study'}", *model)
        assert code == 0, errors
        return load_recipe(path), output

    return call


def test_a_folder_with_a_class_label_and_a_test_split(init, tmp_path):
    recipe, output = init(SAMPLE)
    data, grid = recipe.data, recipe.grid
    assert (recipe.name, data.path) == ("vader_tweets", str(SAMPLE))
    assert (data.text_column, data.label_column, data.test_split) == ("text", "label", "test")
    assert data.label_names == ["negative", "neutral", "positive"]
    assert "2,601 rows, 3 classes: negative, neutral, positive" in output
    assert len(grid.seeds) == 10
    num_examples = 3 * recipe.annotate.prompt.shots_per_class
    assert MIN_POOL * grid.sizes[-1] + num_examples == data.pool_size < 2601
    for line in (tmp_path / "made.yaml").read_text().splitlines():
        is_section = line.rstrip().endswith(":")
        assert not line or line.startswith("#") or is_section or " # " in line


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_file_of_any_kind(suffix, init, tmp_path):
    recipe, _ = init(write_rows(tmp_path / f"my texts{suffix}", make_rows(600)))
    data = recipe.data
    assert recipe.name == "my-texts"
    assert (data.text_column, data.label_column) == ("body", "kind")
    assert data.label_names == sorted(CLASSES)
    assert data.test_size == 150
    assert MIN_POOL * recipe.grid.sizes[-1] <= 600  # at least a hundred where rows are few


def test_columns_can_be_named_and_wrong_names_are_refused(init, command, tmp_path):
    path = write_rows(tmp_path / "rows.csv", make_rows(600))
    recipe, _ = init(path, "--text", "title", "--label", "kind")
    assert (recipe.data.text_column, recipe.data.label_column) == ("title", "kind")
    for options, message in {
        ("--text", "txt"): "`--text` must name a column of",
        ("--label", "lbl"): "Got lbl. Try one of id, language, title, body, kind.",
        ("--label", "id"): "`--label` must name a column with 2 to 100 classes. Got id with 600.",
        ("--label", "language"): "Got language with 1.",
    }.items():
        code, _, errors = command("init", path, "--output", tmp_path / "other.yaml", *options)
        assert (code, errors.count("\n")) == (2, 1)
        assert message in errors
        assert not (tmp_path / "other.yaml").exists()


def test_a_dataset_that_does_not_exist_is_named(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, errors = command("init", "nothing.csv")
    assert code == 2
    assert "must be a file, a folder or a Hub dataset. Got nothing.csv, which does not exist." in errors


def test_labels_made_elsewhere_are_read(init, command, tmp_path):
    rows = [{**row, "gpt": CLASSES[i % 3]} for i, row in enumerate(make_rows(600))]
    path = write_rows(tmp_path / "rows.csv", rows)
    recipe, output = init(path, "--llm-label", "gpt")
    assert (recipe.data.text_column, recipe.data.label_column, recipe.annotate.columns.label) == ("body", "kind", "gpt")
    assert recipe.grid.variants == ["gold", "llm", "llm-random-replace"]
    assert "Labels made elsewhere: `gpt`, " in output
    assert "prompt" not in (tmp_path / "made.yaml").read_text()
    (tmp_path / "made.yaml").unlink()
    without_gold = write_rows(tmp_path / "few.csv", [{"body": row["body"], "gpt": row["gpt"]} for row in rows])
    recipe, output = init(without_gold, "--llm-label", "gpt")
    assert (recipe.grid, recipe.data.label_column, recipe.data.label_names) == (None, None, sorted(CLASSES[:3]))
    code, _, errors = command("init", path, "--output", tmp_path / "other.yaml", "--llm-label", "id")
    assert (code, "`--llm-label` must name a column with 2 to 100 classes. Got id with 600." in errors) == (2, True)


def test_without_labels_the_recipe_only_labels_texts(init, tmp_path):
    rows = [{"id": row["id"], "body": row["body"]} for row in make_rows(50)]
    recipe, output = init(write_rows(tmp_path / "rows.jsonl", rows))
    assert (recipe.grid, recipe.train, recipe.data.label_column) == (None, None, None)
    assert "No label column was found among id, body" in output
    assert "# CHANGE: your classes" in (tmp_path / "made.yaml").read_text()


def test_too_few_gold_labels_only_evaluate_the_llm(init, tmp_path):
    recipe, output = init(write_rows(tmp_path / "rows.csv", make_rows(40)))
    assert (recipe.grid, recipe.train, recipe.data.label_column) == (None, None, "kind")
    assert "40 gold labels are too few for training" in output


def test_a_test_split_without_labels_is_left_out(init, tmp_path):
    """The labels of the split are -1, as in GLUE: validation texts are tested."""
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    folder = tmp_path / "glue"
    folder.mkdir()
    for split, num_rows in {"train": 700, "validation": 80, "test": 90}.items():
        labels = [-1] * num_rows if split == "test" else [i % 2 for i in range(num_rows)]
        rows = {"sentence": [f"{split} text {i}" for i in range(num_rows)], "label": labels}
        Dataset.from_dict(rows, features).to_parquet(folder / f"{split}.parquet")
    recipe, _ = init(folder)
    assert (recipe.data.test_split, recipe.data.test_size, recipe.data.label_names) == (
        "validation",
        None,
        ["no", "yes"],
    )
    (folder / "validation.parquet").unlink()
    (tmp_path / "made.yaml").unlink()
    recipe, _ = init(folder)
    assert (recipe.data.test_split, recipe.data.test_size) == ("train", 175)


def test_a_rare_class_has_no_more_examples_than_rows(init, tmp_path):
    rows = make_rows(3000, ["0", "1"])
    for place, row in enumerate(rows):
        row["kind"] = 0 if place % 500 else 1
        row["body"] = None if place % 3 == 1 else row["body"]
    recipe, _ = init(write_rows(tmp_path / "rows.parquet", rows))
    assert recipe.data.label_names == ["0", "1"]
    assert recipe.annotate.prompt.shots_per_class == 0
    assert "# numbers mean little to an LLM" in (tmp_path / "made.yaml").read_text()


def test_scores_from_minus_one_to_one_are_numbers_too(init, tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"t{i},{i % 3 - 1}\n" for i in range(90)))
    recipe, _ = init(tmp_path / "a.csv")
    assert recipe.data.label_names == ["-1", "0", "1"]
    assert "# numbers mean little to an LLM: list names, and add label_map" in (tmp_path / "made.yaml").read_text()


def test_no_file_is_replaced(command, tmp_path, monkeypatch):
    write_rows(tmp_path / "rows.csv", make_rows(50))
    monkeypatch.chdir(tmp_path)
    assert command("init", "rows.csv")[0] == 0
    before = (tmp_path / "rows.yaml").read_text()
    code, _, errors = command("init", "rows.csv", "--text", "title")
    assert code == 2
    assert "`rows.yaml` must not exist. Try --output another.yaml." in errors
    assert (tmp_path / "rows.yaml").read_text() == before


def test_a_small_encoder_takes_larger_steps_and_more_of_them(command, tmp_path, monkeypatch):
    trains = []
    for place, (has_gpu, has_bfloat16) in enumerate([(False, False), (True, True), (True, False)]):
        monkeypatch.setattr("torch.cuda.is_available", lambda has_gpu=has_gpu: has_gpu)
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation, has=has_bfloat16: has)
        path = tmp_path / f"{place}.yaml"
        assert command("init", SAMPLE, "--output", path)[0] == 0
        trains.append(load_recipe(path).train)
    small, large, old = trains
    assert ("MiniLM" in small.encoder, large.encoder.endswith("roberta-base")) == (True, True)
    assert small.learning_rate > 5 * large.learning_rate
    assert small.epochs > large.epochs
    assert [train.accelerate_config for train in trains] == ["cpu", "one-gpu", "one-gpu-float32"]
    assert old.encoder == large.encoder


CARD = """---
configs:
- config_name: small
  data_files: [{split: train, path: small/train.jsonl}]
- config_name: large
  data_files: [{split: train, path: large/train.jsonl}]
---
"""
UPLOAD = """
from huggingface_hub import HfApi
HfApi().create_repo("me/rows", repo_type="dataset")
HfApi().upload_folder(repo_id="me/rows", folder_path={folder!r}, repo_type="dataset")
print("0")
"""


def test_a_hub_dataset_with_configs(hub, tmp_path):
    folder = tmp_path / "rows"
    for config, num_rows in {"small": 100, "large": 300}.items():
        (folder / config).mkdir(parents=True)
        write_rows(folder / config / "train.jsonl", make_rows(num_rows))
    (folder / "README.md").write_text(CARD)
    hub.python(UPLOAD.format(folder=str(folder)))
    path = tmp_path / "made.yaml"
    assert "Try one of small, large" in hub.cli("init", "me/rows", "--output", path, code=2)
    assert "which is not here and not on the Hub" in hub.cli("init", "me/none", "--output", path, code=2)
    assert "Gold labels: `kind`, 300 rows, 4 classes" in hub.cli(
        "init", "me/rows", "--config", "large", "--output", path
    )
    recipe = load_recipe(path)
    assert (recipe.name, recipe.data.path, recipe.data.name) == ("rows", "me/rows", "large")
    assert recipe.data.test_size == 75
    assert "rows in" in hub.cli("plan", path, f"--output_dir={tmp_path / 'study'}", f"--annotate.model={LLM}")
