"""Names of a raster's classes where GDAL keeps them: category names or an attribute table, in ``.aux.xml`` or ``.vrt``.

The elements CategoryNames and GDALRasterAttributeTable of the first band, as QGIS, ArcGIS and GDAL's tools write them:
https://gdal.org/en/stable/drivers/raster/vrt.html
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

LARGEST = 16 << 20  # bytes of a file that is read
BANDS = ("PAMRasterBand", "VRTRasterBand")
VALUE_USAGES, NAME_USAGE, TEXT_TYPE = ("5", "3"), "2", "2"  # GFU_MinMax, GFU_Min; GFU_Name; GFT_String
VALUE_NAMES = ("value", "class", "code")


def class_names(path: Path) -> dict[int, str]:
    """Names by pixel value; empty where there are none, or they cannot be read."""
    for file in (path.with_name(f"{path.name}.aux.xml"), path):
        if file.suffix.lower() in (".xml", ".vrt") and file.is_file() and file.stat().st_size <= LARGEST:
            try:
                band = _first_band(ElementTree.fromstring(file.read_bytes()))
            except (ElementTree.ParseError, ValueError, OSError):
                continue
            found = {} if band is None else dict(_categories(band)) or dict(_attributes(band))
            if found:
                return found
    return {}


def _first_band(root: Element) -> Element | None:
    return next((node for node in root.iter() if node.tag in BANDS and node.get("band", "1") == "1"), None)


def _categories(band: Element) -> Iterator[tuple[int, str]]:
    """The n-th name is that of value n."""
    for number, node in enumerate(band.findall("CategoryNames/Category")):
        if name := (node.text or "").strip():
            yield number, name


def _attributes(band: Element) -> Iterator[tuple[int, str]]:
    table = band.find("GDALRasterAttributeTable")
    if table is None:
        return
    fields = [tuple((node.findtext(tag) or "").strip() for tag in ("Name", "Type", "Usage"))
              for node in table.findall("FieldDefn")]  # fmt: skip
    numbers = range(len(fields))
    value = next((i for i in numbers if fields[i][2] in VALUE_USAGES or fields[i][0].lower() in VALUE_NAMES), None)
    name = next((i for i in numbers if fields[i][2] == NAME_USAGE), None)
    if name is None:
        name = next((i for i in numbers if fields[i][1] == TEXT_TYPE), None)
    if value is None or name is None:
        return
    for row in table.findall("Row"):
        cells = [(node.text or "").strip() for node in row.findall("F")]
        if max(value, name) < len(cells) and cells[name]:
            try:
                yield round(float(cells[value])), cells[name]
            except (ValueError, OverflowError):
                continue
