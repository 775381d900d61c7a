"""
``python -P -m api.server``: gunicorn, which imports nothing from the working directory.

gunicorn's own command inserts the working directory into ``sys.path``, where an ``api``
folder or a ``structlog.py`` would be imported instead of the installed package.
"""

import gc

from gunicorn.app.wsgiapp import WSGIApplication  # type: ignore[import-untyped]

from api.server.config_check import refuse_loading


_COLLECT_AFTER = 10_000
"""New objects.  Of what is imported nothing is garbage, and of a request that has many
refunds nothing is before its end: both make more than Python's default of 700."""


class Application(WSGIApplication):  # type: ignore[misc]  # gunicorn has no types.
    """gunicorn's application, without the change of directory and ``sys.path``."""

    def chdir(self) -> None:
        """Do nothing; ``config_check`` refuses a ``--chdir``."""

    def wsgi(self) -> object:
        """Return the application; with ``--preload`` the master asks, and ends."""
        if self.cfg.preload_app:
            refuse_loading()
        return super().wsgi()


def main() -> None:
    gc.set_threshold(_COLLECT_AFTER)
    Application("%(prog)s [OPTIONS] [APP_MODULE]", prog="hotwallet serve").run()


if __name__ == "__main__":
    main()
