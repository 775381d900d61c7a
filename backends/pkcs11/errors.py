"""What PKCS#11's return values mean to us, and which of them a reopening cures."""

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
    The token went away, or what we held of it is no longer valid.

    SoftHSM says CKR_OBJECT_HANDLE_INVALID or CKR_GENERAL_ERROR when its folder is
    gone, and goes on saying so after the folder is back, until the module is
    initialised again.
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


def translated(error: PKCS11Error) -> BackendError:
    """Return our error for python-pkcs11's; ours never quotes the device."""
    # The class itself stands for return values that python-pkcs11 has no name
    # for, CKR_CRYPTOKI_NOT_INITIALIZED and those of vendors among them.
    if isinstance(error, _LOST) or type(error) is PKCS11Error:
        return TokenLostError("the token is gone, or its state is")
    if isinstance(error, _DENIED):
        return AccessDeniedError("the token does not accept the PIN")
    if isinstance(error, _UNUSABLE):
        return KeyUnusableError("the token cannot sign with the key")
    if isinstance(error, exceptions.SessionCount):
        return BackendThrottledError("the token has no session to spare")
    return BackendError(f"the token refused: {type(error).__name__}")
