"""Authorities and certificates of tests, as files; callers of servers that speak TLS."""

from __future__ import annotations

import http.client
import socket
import ssl
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import grpc
import trustme

from support.server import Client
from support.web import Answer
from trajmon_protos.v1.ingest_pb2_grpc import IngestServiceStub
from trajmon_protos.v1.query_pb2_grpc import QueryServiceStub


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path

    @property
    def der(self) -> bytes:
        """The certificate as it goes over the wire."""
        first = self.certificate.read_text().partition("-----END CERTIFICATE-----")
        return ssl.PEM_cert_to_DER_cert(first[0] + first[1] + "\n")


@dataclass
class Authority:
    """Signs certificates, which lie in a folder."""

    folder: Path
    name: str = "authority"
    _ca: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._ca.cert_pem.write_to_path(self.file)

    @property
    def file(self) -> Path:
        """What callers trust."""
        return self.folder / f"{self.name}.pem"

    def issue(
        self, name: str, *hosts: str, begins: datetime | None = None, ends: datetime | None = None
    ) -> Pair:
        """A certificate for hosts (default: 127.0.0.1 and localhost); issued again, it replaces the files."""
        hosts = hosts or ("127.0.0.1", "localhost")
        made = self._ca.issue_cert(*hosts, not_before=begins, not_after=ends)
        pair = Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        pair.certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        pair.key.write_bytes(made.private_key_pem.bytes())
        pair.key.chmod(0o600)
        return pair


def server_environment(pair: Pair, client_ca: Path | None = None, **more: object) -> dict[str, str]:
    """Settings of a server that speaks TLS."""
    settings = {"certificate": pair.certificate, "key": pair.key, "reload_seconds": 0.1, **more}
    if client_ca is not None:
        settings["client_ca"] = client_ca
    return {f"TRAJMON_SERVER_TLS__{name.upper()}": str(value) for name, value in settings.items()}


def client_environment(trusted: Path, pair: Pair | None = None) -> dict[str, str]:
    """Settings of a client that speaks TLS."""
    environment = {"TRAJMON_TLS_CA": str(trusted)}
    if pair is not None:
        environment |= {"TRAJMON_TLS_CERT": str(pair.certificate), "TRAJMON_TLS_KEY": str(pair.key)}
    return environment


class TlsClient(Client):
    """Plain stubs over TLS."""

    def __init__(self, address: str, token: str | None, trusted: Path, pair: Pair | None = None) -> None:
        credentials = grpc.ssl_channel_credentials(
            trusted.read_bytes(),
            None if pair is None else pair.key.read_bytes(),
            None if pair is None else pair.certificate.read_bytes(),
        )
        self.channel = grpc.secure_channel(
            address, credentials, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self.metadata = (("authorization", f"Bearer {token}"),) if token is not None else ()
        self.ingest = IngestServiceStub(self.channel)
        self.query = QueryServiceStub(self.channel)


def context_of(trusted: Path, pair: Pair | None = None) -> ssl.SSLContext:
    """What a careful HTTPS client uses."""
    context = ssl.create_default_context(cafile=str(trusted))
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


def get(address: str, path: str, context: ssl.SSLContext, **headers: str) -> Answer:
    """GET over TLS; header names with _ for -. Raises ssl.SSLError and OSError."""
    connection = http.client.HTTPSConnection(address, timeout=30, context=context)
    try:
        connection.request(
            "GET", path, headers={name.replace("_", "-"): text for name, text in headers.items()}
        )
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, found, answer.read())
    finally:
        connection.close()


def shown_certificate(address: str, context: ssl.SSLContext) -> bytes:
    """What a server shows in a new connection, as DER."""
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        der = connection.getpeercert(binary_form=True)
        assert der is not None
        return der
