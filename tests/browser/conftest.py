"""A site and a browser, which end with their tests: both use the processor."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser.chromium import Visitor, running_chromium, visiting
from tests.browser.site import Site, running_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def visitor(chromium: Browser, site: Site) -> Iterator[Visitor]:
    with visiting(chromium, site.url) as opened:
        yield opened


@pytest.fixture
def administrator(visitor: Visitor, site: Site) -> Visitor:
    """A window of the administrator alice, who is logged in."""
    visitor.page.context.add_cookies([site.cookie()])
    return visitor
