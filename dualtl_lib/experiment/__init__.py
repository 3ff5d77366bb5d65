"""A run: what it is made of and what it trains."""
