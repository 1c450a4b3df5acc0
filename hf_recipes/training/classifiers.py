"""Find the classifiers that runs kept, and label texts with one of them or with all."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, first_line
from ..models import Model, load_tokenizer
from ..recipe import Train
from ..study import Run, Study
from .devices import read_accelerate_config, set_precision, threads
from .fine_tuning import Tokens, predict
from .runs import Runs

ENSEMBLE = "ensemble"


def find_classifiers(study: Study, runs: Runs, variant: str, seed: str = ENSEMBLE) -> list[Run]:
    """Return the runs of a variant at the largest size: all of them for an ensemble, else that of one seed.

    Args:
        study (`Study`), runs (`Runs`):
            A trained study, and its runs.
        variant (`str`):
            A variant of the recipe.
        seed (`str`, *optional*, defaults to `"ensemble"`):
            The seed of a run, or `ensemble`.

    Raises:
        UserError: the recipe has no such variant or seed, or a run is not trained or kept no classifier.
    """
    if runs.method == "frozen":
        raise UserError(
            "`train.encoder_mode` must be finetune or both, as linear heads are not kept. Got frozen. Set it and "
            "`train.save_models`, and run hf-recipes train."
        )
    if variant not in study.grid.variants:
        raise UserError(f"`--variant` must be one of {', '.join(study.grid.variants)}. Got {variant}.")
    chosen = list(dict.fromkeys(runs.paired(variant, study.grid.sizes[-1])))
    if seed != ENSEMBLE:
        names = [run.name for run in chosen]
        if seed not in names:
            raise UserError(f"`--seed` must be {ENSEMBLE} or one of {', '.join(names)}. Got {seed}.")
        chosen = [chosen[names.index(seed)]]
    for run in chosen:
        if not runs.is_valid(run):
            raise UserError(f"{run}: must be trained with this recipe. Try hf-recipes train.")
        if not classifier_folder(study, run).is_dir():
            raise UserError(
                f"`train.save_models` must be true to keep classifiers. Got no {classifier_folder(study, run)}. Set it "
                "and run hf-recipes train again."
            )
    return chosen


def classifier_folder(study: Study, run: Run) -> Path:
    """Return the folder of a run's classifier and tokenizer."""
    return study.run(run) / "model"


class Classifiers:
    """Labels texts as the runs of a study did, by the mean probabilities of one or more classifiers.

    One classifier at a time is in memory.

    Args:
        folders (`list[Path]`):
            The classifiers, each with its tokenizer. All have the same tokenizer and classes.
        settings (`Train`):
            The recipe's section. Without the GPU that it names, the CPU is used.
    """

    def __init__(self, folders: list[Path], settings: Train):
        import torch
        from accelerate import Accelerator

        config = read_accelerate_config(settings)
        if config["use_cpu"]:
            torch.set_num_threads(threads(config))  # sums depend on it
        self._accelerator = Accelerator(cpu=config["use_cpu"], mixed_precision=config["mixed_precision"])
        set_precision(self._accelerator.device)
        self._folders, self._settings = folders, settings
        self._tokenizer = load_tokenizer("tokenizer", Model(str(folders[0]), folders[0], ""))
        self._in_memory: tuple[Path, Any] | None = None

    def predict(self, texts: list[str]) -> np.ndarray:
        """Return the mean of the classifiers' probabilities, of shape `(len(texts), K)`."""
        return self.predict_each(texts).mean(axis=0)

    def predict_each(self, texts: list[str]) -> np.ndarray:
        """Return the probabilities of each classifier, of shape `(R, len(texts), K)`."""
        with tempfile.TemporaryDirectory(prefix="hf-recipes-") as folder:
            tokens = Tokens(texts, self._tokenizer, self._settings.max_length, Path(folder) / "texts.tokens")
        rows, batch_size = np.arange(len(texts)), self._settings.eval_batch_size
        return np.stack(
            [
                predict(self._accelerator, self._load(folder), self._tokenizer, tokens, rows, batch_size)
                for folder in self._folders
            ]
        )

    def _load(self, folder: Path) -> Any:
        if self._in_memory is None or self._in_memory[0] != folder:
            self._in_memory = None  # frees the memory of the last one
            self._in_memory = folder, load_classifier(folder).to(self._accelerator.device)
        return self._in_memory[1]


def load_classifier(folder: Path) -> Any:
    """Return the classifier in a folder.

    Raises:
        UserError: it is damaged.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    try:
        return AutoModelForSequenceClassification.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
    except Exception as error:  # transformers and safetensors raise errors of many types
        raise UserError(
            f"`{folder}` must be a classifier with safetensors. {first_line(error)}. Delete its run's folder and run "
            "hf-recipes train again."
        ) from None


def find_nearest(probs: np.ndarray) -> int:
    """Return which of several classifiers is nearest to their ensemble.

    It has the most texts with the ensemble's label. Of equal ones it has the smallest mean difference of probabilities,
    then the first place.

    Args:
        probs (`np.ndarray` of shape `(R, n, K)`):
            The probabilities of each classifier.
    """
    mean = probs.mean(axis=0)
    disagreement = (probs.argmax(axis=2) != mean.argmax(axis=1)).mean(axis=1)
    distance = np.abs(probs - mean).mean(axis=(1, 2))
    return int(np.lexsort((distance, disagreement))[0])
