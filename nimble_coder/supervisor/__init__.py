"""The container's main process: finds what is served, builds it where need be, starts, watches and ends the others."""
