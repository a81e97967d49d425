"""The local TimescaleDB and Mosquitto: by Docker where an engine answers, else unpacked from Debian's packages."""
