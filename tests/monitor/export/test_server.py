"""What is exported of the server itself."""

from __future__ import annotations

import re
import shutil
import time
from importlib.metadata import version
from pathlib import Path

import trajmon_server
from monitor.export.feeding import known, of, read  # noqa: TID251 # tests/monitor
from support.house import House
from support.rows import SyntheticRun
from trajmon_protos.v1 import ingest_pb2
from trajmon_server.config import Limits
from trajmon_server.export.prometheus import Exporter
from trajmon_server.export.server import EVENTS

LIMITS = Limits(min_free_disk_bytes=12345, max_run_bytes=67890, max_exported_series=4321)


def exporter(house: House, data_dir: Path) -> Exporter:
    return Exporter(house.registry, LIMITS, 300.0, data_dir, lambda: True)


def by_label(name: str, found: Exporter) -> dict[str, float]:
    """Samples of a metric with one label, by its value; `""` where it has none."""
    series = of(name, read(found.page(False)))
    return {next(iter(dict(labels).values()), ""): value for labels, value in series.items()}


def test_facts_and_limits(house: House, tmp_path: Path) -> None:
    found = exporter(house, tmp_path)
    assert of("trajmon_build_info", read(found.page(False))) == {
        frozenset({("version", version("trajmon"))}): 1.0
    }
    assert by_label("trajmon_disk_reserve_bytes", found) == {"": 12345.0}
    assert by_label("trajmon_run_quota_bytes", found) == {"": 67890.0}
    assert by_label("trajmon_series_limit", found) == {"": 4321.0}
    assert by_label("trajmon_exported_runs", found) == {"": 0.0}


def test_the_disk(house: House, tmp_path: Path) -> None:
    found = exporter(house, tmp_path)
    assert by_label("trajmon_disk_size_bytes", found) == {"": shutil.disk_usage(tmp_path).total}
    (free,) = by_label("trajmon_disk_free_bytes", found).values()
    # Others write to the disk meanwhile.
    assert abs(free - shutil.disk_usage(tmp_path).free) < 1 << 30
    gone = exporter(house, tmp_path / "gone")
    assert by_label("trajmon_disk_free_bytes", gone) == by_label("trajmon_disk_size_bytes", gone) == {}
    assert by_label("trajmon_disk_reserve_bytes", gone) == {"": 12345.0}


def test_runs_by_state(house: House, tmp_path: Path) -> None:
    found = exporter(house, tmp_path)
    assert by_label("trajmon_runs", found) == {"active": 0.0, "finished": 0.0, "unreadable": 0.0}
    for index in range(3):
        known(house, SyntheticRun(f"run-{index}", seed=index), 1)
    over = known(house, SyntheticRun("over"), 1)
    over.control = over.control.reported(ingest_pb2.RUN_PHASE_FINISHED, "", time.time() - 1e6)
    known(house, SyntheticRun("theirs", seed=9), 1).is_ours = False
    assert by_label("trajmon_runs", found) == {"active": 3.0, "finished": 1.0, "unreadable": 0.0}
    assert by_label("trajmon_exported_runs", found) == {"": 3.0}


def test_runs_that_cannot_be_read(house: House, tmp_path: Path) -> None:
    kept = {name: house.store(SyntheticRun(name), 2) for name in ("whole", "broken")}
    run_id = SyntheticRun("broken").run_id
    (house.folder / "journal" / run_id / "run.json").write_text("{")
    again = House(house.folder, house.executor)
    again.registry.recover()
    found = exporter(again, tmp_path)
    assert by_label("trajmon_runs", found) == {"active": 1.0, "finished": 0.0, "unreadable": 1.0}
    assert by_label("trajmon_ingest_events_total", found)["unreadable_runs"] == 1.0
    # As when another server has mended it.
    again.registry.welcome(kept["broken"])
    assert by_label("trajmon_runs", found) == {"active": 2.0, "finished": 0.0, "unreadable": 0.0}
    assert by_label("trajmon_ingest_events_total", found)["unreadable_runs"] == 1.0


def test_events_are_shown_from_the_first_scrape_on(house: House, tmp_path: Path) -> None:
    found = exporter(house, tmp_path)
    assert by_label("trajmon_ingest_events_total", found) == dict.fromkeys(EVENTS, 0.0)
    house.registry.count_event("damaged_rows")
    house.registry.count_event("something_new")
    assert by_label("trajmon_ingest_events_total", found) == {
        **dict.fromkeys(EVENTS, 0.0),
        "damaged_rows": 1.0,
        "something_new": 1.0,
    }


def test_every_event_of_the_source_is_known() -> None:
    package = Path(trajmon_server.__file__).parent
    counted = set()
    for path in package.rglob("*.py"):
        counted |= set(re.findall(r'count_event\(\s*"(\w+)"', path.read_text()))
    assert len(counted) > 10
    assert counted <= set(EVENTS)


def test_rows_bytes_and_calls(house: House, tmp_path: Path) -> None:
    found = exporter(house, tmp_path)
    assert by_label("trajmon_ingest_rows_total", found) == {"stored": 0.0, "duplicate": 0.0}
    found.observe_row(False, 100)
    found.observe_row(False, 20)
    found.observe_row(True, 3)
    found.observe_call("/trajmon_protos.v1.IngestService/PushRow", "OK", 0.003)
    found.observe_call("/trajmon_protos.v1.IngestService/PushRow", "UNAVAILABLE", 7.0)
    assert by_label("trajmon_ingest_rows_total", found) == {"stored": 2.0, "duplicate": 1.0}
    assert by_label("trajmon_ingest_bytes_total", found) == {"": 123.0}
    series = read(found.page(False))
    calls = of("trajmon_grpc_server_handled_total", series)
    assert {dict(labels)["grpc_code"]: value for labels, value in calls.items()} == {
        "OK": 1.0,
        "UNAVAILABLE": 1.0,
    }
    buckets = of("trajmon_grpc_server_handling_seconds_bucket", series)
    by_bound = {dict(labels)["le"]: value for labels, value in buckets.items()}
    assert (by_bound["0.0025"], by_bound["0.005"], by_bound["5.0"], by_bound["10.0"]) == (0.0, 1.0, 1.0, 2.0)


def test_the_journals_health_is_read_at_each_scrape(house: House, tmp_path: Path) -> None:
    health = [True]
    found = Exporter(house.registry, LIMITS, 300.0, tmp_path, lambda: health[0])
    assert by_label("trajmon_journal_healthy", found) == {"": 1.0}
    health[0] = False
    assert by_label("trajmon_journal_healthy", found) == {"": 0.0}


def test_the_process(house: House, tmp_path: Path) -> None:
    series = read(exporter(house, tmp_path).page(False))
    (memory,) = of("process_resident_memory_bytes", series).values()
    assert 1 << 20 < memory < 1 << 40
    (started,) = of("process_start_time_seconds", series).values()
    assert 0 < started <= time.time() + 1
    assert of("python_gc_collections_total", series)
