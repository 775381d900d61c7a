"""A report as a page of one file, without scripts, that an auditor reads and prints."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from api.extras.audit_report.report import SUBJECTS, digest_of
from signer.audit.hash_chain import parse_canonical


COLUMNS = ("Record", "Time", "Who", "Event", "Outcome", "Details", "Approved by")

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem; color: #1a1a1a; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
th, td { border-bottom: 1px solid #bbb; padding: .25rem .5rem; text-align: left;
  vertical-align: top; overflow-wrap: anywhere; }
th { white-space: nowrap; } tr { break-inside: avoid; } h2 { break-after: avoid; }
code, pre { font-size: 12px; overflow-wrap: anywhere; white-space: pre-wrap; }
@media print { body { margin: 0; font-size: 10px; } code, pre { font-size: 8px; } }
"""


def render(lines: Sequence[bytes]) -> str:
    """Return the page of the *lines* of a report, without its signature."""
    header, *listed, summary = (parse_canonical(line[:-1]) for line in lines)
    return "".join(_parts(header, listed, summary, digest_of(lines).hex()))


def _parts(
    header: Mapping[str, Any],
    listed: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    digest: str,
) -> Iterator[str]:
    title = f"Changes from {header['from']} to {header['to']}"
    counts = summary["counts"]
    yield (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy"'
        " content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{escape(title)}</h1>\n"
        f"<p>Audit log <code>{escape(str(header['origin']))}</code>:"
        f" {counts['records']} records between two signed checkpoints, of which"
        f" {counts['listed']} are listed.</p>\n"
        f"<p>SHA-256 of the report: <code>{digest}</code>. Verify report and page with"
        " <code>hotwallet audit verify-report</code> and an export of the log: only"
        " that shows that nothing is missing.</p>\n"
    )
    for subject, name in SUBJECTS.items():
        rows = [each for each in listed if subject in each["subjects"]]
        yield f"<h2>{name}</h2>\n"
        yield _table(COLUMNS, map(_row, rows)) if rows else "<p>none</p>\n"
    yield "<h2>All records, by event</h2>\n"
    events = {**counts["events"], "forged": counts["forged"]}
    rows_ = [[escape(event), str(count)] for event, count in events.items()]
    yield _table(("Event", "Records"), rows_)
    yield "<h2>Not recorded</h2>\n<ul>"
    yield from (f"<li>{escape(each)}</li>" for each in summary["not_recorded"])
    signed = ", ".join(f"{key} ({n})" for key, n in counts["checkpoints"].items())
    yield (
        "</ul>\n<h2>The checkpoints around the period</h2>\n"
        f"<p>Keys that signed those of the period: {escape(signed)}</p>\n"
    )
    for note in (header["after"], header["through"]):
        yield f"<pre>{escape(str(note or 'none: the log begins in the period'))}</pre>"
    yield "</body></html>\n"


def _row(line: Mapping[str, Any]) -> Sequence[str]:
    number = f"{line['sequence']}<br><code>{line['hash']}</code>"
    record = line.get("record", {})
    notes = "<br>outside of the period" if line.get("is_outside") else ""
    if "forged_by" in line:
        notes = f"<br>forged, as record {line['forged_by']} declares"
    granted = [
        f"{escape(_text(each['by']))} ({each['sequence']})"
        for each in line.get("approval", {}).get("granted", ())
    ]
    return [
        number,
        escape(_text(record.get("timestamp"))) + notes,
        escape(_text(record.get("actor"))),
        escape(_text(record.get("event"))),
        escape(_text(record.get("outcome"))),
        f"<code>{escape(_text(record.get('details')))}</code>",
        "<br>".join(granted),
    ]


def _text(value: object) -> str:
    """Return *value* as one line, in which nothing hides or moves other text."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "" if value is None else text
    return "".join(
        each if each.isprintable() else f"\\u{ord(each):04x}" for each in text
    )


def _table(columns: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{each}</th>' for each in columns)
    body = "\n".join(
        f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>\n"
