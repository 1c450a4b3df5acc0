"""Recipes, and how bad ones are answered: one line, exit code 2, nothing half-written."""

import ast
import json
import os
import pty
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from conftest import LLM, ROOT, SMALL_RECIPE

from hf_recipes.annotate_section import ENGINE_ARGS, Annotate
from hf_recipes.errors import UserError
from hf_recipes.parsing import parse_yaml
from hf_recipes.recipe import load_recipe

BAD_SETTINGS = {
    "--train.epoch=3": ["--train.epoch=3: `train.epoch` is not a key", "Did you mean `train.epochs`?"],
    "--[x=3": ["`[x` is not a key", "Try one of name"],
    "--trian.epochs=3": ["--trian.epochs=3: `trian` is not a key", "Did you mean `train`?"],
    "--annotate.prompt.shots=3": [
        "`annotate.prompt.shots` is not a key",
        "Did you mean `annotate.prompt.random_shots`?",
    ],
    "--train.epochs=0": ["`train.epochs` must be greater than 0. Got 0."],
    "--train.epochs=many": ["`train.epochs` must be a valid integer. Got 'many'."],
    "--grid.variants=[gold, lm]": ["--grid.variants=[gold, lm]: `grid.variants`", "Got 'lm'. Did you mean 'llm'?"],
    "--grid.variants=[llm]": ["`grid.variants` must have gold"],
    "--grid.variants=[gold]": ["`grid.variants` must have llm"],
    "--grid.seeds=[1]": ["`grid.seeds` must have at least 2 items. Got [1]."],
    "--grid.seeds=[1, 1]": ["`grid.seeds` must not list a value twice. Got [1, 1]."],
    "--annotate.engine=vlm": ["`annotate.engine` must be", "Got 'vlm'. Did you mean 'vllm'?"],
    "--data.label_names=[only]": ["data.label_names", "at least 2"],
    "--grid.replace_share=1.5": ["`grid.replace_share` must be less than 1. Got 1.5."],
    "--data.label_names=[no, maybe]": ["`data.label_names`", "Got False. Quote it: YAML reads yes, no"],
    "--name=a/b": ["`name` must match", "Got 'a/b'."],
    "--data.path.x=1": ["--data.path.x=1: `path` must be a section"],
    "--output_dir=some/precious::v2": ["`output_dir` must be a local folder, without '::'", "Got 'some/precious::v2'."],
    "--output_dir=s3://bucket/study": ["`output_dir` must be a local folder", "Got 's3://bucket/study'."],
    "--data.path=some/rows::v2.csv": ["`data.path` must be a local path without '::'", "Got 'some/rows::v2.csv'."],
    "--data={path: x, text_column: a, text_template: '{{ a }}'}": [
        "`data` must have `text_column` or `text_template`, not both"
    ],
    "epochs=3": ["`epochs=3` must be a setting, as --train.epochs=1"],
    "--data.label_names=[a, b, a]": ["must have different names that are not empty"],
    "--annotate.temperature=.inf": ["JSON can hold"],
    "--annotate.engine_args={a: .nan}": ["JSON can hold"],
    "--annotate.engine_args={a: 2020-01-01}": ["JSON can hold", "Quote dates"],
    '--annotate.prompt.instruction="\\ud800"': ["JSON can hold"],
    "--annotate.engine_args={hf_token: hf_abc}": [
        "`annotate.engine_args` must not set `hf_token`. Try one of",
        "seed",
    ],
    "--annotate.engine_args={model: other}": ["must not set `model`"],
    "--annotate.engine_args={structured_outputs_config: {reasoning_parser_plugin: p.py}}": [
        "must not set `structured_out"
    ],
    "--annotate.engine_args={hf_overrides: {auto_map: {AutoConfig: x.Y}}}": ["must have plain values"],
    "--annotate.passes=[{engine_args: {worker_cls: x.Y}}]": ["must not set `worker_cls`"],
    "--train.epochs=!!bool x": ["`train.epochs` must be a valid integer. Got '!!bool x'."],
    "--grid.sizes=[1": ["`grid.sizes` must be a YAML value. Got [1. Quote it."],
    "--data.label_names={0: negative, 1: positive}": ["List the names in the order of their indices"],
    "--data.label_map={no: a, x: b}": ["`data.label_map` must have values that are texts or numbers", "Quote yes, no"],
    "--data.label_names=['a', 'a ']": ["must have different names that are not empty"],
    "--train.epochs=[": ["`train.epochs` must be a YAML value. Got [."],
}


NO_GOLD = ["--data.label_column=null", "--data.label_names=[a, b]"]


@pytest.mark.parametrize(("setting", "parts"), BAD_SETTINGS.items())
def test_a_bad_setting_is_one_line_that_names_the_key_and_the_fix(setting, parts, command, tmp_path):
    code, output, errors = command("run", SMALL_RECIPE, f"--output_dir={tmp_path / 'study'}", setting)
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("error: ")
    for part in parts:
        assert part in errors
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("- a\n- b\n", "must be a YAML mapping"),
        ("name: [", "must be a YAML file"),
        ("", "must be a YAML mapping"),
        ("name: x\ndata: {path: a}\n", "`annotate` is missing"),
    ],
)
def test_a_file_that_is_no_recipe(text, part, command, tmp_path):
    (tmp_path / "recipe.yaml").write_text(text)
    code, _, errors = command("plan", tmp_path / "recipe.yaml")
    assert code == 2
    assert part in errors
    assert errors.count("\n") == 1


def test_no_such_file(command, tmp_path):
    code, _, errors = command("plan", tmp_path / "none.yaml")
    assert code == 2
    assert "does not exist" in errors


def test_overrides_and_defaults():
    recipe = load_recipe(SMALL_RECIPE, ["--train.epochs=7", "--grid.seeds=[5, 6]", "--data.revision=main"])
    assert (recipe.train.epochs, recipe.grid.seeds, recipe.data.revision) == (7, [5, 6], "main")
    assert recipe.folder.as_posix() == "studies/tweets-small"
    assert load_recipe(SMALL_RECIPE, ["--grid.sizes=[300, 150]"]).grid.sizes == [150, 300]


def test_a_section_can_be_made_on_the_command_line(tmp_path):
    content = yaml.safe_load(SMALL_RECIPE.read_text())
    del content["train"], content["data"]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="`data` is missing"):
        load_recipe(tmp_path / "r.yaml")
    assert load_recipe(tmp_path / "r.yaml", ["--data.path=x", "--train=null", "--grid=null"]).data.path == "x"


def test_passes_are_the_section_with_what_each_changes():
    changes = "[{prompt: {seed: 9}}, {model: other, dtype: auto}]"
    passes = load_recipe(SMALL_RECIPE, [f"--annotate.passes={changes}"]).annotate.all_passes()
    assert [(p.model, p.prompt.seed, p.dtype) for p in passes] == [
        ("models/SmolLM2-135M-Instruct", 1, "float32"),
        ("models/SmolLM2-135M-Instruct", 9, "float32"),
        ("other", 1, "auto"),
    ]
    assert all(p.prompt.template == passes[0].prompt.template and not p.passes for p in passes)


def test_a_pass_of_columns_is_not_asked_twice():
    change = "{engine: columns, columns: {label: llm}, prompt: null, calibration: none}"
    recipe = load_recipe(
        SMALL_RECIPE, ["--annotate.repeat_check=7", f"--annotate.passes=[{change}, {{prompt: {{seed: 2}}}}]"]
    )
    assert [section.repeat_check for section in recipe.annotate.all_passes()] == [7, 0, 7]


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        (["--annotate.passes=[{prompt: {sed: 2}}]"], "`prompt.sed` is not a key. Did you mean `prompt.seed`?"),
        (["--annotate.passes=[{calibration_rows: 9}]"], "`annotate.passes` must not change `calibration_rows`"),
        (["--annotate.prompt.random_shots=3"], "only one of `examples`, `shots_per_class` and `random_shots`"),
        (["--annotate.scoring=votes"], "`annotate.calibration` must be none with `scoring: votes`"),
        (["--annotate.thinking=true"], "`annotate.thinking` requires `prompt.chat: true` and `scoring: votes`"),
        (["--train=null"], "`grid` and `train` must both be in the recipe"),
        (["--grid.curves=[gold]"], "`grid.curves` must have gold and llm"),
        (["--grid.variants=[gold, llm]", "--grid.curves=[gold, llm, llm-soft]"], "only variants of `grid.variants`"),
        (["--data.label_column=null"], "`data.label_names` must list the classes"),
        (["--data.label_names=[a, b]", "--data.label_map={1: c}"], "must have classes of `data.label_names`. Got c"),
        (["--data.label_column=null", "--data.label_names=[a, b]"], "gold requires gold for every"),
        (
            [*NO_GOLD, "--grid.variants=[llm, llm-audit]"],
            "`grid.variants` must have llm-random-replace, the control of llm-audit",
        ),
        ([*NO_GOLD, "--grid.variants=[llm, noise-fixed]"], "noise-fixed requires gold for every text"),
        (
            [*NO_GOLD, "--grid.curves=[llm-soft]", "--grid.variants=[llm, llm-soft]"],
            "`grid.curves` must have llm, and only",
        ),
        (
            [*NO_GOLD, "--grid.variants=[llm]", "--train.validation_size=9", "--train.validation_labels=gold"],
            "`train.validation_labels` must be llm",
        ),
    ],
)
def test_what_does_not_go_together_is_said(settings, part, command, tmp_path):
    code, _, errors = command("plan", SMALL_RECIPE, f"--output_dir={tmp_path / 'study'}", *settings)
    assert code == 2
    assert part in errors
    assert errors.count("\n") == 1


def test_all_errors_are_reported_at_once_unknown_keys_first(command, tmp_path):
    settings = ["--train.epochs=0", "--grid.sizes=[1]", "--data.label_names=[only]", "--train.epoch=3"]
    path = tmp_path / "recipe.yaml"
    path.write_text(SMALL_RECIPE.read_text().replace("\n  shots_per_class", "\n  shots").replace("  dtype:", "  dtyp:"))
    code, output, errors = command("plan", path, *settings)
    lines = errors.splitlines()
    assert (code, output) == (2, "")
    assert [line.split("`")[1] for line in lines] == [
        *("annotate.dtyp", "train.epoch"),
        *("data.label_names", "grid.sizes", "train.epochs"),
    ]
    assert lines[0].startswith(f"error: {path}: `annotate.dtyp` is not a key. Did you mean `annotate.dtype`?")
    assert lines[-1] == "error: --train.epochs=0: `train.epochs` must be greater than 0. Got 0."
    # The default of `annotate.calibration` depends on the section, which is wrong here.
    code, _, errors = command("plan", SMALL_RECIPE, "--annotate.dtype=flaot32", "--annotate.scoring=guess")
    assert [line.split("`")[1] for line in errors.splitlines()] == ["annotate.dtype", "annotate.scoring"]


@pytest.mark.parametrize(
    ("scoring", "default"), [("distribution", "contextual"), ("guided", "none"), ("votes", "none")]
)
def test_the_default_calibration_is_one_that_the_scoring_can_have(scoring, default):
    section = {"model": "m", "scoring": scoring, "prompt": {"instruction": "?"}}
    assert Annotate.model_validate(section).calibration == default
    other = Annotate.model_validate({**section, "passes": [{"scoring": "distribution", "prompt": {"seed": 1}}]})
    assert [one.calibration for one in other.all_passes()] == [default, "contextual"]


RECIPES = ROOT / "hf_recipes" / "recipes"


@pytest.mark.parametrize(
    "path",
    [path for folder in ("offline", "paper", "study") for path in sorted((RECIPES / folder).glob("*.yaml"))],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_every_recipe_can_be_planned(path, command, tmp_path, tiny_encoder):
    """Offline, on a file of the columns that the recipe names, with models that are here."""
    recipe = load_recipe(path)
    names = list(recipe.data.label_names or ["neg", "pos"])
    rows = [
        {"text": f"text {i}", "label": names[i % len(names)], "votes": [names[0]], "document": str(i)}
        for i in range(12_000)
    ]
    counts = dict.fromkeys((recipe.data.raters if isinstance(recipe.data.raters, dict) else {}).values(), 1)
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row | counts) for row in rows))
    here = [
        f"--data.path={tmp_path / 'rows.jsonl'}",
        f"--data.label_names={json.dumps(names)}",
        "--data.test_size=1000",
    ]
    here += [f"--annotate.model={LLM}", f"--train.encoder={tiny_encoder}", f"--output_dir={tmp_path / 'study'}"]
    here += ["--train.accelerate_config=cpu"]  # there may be no GPU
    if path.parent.name == "study":
        here += ["--grid.seeds=[0, 1]"]  # a hundred seeds take half a minute
    code, output, errors = command("plan", path, *here)
    assert code == 0, errors
    assert f"{recipe.name} in" in output
    assert not (tmp_path / "study").exists()


def test_every_engine_argument_that_a_recipe_may_set_is_one_of_vllms():
    source = Path(find_spec("vllm").submodule_search_locations[0], "engine", "arg_utils.py").read_text()
    (engine_args,) = (node for node in ast.parse(source).body if getattr(node, "name", "") == "EngineArgs")
    fields = {node.target.id for node in engine_args.body if isinstance(node, ast.AnnAssign)}
    assert set(ENGINE_ARGS) <= fields


EVIL = """
from pathlib import Path
from transformers import BertConfig, BertTokenizer
Path(__file__).with_name("ran").touch()
class EvilConfig(BertConfig):
    model_type = "evil"
class EvilTokenizer(BertTokenizer):
    pass
"""


@pytest.mark.parametrize(
    ("key", "with_tokenizer", "terminal"), [("annotate.model", True, True), ("train.encoder", False, False)]
)
def test_no_code_of_a_model_is_run_or_asked_about(key, with_tokenizer, terminal, tmp_path, tiny_encoder):
    folder = tmp_path / "evil"
    shutil.copytree(tiny_encoder, folder)
    (folder / "evil.py").write_text(EVIL)
    parts = {"config.json": {"model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilConfig"}}}
    if with_tokenizer:
        settings = {"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", None]}}
        parts["tokenizer_config.json"] = settings
    for name, changes in parts.items():
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | changes))
    ours, theirs = pty.openpty()
    os.write(ours, b"y\n")
    settings = [f"--output_dir={tmp_path / 'study'}", "--data.pool_size=40", "--grid.sizes=[10]"]
    settings += [f"--train.encoder={tiny_encoder}", f"--{key}={folder}"]
    done = subprocess.run(
        [sys.executable, "-m", "hf_recipes.cli", "plan", SMALL_RECIPE, *settings],
        stdin=theirs if terminal else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 2, done.stderr  # `plan` prints the steps before the one that fails
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert str(folder) in done.stderr.splitlines()[-1]
    assert not list(Path(os.environ["HF_HOME"]).rglob("evil.py"))
    assert not list(tmp_path.rglob("ran"))


def test_a_key_or_section_twice_is_refused_with_its_line(tmp_path):
    text = SMALL_RECIPE.read_text()
    (tmp_path / "twice.yaml").write_text(f"{text}\ntrain:\n  encoder: x\n")
    with pytest.raises(UserError, match=r"`train` is set twice, again in line [0-9]+. Merge the two."):
        load_recipe(tmp_path / "twice.yaml")
    (tmp_path / "key.yaml").write_text(text.replace("  epochs: ", "  epochs: 9\n  epochs: "))
    with pytest.raises(UserError, match="`epochs` is set twice"):
        load_recipe(tmp_path / "key.yaml")
    merged = "a:\n  b: &x\n    <<: {k: 1}\n    k: 2\nc:\n  <<: *x\n  k: 3\n"  # a merge key is no repetition
    assert parse_yaml(merged) == yaml.safe_load(merged)


@pytest.mark.parametrize(
    "text", ["Is it #1 or # 2?", "Rate it: good or bad", "2020-01-01", "say 'yes'", "- or not", "{{ a }}: {{ b }}"]
)
def test_a_text_on_the_command_line_is_taken_as_it_is(text, tmp_path):
    assert load_recipe(SMALL_RECIPE, [f"--annotate.prompt.instruction={text}"]).annotate.prompt.instruction == text
    assert load_recipe(SMALL_RECIPE, [f'--annotate.prompt.instruction="{text}"']).annotate.prompt.instruction == text


def test_a_colon_in_a_text_of_the_file_asks_for_quotes(tmp_path):
    (tmp_path / "colon.yaml").write_text("name: a\nannotate:\n  prompt:\n    instruction: Rate: good or bad\n")
    with pytest.raises(UserError, match="Quote texts that contain a colon and a blank"):
        load_recipe(tmp_path / "colon.yaml")


def test_class_names_are_folded_as_answers_are_read(tmp_path):
    assert load_recipe(SMALL_RECIPE, ["--data.label_names=['very good ', 'not\\n good']"]).data.label_names == [
        "very good",
        r"not\n good",
    ]
    assert load_recipe(SMALL_RECIPE, ['--data.label_names=["not\\n good", b]']).data.label_names == ["not good", "b"]


def test_the_home_folder_may_be_written_as_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = load_recipe(SMALL_RECIPE, ["--output_dir=~/study", "--data.path=~/texts.csv"])
    assert (recipe.output_dir, recipe.data.path) == (f"{tmp_path}/study", f"{tmp_path}/texts.csv")
