"""The server's TLS files: what is refused, what is warned of, and how a renewal is taken up."""

from __future__ import annotations

import os
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from structlog.testing import capture_logs

from support.tls import Authority, Pair, context_of
from trajmon_server.config import TlsSettings, load_settings
from trajmon_server.errors import ConfigError
from trajmon_server.tls import ServerTls, load_tls

NOW = datetime.now(UTC)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


def settings_of(pair: Pair, **more: object) -> TlsSettings:
    return TlsSettings.model_validate({"certificate": pair.certificate, "key": pair.key, **more})


def load(pair: Pair, **more: object) -> ServerTls:
    found = load_tls(settings_of(pair, **more))
    assert found is not None
    return found


def shaken(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = "localhost") -> bytes:
    """A handshake in memory; what the server showed. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname=name)
    there = server.wrap_bio(to_server, to_client, server_side=True)
    done = [False, False]
    while not all(done):
        for index, side in enumerate((here, there)):
            try:
                side.do_handshake()
                done[index] = True
            except ssl.SSLWantReadError:
                pass
    der = here.getpeercert(binary_form=True)
    assert der is not None
    return der


def test_without_settings_there_is_no_tls() -> None:
    assert load_tls(TlsSettings()) is None


def test_settings_come_from_file_and_environment(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = authority.issue("server")
    config = tmp_path / "server.toml"
    config.write_text(f'[tls]\ncertificate = "{pair.certificate}"\nkey = "/nowhere"\n')
    monkeypatch.setenv("TRAJMON_SERVER_TLS__KEY", str(pair.key))
    settings = load_settings(config, {}, tmp_path).tls
    assert (settings.certificate, settings.key, settings.client_ca) == (pair.certificate, pair.key, None)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (("certificate",), "tls.certificate is set and tls.key is not; TLS needs both"),
        (("key",), "tls.key is set and tls.certificate is not; TLS needs both"),
        (("client_ca",), "tls.client_ca is set without tls.certificate and tls.key; TLS needs both"),
        (
            ("client_ca_http",),
            "tls.client_ca_http is set without tls.certificate and tls.key; TLS needs both",
        ),
        (
            ("certificate", "key", "client_ca_http"),
            "tls.client_ca_http is set and tls.client_ca is not: nothing says who signs callers' certificates",
        ),
    ],
)
def test_half_of_the_settings_is_refused(authority: Authority, given: tuple[str, ...], text: str) -> None:
    pair = authority.issue("server")
    values = {
        "certificate": pair.certificate,
        "key": pair.key,
        "client_ca": authority.file,
        "client_ca_http": True,
    }
    with pytest.raises(ConfigError) as caught:
        load_tls(TlsSettings.model_validate({name: values[name] for name in given}))
    assert str(caught.value) == text


@pytest.mark.parametrize("name", ["certificate", "key", "client_ca"])
def test_files_that_cannot_be_read(authority: Authority, tmp_path: Path, name: str) -> None:
    pair = authority.issue("server")
    what = "private key" if name == "key" else "certificate"
    empty, fifo, large = tmp_path / "empty", tmp_path / "fifo", tmp_path / "large"
    empty.touch()
    os.mkfifo(fifo)
    with large.open("wb") as file:
        file.truncate(2 << 20)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path, text in (
        (tmp_path / "nowhere", "No such file or directory"),
        (tmp_path, "is a folder; name the PEM file itself"),
        (empty, f"holds no {what} in PEM form"),
        (fifo, "is not a PEM file"),
        (large, "is not a PEM file"),
        (loop, "Too many levels of symbolic links"),
        # The certificate where the key belongs, and the other way round.
        (pair.certificate if name == "key" else pair.key, f"holds no {what} in PEM form"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(pair, **{name: path})
        assert str(caught.value).startswith(f"tls.{name} {path}")
        assert str(caught.value).endswith(text)


def test_files_that_hold_something_else(authority: Authority, tmp_path: Path) -> None:
    pair, other = authority.issue("server"), authority.issue("other")
    with pytest.raises(ConfigError) as caught:
        load(pair, key=other.key)
    text = f"tls.key {other.key} is not the key of the certificate in tls.certificate {pair.certificate}"
    assert str(caught.value) == text
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigError, match=r"tls.certificate .*broken.pem: it is not a certificate"):
        load(pair, certificate=broken)
    with pytest.raises(ConfigError, match=r"tls.client_ca .*broken.pem cannot be used: "):
        load(pair, client_ca=broken)
    broken.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(
        ConfigError, match=r"tls.certificate .*crt with tls.key .*broken.pem cannot be used: "
    ):
        load(pair, key=broken)


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_a_password(authority: Authority) -> None:
    pair = authority.issue("server")
    key = load_pem_private_key(pair.key.read_bytes(), None)
    for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
        secret = key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"password"))
        pair.key.write_bytes(secret)
        with pytest.raises(ConfigError) as caught:
            load(pair)
        assert (
            str(caught.value)
            == f"tls.key {pair.key} is encrypted; give the key without a password, mode 0600"
        )


@pytest.mark.parametrize(
    ("begins", "ends", "event"),
    [
        (-20, -1, "the TLS certificate HAS EXPIRED: callers refuse it; renew it"),
        (1, 20, "the TLS certificate is NOT VALID YET: callers refuse it"),
        (-20, 13, "the TLS certificate ends soon; renew it"),
        (-20, 15, None),
    ],
)
def test_the_time_of_a_certificate_is_looked_at(
    authority: Authority, begins: int, ends: int, event: str | None
) -> None:
    last = NOW + timedelta(days=ends)
    pair = authority.issue("server", begins=NOW + timedelta(days=begins), ends=last)
    with capture_logs() as logs:
        tls = load(pair)
        tls.renew()
    assert [entry["event"] for entry in logs] == ([] if event is None else [event])
    assert tls.expires() == int(last.timestamp())


@pytest.mark.parametrize(("mode", "is_open"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)])
def test_a_key_that_everybody_can_read_is_warned_of(authority: Authority, mode: int, is_open: bool) -> None:
    pair = authority.issue("server")
    pair.key.chmod(mode)
    with capture_logs() as logs:
        load(pair)
    events = [(entry["event"], entry["path"]) for entry in logs]
    text = "the TLS key is open to every user of this machine; chmod 600"
    assert events == ([(text, str(pair.key))] if is_open else [])


def test_old_protocols_are_refused(authority: Authority) -> None:
    tls = load(authority.issue("server"), client_ca=authority.file)
    for context in (tls.http_context(), tls.metrics_context()):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_renewal_is_shown_in_new_handshakes(authority: Authority, version: ssl.TLSVersion) -> None:
    pair, client = authority.issue("server"), context_of(authority.file)
    client.maximum_version = version
    first = pair.der
    tls = load(pair)
    contexts = (tls.http_context(), tls.metrics_context())
    assert {shaken(context, client) for context in contexts} == {first}
    assert not tls.renew()
    authority.issue("server")
    assert pair.der != first
    assert {shaken(context, client) for context in contexts} == {first}
    with capture_logs() as logs:
        assert tls.renew()
        assert not tls.renew()
    assert [entry["event"] for entry in logs] == ["TLS files were renewed"]
    assert {shaken(context, client) for context in contexts} == {pair.der}
    client.check_hostname = False
    assert {shaken(context, client, None) for context in contexts} == {pair.der}


def test_half_of_a_renewal_changes_nothing_until_the_other_half_is_there(authority: Authority) -> None:
    pair, client = authority.issue("server"), context_of(authority.file)
    tls = load(pair)
    context, first = tls.http_context(), pair.der
    fresh = authority.issue("fresh")
    pair.certificate.write_bytes(fresh.certificate.read_bytes())
    with capture_logs() as logs:
        for _ in range(3):
            assert not tls.renew()
    # Said once, not at each look.
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("renewed TLS files cannot be used; the old ones stay in use", "error")
    ]
    assert "is not the key of the certificate" in logs[0]["problem"]
    assert shaken(context, client) == first
    pair.key.unlink()
    assert not tls.renew()
    assert shaken(context, client) == first
    pair.key.write_bytes(fresh.key.read_bytes())
    assert tls.renew()
    assert shaken(context, client) == fresh.der


def test_callers_certificates_are_asked_for_where_it_is_said(authority: Authority, tmp_path: Path) -> None:
    pair, mine = authority.issue("server"), authority.issue("mine", "someone")
    strangers = Authority(tmp_path / "strangers")
    known = context_of(authority.file, mine)
    unknown = context_of(authority.file, strangers.issue("stranger", "someone"))
    for client in (known, unknown):
        # Here a refused caller hears of it in the handshake itself.
        client.maximum_version = ssl.TLSVersion.TLSv1_2
    nobody = context_of(authority.file)
    tls = load(pair, client_ca=authority.file)
    assert shaken(tls.http_context(), nobody) == pair.der
    for context in (
        tls.metrics_context(),
        load(pair, client_ca=authority.file, client_ca_http=True).http_context(),
    ):
        assert shaken(context, known) == pair.der
        for client in (nobody, unknown):
            with pytest.raises(ssl.SSLError):
                shaken(context, client)


def test_a_new_authority_of_callers_is_taken_up(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue("server")
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    trusted = tmp_path / "callers.pem"
    trusted.write_bytes(old.file.read_bytes())
    tls = load(pair, client_ca=trusted)
    context = tls.metrics_context()
    before, after = (context_of(authority.file, side.issue("mine", "someone")) for side in (old, new))
    for client in (before, after):
        client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shaken(context, before) == pair.der
    with pytest.raises(ssl.SSLError):
        shaken(context, after)
    trusted.write_bytes(new.file.read_bytes())
    assert tls.renew()
    assert shaken(context, after) == pair.der
    with pytest.raises(ssl.SSLError):
        shaken(context, before)


def test_a_reminder_comes_once_a_day(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = authority.issue("server", begins=NOW - timedelta(days=9), ends=NOW + timedelta(days=1))
    start = time.time()
    with capture_logs() as logs:
        tls = load(pair)
        for hours in (1, 23, 25, 30, 50):
            monkeypatch.setattr(time, "time", lambda hours=hours: start + 3600 * hours)
            tls.renew()
    assert [entry["log_level"] for entry in logs] == ["warning", "error", "error"]
