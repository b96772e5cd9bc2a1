"""Models in other forms: as one file of source."""
