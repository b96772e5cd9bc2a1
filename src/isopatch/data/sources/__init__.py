"""Where pictures come from: embedded digits, class folders, Parquet shards, the hub."""
