"""Settings of the server: command line over environment over TOML file over defaults.

Environment variables start with ``TRAJMON_SERVER_``; nested settings are joined with ``__``, e.g.
``TRAJMON_SERVER_LIMITS__MAX_LAYERS=8192``. The TOML file has the same names: ``[limits] max_layers = 8192``.
"""

from __future__ import annotations

import socket
import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from trajmon_server.errors import ConfigError, reason_of
from trajmon_server.signals.policies import DEFAULT, make_policy

__all__ = [
    "Address",
    "Limits",
    "Settings",
    "SignalSettings",
    "TlsSettings",
    "TokenEntry",
    "load_settings",
    "parse_address",
]

_STRICT = ConfigDict(extra="forbid", frozen=True)
MIB = 1 << 20
GIB = 1 << 30


class Address(BaseModel):
    """Where to listen."""

    model_config = _STRICT
    host: str
    port: int = Field(ge=0, le=65535)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True where only this machine can connect."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


def parse_address(text: str) -> Address:
    """Parse ``HOST:PORT``; port 0 lets the system choose.

    >>> str(parse_address("[::1]:50051"))
    '[::1]:50051'
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"address {text!r} is not HOST:PORT, e.g. 127.0.0.1:50051")
    return Address(host=host.strip("[]"), port=int(port))


class TokenEntry(BaseModel):
    """One more bearer token beside the one in the token file."""

    model_config = _STRICT
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Hex digest of the token; the token itself is not stored."""
    team: str = Field(pattern="^[a-z0-9-]{1,32}$")
    role: Literal["read", "write"] = "read"


class Limits(BaseModel):
    """What one caller may use up; each refusal names the limit."""

    model_config = _STRICT
    max_layers: int = Field(default=4096, ge=1)
    max_groups: int = Field(default=64, ge=1)
    max_record_bytes: int = Field(default=64 * MIB, ge=4096)
    max_runs: int = Field(default=10_000, ge=1)
    """Per team."""
    max_run_bytes: int = Field(default=64 * GIB, ge=1)
    """Journal bytes of one run."""
    min_free_disk_bytes: int = Field(default=256 * MIB, ge=0)
    """Rows are refused while the data directory's disk has less than this."""
    max_concurrent_rpcs: int = Field(default=128, ge=8)
    max_map_checkpoints: int = Field(default=4096, ge=2)
    """Side of the largest map that one query may ask for."""
    max_exported_series: int = Field(default=70_000, ge=100)
    """Of runs, in the metrics. The default holds 200 runs of 16 groups, all of them sketched."""


class TlsSettings(BaseModel):
    """TLS of all three ports; none without `certificate` and `key`. All files are PEM."""

    model_config = _STRICT
    certificate: Path | None = None
    """The server's certificate, and behind it those that vouch for it, up to the root."""
    key: Path | None = None
    """Its private key, without a password."""
    client_ca: Path | None = None
    """Callers of gRPC and metrics must show a certificate that one of these signed."""
    client_ca_http: bool = False
    """Callers of HTTP as well; browsers and probes seldom have one."""
    reload_seconds: float = Field(default=10.0, gt=0)
    """Pause between two looks whether the files were renewed."""


class SignalSettings(BaseModel):
    """What advises; after a change, and a restart, every run is judged anew from its first row."""

    model_config = _STRICT
    policy: str = DEFAULT
    """Name of a policy; without a version the newest."""
    settings: dict[str, float] = Field(default_factory=dict)
    """Its settings by name, those that are not its defaults."""

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        make_policy(self.policy, self.settings)
        return self


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix="TRAJMON_SERVER_", env_nested_delimiter="__", extra="forbid", frozen=True
    )
    data_dir: Path
    token_file: Path
    """Created with a fresh token, mode 0600, if it does not exist."""
    announce_file: Path | None = None
    """Where to write the addresses for local clients while serving."""
    grpc: str = "127.0.0.1:50051"
    http: str = "127.0.0.1:8080"
    metrics: str = "127.0.0.1:9108"
    http_hosts: tuple[str, ...] = ()
    """Names that browsers may ask for this server by, beside those of its own addresses; for a proxy in front."""
    tokens: tuple[TokenEntry, ...] = ()
    tls: TlsSettings = TlsSettings()
    journal_url: str = ""
    """Object store that holds the journal, e.g. ``s3://bucket/prefix``, shared by several servers; empty: the data
    directory, which one server has to itself."""
    object_store: dict[str, str] = Field(default_factory=dict)
    """Options of that store, e.g. ``endpoint`` and ``region``; else taken from its usual environment variables."""
    replica_id: str = Field(default_factory=socket.gethostname, pattern=r"^[A-Za-z0-9_.-]{1,128}$")
    """What this server is called among those that share an object store."""
    lease_seconds: float = Field(default=6.0, ge=1, le=300)
    """How long after its last sign of life a server's runs are left alone by the others."""
    follow_seconds: float = Field(default=5.0, ge=0.1, le=3600)
    """Pause between two looks at what other servers have taken in."""
    limits: Limits = Limits()
    signals: SignalSettings = SignalSettings()
    worker_threads: int = Field(default=2, ge=1, le=64)
    """Threads that compute hallmarks and publish maps."""
    stop_grace_seconds: float = Field(default=5.0, ge=0)
    stale_after_seconds: float = Field(default=3600.0, gt=0)
    """Without a new row for so long, a running run's advice is `unknown`."""
    finished_export_seconds: float = Field(default=300.0, ge=0)
    """How long a finished run stays in the metrics."""
    allow_remote_plaintext: bool = False
    """Listen beyond loopback without TLS. Tokens then cross the network in clear text."""
    exit_when_idle_seconds: float = Field(default=0.0, ge=0)
    """End after so long without a call; 0: never. Local servers that clients start are given an hour."""
    reflection: bool = False
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line (given as arguments), then environment, then TOML."""
        return (
            init_settings,
            env_settings,
            TomlConfigSettingsSource(settings_cls),
            InitSettingsSource(settings_cls, cls.fallback()),
        )

    @classmethod
    def fallback(cls) -> dict[str, Any]:
        """Defaults that depend on where the user keeps things; the weakest source."""
        return {}


def load_settings(config: Path | None, overrides: dict[str, Any], home: Path) -> Settings:
    """Read the settings; raises ConfigError naming every wrong one."""

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=config)

        @classmethod
        def fallback(cls) -> dict[str, Any]:
            return {
                "data_dir": home / "data",
                "token_file": home / "token",
                "announce_file": home / "server.json",
            }

    if config is not None and not config.is_file():
        raise ConfigError(f"configuration file {config} does not exist")
    try:
        return FromFile(**overrides)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {config} is not valid TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"configuration file {config}: {reason_of(error)}") from error
    except SettingsError as error:
        raise ConfigError(f"wrong settings: {error}; lists and tables are given as JSON") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors()
        )
        raise ConfigError(f"wrong settings: {problems}") from error
