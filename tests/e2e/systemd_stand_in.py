"""
What ``systemctl`` does with the shipped units, where no systemd runs.

It reads what concerns settings and files: ``ExecStart``, ``EnvironmentFile``,
``Environment``, ``LoadCredential``, ``StateDirectory`` and ``WorkingDirectory``.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from dotenv import dotenv_values


CLOUD = Path(os.environ.get("CLOUD", "/nonexistent"))
# libpq looks for a client's certificate in HOME, which systemd sets too.
_INHERITED = ("PATH", "HOME", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE")


def start(name: str) -> None:
    """Start the unit *name*, in the background."""
    unit = Path(f"/etc/systemd/system/{name}.service").read_text(encoding="utf-8")
    credentials, state = CLOUD / "credentials" / name, CLOUD / "state"
    unit = unit.replace("%d", str(credentials)).replace("%S", str(state))

    def values(key: str) -> list[str]:
        return re.findall(rf"^{key}=(.*)$", unit, re.MULTILINE)

    environ = {each: os.environ[each] for each in _INHERITED}
    for text in values("Environment"):
        environ |= dict(each.split("=", 1) for each in shlex.split(text))
    for text in values("EnvironmentFile"):
        given = dotenv_values(text, interpolate=False)
        environ |= {each: value or "" for each, value in given.items()}
    for text in values("StateDirectory"):
        (state / text).mkdir(parents=True)
    credentials.mkdir(parents=True)
    for text in values("LoadCredential"):
        shutil.copy2(text.split(":")[1], credentials / text.split(":")[0])
    (command,), (folder,) = values("ExecStart"), values("WorkingDirectory")
    _spawn(name, shlex.split(command), environ, folder)


def _spawn(name: str, command: list[str], environ: dict[str, str], cwd: str) -> None:
    with (CLOUD / f"{name}.log").open("ab") as log:
        subprocess.Popen(
            command,
            env=environ,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def main(words: list[str]) -> None:
    """Do what *words* ask: start units, or nginx."""
    match [word for word in words if word != "--now"]:
        case ["daemon-reload"]:
            pass
        case ["enable", *units]:
            for unit in units:
                start(unit)
        case ["restart", "nginx"]:
            configuration = Path("/etc/nginx/nginx.conf")
            text = configuration.read_text(encoding="utf-8")
            # Another user of this machine may have files of these names in /tmp.
            configuration.write_text(text.replace("/tmp/nginx", f"{CLOUD}/nginx"))
            owner = "daemon off; user root;"
            command = [os.environ["PROXY"], "-c", str(configuration), "-g", owner]
            _spawn("nginx", command, dict(os.environ), "/")
        case others:
            sys.exit(f"systemctl {' '.join(others)}: unknown here")


if __name__ == "__main__":
    main(sys.argv[1:])
