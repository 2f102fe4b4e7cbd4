"""What is done again and again to the same memory, prepared once: which functions are called, and with what.

Views and slices, which cost about as much as a small array's sum, are made when a call is prepared.
"""

from collections.abc import Callable
from typing import Any

Calls = list[tuple[Callable[..., object], tuple[Any, ...]]]
"""Functions, and what they are called with, in order."""


def do(calls: Calls) -> None:
    """Do what has been prepared."""
    for function, arguments in calls:
        function(*arguments)
