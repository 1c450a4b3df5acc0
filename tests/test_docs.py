"""README and docs: the first example of each page runs, links lead somewhere, and the pages stay short.

The example of a page is its first block of `bash` or `python`. A block with a file name after its language is a file
that the example reads; the rows of a CSV file are repeated. `hf-recipes` runs in this process with a stand-in for the
LLM and a tiny encoder, on few texts.
"""

import contextlib
import csv
import io
import itertools
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LLM, ROOT

from hf_recipes.annotation.annotate import annotate
from hf_recipes.recipe import load_recipe
from hf_recipes.training.train import train

README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DEMO = "hf_recipes/recipes/tweets-demo.yaml"


@pytest.fixture
def small(tiny_encoder):
    """Returns the settings that make a recipe small enough for a test."""

    def settings(recipe):
        content = load_recipe(recipe)
        small = [f"--annotate.model={LLM}", "--annotate.engine=vllm", "--annotate.dtype=float32"]
        if content.data.pool_size and content.data.pool_size > 90:
            small += ["--data.pool_size=90", "--data.test_size=24", "--annotate.prompt.shots_per_class=1"]
        if content.grid:
            small += ["--grid.sizes=[20]", "--grid.seeds=[0, 1]", "--train.epochs=1", "--train.out_of_bag=0"]
            small += [f"--train.encoder={tiny_encoder}", "--train.accelerate_config=cpu"]
        return small

    return settings


@pytest.fixture
def shell(command, engine, small, tiny_encoder, monkeypatch):
    """Runs the lines of an example as bash does, and those of `hf-recipes` in this process."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("hf_recipes.launch.annotate", lambda study, *_: annotate(study))
    monkeypatch.setattr("hf_recipes.launch.train", lambda study, *_: train(study))

    def run(script):
        script = script.replace("\\\n", " ")
        for line in script.splitlines():
            arguments = shlex.split(line, comments=True)
            if arguments[:1] != ["hf-recipes"]:
                subprocess.run(["/bin/bash", "-ec", line], check=True)
                continue
            recipes = [place for place, text in enumerate(arguments) if text.endswith(".yaml") and Path(text).exists()]
            for place in recipes:
                arguments[place + 1 : place + 1] = small(arguments[place])
            if arguments[1] == "certify":  # which writes its recipe
                arguments += [f"--train.encoder={tiny_encoder}", "--grid.seeds=[0, 1, 2]"]
            code, output, errors = command(*arguments[1:])
            assert code == 0, f"{line}\n{output}{errors}"

    return run


@pytest.fixture
def workplace(tmp_path, kept_studies, shell, monkeypatch):
    """A folder like the project's, with the study that `make demo` makes, but small."""
    monkeypatch.chdir(tmp_path)
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name != "studies":
            (tmp_path / path.name).symlink_to(path)
    if not (kept_studies / "docs").exists():
        shell(f"hf-recipes run {DEMO}")
        shutil.copytree("studies", kept_studies / "docs")
    shutil.copytree(kept_studies / "docs", "studies", dirs_exist_ok=True)
    return tmp_path


def read_blocks(page):
    return [match.groups() for match in BLOCK.finditer(page.read_text())]


def lengthen(table):
    """The text of a CSV file, with each row sixty times."""
    header, *rows = csv.reader(io.StringIO(table))
    output = io.StringIO()
    csv.writer(output).writerows([header, *([f"{row[0]} {place}", *row[1:]] for place in range(60) for row in rows)])
    return output.getvalue()


@pytest.mark.parametrize("page", [README, *PAGES, DOCS / "dev" / "benchmarks.md"], ids=lambda page: page.stem)
def test_the_first_example_of_a_page_runs(page, workplace, shell):
    blocks = read_blocks(page)
    for _, name, content in blocks:
        if name:
            (workplace / name).write_text(lengthen(content) if name.endswith(".csv") else content)
    language, example = next((language, text) for language, _, text in blocks if language in ("bash", "python"))
    if page == README:  # which starts with make demo: the workplace has run its command
        example = next(text for language, _, text in blocks if language == "bash" and "my-study.yaml" in text)
    if language == "bash":
        shell(example)
    else:
        exec(compile(example, page, "exec"), {"__name__": "__main__"})  # noqa: S102


def test_python_in_the_readme_prints_what_follows_it():
    pairs = [pair for pair in itertools.pairwise(read_blocks(README)) if pair[0][0] == "python"]
    assert pairs
    for (_, _, code), (_, _, expected) in pairs:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(code, README, "exec"), {})  # noqa: S102
        assert output.getvalue() == expected


def test_the_page_of_settings_is_current():
    made = runpy.run_path(str(DOCS / "make_settings.py"))["make_page"]()
    assert (DOCS / "settings.md").read_text() == made, "run python docs/make_settings.py > docs/settings.md"
    assert "| None |" not in made  # a setting without a description


def anchors(page):
    """The names of a page's headings in links, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(BLOCK, "", page.read_text()), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in plain}


def test_links_lead_to_files_and_headings():
    broken = []
    for page in [README, *DOCS.rglob("*.md"), *ROOT.glob("metrics/*/README.md"), *ROOT.glob("hf_recipes/**/README.md")]:
        for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(BLOCK, "", page.read_text())):
            path, _, heading = link.partition("#")
            target = page.parent / path if path else page
            if "://" in link or "{{" in link or page.name == "LOG.md":
                continue
            if not target.exists() or (heading and heading not in anchors(target)):
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert not broken


def test_pages_that_code_names_exist():
    files = [ROOT / "Makefile", *(path for kind in ("py", "yaml", "sh") for path in ROOT.glob(f"[a-z]*/**/*.{kind}"))]
    missing = []
    for file in files:
        if "models" not in file.parts:
            for page in re.findall(r"\bdocs/[\w/-]+\.md", file.read_text()):
                if not (ROOT / page).exists():
                    missing.append(f"{file.relative_to(ROOT)}: {page}")
    assert not missing


def test_pages_are_few_and_short():
    words = {page.stem: sum(any(c.isalnum() for c in word) for word in page.read_text().split()) for page in PAGES}
    assert len(PAGES) <= 14
    assert sum(words.values()) <= 15_000, words
    assert len(README.read_text().splitlines()) < 120
