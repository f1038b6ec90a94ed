"""The contract between agent, server and readers: messages, record format, names."""
