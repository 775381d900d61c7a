"""The guide has a picture of each page, and no other picture."""

import re

import pytest
from falcon import inspect
from falcon.testing import TestClient
from PIL import Image

from api.extras.console import is_console
from dev.anvil import ROOT
from tests.browser.screenshots import DIGEST, EXTRA, FOLDER, digest_of_templates
from tests.browser.site import PAGES


_GUIDE = ROOT / "docs" / "how-to" / "console.md"
_MOST_BYTES = 900_000

_WITHOUT_PICTURE = {
    *("/console/console.css", "/console/icon.svg", "/console/refunds/export")
}
"""Routes that answer GET and are no pages to look at."""


def test_every_picture_is_in_the_guide() -> None:
    """And each that the guide shows exists: with a text for those who cannot see it."""
    guide = _GUIDE.read_text(encoding="utf-8")
    shown = re.findall(r"!\[([^\]]+)\]\(\.\./images/console/([a-z-]+)\.png\)", guide)

    assert sorted(name for _, name in shown) == sorted([*PAGES, *EXTRA])
    assert {path.stem for path in FOLDER.iterdir()} == {*PAGES, *EXTRA}
    assert min(len(text) for text, _ in shown) > 20


@pytest.mark.soak
def test_the_pictures_are_of_these_pages() -> None:
    """They are made again for a release, and not with each change: make screenshots."""
    assert DIGEST.read_text(encoding="utf-8").strip() == digest_of_templates()


def test_the_pictures_are_small() -> None:
    paths = list(FOLDER.glob("*.png"))
    for path in paths:
        with Image.open(path) as image:
            image.verify()

    assert sum(path.stat().st_size for path in paths) < _MOST_BYTES


def test_every_route_has_a_picture(client: TestClient) -> None:
    """A new page needs a path in ``PAGES``, and so a picture."""
    app = client.app
    routes = {
        route.path
        for route in inspect.inspect_routes(app)
        if is_console(route.path)
        and any(each.method == "GET" for each in route.methods if not each.internal)
    }
    without = {
        route
        for route in routes
        if not any(_fits(route, path) for path in PAGES.values())
        and not route.startswith("/console/changes/")  # One form is shown for all.
    }

    assert without == _WITHOUT_PICTURE


def _fits(route: str, path: str) -> bool:
    return re.fullmatch(re.sub(r"\{[a-z_]+\}", "[^/]+", route), path) is not None
