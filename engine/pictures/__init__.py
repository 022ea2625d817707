"""Loading pictures, and preparing them for a network."""
