"""Keep what is shown in the address of the page, and read it from there."""

import json
import re
from typing import Any

import gradio as gr
import tables
from published import Study

#: The settings in the address, with their defaults. (Gradio uses `page` itself.)
LINK: dict[str, Any] = {
    "study": "",
    "view": "studies",
    "gold": "",
    "llm": "",
    "show": "wrong",
    "q": "",
    "order": "sure",
    "in": "",
    "at": 1,
    "variant": "llm",
    "size": 0,
    "only": "flips",
    "text": "",
    "seeds_at": 1,
    "first": "llm",
    "second": "gold",
    "compare_at": 0,
    "other": "",
    "load": "llm",
    "draw": 1,
    "guesses": "",
}
#: Replaces the address and adds no entry to the history, so that Back leaves the app.
REMEMBER = f"""(...values) => {{
  const names = {json.dumps(list(LINK))}, defaults = {json.dumps(list(LINK.values()))};
  const query = new URLSearchParams();
  const theme = new URLSearchParams(location.search).get("__theme");
  names.forEach((name, i) => {{
    const value = String(values[i] ?? "");
    const isDefault = value === String(defaults[i]) && !(name === "view" && query.has("study"));
    if (value !== "" && !isDefault) query.set(name, value);
  }});
  if (theme) query.set("__theme", theme);
  const search = query.toString();
  history.replaceState(history.state, "", search ? "?" + search : location.pathname);
  if (window.parent !== window) window.parent.postMessage({{queryString: search, hash: ""}}, "https://huggingface.co");
}}"""
TITLES = {"": "any", 0: "largest"}


def _options(study: Study) -> dict[str, list[Any]]:
    """Return the possible values of the settings that have few."""
    can = tables.choices(study)
    kinds = [kind for kind in tables.KINDS if can["gold"] or kind not in ("wrong", "right")]
    return {
        **{name: ["", *can["classes"]] for name in ("gold", "llm")},
        **dict.fromkeys(("variant", "first", "second"), can["trained"]),
        **{name: [0, *can["sizes"]] for name in ("size", "compare_at")},
        **{"in": ["", *can["variants"]], "load": can["variants"]},
        **{"show": kinds, "order": list(tables.ORDERS), "only": list(tables.SEEDS)},
    }


def read_address(study: Study, query: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Return the value of each setting, and sentences on values that the study does not have."""
    options, values, notices = _options(study), {}, []
    for name, default in LINK.items():
        value: Any = query.get(name, default)
        if isinstance(default, int):
            value = int(value) if re.fullmatch(r"[0-9]{1,9}", str(value)) else default
        if name in options and value not in options[name]:
            if name in query:
                notices.append(f"This study has no {name} `{value}`.")
            value = default if default in options[name] else next(iter(options[name]), None)
        values[name] = value
    # Without gold labels, the second variant is any other than the first one.
    if "second" not in query and values["second"] == values["first"] and not values["other"]:
        values["second"] = next((name for name in options["second"] if name != values["first"]), values["first"])
    return values, notices


def update_filters(study: Study, values: dict[str, Any]) -> list[Any]:
    """Return the updates of the components that show the settings."""
    options, updates = _options(study), []
    for name, value in values.items():
        if name in ("order", "only") or name not in options:
            updates.append(value)
            continue
        titles = tables.KINDS if name == "show" else {**TITLES, **({"": "none"} if name == "in" else {})}
        choices = [(titles.get(key, f"{key:,}" if isinstance(key, int) else key), key) for key in options[name]]
        updates.append(gr.update(choices=choices, value=value))
    return updates
