"""What a review says at its end: the model's findings as text, and what is said without any."""

from typing import Final

import msgspec

from core_server.protocol.reviews import Finding, ReviewOutput

NO_OUTPUT: Final = "Reviewer failed to output a response."
INTERRUPTED: Final = "Review was interrupted. Please re-run /review and wait for it to complete."

INSTRUCTIONS: Final = """\
You review a code change. Look at it with the tools you have, change nothing, and report
only what its author would want to mend: bugs, regressions, risks, with the file and the
lines. Most important first; if there is nothing, say so."""

_output: Final = msgspec.json.Decoder(ReviewOutput).decode


def rendered(text: str) -> str:
    """A reviewer's answer for people: findings as a list; any other text as it is."""
    try:
        output = _output(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text
    parts = [output.overall_explanation.strip()] if output.overall_explanation.strip() else []
    if output.findings:
        title = "Review comment" if len(output.findings) == 1 else "Full review comments"
        parts += [f"{title}:", *map(_finding, output.findings)]
    return "\n\n".join(parts) or NO_OUTPUT


def _finding(finding: Finding) -> str:
    place, lines = finding.code_location, finding.code_location.line_range
    where = f"{place.absolute_file_path}:{lines.start}-{lines.end}"
    body = "\n".join(f"  {line}" for line in finding.body.splitlines())
    return f"- {finding.title} — {where}\n{body}"
