"""
Makes the pictures of the console for the documentation.

``python -m tests.browser.screenshots`` (``make screenshots``) starts a service and
rewrites ``docs/images/console``.  A test compares the list with the pages and with the
guide.
"""

import hashlib
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser

from api.extras.console.wallets import read_measurements
from dev import programs
from dev.anvil import ROOT
from signer.ports.clock import utc_now
from tests.browser.chromium import running_chromium, visiting
from tests.browser.site import PAGES, Site, running_site
from tests.support.waiting import eventually


FOLDER = ROOT / "docs" / "images" / "console"

DIGEST = FOLDER.with_suffix(".sha256")
"""The digest of the templates that the pictures show."""

EXTRA = {"overview-dark": "overview", "refund-phone": "refund"}
"""Further pictures, and the pages that they show."""

_WIDTH, _MOST_HEIGHT = 1200, 1500
_LONG = frozenset({"refunds", "audit", "signatures", "webhooks"})
_LONG_HEIGHT = 950
_COLORS = 128
_PATIENCE = 60.0


def digest_of_templates() -> str:
    console = ROOT / "api" / "extras" / "console"
    found = hashlib.sha256()
    for folder in (console / "templates", console / "static"):
        for path in sorted(folder.iterdir()):
            found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def take_screenshots(browser: Browser, site: Site, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pages = site.pages()
    for name in PAGES:
        _take(browser, site, pages[name], folder / f"{name}.png")
    for name, page in EXTRA.items():
        _take(
            browser,
            site,
            pages[page],
            folder / f"{name}.png",
            width=390 if name.endswith("-phone") else _WIDTH,
            scheme="dark" if name.endswith("-dark") else "light",
        )


def _take(
    browser: Browser,
    site: Site,
    path: str,
    target: Path,
    *,
    width: int = _WIDTH,
    scheme: str = "light",
) -> None:
    viewport = {"width": width, "height": 700}
    options = {"viewport": viewport, "color_scheme": scheme}
    with visiting(browser, site.url, **options) as visitor:
        if not path.endswith("/login"):
            visitor.page.context.add_cookies([site.cookie()])
        visitor.open(path)
        height = visitor.page.evaluate("document.documentElement.scrollHeight")
        most = _LONG_HEIGHT if target.stem in _LONG else _MOST_HEIGHT
        visitor.page.set_viewport_size(
            {"width": width, "height": min(int(height), most)}
        )
        target.write_bytes(_shrink(visitor.page.screenshot()))


def _shrink(picture: bytes) -> bytes:
    """Return *picture* with a palette, which takes a quarter of the bytes."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    small = image.quantize(_COLORS, dither=Image.Dither.NONE)
    out = io.BytesIO()
    small.save(out, "PNG", optimize=True)
    return out.getvalue()


def _await_measurement(site: Site) -> None:
    """Wait until the worker has looked at the wallet after the last payment."""
    store = site.container.store

    def is_measured() -> bool:
        measured = read_measurements(store.workers(), utc_now()).chain_nonces
        nonces = [each.next_nonce for each in store.wallets()]
        return nonces == list(measured.values())

    assert eventually(is_measured, _PATIENCE, pause=0.5)


def _await_failing_webhook(site: Site) -> None:
    """Wait until an event was refused for the third time, which needs attention."""
    store = site.container.store

    def is_failing() -> bool:
        return any(each.attempts > 2 for each, _ in store.deliveries(100))

    assert eventually(is_failing, _PATIENCE, pause=0.5)


def main() -> int:
    programs.use_fetched()
    with (
        tempfile.TemporaryDirectory() as home,
        running_site(Path(home) / "home") as site,
        running_chromium() as browser,
    ):
        _await_measurement(site)
        _await_failing_webhook(site)
        take_screenshots(browser, site, FOLDER)
    DIGEST.write_text(f"{digest_of_templates()}\n", encoding="utf-8")
    size = sum(each.stat().st_size for each in FOLDER.glob("*.png"))
    sys.stdout.write(f"wrote {FOLDER}: {size // 1024} KiB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
