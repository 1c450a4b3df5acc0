"""Test the Space in a real browser: each page, wide and on a phone, light and dark, and by keyboard."""

import os
import re

import pytest
from playwright.sync_api import expect
from space_app import APP, serve

SELECTORS = {  # what is there when a page is
    "verdict": ".decision h2",
    "labels": ".scroll.texts td .bar",
    "seeds": ".scroll.texts .pick",
    "compare": "text=gold labels consumed",
    "yours": "text=Measure your own runs",
    "use": "text=load_dataset",
}
WIDE, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}
WAIT = 180_000


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with serve(APP, log=tmp_path_factory.mktemp("space") / "app.log") as address:
        yield address


@pytest.fixture
def visit(browser, address):
    """Open the app, and fail if the console has errors or the page requests another host."""
    opened, complaints = [], []

    def go(query="", size=WIDE, theme="light"):
        page = browser.new_page(viewport=size, color_scheme=theme)
        opened.append(page)
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
        page.wait_for_timeout(1500)
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
def test_each_page_is_whole_and_no_wider_than_the_screen(name, size, theme, visit):
    page = visit(f"view={name}", size, theme)
    expect(page.locator(SELECTORS[name]).first).to_be_visible(timeout=WAIT)
    if name == "verdict":
        expect(page.locator(".vega-embed svg")).to_have_count(2, timeout=WAIT)
        described = page.locator(".vega-embed [aria-label^='Macro-F1 against'], [aria-label^='Macro-F1 against']")
        expect(described.first).to_be_attached()
    keep(page, f"{name}_{'wide' if size is WIDE else 'phone'}_{theme}")
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", light)[:3])) > 380) == (theme == "light")


def test_an_address_brings_back_what_was_seen_and_follows_what_is_done(visit):
    page = visit("view=labels&show=wrong&order=unsure")
    expect(page.locator(SELECTORS["labels"]).first).to_be_visible(timeout=WAIT)
    expect(page.locator(".off").first).to_be_visible()
    assert "show=wrong" in page.url
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


def test_what_an_address_asks_for_in_vain_is_said(visit):
    page = visit("view=nowhere&variant=nobody&study=..%2Fetc&size=x")
    notice = page.locator(".notice")
    expect(notice).to_contain_text("no page 'nowhere'", timeout=WAIT)
    expect(notice).to_contain_text("no variant 'nobody'")
    expect(page.locator(".decision h2")).to_be_visible(timeout=WAIT)


def test_everything_is_reached_by_keyboard(visit):
    page = visit()
    expect(page.locator(".decision h2")).to_be_visible(timeout=WAIT)
    page.get_by_role("tab", name="Verdict").focus()
    page.keyboard.press("ArrowRight")
    if page.get_by_role("tab", name="Labels").get_attribute("aria-selected") != "true":
        page.get_by_role("tab", name="Labels").focus()
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
    assert {"Class", "Show", "Training texts and their labels", "Next →"} <= reached
    page.get_by_role("tab", name="Seeds").focus()
    page.keyboard.press("Enter")
    page.locator(".pick").first.focus(timeout=WAIT)
    page.keyboard.press("Enter")
    expect(page.locator(".one blockquote")).to_be_visible(timeout=WAIT)


def test_predictions_are_measured_and_the_report_is_downloaded(visit, tmp_path):
    page = visit("view=yours")
    page.get_by_role("button", name="Measure").click(timeout=WAIT)
    expect(page.get_by_text("pairwise disagreement").first).to_be_visible(timeout=WAIT)
    expect(page.locator(".vega-embed svg").last).to_be_visible(timeout=WAIT)
    keep(page, "yours_measured_wide_light")
    with page.expect_download(timeout=WAIT) as download:
        page.get_by_text("Download the report").click()
    download.value.save_as(tmp_path / "report.md")
    assert "| pairwise disagreement |" in (tmp_path / "report.md").read_text()
    page.get_by_label("Paste a table or JSON").fill("<img src=x onerror=alert(1)>,b\nx\n")
    page.get_by_role("button", name="Measure").click()
    expect(page.get_by_test_id("toast-body")).to_be_visible(timeout=WAIT)


def test_a_figure_has_tooltips_and_its_legend_picks_a_variant(visit):
    page = visit()
    figure = page.locator(".vega-embed svg").first
    expect(figure).to_be_visible(timeout=WAIT)
    entry = figure.locator(".role-legend-symbol path").nth(1)
    entry.click(force=True)
    point = figure.locator(".mark-symbol.role-mark path").first
    point.hover(force=True)
    expect(page.locator("#vg-tooltip-element.visible")).to_contain_text("macro-F1", timeout=WAIT)
