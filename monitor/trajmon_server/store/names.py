"""Which run has which name, where several servers take runs in."""

from __future__ import annotations

import json
from typing import Final

from trajmon_server.store.errors import StoreError
from trajmon_server.store.objects import Objects

__all__ = ["Names"]

NAMES: Final = "names"


class Names:
    """One object a name, created by whoever comes first. Methods block."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def claim(self, team: str, name: str, run_id: str) -> str:
        """Claim the name for a run; the id of the run that has it now, this one or another."""
        key, data = _key(team, name), _content(name, run_id)
        if self._objects.create(key, data) is not None:
            return run_id
        try:
            return _run_id(self._objects.get(key).data, key)
        except KeyError:
            raise StoreError(f"{key} was just removed; try again") from None

    def find(self, team: str, name: str) -> str:
        """The id of the run that has claimed the name; empty if none has."""
        key = _key(team, name)
        try:
            return _run_id(self._objects.get(key).data, key)
        except KeyError:
            return ""

    def pass_on(self, team: str, name: str, old: str, run_id: str) -> bool:
        """Give the name of a run that never came about to another; False if somebody else was faster."""
        key = _key(team, name)
        try:
            found = self._objects.get(key)
        except KeyError:
            return False
        if _run_id(found.data, key) != old:
            return False
        return self._objects.replace(key, _content(name, run_id), found.tag) is not None


def _key(team: str, name: str) -> str:
    # Names are data, never parts of a path.
    return f"{NAMES}/{team.encode().hex()}/{name.encode().hex()}.json"


def _content(name: str, run_id: str) -> bytes:
    return json.dumps({"name": name, "run_id": run_id}, indent=1).encode()


def _run_id(data: bytes, key: str) -> str:
    try:
        return str(json.loads(data)["run_id"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{key} cannot be read ({error}); remove it if no run has this name") from error
