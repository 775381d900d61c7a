"""The failed logins of a service, in memory that its forks share: import it before."""

from backends.pkcs11.failed_logins import FailedLogins


OF_SERVICE = FailedLogins()
"""For the token of the settings: gunicorn's master makes it before it forks."""
