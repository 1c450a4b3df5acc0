"""Test the Space in a real browser: each page, wide and on a phone, light and dark, and by keyboard."""

import os
import re
import time

import httpx
import pytest
from playwright.sync_api import expect
from space_app import APP, copy_study, serve

SELECTORS = {  # an element that each page has when its content is there
    "studies": ".card .loss",
    "verdict": ".verdict h1",
    "labels": ".sheet.texts td .mass",
    "seeds": ".sheet.texts .pick",
    "compare": "text=gold labels consumed",
    "yours": "text=Do your runs agree?",
    "guess": "#guess fieldset",
    "check": "#checked .sheet",
    "use": "text=load_dataset",
}
WIDE, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}
WAIT = 60_000
MAX_SHIFT = 0.1  # the sum of a page's layout shifts
MAX_SECONDS = 5  # until the first content
RECORD_SHIFTS = """
window.shifts = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts.push(entry.value);
}).observe({type: "layout-shift", buffered: true});
"""
#: Text and controls whose right end is not on the screen. A title for screen readers has no size.
OFF_SCREEN = """() => [...document.querySelectorAll("body *")].filter((element) => {
  const box = element.getBoundingClientRect();
  const isVisible = element.checkVisibility({visibilityProperty: true}) && box.width > 1 && box.height > 1;
  const isLeaf = !element.children.length || element.matches("button, input");
  return isVisible && isLeaf && !element.closest("thead, .cm-scroller, svg") && box.right > innerWidth + 1;
}).map((element) => element.outerHTML.slice(0, 200))"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = copy_study(tmp_path_factory.mktemp("space") / "tweets-study")
    with serve(APP, "--study", folder, log=folder.parent / "app.log") as address:
        yield address


@pytest.fixture
def visit(browser, address):
    """Open the app, and fail if the console has errors or the page requests another host."""
    opened, complaints = [], []

    def go(query="", size=WIDE, theme="light"):
        page = browser.new_page(viewport=size, color_scheme=theme)
        opened.append(page)
        page.add_init_script(RECORD_SHIFTS)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if not is_own(request.url) else None)
        page.goto(f"{address}/?{query}&__theme={theme}", wait_until="domcontentloaded")
        return page

    def is_own(url):
        return url.startswith((address, "data:", "blob:"))

    yield go
    for page in opened:
        page.close()
    assert not complaints


def keep(page, name):
    if folder := os.environ.get("HF_RECIPES_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/space_{name}.png", full_page=True)


@pytest.mark.parametrize(
    ("size", "theme"),
    [
        pytest.param(WIDE, "light", id="wide-light"),
        pytest.param(PHONE, "dark", id="phone-dark"),
        pytest.param(WIDE, "dark", id="wide-dark", marks=pytest.mark.slow),
        pytest.param(PHONE, "light", id="phone-light", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", SELECTORS)
def test_each_page_is_whole_does_not_move_and_fits_the_screen(name, size, theme, visit):
    page = visit(f"view={name}", size, theme)
    expect(page.locator(SELECTORS[name]).first).to_be_visible(timeout=WAIT)
    page.wait_for_timeout(1500)  # for elements that arrive late
    keep(page, f"{name}_{'wide' if size is WIDE else 'phone'}_{theme}")
    assert sum(page.evaluate("window.shifts")) < MAX_SHIFT
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    if size is PHONE:
        assert page.evaluate(OFF_SCREEN) == []
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", light)[:3])) > 380) == (theme == "light")


def test_the_first_content_is_there_within_seconds(visit):
    seconds = []
    for _ in range(3):  # the first visit fills the caches of the app
        start = time.monotonic()
        expect(visit().locator(".card .loss")).to_be_visible(timeout=WAIT)
        seconds.append(time.monotonic() - start)
    assert min(seconds) < MAX_SECONDS


def test_the_verdict_is_stated_once_and_follows_the_limits(visit):
    page = visit("study=tweets-study/tweets")
    headline = page.locator(".verdict h1")
    expect(headline).to_contain_text("Do not train on these labels", timeout=WAIT)
    assert page.locator("body").inner_text().lower().count("do not train") == 1
    expect(page.locator("details[open]")).to_have_count(0)

    def move(title, limit, value):
        box = page.get_by_role("spinbutton", name=title)
        expect(box).to_have_value(limit, timeout=WAIT)  # the page is complete
        box.fill(str(value))
        box.press("Enter")

    move("Score lost", "0.05", 0.3)
    expect(page.locator(".limits .state").first).to_contain_text("holds", timeout=WAIT)
    expect(headline).to_contain_text("Do not train on these labels")
    move("Worst class F1", "0.5", 0)
    expect(headline).to_contain_text("You can train on these labels", timeout=WAIT)
    page.get_by_role("button", name="Reset limits").click()
    expect(headline).to_contain_text("Do not train on these labels", timeout=WAIT)


def test_a_card_opens_a_study_and_back_leaves_the_app(visit):
    page = visit()
    page.locator(".card").click(timeout=WAIT)
    expect(page.locator(".verdict h1")).to_be_visible(timeout=WAIT)
    expect(page).to_have_url(re.compile("view=verdict"))
    for tab, selector in (("Labels", "labels"), ("Seeds", "seeds"), ("Use it", "use")):
        page.get_by_role("tab", name=tab, exact=True).click()
        expect(page.locator(SELECTORS[selector]).first).to_be_visible(timeout=WAIT)
    expect(page).to_have_url(re.compile("view=use"))
    page.go_back()
    assert page.url == "about:blank"


def test_a_failed_open_keeps_the_input(visit):
    page = visit()
    box = page.get_by_label("Another study on the Hub")
    box.fill("not a study", timeout=WAIT)
    page.get_by_role("button", name="Open").click()
    expect(page.locator(".notice")).to_contain_text("must be `owner/name`", timeout=WAIT)
    expect(box).to_have_value("not a study")
    expect(page.locator(".card")).to_be_visible()
    box.fill("tweets-study/tweets")
    page.get_by_role("button", name="Open").click()
    expect(page.locator(".verdict h1")).to_be_visible(timeout=WAIT)
    expect(page.locator(".notice")).to_have_count(0)


def test_an_address_brings_back_what_was_seen_and_follows_what_is_done(visit):
    page = visit("view=labels&show=right&order=unsure")
    expect(page.locator(SELECTORS["labels"]).first).to_be_visible(timeout=WAIT)
    expect(page.locator(".off")).to_have_count(0)
    assert "show=right" in page.url
    page.get_by_label("Search in the texts").fill("qxqxqx")
    page.keyboard.press("Enter")
    expect(page.locator(".count").first).to_contain_text("0 of", timeout=WAIT)
    expect(page).to_have_url(re.compile("q=qxqxqx"))
    page.get_by_role("tab", name="Seeds").click()
    page.locator(".pick").first.click(timeout=WAIT)
    expect(page.locator(".one blockquote")).to_be_visible(timeout=WAIT)
    expect(page).to_have_url(re.compile("view=seeds.*text=[0-9a-f]{24}"))
    again = visit(page.url.partition("?")[2].replace("&__theme=light", ""))
    expect(again.locator(".one blockquote")).to_have_text(page.locator(".one blockquote").inner_text(), timeout=WAIT)


def test_a_cell_of_the_matrix_shows_its_texts(visit):
    page = visit("view=labels")
    cell = page.locator(".heat").nth(2)
    expect(cell).to_be_visible(timeout=WAIT)
    matrix = page.locator(".heat").all_inner_texts()
    count = int(cell.inner_text().split()[0])
    expect(page.locator(".off").first).to_be_visible(timeout=WAIT)  # opens on wrong labels
    cell.click()
    expect(page.locator(".count b").first).to_have_text(str(count), timeout=WAIT)
    expect(page).to_have_url(re.compile("gold=negative&llm=positive&show=all"))
    assert page.locator(".heat").all_inner_texts() == matrix  # the matrix ignores its own filter
    page.locator(".heat[aria-pressed=true]").click()
    expect(page).not_to_have_url(re.compile("gold="), timeout=WAIT)
    expect(page.locator(".count b").first).not_to_have_text(str(count))


def test_an_address_with_unknown_values_gets_a_notice(visit):
    page = visit("view=nowhere&variant=nobody&study=..%2Fetc&size=x")
    notice = page.locator(".notice")
    expect(notice).to_contain_text("no page `nowhere`", timeout=WAIT)
    expect(notice).to_contain_text("no variant `nobody`")
    expect(page.locator(".card")).to_be_visible(timeout=WAIT)


def test_everything_is_reached_by_keyboard(visit):
    page = visit("view=verdict")
    expect(page.locator(".verdict h1")).to_be_visible(timeout=WAIT)
    page.get_by_role("tab", name="Verdict").focus()
    page.keyboard.press("ArrowRight")
    if page.get_by_role("tab", name="Labels", exact=True).get_attribute("aria-selected") != "true":
        page.get_by_role("tab", name="Labels", exact=True).focus()
        page.keyboard.press("Enter")
    expect(page.locator(SELECTORS["labels"]).first).to_be_visible(timeout=WAIT)
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.innerText")
        )
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or page.evaluate("document.activeElement === document.body")
    assert {"Gold", "Show", "Training texts and their labels", "Next →"} <= reached
    page.get_by_role("tab", name="Seeds").focus()
    page.keyboard.press("Enter")
    page.locator(".pick").first.focus(timeout=WAIT)
    page.keyboard.press("Enter")
    expect(page.locator(".one blockquote")).to_be_visible(timeout=WAIT)


def test_predictions_are_measured_and_a_failed_measure_clears_the_result(visit, tmp_path):
    page = visit("view=yours")
    page.get_by_role("button", name="Measure").click(timeout=WAIT)
    expect(page.locator(".headline")).to_have_text("Your runs differ on 50% of texts", timeout=WAIT)
    expect(page.get_by_role("region", name="Texts on which your runs differ").locator("tbody tr")).to_have_count(3)
    expect(page.get_by_text("pairwise disagreement").first).to_be_visible()
    with page.expect_download(timeout=WAIT) as download:
        page.get_by_text("Download the report").click()
    download.value.save_as(tmp_path / "report.md")
    assert "| pairwise disagreement |" in (tmp_path / "report.md").read_text()
    page.get_by_label("Paste a table or JSON").fill("<img src=x onerror=alert(1)>,b\nx\n")
    page.get_by_role("button", name="Measure").click()
    expect(page.locator(".notice")).to_be_visible(timeout=WAIT)
    expect(page.locator(".headline")).to_have_count(0)
    expect(page.get_by_text("Download the report")).not_to_be_visible()


def test_a_link_preview_has_a_title_and_a_picture(address):
    page = httpx.get(address).text
    tags = dict(re.findall(r'<meta (?:property|name)="((?:og|twitter):\w+)" content="([^"]*)"', page))
    assert tags["og:title"] == tags["twitter:title"] == "Can you trust an LLM's labels for training?"
    assert page.count('"og:title"') == page.count('"og:image"') == 1
    picture = httpx.get(tags["og:image"])
    assert picture.headers["content-type"] == "image/png"
    assert tuple(int.from_bytes(picture.content[i : i + 4]) for i in (16, 20)) == (1200, 630)
