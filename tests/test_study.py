"""The study folder: keys of all that matters, nothing half-written, one writer at a time."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import SMALL_RECIPE

from hf_recipes.errors import UserError
from hf_recipes.hashing import hash_files, make_key
from hf_recipes.study import read_json, whole_folder, write_json, write_text


def test_a_key_changes_with_every_ingredient_and_with_nothing_else():
    ingredients = {"model": "a", "engine": {"version": "1", "threads": 2}, "labels": {"x": 1, "y": 2}}
    key = make_key(**ingredients)
    assert key == make_key(**dict(reversed(ingredients.items())))
    for changed in (
        {"model": "b"},
        {"engine": {"version": "2", "threads": 2}},
        {"engine": {"version": "1", "threads": 4}},
        {"labels": {"x": 2, "y": 1}},
        {"extra": None},
    ):
        assert make_key(**{**ingredients, **changed}) != key


def test_the_identity_of_files_is_names_and_bytes_hidden_ones_left_out(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("one")
    first = hash_files(tmp_path)
    (tmp_path / ".hidden").write_text("noise")
    assert hash_files(tmp_path) == first
    (tmp_path / "a" / "x.txt").write_text("two")
    second = hash_files(tmp_path)
    (tmp_path / "a" / "x.txt").rename(tmp_path / "a" / "y.txt")
    assert len({first, second, hash_files(tmp_path)}) == 3
    single = tmp_path / "a" / "y.txt"
    before = hash_files(single)
    single.write_text("three")
    assert hash_files(single) != before


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "runs" / "0"

    def write(content, fail=False):
        with whole_folder(target) as folder:
            (folder / "file").write_text(content)
            if fail:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        write("half", fail=True)
    assert not target.exists()
    write("old")
    with pytest.raises(RuntimeError):
        write("half", fail=True)
    assert (target / "file").read_text() == "old"
    write("new")
    assert (target / "file").read_text() == "new"
    assert [p.name for p in target.parent.iterdir()] == ["0"]


WRITER = """
import sys, pathlib
from hf_recipes.study import whole_folder, write_text
target = pathlib.Path(sys.argv[1])
while True:
    for letter in "ab":
        write_text(target / "text", letter * 200_000)
        with whole_folder(target / "folder") as folder:
            for name in ("one", "two"):
                (folder / name).write_text(letter * 50_000)
"""


def test_a_writer_killed_at_any_moment_leaves_old_or_new_never_a_mixture(tmp_path):
    write_text(tmp_path / "text", "a" * 200_000)
    for attempt in range(8):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path])
        time.sleep(0.4 + 0.037 * attempt)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        text = (tmp_path / "text").read_text()
        assert (len(text), len(set(text))) == (200_000, 1)
        if (tmp_path / "folder").exists():
            parts = [(tmp_path / "folder" / name).read_text() for name in ("one", "two")]
            assert parts[0] == parts[1]
            assert len(parts[0]) == 50_000


def test_a_study_made_by_another_recipe_is_refused_unless_told(command, make_study):
    study = make_study()
    with study.lock():
        pass
    before = study.recipe_file.read_text()
    changed = [
        "annotate",
        SMALL_RECIPE,
        f"--output_dir={study.root}",
        "--annotate.model=models/none",
        "--train.epochs=9",
    ]
    code, _, errors = command(*changed)
    assert code == 2
    assert "was made by another recipe (differs in annotate.model, train.epochs)" in errors
    assert "--accept-changes" in errors
    assert study.recipe_file.read_text() == before
    code, _, errors = command(*changed, "--accept-changes")
    assert "must be a local folder or a model on the Hub. Got models/none" in errors
    assert study.recipe_file.read_text() == before  # a recipe that stops with an error takes nothing over
    with make_study("--train.epochs=9").lock():
        assert "epochs: 9" in study.recipe_file.read_text()


def test_where_a_study_lies_and_where_a_server_listens_is_no_change(make_study, tmp_path):
    with make_study().lock():
        pass
    (tmp_path / "study").rename(tmp_path / "moved")
    assert make_study("--annotate.base_url=http://127.0.0.1:1", folder="moved").check()
    assert not make_study("--train.epochs=9", folder="moved").check()


def test_a_grid_may_grow_without_being_another_recipe(make_study, command):
    study = make_study()
    with study.lock():
        pass
    code, output, _ = command("plan", SMALL_RECIPE, f"--output_dir={study.root}", "--grid.seeds=[0, 1, 2, 3]")
    assert code == 0
    assert "32 runs" in output
    code, _, errors = command("plan", SMALL_RECIPE, f"--output_dir={study.root}", "--train.epochs=9")
    assert code == 2
    assert "differs in train.epochs" in errors


def test_a_folder_with_other_files_is_never_taken(command, tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "precious.txt").write_text("mine")
    code, _, errors = command("run", SMALL_RECIPE, f"--output_dir={tmp_path}")
    assert code == 2
    assert "has other files and is not a study" in errors
    assert [p.name for p in tmp_path.rglob("*")] == ["rows", "precious.txt"]


def test_a_second_process_waits_for_the_first(make_study, caplog):
    study, order = make_study(), []

    def second():
        with study.lock():
            order.append("second")

    with study.lock():
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.5)
        order.append("first")
    thread.join(timeout=30)
    assert order == ["first", "second"]
    assert "is waiting for it" in caplog.text


def test_json_is_plain_and_damage_is_named(tmp_path):
    write_json(tmp_path / "x.json", {"a": [1, None]})
    assert read_json(tmp_path / "x.json") == {"a": [1, None]}
    assert read_json(tmp_path / "none.json") is None
    (tmp_path / "x.json").write_text('{"a": [1')
    with pytest.raises(UserError, match="is damaged. Delete it"):
        read_json(tmp_path / "x.json")
    with pytest.raises(ValueError, match="nan"):
        write_json(tmp_path / "y.json", {"a": float("nan")})
    assert not (tmp_path / "y.json").exists()


def test_a_read_only_place_is_one_line(command, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    code, _, errors = command("annotate", SMALL_RECIPE, f"--output_dir={blocked / 'study'}")
    assert code == 2
    assert errors.count("\n") == 1
    assert os.fspath(blocked) in errors
