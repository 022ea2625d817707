"""A bundle's attributes, and their ranking for a saliency map."""
