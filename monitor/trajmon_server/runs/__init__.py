"""What the server knows of each run while it runs: recovery, path, analysis, publishing."""
