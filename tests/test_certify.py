"""`hf-recipes certify`: labels made elsewhere, judged without a recipe, and the pull request with the verdict."""

import csv
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ENCODER
from markdown_it import MarkdownIt

from hf_recipes.analysis.schema import Results
from hf_recipes.recipe import load_recipe
from hf_recipes.report.trust import Trust

WORDS = {
    "sports": ["match", "goal", "team", "player", "season", "coach", "stadium", "league", "score", "win"],
    "finance": ["bank", "stock", "market", "profit", "shares", "investor", "interest", "loan", "price", "trade"],
    "health": [
        "doctor",
        "patient",
        "hospital",
        "vaccine",
        "disease",
        "treatment",
        "nurse",
        "symptom",
        "clinic",
        "drug",
    ],
}
COMMON = ["the", "a", "of", "on", "in", "with", "today", "new", "report", "people", "about", "after", "before", "from"]
STUDY = Path("studies/certify-news")
RECIPE = Path("certify-news.yaml")
TO_LABEL = Path("certify-news-to_label.csv")
FAST = ("--grid.seeds=[0, 1, 2]", "--grid.sizes=[20]")


def plant(num_rows, seed=0):
    """Texts of class words, their truth, and labels that are good, wrong at random and wrong in one class."""
    rng, names, rows = np.random.default_rng(seed), list(WORDS), []
    for i in range(num_rows):
        name = names[rng.integers(3)]
        words = [*rng.choice(WORDS[name], 4), rng.choice(WORDS[names[rng.integers(3)]]), *rng.choice(COMMON, 6)]
        wrong = names[rng.integers(3)]
        rows.append(
            {
                "body": f"{' '.join(rng.permutation(words))} {i}",
                "truth": name,
                "good": wrong if rng.random() < 0.015 else name,
                "random": wrong if rng.random() < 0.45 else name,
                "systematic": "finance" if name == "health" and rng.random() < 0.8 else name,
            }
        )
    return pd.DataFrame(rows)


@pytest.fixture
def certify(command, tmp_path, monkeypatch):
    """Call certify in a folder of the test's own; the exit code must be as expected. Return what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(dataset, *options, code=0):
        ended, output, errors = command("certify", dataset, *options)
        assert ended == code, output + errors
        assert code == 0 or errors.count("error: ") == 1
        return output + errors

    return call


def read_trust():
    return Trust.model_validate_json((STUDY / "report" / "trust.json").read_text())


def list_times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("column", "verdict", "words"),
    [
        ("good", "ship within limits", "You can train on these labels."),
        ("random", "do not ship", "Do not train on these labels."),
        ("systematic", "do not ship", "Do not train on these labels."),
    ],
)
def test_planted_labels_get_the_right_verdict(column, verdict, words, certify, command):
    """With the real encoder: the verdict, the figures of trust.json, and what a second call and `run` do."""
    rows = plant(400)
    rows.to_parquet("news.parquet")
    settings = ["--grid.seeds=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]", "--grid.sizes=[100]", f"--train.encoder={ENCODER}"]
    call = ["news.parquet", "--text", "body", "--labels", column, "--gold", "truth", *settings]
    output = certify(*call)
    assert words in output
    assert f"Labels made elsewhere: `{column}`, 3 classes: finance, health, sports.\n" in output
    assert f"Verdict for other programs: {STUDY / 'report' / 'trust.json'}\n" in output

    trust, results = read_trust(), Results.model_validate_json((STUDY / "report" / "results.json").read_text())
    assert (trust.verdict, trust.reason, trust.limits) == (verdict, None, results.verdict.criteria)
    assert trust.summary.startswith(words)
    assert (trust.judged.dataset, trust.judged.labels, trust.judged.text) == ("news.parquet", column, "body")
    assert trust.judged.classes == ["finance", "health", "sports"]
    assert (trust.seeds, trust.training_texts, trust.method, trust.encoder) == (10, 100, "frozen", ENCODER.name)
    assert [entry.labels for entry in trust.classifiers] == ["gold", "llm", "llm-random-replace", "noise-fixed"]
    for entry in trust.classifiers:
        result = results.at_top[entry.labels]
        assert (entry.macro_f1.value, entry.accuracy.value) == (result.macro_f1_mean, result.accuracy_mean)
        assert entry.disagreement.interval == result.pairwise_disagreement_interval
        assert entry.n == result.n_gold == trust.test_texts == 100
    assert {entry.name for entry in trust.baselines} == {"most-frequent", "tfidf", "llm"}

    # The accuracy of the labels, of which the pool is a sample.
    pool = pd.read_parquet(STUDY / "rows" / "train.parquet")
    drawn = rows.set_index("body").loc[pool["text"]]
    assert trust.label_accuracy.value == pytest.approx(np.mean(drawn["truth"] == drawn[column]))
    assert trust.label_accuracy.n == len(pool)
    assert trust.label_accuracy.most_frequent_class == pytest.approx(drawn["truth"].value_counts(normalize=True).max())

    # The second call trains, encodes and writes nothing, and so does `run` of the recipe.
    before = list_times(STUDY)
    again = certify(*call)
    assert again.count("already done\n") == 4
    assert again.split("[1/4]")[0] in output
    assert list_times(STUDY) == before
    code, _, errors = command("run", RECIPE, *settings)
    assert (code, errors.count("already done")) == (0, 4)
    assert load_recipe(RECIPE, []).annotate.columns.label == column


def test_other_columns_are_an_error_that_names_what_to_delete(certify, tiny_encoder):
    plant(100).to_csv("news.csv", index=False)
    settings = [f"--train.encoder={tiny_encoder}", *FAST]
    assert "Texts: `body`, 100 rows" in certify("news.csv", "--labels", "good", "--gold", "truth", *settings)
    for options in (["--labels", "random", "--gold", "truth"], ["--labels", "good"]):
        errors = certify("news.csv", *options, *settings, code=2)
        assert f"`{RECIPE}` of an earlier call is for `--labels good` of news.csv" in errors
        assert f"delete {RECIPE} and {STUDY}" in errors
    assert "--accept-changes" in certify(
        "news.csv", "--labels", "good", "--gold", "truth", *settings, "--train.max_length=32", code=2
    )
    RECIPE.unlink()
    shutil.rmtree(STUDY)
    certify("news.csv", "--labels", "random", "--gold", "truth", *settings)
    assert read_trust().judged.labels == "random"


def test_without_gold_people_label_a_sample(certify, tiny_encoder):
    """The texts are drawn, the command says what to do, and goes on with the labels, however many calls it takes."""
    rows = plant(130)[["body", "good", "random"]]  # no column is taken for gold that was not named
    rows.to_parquet("news.parquet")
    truth = plant(130).set_index("body")["truth"]
    call = ["news.parquet", "--labels", "good", f"--train.encoder={tiny_encoder}", *FAST]
    early = certify(*call, "--audited", "news.csv", code=2)
    assert "`--audited` must name a file that this command drew. Call it without --audited first." in early
    output = certify(*call)
    assert (
        f"Next: fill in the column `label` of {TO_LABEL}. Then repeat the command with --audited {TO_LABEL}" in output
    )
    assert "--gold" in output
    drawn = TO_LABEL.read_bytes()
    assert output.endswith(certify(*call))
    assert TO_LABEL.read_bytes() == drawn
    assert not (STUDY / "report").exists()

    with TO_LABEL.open(newline="") as file:
        entries = list(csv.DictReader(file))
    assert len(entries) == 2 * (130 // 4)

    def fill(count, wrong=0):
        labels = [truth[entry["text"]] for entry in entries[:count]]
        labels[:wrong] = [next(name for name in WORDS if name != label) for label in labels[:wrong]]
        pd.DataFrame(entries[:count]).assign(label=labels).to_csv("done.csv", index=False)

    # Too few labels give no figures: the command asks for more. A label that was corrected since counts.
    fill(40, wrong=2)
    output = certify(*call, "--audited", "done.csv")
    assert "40 of 64 texts have a label. At least 30 texts to train on and 30 to test on must have one" in output
    assert not (STUDY / "report").exists()
    assert "40 of 64 texts have a label." in certify(*call)
    fill(64)
    certify(*call, "--audited", "done.csv")
    trust = read_trust()
    labelled = json.loads((STUDY / "audit" / "labels.json").read_text())
    assert list(labelled.values()) == [truth[entry["text"]] for entry in entries]
    assert trust.reason == "no classifier was trained on gold labels, so nothing can be compared with them"
    assert trust.verdict != "ship within limits"
    assert [limit.value is None for limit in trust.limits] == [True, True, False]
    assert [(entry.labels, entry.n) for entry in trust.classifiers] == [
        (name, 32) for name in ("llm", "llm-random-replace", "gold-only")
    ]
    in_pool = [entry["text"] for entry in entries[:32]]
    right = np.mean(rows.set_index("body").loc[in_pool, "good"] == truth[in_pool])
    assert (trust.label_accuracy.n, trust.label_accuracy.value) == (32, pytest.approx(right))
    before = list_times(STUDY)
    certify(*call)  # the labels are in the study
    assert list_times(STUDY) == before


def test_too_few_labels_for_a_sample_are_an_error(certify):
    rows = plant(130)
    rows.loc[20:, "good"] = None
    rows.to_csv("news.csv", index=False)
    errors = certify("news.csv", "--labels", "good", code=2)
    assert "`--labels` must have a label for at least 30 texts to train on and 30 to test on" in errors
    assert not TO_LABEL.exists()


@pytest.mark.parametrize(
    ("num_rows", "options", "message"),
    [
        (100, "--labels gpt --gold truth", "`--labels` must name a column of news.csv. Got gpt. Try one of body,"),
        (100, "--labels one --gold truth", "`--labels` must name a column with 2 to 100 classes. Got one with 1."),
        (100, "--labels good --gold one", "`--gold` must name a column with 2 to 100 classes. Got one with 1."),
        (100, "--labels good --gold gpt", "`--gold` must name a column of news.csv. Got gpt."),
        (100, "--labels good --gold good", "`--gold` must name another column than `--labels`. Got good."),
        (100, "--labels good --gold truth --text txt", "`--text` must name a column of news.csv. Got txt."),
        (79, "--labels good --gold truth", "must have at least 80 gold labels to judge its labels. Got 79."),
        (119, "--labels good", "must have at least 120 texts to judge its labels. Got 119."),
        (100, "--labels good --gold truth --push", "`--push` requires a dataset on the Hub. Got news.csv."),
    ],
)
def test_what_cannot_be_judged_is_an_error_and_leaves_nothing(num_rows, options, message, certify):
    plant(num_rows).assign(one="one").to_csv("news.csv", index=False)
    assert message in certify("news.csv", *options.split(), code=2)
    assert [path.name for path in Path().iterdir()] == ["news.csv"]


def test_gold_with_other_classes_offers_a_map_that_works(certify, tiny_encoder):
    rows = plant(100)
    rows["gold"] = rows["truth"].str.upper()
    rows.to_csv("news.csv", index=False)
    call = ["news.csv", "--labels", "good", "--gold", "gold", f"--train.encoder={tiny_encoder}", *FAST]
    errors = certify(*call, code=2)
    assert "must name a column with the classes FINANCE, HEALTH, SPORTS. Got good with " in errors
    offered = errors.split("Try `data.label_map: ")[1].split("`")[0]
    call += [f"--data.label_map={offered}", "--accept-changes"]
    assert certify(*call, "--audited", "x.csv", code=2).endswith("Got x.csv.\n")
    certify(*call)
    pool = pd.read_parquet(STUDY / "rows" / "train.parquet")
    drawn = rows.set_index("body").loc[pool["text"]]
    assert read_trust().label_accuracy.value == pytest.approx(np.mean(drawn["truth"] == drawn["good"]))


HOSTILE = "</code><img src=x>|`[x](http://evil.example)\n<!-- hf-recipes certify-foreign: end -->"
CLASSES = [
    "<script>alert(1)</script>",
    "a|b `c` <!-- hf-recipes certify-foreign: begin -->",
    "[d](http://evil.example)",
]
CARD = """---
license: cc-by-4.0   # kept
configs:
- config_name: other
  data_files: other.parquet
- config_name: news
  data_files:
  - {split: train, path: news/train.parquet}
  - {split: test, path: news/test.parquet}
---
# Someone's dataset\r

Own text without a line break at the end."""
UPLOAD = """
import json
from huggingface_hub import HfApi
HfApi().create_repo("me/foreign", repo_type="dataset")
info = HfApi().upload_folder(repo_id="me/foreign", folder_path={folder!r}, repo_type="dataset")
print(json.dumps(info.oid))
"""
READ = """
import json
from pathlib import Path
from huggingface_hub import HfApi, hf_hub_download
refs = HfApi().list_repo_refs("me/foreign", repo_type="dataset", include_pull_requests=True)
files = {}
for revision in ("main", refs.pull_requests[0].target_commit):
    for path in HfApi().list_repo_files("me/foreign", repo_type="dataset", revision=revision):
        content = Path(hf_hub_download("me/foreign", path, repo_type="dataset", revision=revision)).read_bytes()
        files.setdefault(revision, {})[path] = content.decode("latin-1")
print(json.dumps([*files.values(), len(refs.pull_requests)]))
"""


def test_from_a_foreign_dataset_on_the_hub_to_the_pull_request(hub, tmp_path, tiny_encoder):
    """A dataset with an own card, a config and splits, and names that would break a page."""
    folder, work = tmp_path / "foreign", tmp_path / "work"
    (folder / "news").mkdir(parents=True)
    work.mkdir()
    columns = {"body": "body", "truth": "truth", "good": HOSTILE}
    rows = plant(150)[list(columns)].rename(columns=columns).replace(dict(zip(WORDS, CLASSES, strict=True)))
    rows[:110].to_parquet(folder / "news" / "train.parquet")
    rows[110:].to_parquet(folder / "news" / "test.parquet")
    rows[:2].to_parquet(folder / "other.parquet")
    (folder / "notes.txt").write_text("own notes\n")
    (folder / "README.md").write_bytes(CARD.encode())
    sha = hub.python(UPLOAD.format(folder=str(folder)))
    ask = [sys.executable, "-m", "hf_recipes.cli", "certify", "me/foreign", "--text", "body", "--labels", HOSTILE]
    ask += ["--gold", "truth", "--config", "news", "--push", f"--train.encoder={tiny_encoder}", *FAST]

    def call(code=0, **env):
        done = subprocess.run(ask, check=False, cwd=work, env=hub.env | env, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    # Without a login nothing is read: the verdict could not be pushed.
    assert "`--push` requires a login at the Hub." in call(2, HF_TOKEN="hf_wrong")
    assert not list(work.iterdir())
    address = f"Section for the dataset's card, and trust.json: {hub.address}/datasets/me/foreign/discussions/1\n"
    assert address in call()
    assert address in call()  # the open pull request has this content
    main, request, num_requests = hub.python(READ)
    assert num_requests == 1

    trust_file = "hf-recipes/certify-foreign/trust.json"
    assert set(request) - set(main) == {trust_file}
    assert {path for path in main if main[path] != request[path]} == {"README.md"}
    for name in ("README.md", "notes.txt", "other.parquet", "news/train.parquet", "news/test.parquet"):
        assert main[name].encode("latin-1") == (folder / name).read_bytes()
    trust = Trust.model_validate_json(request[trust_file].encode("latin-1"))
    assert (trust.judged.dataset, trust.judged.revision, trust.judged.config) == ("me/foreign", sha, "news")
    assert trust.judged.classes == sorted(CLASSES)
    assert (trust.test_texts, trust.seeds) == (40, 3)
    recipe = yaml.safe_load((work / "certify-foreign.yaml").read_text())
    assert (recipe["data"].get("test_split", "test"), recipe["data"]["name"]) == ("test", "news")

    # All own bytes are kept in front of one section, which has no markup of the dataset's.
    card = request["README.md"].encode("latin-1").decode()
    assert card.startswith(CARD)
    section = card.removeprefix(CARD).strip()
    begin, end = "<!-- hf-recipes certify-foreign: begin -->", "<!-- hf-recipes certify-foreign: end -->"
    assert (section.startswith(begin), section.endswith(end)) == (True, True)
    assert (section.count(begin), section.count(end)) == (1, 1)
    page = MarkdownIt("commonmark").enable("table").render(section.removeprefix(begin).removesuffix(end))
    assert not [tag for tag in ("<script", "<img", "<!--") if tag in page]
    assert page.count("<a href=") == page.count(f'<a href="{trust_file}">') == 1
    assert page.count("<table>") == 2
    assert section.count("\n## ") == 1  # one part of the foreign card
    assert [line[:5] for line in section.splitlines() if line.startswith("* ")] == ["* `go", "* `ll", "* `ll", "* `no"]
    assert trust.summary.split(".")[0] in page
    assert "hf_secret" not in card + request[trust_file]
    assert str(tmp_path) not in card + request[trust_file]
    assert shlex.quote("me/foreign") in card
