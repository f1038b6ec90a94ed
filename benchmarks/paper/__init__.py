"""The paper's experiments on this software: `python -m benchmarks.paper`, or `make reproduce`."""
