"""What a page shows as the output of a command is compared, or has a reason here."""

from pathlib import Path

import pytest

from tests.e2e.console import read_blocks


ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"

_GUIDES = "tests/e2e/test_guides.py"
_OPERATORS = "tests/e2e/test_operator_guides.py"

COMPARED = {
    "how-to/add-a-network.md": _GUIDES,
    "how-to/approvals.md": _OPERATORS,
    "how-to/deploy.md": _OPERATORS,
    "how-to/key-compromise.md": _OPERATORS,
    "how-to/mac-key-rotation.md": _GUIDES,
    "how-to/migrate.md": _OPERATORS,
    "how-to/policy.md": _OPERATORS,
    "how-to/production.md": "tests/e2e/test_production_page.py",
    "how-to/reconcile.md": _OPERATORS,
    "how-to/rotation.md": _OPERATORS,
    "how-to/several-wallets.md": _GUIDES,
    "how-to/softhsm.md": _GUIDES,
    "how-to/verify-an-export.md": _OPERATORS,
    "how-to/vault.md": "tests/e2e/test_vault.py",
    "how-to/webhooks.md": _OPERATORS,
    "reference/auth.md": _OPERATORS,
    "reference/configuration.md": _GUIDES,
    "reference/tenants.md": _GUIDES,
    "tutorial/first-refund.md": "tests/e2e/test_documentation.py",
}
"""The pages, with the test that runs them."""

NOT_COMPARED = {
    "how-to/google-cloud-kms.md": "a project of Google Cloud",
    "reference/audit.md": "forged records; verify-an-export.md is compared",
}
"""What a page needs that no test has."""


def _shows_outputs(page: Path) -> bool:
    return any(
        step.output and not block.reason
        for block in read_blocks(page)
        for step in block.steps
    )


def test_every_output_is_compared_or_has_a_reason() -> None:
    """A new page with outputs gets a test, or a line here."""
    pages = {
        str(page.relative_to(DOCS))
        for page in DOCS.rglob("*.md")
        if page.parent.name != "adr" and _shows_outputs(page)
    }

    assert pages - {*COMPARED, *NOT_COMPARED} == set()
    assert all((DOCS / page).exists() for page in NOT_COMPARED)


@pytest.mark.parametrize("page", COMPARED)
def test_the_test_names_the_page(page: str) -> None:
    """The test that is said to run a page reads it."""
    test = (ROOT / COMPARED[page]).read_text(encoding="utf-8")

    assert f'"{Path(page).name}"' in test
