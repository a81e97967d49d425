"""From stored data to alerts: what each rule asks of the store, and what follows from the answer."""
