"""A page over TLS: it works as it does without, and its cookie is for TLS alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from browser.runs import Pushed, Training, shown_map, until
from browser.visiting import TIMEOUT_MS, Watched
from support.calls import get_map
from support.server import ServerProcess
from support.tls import Authority, TlsClient, server_environment
from trajmon_server.web.sessions import COOKIE


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


@pytest.fixture
def server(tmp_path: Path, authority: Authority) -> Iterator[ServerProcess]:
    environment = server_environment(authority.issue("server"))
    started = ServerProcess(tmp_path / "home", environment=environment).start()
    yield started
    assert started.stop() == 0
    assert "Traceback" not in started.log


def test_a_live_page_over_tls(
    browser: Browser, server: ServerProcess, authority: Authority, watched: Watched
) -> None:
    run = Training("secret", seed=31)
    site = f"https://{server.addresses['http']}"
    # The browser knows the authorities of its machine alone, and this one is of the test.
    context = browser.new_context(ignore_https_errors=True)
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    watched.watch(page)
    with TlsClient(server.addresses["grpc"], server.token, authority.file) as client:
        pushed = Pushed.begin(client, run)
        pushed.push(0, 3)
        page.goto(f"{site}/?token={server.token}")
        expect(page).to_have_url(f"{site}/")
        (cookie,) = context.cookies()
        assert cookie["name"] == COOKIE
        assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Strict")
        assert server.token not in cookie["value"]
        assert page.evaluate("document.cookie") == ""
        page.goto(f"{site}/runs/secret")
        page.locator("body[data-ready]").wait_for()
        expect(page.locator("#live")).to_have_text("live")
        pushed.push(3, 6)
        until(lambda: _is_shown(shown_map(page), get_map(client, "secret")["map"]))
    context.close()
    assert watched.problems == []


def _is_shown(shown: np.ndarray[tuple[int, ...], np.dtype[np.float64]], expected: object) -> None:
    np.testing.assert_allclose(shown, np.asarray(expected), rtol=0, atol=6e-8)
