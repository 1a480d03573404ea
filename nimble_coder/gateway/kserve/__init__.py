"""KServe v2 over HTTP and gRPC, passed to Triton behind a guard."""
