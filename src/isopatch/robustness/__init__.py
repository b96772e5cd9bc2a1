"""How a classifier behaves when pictures are damaged, and whether it knows when it is wrong."""
