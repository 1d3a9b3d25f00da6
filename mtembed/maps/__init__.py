"""Pictures of vectors on a map."""
