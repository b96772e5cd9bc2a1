"""Write src/isopatch/models/sizes/published.json: published weights of each name, and its measured parity.

Weights come from timm's table of pretrained models, errors from results/parity_published.json.

    python tools/make_published.py           # after a new timm or a new measurement
    python tools/make_published.py --check   # exit with 1 where the file is not what this would write
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))
TARGET = ROOT / "src" / "isopatch" / "models" / "sizes" / "published.json"


def published() -> dict[str, dict[str, Any]]:
    """Name -> {"checkpoints": [[hub id, classes, licence], ...], "parity": {type: relative error}}."""
    import timm

    from isopatch.models.table import MODELS

    measured = json.loads((ROOT / "results" / "parity_published.json").read_text(encoding="utf-8"))["errors"]
    table: dict[str, dict[str, Any]] = {}
    for name in MODELS:
        facts: dict[str, Any] = {}
        weights = [
            [tag.hf_hub_id, tag.num_classes, tag.license]
            for tag in (timm.models.get_arch_pretrained_cfgs(name) if timm.is_model(name) else {}).values()
            if tag.hf_hub_id and str(tag.hf_hub_id).startswith("timm/")
        ]
        if weights:
            facts["checkpoints"] = weights
        if name in measured:
            facts["parity"] = {
                kind: max((errors.values()), key=float) for kind, errors in measured[name].items()
            }
        if facts:
            table[name] = facts
    return table


def text() -> str:
    """One line a name."""
    lines = [f"{json.dumps(name)}: {json.dumps(facts)}" for name, facts in published().items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> int:
    """Write or check."""
    wanted = text()
    if "--check" in sys.argv[1:]:
        return 0 if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == wanted else 1
    TARGET.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
