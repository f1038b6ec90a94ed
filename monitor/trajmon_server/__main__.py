"""`python -m trajmon_server` is `trajmon-server`."""

from __future__ import annotations

from trajmon_server.cli import main

if __name__ == "__main__":
    main()
