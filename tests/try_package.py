"""Install built packages, each in an empty environment, and run README's commands there.

    python tests/try_package.py --python python3 dist/*.whl dist/*.tar.gz

The text is the standard library's own sources; README's thousands of steps become a few, everything
else is run as it stands. ``make wheel`` calls this; it needs what pip needs, and minutes.
"""

import argparse
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
STEPS = {"10000 --checkpoint_dir": "8 --checkpoint_dir", "20000": "12"}
TEXT_BYTES = 1_500_000
PAGE = 2500


def main() -> None:
    """Try every package that is named."""
    options = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    options.add_argument("--python", default=sys.executable, help="the interpreter to install for")
    options.add_argument("packages", nargs="+", type=Path)
    chosen = options.parse_args()
    for package in chosen.packages:
        print(f"trying {package}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            try_package(package.resolve(), chosen.python, Path(folder))


def try_package(package: Path, python: str, folder: Path) -> None:
    """Install ``package`` in an environment of its own below ``folder``, and use it there."""
    environment = folder / "environment"
    run([python, "-m", "venv", str(environment)], folder)
    binaries = environment / ("Scripts" if sys.platform == "win32" else "bin")
    run([str(binaries / "python"), "-m", "pip", "install", "--quiet", str(package)], folder)
    (folder / "raw_text.txt").write_text(some_text(), encoding="utf-8")
    run([str(binaries / "lmkit"), "--version"], folder)
    for command in shell_commands(README.read_text(encoding="utf-8")):
        run(["sh", "-c", f'PATH="{binaries}:$PATH"; {command}'], folder)
    for place, code in enumerate(blocks(README.read_text(encoding="utf-8"), "python")):
        work = folder / f"python-{place}"
        work.mkdir()
        (work / "raw_text.txt").write_text(some_text(), encoding="utf-8")
        run([str(binaries / "python"), "-c", code], work)


def shell_commands(readme: str) -> list[str]:
    """The commands of "from file to model", with a few steps instead of thousands."""
    (pipeline,) = [block for block in blocks(readme, "sh") if "train-tokenizer --data" in block]
    for many, few in STEPS.items():
        pipeline = pipeline.replace(many, few)
    lines = [line for line in pipeline.splitlines() if line and not line.startswith("#")]
    return "\n".join(lines).replace("\\\n", " ").splitlines()


def blocks(markdown: str, language: str) -> list[str]:
    """The code blocks of ``language``."""
    return re.findall(rf"^```{language}\n(.*?)^```$", markdown, re.DOTALL | re.MULTILINE)


def some_text() -> str:
    """Some of the standard library's sources, in documents of a page."""
    text = ""
    for source in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text += source.read_text(encoding="utf-8", errors="replace")
        if len(text) > TEXT_BYTES:
            break
    pages = [text[start : start + PAGE] for start in range(0, len(text), PAGE)]
    return "".join(page + "<|endoftext|>" for page in pages)


def run(command: list[str], folder: Path) -> None:
    """Run ``command`` in ``folder``, shown; leave with its code where it fails."""
    print("$ " + " ".join(command[:2] + [part[:200] for part in command[2:]]), flush=True)
    done = subprocess.run(command, cwd=folder, check=False)
    if done.returncode:
        sys.exit(f"error: exit {done.returncode} of {command}")


if __name__ == "__main__":
    main()
