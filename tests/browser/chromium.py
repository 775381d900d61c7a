"""Opens pages in Debian's Chromium, and records what a page must not do."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    BrowserContext,
    Page,
    Request,
    expect,
    sync_playwright,
)

from dev.anvil import ROOT


AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"

WCAG = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")

_SECONDS = 40
"""How long a page may take on a machine that is busy with other tests."""

_RECORD_VIOLATIONS = """
window.__violations = [];
document.addEventListener("securitypolicyviolation",
  event => window.__violations.push(event.violatedDirective + " " + event.blockedURI));
"""


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """Start a headless Chromium; it must be installed."""
    path = shutil.which("chromium")
    assert path is not None, "chromium is missing: apt-get install chromium"
    with sync_playwright() as playwright:
        # Its sandbox needs a user that is not root.
        sandbox = [] if os.geteuid() else ["--no-sandbox"]
        browser = playwright.chromium.launch(
            executable_path=path,
            args=[*sandbox, "--disable-dev-shm-usage", "--force-color-profile=srgb"],
        )
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visitor:
    page: Page
    host: str
    problems: list[str] = field(default_factory=list)

    def open(self, path: str) -> int:
        answer = self.page.goto(path, wait_until="load")
        assert answer is not None
        self.problems += self.page.evaluate("window.__violations ?? []")
        return answer.status

    def check_accessibility(self, *parts: str, contrast: bool = True) -> list[str]:
        """
        Return the violations that axe finds in *parts*, each with its elements.

        *parts* are selectors; without them, the whole page.  It looks at each text for
        its *contrast*, which takes long on a long page.
        """
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        options = {
            "runOnly": {"type": "tag", "values": list(WCAG)},
            "rules": {"color-contrast": {"enabled": contrast}},
            "resultTypes": ["violations"],
        }
        result: dict[str, Any] = self.page.evaluate(
            "([parts, options]) => axe.run(parts, options)",
            [{"include": [[part] for part in parts or ("html",)]}, options],
        )
        return [
            f"{each['id']}: {node['html']} {node['failureSummary']}"
            for each in result["violations"]
            for node in each["nodes"]
        ]

    def resize(self, width: int) -> None:
        self.page.set_viewport_size({"width": width, "height": 800})

    def is_too_wide(self) -> bool:
        root = "document.documentElement"
        return bool(self.page.evaluate(f"{root}.scrollWidth > {root}.clientWidth"))


@contextmanager
def visiting(browser: Browser, url: str, **options: Any) -> Iterator[Visitor]:
    context: BrowserContext = browser.new_context(base_url=url, **options)
    context.set_default_timeout(_SECONDS * 1000)
    expect.set_options(timeout=_SECONDS * 1000)
    visitor = Visitor(context.new_page(), urlsplit(url).netloc)
    if options.get("java_script_enabled", True):
        context.add_init_script(_RECORD_VIOLATIONS)
    page, problems = visitor.page, visitor.problems
    page.on("console", lambda message: problems.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("requestfailed", lambda each: _record_failure(each, problems))
    page.on("request", lambda each: _require_host(each.url, visitor))
    try:
        yield visitor
    finally:
        context.close()


def _record_failure(request: Request, problems: list[str]) -> None:
    # A download, or the next page was opened before the icon arrived.
    if request.failure != "net::ERR_ABORTED":
        problems.append(f"failed: {request.url} {request.failure}")


def _require_host(url: str, visitor: Visitor) -> None:
    if urlsplit(url).netloc != visitor.host:
        visitor.problems.append(f"request to another host: {url}")
