"""Print docs/settings.md: every setting of a recipe, from the descriptions of its fields.

python docs/make_settings.py > docs/settings.md
"""

import inspect
import types
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hf_recipes.annotate_section import Annotate, Columns, Prompt, RayCluster
from hf_recipes.recipe import Accept, Crossed, Data, Grid, Recipe, Train

SECTIONS = {
    "The recipe": Recipe,
    "data": Data,
    "annotate": Annotate,
    "annotate.columns": Columns,
    "annotate.prompt": Prompt,
    "annotate.ray": RayCluster,
    "grid": Grid,
    "grid.crossed": Crossed,
    "train": Train,
    "accept": Accept,
}
NAMES = {str: "text", int: "integer", float: "number", bool: "true or false"}
TEMPLATE = Prompt.model_fields["template"]
BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
INTRODUCTION = """# Settings

Every setting of a recipe. Each can also be given on the command line, with a value in YAML:

```bash
hf-recipes plan hf_recipes/recipes/tweets-demo.yaml --name=two-epochs --train.epochs=2 --grid.seeds="[0, 1, 2, 3, 4]"
```

Give it in every step, or write it into the recipe. Paths are relative to the working directory. Variants, sizes, seeds
and passes can be added to a finished study. For other changes add `--accept-changes`, or choose another `name`.
The study's `recipe.yaml` contains all settings.

`python docs/make_settings.py > docs/settings.md` writes this page.
"""


def name_type(kind: object) -> str:
    """Return the name of a type for people."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return name_type(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(name_type(part) for part in arguments if part is not types.NoneType))
    if origin is list:
        return f"list of {name_type(arguments[0])}"
    if origin is dict:
        return "mapping"
    return NAMES.get(kind, "section")


def describe_type(field: FieldInfo) -> str:
    """Return the type of a field with its bounds."""
    bounds = []
    for rule in field.metadata:
        bounds += [f"{sign} {getattr(rule, name)}" for name, sign in BOUNDS.items() if hasattr(rule, name)]
    return " ".join([name_type(field.annotation), ", ".join(bounds)]).strip()


def describe_default(field: FieldInfo) -> str:
    """Return the default of a field."""
    if field.is_required():
        return "required"
    if field.default is None:
        return "null"
    if field.default_factory or isinstance(field.default, BaseModel) or field is TEMPLATE:
        return "see there"
    text = str(field.default).replace("'", "")
    return f"`{text.lower() if isinstance(field.default, bool) else text}`" if text else "empty"


def make_page() -> str:
    """Return the page."""
    parts = [INTRODUCTION]
    for title, section in SECTIONS.items():
        rows = [
            f"| `{name}` | {describe_type(field)} | {describe_default(field)} | {field.description} |"
            for name, field in section.model_fields.items()
        ]
        heading = title if section is Recipe else f"`{title}`"
        header = "| setting | type | default | what it does |\n|---|---|---|---|"
        parts.append(f"## {heading}\n{inspect.getdoc(section)}\n\n{header}\n" + "\n".join(rows) + "\n")
    parts.append(f"## The default of `annotate.prompt.template`\n```jinja\n{TEMPLATE.default}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(make_page(), end="")
