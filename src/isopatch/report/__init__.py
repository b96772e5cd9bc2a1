"""Self-contained HTML pages and plots made from a run folder's files."""
