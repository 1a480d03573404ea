"""Every process that is started here, and how it is watched and ended: Triton, the gateways, and both together."""
