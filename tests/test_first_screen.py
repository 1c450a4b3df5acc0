"""The first screen: its sentences follow from the numbers, its charts have text, and it fits every screen."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import make_figures
from made import make_results as typed
from test_report import known, made, make_results
from test_variants import make_pool

from hf_recipes.analysis.schema import Criterion
from hf_recipes.analysis.verdict import decide
from hf_recipes.recipe import Accept
from hf_recipes.report.findings import describe
from hf_recipes.report.first_screen import WrongText, describe_headline, find_wrong_texts, render_first_screen
from hf_recipes.report.first_screen.content import describe_labels, list_limits, list_unknown
from hf_recipes.report.first_screen.numbers import points, points_at_most
from hf_recipes.report.page import make_report, render_html
from hf_recipes.report.tables import make_tables
from hf_recipes.variants import CONTROLS

TEXTS = [WrongText("A super exciting day of data entry. Yay me.", "a", "b", 0.68)]


def with_classes(*classes, **fields):
    """Return results with (name, F1 with LLM labels, F1 with gold) of each class."""
    results = make_results(**fields)
    results["class_f1"] = [
        {"name": name, "n": 50, "value": llm, "gold": gold, "variance": known(0.01)} for name, llm, gold in classes
    ]
    for comparison in results["comparisons"]:
        if (comparison["against"], comparison["figure"]) == ("gold", "macro_f1"):
            comparison |= {"first": 0.6 + comparison["difference"], "second": 0.6}
    return results


def test_the_headline_names_the_loss_in_points_and_the_class_that_causes_most_of_it():
    results = with_classes(("a", 0.4, 0.7), ("b", 0.5, 0.6))
    results["annotator"] |= {"gold_share": {"a": 0.21, "b": 0.79}, "llm_share": {"a": 0.01, "b": 0.99}}
    results["class_shares"] = [
        results["class_shares"][0] | {"class_name": "a", "share": 0.0, "gold": 0.21, "bias_interval": None}
    ]
    headline = describe_headline(typed(results))
    assert headline.decision == "Do not train on these labels"
    assert headline.sentence == (
        "Classifiers trained on them lose 20.0 points of macro-F1 (0.600 → 0.400). 75% of that loss is one class, 'a': "
        "the LLM calls 1% of the texts 'a', people 21%. Its classifiers never predict it."
    )
    results["annotator"]["llm_share"] = {"a": 0.2, "b": 0.8}
    assert "the LLM finds 50% of the texts that people call 'a'." in describe_headline(typed(results)).sentence
    results["annotator"]["confusion"] = [[21, 0], [79, 0]]  # all of a, and wrong
    results["annotator"]["recall"] = {"a": 1.0, "b": 0.0}
    assert "people agree on 21% of the texts that the LLM calls 'a'." in describe_headline(typed(results)).sentence
    results["class_f1"][1]["gold"] = 0.5  # as with LLM labels
    assert "Almost all of that loss is one class, 'a'" in describe_headline(typed(results)).sentence
    results["class_f1"][1]["gold"] = 0.4
    assert "One class, 'a', loses more than that, as others gain" in describe_headline(typed(results)).sentence


def test_a_loss_that_is_inconclusive_has_no_cause():
    results = with_classes(("a", 0.8, 0.9), ("b", 0.8, 0.7), cost=-0.05, cost_interval=(-0.12, 0.02))
    results["verdict"] = decide_again(results)
    headline = describe_headline(typed(results))
    assert headline.decision == "Inconclusive: at most 12 points of macro-F1 lost"
    assert headline.sentence == (
        "Their loss of macro-F1 is 5 points (0.60 → 0.55), with an interval from -2 to 12: inconclusive."
    )


def test_a_loss_beyond_its_limit_is_not_called_inconclusive():
    """The limit is decided by its own correction, the comparison by that of all primary ones."""
    results = with_classes(("a", 0.1, 0.6), ("b", 0.5, 0.7), cost=-0.35, cost_interval=(-0.48, -0.22))
    for comparison in results["comparisons"]:
        comparison["verdict"] = "inconclusive"
    results["verdict"] = decide_again(results)
    assert results["verdict"]["criteria"][0]["status"] == "fails"
    sentence = describe_headline(typed(results)).sentence
    assert sentence.startswith("Classifiers trained on them lose 35 points of macro-F1 (0.60 → 0.25). 71% of that loss")
    results = with_classes(("a", 0.8, 0.9), ("b", 0.8, 0.7), cost=-0.07, cost_interval=(-0.13, -0.01))
    for comparison in results["comparisons"]:
        comparison["verdict"] = "inconclusive"
    results["verdict"] = decide_again(results)
    sentence = describe_headline(typed(results)).sentence
    assert sentence.endswith("an interval from 1 to 13: inconclusive once corrected for several comparisons.")


def test_the_accuracy_of_the_labels_is_next_to_that_of_the_most_frequent_class():
    results = make_results()
    assert describe_labels(typed(results)) == (
        "The LLM is right on 60% of 40 training texts (interval: 50% to 70%); always giving the most frequent class: "
        "50%."
    )
    results["annotator"] |= {"n_gold": 12, "accuracy": None}
    assert describe_labels(typed(results)) == (
        "How often the LLM is right is unknown: only 12 texts have a gold label."
    )


def decide_again(results):
    return decide(make_figures(results), Accept()).model_dump()


@pytest.mark.parametrize("variant", ["gold", "llm"])
def test_runs_that_learnt_nothing_are_named_in_the_headline_without_a_cause(variant):
    results = with_classes(("a", 0.4, 0.7), ("b", 0.5, 0.6))
    for result in results["variants"]:
        result["above_chance"] = result["variant"] != variant
    sentence = describe_headline(typed(results)).sentence
    assert "not better than chance" in sentence
    assert ("points" in sentence) == (variant == "llm")
    assert "of that loss" not in sentence


def test_gold_runs_that_learnt_nothing_come_before_a_low_f1():
    results = with_classes(("a", 0.1, 0.1), ("b", 0.5, 0.5))
    for result in results["variants"]:
        result["above_chance"] = result["variant"] != "gold"
    results["verdict"] = decide_again(results)
    assert describe_headline(typed(results)).sentence == (
        "Classifiers trained on gold labels are not better than chance, so the loss is unknown. Their F1 of the class "
        "'a' with LLM labels is 0.100; the limit is 0.5."
    )


@pytest.mark.parametrize(("gold", "is_named"), [(0.2, True), (0.9, False)])
def test_a_low_f1_that_gold_labels_have_too_is_no_fault_of_the_labels(gold, is_named):
    results = with_classes(("a", 0.1, gold), ("b", 0.9, 0.9))
    results["verdict"] = decide_again(results)
    sentence = describe_headline(typed(results)).sentence
    if typed(results).verdict.criteria[0].status == "fails":
        assert "F1 of the class" not in sentence
        return
    expected = "F1 of the class 'a' is 0.100 with LLM labels and 0.200 with gold labels; the limit is 0.5. Gold labels"
    assert (expected in sentence) == is_named
    assert ("Their F1 of the class 'a' is 0.100; the limit is 0.5." in sentence) != is_named


def test_without_probabilities_wrong_texts_have_none():
    gold, hard = np.array([0, 1, 0]), np.eye(2)[[1, 1, 0]]
    assert [text.probability for text in find_wrong_texts(["x", "y", "z"], gold, hard, ["a", "b"])] == [None]
    soft = np.array([[0.3, 0.7], [0.2, 0.8], [0.9, 0.1]])
    assert [text.probability for text in find_wrong_texts(["x", "y", "z"], gold, soft, ["a", "b"])] == [0.7]


@given(st.floats(-0.5, 0.5), st.floats(0.001, 0.2), st.floats(-0.5, 0.5), st.floats(0, 1))
def test_a_verdict_at_other_limits_is_that_of_a_study_with_these_limits(loss, half, churn, class_f1):
    """`VerdictResult.at` is what the Space's sliders call, `decide` what a study calls."""
    results = make_results(cost=-loss, cost_interval=(-loss - half, -loss + half))
    figures, verdict = make_figures(results), typed(results).verdict
    limits = {"macro_f1_loss": abs(churn), "churn": churn, "min_class_f1": class_f1}
    moved = verdict.at(limits)
    again = decide(figures, Accept.model_construct(**limits))
    assert moved.decision == again.decision
    assert [criterion.status for criterion in moved.criteria] == [criterion.status for criterion in again.criteria]


def test_every_limit_is_drawn_with_its_own_shape_and_read_out():
    verdict, _ = render_first_screen(made(), TEXTS, CONTROLS)
    assert re.findall(r'<svg[^>]*aria-label="([^"]*)"', verdict)[0] == (
        "Score lost: 0.200, interval [0.150, 0.250], limit 0.050"
    )
    for status, shape in (
        ("holds", '<circle class="mark holds"'),
        ("fails", '<path class="mark fails"'),
        ("inconclusive", '<circle class="mark inconclusive hollow"'),
    ):
        results = make_results()
        results["verdict"]["criteria"][0]["status"] = status
        row = render_first_screen(typed(results), TEXTS, CONTROLS)[0].split("<tr>")[2]
        assert shape in row


def test_a_remedy_is_followed_by_its_control():
    _, why = render_first_screen(made(), TEXTS, CONTROLS)
    rows = re.findall(r'<tr( class="is-control")?><th scope="row">([^<]*)', why.split('class="remedies"')[1])
    assert [bool(control) for control, _ in rows] == [False, False, True, False]
    assert "highest entropy" in rows[1][1]
    assert "drawn at random" in rows[2][1]


def test_the_surest_errors_come_first_and_of_each_kind_one():
    pool = make_pool(n=200)
    found = find_wrong_texts(pool.texts, pool.gold, pool.probs, pool.label_names)
    wrong = pool.probs.argmax(axis=1) != pool.gold
    assert len(found) == 4
    assert found[0].probability == pool.probs[wrong].max()
    assert len({(text.gold, text.llm) for text in found}) == 4
    assert find_wrong_texts(pool.texts, np.full(200, -1), pool.probs, pool.label_names) == []
    assert find_wrong_texts([""] * 200, pool.gold, pool.probs, pool.label_names) == []  # not published
    right = pool.probs.argmax(axis=1)
    right[:1] = (right[0] + 1) % 3
    assert [text.text for text in find_wrong_texts(pool.texts, right, pool.probs, pool.label_names)] == ["text 0"]


def test_many_classes_are_a_list_of_the_largest_confusions():
    names = [f"class {i}" for i in range(12)]
    results = make_results()
    confusion = np.full((12, 12), 1) + np.diag(np.full(12, 50))
    confusion[3, 7] = 40
    results |= {"label_names": names}
    results["annotator"] |= {"confusion": confusion.tolist()}
    _, why = render_first_screen(typed(results), [], CONTROLS)
    first = why.split('class="confusions"')[1].split("</tr>")[1]
    assert re.findall(r">([^<>\n]+)</t", first) == ["class 3", "class 7", "40", "40%"]
    assert why.split('class="confusions"')[1].count('<th scope="row">class') == 10


def test_a_criterion_without_intervals_decides_nothing():
    criterion = Criterion(name="macro_f1_loss", value=0.3, interval=None, limit=0.05, status="inconclusive")
    assert criterion.at(0.0).status == criterion.at(1.0).status == "inconclusive"
    missing = Criterion(name="min_class_f1", value=None, interval=None, limit=0.5, status="inconclusive")
    assert missing.at(0.0).status == "inconclusive"


def test_comparisons_with_gold_runs_that_learnt_nothing_are_not_shown():
    results = make_results()
    for result in results["variants"]:
        result["above_chance"] = result["variant"] != "gold"
    results["verdict"] = decide_again(results)
    rows = list_limits(typed(results))
    assert [row.criterion.name for row in rows] == ["min_class_f1"]
    assert "Macro-F1 loss" not in describe(typed(results)).findings[0].text


def test_agreement_of_llm_runs_that_learnt_nothing_does_not_hold_a_limit():
    results = make_results(churn=-0.7, churn_interval=(-1.3, -0.1))
    results["verdict"] = decide_again(results)
    row = list_limits(typed(results))[1]
    assert (row.criterion.name, row.status, row.criterion.interval) == (
        "churn",
        "holds",
        (-1.0, pytest.approx(-0.1, abs=0.001)),
    )
    for result in results["variants"]:
        result["above_chance"] = result["variant"] != "llm"
    assert "churn" not in [row.criterion.name for row in list_limits(typed(results))]
    assert "disagreement" not in describe(typed(results)).findings[0].text
    assert all("instability" not in line for line in list_unknown(typed(results)))


@pytest.mark.parametrize(("limit", "shown"), [(0.025, "at most 0.025"), (0.05, "at most 0.05"), (0.5, "at most 0.5")])
def test_limits_are_shown_as_they_are_set(limit, shown):
    results = make_results()
    results["verdict"]["criteria"][0]["limit"] = limit
    assert list_limits(typed(results))[0].limit == shown


def test_an_upper_bound_is_rounded_up():
    assert points_at_most(0.0504) == "5.1"
    assert points_at_most(0.121, (0.0, 0.121)) == "13"
    assert points_at_most(0.05) == "5"
    assert points(-0.0001) == "0.0"


#: The words of sentences before an element: outside of tables, charts, and quoted texts with their labels.
WORDS = """(end) => {
  const copy = document.querySelector("main").cloneNode(true);
  const range = document.createRange();
  range.setStartBefore(copy.querySelector(end));
  range.setEndAfter(copy.lastChild);
  range.deleteContents();
  copy.querySelectorAll("table, svg, .texts").forEach((element) => element.remove());
  return copy.textContent.split(/\\s+/).filter((word) => /[A-Za-z]/.test(word));
}"""


def full_results():
    results = with_classes(("a", 0.4, 0.7), ("b", 0.5, 0.6))
    results["annotator"] |= {"confusion": [[10, 10], [5, 15]], "model": "some/very-long-model-name-of-270m"}
    results["annotator"] |= {"gold_share": {"a": 0.5, "b": 0.5}, "llm_share": {"a": 0.2, "b": 0.8}}
    results |= {"dataset": "vader_tweets", "encoder": "all-MiniLM-L6-v2", "date": "2026-11-29"}
    results["best_mitigation"] = {
        **{"variant": "llm-entropy-replace", "among": ["llm-entropy-replace"], "R": 3, "n": 100, "difference": 0.1},
        **{"interval": [0.05, 0.15], "p_value": 0.01, "verdict": "higher"},
    }
    return typed(results)


@pytest.fixture(scope="module")
def report_file(tmp_path_factory):
    results = full_results()
    html = render_html(make_report(results, "Methods."), results, TEXTS * 4, "key")
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(html, encoding="utf-8")
    return file


def test_it_answers_in_few_words_and_has_no_raster_images(browser, report_file):
    page = browser.new_page()
    page.goto(report_file.as_uri())
    assert 60 < len(page.evaluate(WORDS, "details")) <= 120
    assert 20 < len(page.evaluate(WORDS, "h2")) <= 60
    page.close()
    html = report_file.read_text(encoding="utf-8")
    assert "<img" not in html
    assert "data:image" not in html
    assert html.count("<svg") == html.count('role="img" aria-label="') > 10


#: The contrast of each text with its background, and of each mark with the page, by WCAG 2.1.
CONTRAST = """() => {
  const parse = (color) => (color.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length === 3) return color;
    }
    return [255, 255, 255];
  };
  const text = [...document.querySelectorAll("main *")]
    .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
    .filter((e) => !["STYLE", "SCRIPT"].includes(e.tagName) && !e.closest(".confusion td"))
    .map((e) => [ratio(parse(getComputedStyle(e)[e.closest("svg") ? "fill" : "color"]), behind(e)), e.textContent]);
  const marks = [...document.querySelectorAll("svg .mark, svg .limit, svg .curve, svg .range, svg .run")].map((e) => {
    const style = getComputedStyle(e), fill = parse(style.fill), stroke = parse(style.stroke);
    const colors = [fill, stroke].filter((c) => c.length >= 3 && c[3] !== 0);
    return [Number(style.opacity) < 1 ? 0 : Math.max(...colors.map((c) => ratio(c, behind(e)))), e.outerHTML];
  });
  return {text, marks};
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_is_legible_on_every_screen(browser, report_file, width, theme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    page.goto(report_file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".limits").bounding_box()["y"] < 900  # the answer is on the first screen
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width > 1000:  # No column is cut off.
        wide = "[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth)"
        assert page.evaluate(f"{wide}.map((e) => e.ariaLabel)") == []
    contrast = page.evaluate(CONTRAST)
    assert len(contrast["text"]) > 100
    assert [entry for entry in contrast["text"] if entry[0] < 4.5] == []
    assert [entry for entry in contrast["marks"] if entry[0] < 3] == []
    page.close()


@pytest.mark.parametrize("width", [1200, 390])
def test_numbers_of_remedies_with_long_names_are_not_covered(browser, tmp_path, width):
    results = full_results()
    lines = dict.fromkeys(results.lines, "the LLM's labels, with gold for the audited texts " * 2)
    results = results.model_copy(update={"lines": lines})
    file = tmp_path / "report.html"
    file.write_text(render_html(make_report(results, "Methods."), results, TEXTS, "key"))
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(file.as_uri())
    cells = page.evaluate("[...document.querySelectorAll('.remedies td')].map((e) => [e.scrollWidth, e.clientWidth])")
    assert len(cells) >= 9
    assert [cell for cell in cells if cell[0] > cell[1]] == []
    page.close()


def test_folds_are_open_in_print(browser, report_file):
    page = browser.new_page()
    page.goto(report_file.as_uri())
    assert page.locator("details[open]").count() == 0
    page.pdf()
    assert page.locator("details:not([open])").count() == 0
    page.close()


def test_the_parts_of_the_classes_add_up_to_the_loss_and_the_lowest_f1_comes_first():
    results = typed(with_classes(("a", 0.6, 0.7), ("b", 0.2, 0.6), ("c", 0.9, 0.8)))
    (table,) = [table for table in make_tables(results) if table.title.startswith("Classes")]
    assert [row[0] for row in table.rows] == ["b", "a", "c"]
    parts = [float(row[table.columns.index("part of the macro-F1 loss")]) for row in table.rows]
    assert sum(parts) == pytest.approx((0.7 + 0.6 + 0.8 - 0.6 - 0.2 - 0.9) / 3, abs=0.002)


def test_an_interval_beyond_a_limit_that_is_inconclusive_is_explained():
    results = make_results()
    results["verdict"]["criteria"][0] |= {"interval": [0.06, 0.3], "status": "inconclusive"}
    assert list_limits(typed(results))[0].limit == "at most 0.05; open once corrected for 3 limits"
    results["verdict"]["criteria"][0] |= {"interval": [0.04, 0.3]}
    assert list_limits(typed(results))[0].limit == "at most 0.05"
