"""Every setting of the service: one typed object, and where each of its values came from."""
