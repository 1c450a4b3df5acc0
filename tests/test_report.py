"""The report: what it says follows from the numbers, and it shows hostile names as text."""

from itertools import product

import pytest
from made import DIFFERENCE, fill, make_figures
from made import make_results as typed
from test_variants import make_pool

from hf_recipes.analysis.verdict import decide
from hf_recipes.recipe import Accept
from hf_recipes.report.findings import describe
from hf_recipes.report.first_screen.numbers import interval, number
from hf_recipes.report.page import write_report
from hf_recipes.variants import VARIANTS

TRAINED = ("gold", "llm", "llm-entropy-replace", "llm-random-replace")
VARY = ["subset", "init", "order"]


def estimates(**values):
    """Return fields and their intervals, from (value, low, high) each."""
    fields = {name: value for name, (value, _, _) in values.items()}
    return fields | {f"{name}_interval": [low, high] for name, (_, low, high) in values.items()}


def known(error):
    """Return a variance of the square of `error`, with so many runs and texts that t is normal."""
    return {"runs": 0.0, "items": error**2, "both": 0.0, "run_freedom": 1e6, "item_freedom": 1e6}


def make_variant(variant, size, failed, name):
    scores = estimates(accuracy_mean=(0.7, 0.6, 0.8), macro_f1_mean=(0.6, 0.5, 0.7), macro_f1_sd=(0.1, 0.05, 0.6))
    agreement = estimates(pairwise_disagreement=(0.2, 0.1, 0.3), unanimity=(0.7, 0.6, 0.8))
    by_class = {"per_class_f1_mean": [0.5, 0.7]}
    by_class |= {"per_class_disagreement": {name: 0.2, "b": 0.1}, "per_class_n": {name: 50, "b": 50}}
    labels = {"gold_train_labels": [5, 5, 5], "gold_prompt_labels": 6, "train_label_accuracy": [0.7] * 3}
    runs = {"macro_f1_runs": [0.5, 0.6, 0.7], "failed_runs": 0, "chance_level_runs": failed if variant == "llm" else 0}
    runs["above_chance"] = runs["chance_level_runs"] < 2
    return {"variant": variant, "size": size, **scores, **agreement, **by_class, **labels, **runs}


def make_results(cost=-0.2, cost_interval=(-0.25, -0.15), churn=0.05, churn_interval=(-0.02, 0.12), failed=0, name="a"):
    pairs = [("llm", "gold"), ("llm-entropy-replace", "llm"), ("llm-random-replace", "llm"), (TRAINED[2], TRAINED[3])]
    figures = {"macro_f1": (cost, cost_interval), "pairwise_disagreement": (churn, churn_interval)}
    comparisons = []
    for size, (variant, against), (figure, (value, (low, high))) in product((10, 20), pairs, figures.items()):
        verdict = "higher" if low > 0 else "inconclusive"
        record = {
            "size": size,
            "variant": variant,
            "against": against,
            "figure": figure,
            "p_holm": 0.2,
            "primary": against == "gold",
            "variance": known((high - low) / 2 / 1.96),
        }
        record |= {"difference": value, "interval": [low, high], "verdict": "lower" if high < 0 else verdict}
        comparisons.append(record)
    results = fill(
        {
            "label_names": [name, "b"],
            "annotator": estimates(accuracy=(0.6, 0.5, 0.7))
            | {field: {name: 0.5, "b": 0.5} for field in ("recall", "gold_share", "llm_share")}
            | {"majority_accuracy": 0.5, "macro_f1": 0.5, "entropy_auroc": 0.7, "demonstrations": 6},
            "variants": [make_variant(variant, size, failed, name) for size, variant in product((10, 20), TRAINED)],
            "comparisons": comparisons,
            "plateaus": [plateau("llm", "plateau", "yes"), plateau("gold", "gains")],
            "gold_match": [{"size": size, "difference": -0.2, "verdict": "lower"} for size in (10, 20)],
            "lines": {name: VARIANTS[name].describe(0.25) for name in TRAINED},
            "regained": [{"variant": TRAINED[2], "size": 20, "R": 3, "n": 100, "share": 0.5, "interval": [0.2, 0.9]}],
            "ensembles": [
                {"variant": "llm", "size": 20, "k": 2, "ensembles": 5, "n": 100}
                | estimates(macro_f1_mean=(0.62, 0.5, 0.7), pairwise_disagreement=(0.12, 0.05, 0.2))
            ],
            "class_shares": [
                {"variant": "llm", "class_name": name, "gold": 0.5, "share": 0.6, "sd": 0.02, "size": 20}
                | {"R": 3, "n": 100, **estimates(bias=(0.1, 0.05, 0.15))}
            ],
            "class_f1": [
                {"name": name, "n": 50, "value": 0.5, "variance": known(0.0617)},
                {"name": "b", "n": 50, "value": 0.7, "variance": known(0.0617)},
            ],
            "notes": ["A note."],
        }
    )
    return results | {"verdict": decide(make_figures(results), Accept()).model_dump()}


def made(*args, **fields):
    return typed(make_results(*args, **fields))


def plateau(variant, verdict, premature=None):
    gain = {"last_doubling": [10.0, 20.0], "gain": 0.004, "gain_interval": [-0.002, 0.008], "delta": 0.01}
    return {"variant": variant, "figure": "macro_f1", "verdict": verdict, **gain, "premature_plateau": premature}


def findings(results):
    words = describe(results)
    return " ".join(f"{title} {text}" for title, text in words.findings + words.more)


@pytest.fixture
def write_pages(make_study):
    """Write the report of results; return report.md and report.html."""
    study = make_study()
    with study.lock():
        study.report.mkdir()
    pool = make_pool(n=20, classes=2)

    def write(results):
        write_report(study, pool, results)
        return [(study.report / page).read_text(encoding="utf-8") for page in ("report.md", "report.html")]

    return write


def test_a_clear_cost_and_an_unclear_stability_are_said_so():
    text = findings(made())
    assert "a difference of -0.200 [-0.250, -0.150], clearly below zero" in text
    assert "a difference of +0.05 [-0.02, 0.12], inconclusive with R = 3" in text
    assert "less stable" not in text
    limits = " ".join(describe(made()).limits)
    assert "factor of 12" in limits
    assert "fewer than 10 runs" in limits
    assert "A note." in limits


def test_the_verdict_comes_first_and_says_what_would_decide_it():
    title, text = describe(made()).findings[0]
    assert title == "Verdict."
    assert text.startswith(
        "Do not ship: these labels miss a limit of the recipe. Macro-F1 loss against gold labels: 0.200"
    )
    assert "labels: 0.200 [0.150, 0.250]. Limit 0.05: exceeded." in text
    assert "F1 of the worst class, a: 0.50 [0.38, 0.62]. Limit 0.5: inconclusive; certified: at least 0.379" in text
    near = make_results(cost=-0.01, cost_interval=(-0.06, 0.04))
    near["class_f1"] = [entry | {"value": 0.9} for entry in near["class_f1"]]
    near["verdict"] = decide(make_figures(near), Accept(churn=0.5)).model_dump()
    text = findings(typed(near))
    assert "Verdict. Inconclusive: at most 0.060 of macro-F1 lost. Macro-F1 loss" in text
    assert "3 seeds and 476 test texts decide this with probability 0.8" in text
    assert "more hours of training and labelling." in text
    near["looks"] = [[3, 100], [5, 100]]
    near["verdict"] = decide(make_figures(near), Accept(churn=0.5)).model_dump()
    text = findings(typed(near))
    assert "had these seeds and test texts: 3 and 100, 5 and 100." in text
    assert "the intervals of this one are 99%" in text
    near["verdict"] = decide(make_figures(near), Accept(churn=0.5, macro_f1_loss=0.01)).model_dump()
    assert "no study of up to 200 seeds and 20,000 test texts decides this" in findings(typed(near))


def test_what_gold_alone_would_do_and_what_happens_at_equal_accuracy():
    results = make_results()
    sizes = {10: "lower", 20: "lower", 40: "inconclusive", 80: "higher"}
    results["gold_match"] = [
        {"size": size, "difference": size / 1000, "interval": [0.0, 0.1], "verdict": verdict}
        for size, verdict in sizes.items()
    ]
    results["iso_accuracy"] = {"accuracy": 0.6, "pairwise_disagreement1": 0.2, "pairwise_disagreement2": 0.15, "R": 3}
    results["iso_accuracy"] |= {"sizes": [40, 80], "difference": 0.05, "interval": [0.01, 0.09]}
    results["iso_accuracy"] |= {"p_value": 0.01, "verdict": "higher"}
    text = findings(typed(results))
    assert (
        "In macro-F1, 20 LLM labels are worth more than 20 and at most 80 gold labels. Against LLM labels: 20 gold "
        "labels +0.020 [0.000, 0.100], 80 gold labels +0.080 [0.000, 0.100]; corrected for the number of comparisons."
    ) in text
    assert (
        "from between 40 and 80 texts. Against those, two runs on LLM labels disagree on +0.050 [0.010, 0.090]" in text
    )


def test_who_counts_by_groups_is_told_of_the_group_with_the_largest_bias():
    results = make_results()
    assert "By groups" not in findings(typed(results))
    (of_all,) = results["class_shares"]
    for group, bias, half, n in (("1998", 0.1, 0.2, 50), ("2002", -0.3, 0.2, 50), ("2006", -0.5, 1, 2)):
        of_group = estimates(bias=(bias, bias - half, bias + half)) | {"group": group, "n": n}
        results["class_shares"].append(of_all | of_group)
    text = findings(typed(results))
    assert "a bias of +0.100 [0.050, 0.150], with" in text
    assert "in '2002' (50 texts with gold): -0.30 [-0.50, -0.10], corrected" in text  # not the smallest group's
    for share in results["class_shares"][1:]:
        share["bias_interval"] = [-1, 1]
    assert "In none of 3 groups is a bias clear." in findings(typed(results))


def test_the_best_of_several_is_told_with_what_was_learnt():
    results = make_results()
    results["best_mitigation"] = DIFFERENCE | {"among": ["llm-audit", "llm-soft"], "variant": TRAINED[2]}
    text = findings(typed(results))
    best = f"the best in macro-F1 on half of the seeds and test texts is {TRAINED[2]}. On the other halves it changes"
    assert f"Which of them. Of llm-audit, llm-soft {best} macro-F1 by" in text
    assert "not better than chance" not in text
    for variant in results["variants"]:
        variant["above_chance"] = variant["variant"] != TRAINED[2]
    assert f"But not better than chance: {TRAINED[2]}." in findings(typed(results))


def test_two_runs_an_untaught_gold_variant_and_a_one_sided_annotator_are_said_so():
    results = make_results()
    for comparison in results["comparisons"]:
        comparison |= {"interval": None, "verdict": "inconclusive"}
    assert "without an interval, as R = 3" in findings(typed(results))
    for variant in results["variants"]:
        variant["above_chance"] = variant["variant"] != "gold"
    results["annotator"]["llm_share"] = {"a": 0.02, "b": 0.98}
    text = findings(typed(results))
    assert "the cost cannot be judged" in text
    assert "98% of its labels are 'b'" in text
    assert "ranks a wrong label" not in text


def test_stability_is_named_only_when_its_interval_leaves_out_zero():
    assert "was less stable here" in findings(made(churn_interval=(0.01, 0.09)))
    assert "was more stable here" in findings(made(churn_interval=(-0.09, -0.01)))


def test_single_runs_at_chance_level_are_listed_and_do_not_block():
    text = findings(made(failed=1, churn_interval=(0.01, 0.09)))
    assert (
        "Single runs that agree with gold no more than by chance (kappa not above 0 at p = 0.05): 1 of 3 with llm"
        in text
    )
    assert "was less stable here" in text


def test_classifiers_that_never_predict_a_class_are_not_just_stable():
    results = make_results(churn_interval=(-0.09, -0.01))
    share = results["class_shares"][0]
    results["class_shares"] = [
        share | {"class_name": "b", "share": 0.0},
        share | {"class_name": "b", "variant": "gold"},
    ]
    assert "was more stable here, as its classifiers never predict b" in findings(typed(results))


def with_noise(score, churn, gold_error=None, accuracy=0.8):
    """Return results with LLM labels less the control in macro-F1 and disagreement, by (value, low, high)."""
    results = make_results()
    results["annotator"] |= {"gold_error": gold_error, "accuracy": accuracy}
    for variant, against, values in (
        ("llm", "noise-fixed", (score, churn)),
        ("noise-fixed", "gold", ((-0.1, -0.12, -0.08), (0.1, 0.08, 0.12))),
    ):
        for figure, (value, low, high) in zip(("macro_f1", "pairwise_disagreement"), values, strict=True):
            verdict = "higher" if low > 0 else "lower" if high < 0 else "inconclusive"
            record = {"size": 20, "variant": variant, "against": against, "figure": figure, "primary": False}
            results["comparisons"].append(record | {"difference": value, "interval": [low, high], "verdict": verdict})
    return findings(typed(results))


def test_errors_are_systematic_only_where_wrong_gold_labels_do_not_explain_it():
    nothing, better, worse = (0.0, -0.05, 0.05), (0.05, 0.03, 0.07), (-0.05, -0.07, -0.03)
    assert "than random errors is inconclusive" in with_noise(nothing, nothing)
    assert "In macro-F1, the LLM's errors do not act like random errors" in with_noise(worse, nothing)
    assert "In stability, the LLM's errors do not act" in with_noise(nothing, better)  # more disagreement
    assert "That is inconclusive unless gold is clean" in with_noise(better, nothing)
    # 1% of wrong gold labels explain up to 2 x .01 / .2 x .12 = 0.012 of macro-F1, 10% up to .12.
    assert "In macro-F1, the LLM's errors do not act" in with_noise(better, nothing, gold_error=0.01)
    assert "That is inconclusive unless gold is clean" in with_noise(better, nothing, gold_error=0.1)


def cells(variant, size, closer="higher", better="inconclusive", copied="higher"):
    shares = {"right_same": 0.5, "right_other": 0.1, "wrong_same": 0.3, "wrong_other": 0.1, "agreement": 0.8}
    shares |= {"accuracy": 0.55, "copied": 0.75 if variant == "llm" else 0.4, "teacher_accuracy": 0.6}
    change = {"difference": 0.05, "interval": [0.01, 0.09], "R": 3}
    since = {"size": 10, "agreement": {**change, "verdict": closer}, "accuracy": {**change, "verdict": better}}
    since["copied"] = {**change, "verdict": copied}
    shares = estimates(**{name: (value, value - 0.1, value + 0.1) for name, value in shares.items()})
    above = None if variant == "gold" else {**change, "difference": 0.35, "verdict": "higher"}
    more = {"copied_above_gold": above, "copied_above_noise": None, "since": since if size > 10 else None}
    return {"variant": variant, "size": size, "R": 3, "n": 100, "n_wrong": 40, **shares, **more}


def test_copied_errors_are_set_beside_what_gold_labels_get_wrong_and_a_ceiling_is_named_only_if_seen(write_pages):
    results = make_results() | {"error_cells": [cells(*pair) for pair in product(("gold", "llm"), (10, 20))]}
    said = findings(typed(results))
    assert (
        "Copied errors. Of the 40 in 100 test texts that the LLM itself gets wrong, classifiers on its labels give the "
        "same wrong label in 0.75 [0.65, 0.85] at 10 training texts and in 0.75 [0.65, 0.85] at 20 training texts, "
        "classifiers on 20 gold labels in 0.40 [0.30, 0.50]: a difference of +0.350"
    ) in said
    assert "more texts teach its errors too" in said
    for closer, better, words in (
        ("higher", "higher", "its labels are no ceiling yet"),
        ("inconclusive", "higher", "and so is a ceiling of its labels"),
    ):
        results["error_cells"][-1] = cells("llm", 20, closer, better)
        assert words in findings(typed(results))
    results["error_cells"][-1] = cells("llm", 20, copied="inconclusive")
    assert "without a clear gain." in findings(typed(results))
    results["annotator"] |= estimates(kl=(0.25, 0.21, 0.29)) | {"kl_n": 40}
    markdown, html = write_pages(typed(results))
    (line,) = [line for line in markdown.splitlines() if line.startswith("| llm | 20 | 0.50 ")]
    assert "| 0.75 [0.65, 0.85] |" in line
    assert "0.250 [0.210, 0.290] nats (40 texts)" in markdown
    assert "LLM wrong, says the same" in html
    assert "Copied errors" not in findings(made())
    results["error_cells"].append(cells("noise-fixed", 20) | {"copied_above_gold": None})
    control = {"difference": -0.001, "interval": [-0.05, 0.05], "R": 3, "verdict": "inconclusive"}
    results["error_cells"][-2] |= {"copied_above_noise": control}
    said = findings(typed(results))
    assert "with the LLM's confusion matrix repeat 0.40 [0.30, 0.50]: a difference of -0.001" in said
    assert "Only the part above both controls can be copied" in said


def test_chance_level_runs_are_never_called_stable():
    for bounds in ((-0.09, -0.01), (0.01, 0.09)):
        text = findings(made(failed=2, churn_interval=bounds))
        assert "All runs together agree with gold no more than by chance with llm." in text
        assert "is no stability" in text
        assert "more stable" not in text
        assert "less stable" not in text


def test_hostile_names_are_shown_as_text(write_pages):
    hostile = "<script>alert(1)</script>|x ![i](http://e.vil/x.png) `c` [0.1, 0.2](http://e.vil)"
    results = make_results(name=hostile)
    results["class_shares"].append({**results["class_shares"][0], "group": hostile})
    markdown, html = write_pages(typed(results))
    assert html.count("<script") == 1  # its own, which opens the folds in print
    assert "&lt;script&gt;alert(1)&lt;/script&gt;|x" in html
    assert "<img" not in html.replace('<img alt="', "")
    assert "<script" not in markdown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\|x \\!\\[i\\](http&#58;//e.vil/x.png) \\`c\\`" in markdown
    assert "\\[0.1, 0.2\\](http&#58;//e.vil)" in markdown
    (line,) = [line for line in markdown.splitlines() if line.startswith("| gold | 10 | 0.200 ")]
    assert line.count("|") == 5  # two classes, two more cells
    assert write_pages(typed(results)) == [markdown, html]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.1234, "0.123"), (-0.05, "-0.050"), (1.0, "1.000"), (0, "0.000"), (None, "-"), (12.34, "12.340")],
)
def test_numbers(value, shown):
    assert number(value) == shown


def test_intervals():
    assert interval([0.1, 1.0]) == "[0.10, 1.00]"  # wider than 0.1
    assert interval([0.1, 0.15]) == "[0.100, 0.150]"
    assert interval(None) == "[not defined]"


def test_what_more_texts_would_bring_is_said_with_its_interval():
    results = make_results()
    assert (
        "From 10 to 20 training texts macro-F1 changes by +0.004 [-0.002, 0.008] (the last doubling gained less than "
        "0.01) with LLM labels and by +0.004 [-0.002, 0.008] (the last doubling helped) with gold labels. LLM labels "
        "stopped helping before gold labels did. What more texts would bring was not measured."
    ) in findings(typed(results))
    for entry in results["plateaus"]:
        entry["is_interpolated"] = True
    assert "No run has 10 texts: its score is interpolated." in findings(typed(results))
    results["plateaus"] = [plateau("llm", "inconclusive", "inconclusive"), plateau("gold", "inconclusive")]
    assert "Whether LLM labels stop helping before gold labels do is inconclusive." in findings(typed(results))
    results["plateaus"] = []
    assert "More texts" not in findings(typed(results))


def test_sources_of_chance_are_ranked_and_only_a_clear_first_is_named(write_pages):
    def with_components(first):
        shares = {"subset": first, "init": 0.05, "order": 0.04, "all": 0.3}
        figures = {name: {"value": v, "interval": [v - 0.02, v + 0.02]} for name, v in shares.items()}
        score = {"sd": 0.01, "sd_interval": [0.0, 0.05], "variance": 0.0001, "interval": [-0.1, 0.0025]}
        scores = dict.fromkeys((*VARY, "total"), score)
        components = {"variant": "llm", "size": 20, "sources": VARY, "levels": 3, "R": 27, "n": 100}
        components |= {"disagreement": figures, "macro_f1": scores, "accuracy": scores}
        return typed(make_results() | {"components": [components]})

    assert "Most comes from the training texts." in findings(with_components(0.2))
    assert "Which of them contributes most is inconclusive." in findings(with_components(0.06))
    for page in write_pages(with_components(0.2)):
        assert "the order of batches and dropout" in page
        assert "0.040" in page


def test_all_that_the_first_screen_leaves_out_is_a_click_away(write_pages):
    text, page = write_pages(made())
    first, _, rest = page.partition("<details>")
    assert "Differences, paired" not in first
    assert page.count("<details>") == page.count("</details>") >= 8
    for what in ("Findings in full", "Methods, as a paragraph to paste", "Ensembles of runs", "Differences, paired"):
        assert what in rest
    assert "regains 0.50 [0.20, 0.90]" in rest
    assert "| The LLM's labels alone | 11 | 0.60 [0.50, 0.70] | 0.20 [0.10, 0.30] |\n" in text
    assert "## Methods, as a paragraph to paste" in text
    differences = rest[rest.index("Differences, paired") :]
    assert differences.index("<td>llm</td><td>gold</td>") < differences.index(
        "<td>llm-entropy-replace</td><td>llm</td>"
    )


def test_the_class_that_decides_is_the_lowest_that_fails_and_a_lower_one_is_named_too():
    def class_f1(name, value, error):
        return {"name": name, "n": 50, "value": value, "variance": known(error)}

    results = make_results()
    # F1 of b is 0 too, but on so few texts that only a fails. c is clearly below the limit, and above a.
    results["class_f1"] = [class_f1("c", 0.2, 0.05), class_f1("a", 0.1, 0.05), class_f1("b", 0.0, 0.4)]
    results["verdict"] = decide(make_figures(results), Accept(min_class_f1=0.5)).model_dump()
    assert results["verdict"]["worst_class"] == "a"
    text = describe(typed(results)).findings[0].text
    assert "F1 of the worst class, a: 0.100" in text.replace("0.10 ", "0.100 ")
    assert "; lowest: b, 0.000. Limit 0.5: not reached" in text
    results["class_f1"] = [class_f1(name, 0.0, 0.05) for name in "abcd"] + [class_f1("e", 0.04, 0.001)]
    results["verdict"] = decide(make_figures(results), Accept(min_class_f1=0.5)).model_dump()
    assert results["verdict"]["worst_class"] == "a"  # not e, whose upper bound is the smallest
    assert "; as low in 3 more. Limit" in describe(typed(results)).findings[0].text


@pytest.mark.parametrize("variant", ["gold", "llm"])
def test_sentences_that_runs_at_chance_level_void_are_left_out(variant):
    results = make_results()
    results["gold_match"] = [{"size": 20, "difference": -0.2, "interval": [-0.3, -0.1], "verdict": "lower"}]
    assert "Gold instead." in findings(typed(results))
    for result in results["variants"]:
        result["above_chance"] = result["variant"] != variant
    text = findings(typed(results))
    assert "Not learnt." in text
    assert "Gold instead." not in text
    assert "more stable" not in text


def test_a_class_without_test_texts_is_named():
    results = make_results()
    assert not any("No test text is of" in line for line in describe(typed(results)).limits)
    for result in results["variants"]:
        result["per_class_n"] = {"a": 0, "b": 100}
    (line,) = [line for line in describe(typed(results)).limits if "No test text is of" in line]
    assert line == "No test text is of a: macro-F1 and the limit on F1 are over the other classes."
