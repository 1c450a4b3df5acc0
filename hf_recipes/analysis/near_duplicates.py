"""Find texts that are copies of each other up to some words, and the clusters that intervals count.

Errors on copies are not independent. An interval that counts each copy as a text is too narrow.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

# The cosine of two word sets, |A & B| / sqrt(|A| |B|). At 0.8, one word of 7 or two of 10 may differ. Of tweets, SMS,
# reviews and manifestos with at least 7 words, 98% to 100% are joined with a copy in which one word, a link, a user
# name, a number or the punctuation differs. Pairs above 0.8 are copies or share a template; pairs near 0.7 often share
# only phrases. Unrelated documents of 100 to 2,000 words reach 0.40.
MIN_COSINE = 0.8
# Short texts share most of their words without being copies: "have a great day", "have a great one". So texts that
# share fewer words are joined only if their word sets are equal. In 24,783 tweets on few topics, the largest group has
# 34 tweets of the same single word. Without this rule, 143 different short tweets form a chain (1,055 at 0.7).
MIN_SHARED = 6
MAX_CELLS = 2_000_000  # similarities in memory at a time

# Copies differ in their links, in whom they mention and in the mark of a retweet.
VARYING = re.compile(r"(?:https?://|www\.)[!-~]+|@\w+|\brt\b")
# A word ends at white space, digits, punctuation, symbols and emojis. With `\w`, vowel signs of Hindi would end it too.
WORD = re.compile(
    r"[^\s\d!-/:-@\[-`{-~\u00a1-\u00bf\u060c\u061b\u061f\u06d4\u0964\u0965\u2000-\u2bff\u2e00-\u2e7f\u3000-\u3020"
    r"\ufe00-\ufe0f\U0001f000-\U0001faff]+"
)
# Thai, Lao, Burmese, Khmer, Japanese and Chinese are written without blanks.
WITHOUT_BLANKS = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]{3,}")


def find_near_duplicates(texts: list[str]) -> np.ndarray:
    """Find the groups of texts whose word sets are almost equal.

    A group is a connected component: two of its texts may be less similar if others connect them.

    Args:
        texts (`list[str]`):
            The texts. Time grows with the square of their number. An empty text is not like any other.

    Returns:
        `np.ndarray` of shape `(n,)`, int64: the group of each text, numbered from 0 in the order of the texts.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    word_sets = [find_words(text) for text in texts]
    if not any(word_sets):
        return np.arange(len(texts))
    matrix = CountVectorizer(analyzer=sorted, dtype=np.float32).fit_transform(word_sets)
    # In the order of their sizes, the sets that can be similar to those of a block come next to it.
    sizes = np.diff(matrix.indptr).astype(float)
    order = np.argsort(sizes, kind="stable")
    matrix, sizes = matrix[order], sizes[order]
    groups = np.arange(len(texts))
    num_rows = max(1, MAX_CELLS // len(texts))
    for start in range(0, len(texts), num_rows):
        block = slice(start, min(start + num_rows, len(texts)))
        # The cosine is at most sqrt(|A| / |B|) where B is the larger set.
        end = np.searchsorted(sizes, sizes[block][-1] / MIN_COSINE**2 + 0.5, side="right")
        overlaps = (matrix[block] @ matrix[start:end].T).tocoo()
        first, second, num_shared = overlaps.row + start, overlaps.col + start, overlaps.data
        is_equal = num_shared == np.maximum(sizes[first], sizes[second])
        # Rounding must not separate texts at exactly `MIN_COSINE`.
        min_shared = np.maximum(MIN_COSINE * np.sqrt(sizes[first] * sizes[second]) - 1e-6, MIN_SHARED)
        pairs = np.flatnonzero(is_equal | (num_shared >= min_shared))
        # The pairs of a block connect the groups so far. All pairs of one template would not fit into memory.
        edges = (groups[first[pairs]], groups[second[pairs]])
        graph = coo_matrix((np.ones(len(pairs)), edges), shape=(len(texts), len(texts)))
        groups = connected_components(graph, directed=False)[1][groups]
    return _number(groups[np.argsort(order)].tolist())


def cluster_codes(texts: Sequence[str | None], clusters: np.ndarray | None) -> np.ndarray:
    """Return the cluster of each text: the document, thread or author, else the group of near-duplicates.

    Args:
        texts (`Sequence[str | None]`):
            The texts; None where a study was published without them.
        clusters (`np.ndarray` of shape `(n,)`, *optional*):
            The values of `data.cluster_column`. A text with None is the only text of its cluster.

    Returns:
        `np.ndarray` of shape `(n,)`, int64: the cluster of each text, numbered from 0 in the order of the texts.
    """
    if clusters is None:
        return find_near_duplicates([text or "" for text in texts])
    # A text without a cluster gets its position as the name of its cluster, which no other text has.
    return _number(i if name is None else name for i, name in enumerate(clusters))


def _number(names: Iterable[str | int]) -> np.ndarray:
    """Return the number of each name, in the order in which names occur first."""
    numbers: dict[str | int, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def find_words(text: str) -> set[str]:
    """Return the words of a text in lower case; in scripts without blanks, the pairs of neighbouring characters.

    Links, numbers, user names and punctuation are left out. A text without other words counts as one word.
    """
    lower = unicodedata.normalize("NFKC", text).casefold().strip()
    words: set[str] = set()
    for word in WORD.findall(re.sub("['\u2019]", "", VARYING.sub(" ", lower))):
        if WITHOUT_BLANKS.fullmatch(word):
            words.update(word[i : i + 2] for i in range(len(word) - 1))
        else:
            words.add(word)
    return words or ({lower} - {""})
