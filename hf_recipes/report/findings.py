"""Write the findings of the first page in words, the verdict first, and what cannot be concluded."""

from ..analysis.schema import (
    AnnotatorResult,
    Audits,
    Comparison,
    Criterion,
    GoldMatch,
    Plateau,
    Results,
    VariantResult,
    VerdictResult,
)
from .more_findings import Differences, describe_more, index_differences
from .numbers import estimate, interval, judge, listed, number, signed, signed_difference
from .records import Finding, Findings
from .tables import SOURCES

AUDIT = "hf-recipes audit sample draws texts for people to label."
ONE_SIDED = 0.9  # share of one class above which an annotator hardly tells texts apart
MIN_RUNS = 10  # fewer show only a very large difference in stability
CRITERIA = {
    "macro_f1_loss": "macro-F1 loss against gold labels is {value} {interval}, limit {limit}",
    "churn": "two seeds disagree on {value} {interval} more texts than with gold labels, limit {limit}",
    "min_class_f1": "F1 of the worst class, {worst}, is {value} {interval}, limit {limit}",
}
UNKNOWN = {  # without gold labels, or without labels for test texts
    "macro_f1_loss": "macro-F1 loss against gold labels is not identifiable",
    "churn": "what LLM labels add to the disagreement of two seeds is not identifiable",
    "min_class_f1": "F1 of the classes is not known",
}
DECISIONS = {
    "ship": "Ship: these labels may be trained on, by the limits of the recipe.",
    "do not ship": "Do not ship: these labels miss a limit of the recipe.",
    "label more": "Label more test texts: the limits of the recipe cannot be judged yet.",
    "cannot tell": "Cannot tell whether these labels keep the limits of the recipe.",
}
SCOPE = "Nothing is claimed for other models, encoders, data or sizes than these."


def describe(results: Results) -> Findings:
    """Return what the data show, and what cannot be concluded, in words."""
    return _describe_audited(results, results.audit) if results.audit else _describe_with_gold(results)


def _describe_with_gold(results: Results) -> Findings:
    top, runs, differences = results.top, results.R, index_differences(results)
    gold, llm = results.at_top["gold"], results.at_top["llm"]
    cost, churn = differences["llm", "gold", "macro_f1"], differences["llm", "gold", "pairwise_disagreement"]
    loss = (
        f"With {top:,} training texts, classifiers reach macro-F1 {estimate(llm, 'macro_f1_mean')} on LLM labels and "
        f"{estimate(gold, 'macro_f1_mean')} on gold labels: a difference of {signed_difference(cost)}, {judge(cost)}."
    )
    if gold.chance_level_runs:
        loss += " But gold labels were not learnt in every run: the cost cannot be judged."
    stability = (
        f"{_name_seeds(results)}, disagree on {estimate(llm, 'pairwise_disagreement')} of the test texts with LLM "
        f"labels and on {estimate(gold, 'pairwise_disagreement')} with gold labels: a difference of "
        f"{signed_difference(churn)}, {judge(churn)}{_judge_stability(churn, llm, gold)}."
    )
    findings = [
        Finding("Verdict.", _describe_verdict(results.verdict, results.n, runs)),
        Finding("What they cost.", loss),
        Finding("Stability.", stability),
    ]
    failures = [
        f"{result.chance_level_runs} of {runs} with {name}"
        for name, result in results.at_top.items()
        if result.chance_level_runs
    ]
    if failures:
        text = (
            "No more agreement with gold than by chance (kappa not above 0 at .05): "
            f"{', '.join(failures)}. Agreement among such runs is no stability."
        )
        findings.append(Finding("Not learnt.", text))
    if ("llm", "noise-fixed", "macro_f1") in differences:
        findings.append(Finding("Systematic or random.", _describe_noise(differences)))
    gains = {plateau.variant: plateau for plateau in results.plateaus}
    if "llm" in gains and "gold" in gains:
        findings.append(Finding("More texts.", _describe_gains(gains["llm"], gains["gold"])))
    findings.append(Finding("Gold instead.", _describe_gold_match(results.gold_match, top)))
    more = [Finding("The labels.", _describe_labels(results.annotator)), *describe_more(results)]
    return Findings(findings, more, _list_limits(results, llm))


def _list_limits(results: Results, llm: VariantResult) -> list[str]:
    runs, spread = results.R, llm.macro_f1_sd_interval
    limits = [f"R = {runs} runs a variant: too few to conclude anything from standard deviations."]
    if spread and spread[0]:
        limits = [
            f"R = {runs} runs a variant. The interval of a standard deviation over {runs} runs spans a factor of "
            f"{spread[1] / spread[0]:.0f}: nothing is concluded here from standard deviations."
        ]
    if runs < MIN_RUNS:
        limits.append(
            f"With fewer than {MIN_RUNS} runs a variant, a difference in stability has to be very large to be seen; "
            "add seeds to grid.seeds."
        )
    if "pass" not in results.vary:
        limits.append("All of this is for one prompt with one draw of demonstrations; another draw gives other labels.")
    limits.append(
        f"Intervals are {results.confidence_level:.0%} each, over runs and the {results.n:,} test texts "
        "together, by t forms with variances added; they are not corrected for the number of comparisons: of the "
        "differences that are truly zero, about one in twenty is shown as different."
    )
    return [*limits, SCOPE, *results.notes]


def _describe_labels(annotator: AnnotatorResult) -> str:
    text = (
        f"{annotator.model} gives {annotator.n:,} training texts the gold label in "
        f"{number(annotator.accuracy)} of the cases {interval(annotator.accuracy_interval)}, macro-F1 "
        f"{number(annotator.macro_f1)}; always giving the commonest class would be right in "
        f"{number(annotator.majority_accuracy)}."
    )
    favourite, share = max(annotator.llm_share.items(), key=lambda pair: pair[1])
    ranks = annotator.entropy_auroc
    if share > ONE_SIDED:
        text += f" {share:.0%} of its labels are '{favourite}': it hardly tells these texts apart."
    elif ranks is not None:
        text += f" Its entropy ranks a wrong label above a right one with probability {number(ranks)} (.5 is chance)."
    if annotator.one_annotator is not None:
        text += (
            f" One of the texts' raters gives the commonest label of the others in {number(annotator.one_annotator)}."
        )
    return text


def _describe_audited(results: Results, audit: Audits) -> Findings:
    """Return the findings where the source has no gold: those of an audit, and those that require no gold."""
    top, runs, annotator, llm = results.top, results.R, results.annotator, results.at_top["llm"]
    labels = f"{annotator.model} labelled {annotator.n:,} training texts; these labels are not checked. {AUDIT}"
    if annotator.n_gold:
        labels = (
            f"{annotator.model} labelled {annotator.n:,} training texts; of {annotator.n_gold:,} of them, drawn at "
            f"random, people gave the same label in {number(annotator.accuracy)} of the cases "
            f"{interval(annotator.accuracy_interval)}, macro-F1 {estimate(annotator, 'macro_f1')}; always giving the "
            f"commonest class would be right in {number(annotator.majority_accuracy)}."
        )
    scores = f"Not known: fewer than two of the {results.n:,} test texts have people's labels. {AUDIT}"
    if llm.n_gold:
        scores = (
            f"With {top:,} training texts and LLM labels, classifiers reach macro-F1 {estimate(llm, 'macro_f1_mean')} "
            f"and accuracy {estimate(llm, 'accuracy_mean')} on the {llm.n_gold:,} test texts, drawn at random of "
            f"{results.n:,}, that people labelled; over {runs} runs and these texts."
        )
    if difference := results.find("gold-only", "llm", "macro_f1"):
        alone = results.at_top["gold-only"]
        scores += (
            f" On the {round(sum(alone.gold_train_labels) / runs):,} gold labels of the audit alone (gold-only) "
            f"they reach {estimate(alone, 'macro_f1_mean')}: {signed_difference(difference)} against LLM labels, "
            f"{judge(difference)}."
        )
    findings = [
        Finding("Verdict.", _describe_verdict(results.verdict, llm.n_gold, runs)),
        Finding("The labels.", labels),
        Finding("The classifiers.", scores),
        Finding(
            "What they cost against full gold: not identifiable.",
            "No classifier was trained on gold labels for as many texts, so neither the macro-F1 that LLM labels lose "
            "nor the disagreement that they add can be estimated, whatever the number of seeds.",
        ),
        Finding(
            "Stability.",
            f"{_name_seeds(results)}, disagree on {estimate(llm, 'pairwise_disagreement')} of all {results.n:,} test "
            f"texts with LLM labels; all {runs} agree on {estimate(llm, 'unanimity')}. This requires no gold, and says "
            "nothing of whether they are right.",
        ),
    ]
    limits = [
        f"R = {runs} runs a variant; intervals are {results.confidence_level:.0%} each, not corrected for the number "
        "of comparisons (those of shares are, for that of classes and groups). Scores are over runs and audited test "
        "texts together, stability over runs and all test texts."
    ]
    limits += [
        f"People labelled {part.labelled:,} of the {part.drawn:,} texts of the {name} that were drawn: if "
        "they left out the hard ones, what is said of them is too good."
        for name, part in (("pool", audit.pool), ("test", audit.test))
        if part.labelled < part.drawn
    ]
    missing = [name for name in results.label_names if not llm.per_class_n.get(name)]
    if missing and llm.n_gold:
        limits.append(f"No audited test text is of {' or '.join(missing)}: macro-F1 is over the other classes.")
    return Findings(findings, describe_more(results), [*limits, SCOPE, *results.notes])


def _name_seeds(results: Results) -> str:
    sources = listed([SOURCES[source] for source in results.vary])
    return f"Two runs that differ in their seeds, which draw {sources}"


def _describe_verdict(verdict: VerdictResult, num_texts: int, runs: int) -> str:
    criteria = "; ".join(_describe_criterion(criterion, verdict) for criterion in verdict.criteria)
    text = f"{DECISIONS[verdict.decision]} {criteria[0].upper()}{criteria[1:]}."
    if verdict.reason:
        return f"{text} For {verdict.reason}."
    ways = []
    if (labels := verdict.test_labels) and labels > num_texts:
        ways.append(f"{labels:,} test labels in all ({labels - num_texts:,} more)")
    if (seeds := verdict.seeds) and seeds > runs:
        ways.append(f"{seeds:,} seeds")
    if ways and verdict.decision != "do not ship":
        is_complete = all(criterion.value is not None for criterion in verdict.criteria)
        open_question = "it" if is_complete else "the limit on the worst class"
        text += (
            f" If the truth is where the estimates are, about {' or '.join(ways)} would decide {open_question} "
            "(4 times in 5)."
        )
    return text


def _describe_criterion(criterion: Criterion, verdict: VerdictResult) -> str:
    if criterion.value is None:
        return f"{UNKNOWN[criterion.name]} ({criterion.status})"
    text = CRITERIA[criterion.name].format(
        value=number(criterion.value),
        interval=interval(criterion.interval),
        limit=number(criterion.limit),
        worst=verdict.worst_class,
    )
    return f"{text} ({criterion.status})"


def _describe_noise(differences: Differences) -> str:
    """Return whether LLM labels do more harm than as many errors at random."""
    score, churn = (differences["llm", "noise-fixed", figure] for figure in ("macro_f1", "pairwise_disagreement"))
    names = {"score": score, "stability": churn}
    clear = [name for name, difference in names.items() if difference.verdict != "cannot tell"]
    meaning = "Whether errors that depend on the text do more harm than random errors is inconclusive."
    if clear:
        meaning = f"In {' and '.join(clear)} errors that go by the text do not do what errors by chance do."
    return (
        "Gold labels made wrong at random, as often and between the same classes as the LLM's, say what wrong labels "
        f"do whatever they are. LLM labels differ from them by {signed_difference(score)} of macro-F1, "
        f"{judge(score)}, and by {signed_difference(churn)} in the share of test texts on which two runs disagree, "
        f"{judge(churn)}. {meaning}"
    )


def _describe_gold_match(matches: list[GoldMatch], top: int) -> str:
    """Return between which numbers of gold labels classifiers are as good as on all LLM labels."""
    below = [match.size for match in matches if match.verdict == "lower"]
    above = [match.size for match in matches if match.verdict == "higher"]
    start = f"As good in macro-F1 as {top:,} LLM labels are"
    if above:
        most = min(above)
        least = max([size for size in below if size < most], default=None)
        more = f"more than {least:,} and " if least else ""
        return f"{start} {more}at most {most:,} gold labels alone."
    if not below:
        return f"{start} how many gold labels: these sizes do not show it."
    if max(below) == top:
        return f"{start} more than {top:,} gold labels alone: they beat as many gold labels here."
    return f"{start} more than {max(below):,} gold labels; whether {top:,} are is unknown."


def _describe_gains(llm: Plateau, gold: Plateau) -> str:
    """Return the gain of the last doubling, and whether that is a plateau."""
    meaning = {
        "plateau": f"less than {llm.delta:g} is left to gain by doubling them again",
        "gains": "they still help",
        "cannot tell": "whether they still help is inconclusive",
    }
    first, last = llm.last_doubling
    order = {
        "yes": " LLM labels stopped helping before gold labels did.",
        "no": "",
        "cannot tell": " Whether LLM labels stop helping before gold labels do is inconclusive.",
    }[llm.premature_plateau or "no"]
    return (
        f"From {first:,.0f} to {last:,.0f} training texts macro-F1 changes by {signed(llm.gain)} "
        f"{interval(llm.gain_interval)} with LLM labels: {meaning[llm.verdict]}; with gold labels by "
        f"{signed(gold.gain)} {interval(gold.gain_interval)}: {meaning[gold.verdict]}.{order}"
    )


def _judge_stability(churn: Comparison, llm: VariantResult, gold: VariantResult) -> str:
    """Return what a clear difference in disagreement means. Runs at chance level are not stable, however they agree."""
    if churn.verdict == "cannot tell" or llm.chance_level_runs or gold.chance_level_runs:
        return ""
    return f", so training on LLM labels was {'less' if churn.verdict == 'higher' else 'more'} stable here"
