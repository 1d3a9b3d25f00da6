"""Datasets made from datasets: vectors in fewer bytes or as a raw array, and many files merged into few."""
