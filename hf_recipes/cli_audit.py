"""The commands of `hf-recipes audit`. Each is one function."""

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import SETTINGS, RecipeFile, Verbose, open_study
from .errors import UserError

audit_app = typer.Typer(
    help="Draw texts for people to label, and import their labels.\n\n"
    "Example: hf-recipes audit sample recipe.yaml --n 200 --output to_label.csv",
    no_args_is_help=True,
)


@audit_app.command(name="sample", context_settings=SETTINGS)
def audit_sample(
    context: typer.Context,
    recipe: RecipeFile,
    n: Annotated[int, typer.Option("--n", help="Draw this many texts. More keep the texts of fewer.")],
    output: Annotated[Path, typer.Option("--output", help="Write this file.")],
    form: Annotated[str, typer.Option("--format", help="Write csv, jsonl or label-studio.")] = "csv",
    test_share: Annotated[
        float,
        typer.Option("--test-share", help="Draw this share from the test texts, if the recipe trains without gold."),
    ] = 0.5,
    verbose: Verbose = False,
) -> None:
    """Draw texts at random for people to label. The LLM's labels are not shown.

    Example: hf-recipes audit sample recipe.yaml --n 200 --output to_label.csv
    """
    study = open_study(context, recipe, False, verbose)
    from .labels.audit import FORMS, draw_audit

    if form not in FORMS:
        raise UserError(f"`--format` must be one of {', '.join(FORMS)}. Got {form}.")
    drawn = draw_audit(study, n, output, form, test_share)
    typer.echo(f"{drawn.num_written:,} texts to label: {output}")
    for sentence in drawn.describe():
        typer.echo(sentence)
    if form == "label-studio":
        typer.echo(f"Labelling interface for Label Studio: {output.with_suffix('.xml')}")


@audit_app.command(name="import", context_settings=SETTINGS)
def audit_import(
    context: typer.Context,
    recipe: RecipeFile,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Read this labelled file, or an export.")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace labels that were imported before.")] = False,
    verbose: Verbose = False,
) -> None:
    """Import human labels and re-evaluate the LLM's labels.

    Example: hf-recipes audit import recipe.yaml to_label.csv
    """
    study = open_study(context, recipe, False, verbose)
    from .labels.audit_import import import_audit
    from .labels.pool import read_labels
    from .report.label_quality import print_labels, write_labels

    counts = import_audit(study, file, replace)
    typer.echo(counts)
    print_labels(study, write_labels(study, read_labels(study)))
