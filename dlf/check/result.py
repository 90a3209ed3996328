"""What `dlf check` found, in one sentence and as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from dlf.check._findings import Finding
from dlf.utils.words import listed

__all__ = ["CheckResult", "Finding"]

_SCHEMA = 1


@dataclass(frozen=True)
class CheckResult:
    """The findings in some files.

    Attributes:
        findings: What ties the code to one framework, in the order of files and lines.
        files: How many files were read.
        not_read: Why other files could not be read, by their paths.
    """

    findings: tuple[Finding, ...]
    files: int
    not_read: dict[str, str]

    @property
    def exit_code(self) -> int:
        """0 where nothing was found, 1 where something was, 3 where nothing was and not all files were read."""
        return 1 if self.findings else 3 if self.not_read or not self.files else 0

    def to_json(self) -> dict[str, Any]:
        """Returns the result in JSON's types."""
        return {
            "schema": _SCHEMA,
            "files": self.files,
            "findings": [asdict(each) for each in self.findings],
            "not_read": self.not_read,
        }

    def headline(self) -> str:
        """Returns the answer in one sentence."""
        read = f"{self.files} file{'s' * (self.files != 1)}"
        lost = f" {len(self.not_read)} could not be read." if self.not_read else ""
        if not self.files and not self.not_read:
            return "No Python file was found."
        if not self.findings:
            return f"Nothing found in {read} that ties the code to one framework.{lost}"
        places = len(self.findings)
        rules = Counter(each.rule for each in self.findings)
        most = listed([f"{name} ({count})" for name, count in rules.most_common(3)])
        more = " and others" if len(rules) > 3 else ""  # noqa: PLR2004 - as many as are named.
        return f"{places} place{'s' * (places != 1)} in {read} to change: {most}{more}.{lost}"
