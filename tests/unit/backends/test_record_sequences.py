"""The ids of an export's records: in a temporary file as in memory."""

import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.record_sequences import RecordSequences
from signer.audit.hash_chain import GENESIS, sealed
from signer.audit.verify import Sequences, verify
from tests.support.audit import VERIFIER, exported, records


@pytest.fixture(params=[dict, RecordSequences], ids=["memory", "file"])
def sequences(request: pytest.FixtureRequest) -> Sequences:
    make: Callable[[], Sequences] = request.param
    return make()


def test_the_first_sequence_of_an_id_is_kept(sequences: Sequences) -> None:
    assert sequences.setdefault("au_1", 1) == 1
    assert sequences.setdefault("au_2", 2) == 2
    assert sequences.setdefault("au_1", 3) == 1

    assert sequences["au_1"] == 1
    with pytest.raises(KeyError):
        sequences["au_3"]


def test_items_are_in_the_order_of_the_chain(sequences: Sequences) -> None:
    """The id of a forged record is any text."""
    ids = ["b", "a", "\ud800", "c\0", "", "c"]
    for number, id_ in enumerate(ids, 1):
        sequences.setdefault(id_, number)

    assert list(sequences.items()) == [(id_, n) for n, id_ in enumerate(ids, 1)]


def test_a_repeated_record_is_found(sequences: Sequences) -> None:
    """A2: also if its hash and the checkpoint are right."""
    twice = records(3)
    twice.append(twice[0])
    lines = exported(sealed(0, GENESIS, twice), [4])
    finding = verify(lines, VERIFIER, sequences=sequences).finding

    assert finding is not None
    assert (finding.code, finding.sequence) == ("repeated", 4)


def test_memory_does_not_grow_with_the_records() -> None:
    before = _resident()
    sequences = RecordSequences()
    for number in range(200_000):
        sequences.setdefault(f"au_{number:032x}", number)

    assert _resident() - before < 16 * 2**20


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_an_error_of_the_file_is_an_error_of_the_system() -> None:
    """The command reports it as it does one of the export's own file."""
    sequences = RecordSequences()
    sequences._file.close()

    with pytest.raises(OSError, match="the temporary file"):
        sequences.setdefault("au_1", 1)
