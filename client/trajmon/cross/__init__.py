"""Maps across two runs: what a reader gets of one, and the exact one from the snapshots of both."""
