"""The code in the READMEs of the clients, and in the guide."""

import re
from collections.abc import Sequence
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]

GUIDE = ROOT / "docs" / "how-to" / "integrate.md"


def blocks(page: Path, language: str) -> Sequence[str]:
    text = page.read_text(encoding="utf-8")
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, text, re.DOTALL | re.MULTILINE)
