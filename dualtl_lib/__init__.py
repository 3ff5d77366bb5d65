"""A reproducible companion to Lin et al. (2019), dual transfer learning for facial expression recognition."""
