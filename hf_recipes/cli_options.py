"""The options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from . import logs
from .recipe import load_recipe
from .study import Study

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="Read this YAML file. hf-recipes init writes one.")]
Dataset = Annotated[
    str, typer.Argument(metavar="DATASET", help="Read this Hub dataset, folder, .csv, .tsv, .json, .jsonl or .parquet.")
]
TextColumn = Annotated[str | None, typer.Option("--text", help="Name the column of texts. It is guessed by default.")]
ConfigName = Annotated[str | None, typer.Option("--config", help="Choose a config of the dataset, `data.name`.")]
Accept = Annotated[
    bool, typer.Option("--accept-changes", help="Accept a changed recipe, and redo what the change affects.")
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show the logs of vLLM, transformers and other libraries.")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Retry failed runs.")]
GoOn = Annotated[
    bool, typer.Option("--go-on", help="Train all runs, even if the first on gold labels are not better than chance.")
]
Private = Annotated[bool, typer.Option("--private", help="Create the repo as private.")]
Revision = Annotated[str | None, typer.Option("--revision", help="Commit to this branch. main by default.")]
CreatePR = Annotated[bool, typer.Option("--create-pr", help="Open a pull request.")]
Variant = Annotated[str, typer.Option("--variant", help="Choose the training labels, by their variant.")]
SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


def open_study(context: typer.Context, recipe: Path, accept: bool, verbose: bool) -> Study:
    """Return the study of a recipe, with the settings of the command line."""
    logs.set_up(verbose)
    return Study(load_recipe(recipe, context.args), accept)
