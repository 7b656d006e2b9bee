"""`spd-serve`: the model over HTTP, and a page to click on."""
