"""``hotwallet verify-release`` verifies where a package was built, and from what."""

from api.extension import Extra


EXTRA = Extra(
    name="release",
    commands={
        "verify-release": (
            "api.extras.release.commands:verify_release",
            "Verify the provenance of a release's files.",
        )
    },
)
