"""A purpose for tests of what is below the policy: devices, keys and the audit log."""

from signer.model.audit_record import Purpose


class Unchecked(Purpose):
    """The purpose of a signature over any digest, as if the policy allowed each."""

    def allows(self, digest: bytes) -> bool:
        """Return True."""
        return True
