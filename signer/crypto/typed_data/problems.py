"""The one error of a malformed document, with the path of the malformed part."""

from signer.errors import InvalidInputError
from signer.strict_json import plain_name


def problem(text: str, path: str) -> InvalidInputError:
    """
    Return the error for the part at *path*, such as ``message.from.wallet``.

    Names in the path are the caller's; if they are long or unusual, only the first one,
    which is ours, is shown.
    """
    first, _, _ = path.partition(".")
    return InvalidInputError(text, field=plain_name(path) or first)
