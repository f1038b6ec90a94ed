"""Numbers that users hand over, whatever they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trajmon._metadata import Metadata
from trajmon._settings import Limits


class Hostile:
    """An object that answers every question with an exception."""

    def __float__(self) -> float:
        raise RuntimeError("not today")


@pytest.fixture
def metadata() -> Metadata:
    return Metadata(Limits())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (7, 7),
        (7.0, 7),
        (torch.tensor(7), 7),
        (np.int64(7), 7),
        (None, 3),
        ("x", 3),
        (2**63, 3),
        (math.nan, 3),
    ],
)
def test_steps(metadata: Metadata, given: object, expected: int) -> None:
    assert metadata.step(given, otherwise=3) == expected


def test_a_large_step_keeps_every_digit(metadata: Metadata) -> None:
    assert metadata.step(2**63 - 1, otherwise=0) == 2**63 - 1
    assert metadata.step(2**53 + 1, otherwise=0) == 2**53 + 1


def test_metrics_become_floats_or_are_left_out_with_one_warning(
    metadata: Metadata, caplog: pytest.LogCaptureFixture
) -> None:
    loss = torch.nn.Parameter(torch.ones(1)).sum()
    given = {
        "loss": loss,
        "nan": math.nan,
        "count": 3,
        "text": "x",
        "hostile": Hostile(),
        "vector": torch.ones(2),
    }
    kept = metadata.metrics(given)
    assert metadata.metrics(given).keys() == kept.keys() == {"loss", "nan", "count"}
    assert kept["loss"] == 1.0
    assert caplog.text.count("metric 'text' is not a number and was left out") == 1
    assert caplog.text.count("Hostile gave no number: not today") == 1


def test_names_that_the_server_would_refuse_are_left_out(
    metadata: Metadata, caplog: pytest.LogCaptureFixture
) -> None:
    kept = metadata.metrics({"x" * 65: 1.0, "": 1.0, "\ud800": 1.0, 3: 1.0, "good": 1.0})  # type: ignore[dict-item] # wrong ones are meant
    assert kept == {"good": 1.0}
    assert "a name is a string of 1 to 64 characters" in caplog.text


def test_at_most_64_metrics_are_kept(metadata: Metadata, caplog: pytest.LogCaptureFixture) -> None:
    assert len(metadata.metrics({f"m{n}": n for n in range(100)})) == 64
    assert "only the first 64 metrics of a checkpoint are kept" in caplog.text


def test_metrics_that_are_no_mapping_are_left_out(
    metadata: Metadata, caplog: pytest.LogCaptureFixture
) -> None:
    assert metadata.metrics([1.0]) == {}  # type: ignore[arg-type] # a wrong one is meant
    assert "metrics is not a mapping of names to numbers and was left out" in caplog.text


def test_learning_rates(metadata: Metadata, caplog: pytest.LogCaptureFixture) -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    assert metadata.learning_rate(None) is None
    assert metadata.learning_rate(torch.optim.SGD([parameter], lr=0.5)) == 0.5
    assert metadata.learning_rate(torch.optim.Adam([parameter], lr=torch.tensor(0.5))) == 0.5
    assert metadata.learning_rate(object()) is None
    assert "the optimizer shows no learning rate; it was left out" in caplog.text
