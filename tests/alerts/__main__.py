"""The demonstration: from a training to a message, and to the message that it is over. See README.md."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alerts.stack import stack
from alerts.states import Exposition, Span, Watcher
from alerts.training import BROKEN, HEALTHY
from alerts.webhook import Notice, Webhook
from support.server import ServerProcess
from trajmon._files import lock_holder
from trajmon.rundir import RunDir

ARRIVES_SECONDS = 60.0
"""From the checkpoint that shows a state to the message."""
RESOLVES_SECONDS = 180.0
"""From the end of a state to the message: an alert is kept firing for a minute, a group waits up to another one."""
AGENT_SECONDS = 10.0
"""For an agent to hand in what it has."""
MOST_SECONDS = 250.0
"""For everything but the end of the processes."""


def is_switch(exposed: Exposition, run: str) -> bool:
    return (
        exposed.get(("trajmon_switch_advised", run)) == 1
        and exposed.get(("trajmon_norm_only", run)) != 1
        and exposed.get(("trajmon_run_active", run)) == 1
    )


def is_lost(exposed: Exposition, run: str) -> bool:
    def of(name: str) -> float:
        return exposed.get((f"trajmon_{name}", run), math.nan)

    return (
        of("update_angle_degrees") > 150
        and of("update_norm_growth") > 2
        and of("parameter_norm_growth") > 1
        and of("run_active") == 1
    )


def is_not_finite(exposed: Exposition, run: str) -> bool:
    return exposed.get(("trajmon_nonfinite_layers", run), 0.0) > 0


def spans() -> list[Span]:
    return [
        Span("TrajmonSwitchAdvised", HEALTHY, is_switch, "trajmon_advice_since_timestamp_seconds"),
        Span("TrajmonDirectionLost", BROKEN, is_lost),
        Span("TrajmonNonFiniteParameters", BROKEN, is_not_finite),
    ]


@contextmanager
def training(kind: str, folder: Path, server: ServerProcess) -> Iterator[subprocess.Popen[bytes]]:
    """A training in a process of its own, its words in `folder`."""
    log = folder / f"{kind}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "alerts.training", kind, str(folder), server.addresses["grpc"]],
            cwd=Path(__file__).parents[1],
            env={**os.environ, "TRAJMON_HOME": str(server.home), "TRAJMON_AGENT_LINGER_SECONDS": "5"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        # Ends by itself once it is told; not waited for longer than it needs.
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        end_agent(server, kind)


def end_agent(server: ServerProcess, run: str) -> None:
    """An agent ends by itself once the server has everything; one that has not by now is ended."""
    lock = RunDir.of(server.home, run).agent_lock
    deadline = time.monotonic() + AGENT_SECONDS
    while (holder := lock_holder(lock)) is not None:
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder, signal.SIGTERM)
            return
        time.sleep(0.1)


def demonstrate(folder: Path, interval: str, deadline: float) -> tuple[list[Span], list[Notice]]:
    """Run it all; what was seen, complete or not, by the deadline on the monotonic clock."""
    seen = spans()
    control = folder / "control"
    control.mkdir()

    def left() -> float:
        return max(0.0, deadline - time.monotonic())

    with Webhook() as webhook:
        server = ServerProcess(folder / "home").start()
        try:
            with (
                Watcher(server.addresses["metrics"], seen, time.time),
                stack(folder, server.addresses["metrics"], webhook.address, interval=interval),
                training(BROKEN, control, server) as broken,
                training(HEALTHY, control, server) as healthy,
            ):

                def has_told(status: str, *alerts: str) -> bool:
                    return all(webhook.find(alert, status) for alert in alerts)

                def step() -> bool:
                    if has_told("firing", "TrajmonDirectionLost", "TrajmonNonFiniteParameters"):
                        (control / "mend").touch()
                    if has_told("firing", "TrajmonSwitchAdvised"):
                        (control / "follow").touch()
                    over = has_told("resolved", *(span.alert for span in seen))
                    return over or broken.poll() is not None or healthy.poll() is not None

                webhook.wait_until(step, left())
                (control / "end").touch()
            return seen, webhook.notices
        finally:
            server.stop()


def print_timeline(seen: list[Span], notices: list[Notice], begun: float) -> None:
    """Every event in order, in seconds since the beginning."""
    events = [(span.begun, f"{span.run}: state of {span.alert} begins") for span in seen if span.begun]
    events += [(span.ended, f"{span.run}: state of {span.alert} is over") for span in seen if span.ended]
    events += [
        (
            notice.unix_seconds,
            f"webhook {notice.path}: {notice.status.upper()} {notice.annotations['summary']}",
        )
        for notice in notices
    ]
    print("\n   seconds  event")
    for when, text in sorted(events):
        print(f"{when - begun:10.1f}  {text}")


def verdicts(seen: list[Span], notices: list[Notice]) -> Iterator[tuple[bool, str]]:
    """One line a state and direction: whether it was told in time, and after how long."""
    for span in seen:
        for status, since, limit in (
            ("firing", span.begun, ARRIVES_SECONDS),
            ("resolved", span.ended, RESOLVES_SECONDS),
        ):
            told = next((a for a in notices if a.alert == span.alert and a.status == status), None)
            what = f"{span.alert:<28} {status:<9}"
            if since is None or told is None:
                yield False, f"{what} {'the state never came' if since is None else 'was never told'}"
            else:
                seconds = told.unix_seconds - since
                yield seconds <= limit, f"{what} after {seconds:6.1f} s   limit {limit:.0f} s"


def main() -> int:
    """0 if every alert was told in time, and its end as well."""
    parser = argparse.ArgumentParser(prog="make alerts", description="Alerts, live, from two real trainings.")
    parser.add_argument(
        "--interval", default="15s", help="scrape and evaluation interval; 15s is what is shipped"
    )
    arguments = parser.parse_args()
    begun, deadline = time.time(), time.monotonic() + MOST_SECONDS
    with tempfile.TemporaryDirectory(prefix="trajmon-alerts-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        print("a server, Prometheus, Alertmanager and two trainings: three to five minutes", flush=True)
        seen, notices = demonstrate(folder, arguments.interval, deadline)
        print_timeline(seen, notices, begun)
        print()
        results = list(verdicts(seen, notices))
        for is_good, text in results:
            print(f"{'ok' if is_good else 'MISSED':<7} {text}")
        print(f"\n{time.time() - begun:.0f} s in all")
        if not all(is_good for is_good, _ in results):
            for log in sorted(folder.glob("**/*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
