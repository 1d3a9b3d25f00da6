"""What embeddings are worth: labels joined to them, frozen probes over spatial folds, baselines beside them, health."""
