"""Run the command line: `hf-recipes STEP RECIPE [--section.key=value ...]`. Each command is one function."""

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import __version__, launch, logs
from .child import handle_interrupts
from .cli_audit import audit_app
from .cli_options import (
    SETTINGS,
    Accept,
    ConfigName,
    Dataset,
    GoOn,
    RecipeFile,
    Retry,
    TextColumn,
    Variant,
    Verbose,
    open_study,
)
from .cli_push import push_app
from .recipe import load_recipe
from .study import RUN_FOLDERS, Study

if TYPE_CHECKING:
    from .analysis.schema import Results
    from .labels.pool import StudyLabels
    from .training.runs import Runs

app = typer.Typer(
    help="Label text with an open-weight LLM, train encoders on the labels, and measure the cost of LLM labels. "
    "Replace any setting of a recipe on the command line: --train.epochs=1 --grid.seeds='[0,1,2,3,4]'.\n\n"
    "Example: hf-recipes init texts.csv",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(audit_app, name="audit")
app.add_typer(push_app, name="push")

NUM_STEPS = {"frozen": 4, "finetune": 5, "both": 6}  # of `run`, by `train.encoder_mode`


def _print_version(is_set: bool) -> None:
    if is_set:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None: ...


@app.command()
def init(
    dataset: Dataset,
    text: TextColumn = None,
    label: Annotated[
        str | None,
        typer.Option("--label", help="Name the column of gold labels. It is guessed by default."),
    ] = None,
    llm_label: Annotated[
        str | None,
        typer.Option("--llm-label", help="Name the column of labels that an LLM gave elsewhere. No LLM then runs."),
    ] = None,
    config: ConfigName = None,
    output: Annotated[Path | None, typer.Option("--output", help="Write this file. <dataset>.yaml by default.")] = None,
) -> None:
    """Write a recipe with comments for a dataset.

    Example: hf-recipes init texts.csv --label sentiment
    """
    logs.set_up()
    from .new_recipe import write_recipe

    path, notes = write_recipe(dataset, text, label, config, output, llm_label)
    for note in notes:
        typer.echo(note)
    typer.echo(f"Recipe: {path}. Next:\n  hf-recipes plan {path}\n  hf-recipes run {path}")


@app.command(context_settings=SETTINGS)
def run(
    context: typer.Context,
    recipe: RecipeFile,
    accept: Accept = False,
    verbose: Verbose = False,
    retry: Retry = False,
    go_on: GoOn = False,
) -> None:
    """Run all steps. Completed work is skipped.

    Example: hf-recipes run recipe.yaml
    """
    _run_all(open_study(context, recipe, accept, verbose), recipe, context.args, go_on, retry)


@app.command(context_settings=SETTINGS)
def certify(
    context: typer.Context,
    dataset: Dataset,
    labels: Annotated[str, typer.Option("--labels", help="Name the column with the labels to judge.")],
    text: TextColumn = None,
    gold: Annotated[
        str | None,
        typer.Option("--gold", help="Name the column of gold labels. Without it, people label a sample of texts."),
    ] = None,
    config: ConfigName = None,
    audited: Annotated[
        Path | None, typer.Option("--audited", help="Read people's labels from the file that this command drew.")
    ] = None,
    push: Annotated[
        bool, typer.Option("--push", help="Open a pull request on the dataset's repo with the verdict.")
    ] = False,
    accept: Accept = False,
    verbose: Verbose = False,
) -> None:
    """Judge whether labels made elsewhere can be trusted for training. No recipe is required.

    Example: hf-recipes certify owner/name --text text --labels llm_label --gold label
    """
    logs.set_up(verbose)
    from .annotation.passes import count_rows_left
    from .certify import describe_invalid, find_recipe, prepare_audit
    from .data import open_rows
    from .hub.push_trust import check_push, push_trust

    if push:
        check_push(dataset)
    recipe, notes = find_recipe(dataset, text, labels, gold, config)
    for note in notes:
        typer.echo(note)
    study = Study(load_recipe(recipe, context.args), accept)
    files = open_rows(study)
    launch.annotate(study, files, count_rows_left(study, files), recipe, context.args)
    for warning in describe_invalid(study):
        typer.echo(warning, err=True)
    if advice := prepare_audit(study, audited):
        typer.echo(advice)
        return
    results = _run_all(study, recipe, context.args, go_on=True)
    assert results is not None  # noqa: S101  (the recipe has a grid)
    file = study.report / "trust.json"
    typer.echo(f"Verdict for other programs: {file}")
    if push:
        options = {"--text": study.recipe.data.text_column, "--labels": labels, "--gold": gold, "--config": config}
        named = [word for option, value in options.items() if value for word in (option, value)]
        made_by = shlex.join(["hf-recipes", "certify", dataset, *named])
        address = push_trust(study, results, file, made_by)
        typer.echo(f"Section for the dataset's card, and trust.json: {address}")


@contextmanager
def _step(place: str, title: str, is_done: bool) -> Iterator[None]:
    """Announce a step, and report its duration at its end."""
    line = f"[{place}] {title} ..."
    start = time.monotonic()
    typer.echo(f"{line} already done" if is_done else line, err=True)
    yield
    if not is_done:
        typer.echo(f"{line} done in {logs.format_duration(time.monotonic() - start)}", err=True)


def _run_all(study: Study, recipe: Path, overrides: list[str], go_on: bool, retry: bool = False) -> "Results | None":
    """Run all steps; return the results, or None where the recipe only labels texts."""
    from .annotation.passes import count_rows_left
    from .data import count_usable, open_rows
    from .hub.dataset_folder import DatasetFolder
    from .labels.pool import read_labels
    from .report.label_quality import print_labels, write_labels

    files = open_rows(study)
    if study.recipe.grid:
        from .training.grid import check_sizes, describe_few_steps
        from .training.runs import check_training

        # Before hours of annotation. Training logs the notes on the sizes.
        check_training(study)
        check_sizes(study.recipe.grid, count_usable(study.recipe, files))
        if warning := describe_few_steps(study.grid, study.training):
            typer.echo(warning, err=True)
    num_steps = NUM_STEPS[study.training.encoder_mode] if study.recipe.train else 2
    num_texts = len(files) + files.manifest["rows"]["test"]
    num_left = count_rows_left(study, files)
    section = study.recipe.annotate
    title = f"Labelling {num_texts:,} texts with {section.model}"
    if section.columns:
        title = f"Reading the labels of {num_texts:,} texts from `{section.columns.label}`"
    with _step(f"1/{num_steps}", title, is_done=not num_left):
        launch.annotate(study, files, num_left, recipe, overrides)
    labels = read_labels(study)
    folder = DatasetFolder(study, labels)
    with _step(f"2/{num_steps}", "Evaluating the labels and writing the dataset", is_done=folder.is_written()):
        folder.write()
        quality = write_labels(study, labels)
    if not study.recipe.grid:
        print_labels(study, quality)
        typer.echo(f"Dataset with the LLM's labels: {study.dataset}")
        return None
    return _train_all(study, labels, recipe, overrides, go_on, retry)


def _train_all(
    study: Study, labels: "StudyLabels", recipe: Path, overrides: list[str], go_on: bool, retry: bool
) -> "Results | None":
    """Train and report by each method; return the results of the method that decides the verdict."""
    from .analysis.measure import is_measured
    from .report.page import print_summary
    from .training.runs import Runs

    runs, num_steps = Runs(study, labels), NUM_STEPS[study.training.encoder_mode]
    if retry:
        runs.forget_failures()
    in_seconds = runs.left_in_seconds()
    title = "Training linear heads on frozen features, and TF-IDF models"
    with _step(f"3/{num_steps}", title, is_done=not in_seconds):
        if in_seconds:
            launch.train_baselines(recipe, overrides)
    step, results = 3, None
    for of_method in runs.methods:
        if of_method.method == "finetune":
            left, step = runs.left(), step + 1
            with _step(f"{step}/{num_steps}", f"Fine-tuning {len(left or runs.all):,} classifiers", is_done=not left):
                if left:
                    launch.train(study, runs, recipe, overrides, go_on)
        step += 1
        has_report = (study.report_of(of_method.method) / "report.html").exists()
        is_reported = has_report and is_measured(study, labels, of_method)
        with _step(f"{step}/{num_steps}", "Measuring and writing the report", is_done=is_reported):
            results = _report(study, labels, of_method)
        print_summary(study, results)
    return results


def _report(study: Study, labels: "StudyLabels", runs: "Runs") -> "Results":
    from .analysis.measure import measure
    from .report.page import write_report
    from .report.trust import write_trust

    results = measure(study, labels, runs)
    write_report(study, labels.training_pool, results)
    write_trust(study, results)
    return results


@app.command(context_settings=SETTINGS)
def plan(
    context: typer.Context,
    recipe: RecipeFile,
    accept: Accept = False,
    verbose: Verbose = False,
    device: Annotated[
        str | None, typer.Option("--device", help="Predict for this GPU instead, for example h100.")
    ] = None,
) -> None:
    """Show what is done, what is left, and its cost in tokens, time and bytes. Start nothing.

    Example: hf-recipes plan recipe.yaml
    """
    study = open_study(context, recipe, accept, verbose)
    from .plan import print_plan

    print_plan(study, device)


@app.command(context_settings=SETTINGS)
def advise(context: typer.Context, recipe: RecipeFile, verbose: Verbose = False) -> None:
    """Run a small pilot. Predict the whole study's cost and its chance to decide the verdict.

    Example: hf-recipes advise recipe.yaml
    """
    study = open_study(context, recipe, False, verbose)
    from .advise import pilot_settings, print_advice

    settings = [*context.args, *pilot_settings(study)]
    pilot = Study(load_recipe(recipe, settings), accept_changes=True)  # a pilot of an earlier recipe is replaced
    results = _run_all(pilot, recipe, settings, go_on=True)
    if results is not None:
        print_advice(study, pilot, results)


@app.command(context_settings=SETTINGS)
def annotate(
    context: typer.Context,
    recipe: RecipeFile,
    accept: Accept = False,
    verbose: Verbose = False,
    status: Annotated[bool, typer.Option("--status", help="Show progress and exit.")] = False,
) -> None:
    """Label every text with the LLM, or read labels made elsewhere, and evaluate the labels.

    Example: hf-recipes annotate recipe.yaml
    """
    study = open_study(context, recipe, accept, verbose)
    from .annotation.passes import count_rows_left
    from .data import open_rows
    from .labels.pool import read_labels
    from .report.label_quality import print_labels, print_status, write_labels

    if status:
        print_status(study)
        return
    files = open_rows(study)
    launch.annotate(study, files, count_rows_left(study, files), recipe, context.args)
    print_labels(study, write_labels(study, read_labels(study)))


@app.command(context_settings=SETTINGS)
def variants(context: typer.Context, recipe: RecipeFile, accept: Accept = False, verbose: Verbose = False) -> None:
    """Write the dataset folder: one config per variant, and the card.

    Example: hf-recipes variants recipe.yaml
    """
    study = open_study(context, recipe, accept, verbose)
    from .hub.dataset_folder import DatasetFolder
    from .labels.pool import read_labels

    DatasetFolder(study, read_labels(study)).write()
    typer.echo(f"dataset: {study.dataset}")


@app.command(context_settings=SETTINGS)
def train(
    context: typer.Context,
    recipe: RecipeFile,
    accept: Accept = False,
    verbose: Verbose = False,
    retry: Retry = False,
    go_on: GoOn = False,
) -> None:
    """Train all runs with `accelerate launch`. Start it on several machines with a common disk to share the grid.

    Example: hf-recipes train recipe.yaml
    """
    study = open_study(context, recipe, accept, verbose)
    from .data import keep_rows
    from .labels.pool import read_labels
    from .training.runs import Runs, check_training

    with study.lock():  # accepts changes for the training processes as well
        check_training(study)
    labels = read_labels(study)
    keep_rows(study, labels.files)  # labels without texts, as docs/study/labels has them, come without rows
    runs = Runs(study, labels)
    if retry:
        runs.forget_failures()
    if runs.left_in_seconds():
        launch.train_baselines(recipe, context.args)
    if runs.left():  # errors of the input are raised before anything is launched
        launch.train(study, runs, recipe, context.args, go_on)
    typer.echo(f"runs: {study.root / RUN_FOLDERS[runs.method]}")


@app.command(context_settings=SETTINGS)
def measure(context: typer.Context, recipe: RecipeFile, accept: Accept = False, verbose: Verbose = False) -> None:
    """Compute scores, instability and comparisons, and write report/results.json.

    Example: hf-recipes measure recipe.yaml
    """
    study = open_study(context, recipe, accept, verbose)
    from .analysis.measure import measure as write_results
    from .labels.pool import read_labels
    from .training.runs import Runs

    labels = read_labels(study)
    for runs in Runs(study, labels).methods:
        write_results(study, labels, runs)
    typer.echo(f"results: {study.results_file}")


@app.command(context_settings=SETTINGS)
def report(context: typer.Context, recipe: RecipeFile, accept: Accept = False, verbose: Verbose = False) -> None:
    """Write the report in words and figures.

    Example: hf-recipes report recipe.yaml
    """
    study = open_study(context, recipe, accept, verbose)
    from .labels.pool import read_labels
    from .report.page import print_summary
    from .training.runs import Runs

    labels = read_labels(study)
    for runs in Runs(study, labels).methods:
        print_summary(study, _report(study, labels, runs))


@app.command()
def compare(
    studies: Annotated[
        list[Path], typer.Argument(metavar="STUDY...", help="Read these study folders, each with a report.")
    ],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Write this folder.")] = Path("comparison"),
) -> None:
    """Compare several studies in one table and two figures.

    Example: hf-recipes compare studies/a studies/b
    """
    logs.set_up()
    from .report.compare import compare as write_comparison

    write_comparison(studies, output_dir)
    typer.echo(f"table and figures: {output_dir / 'comparison.md'}")


@app.command(context_settings=SETTINGS)
def predict(
    context: typer.Context,
    recipe: RecipeFile,
    texts: Annotated[str, typer.Argument(metavar="TEXTS", help="Label this Hub dataset, folder or file.")],
    variant: Variant = "llm",
    seed: Annotated[str, typer.Option("--seed", help="Use the classifier of this seed, or ensemble.")] = "ensemble",
    accuracy: Annotated[
        float | None,
        typer.Option("--accuracy", help="Abstain on texts so that this share of the other labels is right: 0.9."),
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", help="Name the column of texts. The recipe's by default.")
    ] = None,
    config: Annotated[str | None, typer.Option("--config", help="Choose a config of the dataset.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="Choose a split. train by default.")] = None,
    output: Annotated[Path, typer.Option("--output", help="Write this .parquet or .csv.")] = Path(
        "predictions.parquet"
    ),
    verbose: Verbose = False,
) -> None:
    """Label new texts with the classifiers that the study kept (`train.save_models`).

    Example: hf-recipes predict recipe.yaml new.csv --accuracy 0.9
    """
    study = open_study(context, recipe, False, verbose)
    from .predict import Source
    from .predict import predict as label_texts

    summary = label_texts(study, variant, seed, Source(texts, text, config, split), accuracy, output)
    typer.echo(f"labels: {output} ({summary})")


@app.command()
def pull(
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Read this dataset repo, owner/name.")],
    output_dir: Annotated[
        Path | None, typer.Option("--output_dir", help="Write this folder. studies/<study> by default.")
    ] = None,
    study: Annotated[str | None, typer.Option("--study", help="Choose a study, if the repo has several.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Read this branch, tag or commit.")] = None,
) -> None:
    """Download a published study, to measure and report it again or to continue it.

    Example: hf-recipes pull owner/name
    """
    logs.set_up()
    from .hub.pull import pull_study

    typer.echo(f"study: {pull_study(repo, output_dir, study, revision)}")


@app.command(context_settings=SETTINGS)
def doctor(
    context: typer.Context,
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="Check its disk and its models too.")] = None,
) -> None:
    """Check what this machine can run.

    Example: hf-recipes doctor recipe.yaml
    """
    logs.set_up()
    from .doctor import print_doctor

    if not print_doctor(load_recipe(recipe, context.args) if recipe else None):
        raise SystemExit(1)


def main() -> None:
    """Run the command line. An error is one line; an error that the user can fix exits with code 2."""
    handle_interrupts(launch.interrupt)
    with logs.in_a_line():
        app()


if __name__ == "__main__":
    main()
