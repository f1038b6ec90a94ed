"""A run's folder on the training machine, and the small files by which training and agent speak.

Below ``$TRAJMON_HOME/client/RUN/`` (mode 0700):

===================  =============  ==================================================================
file                 written by     what it says
===================  =============  ==================================================================
run.json             training       what is fixed for the life of the run
recorder.json        training       how recording goes, and whether it has ended: :class:`RecorderNote`
slot.json            training       where the slot is
snapshots/*.snap     both           one file a checkpoint
sketches/*.snap      agent          one file a checkpoint: its sketch
spool/*.row          agent          rows that are not acknowledged
spool/*.sketch       agent          sketches that are not acknowledged
acked.json           agent          number of the first checkpoint that is not acknowledged
answer.json          agent          the server's latest answer
agent.json           agent          how the agent does: :class:`AgentNote`
agent.log            agent          what it has to say; bounded
watch.json           trajmon watch    the folder that is followed, and what is dealt with
owner.lock           training       held while training lives
agent.lock           agent          held while the agent lives
===================  =============  ==================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from trajmon._files import read_json, write_json
from trajmon.errors import DamagedRunError
from trajmon.numerics.layout import Layout
from trajmon.sharding.chunks import Shard, shard_layout
from trajmon.snapshots.keeping import SnapshotMode
from trajmon_protos.sketch import SketchSpec, default_bins

__all__ = ["AgentNote", "RecorderNote", "RunDescription", "RunDir", "default_spec"]


@dataclass(frozen=True, slots=True)
class RunDir:
    """Names of everything in a run's folder."""

    path: Path

    @classmethod
    def of(cls, home: Path, name: str) -> RunDir:
        """The folder of the run with this name, there or not."""
        return cls(home / "client" / name)

    @property
    def home(self) -> Path:
        """The folder that tokens and the local server's address are in."""
        return self.path.parents[1]

    @property
    def run_file(self) -> Path:
        """What is fixed for the life of the run."""
        return self.path / "run.json"

    @property
    def recorder_file(self) -> Path:
        """Training's word."""
        return self.path / "recorder.json"

    @property
    def slot_file(self) -> Path:
        """Where the slot is."""
        return self.path / "slot.json"

    @property
    def snapshots(self) -> Path:
        """Folder of the snapshots."""
        return self.path / "snapshots"

    @property
    def sketches(self) -> Path:
        """Folder of the sketches."""
        return self.path / "sketches"

    @property
    def spool(self) -> Path:
        """Folder of the rows that are not acknowledged."""
        return self.path / "spool"

    @property
    def acked_file(self) -> Path:
        """First checkpoint that is not acknowledged."""
        return self.path / "acked.json"

    @property
    def answer_file(self) -> Path:
        """The server's latest answer."""
        return self.path / "answer.json"

    @property
    def agent_file(self) -> Path:
        """The agent's word."""
        return self.path / "agent.json"

    @property
    def agent_log(self) -> Path:
        """What the agent has to say."""
        return self.path / "agent.log"

    @property
    def owner_lock(self) -> Path:
        """Held while training lives."""
        return self.path / "owner.lock"

    @property
    def agent_lock(self) -> Path:
        """Held while the agent lives."""
        return self.path / "agent.lock"

    def create(self, snapshots_in: Path | None = None) -> None:
        """Make the folders that are missing, closed to others. Raises OSError.

        `snapshots_in`: keep the snapshots of a new run in a folder of its name below this one, e.g. on another disk
        or in a tmpfs; a run that exists keeps them where they are.
        """
        for folder in (self.home, self.home / "client", self.path, self.spool):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if snapshots_in is not None and not self.snapshots.exists():
            elsewhere = snapshots_in.expanduser().absolute() / self.path.name
            elsewhere.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A name that leads there: everybody else goes by the name.
            self.snapshots.unlink(missing_ok=True)
            self.snapshots.symlink_to(elsewhere, target_is_directory=True)
        self.snapshots.mkdir(mode=0o700, exist_ok=True)

    def first_unacked(self) -> int:
        """First checkpoint whose row this folder still has to hand in; those of earlier cuts have none here."""
        try:
            run = RunDescription.read(self)
        except DamagedRunError:
            return self.acked()
        return max(self.acked(), 0 if run.shard is None else run.shard.first_checkpoint)

    def acked(self) -> int:
        """First checkpoint that is not acknowledged, as far as this machine knows."""
        number = (read_json(self.acked_file) or {}).get("acked")
        return number if isinstance(number, int) and number >= 0 else 0


@dataclass(frozen=True, slots=True)
class RunDescription:
    """What is fixed for the life of a run."""

    run_id: str
    """32 hex digits."""
    name: str
    tags: tuple[str, ...]
    layout: Layout
    """Of the whole run, as the server knows it."""
    created_unix_seconds: float
    shard: Shard | None = None
    """What this folder holds of the run; None: all of it."""
    sketch: SketchSpec | None = None
    """How checkpoints are sketched, where they are; None: with the bins that suit the model's size, seed 0."""

    @property
    def snapshot_layout(self) -> Layout:
        """Of the snapshots in this folder."""
        return self.layout if self.shard is None else shard_layout(self.layout, self.shard)

    @property
    def sketch_spec(self) -> SketchSpec:
        """How checkpoints are sketched: as was asked for, or as suits the model's size."""
        return self.sketch or default_spec(self.layout)

    def write(self, run_dir: RunDir) -> None:
        """Durably. Raises OSError."""
        value = {
            "format": 1,
            "run_id": self.run_id,
            "name": self.name,
            "tags": list(self.tags),
            "layout": self.layout.to_json(),
            "created_unix_seconds": self.created_unix_seconds,
            "shard": None if self.shard is None else self.shard.to_json(),
            "sketch": None if self.sketch is None else asdict(self.sketch),
        }
        write_json(run_dir.run_file, value, durable=True)

    @classmethod
    def read(cls, run_dir: RunDir) -> RunDescription:
        """Raises DamagedRunError."""
        value = read_json(run_dir.run_file)
        if value is None:
            raise DamagedRunError(f"{run_dir.run_file} cannot be read; restore it, or remove its folder")
        if value.get("format") != 1:
            raise DamagedRunError(
                f"{run_dir.run_file} has format {value.get('format')!r}, not 1; update trajmon to read it"
            )
        try:
            return cls(
                run_id=str(value["run_id"]),
                name=str(value["name"]),
                tags=tuple(str(tag) for tag in value["tags"]),
                layout=Layout.from_json(value["layout"]),
                created_unix_seconds=float(value["created_unix_seconds"]),
                shard=None if value.get("shard") is None else Shard.from_json(value["shard"]),
                sketch=None if value.get("sketch") is None else SketchSpec(**value["sketch"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedRunError(f"{run_dir.run_file} is not what this program writes: {error!r}") from error


@dataclass(frozen=True, slots=True)
class RecorderNote:
    """Training's word to the agent, and to whoever resumes the run."""

    attempt: int
    """From 1."""
    state: Literal["running", "stopped", "finished"] = "running"
    """`stopped`: training goes on without recording; `finished`: training said that it has ended."""
    reason: str = ""
    skipped: int = 0
    """In this attempt."""
    agent_restarts: int = 0
    """In this attempt."""
    server: str | None = None
    """Address that training asked for; None: the local server."""
    threads: int = 1
    """That the agent may compute with."""
    keeping: SnapshotMode = "exact"
    """Which snapshots are kept: all, a few, or the last two."""
    keep: int = 0
    """How many at most; 0: all."""
    sketching: bool = False
    """Whether checkpoints are sketched even if all snapshots are kept."""

    def write(self, run_dir: RunDir) -> None:
        """Raises OSError."""
        write_json(run_dir.recorder_file, asdict(self))

    @classmethod
    def read(cls, run_dir: RunDir) -> RecorderNote | None:
        """None if there is none that can be read."""
        value = read_json(run_dir.recorder_file)
        if value is None:
            return None
        try:
            return _recorder_note(value)
        except (KeyError, TypeError, ValueError):
            return None


def default_spec(layout: Layout) -> SketchSpec:
    """How the checkpoints of a model are sketched if nobody says how."""
    return SketchSpec(bins=default_bins([layer.num_parameters for layer in layout.layers]))


def _recorder_note(value: Mapping[str, Any]) -> RecorderNote:
    if value["state"] not in ("running", "stopped", "finished"):
        raise ValueError(f"unknown state {value['state']!r}")
    return RecorderNote(
        attempt=max(1, int(value["attempt"])),
        state=value["state"],
        reason=str(value["reason"]),
        skipped=int(value["skipped"]),
        agent_restarts=int(value["agent_restarts"]),
        server=None if value["server"] is None else str(value["server"]),
        threads=max(1, int(value["threads"])),
        keeping=_mode(value.get("keeping")),
        keep=max(0, int(value.get("keep", 0))),
        sketching=bool(value.get("sketching", False)),
    )


def _mode(text: object) -> SnapshotMode:
    for mode in get_args(SnapshotMode):
        if text == mode:
            known: SnapshotMode = mode
            return known
    return "exact"


@dataclass(frozen=True, slots=True)
class AgentNote:
    """The agent's word to whoever looks into the folder."""

    pid: int
    state: Literal["working", "waiting", "refused", "gone"]
    """`waiting`: for a server that does not answer; `refused`: the server will not take the rows."""
    problem: str = ""
    """What keeps rows from the server, in its own words."""
    server: str | None = None
    rows_computed: int = 0
    """By this agent."""
    unreadable: tuple[int, ...] = ()
    """Checkpoints whose snapshots cannot be read; at most the first 100."""
    uncomputed: int = 0
    """Checkpoints that are recorded, and whose rows are not computed yet."""
    lag_seconds: float = 0.0
    """Age of the oldest checkpoint that is recorded and not acknowledged; 0 if there is none."""

    def write(self, run_dir: RunDir) -> None:
        """Raises OSError."""
        write_json(run_dir.agent_file, asdict(self))

    @classmethod
    def has_ended(cls, run_dir: RunDir) -> bool:
        """Whether the last agent ended by itself."""
        return (read_json(run_dir.agent_file) or {}).get("state") == "gone"

    @classmethod
    def problem_of(cls, run_dir: RunDir) -> str:
        """What the last agent complained about; empty if nothing."""
        return str((read_json(run_dir.agent_file) or {}).get("problem", ""))
