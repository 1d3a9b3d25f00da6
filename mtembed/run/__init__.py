"""One run: plan, sizes, processes, pipeline."""
