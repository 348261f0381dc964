"""What came of the rules, as a table, as JSON and as JUnit's XML."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from xml.etree import ElementTree

__all__ = ["Result", "Verdict", "as_json", "as_junit", "as_table", "summary"]


MANY = 4
"""Rules that are not applicable for one reason stand together from so many on."""


class Verdict(Enum):
    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Result:
    """What came of one rule; the fields are those of the rule, in words."""

    rule: str
    needs: str
    text: str
    verdict: Verdict
    seen: str
    advice: str
    source: str
    seconds: float


def as_table(results: Sequence[Result], width: int = 100) -> str:
    """Return a table for people; a broken rule has its text, advice and source below it."""
    names = max([len(result.rule) for result in results], default=0)
    lines = []
    reasons = Counter(result.seen for result in results if _says_nothing(result))
    for result in results:
        if _says_nothing(result) and reasons[result.seen] >= MANY:
            continue
        head = f"{result.rule:{names}}  {result.verdict.value:14}  "
        told = [result.seen]
        if result.verdict is Verdict.FAILED:
            told += [f"rule: {result.text}", f"change: {result.advice}", f"source: {result.source}"]
        wrapped = [
            line
            for text in told
            for line in textwrap.wrap(text, max(width - len(head), 40), break_on_hyphens=False)
        ]
        lines += [
            (head if number == 0 else " " * len(head)) + line
            for number, line in enumerate(wrapped or [""])
        ]
    for reason, count in reasons.items():
        if count >= MANY:
            lines += ["", f"not applicable, for {reason}:"]
            rules = ", ".join(result.rule for result in results if result.seen == reason)
            lines += textwrap.wrap(rules, width - 2, initial_indent="  ", subsequent_indent="  ",
                                   break_on_hyphens=False)  # fmt: skip
    return "\n".join(line.rstrip() for line in [*lines, "", summary(results)])


def _says_nothing(result: Result) -> bool:
    return result.verdict is Verdict.NOT_APPLICABLE


def summary(results: Sequence[Result]) -> str:
    counts = Counter(result.verdict for result in results)
    return ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict)


def as_json(image: str, results: Sequence[Result]) -> str:
    """Return {"image", "passed", "results": [...]}, for programs."""
    rows = [{**asdict(result), "verdict": result.verdict.value} for result in results]
    passed = not any(result.verdict is Verdict.FAILED for result in results)
    content = {"image": image, "passed": passed, "results": rows}
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def as_junit(image: str, results: Sequence[Result]) -> str:
    """Return a test suite with a case for each rule, as CI systems read it."""
    counts = Counter(result.verdict for result in results)
    suite = ElementTree.Element(
        "testsuite",
        name=image,
        tests=str(len(results)),
        failures=str(counts[Verdict.FAILED]),
        errors="0",
        skipped=str(counts[Verdict.NOT_APPLICABLE]),
        time=f"{sum(result.seconds for result in results):.2f}",
    )
    for result in results:
        case = ElementTree.SubElement(
            suite, "testcase", classname=result.needs, name=result.rule, time=str(result.seconds)
        )
        if result.verdict is Verdict.FAILED:
            failure = ElementTree.SubElement(case, "failure", message=_printable(result.seen))
            failure.text = f"rule: {result.text}\nchange: {result.advice}\nsource: {result.source}"
        elif result.verdict is Verdict.NOT_APPLICABLE:
            ElementTree.SubElement(case, "skipped", message=_printable(result.seen))
        else:
            ElementTree.SubElement(case, "system-out").text = _printable(result.seen)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _printable(text: str) -> str:
    """Return the text without the characters that XML has no way to write."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
                   for character in text)  # fmt: skip
