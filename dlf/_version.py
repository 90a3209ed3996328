"""The version of dlf, for what says it without importing all of dlf."""

__version__ = "0.1.0"
