"""Write the findings of the first page in words, the verdict first, and what cannot be concluded."""

from ..analysis.schema import (
    Audits,
    Comparison,
    Criterion,
    GoldMatch,
    Plateau,
    Results,
    Status,
    VariantResult,
)
from ..analysis.texts import FROM_LLM
from ..analysis.verdict import MAX_SEEDS, MAX_TEXTS, POWER
from ..labels.audit import MIN_LABELS
from ..variants import VARIANTS
from .first_screen.content import describe_labels, describe_lowest, describe_status, list_judged
from .first_screen.numbers import estimate, interval, judge, listed, number, signed, signed_difference
from .more_findings import Differences, describe_more, index_differences
from .records import Finding, Findings
from .tables import BASELINES, SOURCES

AUDIT = "hf-recipes audit sample draws texts for people to label."
ONE_SIDED = 0.9  # share of one class above which an annotator hardly tells texts apart
MIN_RUNS = 10  # fewer show only a very large difference in stability
#: By limit: the value, and what the study certifies.
CRITERIA = {
    "macro_f1_loss": ("macro-F1 loss against gold labels: {value}", "at most {bound} lost"),
    "churn": ("increase in disagreement between seeds: {value}", "an increase of at most {bound}"),
    "min_class_f1": ("F1 of the worst class, {worst}: {value}", "at least {bound} in every class"),
}
UNKNOWN = {  # without gold labels, or without labels for test texts
    "macro_f1_loss": "macro-F1 loss against gold labels is not identifiable",
    "churn": "what LLM labels add to the disagreement of two seeds is not identifiable",
    "min_class_f1": "F1 of the classes is not known",
}
OF_HEADS = "These are linear heads. Fine-tuned encoders have other scores and another instability: see docs/heads.md."
SCOPE = "Nothing is claimed for other models, encoders, data or sizes than these."


def describe(results: Results) -> Findings:
    """Return what the data show, and what cannot be concluded, in words."""
    return _describe_audited(results, results.audit) if results.audit else _describe_with_gold(results)


def _describe_with_gold(results: Results) -> Findings:
    top, differences = results.top, index_differences(results)
    gold, llm = results.at_top["gold"], results.at_top["llm"]
    cost, churn = differences["llm", "gold", "macro_f1"], differences["llm", "gold", "pairwise_disagreement"]
    if results.out_of_bag and results.out_of_bag.is_used:
        texts = (
            f"With {top:,} training texts, {results.classifiers} reach macro-F1 {number(cost.first)} on LLM labels and "
            f"{number(cost.second)} on gold labels, on {results.n:,} test texts and about "
            f"{results.out_of_bag.texts_per_run:,.0f} texts of the pool that a run did not train on"
        )
        on_test = f" On the test texts alone: {signed_difference(cost.test_only)}." if cost.test_only else ""
    else:
        texts = (
            f"With {top:,} training texts, {results.classifiers} reach macro-F1 "
            f"{estimate(llm, 'macro_f1_mean')} on LLM labels and {estimate(gold, 'macro_f1_mean')} on gold labels"
        )
        on_test = ""
    loss = f"{texts}: a difference of {signed_difference(cost)}, {judge(cost)}.{on_test}"
    if gold.above_chance is False:
        loss += f" But {results.classifiers} on gold labels are not better than chance: the cost cannot be judged."
    shares = estimate(llm, "pairwise_disagreement"), estimate(gold, "pairwise_disagreement")
    if churn.test_only:
        shares = number(churn.first), number(churn.second)
    stability = (
        f"{_name_seeds(results)}, disagree on {shares[0]} of these texts with LLM labels and on {shares[1]} with gold "
        f"labels: a difference of {signed_difference(churn)}, {judge(churn)}{_judge_stability(results, churn)}."
    )
    findings = [
        Finding("Verdict.", _describe_verdict(results)),
        Finding("What they cost.", loss),
        Finding("Stability.", stability),
    ]
    if baselines := _describe_baselines(results):
        findings.append(Finding("Baselines.", baselines))
    if chance := _describe_chance(results):
        findings.append(Finding("Not learnt.", chance))
    # Sentences on variants that learnt nothing would compare chance with chance.
    at_chance = {name for name, result in results.at_top.items() if result.above_chance is False}
    if ("llm", "noise-fixed", "macro_f1") in differences and not at_chance & {"llm", "noise-fixed"}:
        findings.append(Finding("Systematic or random.", _describe_noise(results, differences)))
    gains = {plateau.variant: plateau for plateau in results.plateaus}
    if "llm" in gains and "gold" in gains:
        findings.append(Finding("More texts.", _describe_gains(gains["llm"], gains["gold"])))
    if not at_chance & {"llm", "gold"}:
        findings.append(Finding("Gold instead.", _describe_gold_match(results.gold_match, top)))
    more = [Finding("The labels.", _describe_labels(results)), *describe_more(results)]
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
    if results.out_of_bag:
        state = "One distribution of pool and test texts is assumed"
        if not results.out_of_bag.is_used:
            state = "They do not count: pool and test texts seem to come from different distributions"
        limits.append(
            f"{results.out_of_bag.n:,} texts of the pool were classified by the runs that did not train on them. "
            f"{state} (test of class shares and accuracies, p = {number(results.out_of_bag.p_value)})."
        )
    if results.clusters is not None:
        limits.append(
            f"Intervals count {results.clusters:,} clusters of test texts (data.cluster_column), except for sources of "
            "chance and for shares that are estimated from an audit."
        )
    if results.near_duplicates:
        limits.append(f"{results.near_duplicates:,} test texts nearly repeat another. Intervals count such texts once.")
    if missing := [name for name in results.label_names if not llm.per_class_n.get(name)]:
        limits.append(f"No test text is of {listed(missing)}: macro-F1 and the limit on F1 are over the other classes.")
    if "pass" not in results.vary:
        draw = "one prompt with one draw of demonstrations; another draw gives other labels"
        if results.annotator.column:
            draw = "one label of each text; an LLM that is asked again may give others"
        limits.append(f"All of this is for {draw}.")
    limits.append(
        f"Intervals are {results.confidence_level:.0%} each, over runs and texts together, by t. What sentences call "
        "clearly above or below zero is corrected for the number of comparisons (Holm 1979): the primary ones "
        "together, and all others together."
    )
    return [*limits, *_list_scope(results)]


def _list_scope(results: Results) -> list[str]:
    return [*([OF_HEADS] if results.method == "frozen" else []), SCOPE, *results.notes]


def _describe_labels(results: Results) -> str:
    annotator = results.annotator
    if annotator.accuracy is None:
        return describe_labels(results)
    text = (
        f"{annotator.model} gives {annotator.n:,} training texts the gold label in "
        f"{estimate(annotator, 'accuracy')} of the cases, macro-F1 "
        f"{number(annotator.macro_f1)}; always giving the most frequent class would be right in "
        f"{number(annotator.majority_accuracy)}."
    )
    favourite, share = max(annotator.llm_share.items(), key=lambda pair: pair[1])
    ranks = annotator.entropy_auroc
    if share > ONE_SIDED:
        text += f" {share:.0%} of its labels are '{favourite}': it hardly tells these texts apart."
    elif ranks is not None:
        text += f" Its entropy ranks a wrong label above a right one with probability {number(ranks)} (0.5 is chance)."
    if annotator.one_annotator is not None:
        text += (
            " One of the texts' annotators gives the most frequent label of the others in "
            f"{number(annotator.one_annotator)}."
        )
    return text


def _describe_audited(results: Results, audit: Audits) -> Findings:
    """Return the findings where the source has no gold: those of an audit, and those that require no gold."""
    top, runs, annotator, llm = results.top, results.R, results.annotator, results.at_top["llm"]
    labels = f"{annotator.model} labelled {annotator.n:,} training texts; these labels are not checked. {AUDIT}"
    if annotator.n_gold:
        labels = (
            f"{annotator.model} labelled {annotator.n:,} training texts; people labelled {annotator.n_gold:,} of them. "
            f"No figures are given for fewer than {MIN_LABELS}. {AUDIT}"
        )
    if annotator.accuracy is not None:
        labels = (
            f"{annotator.model} labelled {annotator.n:,} training texts; of {annotator.n_gold:,} of them, drawn at "
            f"random, people gave the same label in {number(annotator.accuracy)} of the cases "
            f"{interval(annotator.accuracy_interval)}, macro-F1 {estimate(annotator, 'macro_f1')}; always giving the "
            f"most frequent class would be right in {number(annotator.majority_accuracy)}."
        )
    scores = (
        f"Not known: {audit.test.labelled:,} of the {results.n:,} test texts have people's labels. No figures are "
        f"given for fewer than {MIN_LABELS}. {AUDIT}"
    )
    if llm.n_gold:
        scores = (
            f"With {top:,} training texts and LLM labels, {results.classifiers} reach macro-F1 "
            f"{estimate(llm, 'macro_f1_mean')} and accuracy {estimate(llm, 'accuracy_mean')} on the {llm.n_gold:,} "
            f"test texts, drawn at random of {results.n:,}, that people labelled; over {runs} runs and these texts. "
            f"Always giving the most frequent class would be right in {number(llm.majority_accuracy)}."
        )
    if difference := results.find("gold-only", "llm", "macro_f1"):
        alone = results.at_top["gold-only"]
        scores += (
            f" On the {round(sum(alone.gold_train_labels) / runs):,} gold labels of the audit alone (gold-only) "
            f"they reach {estimate(alone, 'macro_f1_mean')}: {signed_difference(difference)} against LLM labels, "
            f"{judge(difference)}."
        )
    findings = [
        Finding("Verdict.", _describe_verdict(results)),
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
    if names := [name for name, result in results.at_top.items() if result.above_chance is False]:
        text = f"All runs with {listed(names)} give all test texts one class, so their agreement is no stability."
        findings.insert(1, Finding("Not learnt.", text))
    limits = [
        f"R = {runs} runs a variant; intervals are {results.confidence_level:.0%} each, not corrected for the number "
        "of comparisons (those of shares are, for that of classes and groups, and so is what is called clear). Scores "
        "are over runs and audited test texts together, stability over runs and all test texts."
    ]
    limits += [
        f"People labelled {part.labelled:,} of the {part.drawn:,} texts of the {name} that were drawn: if "
        "they left out the hard ones, what is said of them is too good."
        for name, part in (("pool", audit.pool), ("test", audit.test))
        if part.labelled < part.drawn
    ]
    missing = [name for name in results.label_names if not llm.per_class_n.get(name)]
    if missing and llm.n_gold:
        limits.append(f"No audited test text is of {listed(missing)}: macro-F1 is over the other classes.")
    return Findings(findings, describe_more(results), [*limits, *_list_scope(results)])


def _name_seeds(results: Results) -> str:
    sources = listed([SOURCES[source] for source in results.vary])
    return f"Two runs that differ in their seeds, which draw {sources}"


def _describe_verdict(results: Results) -> str:
    verdict = results.verdict
    loss = verdict.criteria[0]
    text = {
        "ship within limits": "Ship within limits.",
        "do not ship": "Do not ship: these labels miss a limit of the recipe.",
        "inconclusive": "Inconclusive: this study does not decide every limit of the recipe.",
    }[verdict.decision]
    if loss.status == "inconclusive" and loss.bound is not None and verdict.decision == "inconclusive":
        text = f"Inconclusive: at most {number(loss.bound)} of macro-F1 lost."
    text += "".join(f" {sentence}" for sentence in describe_limits(results))
    if verdict.reason:
        text += f" No limit against gold labels is decided: {verdict.reason}."
    if len(results.looks) > 1:
        looks = ", ".join(f"{seeds} and {texts:,}" for seeds, texts in results.looks)
        text += (
            f" Verdicts of this study so far had these seeds and test texts: {looks}. Each further verdict is another "
            f"chance to err, so the intervals of this one are {verdict.level:.0%}."
        )
    is_complete = all(criterion.value is not None for criterion in verdict.criteria)
    is_open = any(criterion.value is not None and criterion.status == "inconclusive" for criterion in verdict.criteria)
    if verdict.decision != "inconclusive" or verdict.reason or not is_open:
        return text
    open_question = "this" if is_complete else "the limit on the worst class"
    if advice := verdict.advice:
        return (
            f"{text} If the truth is where the estimates are, {advice.seeds:,} seeds and {advice.test_texts:,} test "
            f"texts decide {open_question} with probability {advice.power:.2f}. That takes about "
            f"{advice.hours:,.1f} more hours of training and labelling."
        )
    return (
        f"{text} If the truth is where the estimates are, no study of up to {MAX_SEEDS:,} seeds and {MAX_TEXTS:,} test "
        f"texts decides {open_question} with probability {POWER}."
    )


def describe_limits(results: Results, status: Status | None = None) -> list[str]:
    """Return a sentence for each limit that the study judges, or for those with a status."""
    judged = [criterion for criterion in list_judged(results) if status in (None, criterion.status)]
    return [f"{_describe_criterion(criterion, results)}." for criterion in judged]


def describe_warning(results: Results | None, variant: str) -> str | None:
    """Return a warning on classifiers of a variant, if they learn from the LLM's labels.

    None unless the verdict is "do not ship", or unknown as there are no current results.
    """
    if VARIANTS[variant].labels not in FROM_LLM:
        return None
    if results is None:
        return "This study has no current verdict: these labels may be worse than its limits. Try hf-recipes run."
    if results.verdict.decision != "do not ship":
        return None
    return " ".join(["The verdict on the LLM's labels is: do not ship.", *describe_limits(results, "fails")])


def _describe_criterion(criterion: Criterion, results: Results) -> str:
    if criterion.value is None:
        text = f"{UNKNOWN[criterion.name]} ({criterion.status})"
        return f"{text[0].upper()}{text[1:]}"
    template, certified = CRITERIA[criterion.name]
    value = estimate(criterion, "value", "interval")
    text = template.format(value=value, worst=results.verdict.worst_class)
    if criterion.name == "min_class_f1":
        text += describe_lowest(results)
    text = f"{text[0].upper()}{text[1:]}. Limit {criterion.limit:g}: {describe_status(criterion)}"
    if criterion.bound is None or criterion.status == "fails":
        return text
    return f"{text}; certified: {certified.format(bound=number(criterion.bound))}"


def _describe_chance(results: Results) -> str:
    """Return which variants, and which single runs, agree with gold no more than chance would."""
    variants = [name for name, result in results.at_top.items() if result.above_chance is False]
    runs = [
        f"{result.chance_level_runs} of {results.R} with {name}"
        for name, result in results.at_top.items()
        if result.chance_level_runs and result.above_chance is not False
    ]
    text = ""
    if variants:
        text = (
            f"All runs together agree with gold no more than by chance with {listed(variants)}. Agreement among such "
            "runs is no stability, and their gains cannot be judged."
        )
    if runs:
        text += (
            f" Single runs that agree with gold no more than by chance (kappa not above 0 at p = 0.05): "
            f"{', '.join(runs)}. They count: a run that learns nothing is part of what a seed may bring."
        )
    return text.strip()


def _describe_noise(results: Results, differences: Differences) -> str:
    """Return whether LLM labels do more harm than as many errors at random.

    Errors of gold itself make the control worse: it adds the LLM's confusion to them. So only that LLM labels are worse
    is beyond doubt. The other way, the difference must exceed what gold's errors explain: with the share e of wrong
    gold labels by its annotators' votes, and the share w of wrong LLM labels by gold, the control has about 2 e
    wrong labels too many, where w of them cost (gold - control).
    """
    score, churn = (differences["llm", "noise-fixed", figure] for figure in ("macro_f1", "pairwise_disagreement"))
    sure, doubtful = [], []
    for name, difference, harm, figure in (
        ("macro-F1", score, "lower", "macro_f1"),
        ("stability", churn, "higher", "pairwise_disagreement"),
    ):
        if difference.verdict == "inconclusive":
            continue
        if difference.verdict == harm or _exceeds_gold_errors(results, difference, differences, figure):
            sure.append(name)
        else:
            doubtful.append(name)
    meaning = "Whether errors that depend on the text do more or less harm than random errors is inconclusive."
    if sure:
        meaning = f"In {listed(sure)}, the LLM's errors do not act like random errors: they depend on the text."
    elif doubtful:
        meaning = (
            f"In {listed(doubtful)}, LLM labels do less harm than random errors. That is inconclusive unless gold is "
            "clean: wrong gold labels alone make the control worse."
        )
    return (
        "The control is gold made wrong at random, as often and between the same classes as the LLM's labels. LLM "
        f"labels differ from it by {signed_difference(score)} of macro-F1, {judge(score)}, and by "
        f"{signed_difference(churn)} in the share of texts on which two runs disagree, {judge(churn)}. {meaning}"
    )


def _exceeds_gold_errors(results: Results, difference: Comparison, differences: Differences, figure: str) -> bool:
    """Return whether LLM labels are better than the control by more than wrong gold labels explain."""
    annotator, of_noise = results.annotator, differences.get(("noise-fixed", "gold", figure))
    if annotator.gold_error is None or not annotator.accuracy or annotator.accuracy == 1 or of_noise is None:
        return False
    if difference.interval is None or of_noise.interval is None:
        return False
    share = 2 * annotator.gold_error / (1 - annotator.accuracy)
    explained = share * max(map(abs, of_noise.interval))
    return min(map(abs, difference.interval)) > explained


def _describe_baselines(results: Results) -> str:
    """Return which baselines the classifiers do not clearly beat; empty where they beat all."""
    sentences = []
    for variant, labels in (("gold", "gold"), ("llm", "LLM")):
        for verdict, verb in (("lower", "are clearly worse than"), ("inconclusive", "do not clearly beat")):
            names = [
                f"{BASELINES[entry.name]} ({estimate(entry, 'macro_f1_mean')}; difference "
                f"{signed_difference(entry.difference)})"
                for entry in results.baselines
                if entry.variant == variant and entry.difference.verdict == verdict
            ]
            if names:
                sentences.append(f"On {labels} labels {results.classifiers} {verb} {listed(names)} in macro-F1.")
    return " ".join(sentences)


def _describe_gold_match(matches: list[GoldMatch], top: int) -> str:
    """Return between which numbers of gold labels classifiers are as good as on all LLM labels."""
    below = [match for match in matches if match.verdict == "lower"]
    above = [match for match in matches if match.verdict == "higher"]
    start = f"In macro-F1, {top:,} LLM labels are worth"
    most = min(above, key=lambda match: match.size, default=None)
    least = max(
        (match for match in below if most is None or match.size < most.size), key=lambda match: match.size, default=None
    )
    shown = [f"{match.size:,} gold labels {signed_difference(match)}" for match in (least, most) if match is not None]
    evidence = f" Against LLM labels: {', '.join(shown)}; corrected for the number of comparisons." if shown else ""
    if most is not None:
        more = f"more than {least.size:,} and " if least else ""
        return f"{start} {more}at most {most.size:,} gold labels.{evidence}"
    if least is None:
        return f"How many gold labels {top:,} LLM labels are worth is inconclusive at these sizes."
    if least.size == top:
        return f"{start} more than {top:,} gold labels.{evidence}"
    return f"{start} more than {least.size:,} gold labels; whether {top:,} or more is inconclusive.{evidence}"


def _describe_gains(llm: Plateau, gold: Plateau) -> str:
    """Return the gain of the last doubling, and whether LLM labels stopped helping before gold labels did."""

    def describe(plateau: Plateau) -> str:
        meaning = {
            "plateau": f"the last doubling gained less than {plateau.delta:g}",
            "gains": "the last doubling helped",
            "inconclusive": "whether it helped is inconclusive",
        }[plateau.verdict]
        return f"{signed(plateau.gain, plateau.gain_interval)} {interval(plateau.gain_interval)} ({meaning})"

    first, last = llm.last_doubling
    order = {
        "yes": " LLM labels stopped helping before gold labels did.",
        "no": "",
        "inconclusive": " Whether LLM labels stop helping before gold labels do is inconclusive.",
    }[llm.premature_plateau or "no"]
    interpolated = f" No run has {first:,.0f} texts: its score is interpolated." if llm.is_interpolated else ""
    return (
        f"From {first:,.0f} to {last:,.0f} training texts macro-F1 changes by {describe(llm)} with LLM labels and by "
        f"{describe(gold)} with gold labels.{interpolated}{order} What more texts would bring was not measured."
    )


def _judge_stability(results: Results, churn: Comparison) -> str:
    """Return what a clear difference in disagreement means. Runs at chance level are not stable, however they agree."""
    llm, gold = results.at_top["llm"], results.at_top["gold"]
    if churn.verdict == "inconclusive" or llm.above_chance is False or gold.above_chance is False:
        return ""
    if churn.verdict == "higher":
        return ", so training on LLM labels was less stable here"
    shares = {(share.variant, share.class_name): share.share for share in results.class_shares if share.group is None}
    names = [name for name in results.label_names if not shares.get(("llm", name), 1.0) and shares.get(("gold", name))]
    why = f", as its classifiers never predict {listed(names)}" if names else ""
    if llm.chance_level_runs:
        why += f", but {llm.chance_level_runs} of its {llm.R} runs are at chance level, whose agreement is no stability"
    return f", so training on LLM labels was more stable here{why}"
