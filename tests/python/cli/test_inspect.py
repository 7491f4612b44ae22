"""What `moestro inspect` says agrees with the files."""

import json

import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from moestro.cli.main import app
from moestro.pack import pack_checkpoint


def elements(directory):
    total = 0
    for path in directory.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                size = 1
                for extent in file.get_slice(name).get_shape():
                    size *= extent
                total += size
    return total


@pytest.mark.parametrize("name", ["qwen3_moe", "llama"])
def test_json_agrees_with_the_files(tiny_checkpoint, name):
    directory = tiny_checkpoint(name)
    result = CliRunner().invoke(app, ["inspect", str(directory), "--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["directory"] == str(directory)
    assert found["parameters"] == elements(directory)
    assert found["nbytes"] == 2 * found["parameters"]
    assert found["parameters"] == sum(entry["parameters"] for entry in found["classes"])


def test_the_table_names_tiers(tiny_checkpoint):
    result = CliRunner().invoke(app, ["inspect", str(tiny_checkpoint("qwen3_moe"))])
    assert result.exit_code == 0
    assert "experts (7 in each of 3 layers)" in result.stdout
    assert "SSD, cached in memory" in result.stdout
    assert "dense" in CliRunner().invoke(app, ["inspect", str(tiny_checkpoint("llama"))]).stdout


def test_verify_reads_every_byte_of_a_store(tiny_checkpoint, tmp_path):
    store = pack_checkpoint(tiny_checkpoint("qwen3_moe"), tmp_path / "store", "q8", threads=1)
    assert "are what was packed" in CliRunner().invoke(app, ["inspect", str(store), "--verify"]).stderr
    victim = sorted(store.glob("experts-*.safetensors"))[0]
    damaged = bytearray(victim.read_bytes())
    damaged[-1] ^= 1
    victim.write_bytes(damaged)
    result = CliRunner().invoke(app, ["inspect", str(store), "--verify"])
    assert result.exit_code == 1
    assert victim.name in result.stderr
    assert "no checksums" in CliRunner().invoke(app, ["inspect", str(tiny_checkpoint("llama")), "--verify"]).stderr


def test_models_lists_every_family() -> None:
    from moestro.models.registry import supported_model_types

    shown = CliRunner().invoke(app, ["models"])
    assert shown.exit_code == 0
    words = [line.split()[0] for line in shown.stdout.splitlines() if line.startswith("  ") and line[2] != " "]
    assert sorted(words) == list(supported_model_types())
    assert "gpt-oss-20b" in shown.stdout and "attention sinks" in shown.stdout
    listed = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)["models"]
    kinds = {row["model_type"]: row["experts"] for row in listed}
    assert kinds["mixtral"] and kinds["qwen3_moe"] and not kinds["llama"]
    assert all(row["about"] and row["architectures"] for row in listed)
