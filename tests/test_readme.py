"""The README's Python runs as it stands, block after block as a reader would type them."""

import re


def test_python_blocks_of_the_readme_run(repository):
    text = (repository / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["o"].shape == (2, 8, 1000, 64)


def test_commands_of_the_readme_exist(repository):
    from typer.main import get_command

    from flashbench.cli.app import make_app

    known = set(get_command(make_app()).commands)
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^flashbench ([a-z]+)", text, flags=re.MULTILINE)) == known
