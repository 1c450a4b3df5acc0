"""The findings as sentences, and the form of numbers in them: all of a report's words that results.json has not."""

import html
import re
from collections.abc import Sequence
from typing import Any

from ..analysis.schema import (
    Audits,
    BestMitigation,
    ClassShare,
    Comparison,
    Components,
    Difference,
    Ensemble,
    EqualAccuracy,
    ErrorCells,
    GoldMatch,
    Plateau,
    Regained,
    Results,
    VariantResult,
    VerdictResult,
)
from ..study import Study
from ..variants import CONTROLS

SOURCES = {
    "subset": "the training texts",
    "init": "the first weights of the head",
    "order": "the order of batches and dropout",
    "pass": "the annotation passes",
}
Differences = dict[tuple[str, str, str, int], Comparison]
AUDIT = "hf-recipes audit sample draws texts for people to label."
ONE_SIDED = 0.9  # share of one class above which an annotator hardly tells texts apart
CRITERIA = {
    "macro_f1_loss": "macro-F1 lost against gold labels is {value} {interval}, at most {limit} wanted",
    "churn": "two seeds disagree on {value} {interval} more texts than with gold labels, at most {limit} wanted",
    "min_class_f1": "F1 of the worst class, {worst}, is {value} {interval}, at least {limit} wanted",
}
UNKNOWN = {  # without gold labels, or without labels for test texts
    "macro_f1_loss": "macro-F1 lost against gold labels is not identifiable",
    "churn": "what LLM labels add to the disagreement of two seeds is not identifiable",
    "min_class_f1": "F1 of the classes is not known",
}
DECISIONS = {
    "ship": "Ship: these labels may be trained on, by the limits of the recipe.",
    "do not ship": "Do not ship: these labels miss a limit of the recipe.",
    "label more": "Label more test texts: the limits of the recipe cannot be judged yet.",
    "cannot tell": "Cannot tell whether these labels keep the limits of the recipe.",
}


def describe(results: Results) -> dict[str, Any]:
    """The findings as sentences: what the data show, and what cannot be concluded.

    Args:
        results (`Results`):
            What `measure` returned.

    Returns:
        `dict` with `findings`, a list of pairs of title and text; `more`, such a list of what one asks next; and
        `limits`, a list of `str`.
    """
    if results.audit:
        return _describe_few_gold(results, results.audit)
    measured = {(result.variant, result.size): result for result in results.variants}
    differences: Differences = {(c.variant, c.against, c.figure, c.size): c for c in results.comparisons}
    sizes = sorted({result.size for result in results.variants})
    top, runs = sizes[-1], results.R
    gold, llm, annotator = measured["gold", top], measured["llm", top], results.annotator
    cost = differences["llm", "gold", "macro_f1", top]
    churn = differences["llm", "gold", "pairwise_disagreement", top]
    ranks = annotator.entropy_auroc
    failures = [
        f"{measured[name, size].chance_level_runs} of {runs} with {name}"
        for name, size in measured
        if size == top and measured[name, size].chance_level_runs
    ]
    labels = (
        f"{annotator.model} gives {annotator.n:,} training texts the gold label in "
        f"{number(annotator.accuracy)} of the cases {interval(annotator.accuracy_interval)}, macro-F1 "
        f"{number(annotator.macro_f1)}; always giving the commonest class would be right in "
        f"{number(annotator.majority_accuracy)}."
    )
    favourite, share = max(annotator.llm_share.items(), key=lambda pair: pair[1])
    if share > ONE_SIDED:
        labels += f" {share:.0%} of its labels are '{favourite}': it hardly tells these texts apart."
    elif ranks is not None:
        labels += f" Its entropy ranks a wrong label above a right one with probability {number(ranks)} (.5 is chance)."
    disagreement = {
        name: f"{number(measured[name, top].pairwise_disagreement)} "
        f"{interval(measured[name, top].pairwise_disagreement_interval)}"
        for name in ("llm", "gold")
    }
    if annotator.one_annotator is not None:
        labels += (
            f" One of the texts' raters gives the commonest label of the others in {number(annotator.one_annotator)}."
        )
    findings = [
        ("Verdict.", _verdict(results.verdict, results.n, runs)),
        (
            "What they cost.",
            f"With {top:,} training texts, classifiers reach macro-F1 {number(llm.macro_f1_mean)} "
            f"{interval(llm.macro_f1_mean_interval)} on LLM labels and {number(gold.macro_f1_mean)} "
            f"{interval(gold.macro_f1_mean_interval)} on gold labels: a difference of {_signed(cost)}, "
            f"{_judge(cost)}."
            + (
                " But gold labels were not learnt in every run: the cost cannot be judged."
                if gold.chance_level_runs
                else ""
            ),
        ),
        (
            "Stability.",
            f"Two runs that differ in their seeds, which draw {_listed(results.vary)}, disagree on "
            f"{disagreement['llm']} of the test texts with LLM labels "
            f"and on {disagreement['gold']} with gold labels: a difference of {_signed(churn)}, {_judge(churn)}"
            f"{_stability(churn, (llm.chance_level_runs or 0) + (gold.chance_level_runs or 0))}.",
        ),
    ]
    if failures:
        text = (
            "No more agreement with gold than by chance (kappa not above 0 at .05): "
            f"{', '.join(failures)}. Agreement among such runs is no stability."
        )
        findings.append(("Not learnt.", text))
    if ("llm", "noise-fixed", "macro_f1", top) in differences:
        findings.append(("Systematic or random.", _noise(differences, top)))
    gains = {plateau.variant: plateau for plateau in results.plateaus}
    if "llm" in gains and "gold" in gains:
        findings.append(("More texts.", _more_texts(gains["llm"], gains["gold"])))
    findings.append(("Gold instead.", _gold_instead(results.gold_match, top)))
    more = [("The labels.", labels), *_what_one_asks_next(results, measured, differences)]
    spread = llm.macro_f1_sd_interval
    limits = [
        f"R = {runs} runs a variant. The interval of a standard deviation over {runs} runs spans a factor of "
        f"{spread[1] / spread[0]:.0f}: nothing is concluded here from standard deviations."
        if spread and spread[0]
        else f"R = {runs} runs a variant: too few to conclude anything from standard deviations.",
        *(
            [
                "With fewer than 10 runs a variant, a difference in stability has to be very large to be seen; add "
                "seeds to grid.seeds."
            ]
            if runs < 10
            else []
        ),
        *(
            []
            if "pass" in results.vary
            else ["All of this is for one prompt with one draw of demonstrations; another draw gives other labels."]
        ),
        f"Intervals are {results.confidence_level:.0%} each, over runs and the {results.n:,} test texts "
        "together, by t forms with variances added; they are not corrected for the number of comparisons: of the "
        "differences that are truly zero, about one in twenty is shown as different.",
        "Nothing is claimed for other models, encoders, data or sizes than these.",
        *results.notes,
    ]
    return {"findings": findings, "more": more, "limits": limits}


def _describe_few_gold(results: Results, audit: Audits) -> dict[str, Any]:
    """`describe` where the source has no gold: what an audit says, and what wants none."""
    measured = {(result.variant, result.size): result for result in results.variants}
    differences: Differences = {(c.variant, c.against, c.figure, c.size): c for c in results.comparisons}
    top, runs, annotator = max(result.size for result in results.variants), results.R, results.annotator
    pool, test = audit.pool, audit.test
    llm = measured["llm", top]
    labels = f"{annotator.model} labelled {annotator.n:,} training texts"
    labels += (
        f"; of {annotator.n_gold:,} of them, drawn at random, people gave the same label in "
        f"{number(annotator.accuracy)} of the cases {interval(annotator.accuracy_interval)}, macro-F1 "
        f"{number(annotator.macro_f1)} {interval(annotator.macro_f1_interval)}; always giving the commonest "
        f"class would be right in {number(annotator.majority_accuracy)}."
        if annotator.n_gold
        else f"; nobody has checked any of these labels. {AUDIT}"
    )
    scores = (
        f"With {top:,} training texts and LLM labels, classifiers reach macro-F1 {number(llm.macro_f1_mean)} "
        f"{interval(llm.macro_f1_mean_interval)} and accuracy {number(llm.accuracy_mean)} "
        f"{interval(llm.accuracy_mean_interval)} on the {llm.n_gold:,} test texts, drawn at random of "
        f"{results.n:,}, that people labelled; over {runs} runs and these texts."
        if llm.n_gold
        else f"Not known: fewer than two of the {results.n:,} test texts have people's labels. {AUDIT}"
    )
    if pair := differences.get(("gold-only", "llm", "macro_f1", top)):
        alone = measured["gold-only", top]
        scores += (
            f" On the {round(sum(alone.gold_train_labels) / runs):,} gold labels of the audit alone (gold-only) "
            f"they reach {number(alone.macro_f1_mean)} {interval(alone.macro_f1_mean_interval)}: "
            f"{_signed(pair)} against LLM labels, {_judge(pair)}."
        )
    findings = [
        ("Verdict.", _verdict(results.verdict, llm.n_gold, runs)),
        ("The labels.", labels),
        ("The classifiers.", scores),
        (
            "What they cost against full gold: not identifiable.",
            "No classifier was trained on gold labels for as many texts, so neither the macro-F1 that LLM labels lose "
            "nor the disagreement that they add can be told, whatever the number of seeds.",
        ),
        (
            "Stability.",
            f"Two runs that differ in their seeds, which draw {_listed(results.vary)}, disagree on "
            f"{number(llm.pairwise_disagreement)} {interval(llm.pairwise_disagreement_interval)} of all "
            f"{results.n:,} test texts with LLM labels; all {runs} agree on {number(llm.unanimity)} "
            f"{interval(llm.unanimity_interval)}. That wants no gold, and says nothing of whether they are right.",
        ),
    ]
    more = _what_one_asks_next(results, measured, differences)
    limits = [
        f"R = {runs} runs a variant; intervals are {results.confidence_level:.0%} each, not corrected for the number "
        "of comparisons (those of shares are, for that of classes and groups). Scores are over runs and audited test "
        "texts together, stability over runs and all test texts.",
        *(
            f"People labelled {part.labelled:,} of the {part.drawn:,} texts of the {name} that were drawn: if "
            "they left out the hard ones, what is said of them is too good."
            for name, part in (("pool", pool), ("test", test))
            if part.labelled < part.drawn
        ),
        *(
            [f"No audited test text is of {' or '.join(missing)}: macro-F1 is over the other classes."]
            if (missing := [name for name in results.label_names if not llm.per_class_n.get(name)]) and llm.n_gold
            else []
        ),
        "Nothing is claimed for other models, encoders, data or sizes than these.",
        *results.notes,
    ]
    return {"findings": findings, "more": more, "limits": limits}


def _what_one_asks_next(
    results: Results,
    measured: dict[tuple[str, int], VariantResult],
    differences: Differences,
) -> list[tuple[str, str]]:
    """Findings behind the first page: at equal accuracy, mitigations, ensembles, counts, copied errors, sources."""
    sizes = sorted({size for _, size in measured})
    top, llm = sizes[-1], measured["llm", sizes[-1]]
    more = []
    if iso := results.iso_accuracy:
        text = (
            f"Gold labels make classifiers as accurate as LLM labels do from between {iso.sizes[0]:,} and "
            f"{iso.sizes[1]:,} texts. Against those, two runs on LLM labels disagree on {_signed(iso)} of the test "
            f"texts more, {_judge(iso)}."
        )
        more.append(("At equal accuracy.", text))
    more += _mitigations(measured, differences, {one.variant: one for one in results.regained}, results.lines, top)
    if best := results.best_mitigation:
        more.append(("Which of them.", _which(best, measured, top)))
    if ensembles := [one for one in results.ensembles if one.variant == "llm"]:
        more.append(("Ensembles.", _ensembles(ensembles, llm)))
    shares = [one for one in results.class_shares if one.variant == "llm"]
    if shares and results.audit:
        more.append(("Counting.", _counting_by_audit(shares)))
    elif shares and shares[0].bias_interval:
        more.append(("Counting.", _counting(shares)))
    if cells := [one for one in results.error_cells if one.n_wrong > 1]:
        more.append(("Copied errors.", _copied({(one.variant, one.size): one for one in cells}, sizes[0], top)))
    for found in results.components:
        more.append((f"Sources of chance ({found.variant}).", _sources(found)))
    return more


def _verdict(verdict: VerdictResult, items: int, runs: int) -> str:
    said = [
        UNKNOWN[one.name]
        if one.value is None
        else CRITERIA[one.name].format(
            **{"value": number(one.value), "interval": interval(one.interval), "limit": number(one.limit)},
            worst=verdict.worst_class,
        )
        + f" ({one.status})"
        for one in verdict.criteria
    ]
    text = f"{DECISIONS[verdict.decision]} {'; '.join(said)[0].upper()}{'; '.join(said)[1:]}."
    if verdict.reason:
        return f"{text} For {verdict.reason}."
    ways = []
    if (labels := verdict.test_labels) and labels > items:
        ways.append(f"{labels:,} test labels in all ({labels - items:,} more)")
    if (seeds := verdict.seeds) and seeds > runs:
        ways.append(f"{seeds:,} seeds")
    if ways and verdict.decision != "do not ship":
        what = "it" if all(one.value is not None for one in verdict.criteria) else "the limit on the worst class"
        text += (
            f" If the truth is where the estimates are, about {' or '.join(ways)} would decide {what} (4 times in 5)."
        )
    return text


def _noise(differences: Differences, top: int) -> str:
    """Whether LLM labels do more harm than as many errors at random."""
    score, churn = (differences["llm", "noise-fixed", figure, top] for figure in ("macro_f1", "pairwise_disagreement"))
    shown = [what for one, what in ((score, "score"), (churn, "stability")) if one.verdict != "cannot tell"]
    return (
        "Gold labels made wrong at random, as often and between the same classes as the LLM's, say what wrong labels "
        f"do whatever they are. LLM labels differ from them by {_signed(score)} of macro-F1, {_judge(score)}, and by "
        f"{_signed(churn)} in the share of test texts on which two runs disagree, {_judge(churn)}. "
        + (
            f"In {' and '.join(shown)} errors that go by the text do not do what errors by chance do."
            if shown
            else "Whether errors that go by the text do anything that errors by chance do not cannot be told."
        )
    )


def _gold_instead(matches: list[GoldMatch], top: int) -> str:
    """Between which numbers of gold labels classifiers are as good as on all LLM labels."""
    below = [one.size for one in matches if one.verdict == "lower"]
    above = [one.size for one in matches if one.verdict == "higher"]
    start = f"As good in macro-F1 as {top:,} LLM labels are"
    if not below and not above:
        return f"{start} how many gold labels: that cannot be told from these sizes."
    if above:
        least = max([size for size in below if size < min(above)], default=None)
        more = f"more than {least:,} and " if least else ""
        return f"{start} {more}at most {min(above):,} gold labels alone."
    if max(below) == top:
        return f"{start} more than {top:,} gold labels alone: they beat as many gold labels here."
    return f"{start} more than {max(below):,} gold labels; whether {top:,} are cannot be told."


def _more_texts(llm: Plateau, gold: Plateau) -> str:
    """What the last doubling gained, and whether that is a plateau."""
    said = {
        "plateau": f"less than {llm.delta:g} is left to gain by doubling them again",
        "gains": "they still help",
        "cannot tell": "whether they still help cannot be told",
    }
    first, last = llm.last_doubling
    between = {
        "yes": " LLM labels stopped helping before gold labels did.",
        "no": "",
        "cannot tell": " Whether LLM labels stop helping before gold labels do cannot be told.",
    }[llm.premature_plateau or "no"]
    return (
        f"From {first:,.0f} to {last:,.0f} training texts macro-F1 changes by {_plus(llm.gain)} "
        f"{interval(llm.gain_interval)} with LLM labels: {said[llm.verdict]}; with gold labels by "
        f"{_plus(gold.gain)} {interval(gold.gain_interval)}: {said[gold.verdict]}.{between}"
    )


def _stability(comparison: Comparison, unlearnt: int) -> str:
    """What a difference in disagreement means; nothing where it is not seen, or where runs learnt nothing."""
    word = {"higher": "less stable", "lower": "more stable"}.get(comparison.verdict)
    return f", so training on LLM labels was {word} here" if word and not unlearnt else ""


def _mitigations(
    measured: dict[tuple[str, int], VariantResult],
    differences: Differences,
    regained: dict[str, Regained],
    lines: dict[str, str],
    top: int,
) -> list[tuple[str, str]]:
    """What each mitigation buys, beside its control."""
    found = []
    for result, control in CONTROLS.items():
        if (pair := (result, control, "macro_f1", top)) in differences:
            num_gold = round(sum(measured[result, top].gold_train_labels) / measured[result, top].R)
            text = (
                f"{lines[result][0].upper()}{lines[result][1:]}: macro-F1 changes by "
                f"{_signed(differences[result, 'llm', 'macro_f1', top])} against LLM "
                f"labels alone, with {num_gold:,} gold labels for {top:,} texts. Its control, {control}: "
                f"{_signed(differences[control, 'llm', 'macro_f1', top])}. Difference to the control: "
                f"{_signed(differences[pair])}, {_judge(differences[pair])}."
            )
            if (alone := (result, "gold-only", "macro_f1", top)) in differences:
                text += (
                    f" Against gold-only, {measured['gold-only', top].gold_labels:,} gold labels alone for as many "
                    "optimiser steps: "
                    f"{_signed(differences[alone])}, {_judge(differences[alone])}."
                )
            if (one := regained.get(result)) is not None:
                text += (
                    f" It regains {number(one.share)} {interval(one.interval)} of the macro-F1 that LLM labels "
                    "cost against as many gold labels (Fieller's interval)."
                )
            if unlearnt := [name for name in (result, control, "llm") if measured[name, top].chance_level_runs]:
                text += f" But some runs with {' and '.join(unlearnt)} learnt nothing: the gain cannot be judged."
            found.append((f"The mitigation ({result}).", text))
    return found


def _which(best: BestMitigation, measured: dict[tuple[str, int], VariantResult], top: int) -> str:
    text = (
        f"Of {', '.join(best.among)} the best in macro-F1 on half of the seeds and test texts is {best.variant}. On "
        f"the other halves it changes macro-F1 by {_signed(best)} against LLM labels, {_judge(best)}."
    )
    if unlearnt := [name for name in (best.variant, "llm") if measured[name, top].chance_level_runs]:
        text += f" But some runs with {' and '.join(unlearnt)} learnt nothing."
    return text


def _ensembles(ensembles: list[Ensemble], llm: VariantResult) -> str:
    """Whether the mean of several runs is steadier than one."""

    def score(found: Ensemble | VariantResult) -> str:
        known = found.macro_f1_mean is not None
        return f" (macro-F1 {number(found.macro_f1_mean)} {interval(found.macro_f1_mean_interval)})" * known

    said = "; ".join(
        f"two ensembles of {one.k} runs on {number(one.pairwise_disagreement)} "
        f"{interval(one.pairwise_disagreement_interval)}{score(one)}, of {one.ensembles} that share no run"
        for one in ensembles
    )
    return (
        f"Two single runs on LLM labels disagree on {number(llm.pairwise_disagreement)} of the test texts"
        f"{score(llm)}; {said}. Errors that all seeds share stay."
    )


def _counting(shares: list[ClassShare]) -> str:
    """For who counts classes: the largest bias."""
    whole = [one for one in shares if one.group is None]
    one = max(whole, key=lambda one: abs(one.bias))
    return (
        f"Who counts classes by classifiers trained on LLM labels finds '{one.class_name}' in {number(one.share)} of "
        f"the texts where gold has {number(one.gold)}: a bias of {_plus(one.bias)} "
        f"{interval(one.bias_interval)}{'' if one.clear_bias else ', which cannot be told from zero'}, with an SD of "
        f"{number(one.sd)} from seed to seed. It is the largest of {len(whole)} classes' biases, "
        f"and its interval is corrected for their number.{_groups(shares)}"
    )


def _groups(shares: list[ClassShare]) -> str:
    """Whether classifiers miscount a class in a group; of those that do for sure the surest: small groups vary most."""
    if not (found := [one for one in shares if one.group is not None and one.bias_interval]):
        return ""
    one = max(found, key=lambda share: share.clear_bias)
    if not one.clear_bias:
        return f" In none of {len({one.group for one in found})} groups can a bias be told from zero."
    return (
        f" By groups it is clearest for '{one.class_name}' in '{one.group}' ({one.n:,} texts with gold): "
        f"{_plus(one.bias)} {interval(one.bias_interval)}, corrected for the number of classes and groups. Where "
        "biases differ between groups, so do differences between groups that are counted."
    )


def _counting_by_audit(shares: list[ClassShare]) -> str:
    said = ", ".join(
        f"'{one.class_name}' {number(one.gold)} {interval(one.gold_interval)} (classifiers alone: {number(one.share)})"
        for one in shares
        if one.group is None
    )
    return (
        "Shares of the classes among texts like the test's, by all classifiers less their bias where people looked: "
        f"{said}.{_groups(shares)}"
    )


def _copied(cells: dict[tuple[str, int], ErrorCells], least: int, top: int) -> str:
    """Which of the LLM's errors classifiers repeat, and whether its labels are a ceiling."""
    last, gold = cells["llm", top], cells.get(("gold", top))
    shown = [f"in {_share(cells['llm', size], 'copied')} at {size:,} training texts" for size in sorted({least, top})]
    text = (
        f"Of the {last.n_wrong:,} in {last.n:,} test texts that the LLM itself gets wrong, classifiers on its "
        f"labels give the same wrong label {' and '.join(shown)}"
        + (
            f", classifiers on {top:,} gold labels in {_share(gold, 'copied')}: a difference of "
            f"{_signed(last.copied_above_gold)}, {_judge(last.copied_above_gold)}."
            if gold and last.copied_above_gold
            else "."
        )
    )
    if (since := last.since) is None:
        return text
    closer, better, copied = since.agreement, since.accuracy, since.copied
    said = (
        "that they still come closer to it cannot be told, so a ceiling of its labels cannot either"
        if closer.verdict != "higher"
        else "they come closer to it and are still getting better: its labels are no ceiling yet"
        if better.verdict == "higher"
        else "they come closer to it without a gain that can be told"
        + (": more texts teach its errors too" if copied and copied.verdict == "higher" else "")
    )
    return (
        f"{text} Of all {last.n:,} the LLM gets {_share(last, 'teacher_accuracy')} right and classifiers on "
        f"its labels {_share(last, 'accuracy')}; they agree with it in {_share(last, 'agreement')}. From "
        f"{since.size:,} to {top:,} training texts that agreement changes by {_signed(closer)} and their accuracy "
        f"by {_signed(better)}: {said}."
    )


def _sources(found: Components) -> str:
    """What each source of chance brings to disagreement, largest first, and whether the largest stands out."""
    ranked = sorted(found.sources, key=lambda source: -found.disagreement[source].value)
    figures = [found.disagreement[source] for source in ranked]
    said = ", ".join(
        f"{number(figure.value)} {interval(figure.interval)} if only {SOURCES[source]} differ"
        for source, figure in zip(ranked, figures, strict=True)
    )
    first, second = figures[0].interval, figures[1].interval
    apart = first is not None and second is not None and first[0] > second[1]
    return (
        f"Of {found.n:,} test texts two runs disagree on {said}; "
        f"{number(found.disagreement['all'].value)} if all do. "
        + (f"Most comes from {SOURCES[ranked[0]]}." if apart else "Which of them brings most cannot be told.")
    )


def _signed(comparison: Difference | EqualAccuracy) -> str:
    return f"{_plus(comparison.difference)} {interval(comparison.interval)}"


def _judge(comparison: Difference | EqualAccuracy) -> str:
    if comparison.interval is None:
        return f"of which R = {comparison.R} runs do not say how sure it is"
    if comparison.verdict == "cannot tell":
        return f"which cannot be told from zero with R = {comparison.R}"
    return f"clearly {'above' if comparison.verdict == 'higher' else 'below'} zero"


def _share(found: ErrorCells, name: str) -> str:
    return f"{number(getattr(found, name))} {interval(getattr(found, f'{name}_interval'))}"


def _plus(value: float) -> str:
    return f"{'+' if value >= 0 else ''}{number(value)}"


def how_trained(study: Study) -> str:
    """The encoder and its settings, in words."""
    train = study.training
    origin = {"gold": "gold", "llm": "LLM"}[train.validation_labels]
    taken = (
        f"the best epoch by macro-F1 on {train.validation_size:,} validation texts with {origin} labels"
        if train.checkpoint == "best"
        else "last checkpoint"
    )
    return (
        f"{train.encoder} was fine-tuned for {_count(train.epochs, 'epoch')} (batches of {train.batch_size}, learning "
        f"rate {train.learning_rate}, at most {train.max_length} tokens, {taken}). A seed draws "
        f"{_listed(study.grid.vary)}; variants share it."
    )


def how_made(study: Study, results: Results) -> str:
    """What was run and how it was judged, in words: a paragraph of methods."""
    data, model, annotator = study.recipe.data.path, study.recipe.annotate.model, results.annotator
    chosen = f" (chosen on {annotator.calibration_gold} gold labels)" if annotator.calibration_gold else ""
    sizes = sorted({result.size for result in results.variants})
    texts = f"{results.n:,} test texts"
    if results.audit:
        judged = f"{texts}, of which people labelled {results.audit.test.labelled:,}, drawn at random"
    else:
        judged = f"{texts} with gold labels"
    return (
        f"Texts of {data} were labelled by {model} with {annotator.demonstrations} demonstrations and "
        f"{annotator.calibration} calibration{chosen}; {how_trained(study)} {results.R} seeds were run for each "
        f"source of labels at {_joined([f'{size:,}' for size in sizes])} training texts"
        f"{' (some at the largest number alone)' if study.grid.curves else ''}, and judged on {judged}. "
        "Disagreement is the share of test texts to which two runs that "
        "differ in their seeds give different labels, averaged over pairs of runs (Du & Nguyen 2023). Differences are "
        f"paired by seed and test text; intervals are {results.confidence_level:.0%}, by t, over seeds and test "
        "texts together. p-values of the primary comparisons (macro-F1 and disagreement at the largest size, "
        f"{'' if results.audit else 'LLM labels against gold labels, '}every other source against LLM labels and "
        "against its control) are corrected for each other (Holm 1979)."
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number > 1 else ''}"


def _listed(sources: Sequence[str]) -> str:
    return _joined([SOURCES[source] for source in sources])


def _joined(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def number(value: float | None) -> str:
    """Three digits, without the leading zero: .123; - for what is not defined."""
    if value is None:
        return "-"
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def interval(bounds: Sequence[float] | None) -> str:
    return "[not defined]" if bounds is None or None in bounds else f"[{number(bounds[0])}, {number(bounds[1])}]"


def cell(text: str) -> str:
    """Text made safe for Markdown, tables included: no markup, no link, no image."""
    safe = re.sub(r"([\\`*_\[\]!|~#])", r"\\\1", html.escape(" ".join(str(text).split()), quote=False))
    return safe.replace("://", "&#58;//").replace("www.", "www&#46;")


def mean(values: list[float | None]) -> float | None:
    """Of those that are known; None if none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
