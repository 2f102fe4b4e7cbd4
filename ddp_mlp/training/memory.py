"""What a training takes of memory, held against what its machines have, before anything large is read or allocated.

The figures of a run are those of `needs.py`; what Python and the libraries take besides is small, and there already.
"""

from typing import NamedTuple

from ddp_mlp.config import Config
from ddp_mlp.data.access import Access, free_on_a_node
from ddp_mlp.data.opening import Data, Opened
from ddp_mlp.data.rounded import with_rounded_rows
from ddp_mlp.errors import EnvironmentMismatch, by_all_ranks
from ddp_mlp.nn import architecture
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.host import address_space_left, free_memory, host_name
from ddp_mlp.training.building import architecture_of
from ddp_mlp.training.needs import Needs, Rows, needs, parameter_bytes
from ddp_mlp.units import byte_size


class _Place(NamedTuple):
    """What one rank has and needs."""

    host: str
    node: int
    free: int
    """Bytes that its host, and the control groups of its process, still have."""
    mappable: float
    """Bytes that the process may still map."""
    needs: Needs


def check_opened(config: Config, communicator: Communicator, opened: Opened) -> None:
    """Raise EnvironmentMismatch on all ranks where a run on these data would not fit. Collective."""
    info, targets = opened.info, opened.targets
    network = architecture.create(info.features, config.hidden, targets, activation=config.activation)
    count = Rows(opened.rows, info.splits["train"].rows)
    mine = needs(config, info, network, count, communicator)
    check_memory(config, opened.access, parameter_bytes(config, network.layout), mine, communicator)


def check_in_memory(config: Config, data: Data, communicator: Communicator) -> None:
    """Raise EnvironmentMismatch on all ranks where a run that leaves no files, on these arrays, would not fit.

    Collective. Of parameters and state it keeps the last ones, and the best where they are wanted.
    """
    network = architecture_of(config, data)
    mine = needs(config, data.info, network, _rows(data), communicator)
    parameters = parameter_bytes(config, network.layout)
    mine = mine._replace(checkpoint=(2 + config.restore_best) * parameters + mine.optimizer)
    check_memory(config, Access("memory", 0, 0), parameters, mine, communicator)


def rounded_where_it_fits(config: Config, data: Data, communicator: Communicator) -> Data:
    """Return the data with rows in memory rounded once for all epochs of a portable run, as far as there is room.

    Collective.
    """
    if config.arithmetic != "portable" or config.epochs == 1:
        return data
    network = architecture_of(config, data)
    mine = needs(config, data.info, network, _rows(data), communicator)
    parameters = parameter_bytes(config, network.layout)
    places = _places(mine, communicator)
    largest = max(
        sum(place.needs.memory for place in places if place.node == node) for node in {p.node for p in places}
    )
    mappable = min(place.mappable - _mapped(place, places) for place in places)
    spare = min(free_on_a_node(communicator) - largest, mappable) - parameters
    return with_rounded_rows(data, network.layout.widths[1], spare, communicator)


def _rows(data: Data) -> Rows:
    split = data.info.splits["train"].rows
    return Rows(split if data.train[1] is None else len(data.train[1]), split)


def check_memory(config: Config, access: Access, parameters: int, mine: Needs, communicator: Communicator) -> None:
    """Raise EnvironmentMismatch on all ranks where a host, or a process, has less memory than it would need.

    Collective. `parameters` are the bytes of one copy.
    """
    places = _places(mine, communicator)
    once = access.node_bytes + (parameters if config.reduction == "exact" else 0)
    each = 0 if config.reduction == "exact" else parameters
    for host in dict.fromkeys(place.host for place in places):
        here = [place for place in places if place.host == host]
        needed = once * len({place.node for place in here}) + sum(place.needs.memory + each for place in here)
        free = min(place.free for place in here)
        if needed > free:
            ranks = "" if communicator.size == 1 else f" of {host}"
            raise by_all_ranks(
                EnvironmentMismatch(
                    f"{_taken(here, parameters, access)}: {byte_size(needed)}{ranks}, but {byte_size(free)} are free: "
                    f"{_remedy(len(here) > 1)}"
                )
            )
    for rank, place in enumerate(places):
        needed = access.node_bytes + parameters + _mapped(place, places)
        if needed > place.mappable:
            raise by_all_ranks(
                EnvironmentMismatch(
                    f"rank {rank} needs {byte_size(needed)} of address space, but ulimit -v leaves it "
                    f"{byte_size(place.mappable)}: raise that, or {_remedy(False)}"
                )
            )


def _places(mine: Needs, communicator: Communicator) -> list[_Place]:
    """Return what every rank has and needs. Collective."""
    return communicator.allgather(
        _Place(host_name(), communicator.node, free_memory(shared=False), address_space_left(), mine)
    )


def _mapped(place: _Place, places: list[_Place]) -> int:
    """Return the bytes that a rank maps beside data and parameters: its own, and the gradients that its node shares."""
    shared = sum(other.needs.gradients for other in places if other.node == place.node)
    return shared + place.needs.memory - place.needs.gradients


def _taken(here: list[_Place], parameters: int, access: Access) -> str:
    """Return in words what takes memory on a host."""
    parts = {
        "parameters": parameters,
        "gradients": sum(place.needs.gradients for place in here),
        "optimizer": sum(place.needs.optimizer for place in here),
        "activations": sum(place.needs.activations for place in here),
        "checkpoint": sum(place.needs.checkpoint for place in here),
        "data": access.node_bytes,
    }
    return "memory: " + ", ".join(f"{name} {byte_size(size)}" for name, size in parts.items() if size) + " are"


def _remedy(several: bool) -> str:
    return "lower hidden, batch_size or chunk_rows" + (", or start fewer ranks per node" if several else "")
