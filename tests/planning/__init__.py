"""Of `nimble_coder.planning`."""
