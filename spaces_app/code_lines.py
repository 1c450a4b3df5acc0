"""Write the lines of code that load a study and measure its runs again. They run as shown."""

import os
from pathlib import Path

from measuring import METRICS
from published import Study
from tables import pick_cell

SAMPLE = Path(__file__).parent / "sample"


def code_lines(study: Study, variant: str, folder: Path | None) -> dict[str, str]:
    """Return lines that load a variant, measure its runs, and copy the study; empty where the study has no such part.

    Args:
        folder (`Path`, *optional*): of a study that is not from the Hub.
    """
    variant = variant if variant in study.pool.variants else next(iter(study.pool.variants))
    # A Space has the metric modules, and the sample, in its own repo.
    space = os.environ.get("SPACE_ID")
    snapshot = f'space = snapshot_download("{space}", repo_type="space")\n' if space else ""
    metrics = 'f"{space}/metrics/seed_instability"' if space else f'"{METRICS.as_posix()}/seed_instability"'
    revision, repo = f', revision="{study.sha}"' if study.sha else "", f'"{study.where}"'
    if folder is not None:
        repo = 'f"{space}/sample"' if space and folder == SAMPLE else f'"{folder.resolve().as_posix()}"'
    imports = "from datasets import load_dataset\n"
    download = "from huggingface_hub import snapshot_download\n"
    in_space = "{space}" in repo
    load = (
        f"{imports}{download if in_space else ''}\n{snapshot if in_space else ''}"
        f'data = load_dataset({repo}, "{study.prefix}{variant}"{revision})\n'
        'print(data["train"][0])'
    )
    measure = ""
    if study.test is not None and study.test.runs:
        name, size = pick_cell(study, variant, 0)
        measure = (
            f"import evaluate\nimport numpy as np\n{imports}{download if space else ''}\n{snapshot}"
            f'runs = load_dataset({repo}, "{study.prefix}predictions", split="train"{revision})\n'
            f'runs = runs.filter(lambda row: row["run"].startswith("{name}/n{size}/"))\n'
            f'labels = np.array(runs["probs"]).argmax(axis=1).reshape(-1, {len(study.test.ids)})\n'
            f"seed_instability = evaluate.load({metrics})\n"
            'print(seed_instability.compute(predictions=labels)["pairwise_disagreement"])'
        )
    pull = ""
    if study.manifest and study.sha:
        several = f" --study {study.name}" if len(study.studies) > 1 else ""
        pull = (
            f"hf-recipes pull {study.where}{several} --revision {study.sha}\n"
            f"hf-recipes report studies/{study.name}/recipe.yaml"
        )
    return {"load_dataset": load, "evaluate": measure, "hf_recipes": pull}
