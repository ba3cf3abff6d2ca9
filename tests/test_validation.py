"""No text of pydantic's reaches a person: whatever a document's model can raise has words."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core._pydantic_core import list_all_errors

from gpuvm.accelerators import Accelerator
from gpuvm.lab.description import Description
from gpuvm.settings import Context
from gpuvm.spec import ClusterSpec
from gpuvm.validation import WORDS, problem_text

RAISED: dict[str, tuple[str, ...]] = {
    "any": (),
    "bool": ("bool_type", "bool_parsing"),
    "default": (),
    "definitions": (),
    "definition-ref": ("recursion_loop",),
    "dict": ("dict_type", "too_short", "too_long"),
    "float": ("float_type", "float_parsing", "finite_number"),
    "function-after": ("value_error",),
    "function-before": ("value_error",),
    "function-plain": ("value_error",),
    "function-wrap": ("value_error",),
    "int": ("int_type", "int_parsing", "int_parsing_size", "int_from_float"),
    "is-instance": (),
    "json-or-python": (),
    "lax-or-strict": (),
    "literal": ("literal_error",),
    "model": ("model_type", "model_attributes_type"),
    "model-field": ("missing",),
    "model-fields": ("extra_forbidden", "invalid_key", "model_type", "model_attributes_type"),
    "nullable": (),
    "str": ("string_type", "string_unicode"),
    "tagged-union": ("union_tag_invalid", "union_tag_not_found", "model_attributes_type"),
    "tuple": ("tuple_type", "too_short", "too_long"),
    "union": (),
}
"""Types of errors by the kind of a core schema; a kind that is new here has to be looked up."""
OF_CONSTRAINTS = {
    "ge": "greater_than_equal",
    "gt": "greater_than",
    "le": "less_than_equal",
    "lt": "less_than",
    "max_length": "string_too_long",
    "min_length": "string_too_short",
    "pattern": "string_pattern_mismatch",
}
OWN = {"value_error"}
"""Its words are those of the validator."""
BY_CONTEXT = {error["type"]: error for error in list_all_errors()}


@pytest.mark.parametrize("model", [ClusterSpec, Context, Description])
def test_every_error_that_a_model_can_raise_has_words(model: type[BaseModel]) -> None:
    raised = set(_raised(TypeAdapter(model).core_schema))
    assert raised > {"missing", "extra_forbidden", "int_parsing", "greater_than_equal"}
    assert not raised - OWN - set(WORDS)


def _raised(schema: Any) -> Iterator[str]:
    if isinstance(schema, (list, tuple)):
        for one in schema:
            yield from _raised(one)
    if not isinstance(schema, dict):
        return
    kind = schema.get("type")
    if isinstance(kind, str) and ("schema" in schema or kind in RAISED or "fields" in schema):
        yield from RAISED[kind]
        yield from (error for key, error in OF_CONSTRAINTS.items() if key in schema)
    for key, value in schema.items():
        if key not in ("metadata", "serialization", "config"):
            yield from _raised(value)


@pytest.mark.parametrize("kind", sorted(WORDS))
def test_the_words_are_complete_and_our_own(kind: str) -> None:
    known: Any = BY_CONTEXT.get(kind, {})  # type: ignore[call-overload]
    context = known.get("example_context") or {}
    detail: Any = {"type": kind, "loc": ("hosts",), "msg": "theirs", "input": "x", "ctx": context}
    text = problem_text(detail)
    assert text
    assert "{" not in text
    assert "nput should be" not in text
    assert "theirs" not in text


@pytest.mark.parametrize("error", BY_CONTEXT.values(), ids=lambda one: str(one["type"]))
def test_an_error_that_nobody_thought_of_is_in_our_words_too(error: Any) -> None:
    context = error.get("example_context") or {}
    detail: Any = {"type": error["type"], "msg": "theirs", "input": "x" * 900, "ctx": context}
    assert "theirs" not in problem_text(detail)
    assert len(problem_text(detail)) < 200


@pytest.mark.parametrize(
    "given", [{}, {"mode": "magic"}, 5, None, [], {"mode": ["a"]}, {1: 2}, True]
)
def test_a_union_tells_its_kinds(given: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Accelerator).validate_python(given)
    for detail in caught.value.errors():
        text = problem_text(detail)
        assert "discriminator" not in text
        assert "mode" in text or "keys and values" in text
