"""What travels, as bytes and as frozen values. Pure: no I/O, no clock."""
