"""The ASGI layer: connections, the application, and the dispatch to a route."""
