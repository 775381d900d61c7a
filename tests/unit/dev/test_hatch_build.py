"""The build of the wheel renames our packages, and nothing else."""

from pathlib import Path

import pytest

from dev.hatch_build import PACKAGES, rename, renamed


ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("source", "renamed_source"),
    [
        ("from signer import errors\n", "from hotwallet.signer import errors\n"),
        ("from api.cli import lazy\n", "from hotwallet.api.cli import lazy\n"),
        ("    import api.http.app  # x\n", "    import hotwallet.api.http.app  # x\n"),
        ('x = "api.cli.audit:audit"', 'x = "hotwallet.api.cli.audit:audit"'),
        (
            'x = "api.server.entrypoint:get_app()"',
            'x = "hotwallet.api.server.entrypoint:get_app()"',
        ),
        (
            "x = 'python:api.server.gunicorn_conf'",
            "x = 'python:hotwallet.api.server.gunicorn_conf'",
        ),
        (
            'x = "api.server.gunicorn_worker.GunicornWorker"',
            'x = "hotwallet.api.server.gunicorn_worker.GunicornWorker"',
        ),
        ('f = files("signer.chain")', 'f = files("hotwallet.signer.chain")'),
    ],
)
def test_names_of_modules_are_renamed(source: str, renamed_source: str) -> None:
    if source.startswith(" "):
        source, renamed_source = f"if True:\n{source}", f"if True:\n{renamed_source}"

    assert rename(source, ROOT) == renamed_source


@pytest.mark.parametrize(
    "source",
    [
        "from signers import errors\n",
        "from api_client import x\n",
        'role = "signer"',
        'logger = "api.requests"',
        'log = structlog.get_logger("api.auth.verification_keys")',
        'metric = "signer.nothing.here"',
        "signer = 1\nsigner.x\n",
    ],
)
def test_other_names_stay(source: str) -> None:
    """A word, the name of a logger, and what is no module of ours."""
    assert rename(source, ROOT) == source


def test_a_name_that_an_import_binds_and_that_changes_is_refused() -> None:
    with pytest.raises(ValueError, match="from signer import"):
        rename("import signer.errors\nsigner.errors.Refusal\n", ROOT)


def test_the_wheel_has_every_file_below_one_package(tmp_path: Path) -> None:
    """Each keeps the number of its lines, so tracebacks fit the repository."""
    files = {target: path for path, target in renamed(ROOT, tmp_path)}

    assert {target.partition("/")[0] for target in files} == {"hotwallet"}
    for name in PACKAGES:
        for source in (ROOT / name).rglob("*.py"):
            written = files[f"hotwallet/{source.relative_to(ROOT)}"]
            assert written.read_text().count("\n") == source.read_text().count("\n")
