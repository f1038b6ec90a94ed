"""`python -m trajmon` is `trajmon`."""

from __future__ import annotations

from trajmon.cli import main

if __name__ == "__main__":
    main()
