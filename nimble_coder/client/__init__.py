"""Clients of the service: gRPC (`grpc.py`) and OpenAI's HTTP routes (`http.py`)."""
