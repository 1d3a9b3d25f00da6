"""The files of an embedding dataset: how they are laid out, written and described."""
