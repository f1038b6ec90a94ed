"""Objects in a bucket: whole or not there, and replaced only by whoever has seen what is replaced.

Two guarantees of the object store carry everything above it: a conditional put succeeds for one of many, and a read
or a listing that begins after a put has succeeded sees it. S3, Google Cloud Storage and Azure give both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, cast

import obstore
from obstore import exceptions
from obstore.store import ObjectStore, from_url

from trajmon_server.store import errors

if TYPE_CHECKING:
    from obstore import UpdateVersion
    from obstore.store import ClientConfig

__all__ = ["Found", "Objects", "Part", "listed_tag", "open_objects"]

SCHEMES: Final = ("s3", "gs", "az")
_CALL_SECONDS: Final = 10
_RETRY_SECONDS: Final = 15
_REFUSED = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
_OUT_OF_RANGE: Final = re.compile(r"status code: 416|Invalid range")
_REFUSED_TEXT: Final = re.compile(r"status code: 40[13]\b")
_NO_BUCKET: Final = re.compile(r"<Code>NoSuchBucket</Code>")
_TOLD: Final = re.compile(
    r"status code: (?P<status>\d{3}).*?<Message>(?P<message>[^<]*)</Message>", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Found:
    """An object as it was read."""

    data: bytes
    tag: str
    """Changes with every put of other content; what :meth:`Objects.replace` compares."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes of an object."""

    data: bytes
    size_bytes: int
    """Of the whole object."""
    tag: str
    """Of the object that these bytes are of, as :attr:`Found.tag`."""


class Objects:
    """A bucket, or what lies below a prefix of it. Methods block and may be called from several threads at once.

    Keys are relative to the prefix. All methods raise JournalUnavailableError if the store cannot be reached or fails,
    and JournalReadOnlyError if it refuses.
    """

    def __init__(self, store: ObjectStore, name: str) -> None:
        """`name` is what error texts call the store."""
        self._store = store
        self.name = name

    def get(self, key: str) -> Found:
        """A whole object; KeyError if there is none."""
        with self._translated("read", key):
            answer = obstore.get(self._store, key)
            return Found(bytes(answer.bytes()), _tag(answer.meta))

    def read(self, key: str, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset` on; KeyError if there is no such object."""
        if not size:
            return b""
        with self._translated("read", key):
            return bytes(obstore.get_range(self._store, key, start=offset, length=size))

    def part(self, key: str, offset: int, size: int) -> Part:
        """Up to `size` bytes from `offset` on, none beyond its end; KeyError if there is no such object."""
        with self._translated("read", key):
            try:
                answer = obstore.get(self._store, key, options={"range": (offset, offset + size)})
                return Part(bytes(answer.bytes()), int(answer.meta["size"]), _tag(answer.meta))
            except exceptions.BaseError as error:
                if not _OUT_OF_RANGE.search(str(error)):
                    raise
        found = self.get(key)  # it ends before `offset`, as an empty one does before 0
        return Part(found.data[offset : offset + size], len(found.data), found.tag)

    def size(self, key: str) -> int:
        """Of an object, in bytes; KeyError if there is none."""
        with self._translated("look at", key):
            return int(obstore.head(self._store, key)["size"])

    def create(self, key: str, data: bytes) -> str | None:
        """Put a new object; its tag, or None if the key is taken.

        None also if an earlier try of this very put went through and its answer was lost: compare the content.
        """
        with self._translated("store", key, writes=True):
            try:
                done = obstore.put(self._store, key, data, mode="create", use_multipart=False)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                return None
            return _tag(done)

    def replace(self, key: str, data: bytes, tag: str) -> str | None:
        """Put `data` in place of the object that has `tag`; the new tag, or None if there is another object by now.

        An earlier try that went through, its answer lost, counts as done: `data` is to be of a kind that no two
        writers would write alike.
        """
        with self._translated("store", key):
            try:
                done = obstore.put(self._store, key, data, mode=_version(tag), use_multipart=False)
            except (exceptions.PreconditionError, exceptions.AlreadyExistsError, exceptions.NotFoundError):
                pass
            else:
                return _tag(done)
        try:
            found = self.get(key)
        except KeyError:
            return None
        return found.tag if found.data == data else None

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        with self._translated("remove", key):
            try:
                obstore.delete(self._store, key)
            except exceptions.NotFoundError:
                return

    def list(self, prefix: str, after: str = "") -> Iterator[tuple[str, int]]:
        """Keys below `prefix` (a folder) and their sizes, in order, from behind `after` on."""
        with self._translated("list", prefix):
            pages = obstore.list(self._store, prefix, offset=after or None, chunk_size=1000)
            found = [(str(meta["path"]), int(meta["size"])) for page in pages for meta in page]
        # A memory store, and some others, do not list in order.
        yield from sorted(found)

    def tags(self, prefix: str) -> dict[str, str]:
        """Keys below `prefix` (a folder) and the tags of their objects."""
        return {path: tag for path, (_, tag) in self.sizes_and_tags(prefix).items()}

    def sizes_and_tags(self, prefix: str) -> dict[str, tuple[int, str]]:
        """Keys below `prefix` (a folder), sizes in bytes and tags of their objects."""
        with self._translated("list", prefix):
            pages = obstore.list(self._store, prefix, chunk_size=1000)
            found = {
                str(meta["path"]): (int(meta["size"]), meta["e_tag"] or "") for page in pages for meta in page
            }
        if not all(tag for _, tag in found.values()):
            # Taken for tags, they would never change: a living server would look dead.
            raise errors.JournalUnavailableError(f"{self.name} lists objects without their tags (ETag)")
        return found

    def folders(self, prefix: str = "") -> Sequence[str]:
        """Names of the folders right below `prefix`, sorted."""
        with self._translated("list", prefix):
            answer = obstore.list_with_delimiter(self._store, prefix or None)
        return sorted(str(path).rstrip("/").rpartition("/")[2] for path in answer["common_prefixes"])

    @contextmanager
    def _translated(self, action: str, key: str, *, writes: bool = False) -> Iterator[None]:
        """Errors of the block as errors of the journal; KeyError for what is not there, if the block only reads."""
        what = f"cannot {action} {key or 'the folders'} in {self.name}"
        try:
            yield
        except (exceptions.BaseError, OSError, ValueError) as error:
            text = str(error)
            if _NO_BUCKET.search(text) or (writes and isinstance(error, FileNotFoundError)):
                raise errors.JournalUnavailableError(f"{what}: there is no such bucket") from error
            if isinstance(error, FileNotFoundError):
                raise KeyError(key) from error
            if isinstance(error, _REFUSED) or _REFUSED_TEXT.search(text):
                raise errors.JournalReadOnlyError(
                    f"{what}: {_told(error)}; check the credentials and what they may do"
                ) from error
            raise errors.JournalUnavailableError(f"{what}: {_told(error)}") from error


def open_objects(
    url: str,
    options: Mapping[str, str],
    call_seconds: float = _CALL_SECONDS,
    retry_seconds: float = _RETRY_SECONDS,
) -> Objects:
    """The store that a URL like ``s3://bucket/prefix`` names; ValueError if it cannot be one.

    `options` are those of the store's kind, such as ``endpoint``, ``region``, ``access_key_id``; what is not given
    is taken from the environment, such as ``AWS_REGION``, or from the machine's role. A request is given up after
    `call_seconds`, and not begun again once `retry_seconds` are over.
    """
    scheme, mark, rest = url.partition("://")
    if not mark or scheme not in SCHEMES or not rest.strip("/"):
        known = ", ".join(f"{name}://BUCKET/PREFIX" for name in SCHEMES)
        raise ValueError(
            f"{url!r} names no object store: {known}; without one the journal is on the local disk"
        )
    client: ClientConfig = {
        "timeout": timedelta(seconds=call_seconds),
        "connect_timeout": timedelta(seconds=min(3.0, call_seconds)),
    }
    endpoint = next((value for key, value in options.items() if key.lower().endswith("endpoint")), "")
    if endpoint.startswith("http://"):
        client["allow_http"] = True
    try:
        store = from_url(
            url,
            config=cast("Any", dict(options)),
            client_options=client,
            retry_config={
                "max_retries": 4,
                "retry_timeout": timedelta(seconds=retry_seconds),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=2),
                    "base": 2,
                },
            },
        )
    except (exceptions.BaseError, ValueError, TypeError) as error:
        raise ValueError(f"object store {url}: {_told(error)}") from error
    return Objects(store, url.rstrip("/"))


def _tag(meta: Any) -> str:
    """What tells this content of an object from any other: the stores of Google compare versions, others tags."""
    e_tag, version = meta["e_tag"] or "", meta["version"]
    return f"{e_tag} {version}" if version else e_tag


def listed_tag(tag: str) -> str:
    """A tag as it can be compared with those of a listing, and they with it.

    Listings tell no versions, and Azure's put tags without the quotes that its answers to a put or a read have.
    """
    return tag.partition(" ")[0].strip('"')


def _version(tag: str) -> UpdateVersion:
    e_tag, _, version = tag.partition(" ")
    return {"e_tag": e_tag, "version": version} if version else {"e_tag": e_tag}


def _told(error: BaseException) -> str:
    """What an error says, without what is meant for debugging."""
    text = str(error).strip()
    told = _TOLD.search(text)
    if told:
        return f"{told['message'].strip().rstrip('.')} (status {told['status']})"
    return text.splitlines()[0][:300] if text else type(error).__name__
