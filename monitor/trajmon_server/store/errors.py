"""Errors of the store.

StoreError
├── JournalError                 the journal, which is the truth
│   ├── ConflictError            another record is stored under the same key; the stored one was kept
│   ├── JournalFullError         no space or quota left; nothing was stored, trying later may help
│   ├── JournalReadOnlyError     the directory cannot be written; nothing was stored
│   ├── JournalUnavailableError  another system error; nothing is known to be stored, trying later may help
│   │   └── FencedError          another server has changed what this one was about to replace
│   ├── JournalBrokenError       a write or sync was refused by the device; no append until a restart
│   ├── RowMissingError          no such record
│   └── RowDamagedError          a stored record failed its checksum and was set aside
└── MapError                     the Zarr maps, which can be made again from the journal
    └── MapDamagedError          a chunk fails its checksum and there is no source to make it again from
"""

from __future__ import annotations

__all__ = [
    "ConflictError",
    "FencedError",
    "JournalBrokenError",
    "JournalError",
    "JournalFullError",
    "JournalReadOnlyError",
    "JournalUnavailableError",
    "MapDamagedError",
    "MapError",
    "RowDamagedError",
    "RowMissingError",
    "StoreError",
]


class StoreError(Exception):
    """Something that the store cannot do."""


class JournalError(StoreError):
    """Something that the journal cannot do."""


class ConflictError(JournalError):
    """Another record is stored under the same key; the stored one was kept."""

    def __init__(self, key: str, stored_digest: bytes, offered_digest: bytes) -> None:
        super().__init__(
            f"{key} is stored with digest {stored_digest.hex()}, the record offered has {offered_digest.hex()}; "
            "a stored record never changes: send the first record again, or record under a new checkpoint number"
        )
        self.stored_digest = stored_digest
        self.offered_digest = offered_digest


class JournalFullError(JournalError):
    """No space or quota left. Nothing was stored and nothing is left behind."""


class JournalReadOnlyError(JournalError):
    """The directory cannot be written. Nothing was stored."""


class JournalUnavailableError(JournalError):
    """A system error that may pass, such as too many open files. Nothing is known to be stored.

    An object store whose answer was lost may have stored it nevertheless: the same record again is then a duplicate.
    """


class FencedError(JournalUnavailableError):
    """Another server has changed what this one was about to replace. Nothing was replaced."""


class JournalBrokenError(JournalError):
    """A write or sync was refused by the device.

    After a failed fsync the kernel may have dropped the dirty pages and report success next time, so it is never
    tried again: every append fails until the program is started anew and has read what is really there.
    """


class RowMissingError(JournalError, FileNotFoundError):
    """No such record."""


class RowDamagedError(JournalError):
    """A stored record failed its checksum and was set aside."""


class MapError(StoreError):
    """Something that the map store cannot do."""


class MapDamagedError(MapError):
    """A part of the maps is damaged and cannot be made again."""
