"""What a program imports: what the guest must have, and what it may do without."""

from pathlib import Path

import pytest

from gpuvm import runs

SHIPPED = {
    "captioning": {"tensorflow", "numpy", "PIL", "sacrebleu", "tensorboard"},
    "style": {"tensorflow", "numpy", "PIL", "scipy", "tensorboard"},
    "stock": {"tensorflow", "numpy", "PIL", "tensorboard"},
    "mnist": {"tensorflow", "numpy", "PIL", "tensorboard"},
}
PROGRAM = """
import sys
from typing import TYPE_CHECKING
from . import beside
import at_the.top, and_another
if TYPE_CHECKING:
    import only_for_types
if sys.version_info < (3, 11):
    import for_old_ones
try:
    import optional
except ImportError:
    import instead
else:
    import with_it
try:
    from faster import thing
except (AttributeError, ModuleNotFoundError):
    thing = None
try:
    import not_optional
except OSError:
    pass
def score():
    from in_a_function.part import one
    class Inner:
        def method(self):
            import deep
            try:
                import deep_optional
            except ImportError:
                return
if __name__ == "__main__":
    import main_only
"""


def requires(folder: Path, source: str) -> set[str]:
    program = folder / "mine.py"
    program.write_text(source)
    return set(runs.find(str(program)).requires)


def test_imports_in_functions_count_and_optional_ones_do_not(tmp_path: Path) -> None:
    assert requires(tmp_path, PROGRAM) == {
        "sys",
        "typing",
        "at_the",
        "and_another",
        "with_it",
        "not_optional",
        "in_a_function",
        "deep",
        "main_only",
    }


def test_a_deep_expression_is_no_trouble(tmp_path: Path) -> None:
    assert requires(tmp_path, "import json\nx = " + "+".join(["1"] * 2000)) == {"json"}


@pytest.mark.parametrize("name", SHIPPED)
def test_what_shipped_workloads_need(name: str) -> None:
    """Of what workloads/requirements.txt lists; scikit-learn is optional in all of them."""
    found = runs.find(name)
    listed = {"tensorflow", "numpy", "PIL", "sacrebleu", "scipy", "sklearn", "tensorboard"}
    assert set(found.requires) & listed == SHIPPED[name]
    assert not {file.stem for file in found.files} & set(found.requires)
