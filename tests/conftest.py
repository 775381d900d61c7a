"""Fixtures that every test may ask for, each from the room that owns it."""

pytest_plugins = [
    "tests.fixtures.softhsm",
    "tests.fixtures.kms",
    "tests.fixtures.stores",
    "tests.fixtures.chain",
    "tests.contract.report",
]
