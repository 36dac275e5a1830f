#!/usr/bin/env python3
"""Write the generated parts of docs/reference/settings.md and command-line.md from the code.

`python scripts/generate_reference.py` rewrites the parts between the markers and leaves the prose alone; with
`--check` it changes nothing and exits 1 when a page is behind. Imports `settings` and `cli`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from async_delivery.cli.app import cli
from async_delivery.settings import SETTINGS, Setting

FOLDER = Path(__file__).resolve().parents[1] / "docs/reference"
_PART = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->\n)", flags=re.DOTALL)


def settings_table() -> str:
    """One row per setting: its name in the file, its flag, what it looks like, its default, and what it does."""
    return _table(
        ("setting", "flag", "value", "default", "meaning"),
        [
            (
                f"`{setting.name}`",
                f"`{setting.flag}`",
                f"{_form(setting)}{', repeatable' if setting.repeatable else ''}",
                f"`{setting.default_text}`" if _is_literal(setting) else setting.default_text,
                setting.help,
            )
            for setting in SETTINGS
        ],
    )


def _form(setting: Setting) -> str:
    return "switch" if setting.switch else setting.form


def _is_literal(setting: Setting) -> bool:
    return setting.default_text != setting.unset


def commands() -> dict[str, click.Command]:
    """Every command by its words, such as ``store init``."""
    return dict(_walk("", cli))


def _walk(words: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _walk(f"{words} {name}".strip(), inner)
    else:
        yield words, command


def synopsis(words: str, command: click.Command) -> str:
    """How it is typed, and what each option does."""
    arguments = [param.metavar or "" for param in command.params if isinstance(param, click.Argument)]
    typed = " ".join(["async-delivery", words, *arguments, "[OPTIONS]"])
    options = [param for param in command.params if isinstance(param, click.Option)]
    rows = [(f"`{_flags(option)}`", _cell(option)) for option in options]
    return f"```\n{typed}\n```\n\n{_table(('option', 'meaning'), rows)}"


def _flags(option: click.Option) -> str:
    names = " / ".join([", ".join(option.opts), *option.secondary_opts])
    if option.is_flag:
        return names
    form = option.metavar or "|".join(getattr(option.type, "choices", ())) or option.type.name.upper()
    return f"{names} {form}"


def _cell(option: click.Option) -> str:
    text = " ".join((option.help or "").split())
    if option.show_default:
        text += f" [default: {option.default}]"
    return text.replace("|", "\\|")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def pages() -> dict[str, dict[str, str]]:
    """The generated parts of each page by their names."""
    synopses = {words.replace(" ", "-"): synopsis(words, command) for words, command in commands().items()}
    return {"settings.md": {"settings": settings_table()}, "command-line.md": synopses}


def fill(page: str, parts: Mapping[str, str]) -> str:
    """``page`` with each marked part replaced. Raises ValueError if a part has no place, or a place no part."""
    places = [match[2] for match in _PART.finditer(page)]
    if sorted(places) != sorted(parts):
        raise ValueError(f"the page has places for {sorted(places)}, the generator makes {sorted(parts)}")
    return _PART.sub(lambda match: f"{match[1]}\n{parts[match[2]]}\n\n{match[3]}", page)


def main(arguments: Sequence[str]) -> int:
    """0 when the pages are, or now are, what the code says; 1 when ``--check`` found one behind."""
    if arguments not in ([], ["--check"]):
        print("usage: generate_reference.py [--check]", file=sys.stderr)
        return 2
    behind = 0
    for name, parts in pages().items():
        path = FOLDER / name
        page = path.read_text(encoding="utf-8")
        wanted = fill(page, parts)
        if page == wanted:
            continue
        if arguments:
            print(f"{name} is behind the code; run scripts/generate_reference.py", file=sys.stderr)
            behind = 1
        else:
            path.write_text(wanted, encoding="utf-8")
            print(f"wrote {path}")
    return behind


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
