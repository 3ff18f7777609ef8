"""Size of the base (serving) install: a new venv, `pip install warploom`, disk blocks per package.

    python bench/install_size.py

Exit code 1 if the sum, without pip and setuptools, exceeds the limit, or if the installed command does not start.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MEGABYTES = 150
ROOT = Path(__file__).resolve().parent.parent
LIST_SIZES = """
import json
from importlib.metadata import distributions
def blocks(package):
    return sum(512 * f.locate().stat().st_blocks for f in package.files or () if f.locate().is_file())
print(json.dumps({package.metadata["Name"]: blocks(package) for package in distributions()}))
"""


def install(folder: Path) -> Path:
    """Install a copy of this repository into a new venv; return the venv's folder of programs."""
    kept_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests")
    source = shutil.copytree(ROOT, folder / "source", ignore=kept_out)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    programs = folder / "venv" / "bin"
    subprocess.run([programs / "python", "-m", "pip", "install", "--quiet", source], check=True)
    return programs


def main() -> int:
    """Install, print sizes, compare with the limit."""
    with tempfile.TemporaryDirectory() as name:
        programs = install(Path(name))
        listed = subprocess.run([programs / "python", "-c", LIST_SIZES], stdout=subprocess.PIPE, check=True).stdout
        starts = subprocess.run([programs / "warploom", "--version"], cwd=name, check=False).returncode == 0
    sizes = {package: size for package, size in json.loads(listed).items() if package not in ("pip", "setuptools")}
    for package, size in sorted(sizes.items(), key=lambda item: -item[1]):
        print(f"{size / 1e6:8.2f} MB  {package}")
    total = sum(sizes.values()) / 1e6
    print(f"{total:8.2f} MB  in all (limit {MEGABYTES} MB)")
    return int(total > MEGABYTES or not starts)


if __name__ == "__main__":
    sys.exit(main())
