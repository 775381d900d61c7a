"""The fixtures ``hsm_token`` and ``hsm_account``; pytest loads this module."""

from softhsm.pytest_plugin import hsm_account, hsm_token


__all__ = ["hsm_account", "hsm_token"]
