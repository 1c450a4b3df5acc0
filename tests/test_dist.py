"""What is packed: the same from clone and sdist, with everything in it; and it works where it is installed."""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT


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
        shutil.copyfile(ROOT / name, folder / "clone" / name)
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
