"""What holds for every test: no path to the user's own runs, reproducible examples, no timed assertions."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell starts what it puts into the background, and programs that the tests start would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Beside pytest's own cache: in the project's root, hypothesis warns about the folder that it made itself.
set_hypothesis_home_dir(Path(__file__).parents[1] / ".pytest_cache" / "hypothesis")
# The same examples in every run, and no deadline: how fast a shared machine is, is not what is tested.
settings.register_profile("trajmon", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("trajmon")


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests out of the user's home and away from the user's server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAJMON_HOME", str(tmp_path_factory.mktemp("trajmon-home")))
        patch.delenv("TRAJMON_SERVER", raising=False)
        patch.delenv("TRAJMON_TOKEN", raising=False)
        yield
