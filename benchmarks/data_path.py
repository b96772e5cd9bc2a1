"""How fast training pictures arrive: our loader and packs beside timm's and torchvision's loaders.

Claim: with the augmentation of the recipe deit at 224 pixels and 2 workers, on the photographs of TrashNet,
    folder   a folder of JPEG files: at least 1.5 times the best of timm and torchvision on the same files
    resized  a pack at 224 pixels: at least 1.3 times timm on the same pictures, resized alike, as JPEG files
    pack     a pack at 256 pixels: at least 3 times timm on the folder that it was made from
All contenders in turn in one process, `--n` rounds each; ratios are medians over rounds. torchvision's policy
on tensors (bilinear, which is not the recipe's) is recorded beside, and so is a pack of JPEG files.
Hardware: any CPU with two cores or more. Time: 8 minutes on two cores.
Command: python -m benchmarks.data_path
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.common import data_root, parser, record, version, workspace

FLOORS = {"folder": 1.5, "resized": 1.3, "pack": 3.0}
AGAINST = {
    "folder": "JPEG folder, the best of timm and torchvision on the same files",
    "resized": "pack, timm on the same pictures resized alike",
    "pack": "pack, timm on the folder it was made from",
}


def main() -> int:
    """Pack TrashNet three ways and measure the three rows."""
    options = parser(__doc__, n=7)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--pictures", type=int, default=1024, help="timed in a round (default 1024)")
    options.add_argument("--keep", type=Path, default=None, help="folder for the packs, which stay")
    given = options.parse_args()
    started = time.monotonic()
    folder = data_root() / "trashnet"

    from isopatch.bench.data import LoaderSettings, measure_loaders
    from isopatch.data.packing import pack_data
    from isopatch.image import jpeg, native
    from isopatch.image.contract import InputContract
    from isopatch.recipes.deit import AUGMENT, INPUT

    contract = InputContract(height=224, width=224, **INPUT.model_dump(exclude_none=True))
    settings = LoaderSettings(
        AUGMENT, contract, workers=given.workers, rounds=given.n, pictures=given.pictures
    )
    with workspace("data-path", given.keep) as place:
        packs = {
            "raw256": pack_data(folder, place / "raw256", short_side=256, overwrite=True),
            "jpeg256": pack_data(folder, place / "jpeg256", short_side=256, store="jpeg", overwrite=True),
            "raw224": pack_data(folder, place / "raw224", short_side=224, overwrite=True),
            "jpeg224": pack_data(folder, place / "jpeg224", short_side=224, store="jpeg", overwrite=True),
        }
        rows: dict[str, dict[str, Any]] = {
            "folder": measure_loaders(folder, settings, peers=["timm", "torchvision"]),
            "folder, torchvision bilinear": measure_loaders(folder, settings, peers=["torchvision-bilinear"]),
            # What timm reads here are the files of the JPEG pack, written out: the same pictures.
            "resized": measure_loaders(place / "raw224", settings, peers=["timm"], against=place / "jpeg224"),
            "resized, both jpeg": measure_loaders(place / "jpeg224", settings, peers=["timm"]),
            "pack": measure_loaders(place / "raw256", settings, peers=["timm"], against=folder),
            "pack of jpeg": measure_loaders(place / "jpeg256", settings, peers=["timm"], against=folder),
        }
    ratios = {name: row["ratio_to_best_peer"]["median"] for name, row in rows.items()}
    measured = ", ".join(_words(name, rows[name]["ratio_to_best_peer"]) for name in FLOORS)
    return record(
        "data_path",
        claim="Training pictures a second, `deit` augmentation at 224, against peers at least: "
        + "; ".join(f"{AGAINST[name]} {floor:g}x" for name, floor in FLOORS.items()),
        measured=measured,
        figure={"ratio_to_best_peer": ratios},
        passed=all(ratios[name] >= floor for name, floor in FLOORS.items()),
        n=given.n,
        seed=given.seed,
        started=started,
        out=given.out,
        floors=FLOORS,
        pixel_library=native.load() is not None,
        simplejpeg=version("simplejpeg") if jpeg.load() is not None else None,
        packs={
            name: {key: pack[key] for key in ("bytes", "seconds", "splits")} for name, pack in packs.items()
        },
        rows=rows,
    )


def _words(name: str, ratio: dict[str, Any]) -> str:
    low, high = ratio["quartiles"]
    return f"{name} {ratio['median']:.2f}x ({low:.2f}-{high:.2f})"


if __name__ == "__main__":
    raise SystemExit(main())
