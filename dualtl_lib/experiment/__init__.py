"""A run: the models that it trains (steps), what it is made of (pipeline), its notebooks, its folds (sweep, folds)."""
