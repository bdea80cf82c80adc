"""A verdict in words for people, in JSON for programs, in JUnit's XML for build servers."""

from __future__ import annotations

import json
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from lightning_saliency.check.verdict import Finding, Moved, Verdict
from lightning_saliency.functional.text import figures, plain, shorten

_TITLES = {
    "pass": "PASS",
    "fail": "FAIL",
    "no reference": "NO REFERENCE",
    "not comparable": "NOT COMPARABLE",
    "inconclusive": "INCONCLUSIVE",
}
_COLOURS = {"pass": "32", "fail": "31", "warn": "33", "faint": "2", "bold": "1"}
_WORST = 3  # classes that are named
_ACCURATE = 3  # metrics that are named
_LONGEST = 60  # letters of a name


@dataclass(frozen=True, slots=True)
class TerminalStyle:
    """Colours of a terminal, or none."""

    on: bool = False

    def __call__(self, text: str, kind: str) -> str:
        """``text`` in the colour of ``kind``."""
        return f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m" if self.on and kind in _COLOURS else text


_PLAIN = TerminalStyle()


def as_text(
    verdict: Verdict,
    name: str,
    *,
    style: TerminalStyle = _PLAIN,
    pictures: str = "",
    accept: str = "",
) -> str:
    """A verdict as a person reads it: what came of it, what it is drawn from, what to do.

    Args:
        verdict: The verdict.
        name: Of the run.
        style: Colours.
        pictures: Where pictures of the difference are.
        accept: The command that accepts the change.
    """
    lines = [_headline(verdict, name, style)]
    lines += _table(verdict, style)
    if verdict.left_out and verdict.outcome != "inconclusive":
        lines.append(f"  {_left_out(verdict.left_out)} all zero or not finite")
    if verdict.doubtful:
        lines += [f"  {line}" for line in _explained(verdict)]
    if pictures:
        lines.append(f"  Pictures: {pictures}")
    if verdict.outcome == "fail" and accept:
        meant = "  If the change is meant (better with three new runs than with one):"
        lines += [meant, f"    {style(accept, 'bold')}"]
    return "\n".join(lines)


def accepting(run: str, reference: str) -> str:
    """The command that lets ``run`` be the reference in the folder ``reference``."""
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
    """The name of a class or an image, short enough for one line."""
    return plain(shorten(name, _LONGEST))


def _left_out(count: int) -> str:
    if count == 1:
        return "1 image left out: here or in a good run its map is"
    return f"{count} images left out: here or in a good run their maps are"


def _table(verdict: Verdict, style: TerminalStyle) -> Iterable[str]:
    """A line each for what was judged, and for classes that moved where nothing else tells."""
    rows: list[tuple[str, str, str, str, str]] = [
        (plain(f.measure), figures(f.value), allowed(f), _told_of(f), f.mark)
        for f in verdict.findings
    ]
    classes = [] if any(f.mark == "fail" for f in verdict.findings) else surprising_classes(verdict)
    for c in classes[:_WORST]:
        about = (f"moved_mass of {_short(c.name)}", figures(c.moved), f"at most {c.bound:.3f}")
        rows.append((*about, "(one class alone)", "fail" if only_classes_fail(verdict) else "warn"))
    first, second, third = (max((len(row[i]) for row in rows), default=0) for i in range(3))
    for measure, value, bounds, told, mark in rows:
        yield (
            f"  {style(f'{mark:4}', mark)}  {measure:{first}}  {value:{second}}  {bounds:{third}}  "
            f"{style(told, 'faint')}"
        )
    if len(classes) > _WORST:
        yield f"  … and {len(classes) - _WORST} more classes"


def surprising_classes(verdict: Verdict) -> list[Moved]:
    """The classes that moved further than those of good runs do."""
    return [c for c in verdict.classes if c.surprising]


def only_classes_fail(verdict: Verdict) -> bool:
    """Whether it is a failure for its classes' sake, which is so where warnings fail."""
    return verdict.outcome == "fail" and all(f.mark != "fail" for f in verdict.findings)


def _told_of(finding: Finding) -> str:
    area = "" if finding.area is None else f"; {finding.area:.1%} of the area"
    return f"({plain(finding.source)}{area})"


def allowed(finding: Finding) -> str:
    """The bounds of a finding in words."""
    low, high = (None if b is None else figures(b) for b in (finding.low, finding.high))
    if low is None:
        return f"at most {high}"
    return f"at least {low}" if high is None else f"{low} to {high}"


def _explained(verdict: Verdict) -> Iterable[str]:
    """What grew, who is affected, whether the model leans on it, and how accurate it is."""
    growth = verdict.growth
    if growth is not None:
        parts = f"from {growth.before:.1%} of the gradient to {growth.now:.1%}"
        yield f"What grew: {plain(growth.place)}, {parts}"
    if (hidden := verdict.occluded) is not None:
        verb = "lowers" if hidden.after < hidden.before else "does not lower"
        chances = f"{hidden.before:.3f} with it, {hidden.after:.3f} without"
        yield f"Hiding it {verb} the probability of the label: {chances}"
    if verdict.classes:
        told = ", ".join(f"{_short(c.name)} ({c.moved:.2f})" for c in verdict.classes[:_WORST])
        yield f"Classes that moved most: {told}"
    if verdict.images:
        told = ", ".join(f"{_short(i.name)} ({i.moved:.2f})" for i in verdict.images[:_WORST])
        yield f"Images that moved most: {told}"
    if told := _accuracy(verdict):
        yield told


def _accuracy(verdict: Verdict) -> str:
    """The accuracy beside the reference's; of metrics of other names the first few."""
    known = [n for n in verdict.metrics if n in verdict.reference_metrics or not verdict.good_runs]
    named = [n for n in known if "acc" in n.lower()] or known[:_ACCURATE]
    told = []
    for name in named[:_ACCURATE]:
        beside = ""
        if name in verdict.reference_metrics:
            beside = f" (good runs {verdict.reference_metrics[name]:.3f})"
        told.append(f"{plain(name)} {verdict.metrics[name]:.3f}{beside}")
    return "The run's own metrics: " + ", ".join(told) if told else ""


def as_json(verdict: Verdict, name: str) -> str:
    """A verdict for programs: one object, numbers in full."""
    told: dict[str, Any] = {"run": name, **asdict(verdict)}
    told |= {"exit_code": verdict.exit_code, "warnings": list(verdict.warnings)}
    return json.dumps(told, indent=1)


def as_junit(verdict: Verdict, name: str, text: str) -> bytes:
    """A verdict for build servers: a test case a requirement and measure.

    Args:
        verdict: The verdict.
        name: Of the run.
        text: What a person reads.
    """
    judged = verdict.outcome in ("pass", "fail")
    suite = ET.Element("testsuite", name="attention")
    for finding in verdict.findings:
        title = plain(f"{finding.requirement} [{finding.measure}]")
        case = ET.SubElement(suite, "testcase", classname=plain(name), name=title)
        if finding.mark == "fail":
            told = f"{finding.measure} is {figures(finding.value)}, allowed is {allowed(finding)}"
            ET.SubElement(case, "failure", message=plain(told))
    for moved in surprising_classes(verdict) if only_classes_fail(verdict) else ():
        title = plain(f"no class moves further than in good runs [{moved.name}]")
        case = ET.SubElement(suite, "testcase", classname=plain(name), name=title)
        told = f"moved_mass of {moved.name} is {moved.moved:.3f}, at most {moved.bound:.3f}"
        ET.SubElement(case, "failure", message=plain(told))
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
