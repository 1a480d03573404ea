"""Text to token ids and back, the same for Triton's text models, the clients and the gateway."""
