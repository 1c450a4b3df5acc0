"""Test the Space's pages for visitors who label: the guessing game, and the check of a visitor's own labels."""

import csv
import io
import json
import re
from dataclasses import replace
from urllib.parse import parse_qs

import check_labels
import guess
import httpx
import numpy as np
import published
import pyarrow.parquet as pq
import pytest
import uploads
from gradio_client import Client, handle_file
from playwright.sync_api import expect
from sklearn.metrics import accuracy_score, cohen_kappa_score, confusion_matrix, f1_score
from space_app import APP, SAMPLE, serve

HOSTILE = '<img src=x onerror="alert(1)"><script>alert(2)</script>'
PHONE = {"width": 390, "height": 844}
WAIT = 180_000


@pytest.fixture(scope="module")
def study():
    return published.read_folder(SAMPLE)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with serve(APP, log=tmp_path_factory.mktemp("space") / "app.log") as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


@pytest.fixture
def visit(browser, address):
    """Open the app on a phone, and fail if the console has errors or something shifts without the visitor's doing."""
    opened, complaints = [], []

    def go(query):
        page = browser.new_page(viewport=PHONE)
        opened.append(page)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{address}/{query}", wait_until="domcontentloaded")
        return page

    yield go
    for page in opened:
        page.close()
    assert not complaints


def change_pool(study, **changes):
    return replace(study, pool=replace(study.pool, **changes))


# ------------------------------------------------------------------------------------------------------------- guess


def test_the_llm_is_wrong_on_half_of_the_texts_and_every_draw_differs(study):
    is_wrong = dict(zip(study.pool.ids, study.pool.gold != study.pool.llm, strict=True))
    draws = [guess.play(study, draw, "") for draw in range(5)]
    for game in draws:
        assert sum(is_wrong[text["id"]] for text in game["texts"]) == game["llm_wrong"] == 5
        assert not any({"gold", "llm"} & text.keys() for text in game["texts"])
    assert len({text["id"] for game in draws for text in game["texts"]}) > 40
    # The order of the rows in the file does not matter.
    back = slice(None, None, -1)
    arrays = {name: getattr(study.pool, name)[back] for name in ("gold", "llm", "probs", "entropy", "classifier")}
    turned = change_pool(study, ids=study.pool.ids[back], texts=study.pool.texts[back], **arrays)
    assert guess.play(turned, 3, "")["texts"] == draws[3]["texts"]


def test_the_classifier_has_not_seen_the_texts_that_it_labels(study):
    """By the study's own tables: its runs of the largest size, and the texts that each of them was trained on."""
    table = pq.read_table(SAMPLE / "data" / "out_of_bag").to_pylist()
    runs = [f"llm/n1600/{seed}" for seed in range(10)]
    for i in np.flatnonzero(study.pool.classifier >= 0)[:50]:
        rows = {row["run"]: row["probs"] for row in table if row["id"] == study.pool.ids[i]}
        first = next(run for run in runs if run in rows)
        assert study.pool.classifier[i] == np.argmax(rows[first])
    without = change_pool(study, classifier=np.full(len(study.pool.ids), -1))
    game = guess.play(without, 1, ".".join(["0"] * 10))
    assert game["score"]["classifier"] is None
    assert list(game["overall"]) == ["llm"]


def test_few_wrong_or_right_labels_are_filled_up(study):
    gold, rows = study.pool.gold, np.arange(len(study.pool.gold))
    playable = np.flatnonzero(study.pool.classifier >= 0)
    is_chosen = np.isin(rows, playable[:2])
    mostly_right, mostly_wrong = np.where(is_chosen, (gold + 1) % 3, gold), np.where(is_chosen, gold, (gold + 1) % 3)
    assert guess.play(change_pool(study, llm=mostly_right), 1, "")["llm_wrong"] == 2
    assert guess.play(change_pool(study, llm=mostly_wrong), 1, "")["llm_wrong"] == 8
    few = guess.play(change_pool(study, gold=np.where(np.isin(rows, playable[:4]), gold, -1)), 1, "")
    assert len(few["texts"]) == few["overall"]["llm"]["n"] == 4


def test_a_score_is_counted_against_gold_and_its_link_brings_back_the_same_texts(client, study):
    game = client.predict(draw=7, api_name="/guess_labels")
    place = {row: i for i, row in enumerate(study.pool.ids)}
    gold = [int(study.pool.gold[place[text["id"]]]) for text in game["texts"]]
    guesses = [*gold[:7], *((label + 1) % 3 for label in gold[7:])]
    result = client.predict(draw=7, guesses=".".join(map(str, guesses)), api_name="/guess_labels")
    labels = [int(study.pool.classifier[place[text["id"]]]) for text in game["texts"]]
    num_right = sum(label == true for label, true in zip(labels, gold, strict=True))
    assert result["score"] == {"you": 7, "llm": 5, "classifier": num_right}
    assert [study.classes.index(text["guess"]) for text in result["texts"]] == guesses
    has_all = study.pool.classifier >= 0
    for name, given in {"llm": study.pool.llm, "classifier": study.pool.classifier}.items():
        assert result["overall"][name]["right"] == (study.pool.gold == given)[has_all].sum()
    link = {name: values[0] for name, values in parse_qs(result["link"]).items()}
    assert link.pop("view") == "guess"
    link["draw"] = int(link["draw"])
    assert client.predict(**link, api_name="/guess_labels") == result
    # A study that has changed since gets other texts, so the score is refused.
    changed = change_pool(study, texts=["" if i % 2 else text for i, text in enumerate(study.pool.texts)])
    with pytest.raises(guess.GuessError, match="for other texts"):
        guess.play(changed, 7, link["guesses"])
    for wrong in ("1", "9" * 10, "0.1.2.0.1.2.0.1.2.9", HOSTILE, "0." * 5_000):
        with pytest.raises(Exception, match="must be 10 class indices below 3") as error:
            client.predict(guesses=wrong, api_name="/guess_labels")
        assert "<" not in str(error.value)


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("texts", "does not publish its texts"),
        ("gold", "no gold labels"),
        ("llm", "both a gold label and an LLM label"),
    ],
)
def test_what_a_study_lacks_is_one_sentence(missing, sentence, study):
    n = len(study.pool.ids)
    bare = change_pool(study, **{missing: [""] * n if missing == "texts" else np.full(n, -1)})
    game = guess.play(replace(bare, texts=missing != "texts"), 1, "")
    assert sentence in game["missing"][0]
    assert game["texts"] == []
    assert guess.play(replace(bare, texts=missing != "texts"), 1, "0.1")["score"] is None
    assert sentence in guess._top(game, None, "")
    assert guess._form(game) == guess._score(game, None) == ""


def test_texts_and_classes_are_plain_text_and_many_classes_are_a_menu(study):
    hostile = change_pool(study, texts=[HOSTILE] * len(study.pool.texts))
    names = [f"{HOSTILE}{k}" for k in range(12)]
    game = guess.play(replace(hostile, classes=names), 1, ".".join("0" * 10))
    page = guess._form(game) + guess._score(game, game) + guess._top(game, game, HOSTILE)
    assert page.count("<select") == 10
    assert page.count("&lt;script&gt;") > 100
    assert "<script" not in page
    assert "<img" not in page


def test_a_visitor_plays_shares_and_another_plays_the_same_texts(visit):
    page = visit("?view=guess&draw=2")
    form = page.locator("#guess form")
    expect(form.locator("fieldset")).to_have_count(10, timeout=WAIT)
    form.get_by_role("button", name="Compare with the LLM").click()  # The browser refuses a form without choices.
    expect(page.get_by_text("Your score appears here")).to_be_visible()
    for text in form.locator("fieldset").all():
        text.get_by_text("positive").click()
    place = "document.querySelector('#score').getBoundingClientRect()"
    measure = f"() => [{place}.top + window.scrollY, {place}.height]"
    before = page.evaluate(measure)
    form.get_by_role("button", name="Compare with the LLM").click()
    expect(page.locator("#score h3")).to_contain_text("You are right on", timeout=WAIT)
    after = page.evaluate(measure)
    assert after == pytest.approx(before, abs=1)
    expect(page.locator("#guess .outcome").first).to_contain_text(re.compile(r"Gold: positive\. LLM: \w+\."))
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    texts, headline = form.locator("blockquote").all_inner_texts(), page.locator("#score h3").inner_text()
    link = page.locator(".share a").get_attribute("href")
    expect(page).to_have_url(re.compile("guesses="))
    other = visit(link)
    score = re.search(r"on (\d+) of 10", headline)[1]
    expect(other.get_by_text(f"The score in this link: {score} of 10 texts right")).to_be_visible(timeout=WAIT)
    assert other.locator("#guess blockquote").all_inner_texts() == texts
    expect(other.get_by_text("Your score appears here")).to_be_visible()
    other.get_by_role("button", name="Ten other texts").click()
    expect(other).to_have_url(re.compile("draw=3"), timeout=WAIT)
    expect(other.get_by_text("The score in this link")).to_have_count(0)


# ------------------------------------------------------------------------------------------------------------- check


def write(columns):
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return table.getvalue()


def measure(table):
    return check_labels.measure(uploads.read_columns(None, table, check_labels.COLUMNS, check_labels.REQUIRED))


@pytest.mark.parametrize("num_classes", [2, 3, 12])
def test_figures_are_those_of_scikit_learn(num_classes, client, tmp_path):
    generator = np.random.default_rng(num_classes)
    gold = generator.integers(num_classes, size=300)
    llm = np.where(generator.random(300) < 0.7, gold, generator.integers(num_classes, size=300))
    probs = generator.random(300).round(4)
    columns = {"sentence": [f"text {i}" for i in range(300)], "y_true": gold, "y_pred": llm, "confidence": probs}
    (tmp_path / "mine.csv").write_text(write(columns))
    result = client.predict(handle_file(tmp_path / "mine.csv"), "", api_name="/check")
    assert result["right"] == (gold == llm).sum()
    assert result["accuracy"] == pytest.approx(accuracy_score(gold, llm))
    assert result["macro_f1"] == pytest.approx(f1_score(gold, llm, average="macro"))
    assert result["kappa"] == pytest.approx(cohen_kappa_score(gold, llm))
    matrix = confusion_matrix(gold, llm)
    assert np.array_equal(result["confusion"], matrix)
    f1 = {entry["label"]: entry["f1"] for entry in result["per_class"]}
    assert [f1[str(k)] for k in range(num_classes)] == pytest.approx(f1_score(gold, llm, average=None))
    assert list(f1.values()) == sorted(f1.values())
    largest = sorted((matrix - np.diag(matrix.diagonal())).ravel())[::-1][:10]
    assert [pair["n"] for pair in result["confusions"]] == [count for count in largest if count]
    errors = np.flatnonzero(gold != llm)
    assert [error["row"] - 1 for error in result["errors"]] == list(errors[np.argsort(-probs[errors])][:20])
    assert result["errors"][0]["text"] == f"text {result['errors'][0]['row'] - 1}"
    is_matrix = "Gold against LLM" in check_labels._result(result)
    assert is_matrix == (num_classes <= 8)


def test_the_interval_of_kappa_is_as_wide_as_a_bootstrap_says():
    matrix = np.array([[40, 6, 4], [10, 25, 5], [2, 3, 55]])
    kappa, (low, high) = check_labels._kappa(matrix)
    samples = np.random.default_rng(0).multinomial(150, matrix.ravel() / 150, size=4_000).reshape(-1, 3, 3)
    values = [check_labels._kappa(sample)[0] for sample in samples]
    assert (high - low) / 2 / 1.96 == pytest.approx(np.std(values), rel=0.05)
    assert low < kappa < high
    low, high = check_labels._kappa(np.diag([5, 5]))[1]
    assert high == 1
    assert 0.2 < low < 0.6


def test_rows_without_gold_are_left_out_and_one_sided_errors_come_first():
    gold = ["a", "", "b", "b", "b", "c", "nan", "c"]
    llm = ["b", "b", "a", "a", "b", "c", "a", "a"]
    result = measure(write({"gold": gold, "label": llm}))
    assert (result["right"], result["n"], result["without_gold"]) == (2, 6, 2)
    assert result["columns"] == {"gold": "gold", "llm": "label"}
    assert [(error["row"], error["gold"], error["llm"]) for error in result["errors"]] == [(3, "b", "a"), (4, "b", "a")]
    page = check_labels._result(result)
    assert "The LLM is right on 2 of 6 texts." in page
    assert "The 2 rows without a gold label are left out." in page
    assert measure(write({"label": ["1.0", "0"], "prediction": ["1", "0"]}))["right"] == 2


BAD = {
    "no gold": ("a,b\n1,2\n", "must have a column `gold`. Got `a`, `b`. Try one of gold,"),
    "no llm": ("gold,b\n1,2\n", "must have a column `llm`. Got `gold`, `b`."),
    "empty gold": ("gold,llm\n,a\n", "`gold` must have a label. Got empty cells only."),
    "no rows": ("gold,llm\n", "`gold` must have a label."),
    "empty llm": ("gold,llm\na,a\nb,\n", "`llm` must have a label where gold has one. Got an empty cell in row 2."),
    "probability": ("gold,llm,score\na,b,0.5\nb,a,85\n", "`score` must be a number from 0 to 1. Got `85` in row 2."),
    "other names": ("gold,llm\n0,no\n1,yes\n", "`llm` must have the class names of `gold`. Got `no` and `0`."),
    "one class": ("gold,llm\na,a\n", "must have 2 to 100 classes. Got 1."),
    "classes": (write({"gold": range(101), "llm": range(101)}), "must have 2 to 100 classes. Got 101."),
    "long name": (f"gold,llm\na,a\n{'x' * 101},a\n", "`gold` must have names of at most 100 characters. Got `xxx"),
    "many rows": ("gold,llm\n" + "a,b\n" * 100_001, "must have at most 100,000 rows"),
    "null": ("gold,llm\n\0,a\n", "null byte"),
    "ragged": ("gold,llm\na,b,c\n", "as long as the header"),
    "open quote": ('gold,llm\n"a,b\n', "must be CSV"),
}


@pytest.mark.parametrize("kind", BAD)
def test_each_kind_of_bad_table_has_its_sentence(kind):
    table, sentence = BAD[kind]
    with pytest.raises(uploads.UploadError) as error:
        measure(table)
    assert sentence in str(error.value)


def test_a_hostile_upload_is_shown_as_text_and_a_path_of_the_server_is_refused(address, client, tmp_path):
    names = [HOSTILE, f"{HOSTILE}2"]
    table = write({"text": [HOSTILE * 1_000] * 40, "gold": names * 20, "llm_label": [names[0]] * 40})
    (tmp_path / "mine.csv").write_text(table)
    result = client.predict(handle_file(tmp_path / "mine.csv"), "", api_name="/check")
    assert len(json.dumps(result)) < 60_000
    page = check_labels._result(result)
    assert page.count("&lt;script&gt;") > 40
    assert "<script" not in page
    assert "<img" not in page
    with pytest.raises(Exception, match="at most 100 characters") as error:
        client.predict(None, write({HOSTILE: [1], "gold": [HOSTILE * 3], "llm": [1]}), api_name="/check")
    assert "<img" not in str(error.value)
    with pytest.raises(Exception, match="must have a column `gold`") as error:
        client.predict(None, write({HOSTILE: [1], "llm": [1]}), api_name="/check")
    assert "<img" not in str(error.value)
    path = {"path": str(APP / "example_labels.csv"), "meta": {"_type": "gradio.FileData"}}
    event = httpx.post(f"{address}/gradio_api/call/check", json={"data": [path, ""]}).json()["event_id"]
    assert "not uploaded here" in httpx.get(f"{address}/gradio_api/call/check/{event}", timeout=60).text
    (tmp_path / "mine.json").write_text("[]")
    with pytest.raises(Exception, match="one of these formats"):
        client.predict(handle_file(tmp_path / "mine.json"), "", api_name="/check")


def test_the_example_is_checked_when_the_page_opens_and_a_pasted_table_replaces_it(visit):
    page = visit("?view=check")
    expect(page.get_by_text("The LLM is right on 41 of 50 texts.")).to_be_visible(timeout=WAIT)
    place = "document.querySelector('#checked').getBoundingClientRect().top + window.scrollY"
    before = page.evaluate(place)
    page.get_by_label("Paste a CSV table").fill("text,gold,llm\nfine,a,a\n<b>bold</b>,b,a\n")
    page.get_by_role("button", name="Check the labels").click()
    expect(page.get_by_text("The LLM is right on 1 of 2 texts.")).to_be_visible(timeout=WAIT)
    expect(page.get_by_text("<b>bold</b>", exact=True)).to_be_visible()
    assert page.evaluate(place) == pytest.approx(before, abs=1)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.get_by_role("tab", name="Use it").click()  # The result remains when the visitor returns.
    page.get_by_role("tab", name="Check your labels").click()
    page.wait_for_timeout(1_000)
    expect(page.get_by_text("The LLM is right on 1 of 2 texts.")).to_be_visible()
    expect(page.get_by_text("The LLM is right on 41 of 50 texts.")).to_be_hidden()
    page.get_by_label("Paste a CSV table").fill("gold,llm\na,\n")
    page.get_by_role("button", name="Check the labels").click()
    expect(page.get_by_test_id("toast-body")).to_contain_text("Got an empty cell in row 1", timeout=WAIT)
