"""What the documents promise to list, they list."""

import re
import tomllib
from pathlib import Path

import pytest

from signer.networks import Networks
from signer.settings import Settings


ROOT = Path(__file__).resolve().parents[2]

VARIABLES = sorted(
    str(field.alias) for field in Settings.model_fields.values() if field.alias
)


@pytest.mark.parametrize("document", [".env.example", "docs/configuration.md"])
@pytest.mark.parametrize("variable", VARIABLES)
def test_every_variable_is_documented(variable: str, document: str) -> None:
    """Whatever the service reads from its environment can be looked up."""
    text = (ROOT / document).read_text(encoding="utf-8")

    assert re.search(rf"\b{variable}\b", text)


def test_every_refusal_is_documented() -> None:
    """Each code with which the service refuses to start has its cure in the guide."""
    sources = [
        path.read_text(encoding="utf-8")
        for room in ("signer", "backends", "api", "softhsm")
        for path in (ROOT / room).rglob("*.py")
    ]
    codes = {
        code
        for source in sources
        for code in re.findall(r'Refusal\(\s*"([a-z0-9-]+)"', source)
    }
    guide = (ROOT / "docs" / "guard.md").read_text(encoding="utf-8")

    assert len(codes) > 8
    assert {code for code in codes if f"`{code}`" not in guide} == set()


def test_the_example_of_networks_is_valid() -> None:
    """The file to start from is one that the service would read."""
    example = (ROOT / "docker" / "networks.example.toml").read_text(encoding="utf-8")

    assert Networks.model_validate(tomllib.loads(example)).networks


def test_the_links_lead_somewhere() -> None:
    """No relative link in a document is broken."""
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents
        for target in re.findall(
            r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8")
        )
        if not (document.parent / target).exists()
    ]

    assert broken == []
