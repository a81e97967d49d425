"""The rules that fold over readings, in the transaction that stores them."""
