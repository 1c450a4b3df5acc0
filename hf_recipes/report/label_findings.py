"""Write the findings and build the tables on the LLM's labels, all from labels.json."""

from ..analysis.label_schema import CalibrationResult, LabelQuality, Uncertainty
from ..labels.audit import MIN_LABELS
from .first_screen.numbers import estimate, interval, number
from .records import Table

ONE_LABEL = 0.95  # a share of the labels that one class hardly ever has
UNCERTAIN = 0.25  # the share of texts whose errors the findings count


def describe(labels: LabelQuality) -> list[str]:
    """Return the findings in words."""
    annotator = labels.annotator
    if annotator is None:
        return ["No text has a label."]
    sentences = _describe_shares(labels, annotator)
    if not annotator.n_gold:
        sentences.append("There is no gold: how many labels are wrong is not known, nor could a calibration be chosen.")
        return sentences
    if annotator.n_gold < MIN_LABELS:
        advice = "Lower annotate.calibration_rows, or label" if labels.gold_spent.calibration else "Label"
        sentences.append(
            f"Only {annotator.n_gold} texts with gold are left. No figures are given for fewer than {MIN_LABELS}. "
            f"{advice} more by hand."
        )
        return sentences
    if drawn := labels.audit_drawn:
        scope = ": what follows holds for all of them, within its intervals."
        if annotator.n_gold < drawn:
            scope = (
                f". Of the other {drawn - annotator.n_gold:,} nothing is known: if they are the hard ones, what "
                "follows is too good."
            )
        sentences.append(
            f"People labelled {annotator.n_gold:,} of {drawn:,} texts that were drawn at random from all "
            f"{annotator.n:,}{scope}"
        )
    sentences.append(
        f"Against {annotator.n_gold:,} gold labels: accuracy {estimate(annotator, 'accuracy')} (always the most "
        f"frequent class: {number(annotator.majority_accuracy)}), macro-F1 {estimate(annotator, 'macro_f1')}."
    )
    if labels.has_probabilities:
        sentences.append(
            "The probability of its label and the share of right labels differ by "
            f"{number(annotator.ece)} on average (expected calibration error)."
        )
        sentences += _describe_entropy(annotator)
    if annotator.flip_recall_interval is not None:
        sentences.append(
            f"Of texts whose passes differ {estimate(annotator, 'flipped_error_rate')} have a wrong label, of the "
            f"others {estimate(annotator, 'unflipped_error_rate')}; flips find {number(annotator.flip_recall)} of all "
            "errors."
        )
    return sentences


def _describe_shares(labels: LabelQuality, annotator: Uncertainty) -> list[str]:
    """Return the findings that require no gold."""
    shares = zip(labels.label_names, annotator.label_share, strict=True)
    sentences = [
        f"{annotator.n:,} texts have a label: {', '.join(f'{name} {number(share)}' for name, share in shares)}."
    ]
    spent = {
        "that the prompts show as demonstrations": labels.gold_spent.demonstrations,
        "with gold that the calibration looked at": labels.gold_spent.calibration,
    }
    if left_out := [f"{count:,} {use}" for use, count in spent.items() if count]:
        sentences.append(f"Not among them: {' and '.join(left_out)}.")
    if max(annotator.label_share) > ONE_LABEL:
        advice = "another instruction or demonstrations, or a larger model."
        if labels.is_from_columns:
            advice = "labels of another LLM."
        if labels.has_probabilities:
            advice = f"calibration: batch (it costs no annotation), {'or ' if labels.is_from_columns else ''}{advice}"
        sentences.append(f"Nearly all get one label. If the texts are not like that, try {advice}")
    if labels.scoring == "distribution":
        mass = annotator.label_mass_mean
        warning = " Most of it is on other tokens: the prompt does not ask for these labels." if mass < 0.5 else ""
        sentences.append(f"Before renormalising, the labels hold {number(mass)} of the LLM's probability.{warning}")
    if labels.scoring == "distribution" and labels.ties and (ties := labels.ties[0]) and ties.count:
        sentences.append(
            f"{ties.count:,} of {ties.n:,} texts have two labels of the highest probability before calibration: the "
            "numbers of the model are rounded. Try a head in float32 (the default), or `annotate.dtype: float32`."
        )
    if labels.repeats and (repeat := labels.repeats[0]):
        sentences.append(
            f"Asked again in other batches, {repeat.changed:,} of {repeat.n:,} texts get another label: the noise of "
            "the engine."
        )
    if annotator.P is not None:
        sentences.append(
            f"The {annotator.P} passes do not all agree on {estimate(annotator, 'flip_rate')} of the texts."
        )
    return sentences


def _describe_entropy(annotator: Uncertainty) -> list[str]:
    """Return whether entropy finds errors, overall and within a class."""
    low, high = annotator.entropy_auroc_interval or (None, None)
    if low is None or high is None:
        return []
    meaning = "whether entropy points at errors is inconclusive"
    if low > 0.5:
        meaning = "entropy points at errors"
    elif high < 0.5:
        meaning = "entropy points away from errors"
    capture = annotator.error_capture[annotator.alphas.index(UNCERTAIN)]
    most = min(1.0, UNCERTAIN / (1 - annotator.accuracy)) if annotator.accuracy is not None else 1.0
    sentences = [
        f"A wrong label has more entropy than a right one with probability {estimate(annotator, 'entropy_auroc')}: "
        f"{meaning}. The {UNCERTAIN:.0%} most uncertain texts hold {number(capture)} of all errors "
        f"({number(UNCERTAIN)} is chance, {number(most)} the most that they can hold)."
    ]
    low, high = annotator.within_class_auroc_interval or (None, None)
    if low is not None and high is not None:
        meaning = "entropy sees no sign that errors depend on more than the class."
        if low > 0.5:
            meaning = "errors depend on the text, not on its class alone."
        sentences.append(
            f"The gold class alone explains {number(annotator.class_share)} of the variance of errors. Among texts of "
            f"one class entropy ranks errors with {estimate(annotator, 'within_class_auroc')}: {meaning}"
        )
    return sentences


def make_label_tables(labels: LabelQuality) -> list[Table]:
    """Return the tables of the page. Those against gold, and that of passes, are left out where there are none."""
    statuses = sorted(set().union(*labels.status))
    spent = labels.gold_spent
    rows = []
    for place, counts in enumerate(labels.status):
        rows.append([str(place), *(f"{counts.get(name, 0):,}" for name in statuses)])
    note = (
        f"Texts cut to fit: {labels.truncated:,}. Gold labels spent: {spent.demonstrations} on demonstrations, "
        f"{spent.calibration} on calibration."
    )
    if labels.is_from_columns:
        note = f"Gold labels spent: {spent.calibration} on calibration."
    tables = [
        Table("Rows", ["pass", *statuses], rows, note=note),
        Table(
            "Calibration",
            ["pass", "method", "temperature", "gold labels looked at", "log-loss on them"],
            [[str(place), *_show_calibration(result)] for place, result in enumerate(labels.calibrations)],
        ),
    ]
    if any(labels.ties):
        rows = [[str(place), f"{ties.count:,}", f"{ties.n:,}"] for place, ties in enumerate(labels.ties) if ties]
        tables.append(Table("Two labels of the highest probability before calibration", ["pass", "texts", "of"], rows))
    if any(labels.repeats):
        rows = [
            [str(place), f"{repeat.changed:,}", f"{repeat.n:,}", number(repeat.max_difference)]
            for place, repeat in enumerate(labels.repeats)
            if repeat
        ]
        columns = ["pass", "other labels", "of", "largest difference of log-probabilities"]
        tables.append(Table("Asked again in other batches", columns, rows))
    annotator = labels.annotator
    if annotator and annotator.n_gold >= MIN_LABELS:
        tables.append(_list_confusion(labels.label_names, annotator))
        if labels.has_probabilities:
            tables.append(_list_captures(annotator))
    if labels.passes:
        tables.append(list_passes(labels))
    return tables


def _show_calibration(result: CalibrationResult) -> list[str]:
    losses = ", ".join(f"{method} {number(loss)}" for method, loss in result.log_loss.items())
    return [result.method, number(result.temperature), f"{result.gold:,}", losses]


def _list_confusion(names: list[str], annotator: Uncertainty) -> Table:
    recall = _estimate_each(annotator, "per_class_recall")
    precision = _estimate_each(annotator, "per_class_precision")
    rows = []
    for k, name in enumerate(names):
        counts = [*annotator.confusion[k], annotator.per_class_n[k]]
        rows.append([name, *(f"{count:,}" for count in counts), recall[k], precision[k]])
    return Table("Against gold", ["gold \\ LLM", *names, "n", "recall", "precision"], rows)


def _list_captures(annotator: Uncertainty) -> Table:
    captures = _estimate_each(annotator, "error_capture")
    return Table(
        "Errors among the most uncertain texts",
        ["most uncertain", "of all errors", "times chance"],
        [
            [f"{alpha:.0%}", capture, "-" if lift is None else f"{lift:.2f}"]
            for alpha, capture, lift in zip(annotator.alphas, captures, annotator.lift, strict=True)
        ],
        note=f"Log-loss {number(annotator.nll)} nats, Brier score {number(annotator.brier)}, expected calibration "
        f"error {number(annotator.ece)} (equal mass: {number(annotator.adaptive_ece)}), area under risk and coverage "
        f"{number(annotator.aurc)} ({number(annotator.e_aurc)} above a perfect order).",
    )


def _estimate_each(annotator: Uncertainty, field: str) -> list[str]:
    pairs = zip(getattr(annotator, field), getattr(annotator, f"{field}_interval"), strict=True)
    return [f"{number(value, bounds)} {interval(bounds)}" for value, bounds in pairs]


def list_passes(labels: LabelQuality) -> Table:
    """Return the labels and the scores of each pass and of their aggregates."""
    rows = []
    for result in labels.passes:
        scores = ["-", "-"]
        if result.n_gold >= MIN_LABELS:
            scores = [estimate(result, "accuracy"), estimate(result, "macro_f1")]
        rows.append([result.name, *map(number, result.label_share), *scores])
    return Table("Passes", ["labels", *labels.label_names, "accuracy", "macro-F1"], rows)
