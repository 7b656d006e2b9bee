"""Images and depth to train and check with."""
