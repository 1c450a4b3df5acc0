"""Publish a classifier of a study as a model repo, in one guarded commit, and check its predictions.

The repo has the model, the tokenizer, a card, and `hf-recipes.json`, which names the study, the run and these files.
"""

import json
import logging
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from .. import __version__
from ..analysis.measure import measure
from ..analysis.texts import read_probs
from ..errors import UserError
from ..labels.pool import read_labels
from ..models import SETTINGS, WEIGHTS
from ..report.findings import describe_warning
from ..study import Run, Study, read_json
from ..training.classifiers import Classifiers, classifier_folder, find_classifiers, find_nearest
from ..training.devices import read_accelerate_config
from ..training.runs import Runs
from .bundle import HOME
from .card import merge_model_card
from .commit import Change, Target, after_commit, check_files, commit, log_change, make_repo
from .hub_errors import explain_error
from .model_card import Published, make_model_card

logger = logging.getLogger(__name__)

MANIFEST = "hf-recipes.json"
#: The largest difference of a probability that another machine or batch explains: in float32, and in fewer digits.
MAX_DIFFERENCE, MAX_DIFFERENCE_OF_FEW_DIGITS = 1e-5, 1e-2


def push_model(
    study: Study,
    variant: str,
    repo: str,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    dataset: str | None = None,
) -> str:
    """Publish the classifier of the seed that is nearest to the ensemble of all seeds at the largest size.

    Args:
        study (`Study`):
            A trained study with `train.save_models`.
        variant (`str`):
            The training labels.
        repo (`str`):
            `owner/name` of the model repo; created if missing.
        private (`bool`, *optional*, defaults to `False`):
            Create the repo as private.
        revision (`str`, *optional*):
            A branch; created if missing. `main` by default.
        create_pr (`bool`, *optional*, defaults to `False`):
            Open a pull request instead of committing.
        dataset (`str`, *optional*):
            The dataset repo of this study, which the card links.

    Returns:
        `str`: the address of the commit, or of the pull request.

    Raises:
        UserError: the study is not trained or kept no classifiers, the repo has another model or cannot be written, or
            the published model gives other predictions than the study.
    """
    from huggingface_hub import snapshot_download

    with TemporaryDirectory(prefix="hf-recipes-") as folder, study.lock():
        labels = read_labels(study)
        runs = Runs(study, labels)
        chosen = find_classifiers(study, runs, variant)
        results = measure(study, labels, runs)
        probs = np.stack([read_probs(study, run, labels.test) for run in chosen])
        nearest = find_nearest(probs)
        run, stored = chosen[nearest], probs[nearest]
        agreement = float((stored.argmax(axis=1) == probs.mean(axis=0).argmax(axis=1)).mean())
        place = runs.paired(variant, run.size).index(run)
        target = Target(repo, "model", f"{study.recipe.name}: {run}", revision or "main", create_pr)
        if dataset is not None:
            _check_dataset(target.api, dataset, study.recipe.name)
        published = Published(repo, run, place, len(chosen), agreement, len(stored), dataset)
        card = make_model_card(study, results, published, labels.annotations)
        texts = [str(text) for text in labels.test.texts]
        try:
            _compare(classifier_folder(study, run), study, texts, stored)  # a damaged model is not published
        except ValueError as error:
            raise UserError(
                f"`{classifier_folder(study, run)}` must be the study's model. {error}. Train it again."
            ) from None
        make_repo(target, private)
        planner = _Planner(target, study, run, card)
        address, sha, change = commit(target, planner.plan)
        with after_commit(target, address):
            check_files(target, sha, change)
            # A fresh folder: neither a cache nor a local folder with the repo's name can stand for the published files.
            model = snapshot_download(repo, revision=sha, cache_dir=folder, allow_patterns=list(change.files))
            difference = _compare(Path(model), study, texts, stored)
    if warning := describe_warning(results, variant):
        logger.warning(warning)
    log_change(target, sha, change)
    amount = f"differ by at most {difference:.1g} from" if difference else "are equal to"
    logger.info("Seed %s is published. Its predictions of %s test texts %s the study's.", run.name, len(stored), amount)
    return address


@dataclass
class _Planner:
    """Plans the commit for a model repo as it is at the moment of the call."""

    target: Target
    study: Study
    run: Run
    card: str

    def plan(self) -> Change:
        study, run, repo = self.study, self.run, self.target.repo
        head, paths = self.target.list_files()
        before = self._read_manifest(head)
        folder = classifier_folder(study, run)
        paths_here = chain.from_iterable(sorted(folder.glob(pattern)) for pattern in (*WEIGHTS, *SETTINGS))
        files: dict[str, Path | bytes] = {path.name: path for path in paths_here}
        manifest = {
            "study": study.recipe.name,
            "variant": run.variant,
            "size": run.size,
            "seed": run.name,
            "key": read_json(study.run(run) / "run.json")["key"],
            "version": __version__,
            "files": sorted(files),
        }
        files[MANIFEST] = (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()
        own = {*before.get("files", ()), MANIFEST}
        foreign = sorted((paths & files.keys()) - own)
        if foreign:
            raise UserError(f"--repo {repo}: has another model, for example `{foreign[0]}`. Name another --repo.")
        notes = []
        names = [
            f"{content['variant']}/n{content['size']}/{content['seed']}" for content in (before, manifest) if content
        ]
        if len(set(names)) > 1:
            notes.append(
                f"{repo}: had the classifier {names[0]}. Now it has {names[1]}. The former state is at {head}."
            )
        files["README.md"] = merge_model_card(
            self.target.read("README.md", head), study.recipe.name, self.card
        ).encode()
        stale = sorted((own & paths) - files.keys())
        return Change(head, files, stale, notes)

    def _read_manifest(self, head: str) -> dict[str, Any]:
        """Return the manifest of the classifier in the repo; empty if it has none.

        Raises:
            UserError: it is damaged, or of another study.
        """
        repo = self.target.repo
        try:
            content: dict[str, Any] = json.loads(self.target.read(MANIFEST, head) or "{}")
            is_whole = content == {} or (
                all(isinstance(content[name], str) for name in ("study", "variant", "seed"))
                and isinstance(content["size"], int)
                and all(isinstance(name, str) for name in content["files"])
            )
        except (LookupError, TypeError, AttributeError, ValueError):
            is_whole = False
        if not is_whole:
            raise UserError(f"--repo {repo}: `{MANIFEST}` is damaged. Correct or delete it.")
        if content and content["study"] != self.study.recipe.name:
            raise UserError(f"--repo {repo}: has a classifier of the study {content['study']}. Name another --repo.")
        return content


def _check_dataset(api: Any, dataset: str, study: str) -> None:
    """Raise `UserError` unless a dataset repo has the study."""
    try:
        paths = {file.rfilename for file in api.repo_info(dataset, repo_type="dataset").siblings}
    except Exception as error:  # the Hub's own errors, and all that a network can do
        raise UserError(f"--dataset {dataset}: {explain_error(error)}") from None
    if f"{HOME}/{study}/study.json" not in paths:
        raise UserError(f"--dataset {dataset}: must have the study {study}. Try hf-recipes push dataset first.")


def _compare(folder: Path, study: Study, texts: list[str], stored: np.ndarray) -> float:
    """Return the largest difference of a model's probabilities from the stored ones.

    Raises:
        ValueError: the difference is larger than machines explain.
    """
    probs = Classifiers([folder], study.training).predict(texts)
    difference = float(np.abs(probs - stored).max())
    config = read_accelerate_config(study.training)
    is_exact = config["use_cpu"] and config["mixed_precision"] == "no"  # on GPUs float32 is TF32
    if not difference <= (MAX_DIFFERENCE if is_exact else MAX_DIFFERENCE_OF_FEW_DIGITS):
        raise ValueError(
            f"The model gives other predictions than the study: probabilities differ by up to {difference:.2g}"
        )
    return difference
