"""Answers about runs, free of gRPC and HTTP: both are thin over this."""
