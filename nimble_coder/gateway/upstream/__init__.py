"""The way to Triton: token ids over one gRPC stream per generation."""
