"""Statements are compiled once, however they are found."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Select, create_engine, literal, select

from backends.sql.compiled_statements import CompiledStatements


CONSTANT = select(literal(1).label("number"))


def _build(number: int) -> Select[int]:
    return select(literal(number).label("number"))


@pytest.fixture
def compiled() -> CompiledStatements:
    """An empty cache."""
    return CompiledStatements()


@pytest.fixture
def connection(compiled: CompiledStatements) -> Iterator[Connection]:
    """A connection that uses it."""
    with create_engine("sqlite://").connect() as opened:
        yield opened.execution_options(compiled_cache=compiled)


def test_statements_of_one_form_are_compiled_once(
    compiled: CompiledStatements, connection: Connection
) -> None:
    """A constant is found again, and so is one that is built for each call."""
    given = (CONSTANT, CONSTANT, _build(2), _build(3), CONSTANT)

    results = [connection.execute(each).scalar_one() for each in given]

    assert results == [1, 1, 2, 3, 1]
    assert len(compiled) == 1


def test_a_statement_is_compiled_for_the_parameters_that_it_gets(
    compiled: CompiledStatements, connection: Connection
) -> None:
    """Other names of parameters are another text of the same statement."""
    for _ in range(2):
        assert connection.execute(CONSTANT).scalar_one() == 1
        assert connection.execute(CONSTANT, {"unused": 5}).scalar_one() == 1

    assert len(compiled) == 2


def test_the_cache_is_bounded(
    compiled: CompiledStatements, connection: Connection
) -> None:
    """Neither many forms of statements nor many objects of one form fill the memory."""
    for i in range(2_500):
        form = select(literal(i).label(f"number_{i}"))
        assert connection.execute(form).scalar_one() == i
        assert connection.execute(_build(i)).scalar_one() == i

    assert 1 < len(compiled) <= 2_000
    assert len(compiled._found) <= 2_000
