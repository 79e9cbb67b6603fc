"""Forms for what a site's operators enter once: accounts, shares, gateways, the site, its linacs.

`python -m prefect block register -m blocks` makes them known to a Prefect server (`python run.py serve` does that by itself).
Saved blocks refer to each other by name: a password changed in one `SmbCredentials` block holds everywhere at the next run.
Passwords and keys live here and nowhere else; flows take the names of blocks, never a secret.
"""

from blocks.credentials import SmbCredentials, SshGateway
from blocks.linac import Linac, block_name
from blocks.loading import load, load_all, what_is_wrong
from blocks.share import Share
from blocks.site import Site

__all__ = ["Linac", "Share", "Site", "SmbCredentials", "SshGateway", "block_name", "load", "load_all", "what_is_wrong"]
