"""What SPD is compared with: the simplest sparse network, and a dense one (paper 8)."""
