"""Let a visitor label ten texts of a study, and compare the visitor's score with the LLM's and a classifier's.

The ten are training texts with a gold label, because a study does not publish the LLM's labels of its test texts. The
classifier was trained on the LLM's labels of other texts. Studies of earlier versions have no classifier here.
"""

import hashlib
import re
from typing import Any
from urllib.parse import urlencode

import gradio as gr
from pages import PRIVATE, Page
from published import Pool, Study
from scipy.stats import binomtest
from words import notes, safe, table

NUM_TEXTS = 10
MAX_BUTTONS = 8  # classes; more are a menu
WHO = {"you": "guess", "llm": "llm", "classifier": "classifier"}  # in a score, and in a text
GUESSES = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3}){0,9})(?:-([0-9a-f]{6}))?")
SUBMIT = """
element.addEventListener("submit", (event) => {
  event.preventDefault();
  const texts = [...element.querySelectorAll("fieldset")];
  trigger("submit", {guesses: texts.map((text) => text.querySelector("input:checked, select").value).join(".")});
});
"""
COPY = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const address = new URL(button.dataset.copy, location.href).href;
  navigator.clipboard?.writeText(address).then(() => { button.textContent = "Copied"; });
});
"""
SHOW_SCORE = """() => setTimeout(() => {
  const score = document.querySelector("#score .score");
  if (!score) return;
  score.focus({preventScroll: true});
  score.scrollIntoView({block: "nearest"});
}, 50)"""
STYLE = """
fieldset { border: 1px solid var(--line); border-radius: 10px; padding: .6rem 1rem .4rem; margin: 0 0 .8rem;
  min-width: 0; }
legend { font-size: .86rem; color: var(--quiet); padding: 0 .3rem; }
blockquote { margin: 0 0 .5rem; padding: 0; border: 0; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.5;
  max-height: 16rem; overflow: auto; }
.options { display: flex; flex-wrap: wrap; gap: .4rem; }
label { display: inline-flex; align-items: center; gap: .45rem; min-height: 44px; padding: 0 .8rem; border-radius: 8px;
  border: 1px solid var(--line); cursor: pointer; overflow-wrap: anywhere; }
input { appearance: auto; width: 1.1rem; height: 1.1rem; accent-color: #0072B2; }
label:has(:checked) { background: var(--soft); border-color: currentColor; }
select { min-height: 44px; max-width: 100%; background: transparent; border: 1px solid var(--line);
  border-radius: 8px; }
.outcome { min-height: 3.2rem; margin: .4rem 0 0; line-height: 1.6rem; overflow-wrap: anywhere; }
button { min-height: 44px; padding: 0 1.2rem; border-radius: 8px; font-weight: 600; color: #fff; background: #0072B2; }
button:disabled { opacity: .5; }
"""
SCORE_STYLE = """
h3 { min-height: 3.2rem; }
.share { display: flex; flex-wrap: wrap; gap: .8rem; align-items: center; }
.share a { text-decoration: underline; overflow-wrap: anywhere; }
.share button { min-height: 44px; padding: 0 1.2rem; border-radius: 8px; border: 1px solid var(--line); }
"""


class GuessError(ValueError):
    """Report in a sentence why guesses cannot be scored."""


def play(study: Study, draw: int, guesses: str) -> dict[str, Any]:
    """Return ten texts of a study. With guesses, also return their gold labels, the LLM's labels and both scores.

    Args:
        draw (`int`): another number draws other texts.
        guesses (`str`): the class index of each text, joined by dots; empty before the visitor has guessed. The check
            that `guesses` of a result ends with may follow: it refuses guesses about other texts.

    Raises:
        GuessError: the guesses do not fit the texts.
    """
    pool, names = study.pool, study.classes
    usable = [i for i, text in enumerate(pool.texts) if text.strip() and pool.gold[i] >= 0 and pool.llm[i] >= 0]
    has_classifier = bool((pool.classifier >= 0).any())
    if has_classifier:
        usable = [i for i in usable if pool.classifier[i] >= 0]
    rows = _draw(pool, usable, draw)
    ids = "\n".join(pool.ids[i] for i in rows)
    check = hashlib.blake2b(ids.encode(), digest_size=3).hexdigest()
    chosen = _parse(guesses, len(rows), len(names), check) if guesses and rows else None
    texts: list[dict[str, Any]] = [{"id": pool.ids[i], "text": pool.texts[i]} for i in rows]
    score = None
    if chosen is not None:
        for text, row, guess in zip(texts, rows, chosen, strict=True):
            text |= {"gold": names[pool.gold[row]], "llm": names[pool.llm[row]], "guess": names[guess]}
            text["classifier"] = names[pool.classifier[row]] if has_classifier else None
        score = {name: sum(text[key] == text["gold"] for text in texts) for name, key in WHO.items()}
        if not has_classifier:
            score["classifier"] = None
        guesses = f"{'.'.join(map(str, chosen))}-{check}"
    link = {"study": f"{study.where}/{study.name}", "view": "guess", "draw": draw}
    overall = {}
    for name, labels in {"llm": pool.llm, **({"classifier": pool.classifier} if has_classifier else {})}.items():
        num_right = sum(bool(pool.gold[i] == labels[i]) for i in usable)
        overall[name] = {"right": num_right, "n": len(usable), "interval": _wilson(num_right, len(usable))}
    return {
        **{"draw": draw, "classes": names, "texts": texts, "score": score, "guesses": guesses},
        "llm_wrong": sum(bool(pool.gold[i] != pool.llm[i]) for i in rows),
        "overall": overall,
        "link": urlencode(link | ({"guesses": guesses} if guesses else {})),
        "missing": [] if usable else [_missing(study)],
    }


def _draw(pool: Pool, usable: list[int], draw: int) -> list[int]:
    """Return the first rows by a salted hash of their ids: half of them with a wrong label if there are enough."""

    def key(row: int) -> bytes:
        return hashlib.blake2b(f"guess/{draw}\0{pool.ids[row]}".encode(), digest_size=12).digest()

    order = sorted(usable, key=key)
    wrong = [i for i in order if pool.gold[i] != pool.llm[i]]
    right = [i for i in order if pool.gold[i] == pool.llm[i]]
    num_wrong = max(min(len(wrong), NUM_TEXTS // 2), NUM_TEXTS - len(right))
    return sorted(wrong[:num_wrong] + right[: NUM_TEXTS - num_wrong], key=key)


def _parse(guesses: str, num_texts: int, num_classes: int, check: str) -> list[int]:
    match = GUESSES.fullmatch(guesses)
    chosen = [int(guess) for guess in match[1].split(".")] if match else []
    if not match or len(chosen) != num_texts or max(chosen) >= num_classes:
        example = ".".join(["0"] * num_texts)
        raise GuessError(
            f"`guesses` must be {num_texts} class indices below {num_classes}, joined by dots. Got '{guesses[:60]}'. "
            f"Try {example}."
        )
    if match[2] not in (None, check):
        raise GuessError("The score in this link is for other texts: the study has changed. Try the texts below.")
    return chosen


def _missing(study: Study) -> str:
    if not study.texts:
        return "This study does not publish its texts, so there is nothing to guess. Try another study."
    if not (study.pool.gold >= 0).any():
        return "This study has no gold labels for its training texts, so no guess can be scored. Try another study."
    return "No training text of this study has both a gold label and an LLM label. Try another study."


def _wilson(right: int, n: int) -> list[float] | None:
    if not n:
        return None
    interval = binomtest(right, n).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def page(data: Any, study: Any) -> Page:
    """Build the page of the ten texts, the score, and the link to it."""
    top = gr.HTML()
    form = gr.HTML(js_on_load=SUBMIT, css_template=STYLE, apply_default_css=False, elem_id="guess")
    score = gr.HTML(js_on_load=COPY, css_template=SCORE_STYLE, elem_id="score")
    other_texts = gr.Button("Ten other texts")
    draw = gr.Number(1, visible="hidden", precision=0, label="draw")
    guesses = gr.Textbox("", visible="hidden", label="guesses")

    def write(game: dict[str, Any], spec: str, in_link: str) -> tuple[Any, ...]:
        notice, shared = "", None
        try:
            shared = play(data.get(spec), game["draw"], in_link) if in_link and game["texts"] else None
        except GuessError as error:
            notice = str(error)
        return _top(game, shared, notice), _form(game), _score(game, shared), gr.update(visible=bool(game["texts"]))

    def show(spec: str, number: int, in_link: str) -> tuple[Any, ...]:
        return write(data.guess_labels(spec, number), spec, in_link)

    def submit(spec: str, number: int, in_link: str, event: gr.EventData) -> tuple[Any, ...]:
        game = data.guess_labels(spec, number, str(event.guesses)[:100])
        return game["guesses"], *write(game, spec, in_link)

    def draw_again(spec: str, number: int) -> tuple[Any, ...]:
        return number + 1, "", *show(spec, number + 1, "")

    inputs, outputs = [study, draw, guesses], [top, form, score, other_texts]
    form.submit(submit, inputs, [guesses, *outputs], **PRIVATE).then(None, js=SHOW_SCORE)
    other_texts.click(draw_again, [study, draw], [draw, guesses, *outputs], **PRIVATE).then(
        None, js="() => document.querySelector('#guess').scrollIntoView({block: 'start'})"
    )
    return Page(show, inputs, outputs, {"draw": draw, "guesses": guesses})


def _top(game: dict[str, Any], shared: dict[str, Any] | None, notice: str) -> str:
    """Write what is compared, and the score in the link."""
    if game["missing"]:
        return notes(game["missing"])
    n, overall = len(game["texts"]), game["overall"]["llm"]
    lines = [notice] if notice else []
    if shared:
        scores = shared["score"]
        lines.append(
            f"The score in this link: {scores['you']} of {n} texts right. The LLM: {scores['llm']} of {n}. "
            "Label the same texts and compare."
        )
    return (
        f"<h3>Guess the label</h3><p>Label {n} texts. Your labels, the LLM's{_and_classifier(game)} are compared with "
        "gold.</p>"
        f"<p class='caption'>The texts are drawn so that the LLM is wrong on {game['llm_wrong']} of {n}. On all "
        f"{overall['n']:,} texts with gold it is right on {overall['right']:,}.</p>{notes(lines)}"
    )


def _and_classifier(game: dict[str, Any]) -> str:
    return ", and those of a classifier that was trained on other texts" if "classifier" in game["overall"] else ""


def _form(game: dict[str, Any]) -> str:
    """Write the texts with their classes to choose from. After scoring, each text has its outcome in reserved space."""
    if game["missing"]:
        return ""
    is_scored = game["score"] is not None
    disabled, cards = " disabled" if is_scored else "", []
    for i, text in enumerate(game["texts"]):
        outcome = ""
        if is_scored:
            verdict = "Right" if text["guess"] == text["gold"] else "Wrong"
            outcome = f"<b>{verdict}.</b> Gold: {safe(text['gold'])}. LLM: {safe(text['llm'])}."
            if text["classifier"] is not None:
                outcome += f" Classifier: {safe(text['classifier'])}."
        cards.append(
            f"<fieldset{disabled}><legend>Text {i + 1} of {len(game['texts'])}</legend>"
            f'<blockquote dir="auto">{safe(text["text"])}</blockquote>'
            f'{_options(i, game["classes"], text.get("guess"))}<p class="outcome">{outcome}</p></fieldset>'
        )
    return f'<form>{"".join(cards)}<button type="submit"{disabled}>Compare with the LLM</button></form>'


def _options(text: int, names: list[str], guess: str | None) -> str:
    if len(names) > MAX_BUTTONS:
        options = "".join(
            f'<option value="{k}"{" selected" if name == guess else ""}>{safe(name)}</option>'
            for k, name in enumerate(names)
        )
        return f'<select required aria-label="Class"><option value="">Choose a class</option>{options}</select>'
    labels = "".join(
        f'<label><input type="radio" name="guess-{text}" value="{k}" required{" checked" if name == guess else ""}>'
        f"{safe(name)}</label>"
        for k, name in enumerate(names)
    )
    return f'<div class="options">{labels}</div>'


def _score(game: dict[str, Any], shared: dict[str, Any] | None) -> str:
    """Write the scores and the link to them. Before there is a score, its cells are empty and take the same space."""
    if game["missing"]:
        return ""
    n, empty = len(game["texts"]), ["–", "–", "–"]
    titles = {"llm": "LLM", "classifier": "Classifier"}
    headline, you, players = "Your score appears here", empty, dict.fromkeys(game["overall"], empty)
    if score := game["score"]:
        order = "as many as" if score["you"] == score["llm"] else "more than"
        order = "fewer than" if score["you"] < score["llm"] else order
        headline = f"You are right on {score['you']} of {n} texts, {order} the LLM ({score['llm']})"
        you = _share(score["you"], n, _wilson(score["you"], n))
        players = {name: _share(score[name], n, None) for name in players}
    rows = [["You", *you]]
    if shared:
        rows.append(["The link", *_share(shared["score"]["you"], n, _wilson(shared["score"]["you"], n))])
    rows += [[titles[name], *cells] for name, cells in players.items()]
    rows += [
        [f"{titles[name]}, all texts", *_share(overall["right"], overall["n"], overall["interval"])]
        for name, overall in game["overall"].items()
    ]
    link = safe(f"?{game['link']}")
    return (
        f'<section class="score" tabindex="-1"><h3>{headline}</h3>'
        + table(["labels of", "right", "share", "interval"], rows, "Scores against gold", "numbers")
        + "<p class='caption'>95% Wilson intervals over texts. The draw fixes the other scores in this game, so they "
        "have no interval.</p>"
        f'<p class="share"><a href="{link}" target="_blank" rel="noopener">Link to share</a> '
        f'<button type="button" data-copy="{link}">Copy the link</button></p></section>'
    )


def _share(right: int, n: int, interval: list[float] | None) -> list[str]:
    bounds = f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "–"
    return [f"{right:,} of {n:,}", f"{right / n:.3f}", bounds]
