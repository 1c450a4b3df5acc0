"""The command line: `hf-recipes STEP RECIPE [--section.key=value ...]`. Each command is one function of the library."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import __version__, logs
from .child import INTERRUPTED, PARENT, end, handle_interrupts
from .logs import BAD_INPUT
from .recipe import UserError, load_recipe
from .study import Study

if TYPE_CHECKING:
    from .data import RowFiles

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
Retry = Annotated[bool, typer.Option("--retry-failed", help="Try the runs again that failed.")]
DEATHS = [-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS]  # memory ran out, or a crash
CHILD = [sys.executable, "-m", "hf_recipes.child"]  # a process that ends with this one
MAX_DEATHS = 3  # in a row, without a text labelled between them
SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def _open(context: typer.Context, recipe: Path, accept: bool, verbose: bool) -> Study:
    logs.set_up(verbose)
    return Study(load_recipe(recipe, context.args), accept)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """What stands before a command."""


@app.command(context_settings=SETTINGS)
def run(
    context: typer.Context,
    recipe: RecipeFile,
    accept_changes: Accept = False,
    verbose: Verbose = False,
    retry_failed: Retry = False,
) -> None:
    """All steps in turn; what is done is not redone."""
    _run_all(_open(context, recipe, accept_changes, verbose), recipe, context.args, retry_failed)


def _run_all(study: Study, recipe: Path, overrides: list[str], retry_failed: bool = False) -> None:
    from .data import open_rows, usable_at_most
    from .quality import print_labels, write_labels
    from .variants import write_variants

    files = open_rows(study)
    if study.recipe.grid:
        from .grid import check_sizes
        from .train import check_training

        check_training(study)  # before hours of annotation
        for note in check_sizes(study.recipe.grid, usable_at_most(study.recipe, files)):
            typer.echo(note, err=True)
    _annotate(study, files, recipe, overrides)
    write_variants(study)
    labels = write_labels(study)
    if not study.recipe.grid:
        print_labels(study, labels)
        typer.echo(f"Dataset with the LLM's labels: {study.dataset}")
        return
    from .measure import measure
    from .report import print_summary, write_report
    from .train import forget_failures, runs_left

    if retry_failed:
        forget_failures(study)
    if runs_left(study):
        _launch_training(study, recipe, overrides)
    results = measure(study)
    write_report(study, results)
    print_summary(study, results)


@app.command(context_settings=SETTINGS)
def plan(
    context: typer.Context,
    recipe: RecipeFile,
    accept_changes: Accept = False,
    verbose: Verbose = False,
    device: Annotated[
        str | None, typer.Option("--device", help="Predict for this GPU instead: h100, a100, l40s, ...")
    ] = None,
) -> None:
    """What would run, what is done, and what the rest costs in tokens, time and bytes; starts and writes nothing."""
    study = _open(context, recipe, accept_changes, verbose)
    from .plan import print_plan

    print_plan(study, device)


@app.command(context_settings=SETTINGS)
def advise(context: typer.Context, recipe: RecipeFile, verbose: Verbose = False) -> None:
    """A pilot of few seeds and small sizes, and from it the whole study's cost and its chance to decide."""
    study = _open(context, recipe, False, verbose)
    from .advise import pilot_settings, print_advice

    settings = [*context.args, *pilot_settings(study)]
    pilot = Study(load_recipe(recipe, settings), accept_changes=True)  # nothing in it is worth more than a new one
    _run_all(pilot, recipe, settings)
    print_advice(study, pilot)


@app.command(context_settings=SETTINGS)
def annotate(
    context: typer.Context,
    recipe: RecipeFile,
    accept_changes: Accept = False,
    verbose: Verbose = False,
    status: Annotated[bool, typer.Option("--status", help="Say what is done, failed and left; start nothing.")] = False,
) -> None:
    """The LLM's label distribution for every text of the pool, and how good the labels are."""
    study = _open(context, recipe, accept_changes, verbose)
    from .data import open_rows
    from .quality import print_labels, print_status, write_labels

    if status:
        print_status(study)
        return
    _annotate(study, open_rows(study), recipe, context.args)
    print_labels(study, write_labels(study))


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
def train(
    context: typer.Context,
    recipe: RecipeFile,
    accept_changes: Accept = False,
    verbose: Verbose = False,
    retry_failed: Retry = False,
    machine_rank: Annotated[
        int | None,
        typer.Option(
            "--machine-rank",
            help="Which of several machines this is, from 0, in place of the accelerate configuration's.",
        ),
    ] = None,
    main_process_ip: Annotated[
        str | None, typer.Option("--main-process-ip", help="The address of machine 0, likewise.")
    ] = None,
) -> None:
    """The grid of runs, under `accelerate launch`; of several machines each is given the same command and its rank."""
    study = _open(context, recipe, accept_changes, verbose)
    from .train import check_training, forget_failures, runs_left

    with study.lock():  # accepted changes are, for the processes that train as well
        check_training(study)
    if retry_failed:
        forget_failures(study)
    if runs_left(study):  # and what is wrong with the input is said before anything is launched
        _launch_training(study, recipe, context.args, machine_rank, main_process_ip)
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
def compare(
    studies: Annotated[list[Path], typer.Argument(metavar="STUDY...", help="Study folders with a report.")],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Where the table and the figure go.")] = Path(
        "comparison"
    ),
) -> None:
    """Several studies in one table and one figure."""
    logs.set_up()
    from .compare import compare as put_together

    put_together(studies, output_dir)
    typer.echo(f"table and figure: {output_dir / 'comparison.md'}")


audit_app = typer.Typer(help="A random sample for people to label, and their labels back.", no_args_is_help=True)
app.add_typer(audit_app, name="audit")


@audit_app.command(name="sample", context_settings=SETTINGS)
def audit_sample(
    context: typer.Context,
    recipe: RecipeFile,
    n: Annotated[int, typer.Option("--n", help="Texts, all in all; more later keeps the first ones.")],
    output: Annotated[Path, typer.Option("--output", help="The file to write.")],
    form: Annotated[str, typer.Option("--format", help="csv, jsonl or label-studio.")] = "csv",
    test_share: Annotated[
        float, typer.Option("--test-share", help="Of them test texts, where the recipe trains without gold.")
    ] = 0.5,
    verbose: Verbose = False,
) -> None:
    """Texts drawn at random, each as likely as any other, for people to label; the LLM's labels are not shown."""
    study = _open(context, recipe, False, verbose)
    from .audit import FORMS, draw_audit

    if form not in FORMS:
        raise UserError(f"--format: '{form}' is none of {', '.join(FORMS)}")
    typer.echo(f"{draw_audit(study, n, output, form, test_share):,} texts to label: {output}")


@audit_app.command(name="import", context_settings=SETTINGS)
def audit_import(
    context: typer.Context,
    recipe: RecipeFile,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The labelled file, or an export.")],
    replace: Annotated[bool, typer.Option("--replace", help="Let it change labels that were imported before.")] = False,
    verbose: Verbose = False,
) -> None:
    """What people said, checked; then how good the LLM's labels are."""
    study = _open(context, recipe, False, verbose)
    from .audit import import_audit
    from .quality import print_labels, write_labels

    said = import_audit(study, file, replace)
    typer.echo(f"{said['labelled']:,} labelled, {said['missing']:,} missing, {said['changed']:,} changed")
    print_labels(study, write_labels(study))


push_app = typer.Typer(help="Publish a study, a metric module or the Space on the Hub.", no_args_is_help=True)
app.add_typer(push_app, name="push")


@push_app.command(name="dataset", context_settings=SETTINGS)
def push_dataset(
    context: typer.Context,
    recipe: RecipeFile,
    repo: Annotated[str, typer.Option("--repo", help="owner/name of the dataset repo; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repo private.")] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="A branch; main by default.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request.")] = False,
    prefix: Annotated[str | None, typer.Option("--prefix", help="What the configs' names begin with.")] = None,
    texts: Annotated[
        bool | None,
        typer.Option("--texts/--no-texts", help="--no-texts: publish ids, labels and probabilities alone."),
    ] = None,
    accept_changes: Accept = False,
    verbose: Verbose = False,
) -> None:
    """The study as configs of a dataset repo, in one commit that leaves everything else there as it is."""
    study = _open(context, recipe, accept_changes, verbose)
    from .hub import push_dataset as push
    from .quality import write_labels

    write_labels(study)
    typer.echo(push(study, repo, private, revision, create_pr, prefix, texts))


@push_app.command(name="metric")
def push_metric(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A module's folder, as metrics/seed_instability.")],
    owner: Annotated[str, typer.Option("--owner", help="A user or an organisation.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new Space private.")] = False,
) -> None:
    """A metric module as a Space, for evaluate.load("owner/name")."""
    logs.set_up()
    from .hub import push_metric as push

    typer.echo(push(folder, owner, private))


@push_app.command(name="space")
def push_space(
    repo: Annotated[str, typer.Option("--repo", help="owner/name of the Space; made if it is not there.")],
    study: Annotated[str, typer.Option("--study", help="owner/name of a published study, or owner/name/study.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new Space private.")] = False,
) -> None:
    """The app that shows a published study, as a Space."""
    logs.set_up()
    from .hub import push_space as push

    typer.echo(push(repo, study, private))


@app.command()
def pull(
    repo: Annotated[str, typer.Argument(metavar="REPO", help="owner/name of a dataset repo.")],
    output_dir: Annotated[Path | None, typer.Option("--output_dir", help="studies/<study> by default.")] = None,
    study: Annotated[str | None, typer.Option("--study", help="Which, where the repo holds several.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit.")] = None,
) -> None:
    """A study folder from a published study: measure and report it again, or go on with it."""
    logs.set_up()
    from .hub import pull_study

    typer.echo(f"study: {pull_study(repo, output_dir, study, revision)}")


@app.command(context_settings=SETTINGS)
def doctor(
    context: typer.Context,
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="Check its disk and its models too.")] = None,
) -> None:
    """Check what this machine can run."""
    logs.set_up()
    from .doctor import print_doctor

    if not print_doctor(load_recipe(recipe, context.args) if recipe else None):
        raise SystemExit(1)


def _launcher(config: dict[str, Any], machine_rank: int | None, main_ip: str | None) -> list[str]:
    """The command that starts the processes of this machine."""
    from .train import threads

    each, machines, processes = str(threads(config)), config["num_machines"], config["num_processes"]
    rank = config["machine_rank"] if machine_rank is None else machine_rank
    address, port = str(main_ip or config.get("main_process_ip") or ""), str(config.get("main_process_port") or 29500)
    if not 0 <= rank < machines:
        raise UserError(f"--machine-rank: {rank}, but {config['path']} has num_machines: {machines}")
    if machines > 1 and not address:
        raise UserError(f"{config['path']}: no main_process_ip; add it, or pass --main-process-ip")
    if config["use_cpu"] and processes > 1:  # of which accelerate launch would start one
        os.environ |= {"ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": config["mixed_precision"]}
        os.environ |= {"OMP_NUM_THREADS": each}
        launch = [*CHILD, "torch.distributed.run", "--nproc_per_node", str(processes // machines)]
        if machines == 1:
            return [*launch, "--standalone"]
        launch += ["--nnodes", str(machines), "--node_rank", str(rank)]
        return [*launch, "--master_addr", address, "--master_port", port]
    launch = [*CHILD, "accelerate.commands.launch", "--config_file", config["path"]]
    launch += ["--num_cpu_threads_per_process", each]
    if machines > 1:
        return [*launch, "--machine_rank", str(rank), "--main_process_ip", address, "--main_process_port", port]
    return [*launch, *(["--main_process_port", "0"] if processes > 1 else [])]  # a free one: others may be at work


def _launch_training(
    study: Study, recipe: Path, overrides: list[str], machine_rank: int | None = None, main_ip: str | None = None
) -> None:
    from .train import failed_runs, read_accelerate_config, runs_left

    config = read_accelerate_config(study.training)
    launch = _launcher(config, machine_rank, main_ip)
    left, deaths = len(runs_left(study)), 0
    while True:
        code = _run([*launch, *CHILD[1:], "hf_recipes.train", str(recipe), *overrides])
        unfinished, failures = runs_left(study), failed_runs(study)
        if len(unfinished) == len(failures) or code == BAD_INPUT:
            break
        deaths = 0 if len(unfinished) - len(failures) < left else deaths + 1
        left = len(unfinished) - len(failures)
        if deaths == MAX_DEATHS:
            raise UserError(
                f"training died {MAX_DEATHS} times without finishing a run (code {code}); what is done stays. If "
                "memory is short, raise train.gradient_accumulation_steps; --verbose has the whole story"
            )
        typer.echo(f"training died (code {code}); starting it again, what is done stays", err=True)
    if failures:
        run, error = next(iter(failures.items()))
        typer.echo(
            f"error: {len(failures)} run{'s' * (len(failures) > 1)} failed; the first: {run}: {error} (its traceback: "
            f"{study.run(run) / 'failed.json'}). --retry-failed tries again; if that is in vain, take the seed, arm or "
            "size out of the recipe",
            err=True,
        )
        raise SystemExit(1)
    _check(code)


def _annotate(study: Study, files: "RowFiles", recipe: Path, overrides: list[str]) -> None:
    """Annotates in a process of its own: its memory is free when it ends, and another one goes on where it died."""
    from .annotate import ENGINE_DIED, rows_in_parts, rows_left
    from .data import keep_rows

    left = rows_left(study, files)
    keep_rows(study, files)  # also where they alone are gone, as the later steps want them
    if not left:
        return
    deaths = 0
    while True:
        before = rows_in_parts(study)
        code = _run([*CHILD, "hf_recipes.annotate", str(recipe), *overrides])
        if code != ENGINE_DIED and code not in DEATHS:
            return _check(code)
        deaths = 0 if rows_in_parts(study) > before else deaths + 1
        if deaths == MAX_DEATHS:
            raise UserError(
                f"the engine died {MAX_DEATHS} times without labelling anything (code {code}); what is labelled stays. "
                "If memory is short, lower annotate.max_model_len or annotate.engine_args.max_num_seqs"
            )
        typer.echo(f"the engine died (code {code}); starting another one, what is labelled stays", err=True)


def _run(command: list[str]) -> int:
    """Runs a child to its end. Ctrl-C reaches only this process, which ends the child: all it has written is whole."""
    environment = {**os.environ, PARENT: str(os.getpid())}
    with subprocess.Popen(command, env=environment, process_group=0) as child:
        try:
            code = child.wait()
        except SystemExit:
            for name in (signal.SIGTERM, signal.SIGKILL):  # at the first a launcher ends its workers
                with suppress(ProcessLookupError, subprocess.TimeoutExpired):  # the former: it has ended
                    os.killpg(child.pid, name)
                    child.wait(timeout=10)
            raise
    if code == INTERRUPTED:  # the child alone was
        _report_interrupt()
        raise SystemExit(code)
    return code


def _check(code: int) -> None:
    if code not in (0, BAD_INPUT):
        typer.echo(f"error: a step ended with code {code}; what is done is kept, run again to go on", err=True)
    if code:
        raise SystemExit(code if 0 < code < 256 else 1)


def _report_interrupt() -> None:
    typer.echo("\ninterrupted; what is done stays, run again to go on", err=True)


def _interrupted(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # before anything is printed: a second one would end that
    _report_interrupt()
    end(number, frame)


def main() -> None:
    """The entry point: an error is one line; one that the user can mend exits with code 2."""
    handle_interrupts(_interrupted)
    with logs.in_a_line():
        app()


if __name__ == "__main__":
    main()
