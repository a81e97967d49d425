"""Back-tests: the rules over recorded or stored readings, under one set of settings or several side by side."""
