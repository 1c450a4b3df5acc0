"""Write the parts of pages as HTML. Every string of a study or an upload goes through `safe`, which escapes it."""

import html
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from first_screen.numbers import interval, number

#: Colours of classes, which the colour-blind can distinguish. The colour of warnings is not among them.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#999999", "#B8860B", "#6A51A3"]
TAG = re.compile("<[^>]*>")
TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\0")


def safe(value: Any) -> str:
    """Escape text for HTML. Characters that turn the direction of writing become visible."""
    text = "" if value is None else str(value)
    return html.escape("".join("\N{REPLACEMENT CHARACTER}" if c in TURNING else c for c in text))


def estimate(value: float | None, bounds: Sequence[float] | None) -> str:
    """Write a number with its interval."""
    return f"{number(value, bounds)} <i>{interval(bounds)}</i>" if bounds else number(value)


def table(head: list[str], rows: list[list[str]], label: str, kind: str = "") -> str:
    """Write a table that scrolls in its own box, also by keyboard. On a phone each row is a block of named cells.

    Titles and cells are HTML already.
    """
    if not rows:
        return '<p class="nothing">Nothing to show.</p>'
    top = "".join(f'<th scope="col">{title}</th>' for title in head)
    body = ""
    for row in rows:
        cells = [f'<td data-name="{TAG.sub(" ", name)}">{cell}</td>' for name, cell in zip(head, row, strict=True)]
        body += f"<tr>{''.join(cells)}</tr>"
    return (
        f'<div class="sheet {kind}" tabindex="0" role="region" aria-label="{safe(label)}">'
        f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def notes(sentences: list[str]) -> str:
    return "".join(f'<p class="note">{safe(sentence)}</p>' for sentence in sentences)


def notice(text: str) -> str:
    return f'<p class="notice" role="status">{safe(text)}</p>' if text else ""


def pick(key: str, content: str, kind: str = "pick", attributes: str = "") -> str:
    """Write a button that reports its key to the page. Content and attributes are HTML already."""
    return f'<button class="{kind}" data-id="{safe(key)}" dir="auto" {attributes}>{content}</button>'


def pressed(is_pressed: bool) -> str:
    return f'aria-pressed="{str(is_pressed).lower()}"'


def definitions(pairs: list[tuple[str, str]]) -> str:
    """Write terms with their texts."""
    rows = "".join(f"<dt>{safe(head.rstrip('.'))}</dt><dd>{safe(text)}</dd>" for head, text in pairs)
    return f'<dl class="found">{rows}</dl>'


def folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>" if content else ""


def colour(index: int) -> str:
    """Return the colour of a class. After the palette, neighbours are far apart in hue."""
    if index < len(COLOURS):
        return COLOURS[index]
    return f"hsl({index * 137.508 % 360:.1f} {45 + index % 3 * 15}% {40 + index % 4 * 8}%)"


def chip(name: str | None, names: list[str], count: str = "", title: str = "") -> str:
    """Write a class: its colour, its name and, if there is one, a count."""
    if name is None:
        return '<span class="chip none">–</span>'
    more = f" <b>{count}</b>" if count else ""
    return (
        f'<span class="chip" style="--class:{colour(names.index(name))}" title="{safe(title or name)}">'
        f"{safe(name)}{more}</span>"
    )


def votes(labels: list[str | None], names: list[str], titles: list[str] | None = None) -> str:
    """Write the labels of several runs or passes, with their counts. Titles describe each run."""
    chips = []
    for name, count in Counter(labels).most_common():
        runs = [title for title, label in zip(titles, labels, strict=True) if label == name] if titles else []
        chips.append(chip(name, names, f"×{count}", "; ".join(runs)))
    return f'<span class="strip">{"".join(chips)}</span>'


def bar(probs: list[float], names: list[str]) -> str:
    """Write a distribution as a bar with the largest probabilities in words."""
    parts = "".join(
        f'<i style="width:{100 * p:.1f}%;background:{colour(k)}"></i>' for k, p in enumerate(probs) if p >= 0.005
    )
    top = sorted(range(len(probs)), key=lambda k: -probs[k])[:3]
    text = ", ".join(f"{names[k]} {probs[k]:.2f}" for k in top)
    attributes = f'role="img" aria-label="{safe(text)}" title="{safe(text)}"'
    return f'<div class="mass" {attributes}>{parts}</div><small>{safe(text)}</small>'
