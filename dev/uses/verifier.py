"""An auditor verifies an export with the command, and with the library."""

import subprocess
import sys
from pathlib import Path

from hotwallet import CheckpointVerifier, read_checkpoints, verify_audit_export


command = Path(sys.executable).with_name("hotwallet")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [command, *arguments], check=False, text=True, capture_output=True
    )


options = ("--public-key", "audit.pub.pem", "--checkpoint", "kept.txt")
verified = run("audit", "verify", "audit.jsonl", *options)
assert verified.returncode == 0, verified.stderr
assert verified.stdout.startswith("ok: 20 records"), verified.stdout

verifier = CheckpointVerifier(Path("audit.pub.pem").read_bytes())
notes = read_checkpoints(Path("kept.txt").read_text())
with Path("audit.jsonl").open("rb") as file:
    assert verify_audit_export(file, verifier, notes).is_good

changed = Path("audit.jsonl").read_text().splitlines(keepends=True)
Path("changed.jsonl").write_text("".join(changed[:4] + changed[5:]))
assert run("audit", "verify", "changed.jsonl", *options).returncode == 1

lacking = run("db", "upgrade")
assert lacking.returncode == 1, lacking
assert "pip install 'hotwallet[service]'" in lacking.stderr, lacking.stderr
assert "Traceback" not in lacking.stderr, lacking.stderr
