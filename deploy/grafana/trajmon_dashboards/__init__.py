"""Dashboards of Grafana for trajmon, written as Python.

``python -m trajmon_dashboards --out DIR`` writes one JSON file a dashboard; the same sources give the same bytes.
`run` is about one training run, `fleet` about all of them, `server` about the server itself. They are made of `parts`
(a panel with its queries), asked for by `variables`, and put in rows by `layout`.
"""
