"""Whether a server on this machine takes rows, as its own `/readyz` says: for health checks in containers."""

from __future__ import annotations

import http.client
import json
import ssl

from trajmon_server.config import Address, TlsSettings
from trajmon_server.errors import ConfigError, reason_of

__all__ = ["why_not_ready"]

_MAX_ANSWER_BYTES = 4096
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked for, not listened on


def why_not_ready(address: Address, tls: TlsSettings, timeout_seconds: float) -> str:
    """Ask the server that listens on `address`; returns why it is not ready, empty if it is.

    Raises ConfigError where the settings do not say whom to ask, or the server's own TLS files cannot be read.
    """
    if address.port == 0:
        raise ConfigError("http has port 0, so nobody knows where the server listens; name it with --http")
    host = _ANYWHERE.get(address.host, address.host)
    connection = (
        http.client.HTTPConnection(host, address.port, timeout=timeout_seconds)
        if tls.certificate is None
        else http.client.HTTPSConnection(
            host, address.port, timeout=timeout_seconds, context=_own_context(tls)
        )
    )
    where = Address(host=host, port=address.port)
    try:
        # By a name that every server answers to, whatever it listens on.
        connection.request("GET", "/readyz", headers={"Host": "localhost"})
        answer = connection.getresponse()
        body = answer.read(_MAX_ANSWER_BYTES)
    except OSError as error:
        return f"{where}: {reason_of(error)}"
    except http.client.HTTPException as error:
        return f"{where} does not speak HTTP: {type(error).__name__}"
    finally:
        connection.close()
    return "" if answer.status == http.client.OK else f"{where} answers {answer.status}: {_reason(body)}"


def _own_context(tls: TlsSettings) -> ssl.SSLContext:
    """For a connection to this machine's own server, which carries no secret: whose certificate it is, is not asked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if tls.client_ca_http and tls.certificate is not None and tls.key is not None:
        try:
            context.load_cert_chain(tls.certificate, tls.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"tls.certificate {tls.certificate}: {reason_of(error)}") from error
    return context


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["reason"])
    except (ValueError, KeyError, TypeError):
        return "no reason given"
