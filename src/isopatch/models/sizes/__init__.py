"""Tables of published sizes, one file per kind of architecture; `models.table` puts them together."""
