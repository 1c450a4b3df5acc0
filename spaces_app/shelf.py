"""Keep studies in memory, and the summaries of all published studies."""

import threading
import time
from collections import OrderedDict
from pathlib import Path

import limited
import yaml
from hub_studies import list_hub, read_hub
from published import Study, Summary, UnreadableError, read_folder, read_summary, summarize

HERE = Path(__file__).parent
SAMPLE = HERE / "sample"
MAX_STUDIES = 3  # in memory, in addition to the study of the Space
MAX_WAIT = 30  # seconds that a visitor waits while other studies are read
REFRESH_SECONDS = 3600  # between two readings of the Hub's list


class Shelf:
    """Keep in memory the study of the Space and the last few studies that visitors opened."""

    def __init__(self, first: Study, folder: Path | None):
        self.first = first
        self._folder = folder
        self._studies: OrderedDict[str, Study] = OrderedDict()
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self._own = [summarize(first.where, first.name, first.manifest, first.results)]
        if folder is not None:
            other_names = [name for name in first.studies if name != first.name]
            self._own += [read_summary(folder, name, first.where) for name in other_names]
        self._public: list[Summary] = []

    def get(self, spec: str) -> Study:
        """Return the study `owner/name` or `owner/name/study`; the first study if `spec` is empty."""
        spec = spec.strip().removeprefix("https://huggingface.co/datasets/").strip("/")[:300]
        if spec in ("", self.first.where, spec_of(self.first)):
            return self.first
        with self._lock:
            if spec in self._studies:
                self._studies.move_to_end(spec)
                return self._studies[spec]
        # Read one study at a time, because a study takes memory while it is read.
        if not self._reading.acquire(timeout=MAX_WAIT):
            raise UnreadableError("Other studies are being read. Try again in a minute.")
        try:
            if spec not in self._studies:
                study = self._read(spec)
                with self._lock:
                    self._studies[spec] = study
                    while len(self._studies) > MAX_STUDIES:
                        self._studies.popitem(last=False)
            return self._studies[spec]
        finally:
            self._reading.release()

    def _read(self, spec: str) -> Study:
        where, _, name = spec.rpartition("/")
        if self._folder is not None and where == self.first.where and name in self.first.studies:
            return read_folder(self._folder, name, where)
        return read_hub(spec)

    def folder_of(self, study: Study) -> Path | None:
        """Return the folder of a study; None if it is from the Hub."""
        return None if study.sha else self._folder

    def summaries(self) -> list[Summary]:
        """Return the summaries of the app's own and of the public studies, largest macro-F1 loss first."""
        by_spec = {summary.spec: summary for summary in (*self._public, *self._own)}
        return sorted(by_spec.values(), key=lambda summary: -1.0 if summary.loss is None else summary.loss)[::-1]

    def keep_listing(self) -> None:
        """Read the Hub's list of published studies again and again."""
        while True:
            self._public = list(list_hub())
            time.sleep(REFRESH_SECONDS)


def spec_of(study: Study) -> str:
    """Return the name by which a visitor opens a study."""
    return f"{study.where}/{study.name}"


def first_study(argument: str | None) -> tuple[Study, Path | None, str]:
    """Return the first study, its folder if it has one, and a notice if it is not the study that was requested."""
    front = yaml.safe_load((HERE / "README.md").read_text(encoding="utf-8").split("---")[1])
    spec = argument or "/".join([*(front.get("datasets") or [])[:1], *([front["study"]] if "study" in front else [])])
    if not spec:
        return read_folder(SAMPLE, where="sample"), SAMPLE, ""
    if Path(spec).is_dir():
        return read_folder(Path(spec)), Path(spec), ""
    limited.start()  # It imports its modules while the files are downloaded.
    try:
        return read_hub(spec, token=None), None, ""  # with the token of the Space, if any
    except UnreadableError as error:
        if argument:
            raise SystemExit(f"error: --study: {error}") from None
        return read_folder(SAMPLE, where="sample"), SAMPLE, f"{error} The sample is shown instead."
