"""The packages import in one direction, without a circle; docs/dev/code.md shows the map."""

import ast
from graphlib import TopologicalSorter

import pytest
from conftest import ROOT

PACKAGE = ROOT / "hf_recipes"
#: From the ground floor up. A module imports its own level and those before it. The last level is the command line's.
LEVELS = ["ground", "annotation", "labels", "training", "analysis", "report", "hub", "top"]
TOP = {
    *("cli", "cli_audit", "cli_options", "cli_push", "launch", "plan", "cost", "advise", "doctor", "new_recipe"),
    *("predict", "certify"),
}


def modules():
    files = [*PACKAGE.glob("*.py"), *(file for level in LEVELS for file in (PACKAGE / level).rglob("*.py"))]
    return {file.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): file for file in files}


def level(module):
    package, _, rest = module.partition(".")
    return package if rest else "top" if module in TOP else "ground"


def imports(module, file):
    """The modules of the package that a file imports, inside functions and for type checkers too."""
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            yield ".".join(part for part in base if part)
            for alias in node.names:
                yield ".".join([*(part for part in base if part), alias.name])


def graph():
    known = modules()
    found = {}
    for module, file in known.items():
        if module.endswith("__init__"):
            continue
        found[module] = {name for name in imports(module, file) if name in known and name != module}
    return found


@pytest.mark.parametrize("module", sorted(name for name in modules() if not name.endswith("__init__")))
def test_no_module_imports_upwards(module):
    allowed = LEVELS[: LEVELS.index(level(module)) + 1]
    assert {name for name in graph()[module] if level(name) not in allowed} == set()


def test_no_modules_import_each_other_in_a_circle():
    assert len(list(TopologicalSorter(graph()).static_order())) == len(graph())


def test_the_space_imports_nothing_of_the_package_but_the_schema():
    assert (ROOT / "spaces_app" / "schema.py").resolve() == PACKAGE / "analysis" / "schema.py"
    for file in [*(ROOT / "spaces_app").glob("*.py"), *(ROOT / "metrics").rglob("*.py")]:
        assert "hf_recipes import" not in file.read_text()
        assert "from hf_recipes" not in file.read_text()
