"""Where rows are kept (the journal, which is the truth) and shown (Zarr maps, made from it). Free of gRPC."""
