"""Copy studies with their annotations, but without any text: the part that takes hours and an LLM.

    python benchmarks/keep_labels.py studies/tweets-0.5b studies/tweets-1.5b ...

Writes docs/study/labels/<study>. docs/study.md says how to train on these labels without the LLM.
"""

import json
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hf_recipes.annotation.store import CONTENT_FREE_FILE, parse_part_number
from hf_recipes.hashing import make_key
from hf_recipes.hub.bundle import NOT_PUBLISHED

LABELS = Path(__file__).resolve().parent.parent / "docs" / "study" / "labels"


def keep(study: Path, target: Path) -> None:
    """Write one compressed part for each pass. Its manifest has hashes in place of few-shot examples."""
    current = json.loads((study / "annotations" / "current.json").read_text())
    for key in current["keys"]:
        source, folder = study / "annotations" / key, target / "annotations" / key
        folder.mkdir(parents=True, exist_ok=True)
        manifest = json.loads((source / "manifest.json").read_text())
        manifest["ingredients"].pop("frame")
        manifest["ingredients"]["shown"] = [make_key(text=text) for text in manifest["ingredients"]["shown"]]
        manifest["prompt"] = NOT_PUBLISHED
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        parts = sorted(source.glob("part-*.parquet"), key=parse_part_number)
        rows = pa.concat_tables([pq.read_table(part) for part in parts])
        last = {name: place for place, name in enumerate(rows["id"].to_pylist())}  # a later part overrides an earlier
        pq.write_table(
            rows.take(sorted(last.values())),
            folder / "part-00000.parquet",
            compression="zstd",
            use_dictionary=["status"],
            use_byte_stream_split=["logprobs.list.element"],
        )
        shutil.copy(source / CONTENT_FREE_FILE, folder)
    shutil.copy(study / "annotations" / "current.json", target / "annotations")
    shutil.copy(study / "recipe.yaml", target)


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        keep(folder, LABELS / folder.name)
