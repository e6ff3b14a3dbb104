"""Every error the project raises on purpose, and what the reader can do about it.

NpllmError                 message + next step; the web app renders it, the CLI prints it
├── SettingError           a setting is missing or makes no sense
├── DoorClosed             a channel whose secret is unset: its door does not exist (404)
├── Refused                a caller we do not trust
│   ├── BadSignature       the bytes were not signed with our secret (401)
│   └── NotAllowed         known, but not permitted to do this (403)
├── BadInput               what came in cannot be read (400)
│   ├── TooLarge           ... because there is too much of it (413)
│   └── TooSlow            ... because it did not arrive in time (408)
├── TooMany                the caller asks too often (429)
├── NotFound               the thing named does not exist (404)
├── Conflict               the thing named is not in a state that allows this (409)
├── Unavailable            a part we need does not answer now (503)
│   ├── ModelUnavailable   ... the model server
│   └── VendorUnavailable  ... a messaging vendor
├── ArtifactError          an adapter that must not be loaded (422)
│   ├── ChangedBytes       its files are not the ones that were registered
│   ├── WrongBase          it was trained on another base model
│   ├── UnsafeFile         it carries a file type that can run code
│   └── NotFinite          its weights hold NaN or infinity
└── NightError             a night that stopped; nothing was registered
"""

from typing import Literal

# What to do about a vendor's refusal; each integration has a table of its vendor's codes.
#   retry      it may pass: again later          tomorrow   the day's quota is used up: the channel pauses
#   stop       the credentials or the sender are wrong: the channel pauses until somebody looks
#   opt_out    the person wants nothing more     template   outside the vendor's window: only a template may go
#   split      too long                          text_only  the buttons or media are the trouble: again without
#   alert      for good, and somebody should look           permanent  for good, and nobody can help it
Action = Literal["retry", "tomorrow", "stop", "opt_out", "template", "split", "text_only", "alert", "permanent"]


class NpllmError(Exception):
    """An expected failure.

    Args:
        message: what is wrong, naming the thing it is about.
        next_step: what the reader can do now; one sentence, a command where there is one.
    """

    status = 500

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message} {self.next_step}".strip()


class SettingError(NpllmError):
    """A setting is missing or makes no sense: correct it in the environment or in `.env`."""


class DoorClosed(NpllmError):
    """A channel whose secret is not set. An unset secret closes a door; it never opens it."""

    status = 404


class Refused(NpllmError):
    """The caller is not trusted to do this."""

    status = 403


class BadSignature(Refused):
    """The signature is missing, stale or wrong for these bytes."""

    status = 401


class NotAllowed(Refused):
    """The caller is known and may not do this."""


class BadInput(NpllmError):
    """What came in cannot be read."""

    status = 400


class TooLarge(BadInput):
    """More bytes or characters than the limit allows."""

    status = 413


class TooSlow(BadInput):
    """The body did not arrive in time."""

    status = 408


class TooMany(NpllmError):
    """The caller asks too often.

    Args:
        retry_after: seconds after which it is worth trying again.
    """

    status = 429

    def __init__(self, message: str, next_step: str = "", *, retry_after: int) -> None:
        super().__init__(message, next_step)
        self.retry_after = retry_after


class NotFound(NpllmError):
    """The thing named does not exist."""

    status = 404


class Conflict(NpllmError):
    """The thing named exists, and its state does not allow this."""

    status = 409


class Unavailable(NpllmError):
    """A part that is needed does not answer; trying again later may help.

    Args:
        action: what a vendor's refusal asks for.
    """

    status = 503

    def __init__(self, message: str, next_step: str = "", *, action: Action = "permanent") -> None:
        super().__init__(message, next_step)
        self.action = action


class ModelUnavailable(Unavailable):
    """The model server did not answer, or answered with an error."""


class VendorUnavailable(Unavailable):
    """A messaging vendor did not answer, or asked us to wait.

    Args:
        retry_after: seconds the vendor asked for, if it did.
        outcome_unknown: the request may have been carried out (a time-out after sending it).
    """

    def __init__(
        self, message: str, next_step: str = "", *, retry_after: float | None = None, outcome_unknown: bool = False
    ) -> None:
        super().__init__(message, next_step, action="retry")
        self.retry_after = retry_after
        self.outcome_unknown = outcome_unknown


class ArtifactError(NpllmError):
    """An adapter that must not be loaded."""

    status = 422


class ChangedBytes(ArtifactError):
    """A file of the adapter is missing, extra, or not the one that was registered."""


class WrongBase(ArtifactError):
    """The adapter was trained on another base model or revision than this host serves."""


class UnsafeFile(ArtifactError):
    """The adapter holds a file type that can run code when loaded (pickle)."""


class NotFinite(ArtifactError):
    """The adapter's weights hold NaN or infinity."""


class NightError(NpllmError):
    """A night stopped on purpose; nothing was registered."""
