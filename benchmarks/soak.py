"""A soak: a whole study, small, under one fault after the other, for a number of rounds.

    .venv/bin/python benchmarks/soak.py --rounds 64 --seed 0 [--fault kill]

A study is made undisturbed first. Each round then takes it as it was after a step chosen at random (before the first
one, annotated, trained, finished), runs `hf-recipes run` on it under a fault, and runs it again undisturbed. A round is
well if

* the disturbed command finished, or stopped with one sentence (no traceback, no process left behind, no hang), and
* the second one, after what the sentence asks to be deleted has been, finishes with the tables of the undisturbed
  study: rows, labels, predictions and results bit for bit, log-probabilities within 1e-4 (a killed annotation goes on
  with other batches).

vLLM and the LLM are real; the encoder is a BERT with random weights, which makes rounds short. Faults that need a mount
or a control group need root, and are left out without it. The exit code is 1 if a round was not well.
"""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import typer

ROOT = Path(__file__).resolve().parent.parent
SMALL_RECIPE = "hf_recipes/recipes/tweets-small.yaml"
SETTINGS = [
    *("--data.pool_size=80", "--data.test_size=30", "--annotate.max_model_len=256"),
    *("--annotate.prompt.shots_per_class=1", "--grid.variants=[gold, llm]", "--grid.sizes=[24]", "--grid.seeds=[0, 1]"),
    *("--train.epochs=2", "--train.learning_rate=5e-3"),
]
LONGEST = 1800  # seconds of a command, after which it hangs
MB = 2**20
MOUNT = "/bin/mount"
CGROUP = Path("/sys/fs/cgroup/memory/hf-recipes-soak")
STEPS = ("nothing", "annotated", "trained", "finished")


@dataclass
class Soak:
    """What all rounds share: the folder, the recipe's settings, and the undisturbed study after each step."""

    folder: Path
    random: random.Random
    kept: dict[str, Path] = field(default_factory=dict)

    @property
    def study(self) -> Path:
        return self.folder / "here" / "study"

    def start(self, step: str = "run", *settings: str, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "hf_recipes.cli", step, SMALL_RECIPE, f"--output_dir={self.study}", *SETTINGS]
        command += [f"--train.encoder={self.folder / 'encoder'}", *settings]
        command += ["--go-on"] if step in ("run", "train") else []
        environment = {**os.environ, "HF_HOME": str(self.folder / "home"), "HF_HUB_OFFLINE": "1"}
        environment |= {"PYTHONPATH": str(ROOT), **options.pop("environment", {})}
        return subprocess.Popen(
            command,
            **{"cwd": ROOT, "env": environment, "text": True, "start_new_session": True, **options},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, step: str = "run", *settings: str, **options: Any) -> tuple[int, str]:
        return wait(self.start(step, *settings, **options))

    def prepare(self) -> None:
        """The undisturbed study, after each step."""
        make_encoder(self.folder / "encoder")
        self.study.parent.mkdir()
        for name, step in (("annotated", "annotate"), ("trained", "train"), ("finished", "run")):
            code, said = self.run(step)
            if code:
                raise SystemExit(f"undisturbed, hf-recipes {step} failed:\n{said}")
            self.kept[name] = self.folder / name
            shutil.copytree(self.study, self.kept[name])

    def take(self, step: str) -> None:
        shutil.rmtree(self.study, ignore_errors=True)
        if step != "nothing":
            shutil.copytree(self.kept[step], self.study)


def wait(child: subprocess.Popen[str]) -> tuple[int, str]:
    """The command's exit code and what it said; whoever it started has to end with it."""
    try:
        said, _ = child.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        return 999, "HANGS: " + child.communicate()[0]
    return child.returncode, said


def members(session: int) -> list[psutil.Process]:
    """All processes of a session, whoever their parent is by now."""
    found = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def make_encoder(folder: Path) -> None:
    from transformers import AutoTokenizer, BertConfig, BertModel, set_seed

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "all-MiniLM-L6-v2")
    set_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=tokenizer.vocab_size, **size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# ------------------------------------------------------------------------------------------------------------- faults
# Each runs the command under its fault and returns what was done, the exit code, and what was said.
Outcome = tuple[str, int, str]


def kill(soak: Soak) -> Outcome:
    """`kill -9` of one process or several of the tree, the command itself or any other, at random times."""
    child = soak.start()
    done = []
    for _ in range(soak.random.choice((1, 1, 2, 3))):
        end = time.monotonic() + soak.random.uniform(0, 60)
        while time.monotonic() < end and child.poll() is None:
            time.sleep(0.05)
        if child.poll() is None and (there := members(child.pid)):
            victim = soak.random.choice(there)
            with suppress(psutil.Error):
                done.append("the command" if victim.pid == child.pid else " ".join(victim.cmdline())[-40:])
                victim.kill()
    code, said = wait(child)
    return f"killed {len(done)}", code, said


def full_disk(soak: Soak) -> Outcome:
    """A disk of its own for the study, with too little room; sometimes for temporary files as well."""
    used, wanted = size_of(soak.study), size_of(soak.kept["finished"])
    room = used + int(soak.random.uniform(0, 1.2) * max(wanted - used, 256 * 1024)) + 64 * 1024
    with mounted(soak, room) as disk:
        environment = {}
        if soak.random.random() < 0.3:
            (disk / "tmp").mkdir(exist_ok=True)
            environment["TMPDIR"] = str(disk / "tmp")
        code, said = soak.run(environment=environment)
    return f"{room // 1024} kB", code, said


def read_only(soak: Soak) -> Outcome:
    """The disk of the study turns read-only, before the start or on the way."""
    with mounted(soak, 512 * MB) as disk:
        child = soak.start()
        end = time.monotonic() + soak.random.choice((0, soak.random.uniform(0, 60)))
        done = "not in time"
        while child.poll() is None:
            if (
                time.monotonic() >= end
                and not subprocess.run([MOUNT, "-o", "remount,ro", disk], check=False, capture_output=True).returncode
            ):
                done = "read-only"
                break
            time.sleep(0.05)  # it is refused while a file is open for writing
        code, said = wait(child)
        subprocess.run([MOUNT, "-o", "remount,rw", disk], check=True)
    return done, code, said


def little_memory(soak: Soak) -> Outcome:
    """A limit of address space, or of memory by a control group, which kills what goes over it."""
    if soak.random.random() < 0.5 and os.access(CGROUP.parent, os.W_OK) and CGROUP.parent.is_dir():
        limit = soak.random.randrange(300, 3000) * MB
        CGROUP.mkdir(exist_ok=True)
        try:
            (CGROUP / "memory.limit_in_bytes").write_text(str(limit))
            code, said = soak.run(preexec_fn=lambda: (CGROUP / "cgroup.procs").write_text(str(os.getpid())))
        finally:
            time.sleep(0.2)
            with suppress(OSError):
                CGROUP.rmdir()
        return f"{limit // MB} MB for the group", code, said
    limit = soak.random.randrange(500, 8000) * MB
    code, said = soak.run(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    return f"{limit // MB} MB of addresses", code, said


def damaged_parquet(soak: Soak) -> Outcome:
    """Bytes of rows, parts or predictions changed, or their end cut off."""
    file = soak.random.choice(sorted(soak.study.rglob("*.parquet")))
    content = bytearray(file.read_bytes())
    how = soak.random.choice(("cut", "flipped"))
    if how == "cut":
        content = content[: soak.random.randrange(len(content))]
    else:
        for _ in range(soak.random.choice((1, 4, 64))):
            content[soak.random.randrange(len(content))] ^= soak.random.randrange(1, 256)
    file.write_bytes(content)
    code, said = soak.run()
    return f"{how} {file.relative_to(soak.study)}", code, said


def truncated_text(soak: Soak) -> Outcome:
    """A manifest or another file of text cut off."""
    file = soak.random.choice([f for f in sorted(soak.study.rglob("*")) if f.suffix in (".json", ".yaml")])
    content = file.read_bytes()
    file.write_bytes(content[: soak.random.randrange(len(content))])
    code, said = soak.run()
    return f"cut {file.relative_to(soak.study)}", code, said


def rewrite(file: Path, change: Callable[[pa.Table], pa.Table]) -> str:
    """A valid file with another content."""
    pq.write_table(change(pq.read_table(file)), file)
    return str(file)


def swap(files: list[Path]) -> str:
    one, other = files[:2]
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    return f"{one} with {other}"


def reverse(table: pa.Table, column: str) -> pa.Table:
    values = table[column].take(list(range(len(table)))[::-1])
    return table.set_column(table.column_names.index(column), table.schema.field(column), values)


def change_digit(soak: Soak, file: Path) -> str:
    content = file.read_text()
    place = soak.random.choice([found.start() for found in re.finditer(r"[0-9](?=,\n)", content)])
    file.write_text(f"{content[:place]}{(int(content[place]) + 1) % 10}{content[place + 1 :]}")
    return str(file)


def tampered(soak: Soak) -> Outcome:
    """Valid files in place of others: what no checksum inside a file finds."""
    study, pick = soak.study, soak.random.choice
    ways: list[Callable[[], str]] = [
        lambda: rewrite(next(study.glob("annotations/*/content_free.parquet")), lambda table: table.slice(0, 1)),
        lambda: rewrite(pick(sorted(study.glob("annotations/*/part-*"))), lambda table: reverse(table, "logprobs")),
        lambda: rewrite(study / "rows" / "test.parquet", lambda table: table.slice(0, len(table) - 1)),
        lambda: rewrite(study / "rows" / "train.parquet", lambda table: reverse(table, "text")),
    ]
    if runs := sorted(study.glob("runs/*/*/*/predictions.parquet")):
        ways += [
            lambda: swap(soak.random.sample(runs, 2)),
            lambda: change_digit(soak, pick(runs).with_name("run.json")),
        ]
    if (study / "dataset").exists():
        data = sorted(study.glob("dataset/data/*/train-*.parquet"))
        ways += [
            lambda: swap(soak.random.sample(data, 2)),
            lambda: rewrite(pick(data), lambda table: reverse(table, "label")),
            lambda: shutil.rmtree(study / "dataset" / "data" / "test") or "dataset without its test split",
            lambda: change_digit(soak, study / "report" / pick(("results.json", "labels.json"))),
        ]
    done = pick(ways)()
    code, said = soak.run()
    return done.replace(f"{study}/", ""), code, said


def two_users(soak: Soak) -> Outcome:
    """Two commands at work in one folder at once; sometimes one of them is killed on the way."""
    one, two = soak.start(), soak.start()
    if soak.random.random() < 0.4:
        time.sleep(soak.random.uniform(0, 60))
        one.kill()
    codes, said = zip(wait(one), wait(two), strict=True), ""
    (code_one, code_two), (said_one, said_two) = codes
    code = code_two if code_one == -signal.SIGKILL else max(abs(code_one), abs(code_two))
    return f"codes {code_one} {code_two}", code, said + said_one + said_two


FAULTS: dict[str, tuple[Callable[[Soak], Outcome], tuple[str, ...]]] = {
    "kill": (kill, STEPS[:3]),
    "full disk": (full_disk, STEPS[:3]),
    "read-only": (read_only, STEPS),
    "little memory": (little_memory, STEPS[:3]),
    "damaged parquet": (damaged_parquet, STEPS[1:]),
    "tampered": (tampered, STEPS[1:]),
    "truncated text": (truncated_text, STEPS[1:]),
    "two users": (two_users, STEPS[:3]),
}
ROOT_ONLY = ("full disk", "read-only")


@contextmanager
def mounted(soak: Soak, size: int) -> Iterator[Path]:
    """The study on a disk of its own; what is there at the end is taken back."""
    place, aside = soak.study.parent, soak.folder / "aside"
    shutil.move(place, aside)
    place.mkdir()
    subprocess.run([MOUNT, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
    try:
        if (aside / "study").exists():
            shutil.copytree(aside / "study", place / "study")
        yield place
        shutil.rmtree(aside)
        shutil.copytree(place, aside)
    finally:
        subprocess.run(["/bin/umount", "-l", place], check=True)
        place.rmdir()
        aside.rename(place)


def size_of(folder: Path) -> int:
    """What the files take on a disk of 4 kB pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------------------------ judging
def spoke(said: str) -> bool:
    """Whether what was said ends in a sentence, with no traceback."""
    return "Traceback" not in said and any(line.startswith(("error: ", "Error: ")) for line in said.splitlines())


def tables(study: Path) -> dict[str, Any]:
    """All that has to be the same; what took time, and the keys that tell of it, left out."""
    found: dict[str, Any] = {}
    for split in ("train", "test"):
        found[f"rows/{split}"] = pq.read_table(study / "rows" / f"{split}.parquet").to_pylist()
    for file in sorted(study.glob("dataset/data/*/*.parquet")):
        columns = ["id", "text", "label", "label_source", "gold", "llm_label"] if "test" not in file.parts else None
        found[str(file.relative_to(study))] = pq.read_table(file, columns=columns).to_pylist()
    for file in sorted(study.glob("runs/*/*/*/*.parquet")):
        found[str(file.relative_to(study))] = pq.read_table(file).to_pylist()
    results = json.loads((study / "report" / "results.json").read_text())
    found["results"] = {name: value for name, value in results.items() if name not in ("key", "annotator")}
    found["report"] = re.sub(r"[0-9.]+ (seconds|minutes|hours)", "", (study / "report" / "report.md").read_text())
    return found


def log_probabilities(study: Path) -> dict[tuple[str, str], list[float] | None]:
    """Of each row in each pass, as its last part has it."""
    found = {}
    for key in json.loads((study / "annotations" / "current.json").read_text())["keys"]:
        folder = study / "annotations" / key
        for part in [*sorted(folder.glob("part-*.parquet")), folder / "content_free.parquet"]:
            for row in pq.read_table(part, columns=["id", "logprobs"]).to_pylist():
                found[key, row["id"]] = row["logprobs"]
    return found


def differs(study: Path, other: Path) -> str:
    """In what the studies differ; empty if in nothing."""
    ours, theirs = tables(study), tables(other)
    if unlike := [name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)]:
        return ", ".join(sorted(unlike))
    one, two = log_probabilities(study), log_probabilities(other)
    if one.keys() != two.keys():
        return "annotated rows"
    for row, values in one.items():
        if (values is None) != (two[row] is None) or any(
            abs(a - b) > 1e-4 for a, b in zip(values or (), two[row] or (), strict=True)
        ):
            return f"log-probabilities of {row}"
    left = [path for path in study.rglob(".tmp-*") if path.is_dir()]
    return f"left behind: {left[0]}" if left else ""


def mend(said: str) -> None:
    """Delete what a sentence asks to be deleted."""
    asked = re.findall(r"^error: `?([^\s`]+?)`?:? .*?[;.] [Dd]elete `?([^\s`]+)`? and run", said, re.MULTILINE)
    for file, what in asked:
        target = Path(file if what == "it" else what)
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)


def one_round(soak: Soak, fault: str) -> tuple[str, str]:  # noqa: PLR0911
    """What became of a round, and what was done."""
    disturb, steps = FAULTS[fault]
    step = soak.random.choice(steps)
    soak.take(step)
    done, code, said = disturb(soak)
    done = f"{step}: {done}"
    if code == 999:
        return "hangs", f"{done}\n{said[-2000:]}"
    time.sleep(1)
    if left := [p for p in psutil.process_iter() if str(soak.study) in " ".join(_command(p))]:
        lines = [" ".join(_command(process))[:200] for process in left]
        time.sleep(15)  # they may be on their way
        if left := [process for process in left if process.is_running()]:
            for process in left:
                process.kill()
            return "leaves a process behind", "\n".join([done, *lines])
    if code and code != -signal.SIGKILL and not spoke(said):
        return "stops without a sentence", f"{done}: code {code}\n{said[-3000:]}"
    for _ in range(6):  # what it asks for may uncover more
        if "Traceback" in said:
            return "shows a traceback", f"{done}\n{said[-3000:]}"
        mend(said)
        settings = ["--accept-changes"] if "pass --accept-changes" in said else []
        again, said = soak.run("run", *settings)
        if not again:
            break
    else:
        return "does not go on", f"{done}\n{said[-3000:]}"
    if unlike := differs(soak.study, soak.kept["finished"]):
        return "another result", f"{done}: {unlike}\n{said[-1000:]}"
    return "stopped, then finished equal" if code else "finished equal", done


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def main(
    rounds: int = 16,
    seed: int = 0,
    fault: Annotated[str, typer.Option(help=f"One of {', '.join(FAULTS)}; all in turn by default.")] = "",
) -> None:
    """Rounds of one fault after the other."""
    faults = [fault] if fault else [name for name in FAULTS if os.geteuid() == 0 or name not in ROOT_ONLY]
    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory(prefix="hf-recipes-soak-") as folder:
        soak = Soak(Path(folder), random.Random(seed))  # noqa: S311
        soak.prepare()
        for number in range(rounds):
            name = faults[number % len(faults)]
            outcome, done = one_round(soak, name)
            counts[name, outcome] += 1
            print(f"{name}: {outcome} ({done})", flush=True)
    outcomes = sorted({outcome for _, outcome in counts})
    print(f"\n| fault | rounds | {' | '.join(outcomes)} |\n|---|{'---|' * (1 + len(outcomes))}")
    for name in faults:
        each = [counts[name, outcome] for outcome in outcomes]
        print(f"| {name} | {sum(each)} | {' | '.join(map(str, each))} |")
    raise SystemExit(any(not outcome.endswith("finished equal") for outcome in outcomes))


if __name__ == "__main__":
    typer.run(main)
