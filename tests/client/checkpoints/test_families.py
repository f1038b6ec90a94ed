"""Q, K and V of checkpoints that have no model with them: by the config.json in their folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from client.families.architectures import DECODERS, build  # noqa: TID251 # tests/client, on the path of the tests
from trajmon.checkpoints.families import with_family
from trajmon.checkpoints.opening import open_checkpoint
from trajmon.errors import RefusedError
from trajmon.ingest.series import find_series
from trajmon.numerics.views import View


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small GPT-NeoX as its trainer saves it."""
    model = build(*DECODERS["gpt_neox"])
    for step in (0, 10):
        model.save_pretrained(tmp_path / f"checkpoint-{step}")
    return tmp_path


def test_the_config_beside_the_first_checkpoint_divides_its_attention(folder: Path) -> None:
    series = find_series([folder], family="auto")
    series.close()
    names = [layer.name for layer in series.layout.layers]
    groups = {group.name for group in series.layout.groups}
    fused = [name for name in names if "query_key_value.weight" in name]
    assert {name.rpartition(".")[2] for name in fused} == {"q", "k", "v"}
    assert {"attention.q", "attention.k", "attention.v"} <= groups


def test_without_a_family_tensors_stay_whole(folder: Path) -> None:
    series = find_series([folder])
    series.close()
    names = [layer.name for layer in series.layout.layers]
    assert not any(name.endswith((".q", ".k", ".v")) for name in names)


def test_ones_own_views_go_first(folder: Path) -> None:
    mine = View(r"layers\.0\..*query_key_value\.weight$", None, 0, ("a", "b"))
    reader = open_checkpoint(folder / "checkpoint-0")
    views, _ = with_family(reader, "auto", (mine,), {})
    reader.close()
    assert mine in views
    assert not any(
        view.matches("gpt_neox.layers.0.attention.query_key_value.weight") for view in views if view != mine
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "cannot be read"), ("[]", ""), ('{"model_type": "gpt_neox"}', "get no layers of their own")],
)
def test_a_config_that_is_none_changes_nothing(
    folder: Path, content: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "checkpoint-0" / "config.json").write_text(content)
    reader = open_checkpoint(folder / "checkpoint-0")
    with caplog.at_level(logging.WARNING):
        assert with_family(reader, "auto", (), {"mine": "layers"}) == ((), {"mine": "layers"})
    reader.close()
    assert said in caplog.text


def test_a_family_that_is_named_must_fit(folder: Path) -> None:
    with pytest.raises(RefusedError, match=r"gpt_nox"):
        find_series([folder], family="gpt_nox")
    config = folder / "checkpoint-0" / "config.json"
    config.write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(RefusedError, match="gpt_neox"):
        find_series([folder], family="gpt_neox")
