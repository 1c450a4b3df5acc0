"""Damage and full disks: found, named with their mend, and in no result; benchmarks/soak.py has all faults."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, SMALL_RECIPE
from steps import write_dataset, write_labels

from hf_recipes import launch, parquet
from hf_recipes.annotation.annotate import annotate
from hf_recipes.annotation.store import MAX_PART_ROWS, MAX_SMALL_PARTS, PartFiles, PartRow, write_rows
from hf_recipes.data import open_rows
from hf_recipes.errors import UserError
from hf_recipes.recipe import load_recipe
from hf_recipes.study import Study
from hf_recipes.training.train import train


def change_number(file):
    content = file.read_text()
    changed = re.sub(r"(?<=[0-9])[0-9](?=,\n)", "7", content, count=3)
    assert changed != content
    file.write_text(changed)


def rewrite(file, change):
    pq.write_table(change(pq.read_table(file)), file)


def swap(one, other):
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def swap_texts(table):
    texts = table["text"].to_pylist()
    return table.set_column(table.column_names.index("text"), "text", pa.array([texts[1], texts[0], *texts[2:]]))


#: What is tampered with, in valid files; what has to be deleted; the command that makes it again.
TAMPERED = {
    "predictions of two runs swapped": (
        lambda root: swap(*(root / f"runs/llm/n20/{seed}/predictions.parquet" for seed in (0, 1))),
        ("runs/llm/n20/0", "train"),
    ),
    "out-of-bag texts cut off": (
        lambda root: cut(root / "runs/gold/n20/0/out_of_bag.parquet"),
        ("runs/gold/n20/0", "train"),
    ),
    "content-free inputs lost": (
        lambda root: rewrite(next(root.glob("annotations/*/content_free.parquet")), lambda table: table.slice(0, 1)),
        ("annotations/*/content_free.parquet", "annotate"),
    ),
    "test rows lost": (
        lambda root: rewrite(root / "rows/test.parquet", lambda table: table.slice(0, 9)),
        ("rows", "annotate"),
    ),
    "texts under other ids": (lambda root: rewrite(root / "rows/train.parquet", swap_texts), ("rows", "annotate")),
    "a number of the results": (
        lambda root: change_number(root / "report/results.json"),
        ("report/results.json", "report"),
    ),
    "a number on the labels": (
        lambda root: change_number(root / "report/labels.json"),
        ("report/labels.json", "annotate"),
    ),
    "a list in place of a record": (
        lambda root: (root / "runs/gold/n20/1/run.json").write_text("[]"),
        ("runs/gold/n20/1", "train"),
    ),
    "a part's labels": (
        lambda root: rewrite(
            next(root.glob("annotations/*/part-00000.parquet")), lambda table: table.take(list(range(len(table)))[::-1])
        ),
        ("annotations/*/part-00000.parquet", "annotate"),
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_valid_file_that_hf_recipes_did_not_write_is_named_with_the_command_that_makes_it_again(what, study, command):
    tamper, (delete, step) = TAMPERED[what]
    root = study.root
    assert command("report", study.recipe_file)[0] == 0
    before = {path: path.read_bytes() for path in root.glob("runs/*/*/*/*")}
    tamper(root)
    code, _, errors = command("report", study.recipe_file)
    assert code == 2
    target = next(root.glob(delete))
    assert re.search(
        rf"^error: `{root}/\S+` .*Delete `{re.escape(str(target))}` and run hf-recipes {step} again\.$", errors
    )
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    for swapped in root.glob("runs/llm/n20/1") if "swapped" in what else ():
        shutil.rmtree(swapped)
    study = Study(load_recipe(study.recipe_file))
    annotate(study)
    write_labels(study)
    train(study)
    assert command("report", study.recipe_file)[0] == 0
    unlike = [path for path, content in before.items() if path.suffix == ".parquet" and path.read_bytes() != content]
    assert unlike == []


def test_a_kill_between_a_rename_and_its_checksum_leaves_a_good_study(study, monkeypatch, command):
    """The old checksum goes first, so that a file without one is whole, and not damaged."""
    file = study.root / "runs/llm/n20/0/run.json"
    record = json.loads(file.read_text())

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(study.checksums, "_hash", die)
        with pytest.raises(Killed):
            study.write_json(file, {**record, "seconds": 1.0})
    assert command("report", study.recipe_file)[0] == 0
    file.write_text(json.dumps({**record, "seconds": 2.0}))  # by now it has a checksum again
    assert command("report", study.recipe_file)[0] == 2


def damage_bytes(folder):
    file = next(folder.glob("data/llm/*.parquet"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


def change_labels(folder):
    def flip(table):
        place = table.column_names.index("label")
        return table.set_column(place, table.schema.field(place), pa.array((3 - table["label"].to_numpy()) % 3))

    rewrite(next(folder.glob("data/llm/*.parquet")), flip)


DATASET = {
    "changed labels": change_labels,
    "flipped bytes": damage_bytes,
    "no test split": lambda folder: shutil.rmtree(folder / "data/test"),
    "swapped configs": lambda folder: swap(*sorted(folder.glob("data/*/train-*.parquet"))[:2]),
    "another file": lambda folder: shutil.copy(
        folder / "README.md", folder / "data/llm/train-00000-of-00001 (1).parquet"
    ),
    "no folder": shutil.rmtree,
}


@pytest.mark.parametrize("damage", DATASET)
def test_a_damaged_dataset_folder_is_made_again(damage, study, caplog):
    def content():
        return {path.relative_to(study.dataset): path.read_bytes() for path in study.dataset.rglob("*.parquet")}

    before = content()
    DATASET[damage](study.dataset)
    assert content() != before
    write_dataset(study)
    assert content() == before
    assert damage == "no folder" or "differs from what hf-recipes wrote" in caplog.text


def test_the_copy_of_a_synchronised_folder_is_named(study, command):
    part = next(study.root.glob("annotations/*/part-00000.parquet"))
    copy = shutil.copy(part, part.with_name("part-00000 (1).parquet"))
    code, _, errors = command("report", study.recipe_file)
    assert (code, errors.count("\n")) == (2, 1)
    assert f"`{copy}` must be a part of the annotations. Delete it" in errors


@pytest.mark.parametrize("content", ["[]", '"x"', "3", "null", "[" * 100_000])
@pytest.mark.parametrize("name", ["rows/manifest.json", "annotations/current.json", "dataset.json", "checksums.json"])
def test_json_of_the_wrong_kind_is_named(name, content, study, command):
    file = study.root / name
    (study.root / "checksums.json").unlink()  # or the checksums find it first
    file.write_text(content)
    code, _, errors = command("plan", study.recipe_file)
    assert (code, errors.count("\n")) == (2, 1), errors
    assert f"{file}` is damaged. Delete it and run again" in errors


def test_small_parts_are_merged_and_a_later_row_still_overrides(tmp_path, make_study):
    study = make_study()
    with study.lock():
        folder = study.annotations("0" * 16)
        folder.mkdir(parents=True)
        num_parts = MAX_SMALL_PARTS + 20
        for number in range(num_parts):
            failed = number % 3 == 0
            row = PartRow(f"{number}", "engine_error", error="x") if failed else PartRow(f"{number}", "ok")
            write_rows(folder / f"part-{number:05d}.parquet", [row], study.checksums)
        again = [PartRow("0", "ok"), *(PartRow(f"more {i}", "ok") for i in range(MAX_PART_ROWS - 5))]
        write_rows(folder / f"part-{num_parts:05d}.parquet", again, study.checksums)
        ids = pa.array([str(number) for number in range(num_parts)])
        before = PartFiles(folder).statuses(ids)
        PartFiles(folder).merge(study.checksums)
    assert (PartFiles(folder).statuses(ids) == before).all()
    assert before[0] == 0
    files = sorted(folder.glob("*.parquet"))
    assert [pq.read_metadata(file).num_rows for file in files] == [num_parts, len(again)]
    listed = json.loads((study.root / "checksums.json").read_text())
    assert [name for name in listed if name.startswith("annotations")] == [
        str(f.relative_to(study.root)) for f in files
    ]
    Study(study.recipe).check()


def test_no_changed_byte_of_a_table_makes_another_number(tmp_path):
    numbers = pa.table({"x": np.random.default_rng(0).random(500), "name": [f"text {i}" for i in range(500)]})
    file = tmp_path / "a.parquet"
    parquet.write(file, numbers)
    whole = file.read_bytes()
    assert parquet.read(file, numbers.schema).equals(numbers)
    refused = 0
    for place in range(4, len(whole), 23):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        try:
            found = parquet.read(file, numbers.schema)
        except UserError:
            refused += 1
        else:
            assert found.equals(numbers), place
    assert refused > len(whole) / 23 / 2
    for length in range(0, len(whole), 397):
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match=f"is damaged. Delete `{tmp_path}` and run again"):
            list(parquet.batches(file, numbers.schema, ["x"], 10, delete=tmp_path))
    file.unlink()
    with pytest.raises(UserError, match="is missing"):
        parquet.read(file, numbers.schema)


@pytest.mark.parametrize("content", [b"", b"format: 3\nrecipe:\n", b"format: 3\nreci", b"!!bool x", b"\xff"])
def test_a_damaged_recipe_of_a_study_is_written_anew_when_that_is_accepted(content, make_study, tmp_path):
    study = make_study()
    with study.lock():
        pass
    study.recipe_file.write_bytes(content)
    strict = Study(load_recipe(SMALL_RECIPE, [f"--output_dir={study.root}"]))
    with pytest.raises(UserError, match="is damaged. Write it again with --accept-changes"):
        strict.check()
    with study.lock():
        pass
    assert strict.check()


def test_rows_that_are_gone_come_back_though_all_is_annotated(make_study, engine):
    study = make_study("--data.pool_size=40", "--data.test_size=10", "--annotate.prompt.shots_per_class=1")
    annotate(study)
    kept = {path.name: path.read_bytes() for path in study.rows.iterdir()}
    (study.rows / "manifest.json").unlink()
    launch.annotate(study, open_rows(study), 0, SMALL_RECIPE, [])
    assert {path.name: path.read_bytes() for path in study.rows.iterdir()} == kept
    write_dataset(study)


CODES = {
    "raise UserError('a\\nb')": (2, "error: a b\n"),
    "raise UserError('a', 'b\\nc')": (2, "error: a\nerror: b c\n"),
    "raise OSError(28, 'No space left on device')": (2, "error: [Errno 28] No space left on device\n"),
    "raise MemoryError": (70, "error: Memory ran out. Completed work is kept. Free memory, then run again.\n"),
    "{}['\\x1b[31mkey\\udc80']": (70, "error: KeyError: "),
}


@pytest.mark.parametrize("code", CODES)
def test_every_message_is_one_line_and_verbose_shows_where(code):
    script = f"from hf_recipes.logs import in_a_line\nfrom hf_recipes.errors import UserError\nwith in_a_line(): {code}"
    done = subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT, capture_output=True, text=True)
    status, said = CODES[code]
    assert (done.returncode, done.stderr.count("\n")) == (status, max(1, said.count("\n")))
    assert done.stderr.startswith(said)
    assert "\x1b" not in done.stderr
    loud = f"import os; os.environ['HF_RECIPES_VERBOSITY'] = 'debug'\n{script}"
    done = subprocess.run([sys.executable, "-c", loud], check=False, cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" in done.stderr
