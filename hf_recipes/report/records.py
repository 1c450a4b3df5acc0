"""Define what a page consists of. Templates and the terminal only loop over these records."""

from dataclasses import dataclass
from typing import NamedTuple

from .first_screen import Headline


class Finding(NamedTuple):
    """A finding in words, under a title of a few words."""

    title: str
    text: str


class Figure(NamedTuple):
    """A figure as SVG, and its caption."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Findings:
    """The report in words.

    Attributes:
        findings (`list[Finding]`): those of the first page, the verdict first.
        more (`list[Finding]`): those of the pages after it.
        limits (`list[str]`): what cannot be concluded.
    """

    findings: list[Finding]
    more: list[Finding]
    limits: list[str]


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes:
        title (`str`): the heading above it.
        columns (`list[str]`), rows (`list[list[str]]`): the names of the columns, and a cell for each of them.
        caption (`str`), note (`str`): the sentences above and below the rows.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    caption: str = ""
    note: str = ""


@dataclass(frozen=True)
class Report(Findings):
    """The whole report.

    Attributes:
        title (`str`): the name of the page.
        headline (`Headline`): the verdict in words.
        summary (`list[Table]`): the tables of the first screen: limits, the LLM's labels, and kinds of labels.
        best (`str`): what the best remedy gains; empty without one.
        unknown (`list[str]`): what the study leaves open, in a few lines.
        figures (`dict[str, Figure]`): by the name of their files.
        tables (`list[Table]`): all other tables.
        methods (`str`): a paragraph to paste.
    """

    title: str
    headline: Headline
    summary: list[Table]
    best: str
    unknown: list[str]
    figures: dict[str, Figure]
    tables: list[Table]
    methods: str
