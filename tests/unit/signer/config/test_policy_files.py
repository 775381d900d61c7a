"""The files of own rules."""

import os
from pathlib import Path

import pytest

from signer.config.digest import read_configuration
from signer.config.policy_files import (
    MAX_BYTES,
    MAX_FILES,
    read_own_examples,
    read_policy_files,
)
from signer.config.settings import Settings
from signer.errors import ConfigurationError


RULE = '@id("a") forbid (principal, action, resource);'


def test_reads_the_rules_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Other files of the folder are examples and notes."""
    (tmp_path / "20.cedar").write_text("// second")
    (tmp_path / "10.cedar").write_text(RULE)
    (tmp_path / "examples.toml").write_text("")

    found = read_policy_files(tmp_path)

    assert list(found.items()) == [("10.cedar", RULE), ("20.cedar", "// second")]
    assert read_policy_files(None) == {}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "no file"),
        (b"\xff", "cannot be read"),
        (b"/" * (MAX_BYTES + 1), "has more than"),
    ],
)
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    """An empty folder is a mistake: the rules would be missing without a word."""
    if content is not None:
        (tmp_path / "10.cedar").write_bytes(content)

    with pytest.raises(ConfigurationError, match=problem) as refused:
        read_policy_files(tmp_path)

    assert [each.code for each in refused.value.refusals] == ["policy-invalid"]
    assert str(tmp_path) not in str(refused.value)


def test_a_pipe_does_not_hold_up_the_process(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_policy_files(tmp_path / "absent")
    os.mkfifo(tmp_path / "10.cedar")

    with pytest.raises(ConfigurationError, match=r"10\.cedar is no regular file"):
        read_policy_files(tmp_path)


def test_the_number_of_files_is_bounded(tmp_path: Path) -> None:
    for number in range(MAX_FILES):
        (tmp_path / f"{number}.cedar").write_text(RULE)
    assert len(read_policy_files(tmp_path)) == MAX_FILES
    (tmp_path / "more.cedar").write_text(RULE)

    with pytest.raises(ConfigurationError, match="has more than 100 files"):
        read_policy_files(tmp_path)


def test_the_own_examples(tmp_path: Path) -> None:
    assert read_own_examples(tmp_path) is None
    for content in (b"\xff", b"#" * (MAX_BYTES + 1)):
        (tmp_path / "examples.toml").write_bytes(content)
        with pytest.raises(ConfigurationError, match="policy-invalid"):
            read_own_examples(tmp_path)

    (tmp_path / "examples.toml").write_text("# none")

    assert read_own_examples(tmp_path) == "# none"


def test_the_configuration_has_the_own_rules() -> None:
    """Without any, it has the hash of earlier versions, which had none."""
    settings = Settings.from_env({})
    without = read_configuration(settings, {}, {})
    with_rules = read_configuration(settings, {}, {}, {"10.cedar": RULE})

    assert "policy" not in without.document
    assert with_rules.document["policy"] == {"10.cedar": RULE}
    assert with_rules.hash != without.hash
