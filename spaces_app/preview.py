"""Write the head of the page: its title and picture in link previews, and its look until the content is there."""

import io
import re
from typing import Any

from gradio.routes import templates
from jinja2 import ChoiceLoader, DictLoader
from page_html import DECISIONS
from PIL import Image, ImageDraw, ImageFont
from shelf import Shelf
from starlette.responses import Response
from starlette.routing import Route

TITLE = "Can you trust an LLM's labels for training?"
SUBTITLE = "What it costs to train a classifier on labels of an LLM: published studies, and your own predictions."
SIZE = (1200, 630)
TEMPLATE = "frontend/index.html"
TAGS = f"""
<meta property="og:type" content="website" />
<meta property="og:title" content="{TITLE}" />
<meta property="og:description" content="{SUBTITLE}" />
<meta property="og:image" content="{{{{ config['root'] }}}}/thumbnail.png" />
<meta name="twitter:card" content="summary_large_image" />
<meta name="twitter:title" content="{TITLE}" />
<meta name="twitter:description" content="{SUBTITLE}" />
<meta name="twitter:image" content="{{{{ config['root'] }}}}/thumbnail.png" />
<style>
  body:not(.ready) .gradio-container {{ visibility: hidden; animation: show 0s 10s forwards; }}
  body:not(.ready)::before {{ content: "Loading …"; position: fixed; top: 45vh; width: 100%; text-align: center; }}
  @keyframes show {{ to {{ visibility: visible; }} }}
</style>"""


def write_tags() -> None:
    """Replace the tags of Gradio's page, which name Gradio in link previews."""
    loader: Any = templates.env.loader
    source = loader.get_source(templates.env, TEMPLATE)[0]
    page = re.sub(r'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>', "", source)
    templates.env.loader = ChoiceLoader([DictLoader({TEMPLATE: page.replace("<head>", f"<head>{TAGS}", 1)}), loader])


def thumbnail_route(shelf: Shelf) -> Route:
    """Return the route of the picture in link previews: the title, and the study of the Space with its verdict."""
    image = Image.new("RGB", SIZE, "#0f172a")
    draw = ImageDraw.Draw(image)
    large, small = (ImageFont.load_default(size) for size in (84, 44))
    draw.multiline_text((80, 90), "Can you trust\nan LLM's labels\nfor training?", "white", large, spacing=16)
    summary = next(summary for summary in shelf.summaries() if summary.name == shelf.first.name)
    text = f"{summary.name}: {DECISIONS[summary.decision].title}" if summary.decision else summary.name
    draw.text((80, 500), text[:45], "#94a3b8", small)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return Route("/thumbnail.png", lambda _: Response(buffer.getvalue(), media_type="image/png"))
