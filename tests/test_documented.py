"""Commands are found in a text as its reader finds them, and its output is compared as a reader would."""

import pytest

from tests.integration.documented import Command, blocks, filled, is_shown, quoted, typed

TEXT = """# A

```console
$ mds verify
1 file with 28,588 ticks
All are there.
$ mds run --duration \\
  5
```

## B

Say `mds stop`, or `stop` alone, never `kill -9` or `mds`; `pip install -e '.[x]'`, `deploy/backup FOLDER`, `/health`.

| `status` | the same; `--json` for programs |
| `tail [TOKEN\\|SYMBOL]...` | with `mds
  top` |

`--quiet` belongs to nothing.

```sh
# a comment
sudo mds login    # type
```

```
no command
```
"""


def test_blocks_have_their_language_heading_and_line():
    """A heading counts where it is one: a comment in a block is none."""
    assert [(b.language, b.heading, b.line) for b in blocks(TEXT)] == [
        ("console", "A", 4),
        ("sh", "B", 22),
        ("", "B", 27),
    ]


def test_what_is_typed():
    """Of a console the lines after the `$`, with what is printed; of a sh block all lines but comments."""
    console, sh, _ = blocks(TEXT)
    assert typed(console) == [
        Command("mds verify", "1 file with 28,588 ticks\nAll are there.\n", "A", 4),
        Command("mds run --duration   5", "", "A", 7),
    ]
    assert typed(sh) == [Command("sudo mds login    # type", "", "B", 23)]


def test_what_is_quoted():
    """Commands in backticks, over the end of a line, too; an option alone in a row is one of the command before it."""
    assert [(c.line, c.heading, c.number) for c in quoted(TEXT, ["stop", "status", "tail"])] == [
        ("mds stop", "B", 13),
        ("mds stop", "B", 13),
        ("pip install -e '.[x]'", "B", 13),
        ("deploy/backup FOLDER", "B", 13),
        ("mds status", "B", 15),
        ("mds status --json", "B", 15),
        ("mds tail [TOKEN|SYMBOL]...", "B", 16),
        ("mds top", "B", 16),
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mds tail [TOKEN|SYMBOL]...", "mds tail 5"),
        ("mds verify [FILE...]", "mds verify a.jsonl"),
        ("mds gaps [--date YYYY-MM-DD]", "mds gaps --date 2025-10-01"),
        ("mds failover N", "mds failover N"),
        ("mds subscribe NSE:INFY --mode full", "mds subscribe NSE:INFY --mode full"),
        ("pip install -e '.[analysis]'", "pip install -e '.[analysis]'"),
    ],
)
def test_placeholders_are_filled(line, expected):
    """What is optional is there, of alternatives it is the first; what nobody has a value for stays."""
    assert filled(line, {"TOKEN": "5", "FILE": "a.jsonl", "YYYY-MM-DD": "2025-10-01"}) == expected


@pytest.mark.parametrize(
    ("shown", "printed", "expected"),
    [
        ("1 file with 28,588 ticks", "progress\n12 files with 5 ticks\nmore\n", True),
        ("in 2 streams, 21 events: 19.6 MB", "in 1 stream, 3 events: 0.1 MB", True),
        ("Done.", "Not done.", False),
        ("5 ticks, each once", "5 ticks, each twice", False),
        ("first\nsecond", "second\nfirst", False),
        ("5 ticks", "no ticks", False),
        ("", "anything", True),
    ],
)
def test_output_is_compared(shown, printed, expected):
    """All lines that are shown come, in their order; numbers and plurals may be others."""
    assert is_shown(shown, printed) is expected
