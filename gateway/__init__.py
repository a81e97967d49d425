"""The ingest process: MQTT bridge, store, pipeline and worker."""
