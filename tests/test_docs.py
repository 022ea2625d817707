"""The pages: their links lead somewhere, and the files, sections, functions and commands that they name are there."""

import ast
import functools
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("benchmarks", "docs", "engine", "examples", "export", "kernels", "tests", "tools", "training")
ONLY_IN_SITE = ROOT / "tools" / "site"
"""Pages that are read as a site alone: test_site.py follows their links."""
FOUND = [*sorted(ROOT.glob("*.md")), *(page for folder in FOLDERS for page in sorted((ROOT / folder).rglob("*.md")))]
PAGES = [page for page in FOUND if ONLY_IN_SITE not in page.parents]
DOCS = [page for page in PAGES if page.parent == ROOT / "docs"]
METHOD, INDEX = ROOT / "docs" / "method.md", ROOT / "docs" / "README.md"
SOURCES = [
    file
    for folder in FOLDERS
    for file in sorted((ROOT / folder).rglob("*"))
    if file.suffix in (".py", ".cu", ".cpp", ".hpp")
]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAMED_FILE = re.compile(rf"`((?:\.ci|{'|'.join(FOLDERS)})/[\w./*-]*)`")
NAMED_CODE = re.compile(r"`([\w/]+\.py)` \(((?:`[\w.]+`(?:,\s)?)+)\)")
CITED_SECTION = re.compile(r"docs/method\.md,\s+([A-Z][^.;:()]*)")
MODULE = re.compile(r"python -m ([\w.]*\w)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@functools.cache
def text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """A page without code, in which brackets are no links."""
    without_blocks = re.sub(r"^```.*?^```$|^    .*?$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`]*`", "", without_blocks)


def headings(page: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", text_of(page), flags=re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(page)}


def local_links(page: Path) -> list[tuple[Path, str]]:
    """(file, anchor or "") of every link of a page that leads into the repository."""
    targets = [target for target in LINK.findall(prose(page)) if not re.match(r"\w+:", target)]
    return [
        ((page.parent / file).resolve() if file else page, anchor) for file, _, anchor in (t.partition("#") for t in targets)
    ]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for file, anchor in local_links(page):
        assert file.exists(), f"{name_of(page)} links to {file}, which does not exist"
        assert ROOT in file.parents, f"{name_of(page)} links to {file}, outside the repository"
        assert not anchor or anchor in anchors(file), (
            f"{name_of(page)} links to {file.name}#{anchor}, which has no such heading"
        )


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    missing = [name for name in NAMED_FILE.findall(text_of(page)) if not list(ROOT.glob(name))]
    assert not missing


def test_the_index_and_the_pages_link_to_each_other() -> None:
    listed = {file for file, _ in local_links(INDEX)}
    for page in DOCS:
        assert page in listed or page == INDEX, f"docs/README.md does not list {page.name}"
        assert page == INDEX or (INDEX, "") in local_links(page), f"{page.name} does not link to docs/README.md"


def test_every_page_and_section_that_the_code_cites_exists() -> None:
    sections = headings(METHOD)
    for file in SOURCES:
        text = text_of(file)
        for page in re.findall(r"\bdocs/\w+\.md", text):
            assert (ROOT / page).is_file(), f"{name_of(file)} cites {page}, which does not exist"
        for cited in CITED_SECTION.findall(text):
            assert any(" ".join(cited.split()).startswith(s) for s in sections), (
                f"{name_of(file)} cites the section {cited!r}"
            )


def test_nothing_cites_a_page_from_elsewhere() -> None:
    elsewhere = "SANE" + ".md"  # in two parts: this file is searched too
    assert not [name_of(file) for file in (*PAGES, *SOURCES) if elsewhere in text_of(file)]


@pytest.mark.parametrize("page", [METHOD, ROOT / "docs" / "tour.md"], ids=name_of)
def test_a_page_names_functions_that_are_there(page: Path) -> None:
    found = NAMED_CODE.findall(text_of(page))
    assert len(found) >= 15
    for file, names in found:
        tree = ast.parse(text_of(ROOT / file))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        named = {part for name in re.findall(r"[\w.]+", names) for part in name.split(".")}
        assert named <= defined, f"{name_of(page)}: {file} does not define {named - defined}"


@pytest.mark.parametrize("page", [*DOCS, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_every_command_that_a_page_names_can_be_run(page: Path) -> None:
    for module in set(MODULE.findall(text_of(page))):
        found = importlib.util.find_spec(module)
        assert found is not None, f"{name_of(page)} names python -m {module}, which is no module"
        package = found.submodule_search_locations is not None
        assert not package or importlib.util.find_spec(f"{module}.__main__"), (
            f"python -m {module}: a package without __main__"
        )


def test_every_promise_names_a_test_that_is_there() -> None:
    text = text_of(ROOT / "docs" / "security.md")
    rows = re.findall(r"^\| .+ \| `(tests/\w+\.py)::(\w+)` \|$", text, re.MULTILINE)
    promises = text.split("## What is promised")[1].split("\n## ")[0]
    assert len(rows) == len(re.findall(r"^\| (?!promise|---)", promises, re.MULTILINE)) > 20
    for file, test in rows:
        tree = ast.parse(text_of(ROOT / file))
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert test in defined, f"docs/security.md: {file} has no {test}"


def test_the_limits_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| .+ \| ([\d,]+) \| `([\w.]+)\.(\w+)` \|$", text_of(ROOT / "docs" / "security.md"), re.MULTILINE)
    assert len(rows) > 5
    for number, module, name in rows:
        assert getattr(importlib.import_module(module), name) == int(number.replace(",", "")), f"docs/security.md: {name}"
