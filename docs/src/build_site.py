"""Pages of the documentation site: `python docs/src/build_site.py && zensical build --strict`.

The Markdown files of `docs` are the source, and are readable on GitHub. This script copies them to
`.site/pages`, adds the pages that are generated from the code, and turns links to files outside of
`docs` into URLs of the repository. Zensical reads that folder, and reports every link without a
target.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from reference import api_pages, policy_file_page

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
PAGES: Final = ROOT / ".site" / "pages"
DECISIONS: Final = "adr/index.md"
_REPOSITORY: Final = "https://github.com/fleetlimit/fleetlimit"
_ROOT_PAGES: Final = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Pages of the top level that the site has too, and their names in it."""
_LINK: Final = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
_SEPARATE: Final = re.compile(r"^(?:```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
"""Code, in which nothing is a link."""


class BrokenLinkError(Exception):
    """A page links to a file that the repository does not have."""


def sources() -> Iterator[tuple[Path, str]]:
    """Yield every written page with its name in the site."""
    for name, page in _ROOT_PAGES.items():
        yield ROOT / name, page
    for file in sorted(DOCS.rglob("*.md")):
        yield file, file.relative_to(DOCS).as_posix()


def site_text(file: Path, page: str) -> str:
    """Return the text of a page with its links rewritten for the site.

    Args:
        file: The page in the repository.
        page: Name of the page in the site.

    Raises:
        BrokenLinkError: A link has no target.
    """
    text = file.read_text("utf-8")
    parts, end = [], 0
    for code in _SEPARATE.finditer(text):
        parts += [_with_site_links(text[end : code.start()], file, page), code[0]]
        end = code.end()
    return "".join([*parts, _with_site_links(text[end:], file, page)])


def _with_site_links(text: str, file: Path, page: str) -> str:
    def rewrite(link: re.Match[str]) -> str:
        target = (file.parent / link[1]).resolve()
        fragment = link[2] or ""
        if not target.is_relative_to(ROOT) or not target.exists():
            raise BrokenLinkError(f"{file.relative_to(ROOT)}: there is no {link[1]}")
        inside = _ROOT_PAGES.get(target.relative_to(ROOT).as_posix())
        if target == DOCS / "adr":
            inside = DECISIONS
        elif inside is None and target.is_relative_to(DOCS) and target.is_file():
            inside = target.relative_to(DOCS).as_posix()
        if inside is None:
            kind = "tree" if target.is_dir() else "blob"
            return f"{_REPOSITORY}/{kind}/main/{target.relative_to(ROOT).as_posix()}{fragment}"
        return "../" * page.count("/") + inside + fragment

    return _LINK.sub(rewrite, text)


def generated_pages() -> dict[str, str]:
    """Return the text of every generated page by its name in the site."""
    return {
        **api_pages(),
        "reference/policy-file.md": policy_file_page(),
        DECISIONS: _decisions_page(),
    }


def _decisions_page() -> str:
    """Return the list of all decisions, with their titles."""
    lines = [
        f"- [{file.read_text('utf-8').splitlines()[0].removeprefix('# ')}]({file.name})"
        for file in sorted((DOCS / "adr").glob("*.md"))
    ]
    return "\n".join(
        ["# Decisions", "", "One page for each decision that had alternatives.", "", *lines, ""]
    )


def main() -> None:
    """Write all pages and pictures of the site."""
    shutil.rmtree(PAGES, ignore_errors=True)
    texts = {page: site_text(file, page) for file, page in sources()} | generated_pages()
    for page, text in texts.items():
        (PAGES / page).parent.mkdir(parents=True, exist_ok=True)
        (PAGES / page).write_text(text, "utf-8")
    for picture in DOCS.rglob("*.svg"):
        shutil.copy(picture, PAGES / picture.relative_to(DOCS))
    print(f"{len(texts)} pages in {PAGES}")  # noqa: T201 - the output of a script


if __name__ == "__main__":
    main()
