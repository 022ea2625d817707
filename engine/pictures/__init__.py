"""Pictures from outside, and what a network sees of them."""
