"""Build the tables of the report: strings in rows, which the pages and the terminal show as they are."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from ..analysis.schema import ClassF1, Components, ErrorCells, Results
from ..variants import CONTROLS
from .first_screen.content import (
    MAX_CLASSES,
    describe_labels,
    describe_texts,
    list_confusions,
    list_limits,
    list_remedies,
)
from .first_screen.numbers import counted, estimate, mean, number
from .records import Table

SOURCES = {
    "subset": "the training texts",
    "init": "the first weights of the head",
    "order": "the order of batches and dropout",
    "pass": "the annotation passes",
}
BASELINES = {
    "most-frequent": "the most frequent class",
    "tfidf": "TF-IDF with logistic regression",
    "frozen": "a linear head on frozen features",
    "llm": "the LLM itself",
}
#: A column by its name: a field of the record, with its interval if it has one, or a function of the record.
Columns = dict[str, str | Callable[[Any], str]]
SCORES: Columns = {"macro-F1": "macro_f1_mean", "seeds disagree": "pairwise_disagreement"}
ERROR_CELLS: Columns = {
    "LLM right, classifier says the same": "right_same",
    "LLM right, says otherwise": "right_other",
    "LLM wrong, says the same": "wrong_same",
    "LLM wrong, says otherwise": "wrong_other",
    "of the LLM's errors copied": "copied",
}


def tabulate(title: str, records: Iterable[Any], columns: Columns, caption: str = "", note: str = "") -> Table:
    """Return a table with a row for each record."""
    rows = [[_show(record, column) for column in columns.values()] for record in records]
    return Table(title, list(columns), rows, caption, note)


def _show(record: Any, column: str | Callable[[Any], str]) -> str:
    if not isinstance(column, str):
        return column(record)
    value = getattr(record, column)
    if isinstance(value, int | str):
        return value if isinstance(value, str) else f"{value:,}"
    return estimate(record, column) if hasattr(record, f"{column}_interval") else number(value)


def make_summary(results: Results) -> list[Table]:
    """Return the tables of the first screen, for pages without its charts."""
    rows = list_limits(results)
    limits = Table(
        "Limits",
        ["limit", "value", "required", "state"],
        [[row.title, estimate(row.criterion, "value", "interval"), row.limit, row.status] for row in rows],
        note=f"{results.verdict.level:.0%} intervals, {results.R} seeds, {results.top:,} training texts, "
        f"{describe_texts(results)}.",
    )
    names = results.label_names
    confusion = results.annotator.confusion
    if confusion is None or len(names) > MAX_CLASSES:
        largest = [[gold, llm, f"{n:,}", f"{share:.0%}"] for gold, llm, n, share in list_confusions(results)]
        labels = Table("Why", ["gold", "LLM", "texts", "of the class"], largest, describe_labels(results))
    else:
        cells = [[name, *(f"{n:,}" for n in counts)] for name, counts in zip(names, confusion, strict=True)]
        caption = f"{describe_labels(results)} Rows: gold label. Columns: the LLM's label."
        labels = Table("Why", ["", *names], cells, caption)
    remedies = tabulate(
        "What you could do instead",
        list_remedies(results, CONTROLS),
        {
            "training labels": lambda row: f"{'(control) ' if row.is_control else ''}{row.label}",
            "gold labels": lambda row: f"{row.result.gold_labels:,}",
            "macro-F1": lambda row: estimate(row.result, "macro_f1_mean"),
            "two seeds disagree": lambda row: estimate(row.result, "pairwise_disagreement"),
        },
        note=f"{results.R} seeds, {results.n:,} test texts, {results.confidence_level:.0%} intervals.",
    )
    return [limits, labels, remedies]


def make_tables(results: Results) -> list[Table]:
    """Return all other tables of the report. A table without rows is left out."""
    variants = tabulate(
        "Every variant at every size",
        results.variants,
        {
            "variant": "variant",
            "training texts": "size",
            "gold labels": "gold_labels",
            "right training labels": lambda result: number(mean(result.train_label_accuracy)),
            "macro-F1": "macro_f1_mean",
            "SD over seeds": "macro_f1_sd",
            "accuracy": "accuracy_mean",
            "seeds disagree": "pairwise_disagreement",
            "Krippendorff's alpha": "krippendorff_alpha",
            f"all {results.R} agree": "unanimity",
            "runs that learnt nothing": "chance_level_runs",
        },
        _explain_variants(results),
    )
    differences = tabulate(
        "Differences, paired by text",
        sorted(results.comparisons, key=lambda comparison: not comparison.primary),
        {
            "variant": "variant",
            "against": "against",
            "training texts": "size",
            "figure": "figure",
            "difference": lambda comparison: estimate(comparison, "difference", "interval"),
            "on test texts alone": lambda comparison: (
                estimate(comparison.test_only, "difference", "interval") if comparison.test_only else ""
            ),
            "": lambda comparison: comparison.verdict if comparison.p_holm is not None else "",
            "p": lambda comparison: number(comparison.p_holm) if comparison.p_holm is not None else "",
        },
        "p-values are corrected for each other (Holm 1979): those of the primary comparisons together, and those of "
        "all other differences that sentences of the report state. Without a p-value a difference is exploratory.",
    )
    sources = Table(
        "Where the spread comes from",
        ["variant", "runs", "source", "two runs disagree", "SD of macro-F1", "SD of accuracy"],
        list(chain.from_iterable(map(_list_sources, results.components))),
        "Every source of chance is crossed with every other: runs that share all seeds but one differ by that one "
        "alone. A standard deviation is the square root of a variance component. Its interval is for these test texts, "
        "that of disagreement for texts like them.",
    )
    baselines = tabulate(
        "Baselines",
        results.baselines,
        {
            "baseline": lambda entry: BASELINES[entry.name],
            "training labels": lambda entry: "-" if entry.name == "llm" else entry.variant,
            "accuracy": "accuracy_mean",
            "macro-F1": "macro_f1_mean",
            f"{results.classifiers} less the baseline, macro-F1": lambda entry: estimate(
                entry.difference, "difference", "interval"
            ),
            "": lambda entry: entry.difference.verdict,
            "p": lambda entry: number(entry.difference.p_holm),
        },
        f"At {results.top:,} training texts: the same texts, labels and seeds. The LLM itself is not trained; it "
        "labels the test texts. p-values are corrected for each other (Holm 1979).",
    )
    ensembles = tabulate(
        "Ensembles of runs at the largest size",
        results.ensembles,
        {
            "variant": "variant",
            "k": "k",
            "ensembles": "ensembles",
            "macro-F1": "macro_f1_mean",
            "two ensembles disagree": "pairwise_disagreement",
        },
        "An ensemble gives the label of the highest mean probability of its k runs. Only ensembles that share no run "
        "are compared; the interval is not defined for two of them.",
    )
    gold_labels = tabulate(
        "Gold labels consumed by a run at the largest size",
        results.at_top.values(),
        {
            "variant": "variant",
            "training": lambda result: f"{round(sum(result.gold_train_labels) / len(result.gold_train_labels)):,}",
            "calibration" if results.annotator.column else "prompt and calibration": "gold_prompt_labels",
            "choice of checkpoint": "gold_validation_labels",
            "all": "gold_labels",
        },
    )
    class_shares = tabulate(
        "Shares of classes at the largest size",
        # Groups of all variants would be too many rows.
        [share for share in results.class_shares if share.group is None or share.variant in ("gold", "llm")],
        {
            "variant": "variant",
            "among (texts with gold)": lambda share: (
                f"{'all texts' if share.group is None else share.group} ({share.n:,})"
            ),
            "class": "class_name",
            "gold": lambda share: estimate(share, "gold") if share.gold_interval else number(share.gold),
            "found": "share",
            "bias": "bias",
            "SD over seeds": "sd",
        },
    )
    columns: Columns = {"variant": "variant", "training texts": "size", **ERROR_CELLS}
    errors = tabulate(
        "The LLM's errors on the test texts, and the classifiers'",
        results.error_cells,
        columns | {"agreement": "agreement", "accuracy": "accuracy"},
        "".join(map(_explain_errors, results.error_cells[:1])),
    )
    disagreement = Table(
        "Disagreement between seeds by gold class",
        ["variant", "training texts", *results.label_names],
        [
            [
                *(result.variant, f"{result.size:,}"),
                *(
                    f"{number(result.per_class_disagreement.get(name))} (n = {result.per_class_n.get(name, 0):,})"
                    for name in results.label_names
                ),
            ]
            for result in results.variants
        ]
        if len(results.label_names) <= MAX_CLASSES
        else [],
    )
    tables = [variants, differences, baselines, _list_classes(results)]
    tables += [sources, ensembles, gold_labels, class_shares, errors, disagreement]
    return [table for table in [*tables, _describe_annotator(results)] if table.rows]


def _list_classes(results: Results) -> Table:
    """Return the table of classes at the largest size, the lowest F1 first."""
    variants, num_classes = results.at_top, len(results.class_f1)
    columns: Columns = {"class": "name", "texts": "n", "F1, LLM labels": "value"}
    if "gold" in variants:
        columns |= {
            "F1, gold labels": lambda entry: number(entry.gold),
            "part of the macro-F1 loss": lambda entry: (
                "-" if entry.gold is None else number((entry.gold - entry.value) / num_classes)
            ),
        }

    def disagreement(name: str) -> Callable[[ClassF1], str]:
        return lambda entry: number(variants[name].per_class_disagreement.get(entry.name))

    if len(results.label_names) > MAX_CLASSES:  # for fewer, another table has all variants and sizes
        columns |= {f"seeds disagree, {name}": disagreement(name) for name in ("llm", "gold") if name in variants}
    ordered = sorted(results.class_f1, key=lambda entry: entry.value)
    caption = "Macro-F1 is the mean over classes, so its loss is the sum of their parts." if "gold" in variants else ""
    return tabulate(f"Classes at {results.top:,} training texts", ordered, columns, caption)


def _explain_variants(results: Results) -> str:
    texts, failure = " with gold labels", "agrees with gold no more than by chance (kappa not above 0 at .05)"
    if results.audit:
        texts = (
            f", of which {results.audit.test.labelled:,} have people's labels: scores are of these, disagreement, "
            "alpha and agreement of all"
        )
        failure = "gives all test texts one class"
    seeds = ", ".join(map(str, results.seeds))
    return (
        f"{results.R} seeds a variant and size (seeds {seeds}), {results.n:,} test texts{texts}. Intervals are "
        f"{results.confidence_level:.0%}. A run learnt nothing if it {failure}."
    )


def _explain_errors(cells: ErrorCells) -> str:
    return (
        f"Shares of the {cells.n:,} test texts that the LLM gave a label ({cells.R} runs each). The LLM is right in "
        f"{estimate(cells, 'teacher_accuracy')} of them."
    )


def _list_sources(components: Components) -> Iterator[list[str]]:
    # Disagreement calls the spread of all sources `all`, the variance components call it `total`.
    names = {source: (SOURCES[source], source) for source in components.sources} | {"all": ("all of them", "total")}
    for source, (name, component) in names.items():
        yield [
            *(components.variant, f"{components.R} ({components.levels} levels)", name),
            estimate(components.disagreement[source], "value", "interval"),
            estimate(components.macro_f1[component], "sd"),
            estimate(components.accuracy[component], "sd"),
        ]


def _describe_annotator(results: Results) -> Table:
    annotator = results.annotator
    note = f"Rows by status: {counted(annotator.status)}"
    if annotator.column is None:
        note += (
            f"; texts cut to fit: {annotator.truncated:,}. Probability on the labels before renormalising: "
            f"{number(annotator.label_mass)} on average"
        )
    note += f". Calibration: {annotator.calibration}."
    if annotator.kl is not None:
        note += (
            f" KL divergence of its probabilities from the annotators' shares: {estimate(annotator, 'kl')} nats "
            f"({annotator.kl_n:,} texts)."
        )
    columns = (annotator.gold_share, annotator.llm_share, annotator.recall)
    return Table(
        f"The annotator on {annotator.n:,} training texts",
        ["class", "share in gold", "share in LLM labels", "recall"],
        [[name, *(number(column[name]) for column in columns)] for name in results.label_names],
        note=note,
    )
