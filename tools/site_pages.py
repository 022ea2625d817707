"""A hook of mkdocs: the repository's own pages become the site's, and their relative links lead there."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "examples/README.md", "engine/data/bundle/*.md")
PICTURES = ("docs/*.png", "docs/*/*.png")
SHOWN_WHOLE = ("examples/*.py", "LICENSE")
"""Files that become pages with their text, under their name and `.md`."""
PLACES = {
    "README.md": "index.html",
    "docs/README.md": "pages.html",
    "docs/index.md": "catalogue.html",
    "examples/README.md": "examples.html",
    "engine/data/bundle/MODEL_CARD.md": "model_card.html",
}
"""Where a page goes, if not under its own name at the top."""
LINK_TO_SHOWN = re.compile(r"(\]\([\w./]*(?:\.py|LICENSE))\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the repository's pages, pictures and examples to the site's files."""
    for path in matching(PAGES):
        place = PLACES.get(path, f"{Path(path).stem.lower()}.html")
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls, dest_uri=place))
    for path in matching(PICTURES):
        place = path.removeprefix("docs/")
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls, dest_uri=place))
    for path in matching(SHOWN_WHOLE):
        inclusion = InclusionLevel.INCLUDED if path == "LICENSE" else InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, f"{path}.md", content=shown(path), inclusion=inclusion))
    return files


def matching(patterns: tuple[str, ...]) -> list[str]:
    return sorted(file.relative_to(ROOT).as_posix() for pattern in patterns for file in ROOT.glob(pattern))


def shown(path: str) -> str:
    """Return a page with the text of a file of the repository."""
    language = "python" if path.endswith(".py") else "text"
    return f"# {Path(path).name}\n\n```{language}\n{(ROOT / path).read_text(encoding='utf-8').rstrip()}\n```\n"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to such a file to its page."""
    return LINK_TO_SHOWN.sub(r"\1.md)", markdown)
