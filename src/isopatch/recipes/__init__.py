"""Named training procedures: functions that return a run configuration."""
