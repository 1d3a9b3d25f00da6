"""Many machines under a scheduler: Ray places processes, the folder's claims deal the shards between them."""
