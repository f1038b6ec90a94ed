"""When a certificate is valid: against certificates that another library made and read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given
from hypothesis import strategies as st

from trajmon_server.certificates import first_certificate, validity_of

KEY = ec.generate_private_key(ec.SECP256R1())
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def make(begins: datetime, ends: datetime, name: str = "a", extensions: int = 0) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
    if extensions:
        names = [x509.DNSName(f"host-{index}.example.org") for index in range(extensions)]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(KEY, hashes.SHA256())


moments = st.datetimes(datetime(1950, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)).map(
    lambda moment: moment.replace(microsecond=0)
)


@given(begins=moments, ends=moments, extensions=st.sampled_from([0, 1, 300]))
@example(datetime(1950, 1, 1, tzinfo=UTC), datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), 0)
@example(datetime(2050, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), 1)
def test_times_are_those_of_the_certificate(begins: datetime, ends: datetime, extensions: int) -> None:
    begins, ends = min(begins, ends), max(begins, ends)
    made = make(begins, ends, extensions=extensions)
    pem = (
        b"some words before\n"
        + made.public_bytes(Encoding.PEM)
        + make(EPOCH, EPOCH).public_bytes(Encoding.PEM)
    )
    der = first_certificate(pem)
    assert der == made.public_bytes(Encoding.DER)
    found = validity_of(der)
    assert timedelta(seconds=found.not_before_unix_seconds) == begins - EPOCH
    assert timedelta(seconds=found.not_after_unix_seconds) == ends - EPOCH


@pytest.mark.parametrize(
    ("pem", "text"),
    [
        (b"", "it holds no certificate in PEM form"),
        (b"-----BEGIN CERTIFICATE-----\nMIIB", "it holds no certificate in PEM form"),
        (
            b"-----BEGIN CERTIFICATE-----\nMI\xffB=x\n-----END CERTIFICATE-----",
            "its certificate is not base64",
        ),
    ],
)
def test_what_is_no_pem(pem: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        first_certificate(pem)


GOOD = make(EPOCH, EPOCH).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("der", "text"),
    [
        (b"", "it is not a certificate"),
        (b"\x30", "ends too soon"),
        (b"\x02\x01\x00", "it is not a certificate"),
        (b"\x30\x80\x00\x00", "impossible length"),
        (b"\x30\x85\x01\x01\x01\x01\x01", "impossible length"),
        (GOOD[:40], "ends too soon"),
        (GOOD.replace(b"700101000000Z", b"701301000000Z"), "a time that is none: '19701301000000Z'"),
        (GOOD.replace(b"700101000000Z", b"70010100000 Z"), "a time that is none"),
        (GOOD.replace(b"\x17\x0d70", b"\x16\x0d70"), "no two times"),
    ],
    # Certificates are made anew each time: names from their bytes would be others in each process.
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_certificate(der: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        validity_of(der)


@given(st.binary(max_size=200), st.integers(0, len(GOOD)))
def test_hostile_bytes_end_in_a_value_error_or_two_times(noise: bytes, at: int) -> None:
    for der in (noise, GOOD[:at] + noise + GOOD[at + len(noise) :]):
        try:
            found = validity_of(der)
        except ValueError:
            continue
        assert isinstance(found.not_after_unix_seconds, float)
