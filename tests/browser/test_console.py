"""The console in a real browser: it works, and it shows nothing to strangers."""

import re
from datetime import timedelta

import pytest
from playwright.sync_api import Browser, expect

from signer.audit.checkpoints import Verifier
from signer.audit.verify import verify
from tests.browser.chromium import Visitor, visiting
from tests.browser.site import EXPLORER, Site
from tests.support.waiting import eventually


pytestmark = pytest.mark.needs("chromium")


_COLOURFUL = {"login", "overview", "refund", "policy", "approval"}
"""The pages of which axe measures the contrast of each text, which takes seconds."""


def test_log_in_look_around_and_log_out(visitor: Visitor, site: Site) -> None:
    """With a token, through the links of the navigation."""
    page = visitor.page
    assert visitor.open("/console") == 200  # After a redirect.
    assert page.url.endswith("/console/login")

    page.get_by_label("Token").fill(site.token())
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    names = page.get_by_role("navigation", name="Pages").get_by_role("link")
    for name in names.all_inner_texts():
        page.get_by_role("navigation", name="Pages").get_by_text(name).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(name)
        current = page.locator("nav [aria-current=page]")
        expect(current).to_have_text(name)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")

    assert visitor.open("/console/keys") == 200
    assert page.url.endswith("/console/login")
    assert visitor.problems == []


def test_every_page_is_accessible_and_fits(administrator: Visitor, site: Site) -> None:
    """
    axe finds nothing, the policy is not violated, and nothing is logged.

    At 360 pixels, nothing but tables in their own frame is wider than the phone.
    """
    found, too_wide = {}, []
    for name, path in site.pages().items():
        administrator.resize(1280)
        assert administrator.open(path) == 200, name
        # ``test_rendering`` compares all pairs of colours; this is how they are used.
        found[name] = administrator.check_accessibility(contrast=name in _COLOURFUL)
        administrator.resize(360)
        if administrator.is_too_wide():
            too_wide.append(name)

    assert {name: each for name, each in found.items() if each} == {}
    assert too_wide == []
    assert administrator.problems == []


def test_dark_pages_can_be_read(chromium: Browser, site: Site) -> None:
    """The page with the most colours; ``test_rendering`` compares each pair."""
    with visiting(chromium, site.url, color_scheme="dark") as visitor:
        visitor.page.context.add_cookies([site.cookie()])
        visitor.open(site.pages()["overview"])
        paper = "getComputedStyle(document.body).backgroundColor"
        assert visitor.page.evaluate(paper) == "rgb(18, 23, 29)"
        assert visitor.check_accessibility() == []
        assert visitor.problems == []


def test_works_without_javascript(chromium: Browser, site: Site) -> None:
    """Logging in, plots, tables, and a decision about an approval."""
    with visiting(chromium, site.url, java_script_enabled=False) as visitor:
        page = visitor.page
        page.goto("/console/login")
        page.get_by_label("Token").fill(site.token())
        page.get_by_role("button", name="Log in").click()

        expect(page.locator("figure.plot rect[class^=fill]").first).to_be_visible()
        expect(page.locator("svg.qr")).to_be_visible()
        page.goto("/console/trends?span=week")
        page.get_by_text("As a table").first.click()
        expect(page.locator("figure table").first).to_be_visible()
        page.goto(site.pages()["approval"])
        page.get_by_label("Reason to reject it").fill("The customer is known")
        page.get_by_role("button", name="Reject").click()
        expect(page.get_by_text("The customer is known")).to_be_visible()
        expect(page.get_by_text("640")).not_to_have_count(0)


def test_the_keyboard_reaches_everything_in_order(administrator: Visitor) -> None:
    """First a way past the navigation, then the navigation, then the page."""
    page = administrator.page
    administrator.open("/console/refunds")
    reached = []
    for _ in range(16):
        page.keyboard.press("Tab")
        text = page.evaluate("document.activeElement.textContent.trim()")
        reached.append(text or page.evaluate("document.activeElement.id"))

    names = page.locator("header nav a").all_inner_texts()
    assert reached[0] == "Skip to the content"
    assert reached[1] == "hotwallet"
    assert reached[2 : 2 + len(names)] == names
    assert reached[2 + len(names)] == "Log out"
    assert reached[3 + len(names) :][:1] == ["q"]
    page.keyboard.press("Home")
    administrator.open("/console/refunds")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_a_focused_link_is_visible(administrator: Visitor) -> None:
    administrator.open("/console")
    for _ in range(3):
        administrator.page.keyboard.press("Tab")
    width = "getComputedStyle(document.activeElement).outlineWidth"

    assert administrator.page.evaluate(width) == "3px"


def test_strangers_see_nothing(visitor: Visitor, site: Site) -> None:
    """Without a cookie, with one that expired, and with one that was changed."""
    page, paths = visitor.page, site.pages()
    genuine = site.cookie()
    expired = site.cookie(age=timedelta(minutes=31))
    payload, _, mac = genuine["value"].rpartition(".")
    forged = genuine.copy()
    forged["value"] = f"{payload}.{mac[:-2]}00"
    for cookie in (None, expired, forged):
        page.context.clear_cookies()
        if cookie is not None:
            page.context.add_cookies([cookie])
        for name in ("overview", "refund", "audit"):
            answer = page.goto(paths[name])
            assert answer is not None
            is_login = page.url.endswith("/console/login")
            assert is_login or answer.status == 401
            assert not re.search("order-|0x[0-9a-fA-F]{40}|rf_[0-9a-f]", page.content())


def test_a_refund_links_to_its_explorer(administrator: Visitor, site: Site) -> None:
    administrator.open(site.pages()["refund"])
    links = administrator.page.locator("a.external")
    targets = [each.get_attribute("href") or "" for each in links.all()]

    assert any(each.startswith(f"{EXPLORER}/tx/0x") for each in targets)
    assert {each.split("/0x")[0] for each in targets} == {
        f"{EXPLORER}/{kind}" for kind in ("address", "token", "tx")
    }
    assert {each.get_attribute("rel") for each in links.all()} == {"noreferrer"}


def test_the_audit_log_is_downloaded(administrator: Visitor, site: Site) -> None:
    """The file is what ``hotwallet audit verify`` needs, and is on record."""
    page = administrator.page
    administrator.open("/console/audit")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download audit.jsonl").click()
    signing = site.container.checkpoint_settings
    assert signing is not None

    with download.value.path().open("rb") as file:
        assert verify(file, Verifier(signing.key.public_pem()), []).is_good

    def is_shown() -> bool:
        administrator.open("/console/audit?event=admin-access-succeeded&actor=alice")
        return page.locator(".records li").count() > 0

    # The page shows a record once the service has sealed it.
    assert eventually(is_shown)
    expect(page.locator(".records li").first).to_contain_text("token:alice")


@pytest.mark.parametrize("path", ["/docs", "/problems/policy-violation"])
def test_the_public_pages(chromium: Browser, site: Site, path: str) -> None:
    """The document of the API and of a code: on a phone too, and accessible."""
    with visiting(chromium, site.url) as visitor:
        assert visitor.open(path) == 200
        for width in (360, 1280):
            visitor.resize(width)
            assert not visitor.is_too_wide()
        is_long = path == "/docs"
        # All sections have the same parts, and the page has many.
        parts = ["nav", "main > section:nth-of-type(-n + 6)"] if is_long else ["body"]
        found = visitor.check_accessibility(*parts, contrast=not is_long)
        assert found == []
        assert visitor.problems == []
