"""``hotwallet refund submit`` against a real gunicorn."""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from api.auth.dev_tokens import mint
from hotwallet_client import HotWallet
from signer.config.settings import Settings
from tests.api.commands import Finished, Run
from tests.api.live_server import Server, service_environ
from tests.api.service import BODY, RECIPIENT
from tests.api.wsgi import WITHOUT_WORKER


GUIDE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "bulk-refunds.md"
HEADER = "payment_session_id,network,token,recipient,amount,reference"


@pytest.fixture(scope="module")
def environ(
    tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path
) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("service")
    return service_environ(folder, _sqlite_template) | {WITHOUT_WORKER: "1"}


@pytest.fixture(scope="module")
def server(environ: dict[str, str]) -> Iterator[Server]:
    """A service that accepts refunds and sends none."""
    with Server(environ) as server:
        yield server


@pytest.fixture
def token(
    environ: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> Path:
    """A file with a token of a tenant for this test alone."""
    subject = request.node.name.partition("[")[0]
    path = tmp_path / "token"
    minted = mint(Settings.from_env(environ), subject=subject, roles=["merchant"])
    path.write_text(f"{minted}\n")
    return path


Submit = Callable[..., Finished]


@pytest.fixture
def submit(server: Server, token: Path, hotwallet: Run) -> Submit:
    """Return a function that submits a file to the service, without a question."""

    def run(file: Path, *options: str) -> Finished:
        url = f"http://127.0.0.1:{server.port}"
        given = ["--url", url, "--token-file", str(token), "--yes", *options]
        return hotwallet("refund", "submit", str(file), *given)

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a file with refunds of the given amounts."""

    def write(*amounts: str) -> Path:
        path = tmp_path / "refunds.csv"
        rows = [
            f"ps_{n},local,TUSD,{RECIPIENT},{amount},@r{n}"
            for n, amount in enumerate(amounts)
        ]
        path.write_text("\n".join([HEADER, *rows, ""]))
        return path

    return write


Write = Callable[..., Path]


def test_submits_each_refund_once(submit: Submit, write: Write) -> None:
    """More than one batch; to run it again accepts nothing twice (R32)."""
    file = write(*["1"] * 501)
    first, again = submit(file, "--json"), submit(file, "--json")
    file = write(*["1"] * 502)
    longer = submit(file, "--json")
    ids = [
        {each["reference"]: each["refund_id"] for each in run.json["results"]}
        for run in (first, again, longer)
    ]

    assert [run.status for run in (first, again, longer)] == [0, 0, 0]
    assert {key: first.json[key] for key in list(first.json)[:6]} == {
        "status": "submitted",
        "refunds": 501,
        "accepted": 501,
        "already_accepted": 0,
        "refused": 0,
        "without_answer": 0,
    }
    assert (again.json["accepted"], again.json["already_accepted"]) == (0, 501)
    assert (longer.json["accepted"], longer.json["already_accepted"]) == (1, 501)
    assert ids[0] == ids[1]
    assert ids[0].items() < ids[2].items()
    assert len(set(ids[2].values())) == 502


def test_the_client_of_the_guide(
    server: Server, token: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Python code of the guide, as it is printed there."""
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    refunds = [
        BODY | {"idempotency_key": f"k{n}", "payment_session_id": f"ps_{n}"}
        for n in range(501)
    ]
    bad = BODY | {"idempotency_key": "bad", "amount": "-1"}
    url = f"http://127.0.0.1:{server.port}"
    client = HotWallet(url, lambda: token.read_text().strip())
    exec(code, {"client": client, "refunds": [bad, *refunds]})

    shown = capsys.readouterr().out.splitlines()
    assert shown == ["bad 400", *(f"k{n} 201" for n in range(501))]


def test_some_refunds_are_refused(submit: Submit, write: Write, tmp_path: Path) -> None:
    """Exit status 3, and the line of each refusal."""
    results = tmp_path / "results.csv"
    finished = submit(write("1", "1001", "2"), "--results", str(results))
    with results.open(newline="") as file:
        found = list(csv.DictReader(file))

    assert finished.status == 3
    assert finished.out.splitlines() == [
        "2 accepted, 0 accepted before, 1 refused, 0 without an answer",
        "  line 3: policy-violation: one refund may pay at most 1000 TUSD",
    ]
    assert finished.err == ""
    assert [each["line"] for each in found] == ["2", "3", "4"]
    # A spreadsheet would execute a cell that begins with @.
    assert {each["reference"][:2] for each in found} == {"'@"}
    assert [each["status"] for each in found] == ["accepted", "refused", "accepted"]
    assert [each["code"] for each in found] == ["", "policy-violation", ""]
    assert found[0]["refund_id"].startswith("rf_")
    assert found[0]["refund_status"] == "queued"


def test_writes_json_lines(submit: Submit, write: Write, tmp_path: Path) -> None:
    """The key of a refund that was accepted pays nothing else."""
    results = tmp_path / "results.jsonl"
    finished = submit(write("1", "2"), "--results", str(results), "--json")
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    changed = submit(write("1", "3"), "--json")

    assert finished.status == 0
    assert lines == finished.json["results"]
    assert lines[0] == {
        "line": 2,
        "idempotency_key": "@r0",
        "reference": "@r0",
        "status": "accepted",
        "refund_id": lines[0]["refund_id"],
        "refund_status": "queued",
        "code": None,
        "field": None,
        "detail": None,
    }
    assert changed.status == 3
    assert changed.json["results"][1]["code"] == "idempotency-mismatch"


def test_nothing_is_sent_if_a_row_is_not_valid(submit: Submit, write: Write) -> None:
    finished = submit(write("1", "-2"))

    assert finished.status == 2
    assert finished.out == ""
    assert finished.err.splitlines() == [
        "Error: nothing was sent:",
        'line 3: amount must be plain decimal digits, such as "12.50"',
    ]
    assert submit(write("1"), "--json").json["accepted"] == 1


def test_a_dry_run_sends_nothing(hotwallet: Run, write: Write) -> None:
    """It needs neither a token nor the service."""
    file = write("1", "2.5")
    finished = hotwallet("refund", "submit", str(file), "--dry-run")
    as_json = hotwallet("refund", "submit", str(file), "--dry-run", "--json")

    assert finished.status == 0
    assert finished.out.splitlines() == ["2 refunds:", "  2 on local: 3.5 TUSD"]
    assert as_json.json == {"status": "would-submit", "refunds": 2}


def test_a_question_comes_first(
    server: Server,
    token: Path,
    hotwallet: Run,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says how much is paid, and to which service it goes."""
    questions: list[str] = []

    def refuse(question: str, **_: object) -> bool:
        questions.append(question)
        return False

    monkeypatch.setattr(click, "confirm", refuse)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    url = f"http://127.0.0.1:{server.port}"
    given = ["--url", url, "--token-file", str(token)]
    finished = hotwallet("refund", "submit", str(write("1", "2")), *given)

    assert finished.status == 1
    assert questions == [f"2 refunds:\n  2 on local: 3 TUSD\nSubmit them to {url}?"]
    assert "cancelled" in finished.err


def test_the_token_comes_from_the_environment(
    server: Server,
    token: Path,
    hotwallet: Run,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So does the address; without a terminal, --yes is needed."""
    monkeypatch.setenv("HOTWALLET_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("HOTWALLET_TOKEN", token.read_text().strip())

    submit = ("refund", "submit", str(write("1")))
    unsure, sure = hotwallet(*submit), hotwallet(*submit, "--yes")

    assert (unsure.status, sure.status) == (2, 0)
    assert "Add --yes to confirm" in unsure.err


@pytest.mark.parametrize("content", [None, b"", b"a b", b"a\nb", b"\xff", b"x" * 8193])
def test_a_token_is_needed(
    hotwallet: Run, write: Write, tmp_path: Path, content: bytes | None
) -> None:
    """Its text is not in the message."""
    file = tmp_path / "other-token"
    if content is not None:
        file.write_bytes(content)
    submit = ("refund", "submit", str(write("1")))
    finished = hotwallet(*submit, "--token-file", str(file), "--yes")
    without = hotwallet(*submit, "--yes")

    assert (finished.status, without.status) == (2, 2)
    assert "--token-file" in without.err
    assert "token" in finished.err
    assert "xxx" not in finished.err


def test_a_token_that_is_not_accepted(
    submit: Submit, write: Write, token: Path
) -> None:
    """Nothing was accepted; the exit status says to run it again."""
    token.write_text("e.x.pired")
    finished = submit(write("1"), "--json")

    assert finished.status == 1
    assert finished.json["status"] == "stopped"
    assert finished.json["without_answer"] == 1
    assert "does not accept the token" in finished.err
    assert "e.x.pired" not in finished.out + finished.err


@pytest.mark.parametrize(
    "url",
    [
        "http://refunds.example",
        "https://user:secret@refunds.example",
        "https://refunds.example?x=1",
        "ftp://127.0.0.1",
        "127.0.0.1:8080",
        "https://",
    ],
)
def test_the_token_is_not_sent_in_clear(
    hotwallet: Run, write: Write, token: Path, url: str
) -> None:
    options = ["--url", url, "--token-file", str(token), "--yes"]
    finished = hotwallet("refund", "submit", str(write("1")), *options)

    assert finished.status == 2
    assert "Invalid value for --url: must be an https URL" in finished.err
    assert "secret" not in finished.err


@pytest.mark.parametrize("name", ["results.txt", "refunds.csv", "missing/results.csv"])
def test_results_need_a_file_of_their_own(
    submit: Submit, write: Write, tmp_path: Path, name: str
) -> None:
    """The file with the refunds is never overwritten."""
    file = write("1")
    before = file.read_bytes()
    finished = submit(file, "--results", str(tmp_path / name))

    assert finished.status != 0
    assert finished.out == ""
    assert file.read_bytes() == before


@pytest.mark.parametrize("is_interrupted", [True, False])
def test_a_submission_that_ends_says_what_to_do(
    *,
    submit: Submit,
    write: Write,
    token: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_interrupted: bool,
) -> None:
    """What was accepted before has its result; the token is read for each batch."""

    def end(*given: Any, **__: Any) -> None:
        if is_interrupted:
            raise KeyboardInterrupt
        _, _, read_token = given
        token.write_text("")
        read_token()

    monkeypatch.setattr("api.extras.batch_files.commands.submit", end)
    finished = submit(write("1"), "--json")

    assert finished.status == 1
    assert finished.json["status"] == "stopped"
    expected = "run the command again" if is_interrupted else "there is no bearer token"
    assert expected in finished.err
