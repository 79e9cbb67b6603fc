"""What can go wrong between here and the other side of an SSH gateway, by what an operator does about it."""

from linac.errors import PeerError, SetupError, UnreachableError


class NotSshError(PeerError):
    """What answers at the gateway's address does not speak SSH, or none of the ciphers and keys that we accept."""


class HostKeyChangedError(PeerError):
    """The gateway shows another host key than the one in its block: it was installed anew, or somebody stands in between."""


class LoginRefusedError(SetupError):
    """The gateway knows neither the account's key nor the agent's."""


class GatewayRefusedError(UnreachableError):
    """No SSH service listens there, or it hangs up at once."""


class GatewayUnreachableError(UnreachableError):
    """No way to the gateway, or nothing answers there."""


class GatewayHungError(UnreachableError):
    """The gateway took our connection and says nothing, or nothing any more."""


class GatewayLostError(UnreachableError):
    """The gateway ended a connection that was working."""


class ForwardProhibitedError(SetupError):
    """The gateway does not allow this account that forward."""


class TargetRefusedError(UnreachableError):
    """The gateway works, but cannot reach what lies behind it."""


class ListenRefusedError(SetupError):
    """A port to listen on, here or on the gateway, cannot be had, or not on the address that was asked for."""
