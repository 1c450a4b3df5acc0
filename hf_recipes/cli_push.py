"""The commands of `hf-recipes push`. Each is one function."""

from pathlib import Path
from typing import Annotated

import typer

from . import logs
from .cli_options import SETTINGS, Accept, CreatePR, Private, RecipeFile, Revision, Variant, Verbose, open_study

push_app = typer.Typer(
    help="Publish a study, a classifier, a metric module or the Space on the Hub.\n\n"
    "Example: hf-recipes push dataset recipe.yaml --repo owner/name",
    no_args_is_help=True,
)


@push_app.command(name="dataset", context_settings=SETTINGS)
def push_dataset(
    context: typer.Context,
    recipe: RecipeFile,
    repo: Annotated[str, typer.Option("--repo", help="Publish in this dataset repo, owner/name; created if missing.")],
    private: Private = False,
    revision: Revision = None,
    create_pr: CreatePR = False,
    prefix: Annotated[str | None, typer.Option("--prefix", help="Start the configs' names with this.")] = None,
    texts: Annotated[
        bool | None,
        typer.Option("--texts/--no-texts", help="Publish the texts, or ids, labels and probabilities alone."),
    ] = None,
    accept: Accept = False,
    verbose: Verbose = False,
) -> None:
    """Publish the study as configs of a dataset repo, in one commit that keeps everything else.

    Example: hf-recipes push dataset recipe.yaml --repo owner/name
    """
    study = open_study(context, recipe, accept, verbose)
    from .hub.push import push_dataset as push

    typer.echo(push(study, repo, private, revision, create_pr, prefix, texts))


@push_app.command(name="model", context_settings=SETTINGS)
def push_model(
    context: typer.Context,
    recipe: RecipeFile,
    repo: Annotated[str, typer.Option("--repo", help="Publish in this model repo, owner/name; created if missing.")],
    variant: Variant = "llm",
    private: Private = False,
    revision: Revision = None,
    create_pr: CreatePR = False,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Link this dataset repo, where the study is published.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Publish the classifier that is nearest to the ensemble of all seeds, and check its predictions.

    Example: hf-recipes push model recipe.yaml --repo owner/name
    """
    study = open_study(context, recipe, False, verbose)
    from .hub.push_model import push_model as push

    typer.echo(push(study, variant, repo, private, revision, create_pr, dataset))


@push_app.command(name="metric")
def push_metric(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Publish this folder, for example metrics/seed_instability.")
    ],
    owner: Annotated[str, typer.Option("--owner", help="Publish for this user or organisation.")],
    private: Private = False,
) -> None:
    """Publish a metric module as a Space, for evaluate.load("owner/name").

    Example: hf-recipes push metric metrics/seed_instability --owner me
    """
    logs.set_up()
    from .hub.spaces import push_metric as push

    typer.echo(push(folder, owner, private))


@push_app.command(name="space")
def push_space(
    repo: Annotated[str, typer.Option("--repo", help="Publish in this Space, owner/name; created if missing.")],
    study: Annotated[str, typer.Option("--study", help="Show this published study, owner/name or owner/name/study.")],
    private: Private = False,
) -> None:
    """Publish the app that shows a published study, as a Space.

    Example: hf-recipes push space --repo owner/space --study owner/name
    """
    logs.set_up()
    from .hub.spaces import push_space as push

    typer.echo(push(repo, study, private))
