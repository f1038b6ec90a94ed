"""Pictures of trajectories: arrays in, terminal text or matplotlib figures out. No files, no network."""
