"""Define what a page consists of. Templates and the terminal only loop over these records."""

from dataclasses import dataclass
from typing import NamedTuple


class Finding(NamedTuple):
    """A finding in words, under a title of a few words."""

    title: str
    text: str


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
        title (`str`): the heading of the page.
        figures (`dict[str, str]`), more_figures (`dict[str, str]`): captions by the name of the image, on the first
            page and after it.
        summary (`Table`), tables (`list[Table]`): the table of the first page, and all others.
        methods (`str`): a paragraph to paste.
    """

    title: str
    figures: dict[str, str]
    more_figures: dict[str, str]
    summary: Table
    tables: list[Table]
    methods: str
