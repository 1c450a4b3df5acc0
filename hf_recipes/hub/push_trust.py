"""Open a pull request on the dataset that was judged: a section of its card, and trust.json."""

from pathlib import Path

from .. import __version__
from ..analysis.schema import Results
from ..errors import UserError, first_line
from ..report.first_screen import describe_headline
from ..report.first_screen.content import describe_labels
from ..report.render import render
from ..report.tables import SCORES, make_summary, tabulate
from ..report.trust import make_trust
from ..source import is_url
from ..study import Study
from .bundle import HOME
from .card import add_section
from .commit import Change, Target, after_commit, check_files, commit, log_change


def check_push(dataset: str) -> None:
    """Raise `UserError`, before any work, unless the dataset is on the Hub and the user is logged in there."""
    if Path(dataset).exists() or is_url(dataset):
        raise UserError(f"`--push` requires a dataset on the Hub. Got {dataset}. Publish it first, then name its repo.")
    from huggingface_hub import HfApi

    try:
        HfApi().whoami()
    except Exception as error:  # the Hub's own errors, and all that a network can do
        reason = first_line(error)
        raise UserError(f"`--push` requires a login at the Hub. Got: {reason} Try hf auth login.") from None


def push_trust(study: Study, results: Results, file: Path, command: str) -> str:
    """Open a pull request on the repo of the study's dataset. An open one with the same content counts.

    Args:
        study (`Study`), results (`Results`):
            A measured study of a dataset on the Hub (`check_push`), and its results.
        file (`Path`):
            Its trust.json.
        command (`str`):
            What made it, for the card.

    Returns:
        `str`: the address of the pull request.

    Raises:
        UserError: the Hub refuses.
    """
    name = study.recipe.name
    target = Target(study.recipe.data.path, "dataset", f"{name}: can the labels be trusted?", "main", create_pr=True)
    path = f"{HOME}/{name}/{file.name}"
    trust, level = make_trust(study, results), f"{results.confidence_level:.0%}"
    num_gold = results.at_top["llm"].n_gold
    covered = "" if num_gold == results.n else f", of which {num_gold:,} have a gold label for macro-F1"
    section = render(
        "trust_card.md",
        trust=trust,
        headline=describe_headline(results),
        limits=make_summary(results)[0],
        labels=describe_labels(results),
        classifiers=results.classifiers,
        scores=tabulate(
            "Classifiers by their training labels",
            results.at_top.values(),
            {"training labels": "variant", "gold labels": lambda result: f"{result.gold_labels:,}", **SCORES},
            note=f"{level} intervals, {results.R} seeds, {results.n:,} test texts{covered}.",
        ),
        lines={name: results.lines[name] for name in results.at_top},
        path=path,
        command=command,
        version=__version__,
    )

    def plan() -> Change:
        head, _ = target.list_files()
        card = add_section(target.read("README.md", head), name, section)
        return Change(head, {"README.md": card.encode(), path: file}, [], [])

    address, sha, change = commit(target, plan)
    with after_commit(target, address):
        check_files(target, sha, change)
    log_change(target, sha, change)
    return address
