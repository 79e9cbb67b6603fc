"""The account that opens a share."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Credentials:
    """A user's name, password and Windows domain; without a domain it is an account of the server itself.

    The password never shows:

    >>> Credentials("icomreader", "secret")
    Credentials(user='icomreader', domain='')
    """

    user: str
    password: str = field(repr=False)
    domain: str = ""

    @property
    def login(self) -> str:
        r"""The name that the server is told, as in `HOSPITAL\icomreader`."""
        return f"{self.domain}\\{self.user}" if self.domain else self.user
