"""What `conform` says, how it looks for the demand at fault, and which rules there are."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from xml.etree import ElementTree

import pytest

from local_test import conformance
from local_test.arguments import ArgumentError
from local_test.conformance.footprint import LIST_PROCESSES, Footprint, footprint
from local_test.conformance.results import Result, Verdict, as_json, as_junit, as_table
from local_test.conformance.rules import RULES, chosen, judge
from local_test.conformance.samples import DEFAULT, Sample, alike, read
from local_test.conformance.subject import Options, Subject
from local_test.conformance.trials import search
from local_test.programs import EngineError, Program

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs/local_test.md").read_text(encoding="utf-8")


def result(rule: str, verdict: Verdict, seen: str) -> Result:
    return Result(rule, "the image", f"{rule} holds.", verdict, seen, "mend it", "a page", 0.5)


RESULTS = [
    result("good", Verdict.PASSED, "all is well"),
    result("bad", Verdict.FAILED, "a <fault> \x1b[31m"),
    result("odd", Verdict.NOT_APPLICABLE, "there is no such thing"),
]


def test_the_table_tells_of_a_broken_rule_what_to_change_and_why() -> None:
    table = as_table(RESULTS)
    assert re.search(r"^good  passed +all is well$", table, re.MULTILINE)
    for told in ("a <fault>", "rule: bad holds.", "change: mend it", "source: a page"):
        assert told in table
    assert table.count("mend it") == 1
    assert table.endswith("1 passed, 1 failed, 1 not applicable")


def test_rules_that_do_not_apply_for_one_reason_stand_together() -> None:
    rows = [result(name, Verdict.NOT_APPLICABLE, "it does not train") for name in "abcd"]
    table = as_table([*RESULTS, *rows])
    assert table.count("it does not train") == 1
    assert "\n  a, b, c, d\n" in table


def test_long_texts_are_wrapped_to_the_width() -> None:
    table = as_table([result("long", Verdict.PASSED, "word " * 100)], width=80)
    assert max(map(len, table.splitlines())) <= 80


def test_json_has_every_field_of_every_rule() -> None:
    told = json.loads(as_json("image:1", RESULTS))
    assert (told["image"], told["passed"]) == ("image:1", False)
    assert [row["verdict"] for row in told["results"]] == ["passed", "failed", "not applicable"]
    assert told["results"][1]["advice"] == "mend it"
    assert json.loads(as_json("image:1", RESULTS[:1]))["passed"]


def test_junit_has_a_case_for_each_rule_and_no_character_that_xml_forbids() -> None:
    suite = ElementTree.fromstring(as_junit("image:1", RESULTS))
    counts = {name: suite.get(name) for name in ("name", "tests", "failures", "skipped")}
    assert counts == {"name": "image:1", "tests": "3", "failures": "1", "skipped": "1"}
    good, bad, odd = suite
    assert good.findtext("system-out") == "all is well"
    failure = bad.find("failure")
    assert failure is not None
    assert failure.get("message", "").startswith("a <fault> \N{REPLACEMENT CHARACTER}")
    assert "change: mend it" in (failure.text or "")
    assert odd.find("skipped") is not None


def test_one_attempt_is_enough_where_all_demands_are_met() -> None:
    attempts: list[frozenset[str]] = []

    def attempt(demands: frozenset[str]) -> bool:
        attempts.append(demands)
        return True

    found = search(["a", "b", "c"], attempt, bool)
    assert attempts == [{"a", "b", "c"}]
    assert (found.works, sorted(found.kept), found.broken) == (True, ["a", "b", "c"], {})


def test_the_demands_that_are_not_met_are_found_and_all_others_kept() -> None:
    found = search(["a", "b", "c"], lambda demands: demands, lambda demands: not {"b"} & demands)
    assert (found.works, sorted(found.kept), sorted(found.broken)) == (True, ["a", "c"], ["b"])


def test_where_nothing_works_no_demand_is_blamed() -> None:
    found = search(["a", "b"], lambda demands: demands, lambda demands: False)
    assert (found.works, found.broken) == (False, {})


LISTING = """\
process Name:\tserve
VmRSS:\t  200000 kB
Threads:\t5
Rss:              200000 kB
Pss:              150000 kB
Pss_Dirty:         90000 kB
process Name:\tof another user
VmRSS:\t  100000 kB
Threads:\t2
process Name:\tended
"""


def test_memory_that_processes_share_counts_once_where_it_is_known() -> None:
    found = footprint(LISTING)
    assert found == Footprint(processes=2, threads=7, memory=256.0, largest=153.6)
    assert str(found) == "256 MB in 2 processes of 7 threads in all, 154 MB in the largest"
    assert footprint("") is None


def test_this_machines_processes_are_listed() -> None:
    done = subprocess.run(["sh", "-c", LIST_PROCESSES], capture_output=True, text=True)
    found = footprint(done.stdout)
    assert found
    assert found.processes >= 2
    assert 10 < found.largest <= found.memory


def test_the_longest_text_of_a_sample_is_replaced() -> None:
    sample = Sample(b'{"inputs": ["a longer text", "b"], "n": 1}', "application/json")
    changed = sample.with_text("\N{FIRE}")
    assert changed
    assert json.loads(changed.body) == {"inputs": ["\N{FIRE}", "b"], "n": 1}
    assert Sample(b"[1, 2]", "application/json").with_text("a") is None
    assert Sample(b"1,2", "text/csv").with_text("a") is None


def test_variants_are_other_texts_or_the_lines() -> None:
    assert len({sample.body for sample in DEFAULT.variants(16)}) == 16
    lines = Sample(b"1,2\n3,4\n\n1,2\n", "text/csv").variants(16)
    assert [sample.body for sample in lines] == [b"1,2\n", b"3,4\n"]


def test_a_padded_body_means_the_same() -> None:
    body = DEFAULT.padded(1000)
    assert len(body) == 1000
    assert json.loads(body) == json.loads(DEFAULT.body)
    assert Sample(b"1,2", "text/csv").padded(12) == b"1,2\n1,2\n1,2\n"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b'{"score": 0.123456}', b'{"score": 0.123457}', True),
        (b'{"score": 0.12}', b'{"score": 0.82}', False),
        (b'{"label": "a", "score": 1}', b'{"label": "b", "score": 1}', False),
        (b"1e-5,x", b"2e-5,x", True),
        (b"1", b"1 2", False),
    ],
)
def test_answers_are_alike_but_for_last_digits(one: bytes, other: bytes, same: bool) -> None:
    assert alike(one, other) is same


def test_a_sample_that_is_no_json_is_an_error_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "sample.json").write_text("{")
    with pytest.raises(ValueError, match="Expecting"):
        read(tmp_path / "sample.json", "application/json")


def test_rules_are_chosen_by_pattern_in_the_order_of_what_they_need() -> None:
    ids = [one.id for one in chosen(["ping-*", "image-user"], ["ping-methods"])]
    assert ids[0] == "image-user"
    assert {"ping-empty", "ping-under-load"} < set(ids)
    assert "ping-methods" not in ids


def test_an_unknown_rule_is_told_with_the_nearest_one() -> None:
    parser = argparse.ArgumentParser()
    conformance.add_arguments(parser)
    with pytest.raises(ArgumentError, match="did you mean ping-empty"):
        conformance.run(parser.parse_args(["image", "--only", "ping-emty"]))


@pytest.mark.parametrize(
    ("rule", "details", "seen"),
    [
        ("image-platform", {"Os": "linux", "Architecture": "arm64"}, "linux/arm64"),
        ("image-size", {"Size": 10_000_000_001}, "10.00 GB"),
    ],
)
def test_an_image_for_other_machines_or_too_large_for_serverless_is_seen(
    rule: str, details: dict[str, object], seen: str
) -> None:
    image = SimpleNamespace(details=details)
    subject = cast(Subject, SimpleNamespace(bare=False, image=image, abilities={"serve"}))
    result = judge(chosen([rule], [])[0], subject)
    assert (result.verdict, result.seen) == (Verdict.FAILED, seen)


@pytest.mark.parametrize(
    ("listing", "command"),
    [
        (
            "  PID  PPID COMMAND\n  70    50 /bin/sh serve\n  71    70 python3 serve\n",
            "/bin/sh serve",
        ),
        (
            "  PID  PPID COMMAND\n  12 32760 python3 serve\n32760 32700 /bin/sh serve\n",
            "/bin/sh serve",
        ),
        ("", ""),
    ],
    ids=["in the order of their start", "after the numbers began again", "ended"],
)
def test_process_1_is_the_one_without_a_parent_in_its_container(listing: str, command: str) -> None:
    engine = SimpleNamespace(run=lambda *arguments, check: listing)
    subject = cast(Subject, SimpleNamespace(bare=False, engine=engine))
    assert Subject.process_1(subject, cast(Program, SimpleNamespace(name="x"))) == command


def test_every_rule_has_a_sentence_an_advice_and_a_source() -> None:
    assert len({one.id for one in RULES}) == len(RULES)
    for one in RULES:
        assert re.fullmatch(r"[A-Z`/].*\.", one.text), one.id
        assert one.advice, one.id
        assert one.source, one.id


def test_the_documented_rules_are_the_codes() -> None:
    section = DOCS.split("### The rules\n")[1].split("\n### ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    rows = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]
    assert rows == [(f"`{rule}`", *told) for rule, *told in conformance.table()]


def test_the_documented_options_exist() -> None:
    parser = argparse.ArgumentParser()
    conformance.add_arguments(parser)
    section = DOCS.split("## Conform\n")[1].split("\n## ")[0]
    options = set(re.findall(r"(--[a-z][a-z-]+)", section))
    assert options
    assert options <= set(parser.format_help().replace("[", " ").replace("]", " ").split())


def test_a_command_without_an_image_on_this_machine_says_so() -> None:
    code = (
        "import sys; from local_test import conformance as c; import argparse; "
        "p = argparse.ArgumentParser(); c.add_arguments(p); c.run(p.parse_args(['no/such:image']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode
    assert "EngineError: no container engine answers" in done.stderr or "no image" in done.stderr


def test_the_bare_programs_are_held_to_the_rules_that_need_no_container() -> None:
    train = ("train-completes", "train-failure-*", "train-offline", "train-script")
    rules = chosen(["image-*", *train, "serve-*", "ping-*", "bind-to-port"], [])
    options = Options(
        image=conformance.BARE,
        rules=frozenset(one.id for one in rules),
        hyperparameters={"recipe": "forest", "n_estimators": "20"},
    )
    seen = {one.rule: one for one in conformance.conform(None, options, rules)}
    others = {name for name, one in seen.items() if one.verdict is Verdict.NOT_APPLICABLE}
    assert others == {one.id for one in rules if one.contained}
    assert not [one for one in seen.values() if one.verdict is Verdict.FAILED]


def test_an_image_is_not_judged_by_the_bare_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "find_engine", lambda: None)
    parser = argparse.ArgumentParser()
    conformance.add_arguments(parser)
    with pytest.raises(EngineError, match="or name none to judge the bare programs"):
        conformance.run(parser.parse_args(["my-image:1"]))
