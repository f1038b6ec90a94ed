"""What reading a run has to say against something.

    ReadingError (TrajmonError)
    ├── MissingPackageError   xarray or zarr is not installed
    ├── DataDirectoryError    a folder that holds no maps, or maps that cannot be read
    ├── UnknownNameError      no such run, scope, kernel or checkpoint
    └── NotAvailableError     files alone do not tell it; a server does

A server's own refusals are :class:`trajmon.query.QueryError`. Both are :class:`trajmon.errors.TrajmonError`.
"""

from __future__ import annotations

from trajmon.errors import TrajmonError

__all__ = [
    "DataDirectoryError",
    "MissingPackageError",
    "NotAvailableError",
    "ReadingError",
    "UnknownNameError",
]


class ReadingError(TrajmonError):
    """A run cannot be read as asked."""


class MissingPackageError(ReadingError):
    """xarray or zarr is not installed."""


class DataDirectoryError(ReadingError):
    """A folder that holds no maps, or maps that cannot be read; names the path."""


class UnknownNameError(ReadingError):
    """No such run, scope, kernel or checkpoint; names those that there are."""


class NotAvailableError(ReadingError):
    """Files alone do not tell it; a server does."""
