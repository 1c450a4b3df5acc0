"""Each test has its own HF_HOME and working copies; nothing is written outside pytest's temporary folders."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

ROOT = Path(__file__).parent.parent
# before anything of Hugging Face is imported: these are read at import
_HOME = tempfile.TemporaryDirectory(prefix="hf-recipes-tests-")
os.environ.update(
    HF_HOME=_HOME.name,
    TMPDIR=_HOME.name,  # for the processes that tests start: vLLM leaves folders there when it is killed
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HYPOTHESIS_STORAGE_DIRECTORY=f"{_HOME.name}/hypothesis",
    MPLCONFIGDIR=f"{_HOME.name}/matplotlib",
    OMP_WAIT_POLICY="PASSIVE",  # threads that spin while they wait stop those of whatever else the machine does
)

# of several workers each has a core of its own, and so have the processes that its tests start
if _worker := os.environ.get("PYTEST_XDIST_WORKER"):
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[int(_worker.removeprefix("gw")) % len(_cores)]})

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("tests", database=None, deadline=None, max_examples=60, derandomize=True)
settings.load_profile("tests")

SAMPLE = ROOT / "hf_recipes" / "sample" / "vader_tweets"
ENCODER = ROOT / "models" / "all-MiniLM-L6-v2"
LLM = ROOT / "models" / "SmolLM2-135M-Instruct"
SMALL_RECIPE = ROOT / "hf_recipes" / "recipes" / "tweets-small.yaml"


#: The files that take longest. They start first, so that no worker is left with one of them at the end.
LONG = (
    "test_end_to_end",
    "test_hub",
    "test_push_model",
    "test_train",
    "test_annotate",
    "test_jobs",
    "test_nodes",
    "test_ray",
    "test_space",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory, monkeypatch):
    """A Hugging Face home of the test's own, also for the processes it starts, and no verbosity left over."""
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf_home")))
    monkeypatch.delenv("HF_RECIPES_VERBOSITY", raising=False)
    monkeypatch.chdir(ROOT)


@pytest.fixture(autouse=True)
def own_caches(own_home, monkeypatch):
    """Libraries that were imported by an earlier test have read HF_HOME already: point them to this test's home."""
    home = Path(os.environ["HF_HOME"])
    if "datasets" in sys.modules:
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", home / "datasets")
        monkeypatch.setattr("datasets.config.HF_MODULES_CACHE", home / "modules")
    if "evaluate" in sys.modules:
        monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", home / "metrics")


@pytest.fixture
def command(monkeypatch, capfd):
    """Calls the command line in this process; returns exit code, standard output and standard error."""
    from hf_recipes import cli

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["hf-recipes", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        output, errors = capfd.readouterr()
        return code, output, errors

    return call


@pytest.fixture(scope="module")
def browser():
    """A real one, that has no sandbox as it may be root's."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=shutil.which("chromium") or "/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory):
    """A BERT of random weights with a real tokenizer, for what depends on no weights; other tests have a real one."""
    from transformers import AutoTokenizer, BertConfig, BertModel, set_seed

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = AutoTokenizer.from_pretrained(ENCODER)
    set_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=tokenizer.vocab_size, **size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def make_study(tmp_path):
    """A study of the demo recipe in a folder of the test's own, with dotted settings replaced."""
    from hf_recipes.recipe import load_recipe
    from hf_recipes.study import Study

    def make(*overrides, folder="study"):
        return Study(load_recipe(SMALL_RECIPE, [f"--output_dir={tmp_path / folder}", *overrides]), accept_changes=True)

    return make


class CountingEngine:
    """In place of a language model: scores from the prompt's own tokens, and a record of what was asked."""

    asked: ClassVar[list] = []
    started: ClassVar[int] = 0
    refuses: ClassVar[set] = set()
    dies_after: ClassVar[int | None] = None

    def __init__(self, section, folder):
        CountingEngine.started += 1

    def score(self, prompts, token_ids):
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            from hf_recipes.annotation.engines import EngineError

            raise EngineError("the engine died of a test")
        CountingEngine.asked.extend(map(tuple, prompts))
        scores = [np.log(np.random.default_rng(sum(p)).dirichlet(np.ones(len(token_ids)))) for p in prompts]
        refused = {i: "too odd" for i, prompt in enumerate(prompts) if tuple(prompt) in self.refuses}
        scores = [np.full(len(token_ids), np.nan) if i in refused else row for i, row in enumerate(scores)]
        return np.array(scores), refused

    def sample(self, prompts, samples, temperature, max_tokens, seeds, choices=None):
        CountingEngine.asked.extend(map(tuple, prompts))
        words = choices or [" Positive.", " negative\n\nTweet: x", " no idea"]
        chance = [random.Random(seed) for seed in seeds]
        return [[c.choice(words) for _ in range(samples)] for c in chance], {}


@pytest.fixture
def engine(monkeypatch):
    """The class in place of vLLM's engine in this process, with an empty record."""
    CountingEngine.asked, CountingEngine.started = [], 0
    CountingEngine.refuses, CountingEngine.dies_after = set(), None
    monkeypatch.setattr("hf_recipes.annotation.engines.vllm_engine.Engine", CountingEngine)
    return CountingEngine


@pytest.fixture(scope="session")
def kept_studies(tmp_path_factory):
    """The folder of studies that are made once in a session."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def study(kept_studies, make_study, engine, tiny_encoder, tmp_path):
    """A study of two passes that is labelled, written, trained and measured, in a folder of the test's own."""
    from steps import measure, write_dataset, write_labels

    from hf_recipes.annotation.annotate import annotate
    from hf_recipes.training.linear import train_baselines
    from hf_recipes.training.train import train

    overrides = [
        *("--data.pool_size=90", "--data.test_size=21", "--annotate.prompt.shots_per_class=1", "--grid.sizes=[20]"),
        *("--grid.seeds=[0, 1]", "--train.epochs=1", f"--train.encoder={tiny_encoder}", "--name=tweets"),
        "--annotate.passes=[{prompt: {seed: 5}}]",
    ]
    if not (kept_studies / "tweets").exists():
        made = make_study(*overrides, folder="first")
        annotate(made)
        write_dataset(made)
        write_labels(made)
        train_baselines(made)
        train(made)
        measure(made)
        shutil.copytree(made.root, kept_studies / "tweets")
    shutil.copytree(kept_studies / "tweets", tmp_path / "study")
    return make_study(*overrides)


@pytest.fixture
def hub(tmp_path):
    """A server of the test's own, and commands that talk to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, ROOT / "tests" / "hub_server.py", str(port)])
    address = f"http://127.0.0.1:{port}"
    env = {
        **{**os.environ, "HF_ENDPOINT": address, "HF_TOKEN": "hf_secret", "HF_HUB_DISABLE_XET": "1"},
        **{"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hub-home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
    }

    def ask(path, content=None):
        data = None if content is None else json.dumps(content).encode()
        with urllib.request.urlopen(f"{address}/{path}", data) as answer:
            return json.load(answer)

    def cli(*arguments, code=0):
        command = [sys.executable, "-m", "hf_recipes.cli", *map(str, arguments)]
        done = subprocess.run(command, check=False, cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert "hf_secret" not in done.stdout + done.stderr
        return done.stdout + done.stderr

    def python(code):
        done = subprocess.run(
            [sys.executable, "-c", code], check=False, cwd=ROOT, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.strip().splitlines()[-1])

    for _ in range(100):
        try:
            ask("log")
            break
        except OSError:
            time.sleep(0.1)
    yield SimpleNamespace(ask=ask, cli=cli, python=python, address=address, env=env)
    server.kill()
    server.wait()


@pytest.fixture
def kept_classifiers(kept_studies, make_study, engine, tiny_encoder, tmp_path):
    """A study with its classifiers and validation rows, trained and measured, in a folder of the test's own."""
    from steps import measure

    from hf_recipes.annotation.annotate import annotate
    from hf_recipes.training.train import train

    overrides = [
        *("--data.pool_size=150", "--data.test_size=30", "--annotate.prompt.shots_per_class=1", "--name=tweets"),
        *("--grid.sizes=[20]", "--grid.seeds=[0, 1, 2]", "--grid.variants=[gold, llm]", "--train.epochs=1"),
        *(f"--train.encoder={tiny_encoder}", "--train.save_models=true", "--train.validation_size=40"),
    ]
    if not (kept_studies / "classifiers").exists():
        made = make_study(*overrides, folder="first")
        annotate(made)
        train(made)
        measure(made)
        shutil.copytree(made.root, kept_studies / "classifiers")
    shutil.copytree(kept_studies / "classifiers", tmp_path / "study")
    return make_study(*overrides)
