"""Damage and full disks: found, named with their mend, and in no result; benchmarks/soak.py has all faults."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import DEMO, ROOT
from test_annotate import engine  # noqa: F401  (a fixture)

from hf_recipes import cli, tables
from hf_recipes.annotate import annotate
from hf_recipes.data import open_rows
from hf_recipes.recipe import UserError, load_recipe
from hf_recipes.study import Study
from hf_recipes.variants import write_variants


def test_no_changed_byte_of_a_table_makes_another_number(tmp_path):
    numbers = pa.table({"x": np.random.default_rng(0).random(500), "name": [f"text {i}" for i in range(500)]})
    file = tmp_path / "a.parquet"
    tables.write(file, numbers)
    whole = file.read_bytes()
    assert tables.read(file, numbers.schema).equals(numbers)
    refused = 0
    for place in range(4, len(whole), 23):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        try:
            found = tables.read(file, numbers.schema)
        except UserError:
            refused += 1
        else:
            assert found.equals(numbers), place
    assert refused > len(whole) / 23 / 2
    for length in range(0, len(whole), 397):
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match=f"damaged; delete {tmp_path} and run again"):
            list(tables.batches(file, numbers.schema, ["x"], 10, delete=tmp_path))
    file.unlink()
    with pytest.raises(UserError, match="is gone"):
        tables.read(file, numbers.schema)


@pytest.mark.parametrize("content", [b"", b"format: 2\nrecipe:\n", b"format: 2\nreci", b"!!bool x", b"\xff"])
def test_a_damaged_recipe_of_a_study_is_written_anew_when_that_is_accepted(content, make_study, tmp_path):
    study = make_study()
    with study.lock():
        pass
    study.recipe_file.write_bytes(content)
    strict = Study(load_recipe(DEMO, [f"--output_dir={study.root}"]))
    with pytest.raises(UserError, match="damaged; pass --accept-changes to write it anew"):
        strict.check()
    with study.lock():
        pass
    assert strict.check()


def test_rows_that_are_gone_come_back_though_all_is_annotated(make_study, engine):  # noqa: F811
    study = make_study("--data.pool_size=40", "--data.test_size=10", "--annotate.prompt.shots_per_class=1")
    annotate(study)
    kept = {path.name: path.read_bytes() for path in study.rows.iterdir()}
    (study.rows / "manifest.json").unlink()
    cli._annotate(study, open_rows(study), DEMO, [])
    assert {path.name: path.read_bytes() for path in study.rows.iterdir()} == kept
    write_variants(study)


CODES = {
    "raise UserError('a\\nb')": (2, "error: a b\n"),
    "raise OSError(28, 'No space left on device')": (2, "error: [Errno 28] No space left on device\n"),
    "raise MemoryError": (70, "error: memory ran out; what is done stays: free some, then run again\n"),
    "{}['\\x1b[31mkey\\udc80']": (70, "error: KeyError: "),
}


@pytest.mark.parametrize("code", CODES)
def test_every_error_is_one_line_and_verbose_shows_where(code):
    script = f"from hf_recipes.logs import in_a_line\nfrom hf_recipes.recipe import UserError\nwith in_a_line(): {code}"
    done = subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT, capture_output=True, text=True)
    status, said = CODES[code]
    assert (done.returncode, done.stderr.count("\n")) == (status, 1)
    assert done.stderr.startswith(said)
    assert "\x1b" not in done.stderr
    loud = f"import os; os.environ['HF_RECIPES_VERBOSITY'] = 'debug'\n{script}"
    done = subprocess.run([sys.executable, "-c", loud], check=False, cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" in done.stderr


class FullDisk:
    def write(self, data):
        raise OSError(28, "No space left on device")

    def flush(self):
        pass


def test_torch_says_of_a_full_disk_what_it_is():
    """Given a stream, and not a name: what a run's state is saved by relies on that."""
    with pytest.raises(OSError, match="No space left"):
        torch.save({"x": torch.zeros(10_000)}, FullDisk())
