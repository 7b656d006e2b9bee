"""The loss and the metrics of depth at points."""
