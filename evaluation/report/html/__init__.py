"""The evaluation as one page to look at: a self-contained HTML file, which loads nothing from anywhere."""
