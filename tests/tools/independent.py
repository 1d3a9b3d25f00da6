"""The embeddings once more, the plain way, by no code of mtembed. Rasterio, numpy repeat, slicing, timm, eval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import timm
import torch
from rasterio.io import MemoryFile

S2 = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"]
MEAN, STD = (np.array(v, np.float32)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
S1_MEAN, S1_STD = (np.array(v)[:, None, None] for v in ((-12.54847273, -20.19237134), (5.25697717, 5.91150917)))


def cell(path: Path, row: int, bands: list[str]) -> np.ndarray:
    """float [bands, rows, cols], coarse bands repeated."""
    table = pq.ParquetFile(path).read_row_group(row, columns=bands)
    planes = []
    for band in bands:
        with MemoryFile(table.column(band)[0].as_py()) as memory, memory.open(driver="GTiff") as file:
            planes.append(file.read(1))
    side = max(len(plane) for plane in planes)
    return np.stack([p.repeat(side // len(p), 0).repeat(side // len(p), 1) for p in planes]).astype(np.float32)


def prepared(model: str, x: np.ndarray) -> np.ndarray:
    if model == "ssl4eo-s2":
        return x / np.float32(10000)
    if model == "ssl4eo-s1":
        decibel = 10 * np.log10(
            np.maximum(np.nan_to_num(x, nan=0.0, posinf=np.inf, neginf=0.0), 1e-10).astype(np.float64)
        )
        return np.clip((decibel - (S1_MEAN - 2 * S1_STD)) / (4 * S1_STD), 0, 1).astype(np.float32)
    reflectance = np.clip(np.float32(2.5) * x / np.float32(10000), 0, 1)
    return (reflectance - MEAN) / STD if model == "dinov2" else (reflectance - np.float32(0.5)) / np.float32(0.5)


def network(model: str, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    if model.startswith("ssl4eo"):
        bands = 13 if model == "ssl4eo-s2" else 2
        return timm.create_model("resnet50", in_chans=bands, num_classes=0, zero_init_last=False).eval()
    if model == "siglip":
        return timm.create_model("vit_so400m_patch14_siglip_384", num_classes=0).eval()
    state = timm.create_model("vit_base_patch14_dinov2", num_classes=0).state_dict()
    old = state["pos_embed"]
    grid = old[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(16, 16), mode="bicubic", align_corners=False)
    state["pos_embed"] = torch.cat([old[:, :1], grid.flatten(2).transpose(1, 2)], 1)
    small = timm.create_model("vit_base_patch14_dinov2", num_classes=0, img_size=224).eval()
    small.load_state_dict(state)
    small.forward = lambda x: small.forward_features(x).mean(1)
    return small


def embed(path: Path, row: int, model: str, net: torch.nn.Module, most: int | None = None) -> np.ndarray:
    """float32 [fragments, D] of one cell, row-major, the paper's offsets; only the first ``most`` where given."""
    bands = {"ssl4eo-s2": S2, "ssl4eo-s1": ["vv", "vh"]}.get(model, ["B04", "B03", "B02"])
    size, offsets = (384, (0, 342, 684)) if model == "siglip" else (224, (0, 211, 422, 633, 844))
    x = prepared(model, cell(path, row, bands))
    cuts = [x[:, r : r + size, c : c + size] for r in offsets for c in offsets][:most]
    with torch.inference_mode():
        return torch.cat([net(torch.from_numpy(cut[None].copy())) for cut in cuts]).numpy()
