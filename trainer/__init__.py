"""The two towers: features, preprocessing, loss, training and what is served."""
