"""Where fragments and cells lie: in a cell and on Earth."""
