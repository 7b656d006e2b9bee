"""Depths of millions of photos: `spd-bulk`, on Ray Data. The extra is `[bulk]`."""
