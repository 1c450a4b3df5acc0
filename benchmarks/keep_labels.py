"""Copy studies with their annotations, but without any text, and make studies of these labels again.

    python benchmarks/keep_labels.py keep studies/tweets-0.5b studies/tweets-1.5b ...
    python benchmarks/keep_labels.py restore tweets-0.5b [--data.path=FILE --annotate.passes=[] ...]

`keep` writes docs/study/labels/<study>: labelling takes hours and an LLM. `restore` writes studies/<study>, from which
`hf-recipes train` goes on. The texts are your copy of the recipe's source: they must be the same, their file need not.
Settings change the recipe: `--annotate.passes=[]` leaves the first pass, without variants that need two.
"""

import argparse
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hf_recipes.annotation.passes import hash_passes
from hf_recipes.annotation.store import CONTENT_FREE_FILE, PartFiles
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


def restore(name: str, output: Path, settings: list[str]) -> None:
    """Make a study of kept labels and the texts of its source.

    Raises:
        SystemExit: a text has no label, or the settings ask for another pass than the kept ones.
    """
    kept, folder = LABELS / name, output / name
    study = Study(load_recipe(kept / "recipe.yaml", [f"--output_dir={folder}", *settings]), accept_changes=True)
    passes, kept_passes = (
        [section.model_dump(exclude={"calibration"}) for section in recipe.annotate.all_passes()]
        for recipe in (study.recipe, load_recipe(kept / "recipe.yaml"))
    )
    if passes != kept_passes[: len(passes)]:
        raise SystemExit("`annotate` must have the kept passes, or the first of them. Try without its settings.")
    shutil.copytree(kept, folder)
    files, keys = open_rows(study), read_json(study.annotations_root / "current.json")["keys"][: len(passes)]
    for place, key in enumerate(keys):
        ids = files.column("id", ("train",) if place else ("train", "test"))  # the first pass alone labels test texts
        num_missing = int((PartFiles(study.annotations(key)).statuses(ids) < 0).sum())
        if num_missing:
            shutil.rmtree(folder)
            raise SystemExit(
                f"`data.path` must have the texts of the recipe's source. Got {study.recipe.data.path}, where "
                f"{num_missing:,} of {len(ids):,} texts have no label. Try another copy."
            )
    with study.lock():  # writes the recipe
        study.write_json(study.annotations_root / "current.json", {"asked": hash_passes(study), "keys": keys})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["keep", "restore"])
    parser.add_argument("studies", nargs="+", help="of keep: the folders; of restore: the names")
    parser.add_argument("--output", type=Path, default=Path("studies"), help="of restore: the folder for the studies")
    arguments, settings = parser.parse_known_args()
    for study in arguments.studies:
        if arguments.command == "keep":
            keep(Path(study))
        else:
            restore(study, arguments.output, settings)


if __name__ == "__main__":
    main()
