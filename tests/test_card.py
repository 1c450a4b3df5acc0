"""Cards: other people's lines stay as they are."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hf_recipes.card import merge_card, split_card
from hf_recipes.recipe import UserError

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
    assert "language: [en,   de]\n" in front
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
        ("---\nconfigs: [{config_name: a}]\n---\n", "configs in brackets"),
        ("---\na: [\n---\n", "YAML that cannot be read"),
    ],
)
def test_what_cannot_be_merged_is_refused(card, message):
    with pytest.raises(UserError, match=message):
        merge(card, "llm")


NAMES = st.text("abcdefgh", min_size=1, max_size=4)


@given(
    st.lists(NAMES, unique=True, max_size=4), st.sampled_from(["", "  ", "    "]), st.text(max_size=40), st.booleans()
)
def test_whatever_the_others_configs_are_they_are_the_same_after(names, indent, text, more):
    text = text.replace("\r", " ")
    rows = "".join(f"{indent}- config_name: {name}\n{indent}  data_files: {name}.csv # {name}\n" for name in names)
    card = f"---\nconfigs:\n{rows}{'tags: [x]' + chr(10) if more else ''}---\n{text}" if names else text
    if not names and split_card(card)[0]:
        return
    merged = merge(card, "llm", "gold")
    front, after = split_card(merged)
    assert after.startswith(text if card.strip() else "")
    for name in names:
        assert f"{indent}- config_name: {name}\n" in front
        assert f"data_files: {name}.csv # {name}\n" in front
    assert list(configs(merged)) == [*names, "llm", "gold"]
    assert merge(merged, "llm", "gold", replaced=["llm", "gold"]) == merged


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
