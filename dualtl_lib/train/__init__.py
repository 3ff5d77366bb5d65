"""Training as Tables 3 and 4 set it."""
