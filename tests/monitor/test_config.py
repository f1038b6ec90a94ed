"""Settings from the command line, the environment and a TOML file."""

from __future__ import annotations

from pathlib import Path

import pytest

from trajmon_server.config import load_settings, parse_address
from trajmon_server.errors import ConfigError
from trajmon_server.signals.mds_threshold import MdsThresholdPolicy
from trajmon_server.signals.policies import DEFAULT, make_policy


def write(folder: Path, content: bytes) -> Path:
    path = folder / "server.toml"
    path.write_bytes(content)
    return path


def test_sources_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write(
        tmp_path,
        b'grpc = "127.0.0.1:1"\nhttp = "127.0.0.1:1"\nmetrics = "127.0.0.1:1"\n'
        b"[limits]\nmax_layers = 7\nmax_runs = 7\n",
    )
    monkeypatch.setenv("TRAJMON_SERVER_GRPC", "127.0.0.1:2")
    monkeypatch.setenv("TRAJMON_SERVER_HTTP", "127.0.0.1:2")
    monkeypatch.setenv("TRAJMON_SERVER_LIMITS__MAX_RUNS", "9")
    settings = load_settings(config, {"grpc": "127.0.0.1:3"}, tmp_path)
    assert (settings.grpc, settings.http, settings.metrics) == ("127.0.0.1:3", "127.0.0.1:2", "127.0.0.1:1")
    assert (settings.limits.max_layers, settings.limits.max_runs) == (7, 9)
    assert (settings.data_dir, settings.token_file) == (tmp_path / "data", tmp_path / "token")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"grpc = ", "is not valid TOML: Invalid value"),
        (b"\xff\xfe\x00", "is not valid TOML: "),
        (b"colour = 1\n", "wrong settings: colour: Extra inputs are not permitted"),
        (
            b"[limits]\nmax_runs = 0\nmax_layers = 'x'\n",
            "limits.max_runs: Input should be greater than or equal to 1",
        ),
        (b"[limits]\nmax_runs = 0\nmax_layers = 'x'\n", "limits.max_layers: Input should be a valid integer"),
        (b"[[tokens]]\nsha256 = 'abc'\nteam = 'a'\n", "tokens.0.sha256: String should match pattern"),
        (
            b"[signals]\npolicy = 'oracle'\n",
            "signals: Value error, there is no policy 'oracle'; there are remaining_displacement/",
        ),
        (
            b"[signals]\npolicy = 'mds_threshold'\nsettings = { window = 3 }\n",
            "signals: Value error, mds_threshold/1 has no setting 'window'; it has ",
        ),
        (
            b"[signals]\npolicy = 'mds_threshold'\nsettings = { threshold = 2 }\n",
            "signals: Value error, resume_threshold and threshold must be in this order between -1 and 1, not 0.9 and",
        ),
        (
            b"[signals]\nsettings = { confirmations = 'x' }\n",
            "signals.settings.confirmations: Input should be",
        ),
        (b"[signals]\nname = 'x'\n", "signals.name: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_file_is_refused_naming_everything_wrong(tmp_path: Path, content: bytes, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, content), {}, tmp_path)
    assert text in str(caught.value)


def test_a_policy_with_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write(
        tmp_path, b"[signals]\npolicy = 'mds_threshold'\nsettings = { threshold = 0.99, confirmations = 3 }\n"
    )
    monkeypatch.setenv("TRAJMON_SERVER_SIGNALS__SETTINGS__THRESHOLD", "0.97")
    signals = load_settings(config, {}, tmp_path).signals
    policy = make_policy(signals.policy, signals.settings)
    assert policy == MdsThresholdPolicy(threshold=0.97, confirmations=3)
    monkeypatch.delenv("TRAJMON_SERVER_SIGNALS__SETTINGS__THRESHOLD")
    assert load_settings(None, {}, tmp_path).signals.policy == DEFAULT


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"configuration file .*nowhere.toml does not exist"):
        load_settings(tmp_path / "nowhere.toml", {}, tmp_path)


def test_a_wrong_environment_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAJMON_SERVER_TOKENS", "not json")
    with pytest.raises(
        ConfigError, match=r'wrong settings: .*"tokens".*; lists and tables are given as JSON'
    ):
        load_settings(None, {}, tmp_path)


@pytest.mark.parametrize("text", ["", "50051", "host:", ":1", "host:x", "host:65536", "host:-1"])
def test_a_wrong_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(text)
    assert str(caught.value) == f"address {text!r} is not HOST:PORT, e.g. 127.0.0.1:50051"


def test_which_addresses_only_this_machine_reaches() -> None:
    for text in ("127.0.0.1:1", "127.8.8.8:1", "localhost:1", "[::1]:1"):
        assert parse_address(text).is_loopback
    for text in ("0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1"):
        assert not parse_address(text).is_loopback
