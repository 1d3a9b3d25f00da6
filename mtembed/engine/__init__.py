"""Networks on CPUs and GPUs: decoded cells in, vectors out."""
