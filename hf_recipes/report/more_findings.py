"""Write the findings after the first page: mitigations, ensembles, counts, copied errors, sources of chance."""

from collections.abc import Sequence

from ..analysis.schema import (
    BestMitigation,
    ClassShare,
    Comparison,
    Components,
    Ensemble,
    ErrorCells,
    Results,
    VariantResult,
)
from ..variants import CONTROLS
from .first_screen.numbers import estimate, interval, judge, number, signed, signed_difference
from .records import Finding
from .tables import SOURCES

Differences = dict[tuple[str, str, str], Comparison]


def index_differences(results: Results) -> Differences:
    """Return the comparisons at the largest size by variant, the variant that it is compared with, and figure."""
    top = results.top
    return {(c.variant, c.against, c.figure): c for c in results.comparisons if c.size == top}


def describe_more(results: Results) -> list[Finding]:
    """Return the findings after the first page, as far as the results allow them."""
    llm, more = results.at_top["llm"], []
    if iso := results.iso_accuracy:
        text = (
            f"Gold labels make classifiers as accurate as LLM labels do from between {iso.sizes[0]:,} and "
            f"{iso.sizes[1]:,} texts. Against those, two runs on LLM labels disagree on {signed_difference(iso)} of "
            f"the test texts more, {judge(iso)}."
        )
        more.append(Finding("At equal accuracy.", text))
    more += _describe_mitigations(results)
    if best := results.best_mitigation:
        more.append(Finding("Which of them.", _describe_best(best, results.at_top)))
    if ensembles := [ensemble for ensemble in results.ensembles if ensemble.variant == "llm"]:
        more.append(Finding("Ensembles.", _describe_ensembles(ensembles, llm)))
    shares = [share for share in results.class_shares if share.variant == "llm"]
    if shares and results.audit:
        more.append(Finding("Counting.", _describe_audited_counts(shares)))
    elif shares and shares[0].bias_interval:
        more.append(Finding("Counting.", _describe_counts(shares)))
    if cells := {(entry.variant, entry.size): entry for entry in results.error_cells if entry.n_wrong > 1}:
        smallest = min(result.size for result in results.variants)
        more.append(Finding("Copied errors.", _describe_copied_errors(cells, smallest, results.top)))
    for components in results.components:
        more.append(Finding(f"Sources of chance ({components.variant}).", _describe_sources(components)))
    return more


def _describe_mitigations(results: Results) -> list[Finding]:
    """Return what each mitigation gains over its control."""
    top, variants, differences = results.top, results.at_top, index_differences(results)
    regained = {share.variant: share for share in results.regained}
    findings = []
    for name, control in CONTROLS.items():
        if (name, control, "macro_f1") not in differences:
            continue
        gain = differences[name, control, "macro_f1"]
        num_gold = round(sum(variants[name].gold_train_labels) / variants[name].R)
        line = results.lines[name]
        text = (
            f"{line[0].upper()}{line[1:]}: macro-F1 changes by "
            f"{signed_difference(differences[name, 'llm', 'macro_f1'])} against LLM "
            f"labels alone, with {num_gold:,} gold labels for {top:,} texts. Its control, {control}: "
            f"{signed_difference(differences[control, 'llm', 'macro_f1'])}. Difference to the control: "
            f"{signed_difference(gain)}, {judge(gain)}."
        )
        if alone := differences.get((name, "gold-only", "macro_f1")):
            text += (
                f" Against gold-only, {variants['gold-only'].gold_labels:,} gold labels alone for as many optimiser "
                f"steps: {signed_difference(alone)}, {judge(alone)}."
            )
        if name in regained:
            share = regained[name]
            text += (
                f" It regains {estimate(share, 'share', 'interval')} of the macro-F1 that LLM labels cost "
                "against as many gold labels (Fieller's interval)."
            )
        if chance := _list_chance_level((name, control, "llm"), variants):
            text += f" But not better than chance: {chance}. The gain cannot be judged."
        findings.append(Finding(f"The mitigation ({name}).", text))
    return findings


def _describe_best(best: BestMitigation, variants: dict[str, VariantResult]) -> str:
    text = (
        f"Of {', '.join(best.among)} the best in macro-F1 on half of the seeds and test texts is {best.variant}. On "
        f"the other halves it changes macro-F1 by {signed_difference(best)} against LLM labels, {judge(best)}."
    )
    if chance := _list_chance_level((best.variant, "llm"), variants):
        text += f" But not better than chance: {chance}."
    return text


def _list_chance_level(names: Sequence[str], variants: dict[str, VariantResult]) -> str:
    return ", ".join(name for name in names if variants[name].above_chance is False)


def _describe_ensembles(ensembles: list[Ensemble], llm: VariantResult) -> str:
    """Return whether the mean of several runs is more stable than one run."""

    def show_score(result: Ensemble | VariantResult) -> str:
        return "" if result.macro_f1_mean is None else f" (macro-F1 {estimate(result, 'macro_f1_mean')})"

    pairs = "; ".join(
        f"two ensembles of {ensemble.k} runs on {estimate(ensemble, 'pairwise_disagreement')}{show_score(ensemble)}, "
        f"of {ensemble.ensembles} that share no run"
        for ensemble in ensembles
    )
    return (
        f"Two single runs on LLM labels disagree on {number(llm.pairwise_disagreement)} of the test texts"
        f"{show_score(llm)}; {pairs}. Errors that all seeds share stay."
    )


def _describe_counts(shares: list[ClassShare]) -> str:
    """Return the largest bias of counts by classifiers."""
    of_all = [share for share in shares if share.group is None]
    largest = max(of_all, key=lambda share: abs(share.bias))
    doubt = "" if largest.clear_bias else ", inconclusive"
    return (
        f"Who counts classes by classifiers trained on LLM labels finds '{largest.class_name}' in "
        f"{number(largest.share)} of the texts where gold has {number(largest.gold)}: a bias of "
        f"{signed(largest.bias, largest.bias_interval)} {interval(largest.bias_interval)}{doubt}, with an SD of "
        f"{number(largest.sd)} from seed to seed. It is the largest of {len(of_all)} classes' biases, "
        f"and its interval is corrected for their number.{_describe_groups(shares)}"
    )


def _describe_groups(shares: list[ClassShare]) -> str:
    """Return the clearest bias of a class in a group. The largest would be that of a small group, which vary most."""
    grouped = [share for share in shares if share.group is not None and share.bias_interval]
    if not grouped:
        return ""
    clearest = max(grouped, key=lambda share: share.clear_bias)
    if not clearest.clear_bias:
        return f" In none of {len({share.group for share in grouped})} groups is a bias clear."
    return (
        f" By groups it is clearest for '{clearest.class_name}' in '{clearest.group}' ({clearest.n:,} texts with "
        f"gold): {signed(clearest.bias, clearest.bias_interval)} {interval(clearest.bias_interval)}, corrected for "
        "the number of classes and groups. Where biases differ between groups, so do differences between counts."
    )


def _describe_audited_counts(shares: list[ClassShare]) -> str:
    of_all = ", ".join(
        f"'{share.class_name}' {estimate(share, 'gold')} (classifiers alone: {number(share.share)})"
        for share in shares
        if share.group is None
    )
    return (
        "Shares of the classes among texts like the test's, by all classifiers less their bias where people looked: "
        f"{of_all}.{_describe_groups(shares)}"
    )


def _describe_copied_errors(cells: dict[tuple[str, int], ErrorCells], smallest: int, top: int) -> str:
    """Return how many of the LLM's errors classifiers repeat, and whether its labels are a ceiling."""
    llm, gold, noise = cells["llm", top], cells.get(("gold", top)), cells.get(("noise-fixed", top))
    shares = " and ".join(
        f"in {estimate(cells['llm', size], 'copied')} at {size:,} training texts" for size in sorted({smallest, top})
    )
    text = (
        f"Of the {llm.n_wrong:,} in {llm.n:,} test texts that the LLM itself gets wrong, classifiers on its "
        f"labels give the same wrong label {shares}"
    )
    if gold and llm.copied_above_gold:
        text += (
            f", classifiers on {top:,} gold labels in {estimate(gold, 'copied')}: a difference of "
            f"{signed_difference(llm.copied_above_gold)}, {judge(llm.copied_above_gold)}"
        )
    if noise and (above := llm.copied_above_noise):
        text += (
            f". Classifiers on gold labels made wrong at random with the LLM's confusion matrix repeat "
            f"{estimate(noise, 'copied')}: a difference of {signed_difference(above)}, {judge(above)}. Only the part "
            "above both controls can be copied: the LLM's preference for classes and hard texts explain the others"
        )
    if llm.since is None:
        return f"{text}."
    agreement, accuracy, copied = llm.since.agreement, llm.since.accuracy, llm.since.copied
    if agreement.verdict != "higher":
        meaning = "whether they still come closer to it is inconclusive, and so is a ceiling of its labels"
    elif accuracy.verdict == "higher":
        meaning = "they come closer to it and are still getting better: its labels are no ceiling yet"
    else:
        meaning = "they come closer to it without a clear gain"
        if copied and copied.verdict == "higher":
            meaning += ": more texts teach its errors too"
    return (
        f"{text}. Of all {llm.n:,} the LLM gets {estimate(llm, 'teacher_accuracy')} right and classifiers on "
        f"its labels {estimate(llm, 'accuracy')}; they agree with it in {estimate(llm, 'agreement')}. From "
        f"{llm.since.size:,} to {top:,} training texts that agreement changes by {signed_difference(agreement)} and "
        f"their accuracy by {signed_difference(accuracy)}: {meaning}."
    )


def _describe_sources(components: Components) -> str:
    """Return what each source of chance adds to disagreement, the largest first, and whether the first is clear."""
    ranked = sorted(components.sources, key=lambda source: -components.disagreement[source].value)
    values = [components.disagreement[source] for source in ranked]
    shares = ", ".join(
        f"{estimate(value, 'value', 'interval')} if only {SOURCES[source]} differ"
        for source, value in zip(ranked, values, strict=True)
    )
    first, second = values[0].interval, values[1].interval
    is_clear = first is not None and second is not None and first[0] > second[1]
    most = f"Most comes from {SOURCES[ranked[0]]}." if is_clear else "Which of them contributes most is inconclusive."
    return (
        f"Of {components.n:,} test texts two runs disagree on {shares}; "
        f"{number(components.disagreement['all'].value)} if all do. {most}"
    )
