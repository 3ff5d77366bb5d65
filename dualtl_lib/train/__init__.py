"""Training with the solver settings of Tables 3 and 4."""
