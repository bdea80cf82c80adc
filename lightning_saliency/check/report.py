"""Report a verdict: as text for people, JSON for programs, JUnit's XML for build servers."""

from __future__ import annotations

import json
import math
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lightning_saliency.check.verdict import Finding, Growth, Mark, Moved, Verdict
from lightning_saliency.functional.text import align, figures, plain, shorten
from lightning_saliency.record.observation import Observation

_TITLES = {
    "pass": "PASS",
    "fail": "FAIL",
    "no reference": "NO REFERENCE",
    "not comparable": "NOT COMPARABLE",
    "inconclusive": "INCONCLUSIVE",
}
_COLOURS = {"pass": "32", "fail": "31", "warn": "33", "faint": "2", "bold": "1"}
_WORST = 3  # the most classes or images that are named
_METRICS = 3  # the most metrics that are named
_LONGEST = 60  # the most letters of a name
_NO_ALL_CLEAR = (
    "This is not an all-clear: the model may rely on it together with other places, or on a cue "
    "that is elsewhere. Look at the maps"
)


@dataclass(frozen=True, slots=True)
class TerminalStyle:
    """Colours text for a terminal, or leaves it as it is if ``on`` is false."""

    on: bool = False

    def __call__(self, text: str, kind: str) -> str:
        """Return ``text`` in the colour of ``kind``."""
        return f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m" if self.on and kind in _COLOURS else text


_PLAIN = TerminalStyle()


def as_text(
    verdict: Verdict,
    name: str,
    *,
    style: TerminalStyle = _PLAIN,
    pictures: str = "",
    accept: str = "",
    unconfirmed: str = "",
) -> str:
    """Report a verdict to a person: the outcome, the findings behind it, and what to do.

    Args:
        verdict: The verdict.
        name: The name of the run.
        style: The colours.
        pictures: Where the picture of the difference is; empty if there is none.
        accept: The command that accepts the change; empty if there is none.
        unconfirmed: Why a model at hand could not confirm the verdict; empty if it did.
    """
    lines = [_headline(verdict, name, style)]
    lines += _table(verdict, style)
    if verdict.left_out and verdict.outcome != "inconclusive":
        lines.append(f"  {_describe_left_out(verdict.left_out)}")
    if verdict.doubtful:
        lines += [f"  {line}" for line in _explain(verdict)]
    if unconfirmed:
        lines.append(f"  Not confirmed: {plain(unconfirmed)}")
    if pictures:
        lines.append(f"  Pictures: {pictures}")
    if verdict.failed and accept:
        intended = "  If the change is intended (three new runs are better than one):"
        lines += [intended, f"    {style(accept, 'bold')}"]
    return "\n".join(lines)


def accepting(run: str, reference: str) -> str:
    """The command that makes ``run`` the reference in the folder ``reference``."""
    where = f"{shlex.quote(run)} --reference {shlex.quote(reference)}"
    return plain(f"lightning-saliency approve {where} --reason '…'")


def _headline(verdict: Verdict, name: str, style: TerminalStyle) -> str:
    kind = {"pass": "pass", "fail": "fail"}.get(verdict.outcome, "warn")
    against = ""
    if verdict.good_runs:
        against = f", against {verdict.good_runs} good run{'s' * (verdict.good_runs > 1)}"
    why = f": {plain(verdict.why)}" if verdict.why else ""
    title = style(_TITLES[verdict.outcome], kind)
    if verdict.outcome == "pass" and verdict.warnings:
        title += style(", with warnings", "warn")
    return f"{title}  {plain(name)}{against}{why}"


def _short(name: str) -> str:
    """Shorten the name of a class or an image so that several fit on a line."""
    return plain(shorten(name, _LONGEST))


def _describe_left_out(count: int) -> str:
    many = f"{count} images left out: their maps are"
    images = "1 image left out: its map is" if count == 1 else many
    return f"{images} all zero or not finite, here or in a good run"


def _table(verdict: Verdict, style: TerminalStyle) -> Iterable[str]:
    """One line per finding; if no finding fails, also one per class that moved too far."""
    rows: list[tuple[Mark, str, str, str, str]] = [
        (f.mark, plain(f.measure), figures(f.value), describe_bounds(f), _describe_source(f))
        for f in verdict.findings
    ]
    classes = () if verdict.violations else verdict.surprising_classes
    for c in classes[:_WORST]:
        about = (f"moved_mass of {_short(c.name)}", figures(c.moved), f"at most {c.bound:.3f}")
        rows.append(("fail" if verdict.failed else "warn", *about, "(this class alone)"))
    for line, (mark, *_, source) in zip(align(rows), rows, strict=True):
        # Colours are added to the aligned line, where they cannot count as part of its width.
        middle = line.removeprefix(mark).removesuffix(source)
        yield f"  {style(mark, mark)}{middle}{style(source, 'faint')}"
    if len(classes) > _WORST:
        yield f"  … and {len(classes) - _WORST} more classes"


def _describe_source(finding: Finding) -> str:
    area = "" if finding.area is None else f"; {finding.area:.1%} of the area"
    return f"({plain(finding.source)}{area})"


def describe_bounds(finding: Finding) -> str:
    """The bounds of a finding in words."""
    low, high = (None if b is None else figures(b) for b in (finding.low, finding.high))
    if low is None:
        return f"at most {high}"
    return f"at least {low}" if high is None else f"{low} to {high}"


def _explain(verdict: Verdict) -> Iterable[str]:
    """What grew, whether the model relies on it, which images changed, and how accurate it is."""
    if (growth := verdict.growth) is not None:
        yield f"What grew: {plain(describe_growth(growth))}"
    if (hidden := verdict.occluded) is not None:
        lowers = hidden.after < hidden.before
        verb = "lowers" if lowers else "does not lower"
        probabilities = f"{hidden.before:.3f} with it, {hidden.after:.3f} without"
        yield f"Hiding it {verb} the probability of the label: {probabilities}"
        if not lowers:
            yield _NO_ALL_CLEAR
    for kind, moves in (("Classes", verdict.classes), ("Images", verdict.images)):
        if moves:
            yield f"{kind} that moved most: {_name_worst(moves)}"
    if metrics := _compare_metrics(verdict):
        yield f"The run's own metrics: {metrics}"


def describe_growth(growth: Growth) -> str:
    """What grew, in words, and whether it is a place at all."""
    gain = f"{growth.place}, from {growth.before:.1%} to {growth.now:.1%} of the gradient"
    if not growth.scattered:
        return gain
    cause = "as after a change of recipe, or by a cue at several places or without a place"
    return f"no one place: the whole profile shifted, {cause} (most: {gain})"


def _name_worst(moves: Sequence[Moved]) -> str:
    return ", ".join(f"{_short(m.name)} ({m.moved:.2f})" for m in moves[:_WORST])


def _compare_metrics(verdict: Verdict) -> str:
    """The accuracy next to that of the good runs; the first few metrics if none is an accuracy."""
    known = [n for n in verdict.metrics if n in verdict.reference_metrics or not verdict.good_runs]
    chosen = [n for n in known if "acc" in n.lower()] or known
    parts = []
    for name in chosen[:_METRICS]:
        part = f"{plain(name)} {verdict.metrics[name]:.3f}"
        if name in verdict.reference_metrics:
            part += f" (good runs {verdict.reference_metrics[name]:.3f})"
        parts.append(part)
    return ", ".join(parts)


def as_json(verdict: Verdict, name: str, observation: Observation | None = None) -> str:
    """Report a verdict to a program: one JSON object, with numbers at full precision.

    Args:
        verdict: The verdict.
        name: The name of the run.
        observation: What was judged, if anything was.
    """
    content: dict[str, Any] = {"run": name, **asdict(verdict)}
    content |= {"exit_code": verdict.exit_code, "warnings": list(verdict.warnings)}
    if observation is not None:
        content |= {"step": observation.step, "caption": observation.caption}
    return json.dumps(_without_nan(content), indent=1, allow_nan=False)


def _without_nan(value: Any) -> Any:
    """Replace numbers that are not finite by ``None``, because JSON has no words for them."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_junit(verdict: Verdict, name: str, text: str) -> bytes:
    """Report a verdict to a build server: one test case per finding.

    Args:
        verdict: The verdict.
        name: The name of the run.
        text: The report of :func:`as_text`, without colours.
    """
    judged = verdict.outcome in ("pass", "fail")
    suite = ET.Element("testsuite", name="attention")
    for finding in verdict.findings:
        title = plain(f"{finding.requirement} [{finding.measure}]")
        case = ET.SubElement(suite, "testcase", classname=plain(name), name=title)
        if finding.mark == "fail":
            value, bounds = figures(finding.value), describe_bounds(finding)
            message = f"{finding.measure} is {value}; allowed: {bounds}"
            ET.SubElement(case, "failure", message=plain(message))
    # Classes alone are a failure only if warnings are failures.
    classes_fail = verdict.failed and not verdict.violations
    for moved in verdict.surprising_classes if classes_fail else ():
        title = plain(f"no class moves further than in good runs [{moved.name}]")
        case = ET.SubElement(suite, "testcase", classname=plain(name), name=title)
        value, bound = f"{moved.moved:.3f}", f"{moved.bound:.3f}"
        message = f"moved_mass of {moved.name} is {value}; allowed: at most {bound}"
        ET.SubElement(case, "failure", message=plain(message))
    if not judged or not verdict.findings:
        case = ET.SubElement(suite, "testcase", classname=plain(name), name=verdict.outcome)
        if not judged:
            ET.SubElement(case, "error", message=plain(f"{verdict.outcome}: {verdict.why}"))
    ET.SubElement(suite, "system-out").text = "\n".join(map(plain, text.splitlines()))
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    data: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return data
