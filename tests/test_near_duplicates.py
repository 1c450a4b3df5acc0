"""Near-duplicates: planted copies share a group, and other texts do not."""

import re
from itertools import chain

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import SAMPLE
from hypothesis import given
from hypothesis import strategies as st

from hf_recipes.analysis import near_duplicates
from hf_recipes.analysis.near_duplicates import cluster_codes, find_near_duplicates, find_words


def read_sample(min_words):
    tables = [pq.read_table(file, columns=["text"]) for file in sorted((SAMPLE / "data").glob("*.parquet"))]
    texts = [text for table in tables for text in table["text"].to_pylist()]
    return [text for text in texts if len(find_words(text)) >= min_words]


def groups(codes):
    """The texts of each group, as a set of sets of positions."""
    return {frozenset(np.flatnonzero(codes == code)) for code in codes}


def copy(text):
    """Four copies of a text as people and programs change it."""
    words = text.split()
    changed = " ".join(["zebra" if i == len(words) // 2 else word for i, word in enumerate(words)])
    return [
        changed,
        f"RT @some_one: {text}",
        f"{re.sub('[.,!?]', ' ', text).upper()}!!! http://t.co/aB3xZ",
        f"{text} 42 #zebra",
    ]


def test_planted_copies_are_groups_of_five():
    texts = read_sample(min_words=9)
    codes = find_near_duplicates(texts)
    originals = [text for i, text in enumerate(texts) if (codes == codes[i]).sum() == 1][:300]
    texts = list(chain.from_iterable([text, *copy(text)] for text in originals))
    codes = find_near_duplicates(texts)
    assert codes.tolist() == [i // 5 for i in range(5 * len(originals))]


def test_the_sample_has_few_near_duplicates():
    sizes = np.bincount(find_near_duplicates(read_sample(min_words=0)))
    assert (len(sizes), sizes[sizes > 1].sum(), sizes.max()) == (3989, 22, 3)


@pytest.mark.parametrize(
    "texts",
    [
        ["good morning", "good night", "good morning all", "morning", "very good", "not good"],
        ["have a great day", "have a great one", "have a great weekend", "have a nice day"],
        ["check out my new video: cats", "check out my new video: bread", "check out my new song: cats"],
        ["I love this phone", "I love this camera", "I hate this phone"],
        ["The acting is great and the plot is good", "The food is good and the service is great too"],
        [":)", ":(", "12", "13", "http://a.b", "http://a.c", "@a", "@b", "\U0001f600", "\U0001f622"],
    ],
)
def test_short_texts_and_texts_with_the_same_phrases_are_apart(texts):
    assert find_near_duplicates(texts).tolist() == list(range(len(texts)))


@pytest.mark.parametrize(
    "texts",
    [
        ["Thanks!", "thanks", "@anyone THANKS \U0001f600", "thanks http://t.co/x"],
        ["I don't like it.", "i don\u2019t like it", "it... i like: dont"],
        ["今天天气很好,我们去公园吧", "今天天气很好，我们去公园玩吧！"],
        ["मैं आज बाज़ार जा रहा हूँ और वापस आऊँगा", "मैं कल बाज़ार जा रहा हूँ और वापस आऊँगा।"],
        [":)", " :) "],
    ],
)
def test_equal_words_are_one_group_however_they_are_written(texts):
    assert find_near_duplicates([*texts, "another text"]).tolist() == [0] * len(texts) + [1]


def test_unrelated_texts_in_other_scripts_are_apart():
    chinese = ["今天天气很好,我们去公园吧", "明天要下雨,我们在家看书吧"]
    hindi = ["मैं आज बाज़ार जा रहा हूँ और वापस आऊँगा", "तुम कल स्कूल नहीं गए थे क्या बात है"]
    assert find_near_duplicates([*chinese, *hindi]).tolist() == [0, 1, 2, 3]


def test_a_group_is_connected_by_its_texts():
    words = [f"word{chr(97 + i)}" for i in range(20)]
    texts = [" ".join(words[start : start + 14]) for start in (0, 1, 2, 3, 4, 5, 6)]
    assert find_near_duplicates(texts).tolist() == [0] * 7
    assert find_near_duplicates([texts[0], texts[-1]]).tolist() == [0, 1]


def test_the_threshold_includes_its_own_value():
    words = [f"word{chr(97 + i)}" for i in range(12)]
    eight_of_ten = [" ".join(words[:10]), " ".join(words[2:])]
    assert find_near_duplicates(eight_of_ten).tolist() == [0, 0]
    seven_of_nine = [" ".join(words[:9]), " ".join(words[2:11])]
    assert find_near_duplicates(seven_of_nine).tolist() == [0, 1]
    seven_of_eleven = [" ".join(words[:7]), " ".join(words[:11])]  # 0.798
    assert find_near_duplicates(seven_of_eleven).tolist() == [0, 1]


def test_no_texts_and_empty_texts():
    assert find_near_duplicates([]).tolist() == []
    assert find_near_duplicates(["", " ", "\n"]).tolist() == [0, 1, 2]
    assert groups(find_near_duplicates(["", "same text", "", "same text"])) == {
        frozenset([0]),
        frozenset([1, 3]),
        frozenset([2]),
    }


WORDS = st.sampled_from(["the", "a", "cat", "dog", "sat", "ran", "on", "mat", "http://x.y", "@me", "12", "!", "今天"])
TEXTS = st.lists(st.lists(WORDS, max_size=9).map(" ".join), max_size=20)


@given(TEXTS, st.randoms(), st.integers(1, 40))
def test_groups_depend_on_neither_the_order_nor_the_blocks(texts, random, max_cells):
    codes = find_near_duplicates(texts)
    assert len(codes) == len(texts)
    assert sorted(set(codes)) == list(range(len(set(codes))))
    order = random.sample(range(len(texts)), len(texts))
    shuffled = find_near_duplicates([texts[i] for i in order])
    assert {frozenset(order[i] for i in group) for group in groups(shuffled)} == groups(codes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "MAX_CELLS", max_cells)
        assert find_near_duplicates(texts).tolist() == codes.tolist()


@given(TEXTS)
def test_groups_are_those_of_all_pairs(texts):
    """The definition, pair by pair."""
    sets = [find_words(text) for text in texts]
    group = list(range(len(texts)))
    for i, first in enumerate(sets):
        for j, second in enumerate(sets[:i]):
            num_shared = len(first & second)
            is_similar = num_shared >= 6 and num_shared**2 * 25 >= 16 * len(first) * len(second)
            if is_similar or (first and first == second):
                group = [group[j] if code == group[i] else code for code in group]
    assert groups(find_near_duplicates(texts)) == groups(np.array(group))


def test_cluster_codes_are_those_of_the_column_or_of_near_duplicates():
    texts = ["same text", "same text", None, None, "other text"]
    assert groups(cluster_codes(texts, None)) == {frozenset([0, 1]), frozenset([2]), frozenset([3]), frozenset([4])}
    clusters = np.array(["a", None, "b", "a", None], dtype=object)
    assert cluster_codes(texts, clusters).tolist() == [0, 1, 2, 0, 3]
    assert cluster_codes([], np.array([], dtype=object)).tolist() == []
