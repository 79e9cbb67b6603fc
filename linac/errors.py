"""Every error of this project, by who must act.

An error's text is an instruction: what happened (machine, path, byte offset), why it probably did, what to do. It never holds
a patient's name or ID, nor a secret: errors travel into logs, run states and reports.

>>> try:
...     raise UnreachableError(
...         "Linac 4299: the NSS at 192.168.17.40 refused port 1706. The iCom licence or firewall rule is probably missing "
...         "on the NSS: ask the Elekta engineer to allow this server, then run check-linac again."
...     )
... except LinacError as error:
...     print(type(error).__name__)
UnreachableError
"""


class LinacError(Exception):
    """Root of all errors that this project raises on purpose."""


class PeerError(LinacError):
    """The other end answered, but with something that it should not say. The Elekta engineer or the address is to be asked."""


class NotIcomError(PeerError):
    """What answers at the address does not speak iCom."""


class WrongMachineError(PeerError):
    """The iCom service answers for another machine than the one that was asked for."""


class UnreachableError(LinacError):
    """The network, a firewall or a machine that is switched off is in the way. Hospital IT is to be asked."""


class SetupError(LinacError):
    """A form, a file or an account of ours is wrong. The operator who set it up can mend it."""


class AlreadyRunningError(SetupError):
    """Another process of ours does this work already; this one must not."""


class StorageError(LinacError):
    """A folder or share is full, read-only, in use or gone while we use it."""


class DamagedError(LinacError):
    """A file holds something that cannot be read. It is set aside with this reason; the rest goes on."""


class BackupError(DamagedError):
    """A diagnostic backup (`SDD+*.zip`) cannot be read, or only in part."""


class JournalError(DamagedError):
    """A journal segment cannot be read beyond what its torn tail explains."""


class TrfError(DamagedError):
    """A TRF log cannot be read.

    `path` is the file's name or None for bytes; `offset` the byte where reading failed; `expected` and `found` say what the
    format asks for there and what is there instead.
    """

    def __init__(self, path: str | None, offset: int, expected: str, found: str, advice: str = "") -> None:
        self.path, self.offset, self.expected, self.found, self.advice = path, offset, expected, found, advice
        text = f"{path or 'TRF bytes'}: at byte {offset} expected {expected}, found {found}."
        super().__init__(f"{text} {advice}".strip())

    def __reduce__(self) -> tuple[type, tuple[str | None, int, str, str, str]]:  # pickles across process pools
        return type(self), (self.path, self.offset, self.expected, self.found, self.advice)
