"""The explorer: projections, maps and answers that follow a person's sliders."""
