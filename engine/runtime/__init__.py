"""Running graphs: sessions of every provider, the memory bound to them, and what is cached for them."""
