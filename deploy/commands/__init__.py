"""The sub-commands of `vigil`, one module each, imported only when called."""
