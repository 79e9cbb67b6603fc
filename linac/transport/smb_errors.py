"""What goes wrong with an SMB server, in an operator's words: a row for each status that hospitals see.

Numbers and meanings: [MS-ERREF] 2.3.1. Which of them Samba and Windows answer in which case was tried against Samba 4.17; where a
row speaks of Windows only, it is from the documentation.
"""

import socket
from dataclasses import dataclass

from linac.errors import LinacError, PeerError, SetupError, StorageError
from linac.transport.paths import AwayError
from linac.transport.ssh_errors import TargetRefusedError

NOT_FOUND = frozenset({0xC0000034, 0xC000003A, 0xC000000F, 0xC0000033, 0xC0000039})
"""Name not found, path not found, no such file, name or path invalid."""

PATH_NOT_FOUND = frozenset({0xC000003A})
"""A folder on the way is not there."""

EXISTS = frozenset({0xC0000035})
NO_MORE_FILES = frozenset({0x80000006, 0xC000000F})
"""The end of a listing: no more files, and for the first answer of a listing no such file."""

END_OF_FILE = 0xC0000011
NOT_EMPTY = 0xC0000101
IS_A_FOLDER = 0xC00000BA
NOT_A_FOLDER = 0xC0000103

SHARING_VIOLATION = 0xC0000043
IN_USE = frozenset({SHARING_VIOLATION, 0xC0000022, 0xC0000056, 0xC0000054, 0xC0000243})
"""Sharing violation, access denied, delete pending, lock conflict, mapped: what the replacement of a file gets while somebody has
it open. Samba says access denied (0xC0000022) for some of these, so that it must count as well."""

GONE = frozenset({0xC00000C9, 0xC0000203, 0xC000035C, 0xC000020C, 0xC000020D, 0xC0000128, 0xC00000B5, 0xC0000205, 0xC00000D0})
"""The server has ended the tree connection, the session, the connection or the file handle, or has no room for us now: all is
well again with a new connection."""


@dataclass(frozen=True)
class Where:
    """What an error text names: the server as the operator knows it, the share, the account, the way there."""

    server: str
    port: int
    share: str
    user: str
    through_gateway: bool = False

    @property
    def location(self) -> str:
        """The share as an operator would type it."""
        return rf"\\{self.server}\{self.share}"

    @property
    def service(self) -> str:
        return f"{self.server}, port {self.port}{', through the gateway' if self.through_gateway else ''}"


_ACCOUNT: dict[int, str] = {
    0xC000006D: "does not accept the name or the password of {user}. Check both, and the domain, in the credentials of the "
    "share; repeated tries may lock the account.",
    0xC000006A: "does not accept the password of {user}. Check it in the credentials of the share; repeated tries may lock the "
    "account.",
    0xC0000064: "does not know the account {user}. Check its name and domain in the credentials of the share.",
    0xC0000071: "says that the password of {user} has expired. Have it renewed, then change it in the credentials of the share.",
    0xC0000224: "wants {user} to change the password first. Log in once elsewhere to do so, then change it in the credentials.",
    0xC0000072: "says that the account {user} is disabled. Ask whoever manages it to enable it.",
    0xC0000193: "says that the account {user} has expired. Ask whoever manages it to prolong it.",
    0xC0000234: "has locked the account {user} after wrong passwords. Wait or have it unlocked, and check the password first.",
    0xC000006E: "does not let {user} log in this way: an account without a password, or restricted. Ask whoever manages it.",
    0xC000006F: "does not let {user} log in at this hour. Ask whoever manages the account.",
    0xC0000070: "does not let {user} log in from this computer. Ask whoever manages the account.",
    0xC000015B: "does not grant {user} access from the network. Ask whoever manages the server for that right.",
    0xC0000199: "does not let {user}, the account of a computer or domain, log in. Use the account of a user.",
    0xC000018B: "and this computer's domain do not trust each other. Use an account of the server itself, or ask IT.",
    0xC000018D: "and its domain do not trust each other at the moment. Ask IT.",
    0xC000005E: "cannot reach its domain controller to check the account {user}. Try again later, or ask IT.",
}

_FILE: dict[int, str] = {
    0xC0000022: "access denied. Give the account {user} the right to it, or close the program that has it open.",
    0xC00000A2: "the share is write-protected. Let the account {user} write to it.",
    0xC0000043: "another program has it open and does not share it. Close that program, or try again later.",
    0xC0000054: "another program has locked it. Close that program, or try again later.",
    0xC0000056: "it is just being deleted. Try again later.",
    0xC0000243: "another program has it mapped into memory. Close that program, or try again later.",
    0xC000007F: "the share is full. Free some space; the next run does what this one could not.",
    0xC0000044: "the quota of the account {user} is used up. Free some space or have it raised, then try again.",
    0xC0000101: "the folder is not empty.",
    0xC00000BA: "it is a folder, not a file.",
    0xC0000103: "something on the way to it is a file, not a folder.",
    0xC0000035: "something of that name is there already.",
    0xC0000033: "the server does not allow this name: it is too long, or has letters that its disk does not know. Give a "
    "shorter, plainer one.",
    0xC0000257: "the path leads to another server (DFS). Give the path on that server itself, which IT can tell.",
    0x8000002D: "the path leads through a symbolic link. Give the path that it leads to.",
    0xC0000185: "the server's disk reports an error. Ask whoever manages the server.",
    0xC000009A: "the server is short of memory. Try again later.",
}


def not_there(error: BaseException | None) -> bool:
    """Whether an error of ours came from a file or folder that is not there."""
    return getattr(error, "status", None) in NOT_FOUND


def logon(status: int, where: Where) -> LinacError:
    """The server refuses the account."""
    if status in _ACCOUNT:
        return SetupError(f"The server {where.service} {_ACCOUNT[status].format(user=where.user)}")
    if status == 0xC0000022:
        return SetupError(f"The server {where.service} lets {where.user} log in for nothing: access denied. Ask IT.")
    if status in GONE:
        return gone(where)
    return SetupError(f"The server {where.service} refuses the login of {where.user} (status 0x{status:08X}). Ask IT.")


def no_login(where: Where) -> LinacError:
    """The login failed on our side already."""
    return SetupError(
        f"No way to log in at {where.service} was found for {where.user}: the server and this computer have none in common. Give "
        "the name and the password of an account, and its domain, in the credentials of the share."
    )


def share(status: int, where: Where) -> LinacError:
    """The server refuses the share."""
    if status == 0xC00000CC:
        return SetupError(
            f"The server {where.service} has no share {where.share!r}. Check the path: it reads \\\\server\\share\\folder."
        )
    if status == 0xC0000022:
        return SetupError(
            f"The server {where.service} does not open the share {where.share!r} to {where.user}. Give that account the right to "
            "read it, or check which account the share's credentials name."
        )
    if status in GONE:
        return gone(where)
    return SetupError(f"The server {where.service} refuses the share {where.share!r} (status 0x{status:08X}). Ask IT.")


def file(status: int, action: str, path: str, where: Where) -> LinacError:
    """The server refuses something with a file or folder."""
    if status in GONE:
        return gone(where)
    why = _FILE.get(status)
    if why is None and status in NOT_FOUND:
        why = "it is not there. Check the path."
    why = why or "the server refuses with status 0x{status:08X}. Ask IT."
    return StorageError(f"Could not {action} {path}: {why.format(user=where.user, status=status)}")


def gone(where: Where) -> AwayError:
    return AwayError(
        f"The connection to {where.service} broke off: the server was restarted, or the network between failed. It is made anew "
        "at the next try."
    )


def gateway(where: Where, trouble: LinacError) -> AwayError:
    """It is the gateway, not the server; or the server as the gateway sees it."""
    if isinstance(trouble, TargetRefusedError):  # the gateway works
        return AwayError(f"There is no connection to {where.service}. {trouble}")
    return AwayError(f"The connection to {where.service}, broke off, as the gateway failed. {trouble}")


def hung(where: Where, seconds: float) -> AwayError:
    return AwayError(
        f"The server {where.service} did not answer for {seconds:.0f} s: it hangs, or a firewall drops the packets. Look whether "
        "it can be reached from this computer; the connection is made anew at the next try."
    )


def connecting(error: OSError | UnicodeError, where: Where, seconds: float) -> AwayError:
    """No connection came about."""
    if isinstance(error, socket.gaierror | UnicodeError):
        return AwayError(f"The name {where.server} is not known here. Check how it is written, or give its IP address.")
    if isinstance(error, ConnectionRefusedError):
        return AwayError(
            f"{where.service} refuses the connection: file sharing (SMB) is switched off there, the port is another, or a "
            "firewall refuses this computer. Ask IT to open the port for this computer."
        )
    if isinstance(error, TimeoutError):
        return AwayError(
            f"{where.service} did not answer within {seconds:.0f} s: it is switched off, the address is another's, or a firewall "
            "drops the packets. Ask IT to open the port for this computer."
        )
    return AwayError(f"{where.service} cannot be reached: {error.strerror or error}. Check the network and the address.")


def hung_up(where: Where) -> AwayError:
    return AwayError(
        f"{where.service} ended the connection at once: it was just restarted, does not serve this computer, or knows SMB 1 "
        "only. Try again; if it stays so, ask IT whether this computer may connect, and for SMB 2 or 3."
    )


def strange(where: Where) -> PeerError:
    return PeerError(
        f"What answers at {where.service} does not speak SMB 2 or 3. Check address and port; a server that knows SMB 1 only must "
        "be updated or read through another."
    )


def unsafe(where: Where) -> SetupError:
    return SetupError(
        f"The server {where.service} lets {where.user} in as a guest only, without signatures, so that anybody between could "
        "change what is read. Check the account's name and password, and have guest access turned off."
    )
