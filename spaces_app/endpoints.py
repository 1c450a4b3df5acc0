"""Return every page's data as plain mappings: the endpoints of the app, which answer a wrong argument in a sentence.

An endpoint is also a tool for agents, by the Model Context Protocol (MCP). Its docstring is the tool's description.
"""

import functools
import html
import inspect
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal, get_args

import check_labels
import comparison
import gradio as gr
import guess
import limited
import measuring
import tables
from code_lines import code_lines
from gradio_client.utils import is_file_obj, is_http_url_like, traverse
from published import UnreadableError
from shelf import Shelf
from uploads import UploadError

MAX_NUMBER = 10**9  # of an argument
#: The keys of `tables.KINDS`, `tables.ORDERS` and `tables.SEEDS`, so that an agent reads them in the schema of a tool.
Kind = Literal["wrong", "right", "all", "flips", "changed"]
Order = Literal["sure", "unsure", "study"]
Only = Literal["flips", "worse", "wrong", "all"]


def explain_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Answer a wrong argument, study or file with a sentence. Gradio shows an error's message as HTML."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        try:
            for name, value in signature.bind(*arguments, **keywords).arguments.items():
                check(name, value, signature.parameters[name].annotation)
            return function(*arguments, **keywords)
        except (UnreadableError, UploadError, limited.LimitError, ArgumentError, guess.GuessError) as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None

    return call


class ArgumentError(ValueError):
    """Report an invalid argument in a sentence."""


def check(name: str, value: Any, kind: Any) -> None:
    """Raise if an argument does not have the type of the signature: Gradio does not check types."""
    if kind is str and not isinstance(value, str):
        raise ArgumentError(f"`{name}` must be text. Got {value!r:.50}. Try a name in quotes.")
    if kind is int and (type(value) not in (int, float) or not (0 <= value <= MAX_NUMBER and value == int(value))):
        raise ArgumentError(f"`{name}` must be a whole number from 0 to {MAX_NUMBER:,}. Got {value!r:.50}. Try 1.")
    if kind in (Kind, Order, Only) and value not in get_args(kind):
        raise ArgumentError(f"`{name}` must be one of {', '.join(get_args(kind))}. Got {value!r:.50}.")
    if kind == float | None and not (value is None or (type(value) in (int, float) and 0 <= value <= 1)):
        raise ArgumentError(f"`{name}` must be a number from 0 to 1. Got {value!r:.50}. Try 0.05.")


def refuse_web_address(file: dict[str, Any]) -> None:
    """Raise if a file is a web address: Gradio would download it into memory, whatever its size."""
    if is_http_url_like(file["path"]):
        raise gr.Error("`file` must be uploaded to this app. Got a web address. Try an upload.", print_exception=False)


class Blocks(gr.Blocks):
    """Answer arguments that a Gradio component refuses with a sentence and not with a traceback."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *arguments: Any, **keywords: Any) -> Any:
        traverse(inputs, refuse_web_address, is_file_obj)
        try:
            return await super().preprocess_data(block_fn, inputs, *arguments, **keywords)
        except gr.Error:
            raise
        except Exception:
            message = "An argument is invalid: it has a wrong type, or it is a file that was not uploaded here."
            raise gr.Error(f"{message} Try the types at the foot of the page.", print_exception=False) from None


class Data:
    """Return every page's data as plain mappings: the endpoints of the app."""

    def __init__(self, shelf: Shelf):
        self._shelf = shelf
        self.get, self.published = shelf.get, shelf.summaries

    @explain_errors
    def list_studies(self, study: str = "") -> dict:
        """List all published studies, and describe one: its models, counts, classes, variants and sizes.

        Args:
            study: `owner/name` or `owner/name/study` of a public dataset repo; the study of this Space if empty.

        Returns:
            `about` (repo, commit, models, counts, what is missing), `choices` (classes, variants, sizes) and
            `published`: all published studies, largest macro-F1 loss first.
        """
        chosen_study = self.get(study)
        return {
            "about": tables.about(chosen_study),
            "choices": tables.choices(chosen_study),
            "published": [asdict(summary) for summary in self.published()],
        }

    @explain_errors
    def read_verdict(
        self,
        study: str = "",
        macro_f1_loss: float | None = None,
        churn: float | None = None,
        min_class_f1: float | None = None,
    ) -> dict:
        """Return whether to train on a study's LLM labels: the verdict at your limits, its numbers, all findings.

        Args:
            study: `owner/name` or `owner/name/study` of a public dataset repo; the study of this Space if empty.
            macro_f1_loss: limit of the macro-F1 lost against gold labels, 0 to 1; the study's own if missing.
            churn: limit of the disagreement added between seeds, 0 to 1; the study's own if missing.
            min_class_f1: limit of the F1 of the worst class, 0 to 1; the study's own if missing.

        Returns:
            `decision` and `criteria` at these limits; `findings`, `more`, `limits` of the study; `variants`.
        """
        limits = {"macro_f1_loss": macro_f1_loss, "churn": churn, "min_class_f1": min_class_f1}
        return tables.verdict(self.get(study), {name: limit for name, limit in limits.items() if limit is not None})

    @explain_errors
    def read_labels(
        self,
        study: str = "",
        gold: str = "",
        llm: str = "",
        kind: Kind = "wrong",
        search: str = "",
        order: Order = "sure",
        variant: str = "",
        page: int = 1,
    ) -> dict:
        """Return training texts with gold and LLM labels, distribution, entropy and flips; confusion; risk-coverage.

        Args:
            study: `owner/name` or `owner/name/study` of a public dataset repo; the study of this Space if empty.
            gold: a gold class; all if empty.
            llm: a class that the LLM gives; all if empty.
            kind: wrong or right labels, all, flips (annotation passes differ) or changed (the variant differs).
            search: words in the text; all texts if empty.
            order: sure (most confident first), unsure or study (as published).
            variant: a variant whose labels to add, with why they differ; none if empty.
            page: number of the page; a page has 25 texts.

        Returns:
            `rows`, `found`, `pages`, `confusion`, `risk_coverage`.
        """
        return tables.labels(self.get(study), gold, llm, kind, search, order, variant, int(page))

    @explain_errors
    def read_predictions(
        self, study: str = "", variant: str = "", size: int = 0, only: Only = "flips", text: str = "", page: int = 1
    ) -> dict:
        """Return test texts on which classifiers of different seeds disagree, or all predictions of one text.

        Args:
            study: `owner/name` or `owner/name/study` of a public dataset repo; the study of this Space if empty.
            variant: the variant of the training labels; llm if empty.
            size: number of training texts; the largest if 0.
            only: flips (seeds disagree), worse (more than with gold labels), wrong (most seeds are wrong) or all.
            text: id of a test text whose predictions by all runs, sizes and variants to add; none if empty.
            page: number of the page; a page has 25 texts.

        Returns:
            `rows`, `found`, `pages`, `flipped`, and `one`: the predictions of `text`.
        """
        return tables.seeds(self.get(study), variant, int(size), only, text, int(page))

    @explain_errors
    def compare_variants(
        self, study: str = "", variant: str = "", against: str = "", size: int = 0, other: str = ""
    ) -> dict:
        """Compare the scores of two variants of the labels, or variants of two studies, and test their difference.

        Args:
            study: `owner/name` or `owner/name/study` of a public dataset repo; the study of this Space if empty.
            variant: the first variant; llm if empty.
            against: the second variant; if empty gold, or another variant without gold.
            size: number of training texts; the largest if 0.
            other: the study that `against` is from, as `owner/name`; the same study if empty.

        Returns:
            `sides`, `tests`, `notes`.
        """
        second = self.get(other) if other.strip() else None
        return comparison.compare(self.get(study), second, variant, against, int(size))

    @explain_errors
    def guess_labels(self, study: str = "", draw: int = 1, guesses: str = "") -> dict:
        """Return ten training texts to label. With your guesses, also gold, the LLM's labels and all scores.

        Args:
            study: `owner/name` or `owner/name/study` of a public dataset repo; the study of this Space if empty.
            draw: another number draws other texts.
            guesses: the class index of each text, joined by dots, as 0.2.1; none yet if empty.

        Returns:
            `texts`, `classes`, `llm_wrong`, `overall`, `score`, `guesses`, `link`.
        """
        return guess.play(self.get(study), int(draw), guesses)

    @explain_errors
    def show_code(self, study: str = "", variant: str = "llm") -> dict:
        """Return lines of code that load a study's labels, measure its runs again, and copy the whole study.

        Args:
            study: `owner/name` or `owner/name/study` of a public dataset repo; the study of this Space if empty.
            variant: the variant whose labels to load.

        Returns:
            `load_dataset`, `evaluate`, `hf_recipes`.
        """
        chosen_study = self.get(study)
        return code_lines(chosen_study, variant, self._shelf.folder_of(chosen_study))

    @explain_errors
    def measure_predictions(self, table: str) -> dict:
        """Measure how far several training runs agree, and their scores: labels or probabilities of one test set.

        Args:
            table: CSV with a column for each run and a row for each text; a column `gold` adds scores. Or JSON.

        Returns:
            `R`, `n`, `classes`, `differing` and `rows` (texts on which runs differ), `figures` (with intervals).
        """
        content = self.measure(None, table)
        del content["full"]  # It has a number for each text.
        return content

    @explain_errors
    def check_labels(self, table: str) -> dict:
        """Measure an LLM's labels against gold labels of the same texts.

        Args:
            table: CSV with the columns `gold` and `llm`; `text` and `probability` are optional.

        Returns:
            `right`, `n`, figures with intervals, `confusion`, `per_class`, `confusions` and `errors`.
        """
        return self.check(None, table)

    @explain_errors
    def measure(self, file: str | None, pasted: str) -> dict:
        """Measure predictions of several runs, labels or probabilities, with the metric modules.

        Args:
            file: .csv, .parquet or .json; see the page for its shape and limits.
            pasted: a table or JSON, if there is no file.

        Returns:
            as `measure_predictions`, and `full`, all that each module returned.
        """
        # Gradio's own kind of string would make the reading process import Gradio.
        path = None if file is None else str(file)
        return measuring.measure(limited.call("uploads.read", path, pasted))

    @explain_errors
    def check(self, file: str | None, pasted: str) -> dict:
        """Measure an LLM's labels against gold in a CSV table.

        Args:
            file: .csv with columns of gold and LLM labels; see the page for their names.
            pasted: a CSV table, if there is no file.

        Returns:
            as `check_labels`.
        """
        return check_labels.measure(check_labels.read(None if file is None else str(file), pasted))
