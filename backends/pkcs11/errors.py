"""Maps PKCS#11 return values to our errors, and marks those that reopening cures."""

from typing import Final

from pkcs11 import exceptions
from pkcs11.exceptions import PKCS11Error

from signer.errors import (
    AccessDeniedError,
    BackendError,
    BackendThrottledError,
    BackendUnavailableError,
    KeyUnusableError,
)


class TokenLostError(BackendUnavailableError):
    """
    The token is gone, or its sessions and handles are no longer valid.

    When its folder is gone, SoftHSM returns CKR_OBJECT_HANDLE_INVALID or
    CKR_GENERAL_ERROR, also after the folder is back, until it is initialized again.
    """


_DENIED: Final = (
    exceptions.PinExpired,
    exceptions.PinIncorrect,
    exceptions.PinInvalid,
    exceptions.PinLenRange,
    exceptions.PinLocked,
    exceptions.UserPinNotInitialized,
)

_LOST: Final = (
    exceptions.DeviceError,
    exceptions.DeviceMemory,
    exceptions.DeviceRemoved,
    exceptions.FunctionCancelled,
    exceptions.FunctionFailed,
    exceptions.GeneralError,
    exceptions.HostMemory,
    exceptions.KeyHandleInvalid,
    exceptions.ObjectHandleInvalid,
    exceptions.OperationActive,
    exceptions.OperationNotInitialized,
    exceptions.SessionClosed,
    exceptions.SessionHandleInvalid,
    exceptions.SlotIDInvalid,
    exceptions.TokenNotPresent,
    exceptions.TokenNotRecognised,
    exceptions.UserNotLoggedIn,
)

_UNUSABLE: Final = (
    exceptions.FunctionNotSupported,
    exceptions.KeySizeRange,
    exceptions.KeyTypeInconsistent,
    exceptions.MechanismInvalid,
    exceptions.MechanismParamInvalid,
)


def map_error(error: PKCS11Error) -> BackendError:
    """Return our error for python-pkcs11's, without the device's message."""
    # The base class is for return values that python-pkcs11 does not know, such as
    # CKR_CRYPTOKI_NOT_INITIALIZED and those of vendors.
    if isinstance(error, _LOST) or type(error) is PKCS11Error:
        return TokenLostError("the token is gone, or was initialized again")
    if isinstance(error, _DENIED):
        return AccessDeniedError("the token does not accept the PIN")
    if isinstance(error, _UNUSABLE):
        return KeyUnusableError("the token cannot sign with the key")
    if isinstance(error, exceptions.SessionCount):
        return BackendThrottledError("the token has no free session")
    return BackendError(f"the token refused: {type(error).__name__}")
