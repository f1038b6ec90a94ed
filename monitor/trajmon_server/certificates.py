"""What the server has to know of an X.509 certificate: when it is valid. Pure; RFC 5280 names the fields.

A certificate is DER: nested pieces of tag (one byte here), length and content. Wanted is `validity`, two times:

    SEQUENCE                      Certificate
      SEQUENCE                    tbsCertificate
        [0]                       version; left out of version 1
        INTEGER                   serialNumber
        SEQUENCE                  signature
        SEQUENCE                  issuer
        SEQUENCE                  validity
          UTCTime | GeneralizedTime   notBefore
          UTCTime | GeneralizedTime   notAfter
"""

from __future__ import annotations

import calendar
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Validity", "first_certificate", "validity_of"]

_SEQUENCE, _INTEGER, _VERSION = 0x30, 0x02, 0xA0
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when a certificate holds, both included."""

    not_before_unix_seconds: float
    not_after_unix_seconds: float


def first_certificate(pem: bytes) -> bytes:
    """The first certificate of a PEM file, as DER: the file's own one, before those that vouch for it.

    Raises ValueError.
    """
    found = _PEM.search(pem.decode("ascii", "replace"))
    if found is None:
        raise ValueError("it holds no certificate in PEM form")
    try:
        return ssl.PEM_cert_to_DER_cert(found.group())
    except ValueError as error:
        raise ValueError(f"its certificate is not base64: {error}") from error


def validity_of(der: bytes) -> Validity:
    """When a certificate is valid, in Unix seconds. Raises ValueError."""
    certificate = _content(next(_pieces(der), None), _SEQUENCE)
    fields = _pieces(_content(next(_pieces(certificate), None), _SEQUENCE))
    field = next(fields, None)
    if field is not None and field[0] == _VERSION:
        field = next(fields, None)
    _content(field, _INTEGER)
    for _ in ("signature", "issuer"):
        _content(next(fields, None), _SEQUENCE)
    times = list(_pieces(_content(next(fields, None), _SEQUENCE)))
    if len(times) != 2:
        raise ValueError("its certificate has no two times of validity")
    return Validity(*(_unix_seconds(tag, content) for tag, content in times))


def _pieces(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each piece."""
    at = 0
    while at < len(data):
        header = data[at : at + 2]
        if len(header) < 2:
            raise ValueError("its certificate ends too soon")
        tag, length = header
        at += 2
        if length & 0x80:
            count = length & 0x7F
            if not 1 <= count <= 4 or len(data) < at + count:
                raise ValueError("its certificate has a piece of impossible length")
            length = int.from_bytes(data[at : at + count], "big")
            at += count
        if at + length > len(data):
            raise ValueError("its certificate ends too soon")
        yield tag, data[at : at + length]
        at += length


def _content(piece: tuple[int, bytes] | None, tag: int) -> bytes:
    if piece is None or piece[0] != tag:
        raise ValueError("it is not a certificate")
    return piece[1]


def _unix_seconds(tag: int, content: bytes) -> float:
    text = content.decode("ascii", "replace")
    if tag == _UTC_TIME:
        # Two digits of the year: 50 to 99 are of the last century (RFC 5280, 4.1.2.5.1).
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("its certificate has no two times of validity")
    if not re.fullmatch(r"[0-9]{14}Z", text):
        raise ValueError(f"its certificate has a time that is none: {text[:20]!r}")
    try:
        return float(calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ")))
    except ValueError as error:
        raise ValueError(f"its certificate has a time that is none: {text[:20]!r}") from error
