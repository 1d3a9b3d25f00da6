"""The recipes of docs/cluster.md: scripts that a shell can read, YAML that can be read, commands that exist."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest
import yaml

from mtembed.cli.app import COMMANDS, parsed
from tests.tools.commands import ROOT

PAGE = (ROOT / "docs/cluster.md").read_text()
BLOCKS = re.findall(r"```(sh|yaml)\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("language", "text"), BLOCKS)
def test_blocks_can_be_read(language: str, text: str) -> None:
    if language == "sh":
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    else:
        assert yaml.safe_load(text)


@pytest.mark.parametrize("line", re.findall(r"(?:exec |run: |entrypoint: |6379 )(mtembed .*)", PAGE))
def test_commands_are_understood(line: str) -> None:
    command, bound = parsed(shlex.split(line)[1:])
    assert command.__name__ in COMMANDS
    assert bound.arguments["config"].model == "ssl4eo-s2"
