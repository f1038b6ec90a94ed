"""The server that a training names: what is refused at once, what is warned of, what goes over TLS."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import trajmon
from client.recording import IngestServer  # noqa: TID251 # tests/client, on the path of the tests
from client.training import Training  # noqa: TID251 # the same
from trajmon.errors import RefusedError
from trajmon.rundir import RunDir


@pytest.mark.parametrize("by_environment", [False, True])
def test_what_is_no_address_is_refused_and_training_goes_on(
    home: Path, monkeypatch: pytest.MonkeyPatch, by_environment: bool
) -> None:
    training = Training()
    server = "https://monitor:443"
    if by_environment:
        monkeypatch.setenv("TRAJMON_SERVER", server)
    named = None if by_environment else server
    recorder = trajmon.watch(training.model, run="run", server=named)
    training.train(1)
    assert recorder.checkpoint(step=1) is None
    recorder.close()
    text = (
        "server='https://monitor:443' is not HOST:PORT, for example 127.0.0.1:50051, or grpcs://HOST:PORT: the scheme "
        "'https' is not known"
    )
    assert (recorder.status.state, recorder.status.reason) == ("refused", text)
    with pytest.raises(RefusedError) as caught:
        trajmon.watch(training.model, run="run", server=named, strict=True)
    assert str(caught.value) == text
    assert not RunDir.of(home, "run").path.exists()


def test_a_token_that_would_go_out_in_clear_text_is_warned_of_and_rows_wait(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, server: IngestServer
) -> None:
    monkeypatch.setenv("TRAJMON_AGENT_LINGER_SECONDS", "1")
    training = Training()
    with caplog.at_level(logging.WARNING):
        recorder = trajmon.watch(training.model, run="run", server="192.0.2.1:50051", strict=True)
    (said,) = [record.getMessage() for record in caplog.records if "clear text" in record.getMessage()]
    assert said.startswith(
        "run 'run': the token is not sent to 192.0.2.1:50051 in clear text: name the server as"
    )
    assert said.endswith("; its checkpoints wait on this machine until then")
    training.train(1)
    assert recorder.checkpoint(step=1) == 1
    recorder.close(timeout=60.0)
    assert (recorder.status.recorded, recorder.status.pending) == (2, 2)
    # The run is told another server later, and everything that waited goes there.
    with trajmon.watch(
        training.model, run="run", server=server.address, resume="must", strict=True
    ) as resumed:
        resumed.close(timeout=60.0)
    assert resumed.status.pending == 0
    assert server.run("run").next_checkpoint >= 2


@pytest.mark.parametrize("address", ["grpcs://192.0.2.1:50051", "127.0.0.1:1"])
def test_other_addresses_are_no_matter_for_a_warning(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    monkeypatch.setenv("TRAJMON_AGENT_LINGER_SECONDS", "0")
    training = Training()
    with caplog.at_level(logging.WARNING):
        trajmon.watch(training.model, run="run", server=address, strict=True).close(timeout=0.1)
    assert "clear text" not in caplog.text
