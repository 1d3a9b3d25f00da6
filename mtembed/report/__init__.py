"""What the timings of a dataset say."""
