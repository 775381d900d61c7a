"""Records that no process of the service writes, but a database role can insert."""

import json
from collections.abc import Sequence

import structlog
from hypothesis import strategies as st

from signer.audit.hash_chain import GENESIS, sealed
from signer.audit.log import AuditLog
from signer.audit.verify import ExportVerdict, verify
from signer.model.audit_record import Record, Sealed
from tests.support.audit import START, VERIFIER, exported, record


OURS, LATER = record(1), record(2)

_SEALER = AuditLog(structlog.get_logger("audit"), clock=lambda: START)

GOOD_ID = record().id

_BODIES = (
    *("", "{}}", "[]", "5", "null", "not json", '{"a": 1}', '{"b":1,"a":2}'),
    *('{"a":1,"a":1}', '{"a":1.0}', '{"a":NaN}', '{"a":"\\ud800"}', '{"a":"\\u0061"}'),
    "{}\n",
    '{},"sequence":2}\n{"hash":"' + "0" * 64 + f'","id":"{GOOD_ID}","record":{{}}',
    '{"a":' * 501 + "1" + "}" * 501,
    '{"a":' + "9" * 5000 + "}",
    "\x00",
)


def chained(*chain: Record) -> list[Sealed]:
    """Return a chain of these records."""
    return sealed(0, GENESIS, chain)


def verified(*chain: Record, sizes: Sequence[int] = ()) -> ExportVerdict:
    """Verify an export of *chain* with checkpoints of these *sizes*, or of all."""
    lines = exported(chained(*chain), sizes or [len(chain)])
    return verify(lines, VERIFIER)


def declares(*forged: Record) -> Record:
    """Return the record of the sealer that declares these forged."""
    return _SEALER.forged([each.id for each in forged])


HOSTILE = [
    *(Record(GOOD_ID, body) for body in _BODIES),
    *(
        Record(id_, "{}")
        for id_ in ("", "au_0", "AU_" + "0" * 32, GOOD_ID + "\n", 'x"', "\u202e\x1b[2J")
    ),
]
"""Records that are not canonical, each in another way."""

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
    ),
    max_leaves=8,
)

BODIES = (
    TEXTS
    | VALUES.map(json.dumps)
    | st.dictionaries(TEXTS, VALUES).map(
        lambda fields: json.dumps(
            fields, ensure_ascii=False, sort_keys=True, separators=(",", ":")
        )
    )
)

IDS = TEXTS | st.just(GOOD_ID)
"""Strategies for ids and bodies that may be canonical."""
