"""Objects: conditional puts, parts and listings, on a real S3 server and in memory."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from obstore.store import MemoryStore

from support.object_store import ObjectStoreProcess
from trajmon_server.store import objects as module
from trajmon_server.store.objects import Found, Objects, Part, open_objects


@pytest.fixture(params=["s3", "memory"])
def objects(request: pytest.FixtureRequest) -> Objects:
    if request.param == "memory":
        return Objects(MemoryStore(), "memory://")
    store: ObjectStoreProcess = request.getfixturevalue("object_store")
    return store.open(uuid.uuid4().hex)


def test_an_object_is_created_once(objects: Objects) -> None:
    tag = objects.create("a/b", b"first")
    assert tag
    assert objects.create("a/b", b"second") is None
    assert objects.create("a/b", b"first") is None
    assert objects.get("a/b") == Found(b"first", tag)
    assert objects.size("a/b") == 5


def test_an_object_is_replaced_by_who_has_seen_it(objects: Objects) -> None:
    first = objects.create("a", b"1")
    assert first
    second = objects.replace("a", b"2", first)
    assert second
    assert second != first
    assert objects.replace("a", b"3", first) is None
    assert objects.get("a") == Found(b"2", second)
    # What is there already needs no put.
    assert objects.replace("a", b"2", first) == second
    assert objects.replace("absent", b"1", first) is None
    with pytest.raises(KeyError):
        objects.get("absent")


def test_an_object_can_be_removed_more_than_once(objects: Objects) -> None:
    objects.create("a", b"1")
    objects.delete("a")
    objects.delete("a")
    with pytest.raises(KeyError):
        objects.get("a")
    assert objects.create("a", b"2")


@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [(0, 4, b"0123"), (0, 10, b"0123456789"), (0, 11, b"0123456789"), (3, 4, b"3456"), (9, 5, b"9")],
)
def test_a_part_tells_what_it_is_a_part_of(objects: Objects, offset: int, size: int, expected: bytes) -> None:
    tag = objects.create("a", b"0123456789")
    assert tag
    assert objects.part("a", offset, size) == Part(expected, 10, tag)
    assert objects.read("a", offset, size) == expected


def test_an_empty_object_has_an_empty_part(objects: Objects) -> None:
    tag = objects.create("a", b"")
    assert tag
    assert objects.part("a", 0, 100) == Part(b"", 0, tag)


@pytest.mark.parametrize("offset", [10, 11, 1000])
def test_beyond_the_end_there_is_nothing(objects: Objects, offset: int) -> None:
    tag = objects.create("a", b"0123456789")
    assert tag
    assert objects.part("a", offset, 5) == Part(b"", 10, tag)


@pytest.mark.parametrize("how", ["get", "size", "part", "read"])
def test_an_absent_object_is_a_key_error(objects: Objects, how: str) -> None:
    arguments = (0, 10) if how in ("part", "read") else ()
    with pytest.raises(KeyError, match="absent"):
        getattr(objects, how)("absent", *arguments)


def test_listings_are_in_order_and_complete(objects: Objects) -> None:
    """More objects than one page of a listing has."""
    names = [f"a/{n:05d}" for n in range(1010)]

    def create(name: str) -> str | None:
        return objects.create(name, b"1" * (len(name) % 3))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(create, (*names[::-1], "b/x/y", "c")))
    assert list(objects.list("a")) == [(name, len(name) % 3) for name in names]
    assert [key for key, _ in objects.list("a", "a/00899")] == names[900:]
    assert [key for key, _ in objects.list("a", "a/00899x")] == names[900:]
    assert [key for key, _ in objects.list("a", "a/009")] == names[900:]
    assert list(objects.list("absent")) == []
    assert sorted(objects.tags("a")) == names
    assert objects.tags("b") == {"b/x/y": objects.get("b/x/y").tag}
    assert (objects.folders(), objects.folders("b"), objects.folders("c")) == (["a", "b"], ["x"], [])


@pytest.mark.parametrize(
    "url", ["", "nonsense", "ftp://bucket/prefix", "http://bucket/prefix", "file:///tmp", "s3://", "s3:///"]
)
def test_what_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        open_objects(url, {})
    assert str(caught.value) == (
        f"{url!r} names no object store: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://BUCKET/PREFIX; without one the "
        "journal is on the local disk"
    )


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(ValueError, match=r"^object store s3://bucket/prefix: .*no_such_option"):
        open_objects("s3://bucket/prefix", {"no_such_option": "1"})


def test_versions_are_part_of_the_tag() -> None:
    """Google's store compares versions where others compare tags."""
    tag = module._tag({"e_tag": '"abc"', "version": "17"})
    assert module._version(tag) == {"e_tag": '"abc"', "version": "17"}
    assert module._version(module._tag({"e_tag": '"abc"', "version": None})) == {"e_tag": '"abc"'}
