"""Lists and runs over HTTP, and hostile names."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from support.calls import get_run, open_part, open_run, push, push_all, push_part, report
from support.planned_rows import TOLERANCE, PlannedRun
from support.rows import Cut, SyntheticRun
from support.server import Client, ServerProcess
from support.sketches import sketch_record
from support.web import Web
from trajmon_protos.v1 import ingest_pb2
from trajmon_server.signals import settling


@pytest.fixture
def web(shared_server: ServerProcess, team_client: Client) -> Web:
    token = str(team_client.metadata[0][1]).removeprefix("Bearer ")
    return Web(shared_server.addresses["http"], token)


def test_summary_is_that_of_the_query_service(web: Web, team_client: Client) -> None:
    run = SyntheticRun("one", num_checkpoints=12)
    epoch = push_all(team_client, run)
    report(team_client, run, epoch, ingest_pb2.RUN_PHASE_FINISHED)
    web.json("/api/v1/runs/one/map")  # waits until the rows are worked off
    told = get_run(team_client, "one").summary
    (shown,) = web.json("/api/v1/runs")["runs"]
    assert (shown["name"], shown["id"], shown["tags"]) == ("one", run.run_id, ["test"])
    assert (shown["phase"], shown["attempt"], shown["checkpoints"]) == ("finished", 1, 12)
    assert (shown["last_step"], shown["last_time"]) == (110, run.started + 11)
    assert shown["parameters"] == 15
    assert shown["mds"] == told.mean_directional_similarity
    assert shown["advice"]["evidence"] == dict(told.advice.evidence)
    assert shown["advice"]["state"] == "explore"
    assert shown["mds_error"] == 0.0


def test_details_of_a_run(web: Web, team_client: Client) -> None:
    push_all(team_client, SyntheticRun("details", num_checkpoints=6))
    web.json("/api/v1/runs/details/map")
    told = web.json("/api/v1/runs/details")
    assert [layer["name"] for layer in told["layers"]] == [f"layer{index}.weight" for index in range(3)]
    assert [layer["depth"] for layer in told["layers"]] == [0, 1, 2]
    assert told["layers"][0]["shape"] == [5]
    assert told["groups"] == [{"name": "network", "layers": [0, 1, 2]}, {"name": "first", "layers": [0]}]
    expected = {a.group: dict(a.values) for a in get_run(team_client, "details").hallmarks}
    for group, values in told["hallmarks"].items():
        assert {name: value for name, value in values.items() if value is not None} == expected[group]
    assert told["hallmarks"]["network"]["update_angle_degrees"] is not None
    assert told["phases"] == [{"start": 0, "stop": 5, "learning_rate": 0.1}]
    assert told["schedule"] == "constant"
    assert told["history"][0] == {"checkpoint": 0, "state": "unknown"}
    assert (told["plan"], told["outlooks"]) == (None, [])
    assert web.json(f"/api/v1/runs/{told['id']}") == told


def test_plan_and_outlooks_of_the_groups(web: Web, team_client: Client, tmp_path: Path) -> None:
    source = PlannedRun("planned", num_checkpoints=40)
    push_all(team_client, source)
    web.json("/api/v1/runs/planned/map")
    told = web.json("/api/v1/runs/planned")
    assert told["plan"] == {
        "steps_ahead": 0,
        "rates_are_known": True,
        "objective": "accuracy",
        "larger_is_better": True,
        "objective_tolerance": TOLERANCE,
    }
    state = settling.init()
    for seen in source.expected(tmp_path):
        state = settling.update(state, seen)
    names = [outlook["group"] for outlook in told["outlooks"]]
    assert tuple(names) == settling.order(state)
    assert set(names) == {*(f"layer:{name}" for name in source.layer_names), "norm"}
    for outlook in told["outlooks"]:
        group = state.groups[outlook["group"]]
        assert group.outlook is not None
        assert outlook == {
            "group": outlook["group"],
            "remaining": group.outlook.remaining,
            "low": group.outlook.low,
            "high": group.outlook.high,
            "settled_since": group.settled_since,
        }
    messages = get_run(team_client, "planned").outlooks
    assert [(one.group, one.high, one.settled_since) for one in messages] == [
        (one["group"], one["high"], one["settled_since"]) for one in told["outlooks"]
    ]


def test_run_without_checkpoints(web: Web, team_client: Client) -> None:
    open_run(team_client, SyntheticRun("empty"))
    told = web.json("/api/v1/runs/empty")
    assert (told["checkpoints"], told["last_step"], told["last_time"], told["mds"]) == (0, None, None, None)
    assert told["advice"]["state"] == "unknown"
    assert told["schedule"] == "unknown"


def test_open_checkpoints(web: Web, team_client: Client) -> None:
    run = SyntheticRun("parts", num_checkpoints=3)
    cut = Cut.of(run, 3)
    epoch = open_part(team_client, run, cut, 1).writer_epoch
    push_part(team_client, run, cut, 1, epoch, run.part_record(0, cut, 1))
    told = web.json("/api/v1/runs/parts")
    assert told["open"] == 1
    assert told["missing"] == [{"checkpoint": 0, "num_parts": 3, "missing_parts": [0, 2]}]


def test_pages_of_the_list(web: Web, team_client: Client) -> None:
    names = [f"page-{index}" for index in range(7)]
    for index, name in enumerate(names):
        open_run(team_client, SyntheticRun(name, seed=index))
    seen, cursor = [], ""
    for _ in range(4):
        answer = web.json(f"/api/v1/runs?limit=2{cursor}")
        seen += [run["name"] for run in answer["runs"]]
        cursor = f"&cursor={answer['next_cursor']}"
        # A run that comes while one turns the pages shifts nothing.
        open_run(team_client, SyntheticRun(f"new-{len(seen)}", seed=100 + len(seen)))
    assert seen == names[::-1]
    assert answer["next_cursor"] is None


def test_search_tags_and_phase(web: Web, team_client: Client) -> None:
    for name, tags in (("Alpha-one", ["a", "b"]), ("beta_two", ["b"]), ("alphabet", [])):
        run = SyntheticRun(name)
        request = run.open_request()
        del request.tags[:]
        request.tags.extend(tags)
        epoch = team_client.ingest.OpenRun(request, metadata=team_client.metadata, timeout=30).writer_epoch
        if name == "beta_two":
            report(team_client, run, epoch, ingest_pb2.RUN_PHASE_LOST)

    def found(query: str) -> set[str]:
        return {run["name"] for run in web.json(f"/api/v1/runs?{query}")["runs"]}

    assert found("search=ALPHA") == {"Alpha-one", "alphabet"}
    assert found("search=") == {"Alpha-one", "beta_two", "alphabet"}
    assert found("tag=b") == {"Alpha-one", "beta_two"}
    assert found("tag=b&tag=a") == {"Alpha-one"}
    assert found("phase=lost") == {"beta_two"}
    assert found("search=%3Cimg%20src=x%3E") == set()


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=djI6MTox", "cursor"),
        ("cursor=%00", "cursor"),
        ("phase=asleep", "phase"),
        ("serch=x", "serch"),
        ("search=" + "x" * 301, "search"),
        ("&".join(["tag=x"] * 33), "tag"),
        ("limit=%D9%A3", "limit"),
    ],
)
def test_wrong_parameters_are_named(web: Web, query: str, field: str) -> None:
    answer = web.get(f"/api/v1/runs?{query}")
    assert (answer.status, answer.reason) == (400, "INVALID_REQUEST")
    (violation,) = answer.json["violations"]
    assert violation["field"] == field
    assert violation["text"] in answer.json["detail"]


HOSTILE = [
    "%22%27%3Cscript%3E",
    "%3Cimg%20src=x%20onerror=alert(1)%3E",
    "%2e%2e",
    "%252e%252e",
    "..%2f..%2fjournal",
    "a" * 300,
    "%00",
    "%0d%0aX-Injected:1",
    "%ff%fe",
    "%F0%9F%92%A9",
    "%E2%80%AE",
    "-rf",
    "network",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_of_runs(web: Web, name: str) -> None:
    for rest in ("", "/map", "/hallmarks", "/layers", "/spectrum", "/null", "/events", "/zarr/zarr.json"):
        answer = web.get(f"/api/v1/runs/{name}{rest}")
        assert answer.status == 404
        assert answer.reason in ("NO_SUCH_RUN", "NO_SUCH_PATH")
        assert "x-injected" not in answer.headers
    page = web.get(f"/runs/{name}")
    assert page.status == 404
    assert "<script>" not in page.text.replace("<script src", "")
    assert "<img src=x" not in page.text


def test_hostile_names_of_layers(web: Web, team_client: Client) -> None:
    run = SyntheticRun("hostile-layers", num_checkpoints=2)
    request = run.open_request()
    names = ['<img src=x onerror="alert(1)">', "'; DROP TABLE layers; --", "layer λ💩%2e%2e/../x"]
    for layer, name in zip(request.layout.layers, names, strict=True):
        layer.name = name
    epoch = team_client.ingest.OpenRun(request, metadata=team_client.metadata, timeout=30).writer_epoch
    push(team_client, run, epoch, run.record(0))
    push(team_client, run, epoch, run.record(1))
    assert [layer["name"] for layer in web.json("/api/v1/runs/hostile-layers")["layers"]] == names
    for name in names:
        told = web.json(f"/api/v1/runs/hostile-layers/map?scope={quote('layer:' + name)}")
        assert told["scope"] == f"layer:{name}"
        for form in ("png", "svg"):
            answer = web.get(f"/api/v1/runs/hostile-layers/map?format={form}&scope={quote('layer:' + name)}")
            assert answer.status == 200
            assert b"<img" not in answer.body
    assert [layer["name"] for layer in web.json("/api/v1/runs/hostile-layers/layers")["layers"]] == names


def test_a_map_across_runs(web: Web, team_client: Client) -> None:
    first, second = (
        SyntheticRun(name, seed=seed, num_checkpoints=9) for name, seed in (("cross-a", 1), ("cross-b", 2))
    )
    for run in (first, second):
        epoch = push_all(team_client, run)
        for checkpoint in range(9):
            push(team_client, run, epoch, sketch_record(run, checkpoint))
    told = web.json("/api/v1/cross?run=cross-a&other=cross-b")
    a, b = (run.parameters.reshape(9, -1) for run in (first, second))
    cosines = a @ b.T / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    # Layers of five elements are kept whole in eleven bins.
    np.testing.assert_allclose(told["map"], cosines, atol=1e-12)
    few = web.json("/api/v1/cross?run=cross-a&other=cross-b&size=3")
    assert few["checkpoint"] == [0, 4, 8]
    np.testing.assert_allclose(few["map"], cosines[::4, ::4], atol=1e-12)
    for query, status, text in (
        ("run=cross-a", 400, "names a run"),
        ("run=cross-a&other=nobody", 404, "nobody"),
        ("run=cross-a&other=cross-b&scope=layer:none", 404, "none"),
    ):
        answer = web.get(f"/api/v1/cross?{query}")
        assert answer.status == status
        assert text in answer.text
