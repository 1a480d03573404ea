"""The HTTP and gRPC front of the runtime stage: OpenAI, fill-in-the-middle, NIM and KServe on the token-level path."""
