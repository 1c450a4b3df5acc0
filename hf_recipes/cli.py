"""The command line: `hf-recipes STEP RECIPE [--section.key=value ...]`. Each command is one function of the library."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import __version__, logs
from .recipe import UserError, load_recipe
from .study import Study, cpu_threads

app = typer.Typer(
    help="Label text with an open-weight LLM, train encoders on the labels, and measure what that costs. Any setting "
    "of a recipe can be replaced on the command line: --train.epochs=1 --grid.seeds='[0,1,2,3,4]'.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file; see hf_recipes/recipes/.")]
Accept = Annotated[
    bool, typer.Option("--accept-changes", help="Use the study folder although its recipe differs: redo what changed.")
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show what vLLM, transformers and the rest have to say.")]
SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


def _open(context: typer.Context, recipe: Path, accept: bool, verbose: bool) -> Study:
    logs.set_up(verbose)
    return Study(load_recipe(recipe, context.args), accept)


@app.command(context_settings=SETTINGS)
def run(context: typer.Context, recipe: RecipeFile, accept_changes: Accept = False, verbose: Verbose = False) -> None:
    """All steps in turn; what is done is not redone."""
    study = _open(context, recipe, accept_changes, verbose)
    from .annotate import rows_left
    from .data import load_rows, usable_at_most
    from .grid import check_sizes
    from .measure import measure
    from .report import print_summary, write_report
    from .train import check_training, runs_left
    from .variants import write_variants

    pool, _ = load_rows(study)
    check_training(study)  # before hours of annotation
    for note in check_sizes(study.recipe, usable_at_most(study.recipe, pool)):
        typer.echo(note, err=True)
    if rows_left(study, pool):  # in a process of its own: the engine's memory is free again when it ends
        _call([sys.executable, "-m", "hf_recipes.cli", "annotate", str(recipe), *context.args])
    write_variants(study)
    if runs_left(study):
        _launch_training(study, recipe, context.args)
    results = measure(study)
    write_report(study, results)
    print_summary(study, results)


@app.command(context_settings=SETTINGS)
def plan(context: typer.Context, recipe: RecipeFile, verbose: Verbose = False) -> None:
    """What would run, what is done, and about how long the rest takes; starts and writes nothing."""
    logs.set_up(verbose)
    from .plan import print_plan

    print_plan(Study(load_recipe(recipe, context.args)))


@app.command(context_settings=SETTINGS)
def annotate(
    context: typer.Context, recipe: RecipeFile, accept_changes: Accept = False, verbose: Verbose = False
) -> None:
    """The LLM's label distribution for every text of the pool."""
    study = _open(context, recipe, accept_changes, verbose)
    from .annotate import annotate as step

    step(study)
    typer.echo(f"annotations: {study.annotations_root}")


@app.command(context_settings=SETTINGS)
def variants(
    context: typer.Context, recipe: RecipeFile, accept_changes: Accept = False, verbose: Verbose = False
) -> None:
    """The dataset folder with one config per arm, and its card."""
    study = _open(context, recipe, accept_changes, verbose)
    from .variants import write_variants

    write_variants(study)
    typer.echo(f"dataset: {study.dataset}")


@app.command(context_settings=SETTINGS)
def train(context: typer.Context, recipe: RecipeFile, accept_changes: Accept = False, verbose: Verbose = False) -> None:
    """The grid of runs, under `accelerate launch`."""
    study = _open(context, recipe, accept_changes, verbose)
    from .train import runs_left

    if runs_left(study):  # and what is wrong with the input is said before anything is launched
        _launch_training(study, recipe, context.args)
    typer.echo(f"runs: {study.root / 'runs'}")


@app.command(context_settings=SETTINGS)
def measure(
    context: typer.Context, recipe: RecipeFile, accept_changes: Accept = False, verbose: Verbose = False
) -> None:
    """Scores, instability and comparisons, into report/results.json."""
    study = _open(context, recipe, accept_changes, verbose)
    from .measure import measure as step

    step(study)
    typer.echo(f"results: {study.results_file}")


@app.command(context_settings=SETTINGS)
def report(
    context: typer.Context, recipe: RecipeFile, accept_changes: Accept = False, verbose: Verbose = False
) -> None:
    """The report in words and figures."""
    study = _open(context, recipe, accept_changes, verbose)
    from .measure import measure as results_of
    from .report import print_summary, write_report

    results = results_of(study)
    write_report(study, results)
    print_summary(study, results)


@app.command()
def version() -> None:
    """The version of hf-recipes."""
    typer.echo(__version__)


#: accelerate's launcher, with the exit code of what it launched and without tracebacks of its own.
LAUNCHER = """
import subprocess, sys
from accelerate.commands.launch import main
try:
    main()
except KeyboardInterrupt:
    sys.exit(130)
except subprocess.CalledProcessError as ended:
    sys.exit(ended.returncode)
"""


def _launch_training(study: Study, recipe: Path, overrides: list[str]) -> None:
    from .train import read_accelerate_config

    config = read_accelerate_config(study.recipe)["path"]
    launch = [sys.executable, "-c", LAUNCHER, "--config_file", config, "--num_cpu_threads_per_process"]
    _call([*launch, str(cpu_threads()), "-m", "hf_recipes.train", str(recipe), *overrides])


def _call(command: list[str]) -> None:
    """Runs a child that says itself what the user can mend (code 2); its failure is ours."""
    code = subprocess.run(command, check=False).returncode
    if code not in (0, 2, 130):
        typer.echo(f"error: a step ended with code {code}; what is done is kept, run again to go on", err=True)
    if code:
        raise SystemExit(code if 0 < code < 256 else 1)


def main() -> None:
    """The entry point: errors that the user can mend are one line, and exit with code 2."""
    try:
        app()
    except (UserError, OSError) as error:
        if logs.verbose():
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
