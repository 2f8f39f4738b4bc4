"""The core: everything that works without a command line."""
