"""Why two sides do not come together over TLS, found by a handshake of one's own.

gRPC says of most of it only that no connection came about, or that it ended. What is wrong is then found with a
second connection, by Python's own TLS; nothing is sent over it. It is trusted for its words alone.
"""

from __future__ import annotations

import socket
import ssl

import grpc
from grpc_status import rpc_status

from trajmon._address import ServerAddress
from trajmon._channel import trusted_roots
from trajmon._settings import TlsFiles
from trajmon.errors import ServerAddressError

__all__ = ["explain", "explain_failure"]

_SECONDS = 3.0
_LISTEN_SECONDS = 1.0
_WRONG_NAME = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL."""
_EXPIRED, _NOT_YET = 10, 9
_IF_ASKED = "if it asks for a certificate of the caller, set TRAJMON_TLS_CERT and TRAJMON_TLS_KEY"


def explain_failure(server: ServerAddress, error: grpc.RpcError) -> str:
    """What `explain` says, where a call failed because no connection came about or it ended; else empty."""
    if not isinstance(error, grpc.Call) or error.code() is not grpc.StatusCode.UNAVAILABLE:
        return ""
    try:
        if rpc_status.from_call(error) is not None:
            return ""  # the server itself has spoken
    except ValueError:
        return ""
    return (
        ""
        if "Connection refused" in (error.details() or "")
        else explain(server, TlsFiles.from_environment())
    )


def explain(server: ServerAddress, files: TlsFiles) -> str:
    """What the two sides do not agree on, and what to do; empty if they agree, or nobody answers in time."""
    try:
        return _over_tls(server, files) if server.tls else _in_clear_text(server)
    except (OSError, ServerAddressError):
        return ""


def _in_clear_text(server: ServerAddress) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        _shake(server, context)
    except ssl.SSLError as error:
        if "ALERT" not in (error.reason or ""):
            return ""
    return f"the server at {server} speaks TLS: name it as grpcs://{server.target}"


def _over_tls(server: ServerAddress, files: TlsFiles) -> str:
    roots = trusted_roots(files)
    context = ssl.create_default_context(cadata=None if roots is None else roots.decode("ascii", "replace"))
    context.set_alpn_protocols(["h2"])
    # As gRPC verifies; newer Pythons are stricter by default.
    context.verify_flags = context.verify_flags & ~ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    own = files.own_pair()
    if own is not None:
        context.load_cert_chain(*own)
    refusal = (
        f"the server at {server} asks for a certificate of the caller: set TRAJMON_TLS_CERT and TRAJMON_TLS_KEY"
        if own is None
        else f"the server at {server} does not take the certificate in {own[0]}: it must be signed by the server's "
        "tls.client_ca, and be valid now"
    )
    try:
        protocol, stays = _shake(server, context)
        if protocol != "h2":
            return (
                f"what answers at {server} speaks TLS, but not HTTP/2, which gRPC needs: name the server's gRPC port, "
                "not another of its ports; a proxy must offer h2 by ALPN"
            )
        return "" if stays else refusal
    except ssl.SSLCertVerificationError as error:
        return _untrusted(server, files, error)
    except ssl.SSLError as error:
        reason = error.reason or ""
        if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
            return refusal
        if "ALERT" in reason:
            return f"the server at {server} breaks the TLS handshake off ({reason.lower()}); {_IF_ASKED}"
        if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"):
            return (
                f"no TLS is spoken at {server}: name the server as {server.target} if it is to be called in clear "
                "text, or set tls.certificate and tls.key on the server"
            )
        return ""


def _untrusted(server: ServerAddress, files: TlsFiles, error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _WRONG_NAME:
        return (
            f"the certificate of the server at {server} is not for the name {server.host!r}: call the server by a name "
            "that is in it"
        )
    if error.verify_code in (_EXPIRED, _NOT_YET):
        when = "has expired" if error.verify_code == _EXPIRED else "is not valid yet"
        return f"the certificate of the server at {server} {when}: renew it there, and see the clocks of both machines"
    by = (
        f"those in {files.ca}, which TRAJMON_TLS_CA names"
        if files.ca is not None
        else "those of this machine"
    )
    mend = "it must hold" if files.ca is not None else "set TRAJMON_TLS_CA to a PEM file with"
    return (
        f"the certificate of the server at {server} is not trusted ({error.verify_message}) by the authorities that "
        f"count here, {by}: {mend} the certificate of the authority that signed the server's"
    )


def _shake(server: ServerAddress, context: ssl.SSLContext) -> tuple[str | None, bool]:
    """The protocol agreed on, and whether the server stays after the handshake. Raises OSError and ssl.SSLError."""
    with (
        socket.create_connection((server.host, server.port), timeout=_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=server.host) as connection,
    ):
        protocol = connection.selected_alpn_protocol()
        connection.settimeout(_LISTEN_SECONDS)
        try:
            # In TLS 1.3 the caller's certificate is judged after the handshake; HTTP/2 servers speak first.
            return protocol, protocol != "h2" or bool(connection.recv(1))
        except TimeoutError:
            return protocol, True
