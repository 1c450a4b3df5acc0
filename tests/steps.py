"""Single steps of a study, each of which opens the study: tests change it in between."""

from hf_recipes.analysis import measure as results
from hf_recipes.data import open_rows
from hf_recipes.hub.dataset_folder import DatasetFolder
from hf_recipes.labels.pool import read_labels
from hf_recipes.report import label_quality as quality
from hf_recipes.training.runs import Runs


def load_rows(study):
    files = open_rows(study)
    return files.load("train"), files.load("test")


def open_runs(study):
    return Runs(study, read_labels(study))


def write_dataset(study):
    DatasetFolder(study, read_labels(study)).write()


def is_written(study):
    return DatasetFolder(study, read_labels(study)).is_written()


def write_labels(study):
    return quality.write_labels(study, read_labels(study))


def measure(study):
    labels = read_labels(study)
    return results.measure(study, labels, Runs(study, labels))
