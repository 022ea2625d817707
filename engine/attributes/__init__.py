"""A bundle's attributes and how they are ranked for a map."""
