"""Choose what the first screen states, and write its sentences."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from .numbers import listed, number, points, points_at_most, signed_difference

if TYPE_CHECKING:
    from ...analysis.schema import Comparison, Criterion, Results, VariantResult

MAX_CLASSES = 8  # of a confusion matrix: with more classes, the largest confusions are listed
NUM_CONFUSIONS = 10
NUM_TEXTS = 4
MAX_LIMITS = 4  # lines on what the study leaves open
MAX_CHARACTERS = 160  # of a text
MARKS = {"holds": "✓", "fails": "✕", "inconclusive": "?"}


@dataclass(frozen=True)
class Headline:
    """The verdict in words.

    Attributes:
        status (`str`): `holds`, `fails` or `inconclusive`, which the page colours.
        decision (`str`): what to do, in a few words.
        sentence (`str`): the size of the loss and its main cause.
    """

    status: str
    decision: str
    sentence: str

    @property
    def mark(self) -> str:
        return MARKS[self.status]


@dataclass(frozen=True)
class WrongText:
    """A text that the LLM labelled wrong, and its probability of the wrong label; None without probabilities."""

    text: str
    gold: str
    llm: str
    probability: float | None


@dataclass(frozen=True)
class LimitRow:
    """A limit of the recipe, with its state."""

    title: str
    meaning: str
    criterion: "Criterion"
    status: str
    limit: str


@dataclass(frozen=True)
class RemedyRow:
    """A kind of training labels at the largest size."""

    label: str
    is_control: bool
    kind: str
    result: "VariantResult"


def describe_headline(results: "Results") -> Headline:
    """Return the verdict, with the size of the loss in points of macro-F1 and the class that causes most of it."""
    verdict, cost = results.verdict, results.find("llm", "gold", "macro_f1")
    status, decision = {
        "ship within limits": ("holds", "You can train on these labels"),
        "do not ship": ("fails", "Do not train on these labels"),
        "inconclusive": ("inconclusive", "Inconclusive"),
    }[verdict.decision]
    loss, churn, class_f1 = verdict.criteria
    if status == "inconclusive" and verdict.reason is None and loss.bound is not None:
        lost = points_at_most(max(loss.bound, 0.0), loss.interval)
        decision = f"Inconclusive: at most {lost} points of macro-F1 lost"
    llm, classifiers, sentences = results.at_top["llm"], results.classifiers.capitalize(), []
    if is_void(results):
        # What was not learnt comes first: a low F1 is then no fault of the labels alone.
        sentences.append(f"{classifiers} trained on gold labels are not better than chance, so the loss is unknown.")
    if (loss.status != "fails" or is_void(results)) and class_f1.status == "fails":
        sentences.append(_describe_low_class(results, class_f1))
    if not is_void(results):
        sentences.append(_describe_loss(results, cost))
    is_lower = cost is not None and (cost.verdict == "lower" or loss.status == "fails")
    if is_lower and not is_void(results) and llm.above_chance is not False:
        sentences.append(_describe_cause(results))
    if llm.above_chance is False:
        sentences.append(f"{classifiers} trained on the LLM's labels are not better than chance.")
    is_unstable = churn in list_judged(results) and churn.status == "fails"
    if is_unstable and loss.status != "fails" and churn.value is not None:
        sentences.append(
            f"Runs with different seeds disagree on {points(churn.value, churn.interval)} points more of the test "
            "texts than with gold labels."
        )
    return Headline(status, decision, " ".join(filter(None, sentences)))


def _describe_low_class(results: "Results", class_f1: "Criterion") -> str:
    """Return the F1 of the worst class, and whether gold labels miss the limit too."""
    name, limit = results.verdict.worst_class, f"{class_f1.limit:g}"
    gold = next((entry.gold for entry in results.class_f1 if entry.name == name), None)
    if is_void(results) or gold is None or gold >= class_f1.limit:
        labels = " with LLM labels" if is_void(results) else ""
        return f"Their F1 of the class '{name}'{labels} is {number(class_f1.value)}; the limit is {limit}."
    return (
        f"F1 of the class '{name}' is {number(class_f1.value)} with LLM labels and {number(gold)} with gold labels; "
        f"the limit is {limit}. Gold labels miss it too: more texts or a stronger encoder are necessary."
    )


def is_void(results: "Results") -> bool:
    """Return whether classifiers on gold labels learnt nothing, so that no comparison with them means anything."""
    gold = results.at_top.get("gold")
    return gold is not None and gold.above_chance is False


def list_judged(results: "Results") -> list["Criterion"]:
    """Return the limits that the study can judge: runs that learnt nothing are no reference, and agree by chance."""
    loss, churn, class_f1 = results.verdict.criteria
    if is_void(results):
        return [class_f1]
    return [loss, class_f1] if results.at_top["llm"].above_chance is False else [loss, churn, class_f1]


def _describe_loss(results: "Results", cost: "Comparison | None") -> str:
    """Return the size of the loss. It is no open question where its limit fails, whatever else was compared."""
    gold, llm, status = results.at_top.get("gold"), results.at_top["llm"], results.verdict.criteria[0].status
    if cost is None or gold is None:
        return "No classifier was trained on gold labels, so the loss is unknown."
    # Studies of earlier versions have no means in their comparisons.
    before, after = (
        variant.macro_f1_mean if mean is None else mean for mean, variant in ((cost.second, gold), (cost.first, llm))
    )
    scores = f"({number(before, cost.interval)} → {number(after, cost.interval)})"
    if cost.interval is None:
        return f"Macro-F1 changes by {signed_difference(cost)} {scores}. Two runs give no interval."
    if cost.verdict == "inconclusive" and status != "fails":
        size, low, high = (points(-value, cost.interval) for value in (cost.difference, *cost.interval[::-1]))
        corrected = "" if cost.interval[0] <= 0 <= cost.interval[1] else " once corrected for several comparisons"
        return (
            f"Their loss of macro-F1 is {size} points {scores}, with an interval from {low} to {high}: "
            f"inconclusive{corrected}."
        )
    verb = "lose" if cost.difference < 0 else "gain"
    size = points(abs(cost.difference), cost.interval)
    return f"{results.classifiers.capitalize()} trained on them {verb} {size} points of macro-F1 {scores}."


def _describe_cause(results: "Results") -> str:
    """Return the class with the largest part of the loss, and what the LLM does with it.

    Macro-F1 is a mean over classes, so its loss is the mean of the losses of the classes.
    """
    losses = {entry.name: entry.gold - entry.value for entry in results.class_f1 if entry.gold is not None}
    total = sum(losses.values())
    if total <= 0:
        return ""
    name, loss = max(losses.items(), key=lambda pair: pair[1])
    share = loss / total
    start = f"{share:.0%} of that loss is one class, '{name}'"
    if share > 1.05:
        start = f"One class, '{name}', loses more than that, as others gain"
    elif share >= 0.95:
        start = f"Almost all of that loss is one class, '{name}'"
    elif share < 1 / 3:
        start = f"The largest part of that loss, {share:.0%}, is the class '{name}'"
    annotator = results.annotator
    people, llm, recall = annotator.gold_share.get(name), annotator.llm_share.get(name, 0.0), annotator.recall.get(name)
    if people is None or recall is None:
        return f"{start}."
    precision = 1.0
    if annotator.confusion is not None:
        place = results.label_names.index(name)
        num_called = sum(row[place] for row in annotator.confusion)
        precision = annotator.confusion[place][place] / num_called if num_called else 0.0
    if not people / 2 < llm < 2 * people:
        start += f": the LLM calls {llm:.0%} of the texts '{name}', people {people:.0%}."
    elif precision < recall:
        start += f": people agree on {precision:.0%} of the texts that the LLM calls '{name}'."
    elif recall < 0.9:
        start += f": the LLM finds {recall:.0%} of the texts that people call '{name}'."
    else:
        start += "."
    shares = {(share.variant, share.class_name): share.share for share in results.class_shares if share.group is None}
    predicted = shares.get(("llm", name), 1.0)
    if predicted < 0.005 < people:
        start += f" Its classifiers {'almost ' if predicted else ''}never predict it."
    return start


def list_limits(results: "Results") -> list[LimitRow]:
    """Return the limits of the recipe that the study can judge."""
    worst = results.verdict.worst_class
    titles = {
        "macro_f1_loss": ("Score lost", "macro-F1, gold minus LLM labels"),
        "churn": ("Instability added", "share of texts on which two seeds disagree, LLM minus gold"),
        "min_class_f1": (
            f"Worst class: {worst}" if worst else "Worst class",
            f"F1 of that class with LLM labels{describe_lowest(results)}",
        ),
    }
    rows = []
    for criterion in list_judged(results):
        at_least = criterion.name == "min_class_f1"
        if criterion.value is not None:
            limit = f"{'at least' if at_least else 'at most'} {criterion.limit:g}"
            if criterion.status == "inconclusive" and _is_beyond(criterion):
                limit += "; open once corrected for 3 limits"
            rows.append(LimitRow(*titles[criterion.name], criterion, describe_status(criterion), limit))
    return rows


def _is_beyond(criterion: "Criterion") -> bool:
    """Return whether the interval misses the limit, which decides nothing before the correction for three limits."""
    if criterion.interval is None:
        return False
    low, high = criterion.interval
    return high < criterion.limit if criterion.name == "min_class_f1" else low > criterion.limit


def describe_status(criterion: "Criterion") -> str:
    """Return the state of a limit in words."""
    if criterion.status != "fails":
        return criterion.status
    return "not reached" if criterion.name == "min_class_f1" else "exceeded"


def describe_texts(results: "Results") -> str:
    """Return the texts that differences between LLM and gold labels are measured on."""
    texts = f"{results.at_top['llm'].n_gold or results.n:,} test texts"
    if results.out_of_bag and results.out_of_bag.is_used:
        texts += f" and {results.out_of_bag.texts_per_run:,.0f} out-of-bag texts a run"
    return texts


def describe_lowest(results: "Results") -> str:
    """Return which classes have the lowest F1, if they are others than the class that decides the limit, or more."""
    lowest = results.lowest_classes
    names = [entry.name for entry in lowest]
    if results.verdict.worst_class in names:
        return f"; as low in {len(names) - 1:,} more" if len(names) > 1 else ""
    if not names:
        return ""
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    return f"; lowest: {names[0]}{more}, {number(lowest[0].value)}"


def describe_header(results: "Results") -> list[str]:
    """Return the parts of the line above the verdict."""
    runs = results.trainings or sum(variant.R for variant in results.variants)
    encoder = PurePosixPath(results.encoder).name or "classifiers"
    encoder = f"{results.classifiers} of {encoder}" if results.method == "frozen" else encoder
    return [
        results.dataset or results.study,
        f"labelled by {PurePosixPath(results.annotator.model).name}",
        f"{encoder}, {runs:,} trainings",
        f"{results.n:,} test texts",
        *([results.date] if results.date else []),
    ]


def list_confusions(results: "Results") -> list[tuple[str, str, int, float]]:
    """Return the largest confusions: the gold class, the LLM's class, the texts, and their share of the gold class."""
    matrix = np.array(results.annotator.confusion or [[]])
    wrong = [
        (results.label_names[i], results.label_names[j], int(matrix[i, j]), float(matrix[i, j] / matrix[i].sum()))
        for i, j in np.argwhere(matrix)
        if i != j
    ]
    return sorted(wrong, key=lambda row: -row[2])[:NUM_CONFUSIONS]


def describe_labels(results: "Results") -> str:
    """Return how often the LLM is right, next to how often the most frequent class would be."""
    annotator = results.annotator
    if annotator.accuracy is None:
        num = f"only {annotator.n_gold:,} texts have" if annotator.n_gold else "no text has"
        return f"How often the LLM is right is unknown: {num} a gold label."
    text = f"The LLM is right on {annotator.accuracy:.0%} of {annotator.n_gold:,} training texts"
    if annotator.accuracy_interval is not None:
        low, high = annotator.accuracy_interval
        text += f" (interval: {low:.0%} to {high:.0%})"
    if annotator.majority_accuracy is not None:
        text += f"; always giving the most frequent class: {annotator.majority_accuracy:.0%}"
    return f"{text}."


def list_remedies(results: "Results", controls: dict[str, str]) -> list[RemedyRow]:
    """Return the kinds of labels at the largest size: gold first, remedies by score with their controls, LLM last."""
    variants, top = results.at_top, results.top
    names = {"gold": f"Gold labels for all {top:,} texts", "llm": "The LLM's labels alone"}

    def make_row(name: str, is_control: bool = False) -> RemedyRow:
        line = names.get(name) or results.lines.get(name, name)
        kind = "gold" if name in ("gold", "one-annotator", "gold-only") else "llm" if name == "llm" else "remedy"
        return RemedyRow(f"{line[0].upper()}{line[1:]}", is_control, "control" if is_control else kind, variants[name])

    def score(name: str) -> float:
        return -(variants[name].macro_f1_mean or 0.0)

    remedies = sorted((name for name in controls if name in variants), key=score)
    of_remedies = {controls[name] for name in remedies}
    reserved = {"gold", "llm", "noise-fixed", *remedies, *of_remedies}
    rows = [make_row("gold")] if "gold" in variants else []
    rows += [make_row(name) for name in variants if name not in reserved]
    shown: set[str] = set()
    for name in remedies:
        rows.append(make_row(name))
        control = controls[name]
        if control in variants and control not in shown:
            rows.append(make_row(control, is_control=True))
            shown.add(control)
    rows.append(make_row("llm"))
    if "noise-fixed" in variants:
        rows.append(make_row("noise-fixed", is_control=True))
    return rows


def describe_best(results: "Results", controls: dict[str, str]) -> str:
    """Return what the best remedy gains, also over its control; empty without a remedy."""
    best = results.best_mitigation
    if best is None:
        return ""
    line = results.lines.get(best.variant, best.variant)
    if best.verdict != "higher":
        meaning = "worse" if best.verdict == "lower" else "inconclusive"
        return f"No remedy clearly helps. The best changes macro-F1 by {signed_difference(best)}: {meaning}."
    text = f"Best remedy: {line}. Macro-F1 rises by {signed_difference(best)}"
    against = results.find(best.variant, controls.get(best.variant, ""), "macro_f1")
    if against is None:
        return f"{text}."
    meaning = {"higher": "better", "lower": "worse"}.get(against.verdict, "inconclusive")
    return f"{text}. Against its control: {signed_difference(against)}, {meaning}."


def list_unknown(results: "Results") -> list[str]:
    """Return what the study leaves open, in at most four lines."""
    titles = {"macro_f1_loss": "the score lost", "churn": "the instability added", "min_class_f1": "the worst class"}
    verdict, lines = results.verdict, []
    chance = [name for name, result in results.at_top.items() if result.above_chance is False]
    if chance:
        lines.append(f"Anything about {listed(chance)}: these classifiers are not better than chance.")
    if verdict.criteria[0].value is None:
        lines.append("The score that LLM labels lose and the instability that they add: no run has gold labels.")
    is_open = [
        titles[criterion.name]
        for criterion in list_judged(results)
        if criterion.value is not None and criterion.status == "inconclusive"
    ]
    if is_open:
        line = f"Whether {listed(is_open)} {'is within its limit' if len(is_open) == 1 else 'are within their limits'}"
        if verdict.advice:
            seeds, texts = verdict.advice.seeds, verdict.advice.test_texts
            line += f": {seeds:,} seeds and {texts:,} test texts would decide, in {verdict.advice.hours:,.1f} hours"
        lines.append(f"{line}.")
    if results.method == "frozen":
        lines.append("The scores and the instability of fine-tuned encoders.")
    if "pass" not in results.vary:
        again = "the LLM gives the same labels if it is asked again"
        if results.annotator.column is None:
            again = "another prompt or other few-shot examples give the same labels"
        lines.append(f"Whether {again}.")
    lines.append(f"Other LLMs, encoders or data, or more than {results.top:,} training texts.")
    return lines[:MAX_LIMITS]


def find_wrong_texts(texts: Sequence[str], gold: np.ndarray, probs: np.ndarray, names: list[str]) -> list[WrongText]:
    """Return the texts that the LLM labelled wrong with the highest probability, one for each confusion first.

    Args:
        texts (`Sequence[str]`): n texts.
        gold (`np.ndarray` of shape `(n,)`): class indices, -1 for none.
        probs (`np.ndarray` of shape `(n, K)`): the LLM's probabilities.
        names (`list[str]`): the classes.
    """
    llm, sure = probs.argmax(axis=1), probs.max(axis=1)
    has_text = np.array([bool(text) for text in texts], dtype=bool)
    wrong = np.flatnonzero((gold >= 0) & (llm != gold) & has_text)
    by_probability = wrong[np.argsort(-sure[wrong], kind="stable")]
    _, first = np.unique(gold[by_probability] * len(names) + llm[by_probability], return_index=True)
    ordered = dict.fromkeys([*by_probability[sorted(first)], *by_probability[:NUM_TEXTS]])
    has_probs = bool(((probs > 0) & (probs < 1)).any())
    return [
        WrongText(_cut(texts[i]), names[gold[i]], names[llm[i]], float(sure[i]) if has_probs else None)
        for i in list(ordered)[:NUM_TEXTS]
    ]


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_CHARACTERS else f"{line[: MAX_CHARACTERS - 1].rstrip()}…"
