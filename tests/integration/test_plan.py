"""A plan from the training loop to the advice: through agent, wire, journal and a server that was told its policy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.optim.lr_scheduler import StepLR

import trajmon
from support.calls import get_run, open_run, push
from support.planned_rows import PlannedRun
from support.server import Client, ServerProcess
from support.training import make_model, make_optimizer, one_thread, train_step
from trajmon_protos.v1 import query_pb2, types_pb2
from trajmon_server.replay import advices
from trajmon_server.signals.policies import make_policy

POLICY = "remaining_displacement/2"
SETTINGS = {"confirmations": 3}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """With another policy than its default."""
    home = tmp_path_factory.mktemp("server") / "home"
    environment = {
        "TRAJMON_SERVER_SIGNALS__POLICY": POLICY,
        "TRAJMON_SERVER_SIGNALS__SETTINGS": '{"confirmations": 3}',
    }
    started = ServerProcess(home, environment=environment).start()
    yield started
    assert started.stop() == 0


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.addresses["grpc"], server.token) as connected:
        yield connected


def advised(client: Client, run: str, checkpoint: int) -> types_pb2.Advice:
    """What the server says as of a checkpoint, once it has looked at it."""
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        advice = get_run(client, run).summary.advice
        if advice.checkpoint == checkpoint and advice.policy == POLICY and advice.evidence:
            return advice
        time.sleep(0.005)
    raise AssertionError(f"nothing was said of checkpoint {checkpoint}")


def test_a_server_says_at_every_checkpoint_what_replay_says(
    server: ServerProcess, client: Client, tmp_path: Path
) -> None:
    source = PlannedRun("replayed")
    policy = make_policy(POLICY, SETTINGS)
    epoch = open_run(client, source).writer_epoch
    for expected in advices(policy, source.expected(tmp_path)):
        push(client, source, epoch, source.record(expected.checkpoint))
        said = advised(client, "replayed", expected.checkpoint)
        assert types_pb2.AdviceState.Name(said.state) == f"ADVICE_STATE_{expected.state.name}"
        assert dict(said.evidence) == dict(expected.evidence)
        assert said.reason == expected.reason
    server.kill()
    server.start()
    with Client(server.addresses["grpc"], server.token) as again:
        assert advised(again, "replayed", expected.checkpoint) == said


def plans(run: query_pb2.GetRunResponse) -> list[types_pb2.Plan]:
    return [detail.info.plan for detail in run.checkpoints]


def test_the_plan_of_a_training_arrives(server: ServerProcess, client: Client) -> None:
    model = make_model(seed=0)
    optimizer = make_optimizer(model)
    rate = optimizer.param_groups[0]["lr"]
    scheduler = StepLR(optimizer, 8, gamma=0.5)
    plan = trajmon.Plan(total_steps=24, learning_rate=scheduler, objective="loss")
    with (
        one_thread(),
        trajmon.watch(
            model,
            run="planned",
            optimizer=optimizer,
            server=server.grpc_address,
            home=server.home,
            plan=plan,
            strict=True,
        ) as recorder,
    ):
        for step in range(1, 27):
            loss = train_step(model, optimizer, 0, step)
            scheduler.step()
            if step % 2 == 0:
                recorder.checkpoint(step=step, metrics={"loss": loss})
        recorder.close(timeout=60.0)
    advised(client, "planned", 13)
    run = get_run(client, "planned")
    told = plans(run)
    # Past the planned end nothing is planned.
    assert [plan.steps_ahead for plan in told[:-1]] == list(range(24, -1, -2))
    assert not told[-1].HasField("steps_ahead")
    rates = [rate * 0.5 ** (step // 8) for step in range(24)]
    for number, plan_then in enumerate(told[:-1]):
        ahead = rates[2 * number :]
        assert plan_then.rate_sum_ahead == pytest.approx(sum(ahead), rel=1e-12)
        assert plan_then.rate_squared_sum_ahead == pytest.approx(sum(r * r for r in ahead), rel=1e-12)
    losses = [detail.info.metrics["loss"] for detail in run.checkpoints[1:]]
    assert [plan.objective_tolerance for plan in told[1:]] == pytest.approx([0.01 * loss for loss in losses])
    assert not told[0].HasField("objective_tolerance")
    assert {plan.objective for plan in told} == {"loss"}
    assert not any(plan.larger_is_better for plan in told)
    assert run.summary.advice.evidence["objective_tolerance"] == pytest.approx(0.01 * losses[-1])
