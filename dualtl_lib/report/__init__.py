"""Tables, figures and diagrams."""
