"""How Vigil is put together: the command line, settings, migrations, the local stack and the demo."""
