"""Delivery: what leaves this device, what arrives, and the receipts between the two. Pure."""
