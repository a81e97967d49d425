"""The gateway's processes (ingest, worker, edge box), the rules they run, and the store they share."""
