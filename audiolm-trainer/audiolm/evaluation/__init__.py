"""Generation over a data set, scores, submissions and efficiency."""
