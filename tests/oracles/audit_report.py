"""
Verifies the report of a period, without any code of the service.

    python audit_report.py REPORT EXPORT PUBLIC_KEY... [--page PAGE]

It needs Python 3.11 and the package cryptography.  It recomputes the hash chain of the
export, verifies the checkpoints, makes the lines of the report again, and compares.
"""

import argparse
import base64
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key


Fields = dict[str, Any]

RECORD = re.compile(
    rb'\{"hash":"([0-9a-f]{64})","id":"([^"\\]*)",(?:"mac":"[^"\\]*",)?'
    rb'"record":(\{.*\}),"sequence":(\d+)\}\n'
)

TITLES = {
    "keys": "Keys",
    "people": "People, approvals and tenants",
    "rules": "Rules and limits",
    "starts": "Configuration and starts",
    "stops": "Stops, blocks and wallets",
    "restores": "Restores",
    "checks": "Failed checks and refusals",
    "others": "Other actions",
    "unknown": "Records of an unknown kind",
}

ACTIONS = {
    "keys": "key-rotate key-fund key-failover key-revoke key-reinstate key-retire"
    " key-sweep",
    "people": "approval-request approval-grant approval-break-glass approval-reject"
    " approval-expire approval-use admin-access",
    "rules": "limits-accept limits-raise",
    "starts": "service-start",
    "stops": "signing-stop signing-resume nonce-repair nonce-abandon tenant-block"
    " tenant-unblock foreign-transaction-accept",
    "restores": "ledger-restore",
    "others": "webhook-replay doctor-run drill-run",
    "payments": "digest-sign refund-accept refund-cancel refund-refuse",
}

SUBJECT = {name: subject for subject, all_ in ACTIONS.items() for name in all_.split()}


MAX_DEPTH = 64
"""No record of the service has more levels; what is in a deeper one is not read."""


def depth(value: Any) -> int:
    each = value.values() if isinstance(value, dict) else value
    is_nested = isinstance(value, (dict, list))
    return 1 + max(map(depth, each), default=0) if is_nested else 0


class BadError(Exception):
    """What is wrong."""


def require(condition: object, problem: str) -> None:
    if not condition:
        raise BadError(problem)


def is_signed(text: str, signatures: str, keys: list[Ed25519PublicKey]) -> bool:
    """Whether one of *keys* signed *text* (c2sp.org/signed-note)."""
    origin = text.partition("\n")[0]
    is_known = False
    for line in signatures.splitlines():
        dash, name, encoded = line.split(" ")
        blob = base64.b64decode(encoded, validate=True)
        for key in keys:
            label = name.encode() + b"\n\x01" + key.public_bytes_raw()
            is_ours = blob[:4] == hashlib.sha256(label).digest()[:4]
            if dash == "\u2014" and name == origin and is_ours:
                try:
                    key.verify(blob[4:], text.encode())
                except InvalidSignature:
                    return False
                is_known = True
    return is_known


class Log:
    """An export: its records, in order, and the checkpoints that *keys* signed."""

    def __init__(self, export: bytes, keys: list[Ed25519PublicKey]) -> None:
        self.origin = ""
        self.records: list[tuple[str, str, Fields]] = []  # Hash, id, fields.
        self.raw: set[int] = set()  # The numbers of those that are bytes in base64.
        self.notes: list[tuple[int, datetime | None, str]] = []  # None: not signed.
        self._head = hashlib.sha256(b"hotwallet audit chain 1: genesis").digest()
        self._keys = keys
        raw, is_ended = b"", False
        for line in export.splitlines(keepends=True):
            require(
                not is_ended and line.endswith(b"\n"), "the export is cut or longer"
            )
            if found := RECORD.fullmatch(line):
                seal, name, body, number = found.groups()
                self._add(int(number), seal.decode(), name, body)
                continue
            fields = json.loads(line)
            if "part" in fields or "raw" in fields:
                raw += base64.b64decode(fields.get("part") or fields["raw"])
                if "raw" in fields:
                    end = 8 + int.from_bytes(raw[:8], "big")
                    place = fields["sequence"], fields["hash"]
                    self._add(*place, raw[8:end], raw[end:])
                    self.raw.add(fields["sequence"])
                    raw = b""
            elif "checkpoint" in fields:
                self._note(fields["checkpoint"])
            elif "format" in fields:
                require(fields["format"] == "hotwallet-audit-export/1", "the format")
                self.origin = fields["origin"]
            else:
                is_ended = True
                counts = len(self.records), len(self.notes), self._head.hex()
                end_ = fields["end"]
                stated = end_["records"], end_["checkpoints"], end_["hash"]
                require(counts == stated, "the last line of the export")
        require(is_ended, "the export is cut off")

    def _add(self, number: int, seal: str, name: bytes, body: bytes) -> None:
        require(number == len(self.records) + 1, f"record {number} is out of order")
        data = len(name).to_bytes(8, "big") + name + body
        place = self._head + number.to_bytes(8, "big")
        label = b"hotwallet audit chain 1: record"
        self._head = hashlib.sha256(label + place + data).digest()
        require(self._head.hex() == seal, f"record {number} was changed")
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            fields = None
        is_shallow = isinstance(fields, dict) and depth(fields) <= MAX_DEPTH
        fields = fields if is_shallow else {}
        self.records.append((seal, name.decode(), fields))

    def _note(self, note: str) -> None:
        text, _, signatures = note.partition("\n\n")
        origin, size, head, *_, at = text.split("\n")
        is_ours = origin == self.origin and is_signed(
            f"{text}\n", signatures, self._keys
        )
        if is_ours:
            require(int(size) == len(self.records), "a checkpoint is out of place")
            require(base64.b64decode(head) == self._head, "a checkpoint contradicts")
        time = datetime.fromisoformat(at) if is_ours else None
        self.notes.append((len(self.records), time, note))

    def forged(self) -> dict[int, int]:
        """Which record declares each forged one."""
        ids = {
            hashlib.sha256(name.encode()).hexdigest(): number
            for number, (_, name, _) in enumerate(self.records, 1)
        }
        found: dict[int, int] = {}
        for number in range(len(self.records), 0, -1):
            fields = self.records[number - 1][2]
            if fields.get("event") == "audit-records-forged" and number not in found:
                for each in fields["details"]["id_sha256"]:
                    found[ids[each]] = number
        return found


def edges(log: Log, start: datetime, end: datetime) -> tuple[Any, Any]:
    """The checkpoints around the period: size and note of each."""
    signed = [(size, at, note) for size, at, note in log.notes if at is not None]
    begun = [n for n, (_, at, _) in enumerate(signed) if at >= start]
    require(begun, "no checkpoint was signed after the start")
    first = begun[0]
    before = [n for n, (_, at, _) in enumerate(signed) if at < end and n >= first]
    last = (before[-1] + 1) if before else first
    require(last < len(signed), "no checkpoint was signed after the end")
    after = signed[first - 1] if first else (0, None, None)
    return (after[0], after[2]), (signed[last][0], signed[last][2])


def subjects(event: str, details: Any, used_for: str | None) -> list[str]:
    if event in {"alert-raised", "audit-records-forged"}:
        return ["checks"]
    if event == "configuration-loaded":
        return ["starts"]
    if event == "configuration-changed":
        paths = details.get("changes") if isinstance(details, dict) else None
        paths = paths if isinstance(paths, dict) and paths else [""]
        people = [p.split(".")[0] in {"approvers", "tenants"} for p in paths]
        names = {"people" if each else "rules" for each in people}
        return [each for each in TITLES if each in names]
    found = re.fullmatch("(.+)-(requested|succeeded|refused)", event)
    if found is None:
        return ["unknown"]
    all_ = {SUBJECT.get(found[1], "unknown")}
    if used_for in SUBJECT:
        all_.add(SUBJECT[used_for])
    if found[2] == "refused":
        all_.add("checks")
    return [each for each in TITLES if each in all_]


class Approvals:
    """The proposals so far, by digest, and who approved each."""

    def __init__(self) -> None:
        self._proposals: dict[str, Fields] = {}

    def follow(self, number: int, fields: Fields) -> Fields | None:
        """Read a record; return the approval that it uses."""
        event, details = str(fields.get("event")), fields.get("details")
        if not isinstance(details, dict):
            return None
        digest = str(details.get("digest"))
        if event == "approval-request-succeeded":
            try:
                action = str(json.loads(details["proposal"])["action"])
            except (ValueError, KeyError, TypeError):
                action = ""
            new: Fields = {"action": action, "asked": number, "granted": []}
            self._proposals[digest] = new
        grants = {"approval-grant-succeeded", "approval-break-glass-succeeded"}
        if event in grants and digest in self._proposals:
            by = details.get("approver") or fields.get("actor")
            given = {"sequence": number, "by": by, "event": event}
            self._proposals[digest]["granted"].append(given)
        if event == "limits-raise-succeeded":
            digest = str(details.get("approval"))
        elif event != "approval-use-succeeded":
            return None
        found = self._proposals.get(digest)
        return found and {**found, "granted": [*found["granted"]]}


def shown(fields: Fields, start: datetime, end: datetime) -> Fields:
    """The fields of a line that only depend on its record."""
    details, line = fields.get("details"), Fields()
    try:
        is_inside = start <= datetime.fromisoformat(fields["timestamp"]) < end
    except (KeyError, TypeError, ValueError):
        is_inside = False
    if not is_inside:
        line["is_outside"] = True
    if isinstance(details, dict):
        kept = {key: each for key, each in details.items() if key != "document"}
        fields = {**fields, "details": kept}
    return {**line, "record": fields}


def expected(log: Log, start: datetime, end: datetime) -> Iterator[Fields]:
    """The lines of the report, except for the texts of what is not recorded."""
    (after, after_note), (through, through_note) = edges(log, start, end)
    yield {"origin": log.origin, "after": after_note, "through": through_note}
    forged, events, listed = log.forged(), Counter[str](), 0
    approvals = Approvals()
    for number, (seal, name, fields) in enumerate(log.records[:through], 1):
        line: Fields = {"sequence": number, "hash": seal}
        if number in forged:
            line |= {"forged_by": forged[number], "subjects": ["checks"]}
            if number not in log.raw:
                line |= {"record": shown(fields, start, end)["record"]}
        else:
            approval = approvals.follow(number, fields)
            event = str(fields.get("event"))
            used_for = approval["action"] if approval else None
            about = subjects(event, fields.get("details"), used_for)
            events[event] += number > after
            line |= {"id": name, "subjects": about, **shown(fields, start, end)}
            line |= {"approval": approval} if approval else {}
        if number > after and line["subjects"]:
            listed += 1
            yield line
    inside = [number for number in forged if after < number <= through]
    notes = [each for each in log.notes if after < each[0] <= through]
    ids = [
        base64.b64decode(line.split(" ")[2])[:4].hex()
        for _, at, note in notes
        for line in note.partition("\n\n")[2].splitlines()
        if at
    ]
    counts = {
        "records": through - after,
        "listed": listed,
        "forged": len(inside),
        "events": {event: count for event, count in events.items() if count},
    }
    counts["checkpoints"] = dict(Counter(ids))
    counts["ignored_checkpoints"] = sum(at is None for _, at, _ in notes)
    yield {"counts": counts}


class Page(HTMLParser):
    """The cells of each row of a page, by the title above its table."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.digest = ""
        self._title, self._tag = "", ""
        self._is_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        require(tag not in {"script", "img", "link", "iframe"}, f"the page has {tag}")
        self._tag = tag
        if tag == "h2":
            self._title = ""
        elif tag == "tr" and self._title:
            self.rows.setdefault(self._title, []).append([])
        elif tag == "td":
            self.rows[self._title][-1].append("")
            self._is_cell = True
        elif tag == "br" and self._is_cell:
            self.rows[self._title][-1][-1] += "\n"

    def handle_endtag(self, tag: str) -> None:
        self._is_cell = self._is_cell and tag != "td"
        self._tag = ""

    def handle_data(self, data: str) -> None:
        if self._is_cell:
            self.rows[self._title][-1][-1] += data
        elif self._tag == "h2":
            self._title += data
        elif self._tag == "code" and re.fullmatch("[0-9a-f]{64}", data):
            self.digest = data


def text(value: Any) -> str:
    if value is None:
        return ""
    whole = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "".join(each if each.isprintable() else escape(each) for each in whole)


def escape(char: str) -> str:
    return f"\\u{ord(char):04x}"


def row(line: Fields) -> list[str]:
    number = f"{line['sequence']}\n{line['hash']}"
    record = line.get("record", {})
    granted = line.get("approval", {}).get("granted", [])
    notes = "\noutside of the period" if line.get("is_outside") else ""
    if "forged_by" in line:
        notes = f"\nforged, as record {line['forged_by']} declares"
    return [
        number,
        text(record.get("timestamp")) + notes,
        *(text(record.get(each)) for each in ("actor", "event", "outcome", "details")),
        "\n".join(f"{text(each['by'])} ({each['sequence']})" for each in granted),
    ]


def compare_page(lines: list[Fields], body: bytes, page: str) -> Iterator[str]:
    seen = Page(page)
    if seen.digest != hashlib.sha256(body).hexdigest():
        yield "the page is of another report"
    for subject, title in TITLES.items():
        due = [row(each) for each in lines if subject in each.get("subjects", ())]
        found = [each for each in seen.rows.get(title, []) if each]
        if due != found:
            yield f"the page differs in: {title}"


def check(
    report: bytes, export: bytes, pems: list[bytes], page: str | None = None
) -> list[str]:
    """Return what is wrong with *report*; nothing if it is what the log gives."""
    keys = [load_pem_public_key(pem) for pem in pems]
    trusted = [key for key in keys if isinstance(key, Ed25519PublicKey)]
    try:
        return list(_check(report, export, trusted, page))
    except BadError as e:
        return [str(e)]


def _check(
    report: bytes, export: bytes, keys: list[Ed25519PublicKey], page: str | None
) -> Iterator[str]:
    log = Log(export, keys)
    raw = report.splitlines(keepends=True)
    lines = [json.loads(line) for line in raw]
    if "signature" in lines[-1]:
        signature, body = lines.pop()["signature"], b"".join(raw[:-1])
        hash_ = base64.b64encode(hashlib.sha256(body).digest()).decode()
        kind = "report of a period of hotwallet audit records 1"
        signed = f"{log.origin}\n{kind}\n{hash_}\n"
        head, _, signatures = signature.partition("\n\n")
        if f"{head}\n" != signed or not is_signed(signed, signatures, keys):
            yield "the signature is invalid"
    else:
        body = report
    header = lines[0]
    require(header.pop("format") == "hotwallet-audit-report/1", "the format")
    period = [datetime.fromisoformat(header.pop(each)) for each in ("from", "to")]
    lines[-1].pop("not_recorded", None)
    due = list(expected(log, *period))
    for number, (found, wanted) in enumerate(zip(lines, due, strict=False), 1):
        if found != wanted:
            yield f"line {number} is {found}, and the log gives {wanted}"
            return
    if len(lines) != len(due):
        yield f"the report has {len(lines)} lines, and the log gives {len(due)}"
    elif page is not None:
        yield from compare_page(lines, body, page)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("report", "export"):
        parser.add_argument(name, type=Path)
    parser.add_argument("key", type=Path, nargs="+")
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    pems = [path.read_bytes() for path in given.key]
    page = None if given.page is None else given.page.read_text(encoding="utf-8")
    found = check(given.report.read_bytes(), given.export.read_bytes(), pems, page)
    sys.stdout.write("".join(f"BAD: {each}\n" for each in found) or "ok\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
