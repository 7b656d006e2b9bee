"""The precision policy: which modules must stay float32, found by running the deployment form over photos."""
