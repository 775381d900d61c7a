"""The reference pages list every variable, code, route and table; links work."""

import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from api.cli.operator import TOKEN_FILE
from api.extras.console import PREFIX as CONSOLE
from api.extras.open_telemetry.settings import TraceSettings
from api.extras.screening.settings import ScreeningSettings
from api.extras.top_ups.settings import TreasurySettings
from api.http import administration, documentation, events, metrics, refunds
from api.http.problems import Problem, problem_of
from backends.google_cloud_kms.options import GoogleCloudKMSOptions
from signer import errors
from signer.config.networks import load_networks
from signer.config.settings import Settings
from signer.config.tenants import check_tenants, load_tenants
from signer.errors import (
    ApprovalRequiredError,
    BroadcastRejectedError,
    ConfigurationError,
    HotWalletError,
    NewKeyUnhealthyError,
    PolicyViolationError,
    RateLimitedError,
)
from signer.ports.clock import utc_now
from tests.support.markdown import anchors


ROOT = Path(__file__).resolve().parents[3]

PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "clients").glob("*/README.md"),
    ROOT / "contracts" / "README.md",
]

VARIABLES = {
    str(field.alias)
    for model in (
        *(Settings, GoogleCloudKMSOptions),
        *(ScreeningSettings, TraceSettings, TreasurySettings),
    )
    for field in model.model_fields.values()
    if str(field.alias).isupper()
}


@pytest.mark.parametrize(
    "document", [".env.example", "docs/reference/configuration.md"]
)
def test_every_variable_is_documented(document: str) -> None:
    words = {*re.findall(r"\w+", (ROOT / document).read_text(encoding="utf-8"))}

    assert {*VARIABLES} - words == set()


def test_every_variable_of_a_command_is_documented() -> None:
    """Those that its options read, and the operator's token."""
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text(
        encoding="utf-8"
    )
    source = "".join(
        path.read_text(encoding="utf-8")
        for pattern in ("cli/*.py", "extras/*/commands.py")
        for path in (ROOT / "api").glob(pattern)
    )
    read = {*re.findall(r"envvar=\"(\w+)\"", source), TOKEN_FILE}

    assert {"HOTWALLET_URL", "OPERATOR_TOKEN_FILE"} <= read
    assert {name for name in read if f"`{name}`" not in page} == set()


def _errors(kind: type[HotWalletError]) -> Iterator[type[HotWalletError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _errors(child)


def test_every_error_code_is_documented() -> None:
    """Each error code of the API, except internal errors, has its row."""
    guide = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d{3}(?:, \d{3})*) \| (.*?) \|", guide, re.MULTILINE)
    documented = {
        (int(status), code)
        for statuses, codes in rows
        for status in statuses.split(", ")
        for code in re.findall(r"`([a-z-]+)`", codes)
    }
    raised = {
        (problem.status, problem.code)
        for kind in _errors(HotWalletError)
        if kind.__module__ == errors.__name__
        and (problem := _problem(kind)).status != HTTPStatus.INTERNAL_SERVER_ERROR
    }

    assert len(raised) > 20
    assert raised - documented == set()


_WITH_REASON = (BroadcastRejectedError, NewKeyUnhealthyError)


def _problem(kind: type[HotWalletError]) -> Problem:
    extra: dict[str, Any] = {"rule": "x"} if kind is PolicyViolationError else {}
    extra |= {"reason": "x"} if kind in _WITH_REASON else {}
    if kind is ApprovalRequiredError:
        extra |= {"digest": "x", "expires_at": utc_now()}
    extra |= {"retry_after": 1} if issubclass(kind, RateLimitedError) else {}
    return problem_of(kind("x", **extra) if kind is not ConfigurationError else kind())


def test_every_route_is_documented() -> None:
    """
    Each route of the application is in the first table of the API page.

    The console has one row: its pages are no part of the API.
    """
    guide = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(?:GET|POST) (\S+)` \|", guide, re.MULTILINE)
    declared = (
        *(refunds.ROUTES, events.ROUTES, events.KEYS, administration.ROUTES),
        *(documentation.PROBES, documentation.ROUTES),
    )
    routes = {
        path.replace("{refund_id}", "{id}") for each in declared for path in each.paths
    }
    routes |= metrics.PATHS.keys()

    assert len(routes) > 5
    assert {*routes, CONSOLE} == set(documented)


def test_the_examples_are_valid() -> None:
    """The tenants of the example have limits for the networks of the other one."""
    networks = load_networks(ROOT / "docker" / "networks.example.toml")
    tenants = load_tenants(ROOT / "docker" / "tenants.example.toml")

    check_tenants(tenants, networks)
    assert tenants.tenants


def test_no_link_is_broken() -> None:
    """Each relative link has a target, and its anchor exists."""
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    broken = [
        f"{document.relative_to(ROOT)}: {target}#{anchor}"
        for document in documents
        for target, anchor in re.findall(
            r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", document.read_text(encoding="utf-8")
        )
        if not (page := document.parent / target if target else document).exists()
        or (anchor and anchor not in anchors(page))
    ]

    assert broken == []


_FENCE = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
_GAP = re.compile(r"^ *\|.*\n\s*\n *\|.*\n(?! *\|[ :|-]+\|\n)", re.MULTILINE)
_TABLE = re.compile(r"(?:^ *\|.*\n)+", re.MULTILINE)
_BAR = re.compile(r"(?<!\\)\|")


def _broken_tables(text: str) -> Iterator[str]:
    text = _FENCE.sub("", text)
    yield from _GAP.findall(text)
    for table in _TABLE.findall(text):
        rows = table.splitlines()
        width = len(_BAR.findall(rows[0]))
        yield from (each for each in rows if len(_BAR.findall(each)) != width)


def test_no_table_is_broken() -> None:
    """An empty line inside of a table ends it, and a bar in a cell is a new cell."""
    found = {
        str(page.relative_to(ROOT)): [*_broken_tables(page.read_text(encoding="utf-8"))]
        for page in PAGES
    }

    assert {page: rows for page, rows in found.items() if rows} == {}
    good = "| a | b |\n| --- | --- |\n| c | d |\n"
    assert [*_broken_tables(f"{good}\n{good}")] == []
    for before, after in (("| c |", "\n| c |"), ("| c |", "| `c | c` |"), ("d |", "d")):
        assert [*_broken_tables(good.replace(before, after))]


_LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def _linked(page: Path) -> set[Path]:
    """Return the pages that *page* links to."""
    targets = _LINK.findall(page.read_text(encoding="utf-8"))
    return {(page.parent / each).resolve() for each in targets if each.endswith(".md")}


def test_every_page_is_at_most_three_clicks_from_the_entry() -> None:
    found = {ROOT / "docs" / "README.md"}
    for _ in range(3):
        found |= {each for page in found for each in _linked(page)}

    assert {*(ROOT / "docs").rglob("*.md")} - found == set()


def test_every_page_is_in_the_navigation() -> None:
    """That of the site, which has five roles and the reference."""
    folder = ROOT / "docs"
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[2]
    pages = {str(path.relative_to(folder)) for path in folder.rglob("*.md")}

    assert {
        page
        for page in pages
        if f": {page}\n" not in navigation and not page.startswith("adr/0")
    } == set()
    decisions = (folder / "adr" / "README.md").read_text(encoding="utf-8")
    names = {page.name for page in (folder / "adr").glob("0*.md")}
    assert {name for name in names if f"]({name})" not in decisions} == set()


def test_a_role_has_at_most_seven_entries() -> None:
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    *roles, terms = text.split("\n## ")[1:]

    assert terms.startswith("Terms\n")
    assert len(roles) == 5
    for section in roles:
        assert 3 <= len(re.findall("^\\* ", section, re.MULTILINE)) <= 7
