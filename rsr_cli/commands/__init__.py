"""One module a command: translate arguments, call the core, write."""
