"""A real S3 server for tests: moto in a process of its own, on a loopback port, stopped or killed by its own pid."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from trajmon_server.store.objects import Objects, open_objects

START_SECONDS = 60.0

_LISTENS = re.compile(r"Running on http://127\.0\.0\.1:(\d+)")
_SIGNED = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/{service}/aws4_request"


@dataclass
class ObjectStoreProcess:
    """moto's S3 server with one bucket.

    It keeps everything in memory. With `records=True` it writes every request to a file, and plays them again when it
    is started after a kill: then it has what it had, as far as it had answered. Until `start` returns, nobody else
    may call it.
    """

    folder: Path
    records: bool = False
    bucket: str = "trajmon-test"
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    options: dict[str, str] = field(default_factory=dict)
    """For `open_objects`."""

    def start(self) -> ObjectStoreProcess:
        """Start, and wait until it answers and has the bucket. A second start listens on the same port."""
        log, recording = self.folder / "object-store.log", self.folder / "requests.jsonl"
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "MOTO_"))}
        if self.records:
            environment |= {"MOTO_ENABLE_RECORDING": "1", "MOTO_RECORDER_FILEPATH": str(recording)}
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=errors, env=environment
            )
        is_new = not self.port
        self.port = self._wait_for_port(log)
        self.options = {
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key_id": "test",
            "secret_access_key": "test",
        }
        if is_new:
            self.call("PUT", f"/{self.bucket}")
        elif self.records:
            self.call("POST", "/moto-api/recorder/replay-recording")
        return self

    def _wait_for_port(self, log: Path) -> int:
        assert self.process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            found = _LISTENS.search(log.read_text(errors="replace"))
            if found:
                return int(found[1])
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"moto did not start: {log.read_text(errors='replace')}")

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, prefix: str) -> str:
        """Of a folder in the bucket."""
        return f"s3://{self.bucket}/{prefix}"

    def open(self, prefix: str, **options: str) -> Objects:
        """The objects below a prefix; later options win."""
        return open_objects(self.url(prefix), {**self.options, **options})

    def call(self, method: str, path: str, data: bytes = b"", service: str = "s3") -> bytes:
        """A plain request to the server, past the library that is tested."""
        content = "text/plain" if service == "s3" else "application/x-www-form-urlencoded"
        headers = {"Authorization": _SIGNED.format(service=service), "Content-Type": content}
        request = urllib.request.Request(self.endpoint + path, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())

    def add_user(self, name: str, *actions: str) -> dict[str, str]:
        """A user who may do these things in the bucket, such as ``s3:GetObject``; its options for `open_objects`."""
        resources = [f"arn:aws:s3:::{self.bucket}", f"arn:aws:s3:::{self.bucket}/*"]
        policy = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": actions, "Resource": resources}],
        }
        self._iam(Action="CreateUser", UserName=name)
        if actions:
            self._iam(
                Action="PutUserPolicy", UserName=name, PolicyName="all", PolicyDocument=json.dumps(policy)
            )
        keys = self._iam(Action="CreateAccessKey", UserName=name)
        found = re.search(r"<AccessKeyId>(.*?)</.*?<SecretAccessKey>(.*?)</", keys, re.DOTALL)
        assert found
        return self.options | {"access_key_id": found[1], "secret_access_key": found[2]}

    def _iam(self, **fields: str) -> str:
        data = urllib.parse.urlencode({**fields, "Version": "2010-05-08"}).encode()
        return self.call("POST", "/", data, service="iam").decode()

    def check_callers(self) -> None:
        """From now on, refuse whoever is no user, or may not do what is asked."""
        self.call("POST", "/moto-api/reset-auth", b"0")

    def get(self, prefix: str, key: str) -> bytes:
        """The content of an object."""
        return self.call("GET", f"/{self.bucket}/{prefix}/{key}")

    def pause(self) -> None:
        """Take requests, and answer none."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after a pause."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End at once, whatever it is doing."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(timeout=30)
            self.process = None
