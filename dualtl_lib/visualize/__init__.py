"""Neurons projected back to pixels, and what is measured on the projections."""
