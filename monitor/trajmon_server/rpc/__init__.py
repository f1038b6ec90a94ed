"""The gRPC surface: thin translation between messages and the cores."""
