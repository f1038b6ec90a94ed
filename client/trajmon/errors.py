"""Errors of the client.

TrajmonError
├── RefusedError            a run cannot be recorded as asked; training goes on unwatched
│   ├── RunNameError        the run's name or a tag is not allowed
│   ├── RunExistsError      there is a run of this name, and `resume` says never
│   ├── NoSuchRunError      there is none, and `resume` says must
│   ├── RunOwnedError       another living training records this run
│   ├── OtherModelError     the run was recorded from a model with other layers
│   ├── OtherSketchError    the run is sketched in another way
│   ├── DamagedRunError     the run's own files cannot be read
│   ├── families.FamilyError   a model family that does not exist, or does not fit the model
│   └── ShardError          the ranks' chunks do not make up the model, each element once
│       └── RanksMissingError   some ranks did not call `watch`
├── CheckpointSkippedError  one checkpoint could not be stored
├── RecordingStoppedError   recording has ended for good: budget, changed model
├── ServerAddressError      a server's address, or the TLS files for it, that cannot be used
├── SnapshotError           a file that is not a complete snapshot of this run
├── CheckpointFileError     a checkpoint of another program that cannot be read
└── SwitchError             a model or optimizer that cannot be switched to norm-only training, or back

Outside ``strict=True`` none of them leaves :func:`trajmon.watch` or the recorder: they become its status.
"""

from __future__ import annotations

__all__ = [
    "CheckpointFileError",
    "CheckpointSkippedError",
    "DamagedRunError",
    "NoSuchRunError",
    "OtherModelError",
    "OtherSketchError",
    "RanksMissingError",
    "RecordingStoppedError",
    "RefusedError",
    "RunExistsError",
    "RunNameError",
    "RunOwnedError",
    "ServerAddressError",
    "ShardError",
    "SnapshotError",
    "SnapshotNotKeptError",
    "SwitchError",
    "TrajmonError",
]


class TrajmonError(Exception):
    """Whatever this package has to say against something."""


class RefusedError(TrajmonError):
    """A run cannot be recorded as asked."""


class RunNameError(RefusedError):
    """The run's name or a tag is not allowed."""


class RunExistsError(RefusedError):
    """There is a run of this name already."""


class NoSuchRunError(RefusedError):
    """There is no run of this name to resume."""


class RunOwnedError(RefusedError):
    """Another living training records this run."""


class OtherModelError(RefusedError):
    """The run was recorded from a model with other layers."""


class OtherSketchError(RefusedError):
    """The run is sketched in another way than is asked for."""


class DamagedRunError(RefusedError):
    """The run's own files cannot be read."""


class ShardError(RefusedError):
    """The ranks' chunks do not make up the model, each element once; names layer and ranks."""


class RanksMissingError(ShardError):
    """Some ranks did not call `watch`."""


class CheckpointSkippedError(TrajmonError):
    """One checkpoint could not be stored; later ones are tried again."""


class RecordingStoppedError(TrajmonError):
    """Recording has ended for good; training goes on."""


class ServerAddressError(TrajmonError):
    """A server's address, or the TLS files that are named for it, cannot be used; the text says what to change."""


class SnapshotError(TrajmonError):
    """A file that is not a complete snapshot of this run."""


class SnapshotNotKeptError(SnapshotError):
    """A snapshot whose data was given up, as was planned."""


class CheckpointFileError(TrajmonError):
    """A checkpoint of another program that cannot be read; names the file."""


class SwitchError(TrajmonError):
    """A model or optimizer that cannot be switched to norm-only training, or back."""
