"""The first screen of a report: the verdict, why, and what to do instead. The report and the Space show it.

The Space has links to the files of this folder, so they import nothing else of hf_recipes.
"""

from .content import Headline, WrongText, describe_headline, find_wrong_texts
from .page import STYLE, render_first_screen

__all__ = ["STYLE", "Headline", "WrongText", "describe_headline", "find_wrong_texts", "render_first_screen"]
