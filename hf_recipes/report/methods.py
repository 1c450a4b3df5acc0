"""Describe in words what was run: a paragraph of methods."""

from ..analysis.schema import Results
from ..models import short_name
from ..study import Method, Study
from ..training.heads import BATCH_SIZE, EPOCHS, LEARNING_RATE
from .first_screen.numbers import listed
from .tables import SOURCES


def how_trained(study: Study, method: Method) -> str:
    """Return the encoder, how it was used, and its settings, in words."""
    train = study.training
    encoder = short_name(study, train.encoder)
    seeds = f"A seed draws {listed([SOURCES[source] for source in study.grid.vary])}; variants share it."
    if method == "frozen":
        return (
            f"linear softmax heads were trained on features of the frozen {encoder} (the mean of the last hidden "
            f"states over at most {train.max_length} tokens, scaled to one length) for {EPOCHS} epochs of AdamW "
            f"(batches of {BATCH_SIZE}, learning rate {LEARNING_RATE}). {seeds}"
        )
    checkpoint = "last checkpoint"
    if train.checkpoint == "best":
        origin = {"gold": "gold", "llm": "LLM"}[train.validation_labels]
        checkpoint = f"the best epoch by macro-F1 on {train.validation_size:,} validation texts with {origin} labels"
    return (
        f"{encoder} was fine-tuned for {train.epochs:,} epoch{'s' if train.epochs > 1 else ''} (batches of "
        f"{train.batch_size}, learning rate {train.learning_rate}, at most {train.max_length} tokens, {checkpoint}). "
        f"{seeds}"
    )


def how_made(study: Study, results: Results) -> str:
    """Return what was run and how it was judged, in words."""
    data, model, annotator = study.recipe.data.path, study.recipe.annotate.model, results.annotator
    calibration = "no" if annotator.calibration == "none" else annotator.calibration
    fitted = f" (chosen on {annotator.calibration_gold} gold labels)" if annotator.calibration_gold else ""
    sizes = listed([f"{size:,}" for size in sorted({result.size for result in results.variants})])
    judges, primary = " with gold labels", "LLM labels against gold labels, "
    if results.audit:
        judges, primary = f", of which people labelled {results.audit.test.labelled:,}, drawn at random", ""
    labelled = f"Texts of {data} were labelled by {model} with {annotator.demonstrations} demonstrations and"
    if annotator.column:
        labelled = f"Labels of {model} were read from the column {annotator.column} of {data}, with"
    return (
        f"{labelled} {calibration} calibration{fitted}; {how_trained(study, results.method)} "
        f"{results.R} seeds were run for each source of labels at {sizes} training texts"
        f"{' (some at the largest number alone)' if study.grid.curves else ''}, and judged on {results.n:,} test texts"
        f"{judges}{_extra_texts(results)}. "
        "Disagreement is the share of test texts to which two runs that "
        "differ in their seeds give different labels, averaged over pairs of runs (Du & Nguyen 2023). Differences are "
        f"paired by text; intervals are {results.confidence_level:.0%}, by t, over seeds (Welch 1947) and "
        "texts together, with the variance of seed x text counted once. p-values of the primary comparisons "
        f"(macro-F1 and disagreement at the largest size, {primary}every other source against LLM labels and "
        "against its control) are corrected for each other (Holm 1979)."
    )


def _extra_texts(results: Results) -> str:
    """Return which texts count besides the test texts, and how."""
    text = ""
    if results.out_of_bag and results.out_of_bag.is_used:
        text = (
            f", differences also on those of {results.out_of_bag.n:,} texts of the pool that a run did not train on "
            f"({results.out_of_bag.texts_per_run:,.0f} for each run)"
        )
    if results.clusters is not None:
        text += f", in {results.clusters:,} clusters of test texts"
    return text
