"""Run the demo and draw what it prints, as an animated SVG:  python docs/images/record_demo.py

The lines of ``examples/demo.py`` appear in demo.svg as they did in the terminal, each with its
second. Long waits are shortened, and the lines about stopping both programs are left out. There is
no script in it: CSS animates it, and where animations are off or unknown, the end of the output is
shown.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

HERE = Path(__file__).resolve().parent
DEMO = HERE.parents[1] / "examples" / "demo.py"
COMMAND = "python examples/demo.py"

#: seconds: the longest wait between two lines, how long the end is shown, the time for the command
LONGEST_WAIT = 1.2
END = 6.0
START = 0.5
#: characters in a line, lines that are seen at once, pixels of a character and of a line
COLUMNS = 100
ROWS = 25
WIDTH = 7.85
HEIGHT = 18
#: pixels: the text's distance from the left, and the height of the title bar
LEFT = 62
TOP = 34

TITLE = "The demo in a terminal: a client loses its server and reconnects"
DESCRIPTION = (
    "A server and a client start, and three messages are echoed. The server is killed: the client"
    " reports that the connection is lost, and several attempts to reconnect fail. The server is"
    " started again, and the client reconnects by itself and gets its next echo."
)

STYLE = """\
    .ground { fill: #171b22; stroke: #3c434e; }
    text { font: 13px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; fill: #d5dae2;
      white-space: pre; }
    .time { fill: #8b94a3; font-size: 11px; text-anchor: end; }
    .step { fill: #ffffff; font-weight: 600; }
    .server { fill: #e8bd72; }
    .client { fill: #8fc1ff; }
    .lost { fill: #ff9d94; }
    .well { fill: #94dc80; }"""


class Line(NamedTuple):
    """What was printed, and when: *seconds* after the start."""

    seconds: float
    text: str


class Row(NamedTuple):
    """One row of the terminal: the *moment* in which it appears, in seconds of the animation."""

    moment: float
    stamp: str
    kind: str
    text: str


def record(arguments: list[str]) -> list[Line]:
    """Run the demo; return its lines. Raises ``CalledProcessError`` if it fails."""
    lines = []
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, str(DEMO), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    ) as process:
        assert process.stdout is not None
        for text in process.stdout:
            lines.append(Line(time.monotonic() - started, text.rstrip("\n")))
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, str(DEMO))
    return lines


def story(lines: list[Line]) -> list[Line]:
    """Return *lines* without those between the last step, which stops both, and the result."""
    last_step = max(index for index, line in enumerate(lines) if line.text.startswith("---"))
    return [*lines[:last_step], lines[-1]]


def kind(text: str) -> str:
    """Return the class of a line."""
    if text.startswith("---"):
        return "step"
    if text.startswith("The demo went well"):
        return "well"
    if "[CLOSED]" in text or "failed" in text or "connection lost" in text:
        return "lost"
    return text.partition(":")[0] if text.startswith(("server:", "client:")) else "other"


def laid_out(lines: list[Line]) -> tuple[list[Row], float]:
    """Return the rows of the terminal, and the seconds after which all of them are shown."""
    rows = [Row(0.0, "", "other", f"$ {COMMAND}")]
    shown, before = START, 0.0
    for seconds, text in lines:
        shown += min(seconds - before, LONGEST_WAIT)
        before = seconds
        stamp = f"{seconds:.1f}" if text else ""
        indent = " " * (4 if text.startswith("---") else 9)
        for part in textwrap.wrap(text, COLUMNS, subsequent_indent=indent) or [""]:
            rows.append(Row(shown, stamp, kind(text), part))
            stamp = ""
    return rows, shown


def motion(rows: list[Row], moments: list[float], total: float) -> str:
    """Return the CSS that shows each row at its moment, and scrolls."""

    def percent(seconds: float) -> str:
        return f"{100 * seconds / total:.2f}%"

    # the shorthand first, because it resets the names
    rules = [f"g {{ animation: {total:.2f}s step-end infinite; }}"]
    scrolls = ["0% { transform: none; }"]
    for number, moment in enumerate(moments):
        start = percent(moment)
        rules.append(
            f"@keyframes k{number} {{ 0% {{ visibility: hidden; }}"
            f" {start}, 100% {{ visibility: visible; }} }}"
        )
        rules.append(f".k{number} {{ animation-name: k{number}; }}")
        over = sum(row.moment <= moment for row in rows) - ROWS
        if over > 0:
            scrolls.append(f"{start} {{ transform: translateY({-over * HEIGHT}px); }}")
    rules.append(f"@keyframes scroll {{ {' '.join(scrolls)} }}")
    rules.append(".scroll { animation-name: scroll; }")
    return "\n".join(f"      {rule}" for rule in rules)


def picture(lines: list[Line]) -> str:
    """Return the SVG that shows *lines*."""
    rows, shown = laid_out(lines)
    moments = sorted({row.moment for row in rows if row.moment})
    texts = []
    for index, row in enumerate(rows):
        if row.text:
            y = TOP + 22 + index * HEIGHT
            name = f' class="k{moments.index(row.moment)}"' if row.moment else ""
            stamp = f'<text class="time" x="{LEFT - 12}" y="{y}">{row.stamp}</text>'
            texts.append(
                f"      <g{name}>{stamp if row.stamp else ''}"
                f'<text class="{row.kind}" x="{LEFT}" y="{y}">{escape(row.text)}</text></g>'
            )
    width = round(LEFT + COLUMNS * WIDTH + 20)
    height = TOP + ROWS * HEIGHT + 20
    screen = f'x="0" y="{TOP + 8}" width="{width}" height="{ROWS * HEIGHT}"'
    dots = "".join(f'<circle cx="{x}" cy="18" r="5"/>' for x in (20, 38, 56))
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"
     aria-labelledby="title desc">
  <title id="title">{TITLE}</title>
  <desc id="desc">{DESCRIPTION}</desc>
  <style>
{STYLE}
    .scroll {{ transform: translateY({-max(0, len(rows) - ROWS) * HEIGHT}px); }}
    @media (prefers-reduced-motion: no-preference) {{
{motion(rows, moments, shown + END)}
    }}
  </style>
  <clipPath id="screen"><rect {screen}/></clipPath>
  <rect class="ground" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>
  <g fill="#566070">{dots}</g>
  <g clip-path="url(#screen)">
    <g class="scroll" xml:space="preserve">
{chr(10).join(texts)}
    </g>
  </g>
</svg>
"""


if __name__ == "__main__":
    (HERE / "demo.svg").write_text(picture(story(record(sys.argv[1:]))), "utf-8")
