"""The imports of a program: which ones the guest must have, and which are optional."""

from pathlib import Path

import pytest

from gpuvm import runs
from gpuvm.errors import BadInput
from gpuvm.runs import declaration

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


def test_deeply_nested_expression_is_handled(tmp_path: Path) -> None:
    assert requires(tmp_path, "import json\nx = " + "+".join(["1"] * 2000)) == {"json"}


@pytest.mark.parametrize("name", SHIPPED)
def test_what_shipped_workloads_need(name: str) -> None:
    """Of what workloads/requirements.txt lists; scikit-learn is optional in all of them."""
    found = runs.find(name)
    listed = {"tensorflow", "numpy", "PIL", "sacrebleu", "scipy", "sklearn", "tensorboard"}
    assert set(found.requires) & listed == SHIPPED[name]
    assert not {"common", name} & set(found.requires)


def test_package_is_pushed_completely_and_run_as_a_module() -> None:
    found = runs.find("captioning")
    assert found.command == ("-m", "captioning")
    assert {path.partition("/")[0] for path in found.files} == {"captioning", "common"}
    assert {"captioning/__main__.py", "captioning/scenes.py", "common/log.py"} <= found.files.keys()
    assert all(found.root / path == file for path, file in found.files.items())


@pytest.mark.parametrize(
    ("old", "name"), [("stock_prediction", "stock"), ("style_transfer", "style")]
)
def test_names_of_older_runs_are_aliases(old: str, name: str) -> None:
    assert runs.find(old) == runs.find(name)


def test_what_shipped_workloads_declare() -> None:
    declared = {name: runs.find(name).declaration for name in SHIPPED}
    assert all(one.contract for one in declared.values())
    assert [name for name, one in declared.items() if one.sweep] == ["style"]
    assert [name for name, one in declared.items() if one.caption] == ["captioning"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("contract = yes", "workload.toml: not TOML: Invalid value"),
        ("contarct = true", "workload.toml: contarct: unknown key$"),
        ("[sweep]\nshare = '--cells'", "workload.toml: sweep.gather: is missing; .*sweep.axes: is"),
        ("x = " + "[" * 100_000, "workload.toml: not TOML"),
        ("#" * 200_000, "workload.toml: larger than 128 KiB"),
    ],
)
def test_a_wrong_declaration_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "workload.toml").write_text(text)
    with pytest.raises(BadInput, match=problem):
        declaration.read(tmp_path)


def test_a_program_that_is_too_long_to_parse_is_run_unchecked(tmp_path: Path) -> None:
    assert requires(tmp_path, "import json\n" + "x = 1\n" * 50_000) == set()


def test_a_program_that_cannot_be_parsed_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"\.py:1: not a Python program: [^(]*$"):
        requires(tmp_path, "root:x:0")
    with pytest.raises(BadInput, match=r"\.py:1: not a Python program: "):
        requires(tmp_path, "x = " + "(" * 5000 + ")" * 5000)


@pytest.mark.parametrize("script", ["mine.py", "src/mine.py"])
def test_the_common_package_is_sent_beside_a_program_that_imports_it(
    tmp_path: Path, script: str
) -> None:
    program = tmp_path / script
    program.parent.mkdir(exist_ok=True)
    program.write_text("import json\nfrom common.keras_callbacks import AverageWeights\n")
    found = runs.of_project(tmp_path, ["python", script])
    beside = Path(script).parent
    assert (beside / "common" / "keras_callbacks.py").as_posix() in found.files
    assert found.requires == ("json",)
    assert found.declaration.strategies[0] == "local-sgd"
    assert all(file.is_file() for file in found.files.values())


def test_a_project_keeps_its_own_common_package(tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "one.py").touch()
    (tmp_path / "mine.py").write_text("import common.one\n")
    found = runs.find(str(tmp_path / "mine.py"))
    assert list(found.files) == ["common/one.py", "mine.py"]


def test_nothing_is_sent_along_with_other_programs(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from commonplace import thing\n# import common\n")
    assert list(runs.find(str(tmp_path / "mine.py")).files) == ["mine.py"]
