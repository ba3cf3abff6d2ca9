"""The device that TensorFlow really used, in one sentence that does not flatter."""

from collections.abc import Iterable, Sequence

from gpuvm.report.model import VMReport


def device_note(vms: Sequence[VMReport]) -> tuple[str, bool]:
    """The sentence, and whether it is the plain case: every VM on a real GPU.

    Only the workload's own record of its device counts, not what the VM was given.
    """
    on: dict[str | None, list[VMReport]] = {}
    for vm in vms:
        on.setdefault(vm.device_kind, []).append(vm)
    if set(on) <= {None}:
        return "Nothing recorded which device TensorFlow used.", False
    if len(on) > 1:
        return _mixed(on), False
    if "GPU" in on:
        return _on_gpu(vms)
    return f"TensorFlow ran on the {next(iter(on))}{_aside(vms)}", False


def _mixed(on: dict[str | None, list[VMReport]]) -> str:
    told = [
        f"on {f'the {kind}' if kind else 'an unrecorded device'} on {_names(vms)}"
        for kind, vms in sorted(on.items(), key=lambda item: item[0] or "")
    ]
    simulated = any(vm.simulated for vms in on.values() for vm in vms)
    aside = "; some of these GPUs are simulated" if simulated else ""
    return f"TensorFlow ran {', '.join(told)}{aside}."


def _on_gpu(vms: Sequence[VMReport]) -> tuple[str, bool]:
    models = sorted({vm.device_name for vm in vms if vm.device_name})
    which = f": {', '.join(models)}" if models else ""
    if any(vm.simulated for vm in vms):
        return f"TensorFlow ran on the GPU{which}; nvidia-smi says that it is simulated.", False
    return f"TensorFlow ran on the GPU{which}.", True


def _aside(vms: Sequence[VMReport]) -> str:
    given = [vm for vm in vms if vm.gpus]
    if not given:
        return "; no GPU was attached."
    if all(vm.simulated for vm in given):
        return "; the GPU in this lab is simulated."
    return f", although {_names(given)} had a GPU: these times say nothing about it."


def _names(vms: Iterable[VMReport]) -> str:
    return ", ".join(vm.name for vm in vms)
