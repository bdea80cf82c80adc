"""All measurements of time, memory and disk in one go: tables in ``benchmarks/RESULTS.md``.

    make bench                       # all sections: about 25 minutes
    make bench BENCH="--quick"       # fewer and smaller cases, to see that everything runs
    make bench BENCH="--sections growth epoch"

Each section stands between two markers, and only what stands between them is replaced.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import checkpoints
import compare
import cost
import epoch
import growth
import memory
import torch
from timing import Effort, describe_machine

RESULTS = Path(__file__).parent / "RESULTS.md"

SECTIONS: dict[str, Callable[[Effort], str]] = {
    **{f"comparison at {side}²": partial(compare.report, side=side) for side in compare.SIDES},
    "observation": cost.report,
    "growth": growth.report,
    "memory": memory.report,
    "checkpoints": checkpoints.report,
    "epoch": epoch.report,
}
SLOWEST = f"comparison at {compare.SIDES[-1]}²"  # not tried in a quick run


def replace_section(text: str, name: str, body: str) -> str:
    """Put ``body`` between the markers of a section.

    Raises:
        ValueError: ``text`` does not have these markers exactly once.
    """
    start, end = f"<!-- bench: {name} -->\n", f"<!-- end of bench: {name} -->\n"
    pattern = re.compile(f"({re.escape(start)}).*?({re.escape(end)})", re.DOTALL)
    count = len(pattern.findall(text))
    if count != 1 or text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"the markers {start.strip()!r} and {end.strip()!r} must be there once.")
    return pattern.sub(lambda found: f"{found[1]}\n{body.strip()}\n\n{found[2]}", text)


def measure(name: str, effort: Effort) -> str:
    """The tables of a section, under a line that says when and on what they were measured."""
    before, start = os.getloadavg()[0], time.perf_counter()
    body = SECTIONS[name](effort)
    minutes = (time.perf_counter() - start) / 60
    kind = ", quick" if effort.quick else ""
    how = (
        f"{datetime.date.today()}{kind}, {minutes:.1f} minutes; {describe_machine()}; "
        f"load average {before:.1f} before, {os.getloadavg()[0]:.1f} after "
        "(1 if nothing else runs)."
    )
    return f"{body.strip()}\n\n{how}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    listed = ", ".join(SECTIONS)
    parser.add_argument(
        "--sections", nargs="+", metavar="WORD", default=[""], help=f"words of: {listed}"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of the comparison at 224²")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    effort = Effort(arguments.rounds, arguments.quick)
    chosen = [name for name in SECTIONS if any(word in name for word in arguments.sections)]
    if arguments.quick:
        chosen = [name for name in chosen if name != SLOWEST]
    for name in chosen:
        print(f"\n{name}\n", flush=True)
        body = measure(name, effort)
        print(body, flush=True)
        # Each section is written at once: a run that is interrupted keeps what it has found.
        text = replace_section(arguments.results.read_text(), name, body)
        arguments.results.write_text(text)


if __name__ == "__main__":
    main()
