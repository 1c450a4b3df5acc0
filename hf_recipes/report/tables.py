"""Build the tables of the report: strings in rows, which the pages and the terminal show as they are."""

from ..analysis.schema import Results
from .numbers import counted, estimate, interval, mean, number
from .records import Table

SOURCES = {
    "subset": "the training texts",
    "init": "the first weights of the head",
    "order": "the order of batches and dropout",
    "pass": "the annotation passes",
}
ERROR_CELLS = {
    "right_same": "LLM right, classifier says the same",
    "right_other": "LLM right, says otherwise",
    "wrong_same": "LLM wrong, says the same",
    "wrong_other": "LLM wrong, says otherwise",
    "agreement": "agreement",
    "accuracy": "accuracy",
    "copied": "of the LLM's errors copied",
}


def make_summary(results: Results) -> Table:
    """Return the table of the first page: the variants at the largest size."""
    return Table(
        f"At {results.top:,} training texts",
        ["variant", "gold labels", "macro-F1", "seeds disagree"],
        [
            [
                result.variant,
                f"{result.gold_labels:,}",
                estimate(result, "macro_f1_mean"),
                estimate(result, "pairwise_disagreement"),
            ]
            for result in results.at_top.values()
        ],
        note=f"{results.R} seeds a variant, {results.n:,} test texts; intervals are {results.confidence_level:.0%}.",
    )


def make_tables(results: Results) -> list[Table]:
    """Return all other tables of the report. A table without rows is left out."""
    tables = [
        _list_variants(results),
        _list_differences(results),
        _list_sources(results),
        _list_ensembles(results),
        _count_gold_labels(results),
        _list_class_shares(results),
        _list_errors(results),
        _list_disagreement(results),
        _describe_annotator(results),
    ]
    return [table for table in tables if table.rows]


def _list_variants(results: Results) -> Table:
    scored, failure = " with gold labels", "agrees with gold no more than by chance (kappa not above 0 at .05)"
    if results.audit:
        scored = (
            f", of which {results.audit.test.labelled:,} have people's labels: scores are of these, disagreement, "
            "alpha and agreement of all"
        )
        failure = "gives all test texts one class"
    seeds = ", ".join(map(str, results.seeds))
    fields = (
        *("macro_f1_mean", "macro_f1_sd", "accuracy_mean", "pairwise_disagreement"),
        *("krippendorff_alpha", "unanimity"),
    )
    return Table(
        "Every variant at every size",
        [
            *("variant", "training texts", "gold labels", "right training labels", "macro-F1", "SD over seeds"),
            *("accuracy", "seeds disagree", "Krippendorff's alpha", f"all {results.R} agree"),
            "runs that learnt nothing",
        ],
        [
            [
                *(result.variant, f"{result.size:,}", f"{result.gold_labels:,}"),
                number(mean(result.train_label_accuracy)),
                *(estimate(result, field) for field in fields),
                "-" if result.chance_level_runs is None else str(result.chance_level_runs),
            ]
            for result in results.variants
        ],
        f"{results.R} seeds a variant and size (seeds {seeds}), {results.n:,} test texts{scored}. Intervals are "
        f"{results.confidence_level:.0%}. A run learnt nothing if it {failure}.",
    )


def _list_differences(results: Results) -> Table:
    return Table(
        "Differences, paired by seed and test text",
        ["variant", "against", "training texts", "figure", "difference", "", "p"],
        [
            [
                *(comparison.variant, comparison.against, f"{comparison.size:,}", comparison.figure),
                f"{number(comparison.difference)} {interval(comparison.interval)}",
                comparison.verdict,
                number(comparison.p_holm) if comparison.primary else "",
            ]
            for comparison in results.comparisons
        ],
        "p-values are those of the primary comparisons, corrected for each other (Holm 1979); intervals and the rest "
        "are exploratory.",
    )


def _list_sources(results: Results) -> Table:
    rows = []
    for components in results.components:
        # Disagreement calls the spread of all sources `all`, the variance components call it `total`.
        keys = [(SOURCES[source], source, source) for source in components.sources]
        for name, source, component in [*keys, ("all of them", "all", "total")]:
            disagreement = components.disagreement[source]
            rows.append(
                [
                    components.variant,
                    f"{components.R} ({components.levels} levels)",
                    name,
                    f"{number(disagreement.value)} {interval(disagreement.interval)}",
                    estimate(components.macro_f1[component], "sd"),
                    estimate(components.accuracy[component], "sd"),
                ]
            )
    return Table(
        "Where the spread comes from",
        ["variant", "runs", "source", "two runs disagree", "SD of macro-F1", "SD of accuracy"],
        rows,
        "Every source of chance is crossed with every other: runs that share all seeds but one differ by that one "
        "alone. A standard deviation is the square root of a variance component. Its interval is for these test texts, "
        "that of disagreement for texts like them.",
    )


def _list_ensembles(results: Results) -> Table:
    return Table(
        "Ensembles of runs at the largest size",
        ["variant", "k", "ensembles", "macro-F1", "two ensembles disagree"],
        [
            [
                *(ensemble.variant, str(ensemble.k), str(ensemble.ensembles)),
                *(estimate(ensemble, "macro_f1_mean"), estimate(ensemble, "pairwise_disagreement")),
            ]
            for ensemble in results.ensembles
        ],
        "An ensemble gives the label of the highest mean probability of its k runs. Only ensembles that share no run "
        "are compared; the interval is not defined for two of them.",
    )


def _count_gold_labels(results: Results) -> Table:
    rows = []
    for result in results.at_top.values():
        training = round(sum(result.gold_train_labels) / len(result.gold_train_labels))
        counts = (training, result.gold_prompt_labels, result.gold_validation_labels, result.gold_labels)
        rows.append([result.variant, *(f"{count:,}" for count in counts)])
    return Table(
        "Gold labels consumed by a run at the largest size",
        ["variant", "training", "prompt and calibration", "choice of checkpoint", "all"],
        rows,
    )


def _list_class_shares(results: Results) -> Table:
    rows = []
    for share in results.class_shares:
        if share.group is not None and share.variant not in ("gold", "llm"):
            continue  # groups times variants are too many rows
        rows.append(
            [
                share.variant,
                f"{'all texts' if share.group is None else share.group} ({share.n:,})",
                share.class_name,
                estimate(share, "gold") if share.gold_interval else number(share.gold),
                number(share.share),
                estimate(share, "bias"),
                number(share.sd),
            ]
        )
    return Table(
        "Shares of classes at the largest size",
        ["variant", "among (texts with gold)", "class", "gold", "found", "bias", "SD over seeds"],
        rows,
    )


def _list_errors(results: Results) -> Table:
    caption = ""
    if results.error_cells:
        first = results.error_cells[0]
        caption = (
            f"Shares of the {first.n:,} test texts that the LLM gave a label ({first.R} runs each). The LLM is right "
            f"in {estimate(first, 'teacher_accuracy')} of them."
        )
    return Table(
        "The LLM's errors on the test texts, and the classifiers'",
        ["variant", "training texts", *ERROR_CELLS.values()],
        [
            [cells.variant, f"{cells.size:,}", *(estimate(cells, field) for field in ERROR_CELLS)]
            for cells in results.error_cells
        ],
        caption,
    )


def _list_disagreement(results: Results) -> Table:
    rows = []
    for result in results.variants:
        by_class = [
            f"{number(result.per_class_disagreement.get(name))} (n = {result.per_class_n.get(name, 0):,})"
            for name in results.label_names
        ]
        rows.append([result.variant, f"{result.size:,}", *by_class])
    return Table("Disagreement between seeds by gold class", ["variant", "training texts", *results.label_names], rows)


def _describe_annotator(results: Results) -> Table:
    annotator = results.annotator
    note = (
        f"Rows by status: {counted(annotator.status)}; texts cut to fit: {annotator.truncated:,}. Probability on the "
        f"labels before renormalising: {number(annotator.label_mass)} on average. Calibration: {annotator.calibration}."
    )
    if annotator.kl is not None:
        note += (
            f" KL divergence of its probabilities from the raters' shares: {estimate(annotator, 'kl')} nats "
            f"({annotator.kl_n:,} texts)."
        )
    columns = (annotator.gold_share, annotator.llm_share, annotator.recall)
    return Table(
        f"The annotator on {annotator.n:,} training texts",
        ["class", "share in gold", "share in LLM labels", "recall"],
        [[name, *(number(column[name]) for column in columns)] for name in results.label_names],
        note=note,
    )
