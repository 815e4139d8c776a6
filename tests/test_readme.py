"""The README's Python runs as it stands, block after block as a reader would type them."""

import re

import pytest


def blocks_of(repository):
    text = (repository / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def run(blocks):
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    return names


def test_python_blocks_of_the_readme_run(repository):
    blocks = [block for block in blocks_of(repository) if not re.search("import torch|neuralforecast", block)]
    assert blocks
    assert run(blocks)["o"].shape == (2, 8, 1000, 64)


def test_python_blocks_with_pytorch_run_and_print_what_they_say(repository, capsys):
    pytest.importorskip("torch")
    from flashbench.integrations.torch import reset_stats

    reset_stats()
    blocks = [block for block in blocks_of(repository) if "import torch" in block]
    assert blocks
    run(blocks)
    printed = [text.rpartition("# ")[2] for text in "".join(blocks).splitlines() if "print(" in text]
    assert capsys.readouterr().out.splitlines() == printed


def test_python_blocks_with_forecasting_models_run(repository):
    pytest.importorskip("neuralforecast")
    (block,) = [block for block in blocks_of(repository) if "neuralforecast" in block]
    assert [repr(run([block])[name]) for name in ("model", "other")] == [
        "PatchTST",
        "Informer (full attention)",
    ]


def test_commands_of_the_readme_exist(repository):
    from typer.main import get_command

    from flashbench.cli.app import make_app

    known = set(get_command(make_app()).commands)
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^flashbench ([a-z]+)", text, flags=re.MULTILINE)) == known
