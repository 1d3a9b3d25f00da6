"""Archives where they live: files behind addresses, read by ranges, again when a read fails, checked for change."""
