"""The README's commands exist and its links lead somewhere; its demo and test commands are the Makefile's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from loramem.cli.app import app
from loramem.studies import series, spec

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL))
COMMANDS = re.findall(r"^(?:\.venv/bin/)?loramem .*$", BLOCKS, flags=re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses_with_its_options(line):
    words = shlex.split(line)[1:]
    command, context = get_command(app), None
    while hasattr(command, "commands"):
        assert words[0] in command.commands, line
        command = command.commands[words.pop(0)]
    context = command.make_context(command.name, words, resilient_parsing=False)
    if command.name == "run" and context.params["name"] == "all":
        assert len(series.load_all(scale=context.params["scale"])) == 16
    elif command.name == "run":
        study = spec.load(
            context.params["name"], scale=context.params["scale"], assignments=context.params["set_"] or ()
        )
        assert study.grid


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) >= 6 and all((ROOT / link).exists() for link in links)


def test_no_placeholder_is_left_and_the_two_commands_are_there():
    makefile = (ROOT / "Makefile").read_text()
    assert "@@" not in README and "make demo" in README and "make test" in README
    assert "demo:" in makefile and "test:" in makefile and "make test" in (ROOT / ".ci" / "run").read_text()


def test_tracked_text_names_no_path_of_one_machine():
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("src/**/*.py"),
        *ROOT.glob("*.txt"),
    ]:
        assert not re.search(r"/(?:work|root|tmp|home)/\w", path.read_text(encoding="utf-8")), path
