"""All layers at once give what the stream gives for each of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from support.rows import SyntheticRun
from trajmon_protos.record import PRODUCTS
from trajmon_server.hallmarks import stream
from trajmon_server.query.layer_sums import LayerSums


@given(
    st.integers(0, 2**31),
    st.integers(1, 90),
    st.sampled_from([0.0, 1e6]),
    st.sampled_from([0.0, 0.1]),
)
def test_layers_agree_with_the_stream(seed: int, count: int, offset: float, missing: float) -> None:
    run = SyntheticRun("sums", seed=seed, num_checkpoints=count)
    run.parameters += offset
    run.parameters[:, 2] = run.parameters[0, 2]  # never moves
    random = np.random.default_rng(seed)
    sums = LayerSums(3)
    states = [stream.init() for _ in range(3)]
    for t in range(count):
        row = run.row(t)
        if random.random() < missing:
            row.gram[1] = row.products[1] = np.nan
        sums.add(t, row.gram, row.products)
        for layer, state in enumerate(states):
            told: dict[str, Any] = dict(zip(PRODUCTS, row.products[layer].tolist(), strict=True))
            states[layer] = stream.update(state, stream.GramRow(row.gram[layer], **told))
    latest = sums.latest()
    for layer, state in enumerate(states):
        expected = stream.latest(state)
        for name, values in latest.items():
            np.testing.assert_allclose(values[layer], expected[name], rtol=1e-11, atol=1e-12, err_msg=name)
    assert sums.path == tuple(range(count))
