"""What the steps found, and whether it is as it should be."""

from dataclasses import dataclass

from harness import table


@dataclass
class Finding:
    step: str
    what: str
    found: str
    # What was expected, and whether it is so; empty for what is only shown.
    expected: str = ""
    is_right: bool = True


def summary(findings):
    rows = [[finding.step, finding.what, finding.found, finding.expected, verdict(finding)] for finding in findings]
    return table(["step", "what", "found", "expected", ""], rows)


def verdict(finding):
    if not finding.expected:
        return ""
    return "ok" if finding.is_right else "FAILED"
