"""Which picture formats are read, which are known but refused, and how a file begins.

Read: JPEG (with MPO and progressive), PNG (with APNG), WebP, GIF, BMP, TIFF, PPM/PGM/PBM, AVIF. Of a file
with several frames or pages, the first. Refused on purpose: formats that run another program (EPS, PDF),
formats whose decoders are rarely used and often patched (PSD, ICNS, JPEG 2000, ...), and TGA, which has no
signature, so that any bytes might be one.
"""

from __future__ import annotations

# Pillow's names, the commonest first: they are tried in this order.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")

FORMAT_LIST = "JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF"

EXTENSIONS = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".png",
        ".apng",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".avif",
    }
)

# Pictures by their name, in formats that are not read: never silently passed over.
UNREAD_EXTENSIONS = frozenset(
    {
        ".heic",
        ".heif",
        ".jp2",
        ".j2k",
        ".jpx",
        ".jxl",
        ".psd",
        ".svg",
        ".eps",
        ".pdf",
        ".ico",
        ".icns",
        ".tga",
        ".dds",
        ".exr",
        ".hdr",
        ".xcf",
        ".dcm",
        ".fits",
        ".raw",
        ".dng",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".orf",
        ".rw2",
    }
)

_READ_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
)

_OTHER_SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the picture: fetch it with 'git lfs pull'"),
    (b"8BPS", "a Photoshop file"),
    (b"%!PS", "a PostScript file"),
    (b"%PDF", "a PDF"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 file"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (b"\x00\x00\x01\x00", "an icon file"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML file"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"PK\x03\x04", "a zip archive"),
)


def explain_unidentified(head: bytes) -> str:
    """Say why a file beginning with `head` (its first 32 bytes or more) is not taken for a picture."""
    if not head:
        return "empty file"
    for signature, name in _READ_SIGNATURES:
        if head.startswith(signature):
            return f"damaged: begins like {name}, but its header cannot be read"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "damaged: begins like WebP, but its header cannot be read"
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in (b"avif", b"avis"):
            return "damaged: begins like AVIF, but its header cannot be read"
        if brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
            return "a HEIC/HEIF picture, a format that is not read: convert it to JPEG or PNG"
    lowered = head.lstrip().lower()
    for signature, name in _OTHER_SIGNATURES:
        if head.startswith(signature) or lowered.startswith(signature):
            return name if "pointer" in name else f"{name}, not a format that is read ({FORMAT_LIST})"
    if not any(head):
        return "begins with zeros only: the file was probably never written completely"
    return f"not a picture in a format that is read ({FORMAT_LIST})"
