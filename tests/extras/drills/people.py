"""The people of a drill, who are functions of the test."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.servers import LocalHandler, LocalServer


Act = Callable[[Mapping[str, str]], object]
"""Does a step, with the variables of the drill."""

_PROGRAM = """\
#!{python} -IS
import json, os, sys, urllib.request
name = os.path.basename(sys.argv[0])
body = json.dumps([name, {{**os.environ, "DRILL": str(os.getppid())}}]).encode()
opener = urllib.request.build_opener(urllib.request.ProxyHandler({{}}))
opener.open(urllib.request.Request("{url}", body, method="POST"), timeout=60)
"""


@contextmanager
def acting(folder: Path, people: Mapping[str, Act]) -> Iterator[Path]:
    """Yield a folder with a program for each step, which calls that of *people*."""

    class Handler(LocalHandler):
        def respond(self) -> None:
            name, environ = json.loads(self.read_body())
            try:
                people[name](environ)
            except Exception:
                self.answer(500)
                raise
            self.answer(200)

    with LocalServer(Handler) as server:
        folder.mkdir()
        for name in people:
            program = folder / name
            text = _PROGRAM.format(python=sys.executable, url=server.url)
            program.write_text(text, encoding="utf-8")
            program.chmod(0o755)
        yield folder
