"""Results made by hand: a test gives the fields that it is about, and the others get values that change nothing."""

from hf_recipes.analysis.schema import Figures, Results

DIFFERENCE = {
    **{"R": 3, "n": 100, "difference": 0.0, "interval": None, "p_value": None, "detectable": None},
    **{"verdict": "inconclusive", "variance": None},
}
VARIANT = {
    **{"R": 3, "n": 100, "n_gold": 100, "confidence_level": 0.95, "num_classes": 2, "gold_train_labels": [0]},
    **{"gold_prompt_labels": 0, "gold_validation_labels": 0, "train_label_accuracy": [None]},
    **{"accuracy_mean": None, "accuracy_mean_interval": None, "macro_f1_mean": None, "macro_f1_mean_interval": None},
    **{"macro_f1_sd": None, "macro_f1_sd_interval": None, "macro_f1_runs": [], "per_class_f1_mean": None},
    **{"majority_accuracy": None, "chance_level_runs": 0, "pairwise_disagreement": 0.1},
    **{"pairwise_disagreement_interval": None, "krippendorff_alpha": None, "krippendorff_alpha_interval": None},
    **{"unanimity": 0.5, "unanimity_interval": None},
}
ANNOTATOR = {
    **{"model": "some/model", "calibration": "none", "demonstrations": 0, "calibration_gold": 0, "n": 40, "n_gold": 40},
    **{"recall": {}, "gold_share": {}, "llm_share": {}, "nll": None, "kl": None, "kl_interval": None, "kl_n": 0},
    **{"one_annotator": None, "label_mass": 0.9, "status": {"ok": 40}, "truncated": 0},
}
FIGURES = {
    **{"key": "k", "study": "s", "label_names": ["a", "b"], "seeds": [0, 1, 2], "vary": ["subset", "init", "order"]},
    **{"R": 3, "n": 100, "audit": None, "confidence_level": 0.95, "lines": {}, "annotator": {}, "variants": []},
    **{"comparisons": [], "best_mitigation": None, "regained": [], "ensembles": [], "class_shares": []},
    **{
        "error_cells": [],
        "gold_match": [],
        "iso_accuracy": None,
        "plateaus": [],
        "components": [],
        "notes": [],
        "hours_per_seed": 0.1,
    },
}
LISTS = {
    "variants": VARIANT,
    "comparisons": {**DIFFERENCE, "primary": True, "p_holm": None},
    "gold_match": DIFFERENCE,
    "class_shares": {"group": None},
    "plateaus": {"n": 100, "item_se": 0.01},
}


def fill(fields):
    """Return the fields of a results.json with every missing one."""
    filled = {**FIGURES, **fields}
    for name, defaults in LISTS.items():
        filled[name] = [{**defaults, **record} for record in filled[name]]
    filled["annotator"] = {**ANNOTATOR, **filled["annotator"]}
    for cells in filled["error_cells"]:
        for change in (cells["copied_above_gold"], cells["copied_above_noise"], *(cells["since"] or {}).values()):
            if isinstance(change, dict):
                change |= {**DIFFERENCE, **change}
    return filled


def make_figures(fields):
    return Figures.model_validate({name: value for name, value in fill(fields).items() if name != "verdict"})


def make_results(fields):
    return Results.model_validate(fill(fields))
