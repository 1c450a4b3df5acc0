"""The card of a dataset repo, in which other people's lines stay as they are: text in, text out."""

import re
from typing import Any

import yaml

from .recipe import UserError, parse_yaml

#: As the Hub finds it: white space and a byte order mark may stand before the first fence.
FRONT = re.compile(r"\A(\ufeff?\s*---[ \t]*\r?\n)(.*?)(^---[ \t]*(?:\r?\n|\Z))", re.DOTALL | re.MULTILINE)


def split_card(card: str) -> tuple[str, str]:
    """The YAML of a card, without its fences, and what follows."""
    found = FRONT.match(card)
    return (found[2], card[found.end() :]) if found else ("", card)


def read_front(card: str) -> dict[str, Any]:
    """The YAML of a card.

    Raises:
        UserError: it cannot be read, or is no mapping with a list of configs.
    """
    try:
        front = parse_yaml(split_card(card)[0]) or {}
    except ValueError:
        raise UserError("the repo's README.md has YAML that cannot be read; mend it first") from None
    configs = front.get("configs") or [] if isinstance(front, dict) else None
    if not isinstance(configs, list) or not all(isinstance(entry, dict) for entry in configs):
        raise UserError("the repo's README.md has YAML that is no mapping with a list of configs; mend it first")
    return front


def merge_card(
    card: str,
    study: str,
    entries: list[dict[str, Any]],
    replaced: list[str],
    kept: list[dict[str, Any]],
    default: str,
    made: str,
) -> str:
    """A card with a study's configs and section, in place of those that it had.

    Everything else stays byte for byte, but for one line: where a single config of somebody else's was loaded without
    its name, it is given `default: true`, so that it still is.

    Args:
        card (`str`):
            As it is; empty for a new repo.
        study (`str`):
            The study's name, in the marks round its section.
        entries (`list[dict]`):
            Its configs.
        replaced (`list[str]`):
            The names of those it had before.
        kept (`list[dict]`):
            The config as which a repo without configs has been loaded; added once.
        default (`str`):
            The config of the study that is loaded without a name, in a repo that holds no other configs.
        made (`str`):
            The study's own card: of a new repo the YAML is taken, of any the text.

    Raises:
        UserError: the card's YAML cannot be read, or has its configs in brackets.
    """
    newline = "\r\n" if "\r\n" in card else "\n"
    own_front, own_text = split_card(made)
    front, text = split_card(card)
    if not card.strip():
        front, text = re.sub(r"^configs:\n(?:[ -].*\n)*", "", own_front, flags=re.MULTILINE), ""
    whole = read_front(card) if card.strip() else yaml.safe_load(front)
    fences = FRONT.match(card)
    before, items, tails, after = _split_configs(front, whole, newline)
    try:
        read = [yaml.safe_load(item)[0] for item in items]
    except yaml.YAMLError:
        raise UserError("the repo's README.md has configs that refer to each other; write them out first") from None
    names = [str(entry.get("config_name")) for entry in read]
    ours = {*replaced, *(entry["config_name"] for entry in entries)}
    foreign = [(name, item) for name, item in zip(names, items, strict=True) if name not in ours]
    had = [entry for entry in read if str(entry.get("config_name")) in ours]
    settled = any(entry.get("default") for entry in had) or any("default" in entry for entry in read)
    if len(foreign) == 1 and foreign[0][0] != "default" and not settled:
        name, item = foreign[0]
        foreign = [(name, re.sub(r"^(.*?)(config_name:.*?)(\r?\n|\Z)", _with_default, item, count=1, flags=re.DOTALL))]
    indent = re.match(r"\s*", items[0])[0] if items else ""  # type: ignore[index]
    if (not foreign and not kept) or any(entry.get("default") for entry in had):
        entries = [{**entry, **({"default": True} if entry["config_name"] == default else {})} for entry in entries]

    def dump(entry: dict[str, Any]) -> str:
        lines = yaml.safe_dump([entry], sort_keys=False, allow_unicode=True, width=1000).splitlines()
        return "".join(f"{indent}{line}{newline}" for line in lines)

    theirs, mine = dict(foreign), {entry["config_name"]: dump(entry) for entry in entries}
    block = [theirs.get(name) or mine.pop(name, "") for name in names]  # each where it was
    block = [item + newline if item and not item.endswith("\n") else item for item in block]
    added = "".join([*map(dump, kept), *mine.values()])
    last_tail = tails.pop() if tails else ""
    held = "".join(item + tail for item, tail in zip(block, [*tails, ""], strict=True)) if block else ""
    front = f"{before}{held}{added}{last_tail}{after}"
    _check(whole, yaml.safe_load(front), ours, kept)
    first, last = (fences[1], fences[3]) if fences else (f"---{newline}", f"---{newline}")
    return f"{first}{front}{last}{_with_section(text, study, own_text, newline)}"


def _with_default(found: re.Match[str]) -> str:
    column = re.sub(r"[^\s]", " ", found[1].rsplit("\n", 1)[-1])
    return f"{found[1]}{found[2]}{found[3] or chr(10)}{column}default: true{found[3] or chr(10)}"


def _split_configs(front: str, whole: dict[str, Any], newline: str) -> tuple[str, list[str], list[str], str]:
    """What stands before the first config, the configs, the comments after each of them, and what stands after."""
    lines = front.splitlines(keepends=True)
    places = [i for i, line in enumerate(lines) if re.match(r"configs[ \t]*:", line)]
    if not places:
        return f"{front}{newline if front and not front.endswith(newline) else ''}configs:{newline}", [], [], ""
    place = places[0]
    if whole.get("configs") and not re.match(r"configs[ \t]*:[ \t]*(#.*)?\r?\n", lines[place]):
        raise UserError("the repo's README.md has its configs in brackets; write them one below the other first")
    if not whole.get("configs"):
        return f"{''.join(lines[:place])}configs:{newline}", [], [], "".join(lines[place + 1 :])
    end = next((i for i in range(place + 1, len(lines)) if re.match(r"[^\s#-]", lines[i])), len(lines))
    body = lines[place + 1 : end]
    first = next(line for line in body if line.lstrip().startswith("-"))
    start = first[: len(first) - len(first.lstrip())] + "-"
    starts = [i for i, line in enumerate(body) if line.startswith(start)]
    items, tails = [], []
    for here, there in zip(starts, [*starts[1:], len(body)], strict=True):
        stop = max(i for i in range(here, there) if body[i].strip() and not body[i].lstrip().startswith("#")) + 1
        items.append("".join(body[here:stop]))
        tails.append("".join(body[stop:there]))
    head = "".join([*lines[: place + 1], *body[: starts[0]]])
    return head, items, tails, "".join(lines[end:])


def _check(before: dict[str, Any], after: dict[str, Any], ours: set[str], kept: list[dict[str, Any]]) -> None:
    """Nothing but the study's configs, and a `default`, may differ."""

    def others(front: dict[str, Any]) -> list[dict[str, Any]]:
        found = [entry for entry in front.get("configs") or [] if entry.get("config_name") not in ours]
        return [{name: value for name, value in entry.items() if name != "default"} for entry in found]

    rest = [{name: value for name, value in front.items() if name != "configs"} for front in (before, after)]
    if rest[0] != rest[1] or others(before) + kept != others(after):
        raise UserError("the repo's README.md has YAML that cannot be added to; write its configs in block style")


def _with_section(text: str, study: str, section: str, newline: str) -> str:
    begin, end = f"<!-- hf-recipes {study}: begin -->", f"<!-- hf-recipes {study}: end -->"
    section = section.strip().replace("<!-- hf-recipes", "<! -- hf-recipes").replace("\r", "").replace("\n", newline)
    marked = f"{begin}{newline}{section}{newline}{end}"
    first, last = text.find(begin), text.find(end)
    if text.count(begin) != text.count(end) or text.count(begin) > 1 or last < first:
        raise UserError(f"the repo's README.md has one of the marks of {study} without the other; mend it first")
    if 0 <= first < last:
        return text[:first] + marked + text[last + len(end) :]
    gap = "" if not text else newline if text.endswith("\n") else 2 * newline
    return f"{text}{gap}{marked}{newline}"
