"""Published architectures, one small file each, and the table of their names."""
