"""Stores with estimates, read from files: what is exact, what is estimated and how well, what is not said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import trajmon
from trajmon.reading.view import RunView
from trajmon_protos.record import Row
from trajmon_protos.v1 import types_pb2
from trajmon_server.store.estimates import RowEstimates
from trajmon_server.store.layout import RunShape
from trajmon_server.store.maps import MapStore, PublishRow

Floats = NDArray[np.float64]
SHAPE = RunShape("cd" * 16, "anchored", ("a", "b"), (("network", (0, 1)), ("first", (0,))))
LENGTH = 70
EXACT = 10
"""Rows before this one are exact."""


def points() -> Floats:
    """[layer, checkpoint, parameter]"""
    random = np.random.default_rng(0)
    steps: Floats = random.standard_normal((2, LENGTH, 9))
    return 3.0 + np.cumsum(steps, axis=1)


def holes(number: int) -> list[int]:
    """Snapshots that were not kept when a checkpoint came: all but each fourth, and the last two."""
    return [j for j in range(number - 1) if j % 4] if number >= EXACT else []


def is_hole() -> NDArray[np.bool_]:
    found = np.zeros((LENGTH, LENGTH), dtype=bool)
    for number in range(LENGTH):
        found[number, holes(number)] = found[holes(number), number] = True
    return found


def offset(number: int) -> Floats:
    """What estimates are off by; their standard error is twice that. [number + 1]"""
    return 0.01 * (1.0 + np.arange(number + 1, dtype=np.float64) + number)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    MapStore(folder / "maps", SHAPE).publish(rows(points()))
    return folder


def rows(theta: Floats) -> Iterator[PublishRow]:
    for number in range(LENGTH):
        whole = np.einsum("lsp,lp->ls", theta[:, : number + 1], theta[:, number])
        exact, estimate, error = whole.copy(), np.full_like(whole, np.nan), np.full_like(whole, np.nan)
        at = holes(number)
        exact[:, at] = np.nan
        estimate[:, at] = (whole + offset(number))[:, at]
        error[:, at] = np.broadcast_to(2 * offset(number), whole.shape)[:, at]
        groups = [
            np.stack([parts[list(members)].sum(axis=0) for _, members in SHAPE.groups])
            for parts in (estimate, error)
        ]
        products = np.zeros((2, 4))
        products[:, 2] = ((theta[:, number] - theta[:, 0]) ** 2).sum(axis=1)
        header = types_pb2.RowHeader(
            run_id=SHAPE.run_id, attempt=1, checkpoint=number, num_parts=1, num_layers=2
        )
        header.info.step = number
        if number:
            header.previous = number - 1
        row = Row(header, exact, products, np.zeros(2, np.uint8))
        estimates = RowEstimates(estimate, error, whole, *groups) if number >= EXACT else None
        yield PublishRow(row, 1, estimates)


@pytest.fixture
def view(data_dir: Path) -> RunView:
    return trajmon.open_run("anchored", data_dir=data_dir)


def expected(layers: list[int]) -> tuple[Floats, Floats]:
    """The Gram with its estimates, and its standard errors, over the sum of layers: [T, T] each."""
    theta = points()[layers]
    gram = np.einsum("lsp,ltp->st", theta, theta)
    error = np.zeros_like(gram)
    for number in range(LENGTH):
        at = holes(number)
        gram[number, at] += len(layers) * offset(number)[at]
        gram[at, number] = gram[number, at]
        error[number, at] = error[at, number] = 2 * len(layers) * offset(number)[at]
    return gram, error


@pytest.mark.parametrize(("scope", "layers"), [("network", [0, 1]), ("group:first", [0]), ("layer:b", [1])])
def test_estimates_fill_the_map_with_their_standard_errors_beside_them(
    view: RunView, scope: str, layers: list[int]
) -> None:
    gram, error = expected(layers)
    lengths = np.sqrt(np.diag(gram))
    found = view.map(scope)
    np.testing.assert_allclose(found, gram / np.outer(lengths, lengths), atol=1e-12)
    np.testing.assert_allclose(found.standard_error, error / np.outer(lengths, lengths), atol=1e-12)
    np.testing.assert_array_equal(found.standard_error.values > 0, is_hole())
    assert found.attrs["mds"] == pytest.approx(found.values.mean(), rel=1e-12)
    assert found.attrs["mds_error"] == pytest.approx(found.standard_error.values.mean(), rel=1e-12)
    inner = view.gram(scope)
    np.testing.assert_allclose(inner, gram, rtol=1e-12)
    np.testing.assert_allclose(inner.standard_error, error, rtol=1e-12)


def test_the_mean_carries_its_error_as_of_every_checkpoint(view: RunView) -> None:
    gram, error = expected([0, 1])
    lengths = np.sqrt(np.diag(gram))
    entries, errors = gram / np.outer(lengths, lengths), error / np.outer(lengths, lengths)
    found = view.hallmarks()
    for name, square in (("mds", entries), ("mds_error", errors)):
        means = [square[: i + 1, : i + 1].mean() for i in range(LENGTH)]
        np.testing.assert_allclose(found[name], means, rtol=1e-11, atol=1e-15)
    assert (found.mds_error[:EXACT] == 0).all()
    assert (found.mds_error[EXACT:] > 0).all()
    assert found.mds_error.attrs["long_name"] == "standard error: mean directional similarity"
    # Lengths are exact: they have no error.
    np.testing.assert_allclose(found.parameter_norm, lengths, rtol=1e-12)
    assert "parameter_norm_error" not in found


def test_maps_about_a_checkpoint_say_nothing_that_rests_on_estimates(view: RunView) -> None:
    theta = points().transpose(1, 0, 2).reshape(LENGTH, -1)
    for tau in (0, 4):
        found = view.map(relative_to=tau)
        keep = np.delete(np.arange(LENGTH), tau)
        # An entry takes the inner products of both with each other and with tau.
        holed = is_hole()
        unknown = holed | holed[:, tau, None] | holed[None, :, tau]
        np.testing.assert_array_equal(np.isnan(found), unknown[np.ix_(keep, keep)])
        moved = theta[keep] - theta[tau]
        unit = moved / np.linalg.norm(moved, axis=1, keepdims=True)
        known = ~np.isnan(found.values)
        np.testing.assert_allclose(found.values[known], (unit @ unit.T)[known], atol=1e-10)
        assert "standard_error" not in found.coords
        # The mean over what happens to be exact is another measure.
        assert np.isnan(found.attrs["relative_mds"])
        assert found.attrs["not_available"] == "entries that rest on estimates: a server tells them"


def test_relative_mds_ends_where_estimates_begin(view: RunView) -> None:
    found = view.hallmarks().relative_mds
    assert np.isfinite(found[1:EXACT]).all()
    assert np.isnan(found[EXACT:]).all()


def test_a_range_without_estimates_is_exact(view: RunView) -> None:
    found = view.map(stop=EXACT)
    assert "standard_error" not in found.coords
    assert "mds_error" not in found.attrs
    relative = view.map(relative_to=0, stop=EXACT)
    assert np.isfinite(relative).all()
    assert np.isfinite(relative.attrs["relative_mds"])


def test_a_length_that_is_not_exact_is_not_said(tmp_path: Path) -> None:
    shape = RunShape("ef" * 16, "early", ("a",), (("network", (0,)),))
    store = MapStore(tmp_path / "maps", shape)
    theta = points()[0, :4]
    for number in range(4):
        exact = (theta[: number + 1] @ theta[number])[None]
        estimate, error = np.full_like(exact, np.nan), np.full_like(exact, np.nan)
        if number == 3:
            estimate, error, exact = exact.copy(), np.full_like(exact, 0.5), np.full_like(exact, np.nan)
        header = types_pb2.RowHeader(
            run_id=shape.run_id, attempt=1, checkpoint=number, num_parts=1, num_layers=1
        )
        if number:
            header.previous = number - 1
        row = Row(header, exact, np.zeros((1, 4)), np.zeros(1, np.uint8))
        store.publish([PublishRow(row, 1, RowEstimates(estimate, error, estimate, estimate, error))])
    view = trajmon.open_run("early", data_dir=tmp_path)
    assert np.isfinite(view.hallmarks().parameter_norm[:3]).all()
    assert np.isnan(view.hallmarks().parameter_norm[3])
    # A cosine takes both lengths.
    assert np.isnan(view.map()[3]).all()
    assert np.isfinite(view.gram()[3, :3]).all()


def test_the_summary_holds_the_error_of_each_group(view: RunView) -> None:
    found = view.summary
    assert (found.mds_error > 0).all()
    last = view.hallmarks("group:first").isel(checkpoint=-1)
    assert found.mds_error.sel(group="first").item() == last.mds_error.item()
