"""Compiles the loops once: several processes of tests would otherwise each do it at the same time.

PYTHONPATH=tests python -m support.compiled
"""

from __future__ import annotations

import numpy as np

from trajmon.numerics.gram import PathIndices, compile_kernels
from trajmon.numerics.layout import Dtype, Group, Layer, Layout
from trajmon.numerics.sketch import SketchPlan, gram_rows_with_sketches, sketch_digits
from trajmon_protos.sketch import SketchSpec

DTYPES: tuple[Dtype, ...] = ("float64", "float32", "bfloat16", "float16")
NUMEL = 200
"""More than there are bins: the layers are sketched."""


def main() -> None:
    """With numba's cache filled it takes no time."""
    compile_kernels()
    for dtype in DTYPES:
        layout = Layout((Layer(dtype, (NUMEL,), dtype),), (Group("network", (0,)),))
        old, new = (np.zeros(layout.nbytes, np.uint8) for _ in range(2))
        plan = SketchPlan.of(layout, SketchSpec(bins=61))
        sketch_digits(plan, new)
        gram_rows_with_sketches(layout, [new], [old], [PathIndices(0, None, None)], plan)


if __name__ == "__main__":
    main()
