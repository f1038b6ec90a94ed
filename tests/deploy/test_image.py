"""The container image, without a container engine: its own commands build it, and its server runs as it would there.

What the image's first stage does is done here: the same files, the same pip commands, a fresh environment. The server
in it then runs with the image's settings, without root's rights where the tests have them, on a file system that is
read-only where they may make it so. The image itself is not built.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.calls import push_all
from support.rows import SyntheticRun
from support.server import Client
from support.web import Web

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "container" / "Dockerfile"
UID = 10001
HOME, SCRATCH, ENVIRONMENT = "/var/lib/trajmon", "/run/trajmon", "/srv/trajmon"


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile, in order: name and the rest, continued lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def the_only(name: str) -> str:
    (found,) = [rest for instruction, rest in instructions() if instruction == name]
    return found


def image_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in shlex.split(the_only("ENV")))


def first_stage() -> list[tuple[str, str]]:
    second = [index for index, (name, _) in enumerate(instructions()) if name == "FROM"][1]
    return instructions()[:second]


def ignored(path: str) -> bool:
    """As Docker reads .dockerignore: the last line that matches decides."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parts = path.split("/")
        whole = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        if pattern.startswith("**/"):
            matches = any(fnmatch.fnmatch(part, pattern[3:]) for part in parts)
        else:
            matches = any(fnmatch.fnmatch(name, pattern) for name in whole)
        if matches:
            verdict = not line.startswith("!")
    return verdict


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment that the first stage makes, by the first stage's own commands."""
    source, environment = tmp_path_factory.mktemp("src"), tmp_path_factory.mktemp("image") / "trajmon"
    for name, rest in first_stage():
        if name == "COPY":
            *files, target = rest.split()
            for file in files:
                assert not ignored(file), file
                place = source / target / (file if target.endswith("/") else "")
                if (ROOT / file).is_dir():
                    shutil.copytree(ROOT / file, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / file, place)
    (command,) = [rest for name, rest in first_stage() if name == "RUN"]
    # The tests' machine keeps its cache, and looks for packages where it always does.
    command = command.replace(ENVIRONMENT, str(environment)).replace(" --no-cache-dir", " --quiet --quiet")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    outcome = subprocess.run(
        ["sh", "-c", command],
        cwd=source,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    for folder in (environment, *environment.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path(folder.anchor):
            folder.chmod(folder.stat().st_mode | 0o055)
    return environment


def distributions(environment: Path) -> dict[str, int]:
    """What is installed, by its normalised name, and how many bytes it takes."""
    (packages,) = environment.glob("lib/python*/site-packages")
    found = {}
    for info in packages.glob("*.dist-info"):
        name = re.sub(r"[-_.]+", "-", info.name.removesuffix(".dist-info").rpartition("-")[0]).lower()
        files = (line.split(",") for line in (info / "RECORD").read_text().splitlines())
        found[name] = sum(int(size) for *_, size in files if size)
    return found


@pytest.mark.timeout(600)
def test_the_image_holds_the_server_and_nothing_of_training(installed: Path) -> None:
    found = distributions(installed)
    assert {"trajmon", "grpcio", "zarr", "uvicorn", "obstore", "numpy"} <= set(found)
    assert not {"torch", "numba", "llvmlite", "lightning", "transformers", "dask", "pip", "setuptools"} & set(
        found
    )
    assert not [name for name in found if name.startswith("nvidia")]
    assert sum(found.values()) < 350e6


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def may_mount() -> bool:
    """Whether this process may have a view of the file system of its own."""
    return (
        subprocess.run(
            ["unshare", "--mount", "mount", "-o", "remount,bind,ro", "/"], capture_output=True, check=False
        ).returncode
        == 0
    )


def confined(command: list[str], home: Path, scratch: Path) -> list[str]:
    """The command as the image's user, on a read-only file system but for two folders: as far as that is allowed."""
    if os.geteuid() != 0:
        return command
    # The interpreter of the tests may lie in a closed home: the right to read, and no other, goes along.
    user = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs"]
    user += ["--bounding-set=-all,+dac_read_search", "--inh-caps=-all,+dac_read_search"]
    user += ["--ambient-caps=-all,+dac_read_search", "--", *command]
    if not may_mount():
        return user
    writable = "".join(
        f"mount --bind {shlex.quote(str(folder))} {shlex.quote(str(folder))} && "
        for folder in (home, scratch)
    )
    script = f"{writable}mount -o remount,bind,ro / && exec {shlex.join(user)}"
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]


@dataclass(frozen=True, slots=True)
class Contained:
    """A server that runs as in the image."""

    process: subprocess.Popen[bytes]
    home: Path
    command: list[str]
    environment: dict[str, str]
    addresses: dict[str, str]
    log_path: Path


@pytest.fixture
def contained(installed: Path, tmp_path: Path) -> Iterator[Contained]:
    folders = {HOME: tmp_path / "home", SCRATCH: tmp_path / "scratch", ENVIRONMENT: installed}
    addresses = {name: free_address() for name in ("grpc", "http", "metrics")}
    environment = image_environment()
    for name, value in environment.items():
        for inside, outside in folders.items():
            value = value.replace(inside, str(outside))
        environment[name] = value.replace("$PATH", os.environ["PATH"])
    for name, address in addresses.items():
        # The image's own address, and what it takes to listen there; the port is the system's choice.
        environment[f"TRAJMON_SERVER_{name.upper()}"] = address.replace("127.0.0.1", "0.0.0.0")
    environment["TRAJMON_SERVER_ALLOW_REMOTE_PLAINTEXT"] = "true"
    for folder in (folders[HOME], folders[SCRATCH]):
        folder.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(folder, UID, UID)
    for folder in tmp_path.parents:
        if folder.stat().st_uid == os.geteuid() and folder != Path(folder.anchor):
            folder.chmod(folder.stat().st_mode | 0o011)
    command = [*json_list(the_only("ENTRYPOINT")), *json_list(the_only("CMD"))]
    log_path = tmp_path / "server.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            confined(command, folders[HOME], folders[SCRATCH]),
            cwd=folders[HOME],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    running = Contained(process, folders[HOME], command, environment, addresses, log_path)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=20)


def json_list(text: str) -> list[str]:
    words = json.loads(text)
    assert isinstance(words, list)
    return words


def is_healthy(running: Contained) -> int:
    """The exit code of the image's health check."""
    command = json_list(the_only("HEALTHCHECK").partition(" CMD ")[2])
    return subprocess.run(
        command, env=running.environment, cwd=running.home, capture_output=True, timeout=60, check=False
    ).returncode


def await_health(running: Contained) -> None:
    deadline = time.monotonic() + 60
    while is_healthy(running) != 0:
        log = running.log_path.read_text(errors="replace")
        assert running.process.poll() is None, log[-3000:]
        assert time.monotonic() < deadline, log[-3000:]
        time.sleep(0.2)


def written_elsewhere() -> set[Path]:
    """What the image's user has in the folders where anybody may write."""
    folders = [Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")]  # looked at, not written to
    return {
        path
        for folder in folders
        if folder.is_dir()
        for path in folder.iterdir()
        if path.lstat().st_uid == UID
    }


@pytest.mark.timeout(600)
def test_the_server_lives_in_the_image_as_it_would_in_a_container(contained: Contained) -> None:
    before = written_elsewhere()
    assert is_healthy(contained) in (0, 1)
    await_health(contained)
    status = Path(f"/proc/{contained.process.pid}/status").read_text()
    assert "\nUid:\t0\t" not in status

    token = (contained.home / "token").read_text().strip()
    run = SyntheticRun("contained", num_checkpoints=5)
    with Client(contained.addresses["grpc"], token) as client:
        push_all(client, run)
    web = Web(contained.addresses["http"], token)
    picture = web.get(f"/api/v1/runs/{run.run_id}/map?format=png")
    assert (picture.status, picture.body[:4]) == (200, b"\x89PNG")
    assert web.get("/").status == 200
    assert b"trajmon_ingest_rows_total" in Web(contained.addresses["metrics"]).get("/metrics").body

    contained.process.send_signal(signal.SIGTERM)
    assert contained.process.wait(timeout=20) == 0
    assert is_healthy(contained) == 1
    assert "Traceback" not in contained.log_path.read_text()
    assert {path.name for path in contained.home.iterdir()} == {"data", "token"}
    if os.geteuid() == 0:
        assert written_elsewhere() == before


@pytest.mark.timeout(600)
def test_the_image_can_keep_its_journal_in_an_object_store(installed: Path) -> None:
    outcome = subprocess.run(
        [installed / "bin" / "python", "-c", "import obstore.store; print(obstore.store.S3Store.__name__)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert outcome.stdout.strip() == "S3Store"


def test_the_image_runs_as_a_number_and_says_how_it_stops() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", the_only("USER"))
    assert the_only("STOPSIGNAL") == "SIGTERM"
    bases = [rest.split()[0] for name, rest in instructions() if name == "FROM"]
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+", bases[0])


@pytest.mark.parametrize(
    "path",
    [
        ".venv/bin/python",
        "out/x",
        "tests/conftest.py",
        ".git/config",
        "client/trajmon/__pycache__/x.pyc",
        "token",
    ],
)
def test_nothing_else_gets_into_the_build(path: str) -> None:
    assert ignored(path)
    assert not ignored("client/trajmon/cli/__init__.py")


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "hadolint"
    return subprocess.run([program, path], capture_output=True, text=True, timeout=60, check=False)


def test_hadolint_finds_nothing() -> None:
    outcome = hadolint(DOCKERFILE)
    assert (outcome.returncode, outcome.stdout) == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("python:3.11.14-slim-bookworm\n", "python\n", "DL3006"),
        ("WORKDIR /src", "WORKDIR src", "DL3000"),
        ('CMD ["serve"]', "CMD serve", "DL3025"),
    ],
)
def test_hadolint_finds_a_planted_fault(tmp_path: Path, old: str, new: str, rule: str) -> None:
    text = DOCKERFILE.read_text()
    assert old in text
    broken = tmp_path / "Dockerfile"
    broken.write_text(text.replace(old, new))
    outcome = hadolint(broken)
    assert outcome.returncode == 1
    assert rule in outcome.stdout
