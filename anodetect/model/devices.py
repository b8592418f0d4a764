"""The devices that `--device` names, and their memory."""

from collections.abc import Sequence


def check_device(name: str) -> None:
    """Raise ConfigError if this machine has no device of this name, also where nothing will need
    it. torch is not imported for "auto" and "cpu", which every machine has."""
    if name not in ("auto", "cpu"):
        from anodetect.nn.inference import pick_device

        pick_device(name)


def devices_of(name: str) -> list[str]:
    """Return the devices that a name stands for: all GPUs for "cuda", and for "auto" where there
    are any; else one. Raise ConfigError if there is none."""
    import torch

    from anodetect.nn.inference import pick_device

    device = pick_device(name)
    if device.type == "cuda" and name in ("auto", "cuda"):
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [str(device)]


def gpu_memory(devices: Sequence[str]) -> list[float]:
    """Return the bytes of memory of each GPU among devices."""
    sizes = []
    for name in devices:
        if name.startswith("cuda"):
            import torch

            sizes.append(float(torch.cuda.get_device_properties(name).total_memory))
    return sizes


def limit_memory(device: str, share: float) -> None:
    """Let this process take no more than a share of a GPU's memory."""
    if device.startswith("cuda") and share < 1:
        import torch

        torch.cuda.set_per_process_memory_fraction(share, device)
