"""The pages as a site: it builds without a warning, asks no other host, and every link leads somewhere."""

import importlib
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from helpers import ROOT, python

for _needed in ("mkdocs", "material", "mkdocstrings_handlers.python"):
    pytest.importorskip(_needed, reason="the site needs the extra docs")

ELSEWHERE = re.compile(r"^(?:\w+:)?//")
"""An address on another host, with or without its scheme."""


class Built(HTMLParser):
    """What a built page names. asked: what a browser fetches by itself; links: of its `a`; ids: its anchors"""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.diagrams = 0
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        self.diagrams += "mermaid" in found.get("class", "").split()
        for name in ("src", "href", "srcset", "data", "poster", "action"):
            if name in found:
                (self.links if tag == "a" else self.asked).append(found[name])
        self.asked += re.findall(r"url\(([^)]+)\)", found.get("style", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "site"
    done = python("-m", "mkdocs", "build", "--strict", "--quiet", "-d", out, cwd=ROOT, env={"NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stderr + done.stdout
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Built]:
    return {file: Built(file) for file in sorted(site.rglob("*.html"))}


def test_no_page_asks_another_host(site: Path, pages: dict[Path, Built]) -> None:
    assert len(pages) > 30
    for file, page in pages.items():
        assert [one for one in page.asked if ELSEWHERE.match(one.strip("'\" "))] == [], file.name
        assert page.diagrams == 0, f"{file.name}: the theme fetches what draws diagrams from another host"
    for file in site.rglob("*.css"):
        text = file.read_text(encoding="utf-8")
        assert re.findall(r"(?:url\(|@import)\s*['\"]?(?:\w+:)?//[^)\s]*", text) == [], file.name


def test_every_link_and_anchor_leads_somewhere(site: Path, pages: dict[Path, Built]) -> None:
    count = 0
    for file, page in pages.items():
        if file.name == "404.html":  # its links are from the site's root, wherever that will be
            continue
        for link in [*page.links, *page.asked]:
            if re.match(r"[\w+.-]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (file.parent / unquote(path)).resolve() if path else file
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{file.name} links to {link}"
            assert target.is_relative_to(site), f"{file.name} links to {link}, outside the site"
            assert not anchor or unquote(anchor) in pages[target].ids, f"{file.name} links to {link}: no such anchor"
            count += 1
    assert count > 1000


@pytest.mark.parametrize("package, page", [("engine", "engine"), ("engine.index", "catalogue"), ("export", "export")])
def test_the_reference_has_every_public_name(pages: dict[Path, Built], site: Path, package: str, page: str) -> None:
    if package == "engine.index":
        pytest.importorskip("lance", reason="needs pylance, of the extra `index`")
    named = importlib.import_module(package).__all__
    written = pages[site / "api" / f"{page}.html"].ids
    assert {f"{package}.{name}" for name in named} <= written


def test_arguments_are_a_list(site: Path) -> None:
    text = (site / "api" / "engine.html").read_text(encoding="utf-8")
    assert "<li><strong><code>bundle</code></strong>: folder made by" in re.sub(r"\s*<p>|</p>", "", text)
