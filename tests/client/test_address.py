"""Addresses of servers, and what may be said to them in clear text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajmon._address import ServerAddress, check_plaintext, parse_server
from trajmon._settings import TlsFiles
from trajmon.errors import ServerAddressError


@pytest.mark.parametrize(
    ("text", "host", "port", "tls"),
    [
        ("127.0.0.1:50051", "127.0.0.1", 50051, False),
        ("gpu-17:1", "gpu-17", 1, False),
        ("[::1]:65535", "::1", 65535, False),
        ("grpcs://monitor.example.org:443", "monitor.example.org", 443, True),
        ("grpcs://[2001:db8::1]:50051", "2001:db8::1", 50051, True),
        ("grpcs://under_score:50051", "under_score", 50051, True),
    ],
)
def test_addresses(text: str, host: str, port: int, tls: bool) -> None:
    found = parse_server(text)
    assert found == ServerAddress(host, port, tls)
    assert str(found) == text
    assert found.target == text.removeprefix("grpcs://")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "host",
        "host:",
        ":1",
        "host:0",
        "host:65536",
        "host:123456789",
        "host:-1",
        "host:1x",
        "host:\uff11",
        "host name:1",
        "host\n:1",
        "user@host:1",
        "host/path:1",
        "host:1/",
        "::1:50051",
        "[::1:50051",
        "[host]:1",
        "[]:1",
        "grpcs://",
        "grpcs://host",
        "grpcs://host:1/path",
        "dns:///host:1",
        "unix:/tmp/socket:1",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ServerAddressError) as caught:
        parse_server(text)
    start = f"{text!r} is not HOST:PORT, for example 127.0.0.1:50051, or grpcs://HOST:PORT"
    assert str(caught.value).startswith(start)


@pytest.mark.parametrize("scheme", ["http", "https", "grpc", "GRPCS", "grpcs://grpcs", ""])
def test_unknown_schemes(scheme: str) -> None:
    with pytest.raises(ServerAddressError) as caught:
        parse_server(f"{scheme}://host:1")
    assert str(caught.value).endswith(f"or grpcs://HOST:PORT: the scheme {scheme!r} is not known")


@given(st.text())
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        found = parse_server(text)
    except ServerAddressError:
        return
    assert parse_server(str(found)) == found


@pytest.mark.parametrize(
    ("text", "is_loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.255.1.2:1", True),
        ("localhost:1", True),
        ("LocalHost:1", True),
        ("[::1]:1", True),
        ("127.example.org:1", False),
        ("localhost.example.org:1", False),
        ("0.0.0.0:1", False),
        ("10.0.0.1:1", False),
        ("[::]:1", False),
        ("[fe80::1]:1", False),
        ("gpu-17:1", False),
    ],
)
def test_a_token_goes_in_clear_text_only_within_the_machine(
    text: str, is_loopback: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = parse_server(text)
    assert server.is_loopback == is_loopback
    check_plaintext(server, None)
    check_plaintext(parse_server(f"grpcs://{text}"), "token")
    for value in ("", "0", "true"):
        monkeypatch.setenv("TRAJMON_ALLOW_PLAINTEXT", value)
        if is_loopback:
            check_plaintext(server, "token")
            continue
        with pytest.raises(ServerAddressError) as caught:
            check_plaintext(server, "token")
        assert str(caught.value) == (
            f"the token is not sent to {text} in clear text: name the server as grpcs://{text} if it speaks TLS, or "
            "set TRAJMON_ALLOW_PLAINTEXT=1 if nobody else can listen on the way"
        )
    monkeypatch.setenv("TRAJMON_ALLOW_PLAINTEXT", "1")
    check_plaintext(server, "token")


def test_files_from_the_environment_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("TRAJMON_TLS_CA", "ca.pem")
    monkeypatch.setenv("TRAJMON_TLS_CERT", "~/my.crt")
    monkeypatch.setenv("TRAJMON_TLS_KEY", " ")
    files = TlsFiles.from_environment()
    assert files == TlsFiles(tmp_path / "ca.pem", Path("/home/somebody/my.crt"), None)
    assert files.to_environment() == {
        "TRAJMON_TLS_CA": str(tmp_path / "ca.pem"),
        "TRAJMON_TLS_CERT": "/home/somebody/my.crt",
    }


@pytest.mark.parametrize(("there", "missing"), [("CERT", "KEY"), ("KEY", "CERT")])
def test_half_of_a_callers_certificate(there: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"TRAJMON_TLS_{there}", "/some/file.pem")
    with pytest.raises(ServerAddressError) as caught:
        TlsFiles.from_environment().own_pair()
    text = f"TRAJMON_TLS_{there} is set and TRAJMON_TLS_{missing} is not; a caller's certificate needs both"
    assert str(caught.value) == text


def test_a_training_process_reads_addresses_without_grpc() -> None:
    code = "import sys, trajmon._address, trajmon._opening; assert 'grpc' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
