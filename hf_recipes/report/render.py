"""Render what the report and the other pages consist of: Markdown and HTML by templates, the terminal by rich."""

import html
import re
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, select_autoescape

from ..hashing import hash_files
from ..study import PACKAGE
from .records import Table

if TYPE_CHECKING:
    from rich.console import Console

TEMPLATES = PACKAGE / "templates"

# An interval in the middle of a line is no link unless a target follows, so it can be shown without backslashes.
INTERVAL = r"(?<=\S )\[(?:-?[\d.]+, -?[\d.]+|not defined)\](?![(\[:])"
MARKUP = re.compile(rf"({INTERVAL})|([\\`*_\[\]!|~#])")


def code(text: str) -> str:
    """Return a name as a code span that remains one in Markdown, tables included."""
    return "`{}`".format(" ".join(str(text).split()).replace("`", "'").replace("|", "\\|"))


def cell(text: str) -> str:
    """Return text that is safe in Markdown, tables included: without markup, links and images."""
    line = html.escape(" ".join(str(text).split()), quote=False)
    safe = MARKUP.sub(lambda match: match[1] or f"\\{match[2]}", line)
    return safe.replace("://", "&#58;//").replace("www.", "www&#46;")


def hash_code() -> list[str]:
    """Return the identity of the code and the templates that write pages: part of every page's key."""
    return [hash_files(TEMPLATES), hash_files(PACKAGE / "report", ("*.py", "*.html", "*.css"))]


def render(template: str, **content: Any) -> str:
    """Return a page. Jinja escapes HTML; in Markdown, the filter `cell` escapes."""
    style = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    style.filters |= {"cell": cell, "code": code}
    return style.get_template(template).render(content)


def make_console() -> "Console":
    """Return a console that prints text as it is, 120 columns wide where it writes to a file."""
    from rich.console import Console

    return Console(width=None if Console().is_terminal else 120, markup=False, highlight=False)


def print_table(console: "Console", table: Table) -> None:
    """Print a table as wide as its content: no number is cut off. Numbers are aligned on the right."""
    from rich import table as rich_table
    from rich.box import SIMPLE_HEAD
    from rich.console import Console

    grid = rich_table.Table(title=table.title, box=SIMPLE_HEAD)
    for place, column in enumerate(table.columns):
        is_text = any(re.match(r"[A-Za-z]", row[place]) for row in table.rows)
        grid.add_column(column, justify="left" if is_text else "right", no_wrap=not is_text)
    for row in table.rows:
        grid.add_row(*row)
    grid.width = Console(width=1000).measure(grid).maximum
    console.print(grid, crop=False)
