"""Merge a study into the card of a dataset repo, which keeps all its other lines: text in, text out."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK  # the Hub's own rule for where the YAML of a card ends

from ..errors import UserError
from ..parsing import parse_yaml

BOM = "\ufeff"  # the Hub and its client skip it
LINE = re.compile(r"[^\r\n\x85\u2028\u2029]*(?:\r\n|[\r\n\x85\u2028\u2029]|\Z)")  # as YAML ends lines


@dataclass(frozen=True)
class Node:
    """A value in the YAML of a card, with its place there.

    Attributes:
        event (`yaml.NodeEvent`): where it starts, and in which style.
        children (`list[Node]`): the items of a list; a mapping's keys and values in turn.
        end (`int`): where its last value ends. Comments and blank lines after it are not part of it.
    """

    event: Any
    children: list["Node"]
    end: int


@dataclass(frozen=True)
class Configs:
    """Where the configs of a card's YAML are.

    Attributes:
        nodes (`list[Node]`): the configs.
        places (`list[tuple[int, int]]`): of each the start of its first line, and of the line after it.
        first (`int`): the place of the first config in a card without configs.
        indent (`str`): before each dash.
    """

    nodes: list[Node]
    places: list[tuple[int, int]]
    first: int
    indent: str


def split_card(card: str) -> tuple[str, str]:
    """Return the YAML of a card, without its fences, and the text after it."""
    card = card.removeprefix(BOM)
    block = REGEX_YAML_BLOCK.match(card)
    return (block[2], card[block.end() :]) if block else ("", card)


def read_front(card: str) -> dict[str, Any]:
    """Return the YAML of a card.

    Raises:
        UserError: it is not valid, or not a mapping with a list of configs.
    """
    try:
        front = parse_yaml(split_card(card)[0] + "\n") or {}
    except ValueError:
        raise UserError("the repo's README.md must start with valid YAML. Correct it first.") from None
    configs = front.get("configs") or [] if isinstance(front, dict) else None
    if not isinstance(configs, list) or not all(isinstance(entry, dict) for entry in configs):
        raise UserError("the YAML of the repo's README.md must be a mapping with a list of configs. Correct it first.")
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
    """Return a card with a study's configs and section, in place of those that it had.

    All other bytes are kept, with one exception: a single foreign config, which is loaded without its name,
    gets `default: true`, so that it still is.

    Args:
        card (`str`):
            As it is; empty for a new repo.
        study (`str`):
            The study's name, in the marks round its section.
        entries (`list[dict]`):
            Its configs.
        replaced (`list[str]`):
            The names of its configs in the last push.
        kept (`list[dict]`):
            The config as which `datasets` loads a repo without configs; added once.
        default (`str`):
            The config of the study that is loaded without a name, in a repo that holds no other configs.
        made (`str`):
            The study's own card: of a new repo the YAML is taken, of any the text.

    Raises:
        UserError: the card's YAML is not valid, or its configs are not one below the other.
    """
    newline = "\r\n" if "\r\n" in card else "\n"
    own_front, own_text = split_card(made)
    whole, (front, text) = read_front(card), split_card(card)
    opening = closing = f"---{newline}"
    if block := REGEX_YAML_BLOCK.match(card.removeprefix(BOM)):
        # The line break before the closing fence ends the last line of the YAML. The fence may end the card without a
        # line break, and what follows it must not share its line.
        line_break = "\r\n" if block[3].startswith("\r\n") else block[3][0]
        opening, front, closing = block[1], front + line_break, block[3].removeprefix(line_break)
        closing += "" if block[4] else newline
    elif not card.strip():
        front = re.sub(r"^configs:\n(?:[ -].*\n)*", "", f"{own_front}\n", flags=re.MULTILINE)
        whole = yaml.safe_load(front)

    configs = whole.get("configs") or []
    names = [str(entry.get("config_name")) for entry in configs]
    ours = {*replaced, *(entry["config_name"] for entry in entries)}
    foreign = [i for i, name in enumerate(names) if name not in ours]
    was_default = any(entry.get("default") for i, entry in enumerate(configs) if i not in foreign)
    if was_default or not (foreign or kept):
        entries = [{**entry, "default": True} if entry["config_name"] == default else entry for entry in entries]
    is_alone = len(foreign) == 1 and names[foreign[0]] != "default"
    has_default = any("default" in entry for entry in configs)

    # Each config keeps its place, and new ones follow the last.
    front, lines = _find_configs(front, len(configs), newline)
    new_entries = {entry["config_name"]: entry for entry in entries}
    here = 0 if configs else lines.first
    pieces, expected = [front[:here]], []
    for i, (node, (start, end)) in enumerate(zip(lines.nodes, lines.places, strict=True)):
        pieces.append(front[here:start])
        here = end
        if i in foreign and is_alone and not has_default:
            pieces.append(_with_default(front, node, start, end, newline))
            expected.append({**configs[i], "default": True})
        elif i in foreign:
            pieces.append(front[start:end])
            expected.append(configs[i])
        elif names[i] in new_entries:
            expected.append(new_entries.pop(names[i]))
            pieces.append(_dump(expected[-1], lines.indent, newline))
    added = [*kept, *new_entries.values()]
    pieces += [_dump(entry, lines.indent, newline) for entry in added]
    merged = f"{opening}{''.join(pieces)}{front[here:]}{closing}{_with_section(text, study, own_text, newline)}"

    # Not all YAML can be extended line by line, so what the Hub will read is compared with what it should read.
    try:
        after = read_front(merged)
    except UserError:
        after = {}
    if after != {**whole, "configs": [*expected, *added]}:
        raise _not_in_lines()
    return (BOM if card.startswith(BOM) else "") + merged


def merge_model_card(card: str, study: str, made: str) -> str:
    """Return the card of a model repo with a study's metadata and section, in place of those that it had.

    Other keys, other tags and the text outside the section are kept.

    Args:
        card (`str`):
            As it is; empty for a new repo.
        study (`str`):
            The study's name, in the marks round its section.
        made (`str`):
            The study's own card.

    Raises:
        UserError: the card's YAML is not valid, or the section has one mark.
    """
    own_front, own_text = split_card(made)
    before, own = read_front(card), yaml.safe_load(own_front)
    tags = before.get("tags") or []
    own["tags"] = list(dict.fromkeys([*([tags] if isinstance(tags, str) else tags), *own["tags"]]))
    front = yaml.safe_dump({**before, **own}, sort_keys=False, allow_unicode=True)
    newline = "\r\n" if "\r\n" in card else "\n"
    return f"---\n{front}---\n{_with_section(split_card(card)[1], study, own_text, newline)}"


def add_section(card: str, study: str, section: str) -> str:
    """Return a card with a study's section at its end, or in place of the one that it had. All other bytes are kept.

    Args:
        card (`str`):
            As it is; empty for a repo without one.
        study (`str`):
            The study's name, in the marks round its section.
        section (`str`):
            Markdown.

    Raises:
        UserError: the section has one mark.
    """
    return _with_section(card, study, section, "\r\n" if "\r\n" in card else "\n")


def _not_in_lines() -> UserError:
    return UserError(
        "the YAML of the repo's README.md must have one key a line and, under `configs:`, one item with a dash after "
        "the other. Rewrite it that way first."
    )


def _find_configs(front: str, count: int, newline: str) -> tuple[str, Configs]:
    """Find the configs in the YAML of a card. Without any, return the YAML with a line `configs:` to put them after."""
    events = iter(
        [event for event in yaml.parse(front) if isinstance(event, (yaml.NodeEvent, yaml.CollectionEndEvent))]
    )
    first = next(events, None)
    children = _read_node(first, events).children if first else []
    pairs = zip(children[::2], children[1::2], strict=False)  # a list is refused in the end
    configs = next(((key, node) for key, node in pairs if getattr(key.event, "value", None) == "configs"), None)
    margin = " " * children[0].event.start_mark.column if children else ""
    if configs is None:
        front = f"{front}{margin}configs:{newline}"
        return front, Configs([], [], len(front), margin)
    key, node = configs
    if not count:  # null or an empty list, which goes
        start = node.event.start_mark.index
        front = front[:start] + front[node.end :]
        return front, Configs([], [], _next_line(front, start), margin)
    if node.event.flow_style or len(node.children) != count:
        raise _not_in_lines()
    places = []
    end = _next_line(front, key.end)
    for child in node.children:
        # Between two configs are comments, blank lines and, last, the line with the dash.
        start = end
        while not (line := front[start : _next_line(front, start)]).lstrip(" ").startswith("-"):
            start += len(line)
            if start > child.event.start_mark.index:
                raise _not_in_lines()
        end = child.end if front[child.end - 1] in "\r\n\x85\u2028\u2029" else _next_line(front, child.end)
        places.append((start, end))
    first_line = front[places[0][0] :]
    return front, Configs(node.children, places, 0, first_line[: len(first_line) - len(first_line.lstrip(" "))])


def _next_line(front: str, place: int) -> int:
    return LINE.match(front, place).end()  # type: ignore[union-attr]  # it matches the empty string


def _read_node(event: Any, events: Iterator[Any]) -> Node:
    """Read a value from its first event on."""
    children: list[Node] = []
    end: int = event.end_mark.index
    if isinstance(event, yaml.CollectionStartEvent):
        for inner in events:
            if isinstance(inner, yaml.CollectionEndEvent):
                # PyYAML reports the end of a block where the next one starts, so its last value counts.
                last = inner.end_mark if event.flow_style else None
                end = last.index if last else children[-1].end if children else end
                break
            children.append(_read_node(inner, events))
    return Node(event, children, end)


def _with_default(front: str, node: Node, start: int, end: int, newline: str) -> str:
    """Return the lines of a config with `default: true`."""
    if node.event.flow_style:
        brace = node.event.end_mark.index
        return f"{front[start:brace]}default: true, {front[brace:end]}"
    column = node.children[0].event.start_mark.column if node.children else 0
    return f"{front[start:end]}{' ' * column}default: true{newline}"


def _dump(entry: dict[str, Any], indent: str, newline: str) -> str:
    lines = yaml.safe_dump([entry], sort_keys=False, allow_unicode=True, width=1000).splitlines()
    return "".join(f"{indent}{line}{newline}" for line in lines)


def _with_section(text: str, study: str, section: str, newline: str) -> str:
    begin, end = f"<!-- hf-recipes {study}: begin -->", f"<!-- hf-recipes {study}: end -->"
    section = section.strip().replace("<!-- hf-recipes", "<! -- hf-recipes").replace("\r", "").replace("\n", newline)
    marked = f"{begin}{newline}{section}{newline}{end}"
    first, last = text.find(begin), text.find(end)
    if text.count(begin) != text.count(end) or text.count(begin) > 1 or last < first:
        raise UserError(
            f"the repo's README.md has one of the marks of {study} without the other. Correct the card first."
        )
    if 0 <= first < last:
        return text[:first] + marked + text[last + len(end) :]
    gap = "" if not text else newline if text.endswith("\n") else 2 * newline
    return f"{text}{gap}{marked}{newline}"
