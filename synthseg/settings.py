"""One check of settings, for all classes of settings."""

from typing import Any, Literal, get_args, get_origin, get_type_hints


def check_choices(settings: Any) -> None:
    """Refuse a value that the ``Literal`` type of its field does not list.

    Called in ``__post_init__`` of a dataclass of settings.

    Raises
    ------
    ValueError
        For instance "resize is 'cubic'; choose area or nearest."
    """
    for name, hint in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            options = " or ".join(str(option) for option in get_args(hint))
            raise ValueError(f"{name} is '{value}'; choose {options}.")
