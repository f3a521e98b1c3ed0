"""The one place that builds the whole: supervisor and workers from settings."""
