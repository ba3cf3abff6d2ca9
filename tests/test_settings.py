"""Contexts: which vCenter is used, and that no password is ever stored."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from gpuvm import settings
from gpuvm.errors import Ambiguous, BadInput, NotFound
from gpuvm.settings import CAFile, Context, Insecure, Pin, SystemTrust


@pytest.fixture(autouse=True)
def own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPUVM_CONFIG_DIR", str(tmp_path / "config"))
    return tmp_path


def _context(name: str = "prod", **changes: object) -> Context:
    return Context.model_validate({"name": name, "vcenter": "vc.example", "user": "a"} | changes)


def test_round_trip_and_owner_only(own_config: Path) -> None:
    context = _context(tls={"verify": "ca", "ca_file": "/etc/vmca.pem"}, confirm=False)
    file = settings.save(context)
    assert settings.load("prod") == context
    assert isinstance(settings.load().tls, CAFile)
    assert file.stat().st_mode & 0o077 == 0


def test_nothing_known() -> None:
    with pytest.raises(BadInput, match="there is no context yet"):
        settings.load()


def test_an_unknown_context_is_said_with_what_named_it(monkeypatch: pytest.MonkeyPatch) -> None:
    settings.save(_context())
    with pytest.raises(NotFound, match="the spec: context 'lab' not found"):
        settings.load(None, "lab")
    monkeypatch.setenv("GPUVM_CONTEXT", "other")
    with pytest.raises(NotFound, match="GPUVM_CONTEXT: context 'other' not found"):
        settings.load(None, "lab")
    with pytest.raises(NotFound, match=r"^context 'mine' not found"):
        settings.load("mine", "lab")


def test_unknown_name_lists_the_known_ones() -> None:
    settings.save(_context())
    with pytest.raises(NotFound) as caught:
        settings.load("lab")
    assert caught.value.existing == ("prod",)


@pytest.mark.parametrize("name", ["", ".", "..", "/srv", "../../../w/notes", "a/b", "n" * 300])
def test_no_context_s_name_is_a_path(own_config: Path, name: str) -> None:
    """'gpuvm context remove' deletes what is called so."""
    file = settings.save(_context())
    (file.parent / ".yaml").write_text("")
    (own_config / "w").mkdir()
    (own_config / "w" / "notes.yaml").write_text("mine")
    for use in (settings.load, settings.use, settings.remove) if name else (settings.remove,):
        with pytest.raises(NotFound) as refused:
            use(name)
        assert len(str(refused.value)) < 100
        assert refused.value.existing == ("prod",)
    assert (own_config / "w" / "notes.yaml").exists()
    assert (file.parent / ".yaml").exists()


def test_a_context_in_a_file_of_another_name_is_refused() -> None:
    """A copy whose name was not changed would be named by hints, and use the other one's key."""
    file = settings.save(_context("prod"))
    (file.parent / "test.yaml").write_text(file.read_text())
    with pytest.raises(BadInput, match=r"test\.yaml: name: is 'prod', and .* 'test'") as refused:
        settings.load("test")
    assert "write 'name: test'" in str(refused.value.hint)
    assert settings.load("prod").name == "prod"


def test_removing_a_context_restores_the_previous_one() -> None:
    settings.save(_context("prod"))
    settings.save(_context("lab"))
    assert settings.load().name == "lab"
    settings.remove("lab")
    assert settings.load().name == "prod"


def test_several_and_none_chosen(own_config: Path) -> None:
    settings.save(_context("a"))
    settings.save(_context("b"))
    (own_config / "config" / "current").unlink()
    with pytest.raises(Ambiguous):
        settings.load()


def test_environment_names_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    settings.save(_context("a"))
    settings.save(_context("b"))
    monkeypatch.setenv("GPUVM_CONTEXT", "a")
    assert settings.load().name == "a"


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("vc.example", ("vc.example", 443)),
        ("vc.example:8443", ("vc.example", 8443)),
        ("https://vc.example/sdk", ("vc.example", 443)),
        ("https://127.0.0.1:8989/sdk", ("127.0.0.1", 8989)),
        ("https://[2001:db8::10]/sdk", ("2001:db8::10", 443)),
        ("[2001:db8::10]:8443", ("2001:db8::10", 8443)),
    ],
)
def test_address(endpoint: str, address: tuple[str, int]) -> None:
    assert _context(vcenter=endpoint).address == address


def test_no_address() -> None:
    with pytest.raises(BadInput, match="is not a host or https URL"):
        _ = _context(vcenter="http://vc example").address


@pytest.mark.parametrize("port", ["0", "65536", "9" * 5000])
def test_no_port(port: str) -> None:
    with pytest.raises(BadInput, match="is not a host or https URL"):
        settings.parse_address(f"vc.example:{port}")


def test_password_from_command_environment_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.password(_context(), lambda _: "asked") == SecretStr("asked")
    monkeypatch.setenv("GPUVM_PASSWORD", "from-environment")
    assert settings.password(_context(), None) == SecretStr("from-environment")
    by_command = _context(password_command="printf 'first\\nsecond\\n'")
    assert settings.password(by_command, None) == SecretStr("first")


def test_password_without_a_terminal() -> None:
    with pytest.raises(BadInput, match="no terminal"):
        settings.password(_context(), None)


@pytest.mark.parametrize("command", ["false", "true", "no-such-program-here"])
def test_password_command_fails(command: str) -> None:
    with pytest.raises(BadInput, match="password_command"):
        settings.password(_context(password_command=command), None)


def test_pin_must_be_a_fingerprint() -> None:
    assert Pin(sha256="AB" * 32)
    assert Pin(sha256=":".join(["ab"] * 32))
    with pytest.raises(ValueError, match="sha256"):
        Pin(sha256="ab")


OF_GOVC = {"GOVC_URL": "https://vc.example/sdk", "GOVC_USERNAME": "a", "GOVC_PASSWORD": "p"}
OF_TERRAFORM = {"VSPHERE_SERVER": "vc.example", "VSPHERE_USER": "a", "VSPHERE_PASSWORD": "p"}
OF_ANSIBLE = {"VMWARE_HOST": "vc.example", "VMWARE_USER": "a", "VMWARE_PASSWORD": "p"}


def _set(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "source"),
    [
        (OF_GOVC, "GOVC_PASSWORD"),
        ({"GOVC_URL": "a:p@vc.example"}, "GOVC_URL"),
        (OF_TERRAFORM, "VSPHERE_PASSWORD"),
        (OF_ANSIBLE, "VMWARE_PASSWORD"),
    ],
    ids=["govc", "url", "terraform", "ansible"],
)
def test_variables_of_other_tools_make_a_context_where_none_is_configured(
    variables: dict[str, str], source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(monkeypatch, variables)
    context = settings.load()
    assert (context.name, context.address, context.user) == (
        "environment",
        ("vc.example", 443),
        "a",
    )
    assert context.tls == SystemTrust()
    assert settings.find_password(context, None) == (SecretStr("p"), source)
    assert "p" not in context.vcenter.replace("example", "").replace("https", "")
    settings.save(_context("prod"))
    assert settings.load().name == "prod"
    assert settings.load("environment") == context, "by its name it is there all the same"


@pytest.mark.parametrize(
    "variables",
    [
        {**OF_GOVC, "GOVC_INSECURE": "1"},
        {**OF_TERRAFORM, "VSPHERE_ALLOW_UNVERIFIED_SSL": "true"},
        {**OF_ANSIBLE, "VMWARE_VALIDATE_CERTS": "no"},
    ],
)
def test_verification_is_off_only_where_a_variable_says_so(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(monkeypatch, variables)
    assert settings.load().tls == Insecure()


def test_the_ca_file_of_govc(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, {**OF_GOVC, "GOVC_TLS_CA_CERTS": "/etc/vmca.pem"})
    assert settings.load().tls == CAFile(ca_file=Path("/etc/vmca.pem"))


@pytest.mark.parametrize("variables", [OF_GOVC, OF_TERRAFORM, OF_ANSIBLE])
@pytest.mark.parametrize(
    "changes", [{"vcenter": "other.example"}, {"vcenter": "vc.example:8443"}, {"user": "b"}]
)
def test_a_password_goes_only_to_the_host_and_account_of_its_variables(
    variables: dict[str, str], changes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(monkeypatch, variables)
    with pytest.raises(BadInput, match="is for another host or account"):
        settings.find_password(_context(**changes), None)
    asked = settings.find_password(_context(**changes), lambda _: "asked")
    assert asked == (SecretStr("asked"), settings.PROMPT)


def test_a_password_without_a_host_goes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOVC_PASSWORD", "p")
    with pytest.raises(BadInput, match="no password"):
        settings.find_password(_context(), None)


def test_a_vcenter_without_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOVC_URL", "vc.example")
    with pytest.raises(BadInput) as caught:
        settings.load()
    assert caught.value.hint == "set GOVC_USERNAME"


def test_the_file_names_the_context_unless_variable_or_option_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("a", "b", "c", "d"):
        settings.save(_context(name))
    assert settings.load().name == "d"
    assert settings.load(of_file="a").name == "a"
    monkeypatch.setenv("GPUVM_CONTEXT", "b")
    assert settings.load(of_file="a").name == "b"
    assert settings.load("c", of_file="a").name == "c"


def test_a_password_in_an_address_is_not_shown() -> None:
    with pytest.raises(BadInput) as refused:
        settings.parse_address("https://me:s3cret@vc.example")
    assert "s3cret" not in str(refused.value)
    assert "…@vc.example" in str(refused.value)
