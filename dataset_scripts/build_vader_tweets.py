# /// script
# requires-python = ">=3.11"
# dependencies = ["datasets==5.2.0", "pyarrow==26.0.1", "scikit-learn==1.9.1", "scipy==1.17.1", "pip"]
# ///
"""Build the embedded sample, `hf_recipes/sample/vader_tweets`, from the pinned source package.

    python dataset_scripts/build_vader_tweets.py hf_recipes/sample/vader_tweets
    uv run dataset_scripts/build_vader_tweets.py hf_recipes/sample/vader_tweets

The tweets and their human ratings ship inside the source distribution of `vaderSentiment` 3.3.2 (MIT). The output is
the same byte for byte on every run: the source is checked by hash, the split is made by hashing texts, and the writer
(pyarrow) is pinned.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, List, Value
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import CountVectorizer

SOURCE = "vaderSentiment==3.3.2"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
LABELS = ["negative", "neutral", "positive"]
CUT = 0.5  # a mean rating above it is positive, below -CUT negative
NEAR_DUPLICATE = 0.6  # Jaccard similarity of character 5-grams
SPLITS = {"test": 1000, "validation": 400}  # the rest is train

CARD = """\
---
license: mit
language: en
task_categories: [text-classification]
task_ids: [sentiment-classification]
pretty_name: VADER tweets, three classes, with every human rating
size_categories: [1K<n<10K]
annotations_creators: [crowdsourced]
configs:
- config_name: default
  data_files:
{data_files}
---
# VADER tweets

{total:,} English tweets, each rated by {fewest} to {most} people on a scale from -4 (extremely negative) to +4
(extremely positive), cut into three classes: `positive` if the mean rating is above {cut}, `negative` if it is below
-{cut}, `neutral` between.

| split | negative | neutral | positive |
|---|---|---|---|
{counts}

* `id`: the tweet's number in the source; `text`; `label`
* `mean_rating`: the mean of all ratings
* `ratings`: every rater's score, in the source's order (the raters are anonymous: a position is not a person)
* `votes`: the class of each rating, cut like the mean

## How it was made
`dataset_scripts/build_vader_tweets.py` builds this folder byte for byte from the source distribution of the Python
package vaderSentiment 3.3.2 (`additional_resources/hutto_ICWSM_2014.tar.gz`, sha256-checked).

* Left out: {mismatched} tweets whose published mean is not the mean of their published ratings, so that one cannot
  know which text was rated.
* Tweets whose texts are equal or nearly so (Jaccard similarity of character 5-grams of at least {near}) are in the
  same split, never across two. Apart from that the split is random (by a hash of the text).
* Texts are as published: names are already replaced by `@anonymous`, HTML entities are not decoded.

## Licence and citation
MIT, copyright 2016 C.J. Hutto: see `LICENSE.txt`. Please cite

> Hutto, C.J. & Gilbert, E.E. (2014). VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
> Text. Eighth International Conference on Weblogs and Social Media (ICWSM-14). Ann Arbor, MI, June 2014.
"""


def fetch_source(folder):
    requirement = Path(folder) / "requirement.txt"
    requirement.write_text(f"{SOURCE} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--no-binary", "vaderSentiment"]
    subprocess.run([*command, "--require-hashes", "-r", str(requirement), "-d", str(folder)], check=True)
    return next(Path(folder).glob("*.tar.gz"))


def read_source(path):
    """Return the tweets as dicts, the number of tweets whose mean contradicts their ratings, and the licence."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        sys.exit(f"error: {path} is not the pinned source of {SOURCE} (its sha256 differs)")
    with tarfile.open(fileobj=io.BytesIO(data)) as package:
        root = package.getnames()[0].split("/")[0]
        licence = package.extractfile(f"{root}/LICENSE.txt").read().decode()
        inner = package.extractfile(f"{root}/additional_resources/hutto_ICWSM_2014.tar.gz").read()
    with tarfile.open(fileobj=io.BytesIO(inner)) as study:
        truth = study.extractfile("hutto_ICWSM_2014/tweets_GroundTruth.txt").read().decode()
        ratings = study.extractfile("hutto_ICWSM_2014/tweets_anonDataRatings.txt").read().decode()
    texts = {}
    for line in truth.splitlines():
        number, mean, text = line.split("\t")
        texts[int(number)] = (float(mean), text.strip())
    rows, mismatched = [], 0
    for line in ratings.splitlines():
        number, _, _, scores = line.split("\t")
        scores, (published, text) = json.loads(scores), texts[int(number)]
        mean = sum(scores) / len(scores)
        if abs(mean - published) > 1e-6:
            mismatched += 1
            continue
        # 0 is negative, 1 neutral and 2 positive, as in LABELS.
        label = 1 + (mean > CUT) - (mean < -CUT)
        votes = [1 + (score > CUT) - (score < -CUT) for score in scores]
        rows.append(
            {"id": int(number), "text": text, "label": label, "mean_rating": mean, "ratings": scores, "votes": votes}
        )
    return rows, mismatched, licence


def split_rows(rows):
    """Assign whole groups of near-duplicates to one split, in the order of a hash of their texts."""
    grams = CountVectorizer(analyzer="char_wb", ngram_range=(5, 5), binary=True, dtype=np.int32)
    sets = grams.fit_transform([" ".join(row["text"].lower().split()) for row in rows])
    shared = (sets @ sets.T).tocoo()
    size = np.asarray(sets.sum(axis=1)).ravel()
    union = size[shared.row] + size[shared.col] - shared.data
    shared.data = (shared.data >= NEAR_DUPLICATE * union).astype(np.int32)
    shared.eliminate_zeros()
    groups = {}
    for row, group in zip(rows, connected_components(shared)[1], strict=True):
        groups.setdefault(int(group), []).append(row)
    ordered = sorted(groups.values(), key=lambda group: hashlib.sha256(group[0]["text"].encode()).hexdigest())
    splits = {"train": [], "validation": [], "test": []}
    for group in ordered:
        name = next((s for s, limit in SPLITS.items() if len(splits[s]) + len(group) <= limit), "train")
        splits[name].extend(group)
    return {name: sorted(group, key=lambda row: row["id"]) for name, group in splits.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the dataset folder to write")
    parser.add_argument("--source", type=Path, help="the source distribution, if it is at hand already")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows, mismatched, licence = read_source(args.source or fetch_source(scratch))
    splits = split_rows(rows)
    features = Features(
        {
            "id": Value("int64"),
            "text": Value("string"),
            "label": ClassLabel(names=LABELS),
            "mean_rating": Value("float64"),
            "ratings": List(Value("int8")),
            "votes": List(ClassLabel(names=LABELS)),
        }
    )
    (args.output / "data").mkdir(parents=True, exist_ok=True)
    data_files, counts = [], []
    for name, part in splits.items():
        Dataset.from_list(part, features=features).to_parquet(args.output / "data" / f"{name}-00000-of-00001.parquet")
        data_files.append(f"  - split: {name}\n    path: data/{name}-*.parquet")
        per_class = [sum(row["label"] == k for row in part) for k in range(len(LABELS))]
        counts.append(f"| {name} ({len(part):,}) | " + " | ".join(f"{c:,}" for c in per_class) + " |")
    raters = [len(row["ratings"]) for row in rows]
    card = CARD.format(
        data_files="\n".join(data_files),
        counts="\n".join(counts),
        total=len(rows),
        fewest=min(raters),
        most=max(raters),
        cut=CUT,
        mismatched=mismatched,
        near=NEAR_DUPLICATE,
    )
    (args.output / "README.md").write_text(card)
    (args.output / "LICENSE.txt").write_text(licence)
    print(f"{len(rows):,} tweets -> {args.output}: " + ", ".join(f"{k} {len(v):,}" for k, v in splits.items()))


if __name__ == "__main__":
    main()
