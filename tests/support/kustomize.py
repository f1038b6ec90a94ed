"""What `kubectl kustomize` makes of a folder, for the few things that this project uses; all else is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

__all__ = ["KustomizeError", "load", "render"]

Object = dict[str, Any]
KNOWN = {"apiVersion", "kind", "namespace", "resources", "patches", "images"}
WITHOUT_NAMESPACE = {"Namespace"}
# libyaml, where the wheel has it: ten times as fast.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class KustomizeError(Exception):
    """The folder cannot be rendered."""


def load(path: Path) -> list[Object]:
    """The documents of a YAML file."""
    if not path.is_file():
        raise KustomizeError(f"{path} does not exist")
    return [
        document
        for document in yaml.load_all(path.read_text(encoding="utf-8"), LOADER)
        if document is not None
    ]


def render(folder: Path) -> list[Object]:
    """All objects of a folder with a kustomization.yaml, patched."""
    (kustomization,) = load(folder / "kustomization.yaml")
    unknown = set(kustomization) - KNOWN
    if unknown:
        raise KustomizeError(f"{folder}: {', '.join(sorted(unknown))}: not known here")
    objects: list[Object] = []
    for name in kustomization["resources"]:
        path = (folder / name).resolve()
        objects += render(path) if path.is_dir() else load(path)
    for patch in kustomization.get("patches", []):
        _patch(objects, patch["target"], load(folder / patch["path"])[0], folder)
    for image in kustomization.get("images", []):
        _retag(objects, image, folder)
    for item in objects:
        if item["kind"] not in WITHOUT_NAMESPACE and "namespace" in kustomization:
            item["metadata"]["namespace"] = kustomization["namespace"]
    keys = [(item["apiVersion"], item["kind"], item["metadata"]["name"]) for item in objects]
    if len(set(keys)) != len(keys):
        raise KustomizeError(f"{folder}: an object comes twice")
    return objects


def _patch(objects: list[Object], target: Object, operations: Any, folder: Path) -> None:
    chosen = [
        index
        for index, item in enumerate(objects)
        if (item["kind"], item["metadata"]["name"]) == (target["kind"], target["name"])
    ]
    if len(chosen) != 1:
        raise KustomizeError(f"{folder}: the patch for {target} meets {len(chosen)} objects")
    patched = copy.deepcopy(objects[chosen[0]])
    for operation in operations:
        _apply(patched, operation)
    objects[chosen[0]] = patched


def _apply(item: Object, operation: Object) -> None:
    """One operation of RFC 6902: add or replace."""
    *path, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    place: Any = item
    try:
        for part in path:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if operation["op"] == "replace":
            key = int(last) if isinstance(place, list) else last
            place[key]  # must be there
            place[key] = operation["value"]
        elif operation["op"] == "add" and isinstance(place, list):
            place.insert(len(place) if last == "-" else int(last), operation["value"])
        elif operation["op"] == "add":
            place[last] = operation["value"]
        else:
            raise KustomizeError(f"operation {operation['op']!r} is not known here")
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise KustomizeError(f"{operation['op']} {operation['path']}: there is no such place") from error


def _retag(objects: list[Object], image: Object, folder: Path) -> None:
    count = 0
    for item in objects:
        pod = item.get("spec", {}).get("template", {}).get("spec", {})
        for container in pod.get("initContainers", []) + pod.get("containers", []):
            name, _, _ = container["image"].rpartition(":")
            if name == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
                count += 1
    if not count:
        raise KustomizeError(f"{folder}: no container uses the image {image['name']}")
