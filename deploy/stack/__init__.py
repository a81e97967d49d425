"""The local TimescaleDB and Mosquitto: in Docker if an engine answers, otherwise unpacked from Debian's packages."""
