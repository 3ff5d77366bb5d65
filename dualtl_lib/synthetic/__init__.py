"""The stand-ins for data that cannot be shipped: the embedded trunk, and how it is made."""
