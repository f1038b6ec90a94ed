"""The model as every format saves it, made once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from client.checkpoints.saving import FORMATS, make_model  # noqa: TID251 # tests/client, on the path of the tests


@pytest.fixture(scope="session")
def model() -> nn.Module:
    return make_model()


@pytest.fixture(scope="session")
def saved(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model in every format, by the format's name."""
    return {name: save(model, tmp_path_factory.mktemp("saved")) for name, save in FORMATS.items()}
