"""Records of runs: reports, comparisons, history, and evaluations judged again."""
