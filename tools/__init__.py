"""Tools that are run from a checkout, `python -m tools.<name>`; they are not installed."""
