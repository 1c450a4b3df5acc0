"""The embedded data set: what it says it is, and built again byte for byte."""

import subprocess
import sys

import numpy as np
from conftest import ROOT, SAMPLE
from sklearn.feature_extraction.text import CountVectorizer


def load():
    from datasets import load_dataset

    return load_dataset(str(SAMPLE))


def test_it_loads_with_names_splits_and_every_rating():
    data = load()
    assert {name: len(split) for name, split in data.items()} == {"train": 2601, "validation": 400, "test": 1000}
    for split in data.values():
        assert split.features["label"].names == ["negative", "neutral", "positive"]
        for row in split:
            mean = np.mean(row["ratings"])
            assert len(row["ratings"]) >= 20
            assert row["votes"] == [2 if rating > 0 else 0 if rating < 0 else 1 for rating in row["ratings"]]
            assert abs(mean - row["mean_rating"]) < 1e-9
            assert row["label"] == (2 if mean > 0.5 else 0 if mean < -0.5 else 1)


def test_no_text_nor_its_near_twin_stands_in_two_splits():
    """Seen by words here, whereas the builder goes by character 5-grams."""
    data = load()
    texts = [(name, text.lower()) for name, split in data.items() for text in split["text"]]
    names = np.array([name for name, _ in texts])
    words = CountVectorizer(binary=True, dtype=np.int32, token_pattern=r"\S+").fit_transform(
        [text for _, text in texts]
    )
    shared = (words @ words.T).tocoo()
    sizes = np.asarray(words.sum(axis=1)).ravel()
    jaccard = shared.data / (sizes[shared.row] + sizes[shared.col] - shared.data)
    across = (
        (names[shared.row] != names[shared.col])
        & (jaccard >= 0.8)
        & (np.minimum(sizes[shared.row], sizes[shared.col]) > 2)
    )
    assert not across.any(), [texts[i][1] for i in shared.row[across][:4]]
    folded = [" ".join(text.split()) for _, text in texts]
    for text in {t for t in folded if folded.count(t) > 1}:
        assert len({names[i] for i, t in enumerate(folded) if t == text}) == 1


def test_the_script_builds_it_byte_for_byte(tmp_path):
    script = ROOT / "dataset_scripts" / "build_vader_tweets.py"
    subprocess.run([sys.executable, script, tmp_path / "built"], check=True, capture_output=True)
    built = {p.relative_to(tmp_path / "built"): p.read_bytes() for p in (tmp_path / "built").rglob("*") if p.is_file()}
    shipped = {p.relative_to(SAMPLE): p.read_bytes() for p in SAMPLE.rglob("*") if p.is_file()}
    assert built == shipped


def test_news_are_built_with_their_official_splits_and_no_text_twice(tmp_path):
    script = ROOT / "dataset_scripts" / "build_news.py"
    subprocess.run([sys.executable, script, "reuters-r52", tmp_path / "r52"], check=True, capture_output=True)
    from datasets import load_dataset

    data = load_dataset(str(tmp_path / "r52"))
    assert {name: len(split) for name, split in data.items()} == {"train": 6450, "test": 2547}
    texts = [text for split in data.values() for text in split["text"]]
    assert len(set(texts)) == len(texts)
    assert len(set(data["train"]["label"])) == data["train"].features["label"].num_classes == 52
    assert all(text.strip() for text in texts)
