"""Where things are kept and how much of what is allowed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from trajmon.errors import ServerAddressError

__all__ = [
    "AgentSettings",
    "Limits",
    "TlsFiles",
    "allows_plaintext",
    "default_threads",
    "home_directory",
    "token",
]


_TLS_VARIABLES = ("TRAJMON_TLS_CA", "TRAJMON_TLS_CERT", "TRAJMON_TLS_KEY")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the recorder grants itself in the training process."""

    agent_restart_seconds: float = 5.0
    """A dead agent is started again at most this often."""
    snapshot_budget_bytes: int = 64 << 30
    """Default disk budget of a run, if half of the free disk is not less."""
    agent_log_bytes: int = 1 << 20
    """Longest log that an agent may leave."""
    metrics: int = 64
    """Most metrics of a checkpoint; the server takes no more."""
    metric_name_characters: int = 64
    tags: int = 32
    tag_characters: int = 64


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """How an agent behaves; the defaults are for use, tests shorten them."""

    poll_seconds: tuple[float, float] = (0.02, 0.2)
    """Pause between looks at the slot and the store: when busy, when idle for long."""
    backoff_seconds: tuple[float, float] = (0.2, 30.0)
    """Bounds of the wait before a call is tried again; the wait itself is drawn below a doubling bound."""
    slow_retry_seconds: float = 30.0
    """Wait after a refusal that somebody has to mend, such as a wrong token."""
    report_seconds: float = 1.0
    """Pause between two reports while nothing else is to be sent."""
    report_at_least_seconds: float = 15.0
    """Between two reports while rows are to be sent."""
    settle_seconds: float = 10.0
    """How long the last report waits for the hallmarks of the last checkpoint."""
    call_seconds: float = 20.0
    """Deadline of every call."""
    linger_seconds: float = 60.0
    """How long to go on without an acknowledgement after training has ended."""
    spool_cap_bytes: int = 256 << 20
    """At this size no further rows are computed; the snapshots wait instead."""
    until_drained: bool = False
    """End once everything is handed in, even if training goes on."""

    @classmethod
    def from_environment(cls) -> AgentSettings:
        """The defaults, with the linger time that the environment gives. A wrong value counts as none."""
        try:
            linger = float(os.environ.get("TRAJMON_AGENT_LINGER_SECONDS", ""))
        except ValueError:
            linger = cls().linger_seconds
        return cls(linger_seconds=max(0.0, linger))


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files for servers that speak TLS; absolute paths."""

    ca: Path | None = None
    """Certificates of the authorities that are trusted; None: those of the machine."""
    certificate: Path | None = None
    """This side's own, for servers that ask for one."""
    key: Path | None = None

    @classmethod
    def from_environment(cls) -> TlsFiles:
        """``TRAJMON_TLS_CA``, ``TRAJMON_TLS_CERT``, ``TRAJMON_TLS_KEY``; empty counts as not set."""
        given = (os.environ.get(name, "").strip() for name in _TLS_VARIABLES)
        return cls(*(Path(text).expanduser().absolute() if text else None for text in given))

    def to_environment(self) -> dict[str, str]:
        """For a program with another working directory."""
        paths = (self.ca, self.certificate, self.key)
        return {name: str(path) for name, path in zip(_TLS_VARIABLES, paths, strict=True) if path is not None}

    def own_pair(self) -> tuple[Path, Path] | None:
        """This side's certificate and key; None if it has none. Raises ServerAddressError for half of it."""
        if self.certificate is None and self.key is None:
            return None
        if self.certificate is None or self.key is None:
            there, missing = _TLS_VARIABLES[1:] if self.key is None else _TLS_VARIABLES[:0:-1]
            raise ServerAddressError(
                f"{there} is set and {missing} is not; a caller's certificate needs both"
            )
        return self.certificate, self.key


def allows_plaintext() -> bool:
    """Whether ``TRAJMON_ALLOW_PLAINTEXT`` is 1: tokens may then go to other machines in clear text."""
    return os.environ.get("TRAJMON_ALLOW_PLAINTEXT", "").strip() == "1"


def home_directory(home: str | os.PathLike[str] | None = None) -> Path:
    """The argument, else ``TRAJMON_HOME``, else ``~/.trajmon``; absolute."""
    chosen = home if home is not None else os.environ.get("TRAJMON_HOME") or "~/.trajmon"
    return Path(chosen).expanduser().absolute()


def token(home: Path) -> str | None:
    """``TRAJMON_TOKEN``, else the content of the token file; None if there is none."""
    given = os.environ.get("TRAJMON_TOKEN", "").strip()
    if given:
        return given
    try:
        return (home / "token").read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def default_threads() -> int:
    """Half of the cores that this process may use, at least 1 and at most 4."""
    return min(4, max(1, len(os.sched_getaffinity(0)) // 2))
