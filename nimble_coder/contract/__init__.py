"""What a request may ask of an engine and what comes back: once, for the gateway, the clients and the engines."""
