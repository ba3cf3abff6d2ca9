"""What is wrong with a value that a person wrote, in gpuvm's words instead of pydantic's.

problem_text(detail)      # "must be at least 1, not 0"
Name = Annotated[str, matching(r"[a-z]+", "may have the letters a to z")]
"""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import ErrorDetails

SHOWN = 40
"""Characters of a wrong value that are shown."""

WORDS: Mapping[str, str] = {
    "bool_parsing": "must be true or false, not {input}",
    "bool_type": "must be true or false, not {input}",
    "datetime_from_date_parsing": "must be a time such as 2026-01-31T12:00:00Z, not {input}",
    "datetime_parsing": "must be a time such as 2026-01-31T12:00:00Z, not {input}",
    "datetime_type": "must be a time such as 2026-01-31T12:00:00Z, not {input}",
    "dict_type": "must have keys and values, such as 'key: value', and is {input}",
    "extra_forbidden": "unknown key",
    "finite_number": "must be a finite number, not {input}",
    "float_parsing": "must be a number, not {input}",
    "float_type": "must be a number, not {input}",
    "greater_than": "must be more than {gt}, not {input}",
    "greater_than_equal": "must be at least {ge}, not {input}",
    "int_from_float": "must be a whole number, not {input}",
    "int_parsing": "must be a whole number, not {input}",
    "int_parsing_size": "has too many digits",
    "int_type": "must be a whole number, not {input}",
    "invalid_key": "a key must be text: put it in quotes",
    "ip_v4_address": "must be an IPv4 address, not {input}",
    "ip_v4_network": "must be a network such as 10.0.0.0/24, not {input}",
    "ip_v6_address": "must be an IPv6 address, not {input}",
    "ip_v6_network": "must be a network such as 2001:db8::/64, not {input}",
    "json_invalid": "not JSON: {error}",
    "less_than": "must be less than {lt}, not {input}",
    "less_than_equal": "must be at most {le}, not {input}",
    "list_type": "must be a list, such as [a, b], and is {input}",
    "literal_error": "must be {expected}, not {input}",
    "missing": "is missing",
    "model_attributes_type": "must have keys and values, such as 'key: value', and is {input}",
    "model_type": "must have keys and values, such as 'key: value', and is {input}",
    "none_required": "must be left out, and is {input}",
    "path_type": "must be a path, not {input}",
    "recursion_loop": "refers to itself",
    "string_pattern_mismatch": "{input} is not of the form {pattern}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters, and has fewer",
    "string_type": "must be text, and is {input}: put it in quotes",
    "string_unicode": "must be text, and is {input}",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entries",
    "tuple_type": "must be a list, such as [a, b], and is {input}",
    "union_tag_invalid": "there is no {discriminator} '{tag}': it is one of {expected_tags}",
    "union_tag_not_found": "{discriminator} is missing",
}
"""By pydantic's type of error; a test asks for each that a document's model can raise."""


def problem_text(detail: ErrorDetails) -> str:
    """What is wrong, to be read after the name of the key or option."""
    kind, given = detail["type"], detail.get("input")
    if kind in ("value_error", "assertion_error"):
        return str(detail.get("ctx", {}).get("error", ""))
    if kind == "string_too_short" and given == "":
        return "is empty"
    context = {key: _without_quotes(key, value) for key, value in detail.get("ctx", {}).items()}
    return WORDS.get(kind, "{input} is not valid here").format(**context, input=shown(given))


def shown(value: object) -> str:
    """The value as a person knows it, cut short."""
    if isinstance(value, str):
        return f"'{value[:SHOWN]}…'" if len(value) > SHOWN else f"'{value}'"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):  # an int may be too large for str()
        return f"{value:.10g}" if isinstance(value, float) else _integer(value)
    if isinstance(value, Mapping):
        return "keys and values"
    if isinstance(value, (list, tuple)):
        return "a list"
    return "empty" if value is None else f"'{str(value)[:SHOWN]}'"


def _integer(value: int) -> str:
    return str(value) if abs(value) < 10**30 else "a number that large"


def matching(pattern: str, words: str) -> AfterValidator:
    """Text that matches as a whole; ``words`` say which characters it may have."""
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if compiled.fullmatch(text) is None:
            raise ValueError(f"{shown(text)} {words}")
        return text

    return AfterValidator(check)


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {shown(value)}")  # noqa: TRY004 - pydantic takes no TypeError
    return value


NO_FLAG = BeforeValidator(_no_flag)
"""For numbers: pydantic takes true for 1."""
Int = Annotated[int, NO_FLAG]
Float = Annotated[float, NO_FLAG]


def parsed(read: Callable[[str], Any], words: str) -> Callable[[Any], Any]:
    """For a BeforeValidator: text is read by ``read``; what it refuses is not ``words``.

    A number is refused too, which Python would read as an address.
    """

    def check(value: Any) -> Any:
        if not isinstance(value, (str, int, float, list, dict, type(None))):
            return value  # read already
        try:
            if isinstance(value, str):
                return read(value)
        except ValueError:
            pass
        raise ValueError(f"{shown(value)} is not {words}")

    return check


def _without_quotes(key: str, value: object) -> object:
    """Without the quotes that pydantic puts around a key of ours, and around tags."""
    return str(value).replace("'", "") if key in ("discriminator", "expected_tags") else value
