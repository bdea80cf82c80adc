"""The commands of ``lightning-saliency``: parse their arguments, carry them out, print."""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from lightning_saliency.check.difference import draw
from lightning_saliency.check.evaluate import Candidate, evaluate
from lightning_saliency.check.moves import ENOUGH
from lightning_saliency.check.reference import REFERENCE_FILE, Reference
from lightning_saliency.check.report import (
    TerminalStyle,
    accepting,
    as_json,
    as_junit,
    as_text,
)
from lightning_saliency.check.requirements import DEFAULT, merge
from lightning_saliency.check.verdict import EXIT_CODES, Verdict
from lightning_saliency.cli.models import (
    ABOUT_MODELS,
    Confirmation,
    add_model_options,
    names_model,
    reference_from_checkpoints,
)
from lightning_saliency.cli.sizes import describe_size, parse_size
from lightning_saliency.cli.tables import compare_runs, describe_run
from lightning_saliency.draw.canvas import encode
from lightning_saliency.errors import NotComparableError, RecordError, SaliencyError
from lightning_saliency.functional.text import plain
from lightning_saliency.record.facts import VERDICT_FILE
from lightning_saliency.record.run import Run, open_run
from lightning_saliency.storage.files import write_whole
from lightning_saliency.storage.places import Place, find_place
from lightning_saliency.viewer.record import Record
from lightning_saliency.viewer.report import BUDGET, build_report, open_records
from lightning_saliency.viewer.verdict import ShownVerdict

USAGE_OR_DAMAGE = 2

_ABOUT = """\
Find out when a model looks somewhere else, even if its accuracy rises.

Runs trained with `SaliencyCallback` record where the gradient of the label lies. Make a reference
from good runs, preferably three or more with different seeds, and check other runs against it:

  lightning-saliency reference logs/version_0 logs/version_1 logs/version_2 -o attention
  lightning-saliency check logs/version_3 --reference attention

Good models that were trained without the callback serve as well, from their checkpoints:

  lightning-saliency reference --model train:Net --ckpt 1.ckpt --ckpt 2.ckpt --ckpt 3.ckpt \\
      --probe probe.safetensors -o attention

RUN is the log folder of a run, the callback's folder inside it, or the folder around it if there is
no other run. The last observation of a run is the one that counts. RUN, DIR and F may be URLs that
fsspec knows, such as s3://bucket/logs."""

_REQUIREMENTS = """\
requirements:
  moved_mass <= auto     no more of the gradient has moved than good runs differ by
  image_moved_mass <= auto
                         the same image by image, for what is elsewhere in each image
  *.share within auto    each region with a mask has the share that it has in good runs
  object.share >= 0.6    the region 'object' has at least 60 % of the gradient
  mark.share <= 0.05     the region 'mark' has at most 5 % of the gradient"""

_REPORT = """\
The file needs no network and no server: send it, or keep it as an artifact of a build. One run can
be compared with another in it. The verdict is that of the last `check` unless a reference is given.
The exit code says only whether the file was written; use `check` to fail a build."""

_BUDGET = (
    "the largest size of the file, such as 500kB or 25MB (default: %(default)s); maps lose levels "
    "of strength, then pixels, then observations to fit, and the file says so"
)

_EXIT_CODES = """\
exit codes:
  0  pass              1  regression        2  wrong usage or a damaged file
  3  no reference      4  not comparable    5  inconclusive"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Errors that a user can cause are printed to stderr as a single line without a traceback.

    Args:
        arguments: The arguments of the command line; those of the process by default.
    """
    for stream in (sys.stdout, sys.stderr):
        # Names from data may have letters that the terminal's encoding lacks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    options = _parser().parse_args(arguments)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except NotComparableError as error:
        return _refuse(error, EXIT_CODES["not comparable"])
    except (SaliencyError, ValueError, OSError) as error:
        return _refuse(error, USAGE_OR_DAMAGE)


def _refuse(why: object, code: int) -> int:
    message = " ".join(str(why).splitlines())
    print(f"lightning-saliency: {plain(message)}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _command(argparse.ArgumentParser, "lightning-saliency", _ABOUT, _EXIT_CODES)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")

    def add(name: str, command: Callable[..., int], about: str, end: str = "") -> _Parser:
        made = _command(commands.add_parser, name, about, end, help=about.splitlines()[0])
        made.set_defaults(command=command, error=made.error)
        return made

    about = "Make a reference from good runs, or from checkpoints of good models."
    made = add("reference", _reference, about, f"{_REQUIREMENTS}\n\n{ABOUT_MODELS}")
    _add_good(made, "log folder of a good run")
    made.add_argument("-o", "--output", required=True, metavar="DIR", help="where to write it")
    _add_require(made, "replaces the first two requirements below; may be repeated")
    made.add_argument("--reason", default="", metavar="TEXT", help="why the runs are good")

    end = "\n\n".join((_REQUIREMENTS, ABOUT_MODELS, _EXIT_CODES))
    made = add("check", _check, "Check a run against a reference.", end)
    _add_check(made)

    about = "Accept a change: replace the reference with new runs or models."
    made = add("approve", _approve, about, ABOUT_MODELS)
    _add_good(made, "log folder of a run; three are better than one")
    made.add_argument("--reference", required=True, metavar="DIR", help="folder of the reference")
    made.add_argument("--reason", required=True, metavar="TEXT", help="why the change is right")

    made = add("diff", _diff, "Compare where two runs look.")
    made.add_argument("first", metavar="RUN_A")
    made.add_argument("second", metavar="RUN_B")

    made = add("show", _show, "Show what a run has recorded.")
    made.add_argument("run", metavar="RUN")

    made = add("report", _report, "Write runs into one HTML file that opens anywhere.", _REPORT)
    _add_report(made)
    return parser


_Parser = argparse.ArgumentParser


def _add_require(parser: _Parser, about: str) -> None:
    parser.add_argument("--require", action="append", metavar="S", help=about)


def _add_good(made: _Parser, runs: str) -> None:
    made.add_argument("runs", metavar="RUN", nargs="*", help=runs)
    probe = "the images to explain, a file of `ProbeBatch.save`; by default the checkpoint's own"
    add_model_options(made, probe, several=True)


def _add_check(made: _Parser) -> None:
    made.add_argument("run", metavar="RUN", help="log folder of the run")
    made.add_argument("--reference", required=True, metavar="DIR", help="folder of the reference")
    _add_require(made, "added to what the reference requires; may be repeated")
    strict = "turn warnings into failures, even those of a single class"
    made.add_argument("--strict", action="store_true", help=strict)
    made.add_argument("--json", metavar="F", help="write the verdict to F as JSON")
    made.add_argument("--junit", metavar="F", help="write the verdict to F as JUnit XML")
    probe = "the run's probe, a file of `ProbeBatch.save`; by default the one in the checkpoint"
    add_model_options(made, probe, several=False)


def _add_report(made: _Parser) -> None:
    made.add_argument("runs", metavar="RUN", nargs="+", help="log folder of a run")
    output = "the HTML file to write, or to replace"
    made.add_argument("-o", "--output", required=True, metavar="F", type=Path, help=output)
    judge = "folder of a reference, to put a verdict into the file"
    made.add_argument("--reference", metavar="DIR", help=judge)
    # The default is shown as one word, which a shell passes on as one.
    default = describe_size(BUDGET).replace(" ", "")
    made.add_argument("--budget", default=default, metavar="SIZE", help=_BUDGET)


def _command(make: Callable[..., _Parser], name: str, about: str, end: str, **more: str) -> _Parser:
    keep_lines = argparse.RawDescriptionHelpFormatter
    return make(name, description=about, epilog=end, formatter_class=keep_lines, **more)


def _reference(options: argparse.Namespace) -> int:
    _check_good(options)
    output = find_place(options.output)
    if (output / REFERENCE_FILE).exists():
        raise RecordError(
            f"there already is a reference in {output}. Replace it with "
            "`lightning-saliency approve`, which asks for a reason"
        )
    reference = _make_reference(options, options.require or DEFAULT)
    reference.save(output)
    _print_reference(reference, output, options.runs)
    return 0


def _check_good(options: argparse.Namespace) -> None:
    """End the program unless there are either runs or checkpoints on the command line."""
    if names_model(options) == bool(options.runs):
        options.error("give either RUN, once for each good run, or --model and --ckpt")


def _make_reference(options: argparse.Namespace, require: Sequence[str]) -> Reference:
    """Make a reference from the runs or from the checkpoints on the command line."""
    if options.runs:
        return Reference.from_runs(options.runs, require, reason=options.reason)
    return reference_from_checkpoints(options, require)


def _print_reference(reference: Reference, folder: Place, runs: Sequence[str]) -> None:
    count, images = len(reference.runs), len(reference.info.images)
    kind = "run" if runs else "model"
    print(f"{plain(str(folder))}: {count} {kind}{'s' * (count > 1)}, {images} images")
    for requirement in reference.requirements:
        print(f"  requires  {plain(requirement.text)}")
    if count < ENOUGH:
        few = f"Fewer than three {kind}s have no usable spread"
        print(f"  {few}: would-be failures are only warnings.")
    for run in runs:
        if not open_run(run).info.finished:
            print(f"  {plain(run)} is unfinished or was interrupted.")


def _check(options: argparse.Namespace) -> int:
    if not (find_place(options.reference) / REFERENCE_FILE).exists():
        why = f"there is none in {options.reference}; {_advise_reference(options.reference)}"
        verdict = Verdict("no reference", why=why)
        return _print_verdict(options, verdict, options.run)
    reference = Reference.load(options.reference)
    run = open_run(options.run)
    if not run.steps():
        verdict = Verdict("inconclusive", why="the run has recorded no observation yet")
        return _print_verdict(options, verdict, options.run)
    requirements = merge(reference.requirements, options.require)
    # Whether the options are right must not depend on the verdict, so the model is loaded first.
    model = Confirmation.load(options, run) if names_model(options) else None
    candidate = Candidate(run.info, run.last(), run.info.metrics)
    verdict = evaluate(candidate, reference, requirements, strict=options.strict)
    doubt = ""
    if model is not None and verdict.confirmable:
        verdict, doubt = model.confirm(verdict, run, candidate.observation)
    pictures = _draw(run, candidate, reference, verdict) if verdict.doubtful else ""
    with suppress(OSError):  # Whoever may only read the run still gets the verdict.
        data = as_json(verdict, run.info.name, candidate.observation).encode()
        write_whole(run.folder / VERDICT_FILE, data)
    unfinished = "" if run.info.finished else " (unfinished run)"
    name = f"{options.run} at {candidate.observation.caption}{unfinished}"
    return _print_verdict(options, verdict, name, pictures, doubt)


def _draw(run: Run, candidate: Candidate, reference: Reference, verdict: Verdict) -> str:
    """Write the picture of the difference into the run's folder.

    Returns:
        Where it is, or why it could not be written, which must not hide the verdict.
    """
    path = run.folder / "attention.png"
    try:
        write_whole(path, encode(draw(candidate, reference, verdict), "png"))
    except OSError as error:
        return f"not written: {error}"
    return str(path)


def _print_verdict(
    options: argparse.Namespace, verdict: Verdict, name: str, pictures: str = "", doubt: str = ""
) -> int:
    report = partial(
        as_text,
        verdict,
        name,
        pictures=plain(pictures),
        accept=accepting(options.run, options.reference),
        unconfirmed=doubt,
    )
    print(report(style=_terminal_style()), flush=True)
    if options.json:
        _write(options.json, as_json(verdict, name).encode())
    if options.junit:
        _write(options.junit, as_junit(verdict, name, report()))
    return verdict.exit_code


def _write(where: str, data: bytes) -> None:
    """Write a file completely or not at all, but write into pipes and devices directly."""
    path = find_place(where)
    if isinstance(path, Path) and (path.is_symlink() or (path.exists() and not path.is_file())):
        path.write_bytes(data)
    else:
        write_whole(path, data)


def _terminal_style() -> TerminalStyle:
    """Use colours in a terminal, unless they are not wanted (https://no-color.org)."""
    return TerminalStyle(sys.stdout.isatty() and not os.environ.get("NO_COLOR"))


def _approve(options: argparse.Namespace) -> int:
    _check_good(options)
    folder = find_place(options.reference)
    if not options.reason.strip():
        raise ValueError("`--reason` must say why the change is right")
    if not (folder / REFERENCE_FILE).exists():
        return _refuse(_no_reference(folder), EXIT_CODES["no reference"])
    before = Reference.load(folder)
    requirements = [requirement.text for requirement in before.requirements]
    after = _make_reference(options, requirements)
    after.following(before).save(folder)
    _print_reference(after, folder, options.runs)
    return 0


def _no_reference(folder: object) -> str:
    return f"there is no reference in {folder}; {_advise_reference(folder)}"


def _advise_reference(folder: object) -> str:
    where = shlex.quote(str(folder))
    return f"make one: lightning-saliency reference RUN RUN RUN -o {where}"


def _diff(options: argparse.Namespace) -> int:
    first, second = open_run(options.first), open_run(options.second)
    print(compare_runs(first, second, (options.first, options.second)))
    return 0


def _show(options: argparse.Namespace) -> int:
    print(describe_run(open_run(options.run)))
    return 0


def _report(options: argparse.Namespace) -> int:
    budget = parse_size("--budget", options.budget)
    if options.output.is_dir():
        raise ValueError(f"{options.output} is a folder; name a file, such as report.html in it")
    records = open_records(options.runs)
    verdicts = {}
    if options.reference is not None:
        if not (find_place(options.reference) / REFERENCE_FILE).exists():
            return _refuse(_no_reference(options.reference), EXIT_CODES["no reference"])
        reference = Reference.load(options.reference)
        verdicts = {record.id: _judge(record, reference) for record in records}
    report = build_report(records, verdicts=verdicts, budget=budget)
    data = report.html.encode()
    _write(options.output, data)
    print(f"{plain(str(options.output))}: {describe_size(len(data))}")
    for record, cut in zip(records, report.cut, strict=True):
        verdict = verdicts.get(record.id)
        print(f"  {plain(record.run)}{f': {verdict.outcome}' if verdict else ''}")
        for sentence in cut:
            print(f"    {sentence}")
    return 0


def _judge(record: Record, reference: Reference) -> ShownVerdict:
    """The verdict on a run, as a page shows it."""
    run = open_run(record.folder)
    candidate = Candidate(run.info, run.last(), run.info.metrics)
    verdict = evaluate(candidate, reference, reference.requirements)
    return ShownVerdict.parse(json.loads(as_json(verdict, record.run)))
