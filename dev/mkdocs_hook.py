"""
A hook of MkDocs: what the site has beside ``docs/``.

It adds the script that draws diagrams, which the theme would load from another host,
and the pages of the repository that ``docs/`` links to.
"""

import posixpath
import re
from importlib import import_module
from pathlib import Path
from typing import Any


_MERMAID = "node_modules/@mermaid-js/tiny/dist/mermaid.tiny.js"

OUTSIDE = (
    "CONTRIBUTING.md",
    "clients/python/README.md",
    "clients/typescript/README.md",
    "contracts/README.md",
    "tests/checklists/asvs.md",
    "tests/checklists/ccss.md",
    "tests/checklists/openssf.md",
    "tests/checklists/owasp-api.md",
    "tests/checklists/slsa.md",
)
"""Pages outside of ``docs/``, which have the same path on the site."""

_LINK = re.compile(r"\[([^\[\]]*)\]\((?!https?:)([^()#\s]+)(#[^()\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the script and the pages to *files* of the site (MkDocs calls this)."""
    generate = import_module("mkdocs.structure.files").File.generated  # In .venv-docs.

    root = Path(config.config_file_path).parent
    files.append(
        generate(config, "assets/mermaid.js", abs_src_path=str(root / _MERMAID))
    )
    for name in OUTSIDE:
        files.append(generate(config, name, abs_src_path=str(root / name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Return *markdown* with the links of the site (MkDocs calls this)."""
    return rewrite_links(markdown, page.file.src_uri)


def rewrite_links(markdown: str, page: str) -> str:
    """
    Return the text of *page*, a path on the site, with links between its pages.

    Links in the repository lead from file to file.  On the site, the files of ``docs/``
    and ``OUTSIDE`` are in one folder.  A link to another file becomes its text.
    """
    source = page if page in OUTSIDE else f"docs/{page}"

    def rewrite(found: re.Match[str]) -> str:
        text, link, anchor = found.groups()
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        inside = target.removeprefix("docs/")
        if inside == target and target not in OUTSIDE:
            return text
        path = posixpath.relpath(inside, posixpath.dirname(page) or ".")
        return f"[{text}]({path}{anchor or ''})"

    return _LINK.sub(rewrite, markdown)
