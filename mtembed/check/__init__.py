"""Whether a dataset, or a shard, is what it should be."""
