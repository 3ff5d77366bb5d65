"""How good a model is: accuracy, intervals, paired tests, occlusion, a linear baseline."""
