"""Queries are read by the table, and by nothing else."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajmon_server.errors import InvalidRequest
from trajmon_server.web.parameters import choice, flag, read_query, text, whole
from trajmon_server.web.table import ENDPOINTS

TABLE = (
    text("name", "a name", longest=5),
    text("tag", "tags", repeated=True),
    whole("size", "a size", least=1, most=10, default=4),
    whole("tau", "a checkpoint"),
    choice("form", "a form", ("a", "b"), default="a"),
    flag("all", "everything"),
)


def test_defaults() -> None:
    expected: dict[str, Any] = {"name": None, "tag": [], "size": 4, "tau": None, "form": "a", "all": False}
    assert read_query(b"", TABLE) == expected


def test_values() -> None:
    query = b"name=%3Cx%3E&tag=a+b&tag=&size=10&tau=0&form=b&all=true"
    expected = {"name": "<x>", "tag": ["a b", ""], "size": 10, "tau": 0, "form": "b", "all": True}
    assert read_query(query, TABLE) == expected


@pytest.mark.parametrize(
    ("query", "field", "problem"),
    [
        (b"name=123456", "name", "6 characters, at most 5 are read"),
        (b"size=0", "size", "'0' is not a whole number from 1 to 10"),
        (b"size=11", "size", "'11' is not a whole number from 1 to 10"),
        (b"size=", "size", "'' is not a whole number from 1 to 10"),
        (b"size=+5", "size", "' 5' is not a whole number from 1 to 10"),
        (b"size=5.0", "size", "'5.0' is not a whole number from 1 to 10"),
        (b"size=1e1", "size", "'1e1' is not a whole number from 1 to 10"),
        (b"size=1&size=1", "size", "given 2 times, once is enough"),
        (
            b"tau=9007199254740992",
            "tau",
            "'9007199254740992' is not a whole number from 0 to 9007199254740991",
        ),
        (b"form=c", "form", "'c' is not one of a, b"),
        (b"all=True", "all", "'True' is neither true nor false"),
        (b"all", "all", "'' is neither true nor false"),
        (b"alll=true", "alll", "there is no such parameter; there are: name, tag, size, tau, form, all"),
    ],
)
def test_what_is_wrong_is_named(query: bytes, field: str, problem: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_query(query, TABLE)
    (violation,) = caught.value.violations
    assert (violation.field, violation.text) == (field, problem)


def test_everything_that_is_wrong_is_named() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_query(b"size=x&form=x&what=x", TABLE)
    assert [violation.field for violation in caught.value.violations] == ["form", "size", "what"]


@given(st.dictionaries(st.sampled_from([a.name for a in TABLE]), st.text(), max_size=4))
def test_any_text_is_read_or_refused(given_texts: dict[str, str]) -> None:
    encoded = {name: value.encode(errors="surrogatepass") for name, value in given_texts.items()}
    query = "&".join(f"{name}={quote_plus(value)}" for name, value in encoded.items()).encode()
    assert_read_or_refused(query)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(query: bytes) -> None:
    assert_read_or_refused(query)


def assert_read_or_refused(query: bytes) -> None:
    violations: tuple[Any, ...] = ()
    values: dict[str, Any] = {}
    try:
        values = read_query(query, TABLE)
    except InvalidRequest as error:
        violations = error.violations
    assert set(values) == ({a.name for a in TABLE} if not violations else set())
    assert values.get("size", 1) in range(1, 11)


def test_defaults_in_the_table_are_themselves_valid() -> None:
    for endpoint in ENDPOINTS:
        for parameter in endpoint.parameters:
            if parameter.default is not None and not parameter.repeated:
                told = str(parameter.default)
                assert (
                    parameter.read(told.lower() if isinstance(parameter.default, bool) else told)
                    == parameter.default
                )
