"""The dataset folder: one config per arm, as parquet files that `load_dataset` reads offline, and a card.

load_dataset("studies/tweets-demo/dataset", "llm-entropy-replace")
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from . import arms
from .annotate import load_annotations
from .arms import build_pool, training_labels
from .audit import audited_gold, with_audit
from .data import NO_GOLD, Rows, is_url, load_rows
from .findings import cell, describe, how_made, how_trained
from .quality import describe as describe_labels
from .recipe import CONFIDENT, CONTROLS, ArmName
from .study import Study, hash_files, hash_ids, make_key, read_json, versions, write_text
from .votes import flipped

logger = logging.getLogger(__name__)

TEMPLATE = Path(__file__).parent / "templates" / "dataset_card.md"
SEED = 0  # of the published random control; each training run draws its own
SAID: dict[ArmName, str] = {  # what an arm trains on; {share} of the rows
    "gold": "the source's own labels",
    "llm": "the LLM's",
    "llm-soft": "the LLM's; studies train on its probabilities (`llm_probs`)",
    "llm-entropy-replace": "the LLM's; the {share} with the highest entropy replaced by gold",
    "llm-random-replace": "the LLM's; {share} drawn at random replaced by gold (the control of the former)",
    "llm-matched-replace": "the LLM's; as many of each class drawn at random replaced by gold (another control)",
    "llm-audit": "the LLM's; those of texts drawn at random are gold, and studies give them the weight that makes the "
    "loss that of gold on average",
    "llm-majority": "the commonest of all passes",
    "llm-raw": "the LLM's without calibration",
    "llm-then-gold": "the LLM's; studies train on them, and then on the gold labels of {share}",
    "one-rater": "of one of the source's raters, drawn at random",
    "llm-dawid-skene": "all passes together, by Dawid and Skene",
    "llm-flip-replace": "the LLM's; where the passes differ, gold",
    "llm-flip-random-replace": "the LLM's; as many drawn at random replaced by gold (the control of the former)",
    "llm-entropy-drop": "the LLM's, without the {share} with the highest entropy",
    "llm-balanced-drop": "the LLM's, without the {share} of each of its classes with the highest entropy",
    "llm-random-drop": "the LLM's, without {share} drawn at random (the control of the former)",
    "llm-confident-drop": "the LLM's, without those that confident learning calls wrong, in each run anew",
    "llm-confident-random-drop": "the LLM's, without as many drawn at random (the control of the former)",
    "gold-only": "the source's own, of {share} of the rows alone",
    "gold-only-long": "the same; studies train on them as long as on all",
    "noise-fixed": "the source's own, changed at random as often as the LLM errs, class by class",
    "noise-redrawn": "the same; studies draw the changes anew for each run",
}


def write_variants(study: Study) -> None:
    """Writes `dataset/` if it is not there already for these labels.

    A config holds the whole pool: an arm that ranks or draws does so over the pool here, whereas a training run ranks
    and draws within its own subset.

    Args:
        study (`Study`):
            An annotated study.

    Raises:
        UserError: the study is not annotated.
    """
    content = _Content(study)
    with study.lock():
        if content.is_written():
            return
        if (read_json(study.dataset_manifest) or {}).get("key") == content.key and study.dataset.exists():
            logger.warning("%s: not as hf-recipes wrote it; it is made again from the labels", study.dataset)
        with study.whole_folder(study.dataset) as folder:
            for arm in content.arms:
                _write_split(folder / "data" / arm, "train", _train_columns(arm, content))
            if len(content.test):
                _write_split(folder / "data" / "test", "test", _test_columns(content.test))
            write_text(
                folder / "README.md", _render_card(study, content, folder, str(study.dataset), "", True, [], [], [])
            )
        study.write_json(study.dataset_manifest, {"key": content.key})


def is_written(study: Study) -> bool:
    """Whether the dataset folder of an annotated study is there and up to date."""
    return _Content(study).is_written()


class _Content:
    """What the dataset folder is made from, and the key of it."""

    def __init__(self, study: Study):
        recipe = study.recipe
        self._study = study
        rows, self.test = load_rows(study)
        self.annotations = load_annotations(study, rows)
        self.pool = build_pool(rows, self.annotations, with_gold=recipe.grid is not None and not recipe.few_gold)
        if recipe.few_gold:
            self.pool = with_audit(study, self.pool)
            found = audited_gold(study, "test", self.test)
            self.test = replace(self.test, gold=self.test.gold if found is None else found[0])
        named: list[ArmName] = list(recipe.grid.arms) if recipe.grid else ["llm"]
        self.arms = [arm for arm in named if arm not in CONFIDENT]  # of these each run has rows of its own
        self.share = recipe.grid.replace_share if recipe.grid else 0.0
        pool, test = self.pool, self.test
        self.key = make_key(
            recipe={"name": recipe.name, "data": recipe.data.model_dump(mode="json"), "arms": self.arms},
            share=self.share,
            annotations=[one.key for one in self.annotations],
            pool=hash_ids(
                f"{i} {p.tolist()} {g} {v.tolist()}"
                for i, p, g, v in zip(pool.ids, pool.probs, pool.gold, pool.votes, strict=True)
            ),
            test=hash_ids(f"{i} {g}" for i, g in zip(test.ids, test.gold, strict=True)),
            code=[hash_files(path) for path in (TEMPLATE, Path(__file__), Path(arms.__file__))],
            versions=versions("datasets", "pyarrow", "huggingface_hub"),
        )

    def is_written(self) -> bool:
        manifest = read_json(self._study.dataset_manifest)
        if manifest is None or manifest["key"] != self.key:
            return False
        if not self._study.dataset.exists():
            return False
        return self._study.checksums.is_intact(self._study.dataset)


def _write_split(folder: Path, split: str, columns: tuple[dict[str, Any], Any]) -> None:
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    folder.mkdir(parents=True)
    values, features = columns
    with (folder / f"{split}-00000-of-00001.parquet").open("wb") as stream:  # a path may be taken for a URL
        Dataset.from_dict(values, features=features).to_parquet(stream)


def _train_columns(arm: ArmName, content: _Content) -> tuple[dict[str, Any], Any]:
    from datasets import ClassLabel, Features, List, Value

    pool = content.pool
    labels = training_labels(arm, pool, np.arange(len(pool.ids)), content.share, SEED)
    classes = ClassLabel(names=pool.label_names)
    rows, first = np.unique(labels.rows, return_index=True)
    source = "noise" if arm.startswith("noise-") else "rater" if arm == "one-rater" else "gold"
    values = {
        "id": [pool.ids[i] for i in rows],
        "text": [pool.texts[i] for i in rows],
        "label": labels.labels[first],
        "label_source": np.where(labels.from_gold[first], source, "llm"),
        "gold": pool.gold[rows],
        "llm_label": pool.llm[rows],
        "llm_probs": list(pool.probs[rows]),
        "entropy": pool.entropy[rows],
        "covered": pool.covered[rows],
    }
    features = Features(
        {
            "id": Value("string"),
            "text": Value("string"),
            "label": classes,
            "label_source": Value("string"),
            "gold": classes,
            "llm_label": classes,
            "llm_probs": List(Value("float64"), length=len(pool.label_names)),
            "entropy": Value("float64"),
            "covered": Value("float64"),
        }
    )
    if pool.votes.shape[1] > 1:
        values |= {"votes": list(pool.votes[rows]), "flipped": flipped(pool.votes[rows])}
        features |= {"votes": List(classes, length=pool.votes.shape[1]), "flipped": Value("bool")}
    return values, features


def _test_columns(test: Rows) -> tuple[dict[str, Any], Any]:
    from datasets import ClassLabel, Features, Value

    features = Features({"id": Value("string"), "text": Value("string"), "label": ClassLabel(names=test.label_names)})
    return {"id": test.ids, "text": test.texts, "label": test.gold}, features


def make_card(study: Study, repo: str, prefix: str, texts: bool, configs: list[str], measured: bool) -> str:
    """The card of a published study, with what was found.

    Args:
        study (`Study`):
            A study with its dataset folder.
        repo (`str`):
            Where it is published.
        prefix (`str`):
            What the names of its configs begin with there.
        texts (`bool`):
            Whether the texts are there.
        configs (`list[str]`):
            All its configs, without the prefix.
        measured (`bool`):
            Whether the results are those of the runs as they are.
    """
    labels, results = read_json(study.labels_file), read_json(study.results_file) if measured else None
    said = [cell(sentence) for sentence in describe_labels(labels)] if labels else []
    limits: list[str] = []
    if results:
        found = describe(results)
        both = [*found["findings"], *found["more"]]
        said += [f"**{title}** {cell(text)}" for title, text in both if title != "The labels."]
        limits = [cell(sentence) for sentence in found["limits"]]
    return _render_card(study, _Content(study), study.dataset, repo, prefix, texts, configs, said, limits)


def make_findings(study: Study, measured: bool) -> dict[str, Any]:
    """What was found, in the words of the report, for those who show a published study: findings.json.

    Args:
        study (`Study`):
            An annotated study.
        measured (`bool`):
            Whether the results are those of the runs as they are.

    Returns:
        `dict` with `findings`, `more`, `limits` (of `findings.describe`, empty without results), `methods` (null
        without), `labels` (of `quality.describe`), `arms` (what each trains on) and `controls` (of arms that have one).
    """
    labels, results = read_json(study.labels_file), read_json(study.results_file) if measured else None
    grid = study.recipe.grid
    named: list[ArmName] = list(grid.arms) if grid else ["llm"]
    share = f"{100 * grid.replace_share:g}%" if grid else ""
    return {
        **(describe(results) if results else {"findings": [], "more": [], "limits": []}),
        "methods": how_made(study, results) if results else None,
        "labels": describe_labels(labels) if labels else [],
        "arms": {arm: SAID[arm].format(share=share) for arm in named},
        "controls": {arm: control for arm, control in CONTROLS.items() if arm in named and control in named},
    }


def _render_card(
    study: Study,
    content: _Content,
    folder: Path,
    where: str,
    prefix: str,
    texts: bool,
    configs: list[str],
    findings: list[str],
    limits: list[str],
) -> str:
    from huggingface_hub import DatasetCard, DatasetCardData

    recipe, pool, test = study.recipe, content.pool, content.test
    manifest = read_json(study.annotations(content.annotations[0].key) / "manifest.json")
    source = _source_card(recipe.data.path)
    data = DatasetCardData(
        license=source.get("license"),
        language=source.get("language"),
        task_categories=["text-classification"],
        annotations_creators=["machine-generated"],
        source_datasets=None if Path(recipe.data.path).exists() or is_url(recipe.data.path) else [recipe.data.path],
        tags=["hf-recipes", "llm-labels"],
        configs=[
            {
                "config_name": arm,
                # a local folder's cache in `datasets` goes by its name and these lines alone, and all are named dataset
                "description": f"{recipe.name}, {content.key}",
                "data_files": [
                    {"split": "train", "path": f"data/{arm}/train-*.parquet"},
                    *([{"split": "test", "path": "data/test/test-*.parquet"}] if len(test) else []),
                ],
                **({"default": True} if arm == "llm" else {}),
            }
            for arm in content.arms
        ],
    )
    card = DatasetCard.from_template(
        data,
        template_path=str(TEMPLATE),
        key=content.key,
        licence=source.get("license"),
        source=read_json(study.rows / "manifest.json")["source"],
        recipe=recipe,
        manifest=manifest,
        classes=[cell(name) for name in pool.label_names],
        made=cell(how_trained(study)) if "runs" in configs else None,
        rows={arm: pq.read_metadata(next((folder / "data" / arm).iterdir())).num_rows for arm in content.arms},
        pool_size=len(pool.ids),
        test_size=len(test),
        test_gold=int((test.gold != NO_GOLD).sum()),
        audited=None if pool.audited is None else int((pool.gold != NO_GOLD).sum()),
        arms=content.arms,
        arms_said={arm: SAID[arm].format(share=f"{100 * content.share:g}%") for arm in content.arms},
        calibration=pool.calibrations[0],
        accuracy=float((pool.llm == pool.gold)[pool.gold != NO_GOLD].mean()) if (pool.gold != NO_GOLD).any() else None,
        passes=pool.votes.shape[1],
        covered=float(pool.covered.mean()),
        prompt=(manifest["prompt"] if texts else recipe.annotate.prompt.instruction).replace("```", "` ` `"),
        demonstrations=len(manifest["ingredients"]["shown"]),
        where=where,
        prefix=prefix,
        texts=texts,
        tables=[name for name in configs if name not in content.arms],
        findings=findings,
        limits=limits,
    )
    return str(card)


def _source_card(path: str) -> dict[str, Any]:
    """The metadata of the source's card, as far as it is at hand."""
    from huggingface_hub import DatasetCard, constants

    local = Path(path)
    if local.exists():
        file = local / "README.md"
        return dict(DatasetCard.load(file).data.to_dict()) if file.is_file() else {}
    if is_url(path) or constants.HF_HUB_OFFLINE:
        return {}
    try:
        return dict(DatasetCard.load(path).data.to_dict())
    except Exception:  # it has none, or the network is away: the licence is then unknown, and the card says so
        return {}
