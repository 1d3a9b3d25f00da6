"""Write rcf.json: random convolution features by plain numpy in float64, without mtembed or torch.

Run as ``python tests/models/parity/make_rcf.py``; needed again only if the definition of ``rcf`` changes.
"""

import json
from pathlib import Path

import numpy as np

CHANNELS, SIZE, SEED = 13, 32, 1


def features(image, filters, bias):
    """Return the means of ReLU(c) and ReLU(-c) over the valid convolution c: [C, h, w] -> [2 F]."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3), axis=(1, 2))
    c = np.einsum("fcij,chwij->fhw", filters, windows) + bias
    return np.concatenate([np.maximum(c, 0).mean((1, 2)), np.maximum(-c, 0).mean((1, 2))])


def main():
    filters = np.random.Generator(np.random.PCG64(SEED)).standard_normal((256, CHANNELS, 3, 3)).astype(np.float32)
    image = np.random.Generator(np.random.PCG64(2)).random((CHANNELS, SIZE, SIZE)).astype(np.float32)
    golden = {
        "seed": SEED,
        "image_seed": 2,
        "channels": CHANNELS,
        "size": SIZE,
        "first_filters": filters.reshape(-1)[:8].tolist(),
        "features": features(image.astype(np.float64), filters.astype(np.float64), -1.0).tolist(),
    }
    Path(__file__).with_name("rcf.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
