"""Publish a study as configs of a dataset repo, in one guarded commit.

What is published:

    data/<prefix><variant>/     the configs of the dataset folder; data/<prefix>test/ is the test split of all
    data/<prefix>annotations/   every row of every pass, raw
    data/<prefix>runs/          where runs are trained; predictions/, out_of_bag/ and results/ beside it
    hf-recipes/<study>/         study.json, rows and results: with the above all that a study folder is made of;
                                findings.json: the findings in words; figure.png: the figure of the card
    README.md                   the configs, and a section between two marks; all other bytes are kept

docs/hub.md lists the guarantees.
"""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import UserError
from ..labels.pool import read_labels
from ..report.label_quality import write_labels
from ..study import Study
from .bundle import Bundle, collect, path_in_repo
from .change import ConfigChange, Planner, on_hub
from .commit import Target, after_commit, check_files, commit, log_change, make_repo
from .dataset_folder import DatasetFolder

logger = logging.getLogger(__name__)


def push_dataset(
    study: Study,
    repo: str,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    prefix: str | None = None,
    texts: bool | None = None,
) -> str:
    """Publish the study as configs of a dataset repo, in one commit.

    The commit is guarded by its parent, so that no writer overwrites another: a refused commit is planned again from
    the new state. Afterwards it is read back and compared.

    Args:
        study (`Study`):
            An annotated study; runs and results are published if the study has them.
        repo (`str`):
            `owner/name`; created if missing.
        private (`bool`, *optional*, defaults to `False`):
            Create the repo as private.
        revision (`str`, *optional*):
            A branch; created if missing. `main` by default.
        create_pr (`bool`, *optional*, defaults to `False`):
            Open a pull request instead of committing.
        prefix (`str`, *optional*):
            The start of the configs' names. Empty by default, or the study's name if its configs would collide.
        texts (`bool`, *optional*):
            Whether to publish the texts. True by default; required if the repo has the study without its texts.

    Returns:
        `str`: the address of the commit, or of the pull request. What the commit takes away is logged as a warning.

    Raises:
        UserError: the repo cannot be created or written, a config or the card cannot be merged, or the commit does not
            have what was sent.
    """
    message = f"{study.recipe.name}: labels by {study.recipe.annotate.model}"
    target = Target(repo, "dataset", message, revision or "main", create_pr)
    if texts is False and any(
        section.prompt and section.prompt.examples for section in study.recipe.annotate.all_passes()
    ):
        raise UserError("--no-texts: `annotate.prompt.examples` must be empty, as its texts are part of the recipe.")
    make_repo(target, private)
    with TemporaryDirectory(prefix="hf-recipes-") as folder, study.lock():
        labels = read_labels(study)
        write_labels(study, labels)
        content = DatasetFolder(study, labels)
        content.write()
        if texts is not False and labels.files.withheld:
            raise UserError(f"{study.root}: was published without its texts. Publish it with --no-texts.")
        if (own := list(content.source_columns)) and texts is not False:
            logger.warning(
                "The dataset has the source's own columns too: %s. `data.keep_columns: none` leaves them out.",
                ", ".join(own),
            )
        bundle = collect(study, labels, Path(folder), texts is not False)
        cache = f"{folder}/cache"
        planner = Planner(target, content, bundle, prefix, texts is True, cache)
        address, sha, change = commit(target, planner.plan)
        with after_commit(target, address):
            check_files(target, sha, change)
            _check_configs(bundle, repo, sha, change, cache)
    log_change(target, sha, change)
    return address


def _check_configs(bundle: Bundle, repo: str, sha: str, change: ConfigChange, cache: str) -> None:
    """Check that `load_dataset` finds each config's files under its name.

    Equal bytes, which are checked before, are equal features, rows and counts.
    """
    from datasets import load_dataset_builder

    for config, splits in bundle.configs.items():
        name = change.names[config]
        builder = load_dataset_builder(on_hub(repo), name, revision=sha, cache_dir=cache)
        data_files = builder.config.data_files or {}
        places = {str(split): [path.rpartition(f"@{sha}/")[2] for path in paths] for split, paths in data_files.items()}
        if places != {split: [path_in_repo(name.removesuffix(config), config, split)] for split in splits}:
            raise ValueError(f"load_dataset finds other files as {name} at {sha}: {places}.")
