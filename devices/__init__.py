"""What bytes from devices mean: vocabulary, units and codecs. Pure: no socket, clock, log or database."""
