"""Names of runs and scopes: what passes, what does not, and the words for it."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajmon_protos.errors import ContractError, ScopeError
from trajmon_protos.names import RUN_ID, RUN_NAME, RUN_NAME_RULE, Scope, parse_scope

ALLOWED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"


@given(st.text(ALLOWED, min_size=1, max_size=64).filter(lambda name: name[0] not in ".-"))
def test_every_name_that_the_rule_allows_passes(name: str) -> None:
    assert RUN_NAME.fullmatch(name)


@given(st.text(max_size=70))
def test_no_other_name_passes(name: str) -> None:
    follows_rule = 1 <= len(name) <= 64 and set(name) <= set(ALLOWED) and name[0] not in ".-"
    assert (RUN_NAME.fullmatch(name) is not None) == follows_rule


@given(st.from_regex(RUN_NAME, fullmatch=True))
def test_a_name_is_one_visible_folder_below_its_parent(name: str) -> None:
    path = PurePosixPath("runs", name)
    assert path.parts == ("runs", name)
    assert name not in (".", "..")
    assert not name.startswith("-")


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "-x", "a/b", "a b", "ä", "a\n", "x" * 65, "a\0", "١"]
)
def test_names_that_would_do_harm(name: str) -> None:
    assert RUN_NAME.fullmatch(name) is None


def test_the_rule_in_words() -> None:
    assert RUN_NAME_RULE == "1 to 64 of the characters A-Z a-z 0-9 _ . -, the first neither . nor -"


@pytest.mark.parametrize("text", ["", "0" * 31, "0" * 33, "A" * 32, "g" * 32, "0" * 32 + "\n"])
def test_texts_that_are_no_run_id(text: str) -> None:
    assert RUN_ID.fullmatch(text) is None


@given(st.binary(min_size=16, max_size=16))
def test_every_16_bytes_make_a_run_id(raw: bytes) -> None:
    assert RUN_ID.fullmatch(raw.hex())


@given(st.builds(Scope, st.sampled_from(["group", "layer"]), st.text(min_size=1)))
def test_a_scope_reads_back_as_itself(scope: Scope) -> None:
    assert parse_scope(str(scope)) == scope


@given(st.text().filter(lambda text: not re.match(r"network\Z|\Z|(group|layer):(?s:.)", text)))
def test_every_other_text_is_refused(text: str) -> None:
    with pytest.raises(ContractError) as caught:
        parse_scope(text)
    assert isinstance(caught.value, ScopeError)
    assert str(caught.value) == f"scope {text[:80]!r} is not one of: network, group:NAME, layer:NAME"


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("", Scope("group", "network")),
        ("network", Scope("group", "network")),
        ("group:network", Scope("group", "network")),
        ("layer:network", Scope("layer", "network")),
        ("group:attention.qkv", Scope("group", "attention.qkv")),
        ("layer:a:b", Scope("layer", "a:b")),
    ],
)
def test_scopes(text: str, scope: Scope) -> None:
    assert parse_scope(text) == scope


@pytest.mark.parametrize("text", ["group:", "layer:", "layers:x", "Network", "network ", ":x", "x" * 200])
def test_texts_that_are_no_scope(text: str) -> None:
    expected = f"scope {text[:80]!r} is not one of: network, group:NAME, layer:NAME"
    with pytest.raises(ScopeError, match=re.escape(expected) + "$"):
        parse_scope(text)
