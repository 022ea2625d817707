"""The page of the service in a browser: desktop and phone, by mouse, by touch and by keyboard alone.

PAGE_SCREENSHOTS=FOLDER keeps a picture of every step. Skipped where Playwright (extra browser) or Chromium is missing.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import BANDAGE, CAT, COUPLE, PICTURES, python
from PIL import Image

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from served import Served

playwright = pytest.importorskip("playwright.sync_api", reason="the browser's tests need the extra browser")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the browser's tests need the extra browser")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ALONE = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
WAIT = 60_000
"""Milliseconds until a test gives up: passes are slow on a busy machine."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served("--limit", "masks=512") as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright.expect.set_options(timeout=WAIT)
    with playwright.sync_playwright() as found:
        opened = found.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", *ALONE])
        yield opened
        opened.close()


class Watched:
    """A tab at a page, and what went wrong in it."""

    def __init__(self, tab: Any, url: str, name: str) -> None:
        self.tab, self.name, self.faults = tab, name, []
        tab.set_default_timeout(WAIT)
        tab.on("console", lambda message: message.type == "error" and self.faults.append(message.text))
        tab.on("pageerror", lambda error: self.faults.append(str(error)))
        tab.on("request", lambda request: self._require_own(request.url, url))

    def _require_own(self, asked: str, url: str) -> None:
        if not asked.startswith((url, "data:", f"blob:{url}")):
            self.faults.append(f"asks {asked}")

    def choose(self, slot: int, file: Path) -> None:
        self.tab.locator(".picker input").nth(slot).set_input_files(file)

    def done(self) -> None:
        """Wait until the explanation is kept."""
        self.tab.wait_for_selector("#keep:not([hidden])")

    def drawn(self) -> list[str]:
        """The colours over each picture."""
        return list(self.tab.locator(".layer").evaluate_all("all => all.map(layer => layer.src)"))

    def shot(self, step: str) -> None:
        folder = os.environ.get("PAGE_SCREENSHOTS")
        if folder:
            self.tab.screenshot(path=Path(folder) / f"{self.name}-{step}.png", full_page=True)

    def require_accessible(self) -> None:
        """No serious violation of accessibility, by axe-core."""
        found = axe.Axe().run(self.tab).response["violations"]
        serious = [f"{v['id']}: {v['nodes'][0]['html']}" for v in found if v["impact"] in ("serious", "critical")]
        assert not serious


@contextlib.contextmanager
def opened(browser: Any, url: str, size: str = "desktop", path: str = "/", **options: Any) -> Iterator[Watched]:
    """A tab that must end without an error of the console and without a request to anybody else."""
    context = browser.new_context(viewport=SIZES[size], has_touch=size == "phone", **options)
    watched = Watched(context.new_page(), url, f"{size}{'-dark' if options.get('color_scheme') == 'dark' else ''}")
    watched.tab.goto(url + path)
    watched.tab.wait_for_selector("#thumbs img, dialog[open]")
    yield watched
    context.close()
    assert not watched.faults


def lit(tab: Any, side: int) -> list[float]:
    """How strongly each tile of a picture is lit."""
    script = "grid => [...grid.children].map(tile => +tile.style.getPropertyValue('--match'))"
    return tab.locator(".tiles").nth(side).evaluate(script)


def where(tab: Any, side: int = 0) -> int:
    """The strongest mark of where an attribute is seen in a picture."""
    script = "c => Math.max(...c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((_, i) => i % 4 == 3))"
    return tab.locator(".where").nth(side).evaluate(script)


@pytest.mark.parametrize("size", SIZES)
def test_from_upload_to_download(browser: Any, served: Served, size: str, tmp_path: Path) -> None:
    with opened(browser, served.url, size) as page:
        tab = page.tab
        page.shot("empty")
        page.choose(0, CAT[0])
        page.choose(1, CAT[1])
        tab.wait_for_selector(".explanation h2")
        passes = int(re.findall(r"\d+", tab.locator("#count").inner_text())[0])
        page.shot("first")
        page.done()
        assert int(re.findall(r"\d+", tab.locator("#count").inner_text())[0]) > passes  # it refined
        assert tab.locator(".explanation h2").inner_text().startswith("Similarity 0.9")
        assert tab.locator("[data-part=verdict]").inner_text().startswith(("Steady:", "Fairly steady:"))
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.shot("done")
        page.require_accessible()

        layer = tab.locator(".layer").first
        tab.locator("[data-part=opacity]").fill("0")
        playwright.expect(layer).to_have_css("opacity", "0")
        playwright.expect(tab.locator(".picture").first).to_have_css("filter", "grayscale(0)")
        playwright.expect(tab.locator(".picture").first).to_have_css("opacity", "1")
        page.shot("plain")
        tab.locator("[data-part=opacity]").fill("100")
        tab.locator("[data-part=maps]").uncheck()
        playwright.expect(layer).to_have_css("opacity", "0")
        tab.locator("[data-part=maps]").check()
        playwright.expect(layer).to_have_css("opacity", "1")

        tile = tab.locator(".tiles").first.locator("button").nth(4 * 8 + 3)
        tile.tap() if size == "phone" else tile.hover()
        key = tab.url.partition("=")[2]
        row = served.get(f"/v1/page/explanations/{key}").json()["tiles"]["matrix"][4 * 8 + 3]
        assert lit(tab, 1) == pytest.approx([max(value, 0) / max(row) for value in row], abs=1e-3)
        assert not any(lit(tab, 0))
        assert tab.locator("[data-part=here]").inner_text().startswith("Query row 5 column 4: best match in reference row")
        page.shot("matches")
        attribute = tab.locator("button.attribute").first
        attribute.tap() if size == "phone" else attribute.hover()
        assert where(tab) > 100
        page.shot("attribute")
        for kind in ("png", "html", "json"):
            with tab.expect_download() as started:
                tab.locator(f"[data-kind={kind}]").click()
            started.value.save_as(tmp_path / f"why.{kind}")
        assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")
        tab.goto((tmp_path / "why.html").as_uri())
        page.faults.remove(f"asks {(tmp_path / 'why.html').as_uri()}")
        assert tab.locator(".explanation h2").inner_text().startswith("Similarity 0.9")
        page.shot("report")


def test_maps_have_one_colour_scale_or_each_its_own(browser: Any, served: Served) -> None:
    with opened(browser, served.url) as page:
        tab = page.tab
        page.choose(0, CAT[0])
        page.choose(1, CAT[1])
        page.done()
        one_scale = page.drawn()
        tab.get_by_label("One colour scale").uncheck()
        playwright.expect(tab.locator("[data-part=scale-text]")).to_contain_text("; the most: query ")
        own_scales = page.drawn()
        assert sum(own != shared for own, shared in zip(own_scales, one_scale, strict=True)) == 1  # the weaker map's
        assert "the map's own most" in tab.locator("[data-part=ticks]").inner_text()
        page.shot("own-scales")
        tab.get_by_label("One colour scale").check()
        assert page.drawn() == one_scale
        playwright.expect(tab.locator("[data-part=scale-text]")).not_to_contain_text("the most")


ONE_MAP = """() => {
  const own = window.fetch;
  window.fetch = async (address, options) => {
    const reply = await own(address, options);
    if (address !== "/v1/page/explain") return reply;
    const reader = reply.body.getReader();
    let whole = false;
    const body = new ReadableStream({
      start: held => options.signal.addEventListener("abort", () => held.error(new DOMException("stopped", "AbortError"))),
      pull: async held => {
        if (whole) return new Promise(() => {});
        const { value } = await reader.read();
        whole = new TextDecoder().decode(value).includes("\\n\\n");
        held.enqueue(value);
      },
    });
    return new Response(body, { headers: reply.headers });
  };
}"""
"""Of every answer the first map alone arrives, so that a test has time to look at it."""


def test_what_runs_is_stopped_and_may_begin_again(browser: Any, served: Served) -> None:
    with opened(browser, served.url, "phone") as page:
        tab, status = page.tab, page.tab.locator("#status")
        assert not tab.locator("#stop").is_visible()
        tab.route("**/v1/page/explain", lambda route: None)  # an answer that does not come
        page.choose(0, CAT[0])
        page.choose(1, CAT[1])
        playwright.expect(status).to_have_text("Explaining")
        page.shot("running")
        tab.locator("#stop").focus()
        tab.keyboard.press("Enter")
        playwright.expect(status).to_have_text("Stopped")
        assert tab.evaluate("document.activeElement.id") == "status"  # focus is not lost with the button
        assert not tab.locator("#stop").is_visible() and not tab.locator("#working").is_visible()
        assert not tab.locator("#wrong").is_visible()
        tab.unroute("**/v1/page/explain")
        tab.evaluate(ONE_MAP)
        page.choose(1, CAT[1])
        tab.wait_for_selector(".explanation h2")
        tab.locator("#stop").click()  # while the map refines: what is shown stays
        assert re.fullmatch(r"after \d+ passes", tab.locator("#count").inner_text().lower())
        assert tab.locator("#explanations.stale").count() == 0
        assert not tab.locator("#keep").is_visible()
        page.shot("stopped")
        tab.reload()
        page.choose(0, CAT[0])
        page.choose(1, CAT[1])
        tab.select_option("#mode", "fixed")
        page.done()
        assert not tab.locator("[data-part=scaled]").is_visible()  # one map has nothing to share


def test_a_third_picture_tells_what_speaks_for_which(browser: Any, served: Served) -> None:
    with opened(browser, served.url) as page:
        tab = page.tab
        tab.get_by_role("button", name="couple, noto").click()
        tab.get_by_role("button", name="couple, twemoji").click()
        page.done()
        tab.locator("#more summary").click()
        page.choose(2, BANDAGE[0])
        tab.wait_for_selector(".side:nth-of-type(3)")
        page.done()
        assert " rather than " in tab.locator(".explanation h2").inner_text()
        assert "Speaks for the reference" in tab.locator(".groups").inner_text().capitalize()
        assert (tab.locator("#mode").is_disabled(), tab.locator("#mode").input_value()) == (True, "fixed")
        page.shot("rather-than")
        page.require_accessible()
        tab.locator("#more summary").click()
        playwright.expect(tab.locator(".side")).to_have_count(2)
        assert tab.locator("#mode").input_value() == "pair"
        page.done()


def test_attributes_of_one_picture_show_where_they_are(browser: Any, served: Served) -> None:
    with opened(browser, served.url) as page:
        page.choose(0, COUPLE[0])
        page.choose(1, CAT[1])
        page.done()
        titles = [title.lower() for title in page.tab.locator(".groups h3").all_inner_texts()]
        assert titles[-2:] == ["only in the query", "only in the reference"]
        only_here = page.tab.locator(".group").nth(len(titles) - 2).locator("button")
        only_here.first.hover()
        assert where(page.tab) > 100
        page.shot("differences")


def test_a_link_opens_the_explanation_and_ends_honestly(browser: Any, served: Served) -> None:
    with opened(browser, served.url) as page:
        page.choose(0, CAT[0])
        page.choose(1, CAT[1])
        page.done()
        title = page.tab.locator(".explanation h2").inner_text()
        link = page.tab.locator("#link").evaluate("a => a.href")
        assert page.tab.url == link
        assert "10 minutes" in page.tab.locator("#until").inner_text()
    with opened(browser, served.url, path=link.removeprefix(served.url)) as page:
        page.done()
        assert page.tab.locator(".explanation h2").inner_text() == title
        assert page.tab.locator(".tiles button").count() == 2 * 8 * 8
        page.shot("link")
    with opened(browser, served.url, path="/#explanation=AAAAAAAAAAAAAAAAAAAAAA") as page:
        page.tab.wait_for_selector("#wrong:not([hidden])")
        assert "not any longer" in page.tab.locator("#wrong").inner_text()
        page.faults = [fault for fault in page.faults if "404" not in fault]  # the browser says it of every such answer


def test_the_index_is_searched_and_its_matches_explained(browser: Any, tmp_path: Path) -> None:
    pytest.importorskip("engine.service.searching", reason="the service has no calls about an index")
    pytest.importorskip("lance", reason="an index needs the extra index")
    built = python("-m", "engine.index", "build", tmp_path / "catalogue", "--images", PICTURES, "--thumbnails", "--quiet")
    assert not built.returncode, built.stderr
    with Served("--index", str(tmp_path / "catalogue")) as server, opened(browser, server.url) as page:
        page.choose(0, CAT[0])
        page.tab.locator("#find").click()
        page.done()
        matches = page.tab.locator("#matches button")
        assert matches.count() == 8
        assert page.tab.locator("#matches img[src^=blob]").count() == 8
        title = page.tab.locator(".explanation h2").inner_text()
        assert f"Similarity {matches.first.locator('b').inner_text()}" == title
        page.shot("index")
        page.require_accessible()
        matches.nth(7).click()
        playwright.expect(page.tab.locator(".explanation h2")).not_to_have_text(title)
        assert matches.nth(7).get_attribute("aria-current") == "true"


def test_by_keyboard_alone(browser: Any, served: Served) -> None:
    with opened(browser, served.url) as page:
        tab = page.tab

        def reach(selector: str) -> None:
            for _ in range(80):
                tab.keyboard.press("Tab")
                if tab.evaluate("s => document.activeElement.matches(s)", selector):
                    return
            pytest.fail(f"the tab key does not reach {selector}")

        reach("#thumbs button")
        tab.keyboard.press("Enter")
        tab.wait_for_selector(".picker.filled")
        tab.keyboard.press("Tab")
        tab.keyboard.press("Space")
        page.done()
        reach("[data-part=maps]")
        tab.keyboard.press("Space")
        assert not tab.locator("[data-part=maps]").is_checked()
        tab.keyboard.press("Space")
        reach(".tiles button")
        tab.keyboard.press("ArrowDown")
        tab.keyboard.press("ArrowRight")
        label = tab.evaluate("document.activeElement.ariaLabel")
        assert label.startswith("query row 2 column 2: ")
        page.shot("keyboard")
        reach("button.attribute")
        assert where(tab) > 100
        tab.keyboard.press("Escape")
        assert where(tab) == 0
        reach("[data-kind=json]")
        with tab.expect_download():
            tab.keyboard.press("Enter")


def test_dark_mode_has_contrast_too(browser: Any, served: Served) -> None:
    for size in SIZES:
        with opened(browser, served.url, size, color_scheme="dark") as page:
            page.shot("empty")
            page.choose(0, CAT[0])
            page.choose(1, CAT[1])
            page.done()
            background = page.tab.evaluate("getComputedStyle(document.body).backgroundColor")
            assert max(map(int, re.findall(r"\d+", background)[:3])) < 40
            page.shot("done")
            page.require_accessible()


def test_what_cannot_be_explained_is_said(browser: Any, served: Served, tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("no picture")
    with opened(browser, served.url) as page:
        page.choose(0, CAT[0])
        page.choose(1, tmp_path / "note.png")
        page.tab.wait_for_selector("#wrong:not([hidden])")
        assert "The reference is not a readable picture" in page.tab.locator("#wrong").inner_text()
        assert "note.png" in page.tab.locator(".picker").nth(1).inner_text()
        page.shot("wrong")
        page.choose(1, CAT[1])
        page.done()
        assert not page.tab.locator("#wrong").is_visible()
        page.faults = [fault for fault in page.faults if "422" not in fault]


def test_a_format_that_browsers_do_not_show_is_drawn_as_the_network_saw_it(
    browser: Any, served: Served, tmp_path: Path
) -> None:
    with Image.open(CAT[1]) as picture:
        picture.convert("RGB").save(tmp_path / "cat.tif")
    with opened(browser, served.url) as page:
        page.choose(0, CAT[0])
        page.choose(1, tmp_path / "cat.tif")
        page.done()
        sources = page.tab.locator(".picture").evaluate_all("all => all.map(one => one.src.split(':')[0])")
        assert sources == ["blob", "data"]
        assert page.tab.locator(".picture").nth(1).evaluate("one => one.naturalWidth") == 300


FILE = """async name => {
  const reply = await fetch(`/page/pictures/${name}`), held = new DataTransfer();
  held.items.add(new File([await reply.blob()], name, {type: "image/png"}));
  return held;
}"""


def test_pictures_are_dropped_and_pasted(browser: Any, served: Served) -> None:
    with opened(browser, served.url) as page:
        tab = page.tab
        dropped = tab.evaluate_handle(FILE, CAT[1].name)
        tab.locator(".picker").nth(1).dispatch_event("drop", {"dataTransfer": dropped})
        playwright.expect(tab.locator(".picker").nth(1)).to_have_class("picker filled")
        pasted = tab.evaluate_handle(FILE, CAT[0].name)
        paste = "held => document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: held, bubbles: true}))"
        tab.evaluate(paste, pasted)  # into the picture that is missing
        page.done()
        assert tab.locator(".explanation h2").inner_text().startswith("Similarity 0.9")
        tab.locator(".clear").first.click()
        playwright.expect(tab.locator(".picker.filled")).to_have_count(1)


def test_method_mode_and_condition_are_chosen(browser: Any, tiny_bundle: Path) -> None:
    with Served("--bundle", str(tiny_bundle)) as server, opened(browser, server.url) as page:
        made = playwright.expect(page.tab.locator("[data-part=made]"))
        page.choose(0, CAT[0])
        page.choose(1, CAT[1])
        made.to_contain_text("condition top")
        page.done()
        page.tab.select_option("#condition", "shoe")
        made.to_contain_text("condition shoe")
        page.tab.select_option("#method", "window")
        made.to_contain_text("window, ")
        layers = page.tab.locator(".layer:not([hidden])")
        assert layers.count() == 2
        page.tab.select_option("#mode", "fixed")
        playwright.expect(layers).to_have_count(1)
        page.done()
        page.shot("options")


def test_a_key_opens_the_page_and_stays_in_the_tab(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a-key-of-enough-characters\n")
    with (
        Served("--api-key-file", str(tmp_path / "keys"), "--limit", "masks=256") as server,
        opened(browser, server.url) as page,
    ):
        for key in ("another-key-of-enough-characters", "a-key-of-enough-characters"):
            page.tab.wait_for_selector("dialog[open]")
            page.tab.locator("#key").fill(key)
            page.shot("key")
            page.tab.get_by_role("button", name="Open").click()
        page.tab.wait_for_selector("#thumbs img")
        page.choose(0, CAT[0])
        page.choose(1, CAT[1])
        page.done()
        page.tab.reload()
        page.done()  # from the link, with the key of this tab
        assert page.tab.evaluate("localStorage.length") == 0
        page.faults = [fault for fault in page.faults if "401" not in fault]
