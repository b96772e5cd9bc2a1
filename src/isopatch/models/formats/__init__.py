"""Foreign checkpoint formats, one file each: key maps and strict loading."""
