"""
The console: HTML pages for administrators, under ``/console``.

Pages read, with a session.  Each change needs a token of its own, as in the API, and
calls what the API calls.
"""

from api.extension import Extra


PREFIX = "/console"

EXTRA = Extra(
    name="console",
    routes={"admin": "api.extras.console.pages:add_console"},
    pages=PREFIX,
)


def is_console(route: str | None) -> bool:
    return route is not None and (route == PREFIX or route.startswith(f"{PREFIX}/"))
