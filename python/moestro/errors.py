"""The exceptions of moestro. Each is also the built-in a caller would expect, so `except ValueError` keeps working.

The C++ core throws one error type with a kind; the binding turns each kind into the class of the same meaning here.
Every message names the thing, says what was expected and what to do.
"""


class MoestroError(Exception):
    """Base of everything moestro raises on purpose."""


class UsageError(MoestroError, ValueError):
    """A caller's argument is wrong."""


class CheckpointError(MoestroError, ValueError):
    """A model's files say something impossible or something moestro does not support."""


class StorageError(MoestroError, OSError):
    """The operating system refused or failed: reading, writing, space, permissions, the network."""


class IntegrityError(StorageError):
    """Bytes on disk changed under a running model or do not match their checksum."""


class BudgetError(MoestroError, MemoryError):
    """A reservation does not fit its memory budget; the message carries the arithmetic."""


class NumericError(MoestroError, ArithmeticError):
    """A weight or an activation is not finite."""


class UnsupportedError(MoestroError, RuntimeError):
    """This machine or this build cannot do what was asked."""


class CancelledError(MoestroError, RuntimeError):
    """The caller asked to stop."""


class InternalError(MoestroError, RuntimeError):
    """A bug in moestro."""


__all__ = [
    "BudgetError",
    "CancelledError",
    "CheckpointError",
    "IntegrityError",
    "InternalError",
    "MoestroError",
    "NumericError",
    "StorageError",
    "UnsupportedError",
    "UsageError",
]
