"""What `dlf check` shows in a terminal."""

from __future__ import annotations

from rich.text import Text

from dlf.check.result import CheckResult, Finding
from dlf.check.rules import RULES
from dlf.utils.console import result_console

__all__ = ["print_check"]


def print_check(result: CheckResult) -> None:
    """Prints the findings by file, the reason of each rule once, and the answer."""
    console = result_console()
    console.soft_wrap = True  # So that a path can be copied in one piece.
    for each in result.findings:
        console.print(_line(each))
    for path, reason in result.not_read.items():
        console.print(Text.assemble((path, "bold"), f" was not read: {reason}"))
    for name in sorted({each.rule for each in result.findings}):
        console.print(Text.assemble((f"{name} ", "yellow"), (RULES[name].what, "dim")))
    console.print(Text(result.headline(), style="bold"))


def _line(each: Finding) -> Text:
    return Text.assemble(
        (each.place, "bold"),
        ": ",
        each.code,
        (f" [{each.rule}]", "yellow"),
        f" write {each.advice}" if not each.advice.startswith("nothing") else f" {each.advice}",
    )
