"""How Vigil is run: the command line, settings, migrations, the local stack, benchmarks, back-tests and the demo."""
