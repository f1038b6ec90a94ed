"""What leaves the server as metrics."""
