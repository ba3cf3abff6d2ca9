"""Which certificates and passwords are accepted, and the errors for others."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from simulated_vcenter import QUICK, Rig, rig_of

from gpuvm import vsphere
from gpuvm.errors import LoginRefused, Unreachable, Untrusted, VSphereError
from gpuvm.lab.description import describe
from gpuvm.settings import CAFile, Insecure, Pin, SystemTrust
from gpuvm.vsphere.session import fingerprint, peer_certificate


def _with(rig: Any, **changes: Any) -> Any:
    return rig.context.model_copy(update=changes)


def _login(rig: Any, context: Any) -> str:
    from gpuvm import settings

    with vsphere.connect(context, settings.password(rig.context, None)) as connection:
        return connection.vcenter.name


def test_ca_file(rig: Any) -> None:
    assert isinstance(rig.context.tls, CAFile)
    assert _login(rig, rig.context).startswith("gpuvm lab")


def test_system_store_does_not_know_the_lab(rig: Any) -> None:
    with pytest.raises(Untrusted, match="is not trusted") as caught:
        _login(rig, _with(rig, tls=SystemTrust()))
    assert "sha256" in (caught.value.hint or "")


def test_another_ca(rig: Any, tmp_path: Path) -> None:
    import ssl

    other = tmp_path / "other.pem"
    known = ssl.create_default_context().get_ca_certs(binary_form=True)
    if not known:
        pytest.skip("this machine has no CA certificates")
    other.write_text(ssl.DER_cert_to_PEM_cert(known[0]))
    with pytest.raises(Untrusted):
        _login(rig, _with(rig, tls=CAFile(ca_file=other)))


def test_pin(rig: Any) -> None:
    right = fingerprint(peer_certificate(*rig.context.address))
    assert _login(rig, _with(rig, tls=Pin(sha256=right))).startswith("gpuvm lab")
    colons = ":".join(right[i : i + 2].upper() for i in range(0, 64, 2))
    assert _login(rig, _with(rig, tls=Pin(sha256=colons))).startswith("gpuvm lab")


def test_wrong_pin_sends_no_password(rig: Any) -> None:
    rig.reset_calls()
    with pytest.raises(Untrusted, match="not the pinned one"):
        _login(rig, _with(rig, tls=Pin(sha256="ab" * 32)))
    assert rig.calls() == {}


def test_insecure_is_possible_if_configured(rig: Any) -> None:
    assert _login(rig, _with(rig, tls=Insecure())).startswith("gpuvm lab")


def test_wrong_password_is_tried_once_and_not_shown(rig: Any) -> None:
    with pytest.raises(LoginRefused) as caught:
        vsphere.connect(rig.context, SecretStr("a-wrong-word"))
    hint = caught.value.hint or ""
    assert "a-wrong-word" not in f"{caught.value}{hint}"
    assert "federated" in hint
    assert "user@domain" in hint


def test_unreachable_server(rig: Any) -> None:
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
        _login(rig, _with(rig, vcenter="127.0.0.1:1"))


@pytest.fixture
def german(home: Path) -> Iterator[Rig]:
    shape = describe(hosts=1).model_copy(update={"timings": QUICK, "locale": "de_DE"})
    with rig_of(home, "german", shape) as made:
        yield made


def test_session_requests_english(german: Rig) -> None:
    """Hints go by texts where a fault's type says too little; a new session asks again."""
    pages = "The total number of pages needed is too large"
    with german.connect() as connection:
        for name in ("eins", "zwei"):
            german.fault("PowerOnVM_Task", "GenericVmConfigFault", message=pages, where="task")
            result = german.provision(connection, german.plan(connection, hosts=1, name=name))
            (failed,) = result.failed
            assert "total number of pages" in str(failed.error)
            assert "mmio_gib" in str(failed.error and failed.error.hint)
            german.post("/sessions/expire")


@pytest.fixture
def troubled(rig: Rig) -> Iterator[Rig]:
    yield rig
    rig.clear_faults()


@pytest.mark.parametrize("drop", ["drop_after", "drop_before"])
def test_lost_answer_to_the_locale_is_no_error(troubled: Rig, drop: str) -> None:
    """It only improves hints."""
    getattr(troubled, drop)("SetLocale")
    with troubled.connect() as connection:
        assert connection.read_inventory().hosts


def test_login_that_fails_later_leaves_no_session(troubled: Rig) -> None:
    held = _sessions(troubled)
    troubled.fault("RetrieveServiceContent", "RuntimeFault", skip=1)
    with pytest.raises(VSphereError, match="reading its services"):
        troubled.connect()
    assert _sessions(troubled) == held


def _sessions(rig: Rig) -> int:
    with urllib.request.urlopen(f"{rig.control}/sessions") as answer:
        return int(json.load(answer)["sessions"])


def test_privileges_are_those_of_a_renewed_session(troubled: Rig) -> None:
    """The question names the session: one that has expired meanwhile has no privileges."""
    with troubled.connect() as connection:
        troubled.post("/faults", {"method": "HasPrivilegeOnEntities", "count": 1, "expired": True})
        missing = connection.missing_privileges({"root": ("Global.CancelTask",)})
    assert missing == {"root": ()}


def test_internal_error_of_the_vcenter_is_tried_again(troubled: Rig) -> None:
    """Only for its own reads: one that asks a host names the host at once."""
    with troubled.connect() as connection:
        troubled.fault("RetrievePropertiesEx", "SystemError")
        assert connection.read_inventory().hosts


def test_probe_that_is_not_answered_is_given_up(troubled: Rig) -> None:
    """The first call of all, which pyVmomi would wait for without end."""
    troubled.post("/drop-after", {"method": "vimServiceVersions", "count": 1, "hold": True})
    with pytest.raises(Unreachable, match="timed out"):
        Rig(_with(troubled, timeout_s=0.5), troubled.control).connect()


def test_answer_that_does_not_come_is_given_up(troubled: Rig) -> None:
    """The context says when; the answer is held back until the client has hung up."""
    quick = Rig(_with(troubled, timeout_s=0.5), troubled.control)
    with quick.connect() as connection:
        plan = quick.plan(connection, hosts=1, name="held")
        quick.post("/drop-after", {"method": "CloneVM_Task", "count": 1, "hold": True})
        quick.reset_calls()
        assert not quick.provision(connection, plan).failed
        assert quick.calls()["CloneVM_Task"] == 1
    troubled.teardown("held")
