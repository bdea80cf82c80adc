"""How far the maps of whole networks are from the reference, by family: a table in Markdown.

    python benchmarks/exactness.py          # networks up to 100 million parameters: two minutes
    python benchmarks/exactness.py --all    # and those above: six, and 7 GB of memory

It runs ``tests/attribution/test_zoo.py``, which holds the networks and the bounds, and sums up the
properties that each test records.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

ZOO = Path(__file__).resolve().parents[1] / "tests/attribution/test_zoo.py"
FAMILIES = (
    *("alexnet", "convnext", "densenet", "efficientnet_v2", "efficientnet", "googlenet"),
    *("inception", "maxvit", "mnasnet", "mobilenet_v2", "mobilenet_v3", "regnet", "resnet"),
    *("resnext", "shufflenet", "squeezenet", "swin_v2", "swin", "vgg", "vit", "wide_resnet"),
)


def run(everything: bool) -> list[dict[str, str]]:
    """The name of each test, with the activations and errors that it recorded."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "zoo.xml")
        chosen = ["-m", "" if everything else "not slow"]
        options = ["-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit1"]
        if pytest.main([str(ZOO), *chosen, *options, f"--junitxml={report}"]):
            sys.exit("a network is not exact, see above")
        cases = ElementTree.parse(report).iter("testcase")
        return [
            {"test": case.attrib["name"]}
            | {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")}
            for case in cases
        ]


def family(test: str) -> str:
    """``efficientnet`` for ``test_torchvision[efficientnet_b0]``; timm counts as one family."""
    library, name = re.fullmatch(r"test_([a-z]+)\w*\[(.+)\]", test).groups()
    return library if library == "timm" else next(f for f in FAMILIES if name.startswith(f))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--all", action="store_true", help="also those of over 100 million parameters"
    )
    families = defaultdict(list)
    for found in run(parser.parse_args().all):
        families[family(found["test"])].append(found)
    print("\n| family | networks | activations | float64 | float32 |\n|---|---|---|---|---|")
    for name, members in sorted(families.items()):
        kinds = sorted({kind for found in members for kind in found["activations"].split()})
        worst = [max(float(found[p]) for found in members) for p in ("float64", "float32")]
        errors = " | ".join("0" if error == 0 else f"{error:.0e}" for error in worst)
        print(f"| {name} | {len(members)} | {', '.join(kinds)} | {errors} |")


if __name__ == "__main__":
    main()
