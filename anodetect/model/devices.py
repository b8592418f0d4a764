"""The device that `--device` names."""


def check_device(name: str) -> None:
    """Raise ConfigError if this machine has no device of this name, also where nothing will need
    it. torch is not imported for "auto" and "cpu", which every machine has."""
    if name not in ("auto", "cpu"):
        from anodetect.nn.inference import pick_device

        pick_device(name)
