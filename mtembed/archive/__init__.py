"""From an archive to the pixels of a cell: shards, metadata, GeoTIFFs."""
