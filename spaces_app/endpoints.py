"""Return every page's data as plain mappings: the endpoints of the app, which answer a wrong argument in a sentence."""

import functools
import html
import inspect
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import check_labels
import comparison
import gradio as gr
import guess
import limited
import measuring
import tables
from code_lines import code_lines
from published import UnreadableError
from shelf import Shelf
from uploads import UploadError

MAX_NUMBER = 10**9  # of an argument


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


class Blocks(gr.Blocks):
    """Answer arguments that a Gradio component refuses with a sentence and not with a traceback."""

    async def preprocess_data(self, *arguments: Any, **keywords: Any) -> Any:
        try:
            return await super().preprocess_data(*arguments, **keywords)
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
    def studies(self, study: str = "") -> dict:
        """Describe a study, the values of its filters, and all published studies.

        Args:
            study: `owner/name` of a dataset repo, or `owner/name/study`; the study of this Space if empty.

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
    def verdict(self, study: str = "") -> dict:
        """Return the verdict, its numbers with intervals, and every variant and size.

        Args:
            study: as in /studies.

        Returns:
            `decision`, `criteria`, `findings`, `more`, `limits`, `variants`.
        """
        return tables.verdict(self.get(study))

    @explain_errors
    def labels(
        self,
        study: str = "",
        gold: str = "",
        llm: str = "",
        kind: str = "wrong",
        search: str = "",
        order: str = "sure",
        variant: str = "",
        page: int = 1,
    ) -> dict:
        """Return training texts with gold and LLM labels, distribution, entropy and flips; confusion; risk-coverage.

        Args:
            study: as in /studies.
            gold: a gold class; all if empty.
            llm: a class that the LLM gives; all if empty.
            kind: wrong, right, all, flips or changed.
            search: words in the text.
            order: sure, unsure or study.
            variant: whose labels to add, with why they differ.
            page: of 25 texts.

        Returns:
            `rows`, `found`, `pages`, `confusion`, `risk_coverage`.
        """
        return tables.labels(self.get(study), gold, llm, kind, search, order, variant, int(page))

    @explain_errors
    def seeds(
        self, study: str = "", variant: str = "", size: int = 0, only: str = "flips", text: str = "", page: int = 1
    ) -> dict:
        """Return test texts on which the seeds of a variant disagree, and one text over all runs.

        Args:
            study: as in /studies.
            variant: of the labels; llm if empty.
            size: training texts; the largest if 0.
            only: flips, worse, wrong or all.
            text: id of a test text to be shown over all runs, sizes and variants.
            page: of 25 texts.

        Returns:
            `rows`, `found`, `pages`, `flipped`, `one`.
        """
        return tables.seeds(self.get(study), variant, int(size), only, text, int(page))

    @explain_errors
    def compare(self, study: str = "", variant: str = "", against: str = "", size: int = 0, other: str = "") -> dict:
        """Compare two variants, or variants of two studies, and test their difference.

        Args:
            study: as in /studies.
            variant: the first; llm if empty.
            against: the second; if empty gold, or another variant without gold.
            size: training texts; the largest if 0.
            other: the study that `against` is from; the same if empty.

        Returns:
            `sides`, `tests`, `notes`.
        """
        second = self.get(other) if other.strip() else None
        return comparison.compare(self.get(study), second, variant, against, int(size))

    @explain_errors
    def measure(self, file: str | None, pasted: str) -> dict:
        """Measure predictions of several runs, labels or probabilities, with the metric modules.

        Args:
            file: .csv, .parquet or .json; see the page for its shape and limits.
            pasted: a table or JSON, if there is no file.

        Returns:
            `R`, `n`, `classes`, `differing` and `rows` (texts on which runs differ), `figures` (with intervals) and
            `full`, all that each module returned.
        """
        # Gradio's own kind of string would make the reading process import Gradio.
        path = None if file is None else str(file)
        return measuring.measure(limited.call("uploads.read", path, pasted))

    @explain_errors
    def guess(self, study: str = "", draw: int = 1, guesses: str = "") -> dict:
        """Return ten training texts to label. With guesses, also gold, the LLM's labels and both scores.

        Args:
            study: as in /studies.
            draw: another number draws other texts.
            guesses: the class index of each text, joined by dots, as 0.2.1; none yet if empty.

        Returns:
            `texts`, `classes`, `llm_wrong`, `overall`, `score`, `guesses`, `link`.
        """
        return guess.play(self.get(study), int(draw), guesses)

    @explain_errors
    def check(self, file: str | None, pasted: str) -> dict:
        """Measure an LLM's labels against gold in a CSV table.

        Args:
            file: .csv with columns of gold and LLM labels; see the page for their names.
            pasted: a CSV table, if there is no file.

        Returns:
            `right`, `n`, figures with intervals, `confusion`, `per_class`, `confusions` and `errors`.
        """
        return check_labels.measure(check_labels.read(None if file is None else str(file), pasted))

    @explain_errors
    def use(self, study: str = "", variant: str = "llm") -> dict:
        """Return lines of code that load a study and measure its runs again.

        Args:
            study: as in /studies.
            variant: whose config.

        Returns:
            `load_dataset`, `evaluate`, `hf_recipes`.
        """
        chosen_study = self.get(study)
        return code_lines(chosen_study, variant, self._shelf.folder_of(chosen_study))
