"""From a request to a durable row: validate, authorise, quota, journal. Free of gRPC."""
