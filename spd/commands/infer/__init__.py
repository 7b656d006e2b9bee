"""`spd-infer`: depth at points of photos, from the shell."""
