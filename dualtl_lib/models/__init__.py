"""The network, its weights, and the number format that it computes in."""
