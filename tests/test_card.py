"""Cards: other people's lines stay as they are."""

import re

import pytest
import yaml
from huggingface_hub import DatasetCard
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_recipes.errors import UserError
from hf_recipes.hub.card import merge_card, split_card

MADE = (
    "---\nlicense: mit\nconfigs:\n- config_name: llm\n  data_files: x\ntags:\n- a\n---\n"
    "# Study\n\nwords <!-- hf-recipes s: end --> here\n"
)


def entries(*names):
    return [{"config_name": name, "data_files": [{"split": "train", "path": f"data/{name}/*"}]} for name in names]


def merge(card, *names, replaced=(), kept=(), study="s"):
    return merge_card(card, study, entries(*names), list(replaced), list(kept), "llm", MADE)


def configs(card):
    return {entry["config_name"]: entry for entry in yaml.safe_load(split_card(card)[0])["configs"]}


THEIRS = """---
# a comment of theirs
license: cc-by-4.0   # why not
configs:
  - config_name: theirs   # their words
    data_files: "raw/*.csv"
    default: true

  - {config_name: other, data_files: other.csv}
language: [en,   de]
---
# Their card

Their text, with a table | a | b |
"""


def test_a_new_repo_gets_the_whole_card_and_a_default():
    card = merge("", "gold", "llm")
    front = yaml.safe_load(split_card(card)[0])
    assert (front["license"], front["tags"]) == ("mit", ["a"])
    assert list(configs(card)) == ["gold", "llm"]
    assert configs(card)["llm"]["default"] is True
    assert "default" not in configs(card)["gold"]
    assert "words <! -- hf-recipes s: end --> here" in card
    assert merge(card, "gold", "llm", replaced=["gold", "llm"]) == card


def test_an_existing_card_keeps_every_byte_and_pushing_again_changes_nothing():
    card = merge(THEIRS, "gold", "llm")
    front, text = split_card(card)
    for part in THEIRS.split("language:", maxsplit=1)[0].removeprefix("---\n").split("\n\n"):
        assert part in front
    assert "\nlanguage: [en,   de]" in front
    assert text.startswith(split_card(THEIRS)[1])
    assert list(configs(card)) == ["theirs", "other", "gold", "llm"]
    assert [name for name, entry in configs(card).items() if entry.get("default")] == ["theirs"]
    assert merge(card, "gold", "llm", replaced=["gold", "llm"]) == card
    fewer = merge(card, "llm", replaced=["gold", "llm"])
    assert list(configs(fewer)) == ["theirs", "other", "llm"]
    both = merge(card, "b-llm", study="b")
    assert list(configs(both)) == ["theirs", "other", "gold", "llm", "b-llm"]
    assert both.count("begin -->") == 2
    assert merge(both, "gold", "llm", replaced=["gold", "llm"]).count("begin -->") == 2


def test_windows_line_ends_stay():
    card = merge(THEIRS.replace("\n", "\r\n"), "llm")
    assert "\n" not in card.replace("\r\n", "")
    assert list(configs(card)) == ["theirs", "other", "llm"]


def test_a_single_config_is_still_loaded_without_its_name():
    card = merge("---\nconfigs:\n- config_name: mine\n  data_files: a.csv\n---\nText", "llm")
    assert configs(card)["mine"] == {"config_name": "mine", "data_files": "a.csv", "default": True}
    assert "default" not in configs(card)["llm"]
    card = merge("---\nconfigs:\n- data_files: a.csv\n  config_name: mine\n---\nText", "llm")
    assert configs(card)["mine"]["default"] is True
    card = merge("---\nconfigs:\n- config_name: default\n  data_files: a.csv\n---\nText", "llm")
    assert "default" not in configs(card)["default"]  # the name says so


@pytest.mark.parametrize(
    "card", ["Only words", "Only words\n", "---\nlicense: mit\n---\n", "---\nconfigs: []\n---\nx\n", "---\n---\nx"]
)
def test_cards_without_configs(card):
    kept = [{"config_name": "default", "data_files": [{"split": "train", "path": ["a.csv"]}]}]
    merged = merge(card, "llm", kept=kept)
    assert list(configs(merged)) == ["default", "llm"]
    assert "default" not in configs(merged)["llm"]
    assert split_card(merged)[1].startswith(split_card(card)[1])
    again = merge(merged, "llm", replaced=["llm"])
    assert again == merged


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("---\nconfigs: [{config_name: a}]\n---\n", "one item with a dash after the other"),
        ("---\n{license: mit}\n---\n", "must have one key a line"),
        ("---\na: [\n---\n", "must start with valid YAML"),
        ("---\n- a\n---\n", "must be a mapping with a list of configs"),
    ],
)
def test_what_cannot_be_merged_is_refused(card, message):
    with pytest.raises(UserError, match=message):
        merge(card, "llm")


#: Parts of other people's cards. `NEWLINE` is the card's; what stands alone in a list is one line or a whole value.
FRONT_PARTS = [
    "license: cc-by-4.0   # why not",
    '"pretty_name": "--- \\u00e9"',
    "language: [en,   de]",
    "# a comment, with configs: in it",
    "",
    "dataset_info:\n  config_name: theirs\n  features:\n  - name: configs\n    dtype: string",
    "description: |\n  a block\n  # not a comment\n\n  --- its end",
    "folded: >-\n  some\n  words",
    "task: &anchor [a, 'b: c']\nsame: *anchor",
    "\u540d\u524d: \u00fcn\u012bcode \U0001f600",
    "nested:\n    configs:\n    - a\n    - b: {c: d}",
]
ITEMS = [
    "- config_name: {name}   # their words\n  data_files: raw/{name}.csv",
    "- data_files:\n  - split: train\n    path: a.csv # a\n\n  - split: test\n    path: b.csv\n  config_name: {name}",
    "- {{config_name: {name}, data_files: a.csv}}",
    "- {{\n    config_name: {name}}}",
    "-\n  config_name: {name}\n  default: true",
    "- # why\n  config_name: {name}\n  description: |\n    a\n    # not a comment\n",
    "- config_name: {name}\n  drop_labels:",
]
GAPS = ["", "# between\n", "\n", "  # far\n\n"]
TEXT_PARTS = [
    "# Their card\n",
    "---\n",
    "---",
    "--- no fence\n",
    "---\nconfigs:\n- config_name: text\n---\n",
    "<!-- hf-recipes other: begin -->\nwords\n<!-- hf-recipes other: end -->\n",
    "<!-- hf-recipes s: begin -->old<!-- hf-recipes s: end -->",
    "caf\u00e9 \u2028 \U0001f600 | a | b |",
    "\n\n",
    "trailing  \t",
]


@st.composite
def their_configs(draw):
    kind = draw(st.sampled_from(["none", "null", "empty", "list", "list", "list", "list", "list"]))
    if kind != "list":
        return {"none": "", "null": "configs:  # none yet", "empty": "configs: []  # none yet"}[kind]
    indent = draw(st.sampled_from(["", "", "  ", "    "]))
    names = draw(st.lists(st.sampled_from(["theirs", "default", "b\u00e9", "'1'", "x-y"]), min_size=1, unique=True))
    lines = [draw(st.sampled_from(["configs:\n", "configs:   # theirs\n", '"configs":\n# before all\n']))]
    for name in names:
        item = draw(st.sampled_from(ITEMS)).format(name=name)
        if sum("default: true" in line for line in lines):
            item = item.replace("\n  default: true", "")  # two of them are not valid
        lines += [f"{indent}{line}\n" if line else "\n" for line in item.split("\n")] + [draw(st.sampled_from(GAPS))]
    return "".join(lines).removesuffix("\n")


@st.composite
def their_cards(draw):
    """A card as people write it: start, YAML (without fences; None if it has none), closing fence, text."""
    newline = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    text = "".join(draw(st.lists(st.one_of(st.sampled_from(TEXT_PARTS), st.text(max_size=12)), max_size=3)))
    text = text.replace("\r", "").replace("\ufeff", "").replace("\n", newline)
    start = draw(st.sampled_from(["", "", "\ufeff"]))
    if draw(st.integers(0, 5)) == 0:
        return (
            (start, None, "", text) if text.strip() and not text.lstrip().startswith("---") else (start, None, "", "x")
        )
    parts = draw(st.lists(st.sampled_from(FRONT_PARTS), max_size=3, unique=True))
    place = draw(st.integers(0, len(parts)))
    yaml_text = "\n".join([*parts[:place], draw(their_configs()), *parts[place:]]).replace("\n", newline)
    start += draw(st.sampled_from(["", "", newline, f" {newline}{newline}"])) + f"---{newline}"
    closing = draw(st.sampled_from(["---", "---", "--- \t"]))
    return (start, f"{yaml_text}{newline}", closing, text and f"{newline}{text}")


def read_as_the_hub(card):
    return DatasetCard(card.removeprefix("\ufeff")).data.to_dict()  # `load` reads without the mark


def quick_yaml(text):
    return yaml.load(text, yaml.CSafeLoader) or {}  # a safe loader, ten times as fast


def without_nulls(front):
    return {name: value for name, value in front.items() if value is not None}


def keeps_lines(theirs, merged):
    """Whether their lines are all there, in their order; an empty list of configs is filled, a brace gets a default."""
    filled = re.sub(r"(?m)^configs: \[\]", "configs: ", theirs)
    lines = iter(merged.replace("{default: true, ", "{").split("\n"))
    return all(line in lines for line in filled.split("\n") if line)


def test_whatever_their_card_is_their_bytes_stay_and_the_hub_reads_what_we_read():
    refused, tried = [], []

    @settings(max_examples=500)
    @given(their_cards())
    def push_twice(parts):
        start, front, closing, text = parts
        card = f"{start}{front or ''}{closing}{text}"
        tried.append(card)
        before = quick_yaml(front or "")
        try:
            first = merge(card, "llm", "gold")
        except UserError as error:
            refused.append((card, str(error)))
            return
        same = merge(first, "llm", "gold", replaced=["llm", "gold"])
        assert same == first
        changed = merge(first, "gold", "more", replaced=["llm", "gold"])
        names = [entry["config_name"] for entry in before.get("configs") or []]
        theirs = text.removeprefix("\r\n" if text.startswith("\r\n") else "\n") if front is not None else text
        outside = re.split("<!-- hf-recipes s: begin -->old<!-- hf-recipes s: end -->", theirs)
        for merged, own in ((first, ["llm", "gold"]), (changed, ["gold", "more"])):
            found, rest = split_card(merged)
            after = quick_yaml(f"{found}\n")
            assert [entry["config_name"] for entry in after["configs"]] == [*names, *own]
            for entry, old in zip(after["configs"], before.get("configs") or [], strict=False):
                assert {"default": True, **old} == {"default": True, **entry}
            assert {**after, "configs": 0} == {**before, "configs": 0}
            assert keeps_lines(front or "", f"{found}\r\n" if "\r\n" in card else found)
            assert rest.startswith(outside[0])
            assert rest.endswith(outside[-1]) or len(outside) == 1
            assert merged.startswith(start)
            assert sum(bool(entry.get("default")) for entry in after["configs"]) <= 1
        assert read_as_the_hub(changed) == without_nulls(quick_yaml(found))

    push_twice()
    assert not [card for card, error in refused if "marks of s" not in error]
    assert len(refused) < 0.05 * len(tried), refused


@pytest.mark.parametrize("ending", ["", "\n"])
def test_a_card_that_ends_with_its_fence(ending):
    card = "---\nlicense: mit\nconfigs:\n- config_name: theirs\n  data_files: a.parquet\n---" + ending
    merged = merge(merge(card, "llm"), "llm", replaced=["llm"])
    assert merged.startswith(card.removesuffix("---" + ending))
    assert split_card(merged)[1].startswith("<!-- hf-recipes s: begin -->\n")
    assert read_as_the_hub(merged)["license"] == "mit"
    assert list(configs(merged)) == ["theirs", "llm"]


def test_a_single_config_in_braces_is_still_loaded_without_its_name():
    card = "---\nconfigs:\n- {config_name: x, data_files: x.parquet}  # theirs\n---\n"
    merged = merge(card, "llm")
    assert "- {default: true, config_name: x, data_files: x.parquet}  # theirs\n" in merged
    assert configs(merged)["x"]["default"] is True


def test_white_space_before_the_front_matter_stays_and_marks_come_in_pairs():
    for start in ("\n\n", "\ufeff"):
        card = merge(start + THEIRS, "llm")
        assert card.startswith(f"{start}---\n# a comment of theirs")
        assert list(configs(card)) == ["theirs", "other", "llm"]
    card = merge(THEIRS, "llm")
    with pytest.raises(UserError, match="one of the marks of s without the other"):
        merge(card.replace("<!-- hf-recipes s: end -->", ""), "llm", replaced=["llm"])


def test_a_config_that_somebody_adds_to_ours_gets_no_second_default():
    card = merge("", "gold", "llm")
    card = card.replace("configs:\n", "configs:\n- config_name: x\n  data_files: x.parquet\n")
    again = merge(card, "gold", "llm", replaced=["gold", "llm"])
    assert [name for name, entry in configs(again).items() if entry.get("default")] == ["llm"]


def test_comments_around_the_configs_stay_where_they_are():
    card = merge("---\nconfigs:\n- config_name: theirs\n  data_files: a.parquet\n---\n", "gold", "llm")
    card = card.replace("configs:\n", "configs: # why\n# before all\n").replace(
        "- config_name: gold", "# ours\n- config_name: gold"
    )
    card = card.replace("---\n<!--", "# about languages\nlanguage: en\n---\n<!--", 1)
    assert "# about languages" in card
    again = merge(card, "gold", "llm", "more", replaced=["gold", "llm"])
    for part in ("configs: # why\n# before all\n- config_name: theirs\n", "# ours\n- config_name: gold\n"):
        assert part in again
    assert again.index("config_name: more") < again.index("# about languages\nlanguage: en\n")
    without = merge(card, "llm", replaced=["gold", "llm"])
    assert "# ours\n" in without
    assert list(configs(without)) == ["theirs", "llm"]
