"""The passes over a picture, beside other work."""

from PIL import Image

from engine.methods import Method
from engine.prepared import Prepared
from engine.service.resolving import Loaded
from engine.service.schemas import Passes
from engine.service.tickets import Ticket


def prepare_by_turns(loaded: Loaded, picture: Image.Image, method: Method, how: Passes, ticket: Ticket) -> Prepared:
    """Return the picture prepared. method: the one of `how`, chosen. Raises ImageError, OptionError, Refused, Cancelled."""
    deadline = seconds_left(method, how, ticket)
    with ticket.network():
        return loaded.explainer.prepare(
            picture, method, None, how.baseline, tolerance=how.tolerance, deadline=deadline, progress=ticket.progress
        )


def seconds_left(method: Method, how: Passes, ticket: Ticket) -> float | None:
    """Seconds left for the engine: until the deadline asked for, or until what may be taken at all, if it can end early."""
    return ticket.left() if how.deadline is not None or method.ends_early else None
