"""The skill for agents: its front matter, its commands and its fields exist; the schema of trust.json is current."""

import re
import shlex
from typing import get_args

import pytest
import typer
import yaml
from conftest import ROOT
from pydantic import BaseModel

from hf_recipes.cli import app
from hf_recipes.recipe import Recipe
from hf_recipes.report.trust import Score, Trust

SKILL = ROOT / "skills" / "hf-recipes"
TEXT = (SKILL / "SKILL.md").read_text()
REFERENCE = (SKILL / "references" / "trust.md").read_text()
OPTIONAL = {"license", "compatibility", "metadata", "allowed-tools"}


def find_record(kind):
    """The record that a field or the entries of its list contain, if any."""
    for part in (kind, *get_args(kind)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def fields():
    """The fields of trust.json and their descriptions; those of entries by the name of their list."""
    for name, field in Trust.model_fields.items():
        yield name, field.description
        record = find_record(field.annotation)
        if record and name != "baselines":  # results.json has the same
            is_list = record is not field.annotation
            for inner, part in record.model_fields.items():
                yield f"{name}[].{inner}" if is_list else f"{name}.{inner}", part.description


def make_schema():
    rows = [f"| `{name}` | {description} |" for name, description in fields()]
    return "\n".join(["| field | meaning |", "|---|---|", *rows]) + "\n"


@pytest.mark.parametrize("page", ["docs/certify.md", "skills/hf-recipes/references/trust.md"])
def test_the_schema_of_trust_json_is_current(page):
    assert all(description for _, description in fields())
    assert make_schema() in (ROOT / page).read_text(), f"replace the table by\n{make_schema()}"


def test_the_front_matter_follows_the_specification():
    """https://agentskills.io/specification"""
    _, front, body = TEXT.split("---\n", 2)
    matter = yaml.safe_load(front)
    assert {"name", "description"} <= matter.keys() <= {"name", "description", *OPTIONAL}
    assert matter["name"] == SKILL.name
    assert len(matter["name"]) <= 64
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", matter["name"])
    assert 1 <= len(matter["description"]) <= 1024
    assert 1 <= len(matter["compatibility"]) <= 500
    assert all(isinstance(value, str) for value in matter.values())
    assert len(body.splitlines()) < 150
    for link in re.findall(r"\]\(([^)]+)\)", body):
        assert (SKILL / link).exists()


def calls():
    """The words of each `hf-recipes` line in a block, and of each such code in a sentence."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`((?:hf-recipes|predict|push) [^`]+)`", re.sub(r"^```.*?^```$", "", TEXT, flags=re.M | re.S))
    return [shlex.split(line.removeprefix("hf-recipes ")) for line in lines if not line.startswith("hf ")]


def test_every_command_and_option_exists():
    assert len(calls()) > 15
    for words in calls():
        command, names = typer.main.get_command(app), iter(words)
        while hasattr(command, "commands"):
            name = next(names, "COMMAND")
            if name == "COMMAND":  # for any
                break
            assert name in command.commands, words
            command = command.commands[name]
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for word in words:
            if word.startswith("--") and "." in word.partition("=")[0]:
                check_setting(word)
            elif word.startswith("--"):
                assert word in options, words


def check_setting(word):
    """A setting of the recipe exists and takes the value."""
    name, _, value = word[2:].partition("=")
    section, key = name.split(".")
    kind = find_record(Recipe.model_fields[section].annotation)
    assert kind is not None
    assert key in kind.model_fields, word
    if section == "accept":
        assert getattr(kind.model_validate({key: yaml.safe_load(value)}), key) == yaml.safe_load(value)


def test_settings_in_sentences_exist():
    for name in re.findall(r"`((?:annotate|train|grid|accept)\.[a-z_.]+)", TEXT):
        kind = Recipe
        for part in name.split("."):
            assert part in kind.model_fields, name
            kind = find_record(kind.model_fields[part].annotation) or kind


def test_every_field_and_verdict_that_it_names_exists():
    section = TEXT.split("## Read trust.json")[1].split("## ")[0]
    known = {part for name, _ in fields() for part in (name, re.split(r"[.\]]+", name)[-1])}
    known |= {value for field in ("verdict", "method") for value in get_args(Trust.model_fields[field].annotation)}
    known |= {"verdict", "fails", "value", "interval", *Score.model_fields}
    named = set(re.findall(r"`([^`]+)`", section))
    assert named <= known, named - known


def test_the_python_of_the_reference_reads_a_verdict(tmp_path, monkeypatch, study, capsys):
    """The file of a real study: every field that a program reads is there."""
    from steps import measure

    from hf_recipes.report.trust import write_trust

    write_trust(study, measure(study))
    written = (study.report / "trust.json").read_bytes()
    rows = study.rows.rename(tmp_path / "rows")  # as where labels without texts were copied: docs/study.md
    write_trust(study, measure(study))
    assert (study.report / "trust.json").read_bytes() == written
    rows.rename(study.rows)
    folder = tmp_path / "studies" / "certify-NAME" / "report"
    folder.mkdir(parents=True)
    (folder / "trust.json").write_bytes((study.report / "trust.json").read_bytes())
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```$", REFERENCE, re.MULTILINE | re.DOTALL)
    exec(code, {})  # noqa: S102
    assert "inconclusive ['macro_f1_loss', 'churn', 'min_class_f1']" in capsys.readouterr().out
