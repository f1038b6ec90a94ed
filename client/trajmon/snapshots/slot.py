"""The slot: a place in shared memory into which training copies, and out of which the agent drains.

One file in a tmpfs, all of its pages allocated when it is made: neither a full disk nor a full memory can
meet the training process while it copies. All integers little-endian:

=============  ========  ======================================================================
bytes          type      meaning
=============  ========  ======================================================================
0..8           8 bytes   magic ``TMSLOT\\x00\\x01``; the last byte is the format version
8..12          uint32    state: 0 free, 1 being written, 2 full
12..16         uint32    H, length of the header
16..24         uint64    N, length of the data
24..28         uint32    P, length of the pointer's path
28..28+P       bytes     path of the file that names this slot, UTF-8; at most 4000 bytes
4096..4096+H   bytes     header of the snapshot, see format.py
65536..+N      bytes     the parameters, as in a snapshot file
=============  ========  ======================================================================

Training alone moves the state from free to full, the agent alone from full to free. State and header go
through read and write calls, the data through a mapping: the calls order the two on every processor.
A slot found as "being written" whose training is gone holds half a copy; it is freed, and nothing is lost
that had been promised.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from enum import IntEnum
from pathlib import Path

from trajmon._files import read_json, write_json
from trajmon.errors import SnapshotError
from trajmon.snapshots.format import SnapshotHeader

__all__ = ["SHARED_MEMORY", "Slot", "SlotState", "remove_forgotten"]

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 # a slot belongs in memory; its name and mode guard it

MAGIC = b"TMSLOT\x00\x01"
_FIXED = struct.Struct("<8sIIQ")
_STATE_AT = 8
_HEADER_AT = 4096
_DATA_AT = 65536
_MAX_POINTER_BYTES = 4000


class SlotState(IntEnum):
    """Whose turn it is."""

    FREE = 0
    WRITING = 1
    FULL = 2


class Slot:
    """An open slot. Made by training with :meth:`create`, found by both sides with :meth:`find`."""

    def __init__(self, path: Path, descriptor: int, data_bytes: int) -> None:
        self.path = path
        self.data_bytes = data_bytes
        self._descriptor = descriptor
        self._map = mmap.mmap(
            descriptor,
            _DATA_AT + data_bytes,
            # Populated here, or the first copy would wait for a page fault every 4096 bytes.
            flags=mmap.MAP_SHARED | mmap.MAP_POPULATE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )

    @classmethod
    def create(cls, pointer: Path, run_id: str, data_bytes: int, folder: Path = SHARED_MEMORY) -> Slot | None:
        """Make a slot and leave its place in the file `pointer`; None if there is no room for it.

        Raises OSError for anything but a lack of room.
        """
        if not _has_room(folder, data_bytes):
            return None
        path = folder / f"{_prefix()}{run_id}.slot"
        name = os.fsencode(pointer)
        if len(name) > _MAX_POINTER_BYTES:
            return None
        # The pointer first: a slot without one counts as forgotten.
        write_json(pointer, {"path": str(path), "data_bytes": data_bytes})
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _DATA_AT + data_bytes)
            fixed = _FIXED.pack(MAGIC, SlotState.FREE, 0, data_bytes)
            os.pwrite(descriptor, fixed + struct.pack("<I", len(name)) + name, 0)
            slot = cls(path, descriptor, data_bytes)
        except OSError as error:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT):
                return None
            raise
        return slot

    @classmethod
    def find(cls, pointer: Path, data_bytes: int) -> Slot | None:
        """Open the slot that `pointer` names; None if there is none of this size that is ours."""
        named = read_json(pointer)
        if named is None or named.get("data_bytes") != data_bytes:
            return None
        path = Path(str(named.get("path")))
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        facts = os.fstat(descriptor)
        fixed = os.pread(descriptor, _FIXED.size, 0)
        ours = facts.st_uid == os.geteuid() and facts.st_size == _DATA_AT + data_bytes
        if not ours or len(fixed) < _FIXED.size or fixed[:8] != MAGIC:
            os.close(descriptor)
            return None
        return cls(path, descriptor, data_bytes)

    @property
    def data(self) -> memoryview:
        """The parameters, [data_bytes], shared with the other side."""
        return memoryview(self._map)[_DATA_AT : _DATA_AT + self.data_bytes]

    @property
    def state(self) -> SlotState:
        """Whose turn it is now."""
        (value,) = struct.unpack("<I", os.pread(self._descriptor, 4, _STATE_AT))
        return SlotState(value)

    def set_state(self, state: SlotState) -> None:
        """Hand the slot over."""
        os.pwrite(self._descriptor, struct.pack("<I", state), _STATE_AT)

    def put_header(self, header: SnapshotHeader) -> None:
        """Say what the data is; before the state becomes full. Raises SnapshotError if it does not fit."""
        text = header.to_json()
        if len(text) > _DATA_AT - _HEADER_AT:
            raise SnapshotError(f"snapshot header of {len(text)} bytes does not fit into the slot")
        os.pwrite(self._descriptor, text, _HEADER_AT)
        os.pwrite(self._descriptor, struct.pack("<I", len(text)), _STATE_AT + 4)

    def header(self) -> SnapshotHeader:
        """What the data is; of a full slot. Raises SnapshotError."""
        (length,) = struct.unpack("<I", os.pread(self._descriptor, 4, _STATE_AT + 4))
        return SnapshotHeader.from_json(os.pread(self._descriptor, min(length, _DATA_AT), _HEADER_AT))

    def full_number(self) -> int | None:
        """Number of the checkpoint that waits in the slot; None if none does. Raises SnapshotError."""
        return self.header().checkpoint if self.state == SlotState.FULL else None

    def is_current(self) -> bool:
        """Whether the file is still the one under its name, and not removed or replaced."""
        try:
            named = self.path.stat()
        except OSError:
            return False
        ours = os.fstat(self._descriptor)
        return (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)

    def close(self) -> None:
        """Let go of the descriptor. The mapping goes when the last view of it does."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def unlink(self, pointer: Path) -> None:
        """Remove the slot; nobody needs it any more."""
        self.path.unlink(missing_ok=True)
        pointer.unlink(missing_ok=True)


def remove_forgotten(folder: Path = SHARED_MEMORY) -> None:
    """Remove our slots whose run's folder is gone: nobody else would, and they take memory."""
    for path in folder.glob(f"{_prefix()}*.slot"):
        try:
            with path.open("rb") as file:
                start = file.read(_FIXED.size + 4 + _MAX_POINTER_BYTES)
            (length,) = struct.unpack_from("<I", start, _FIXED.size)
            pointer = Path(os.fsdecode(start[_FIXED.size + 4 :][:length]))
            if length and start[:8] == MAGIC and not pointer.exists():
                path.unlink(missing_ok=True)
        except (OSError, struct.error):
            # Being made, or being removed, by somebody else at this moment.
            continue


def _prefix() -> str:
    return f"trajmon-{os.geteuid()}-"


def _has_room(folder: Path, data_bytes: int) -> bool:
    """Room in the tmpfs, and memory for as much again: a slot must not push training into swap."""
    try:
        facts = os.statvfs(folder)
        memory = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return False
    needed = _DATA_AT + data_bytes
    available = next((line for line in memory.splitlines() if line.startswith("MemAvailable:")), None)
    if available is None or facts.f_bavail * facts.f_frsize < needed * 5 // 4:
        return False
    return int(available.split()[1]) * 1024 >= 2 * needed
