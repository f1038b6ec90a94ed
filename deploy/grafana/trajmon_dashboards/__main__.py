"""``python -m trajmon_dashboards --out DIR [--web URL] [--pictures URL]``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from urllib.parse import urlsplit

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from trajmon_dashboards.fleet import fleet_dashboard
from trajmon_dashboards.run import run_dashboard
from trajmon_dashboards.server import server_dashboard

WEB = "http://127.0.0.1:8080"
PICTURES = "/api/datasources/proxy/uid/trajmon-pictures"
"""Grafana's own proxy to the data source of provisioning/datasources/trajmon.yaml."""


def _text_of(dashboard: build.Dashboard) -> str:
    """Classic JSON, sorted: the same dashboard gives the same bytes."""
    content = json.loads(json.dumps(dashboard.build(), cls=JSONEncoder))
    for link in content["links"]:
        # The SDK puts every link into a menu that is closed at first.
        del link["placement"]
    for panel in content["panels"]:
        defaults = panel.get("fieldConfig", {}).get("defaults", {})
        if "links" in defaults:
            # It takes links of data for links of dashboards, which say more.
            wanted = ("title", "url", "targetBlank")
            defaults["links"] = [{key: link[key] for key in wanted} for link in defaults["links"]]
    content["annotations"].setdefault("list", [])
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _address(value: str) -> str:
    """An address that further parts are put behind."""
    parts = urlsplit(value)
    is_path = not parts.scheme and not parts.netloc and value.startswith("/")
    if not (is_path or (parts.scheme in ("http", "https") and parts.netloc)) or set(value) & set(
        "\"'<>$?#& "
    ):
        raise argparse.ArgumentTypeError(
            f"{value!r} is neither http(s)://HOST... nor /PATH, or holds one of \" ' < > $ ? # & or a space"
        )
    return value.rstrip("/")


def main() -> None:
    """Write all dashboards."""
    parser = argparse.ArgumentParser(
        prog="trajmon_dashboards", description="Write trajmon's Grafana dashboards."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files")
    parser.add_argument(
        "--web",
        type=_address,
        default=WEB,
        help="trajmon's web page as browsers see it (default: %(default)s)",
    )
    parser.add_argument(
        "--pictures",
        type=_address,
        default=PICTURES,
        help="where browsers find trajmon's HTTP API for pictures of maps (default: %(default)s)",
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, dashboard in (
        ("trajmon-run", run_dashboard(options.web, options.pictures)),
        ("trajmon-fleet", fleet_dashboard(options.web)),
        ("trajmon-server", server_dashboard(options.web)),
    ):
        (options.out / f"{name}.json").write_text(_text_of(dashboard), encoding="utf-8")


if __name__ == "__main__":
    main()
