"""The gateway process, in the order of a message: socket, source, decoding, transaction, acknowledgement, receipts."""
