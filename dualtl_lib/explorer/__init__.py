"""The explorer: projections, feature maps and probabilities that follow a person's sliders."""
