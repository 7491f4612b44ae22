"""The command finds its parts, and says one clear thing when something is wrong."""

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from moestro.cli import main
from moestro.cli.main import app
from moestro.errors import MoestroError, StorageError

COMMANDS = ("demo", "generate", "chat", "pack", "cache", "inspect", "doctor")


def run(*words, **more):
    return CliRunner().invoke(app, list(words), **more)


def test_help_names_every_command_in_order():
    result = run("--help")
    assert result.exit_code == 0
    places = [result.output.index(f" {command} ") for command in COMMANDS]
    assert places == sorted(places)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_shared_options_reach_the_commands():
    for command in ("generate", "chat"):
        text = run(command, "--help", env={"COLUMNS": "200"}).output
        engine, sampling = ("--kv-dtype", "--prefill-chunk", "--math"), ("--top-p", "--repetition-penalty", "--seed")
        for option in ("--host-memory", *engine, *sampling):
            assert option in text


def test_version():
    from moestro import __version__

    assert run("--version").output == f"moestro {__version__}\n"


@pytest.mark.parametrize("words", [("nonsense",), ("generate",), ("generate", "m", "--nonsense"), ("pack", "a")])
def test_wrong_usage_is_code_2(words):
    assert run(*words).exit_code == 2


def test_an_error_is_one_line_and_code_1(tmp_path):
    result = run("inspect", str(tmp_path / "nowhere"))
    assert result.exit_code == 1
    assert result.stderr.startswith("moestro: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert "nowhere" in result.stderr


@pytest.mark.parametrize("words", [("--debug", "inspect"), ("inspect", "--debug")])
def test_debug_shows_where_it_went_wrong(tmp_path, words):
    result = run(*words, str(tmp_path / "nowhere"))
    assert isinstance(result.exception, MoestroError)


@pytest.mark.parametrize(
    ("error", "code", "words"), [(KeyboardInterrupt(), 130, "cancelled"), (StorageError("x"), 1, "x")]
)
def test_exit_codes(monkeypatch, error, code, words):
    def fail(**_):
        raise error

    broken = typer.Typer()
    broken.command()(lambda: fail())
    monkeypatch.setattr(main.importlib, "import_module", lambda _: type("Module", (), {"app": broken}))
    result = run("doctor")
    assert (result.exit_code, result.stderr) == (code, f"moestro: {words}\n" if code == 1 else f"{words}\n")


def test_help_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from moestro.cli.main import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print([name for name in ('numpy', 'torch', 'tokenizers', 'jinja2', 'moestro._core') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
