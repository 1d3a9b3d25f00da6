"""Numbers in words, the same everywhere a person reads them."""

from __future__ import annotations

import os


def duration(seconds: float) -> str:
    """'3 h 05 min', '4 min 10 s' or '12 s'."""
    seconds = round(seconds)
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    if seconds >= 60:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds} s"


def milliseconds(value: float | None) -> str:
    """'12 ms', '0.4 ms', '3.1 s', or '-' for None."""
    if value is None:
        return "-"
    if value >= 9_995:
        return f"{value / 1e3:.0f} s"
    if value >= 999.5:
        return f"{value / 1e3:.1f} s"
    return f"{value:.0f} ms" if value >= 9.95 or not value else f"{value:.1f} ms"


def significant(value: float) -> str:
    """Three digits that count: 0.0123, 3.91, 245, 12,300."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def plural(count: int, noun: str) -> str:
    """'1 shard', '1,234 shards'."""
    return f"{count:,} {noun}" + ("s" if count != 1 else "")


def counted(count: int) -> str:
    """'1 cell', '1,234 cells'."""
    return plural(count, "cell")


def encoding(name: str) -> str:
    """How the pixels of a GeoTIFF are packed, for people: 'none' is 'uncompressed'."""
    return "uncompressed" if name == "none" else name


def size(count: float) -> str:
    """'812 kB', '3.4 GB': decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def printable(name: str) -> str:
    """A file's name as text: bytes in it that are not UTF-8 become escapes such as ``\\xe9``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
