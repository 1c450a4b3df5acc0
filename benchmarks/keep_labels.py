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

from hf_recipes.annotation.store import CONTENT_FREE_FILE
from hf_recipes.data import open_rows
from hf_recipes.hub.bundle import final_rows, without_prompt
from hf_recipes.recipe import load_recipe
from hf_recipes.study import Study, read_json

LABELS = Path(__file__).resolve().parent.parent / "docs" / "study" / "labels"


def keep(folder: Path) -> None:
    """Write one compressed part for each pass. Its manifest has hashes in place of few-shot examples."""
    study = Study(load_recipe(folder / "recipe.yaml", [f"--output_dir={folder}"]))
    kept = LABELS / folder.name
    shutil.rmtree(kept, ignore_errors=True)
    ids = open_rows(study).column("id", ("train", "test"))
    for key in read_json(study.annotations_root / "current.json")["keys"]:
        source, target = study.annotations(key), kept / "annotations" / key
        target.mkdir(parents=True, exist_ok=True)
        manifest = without_prompt(read_json(source / "manifest.json"))
        (target / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        pq.write_table(
            pa.concat_tables(final_rows(study, ids, key)),
            target / "part-00000.parquet",
            compression="zstd",
            use_dictionary=["status"],
            use_byte_stream_split=["logprobs.list.element"],
        )
        shutil.copy(source / CONTENT_FREE_FILE, target)
    shutil.copy(study.annotations_root / "current.json", kept / "annotations")
    shutil.copy(study.recipe_file, kept)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        keep(Path(argument))
