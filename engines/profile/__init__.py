"""Where the time of a bundle goes, block by block: `spd-profile`."""
