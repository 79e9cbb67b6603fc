"""The iCom stream of an Elekta linac: bytes in, messages out.

>>> from datetime import datetime
>>> from linac.icom import MessageStream, encode, named
>>> first = encode(datetime(2024, 5, 6, 12, 13, 14), 41, [named("Machine ID", "4299"), named("Gantry", -179.5)])
>>> second = encode(datetime(2024, 5, 6, 12, 13, 14), 42, [named("Machine ID", "4299"), named("Gantry", -178.9)])
>>> stream = MessageStream()
>>> stream.feed(first + second[:40])
[Message(2024-05-06 12:13:14, counter 41, 62 bytes)]
>>> stream.feed(second[40:])
[]
>>> [message] = stream.close()
>>> message.get("Gantry"), message.get("Machine ID"), message.get("Patient ID")
(-178.9, '4299', None)

A recorded session goes through `split`, and `Delivery.from_messages` makes control points of it, equal to those of PyMedPhys's
`Delivery.from_icom`. On the command line: `python -m linac.icom show FILE.xz`.

What it does not do: open sockets, wait, or write files (`linac.capture` does), or interpret the items that nobody has explained
yet (they are kept, in `Message.items`).
"""

from linac.icom.delivery import Delivery, delivered_mu
from linac.icom.encode import device, encode, encode_device, encode_item, encode_message, named
from linac.icom.items import BY_NAME, NO_VALUE, VALUES, Item, Value
from linac.icom.message import Jaws, Message
from linac.icom.stream import MessageStream, split

__all__ = [
    "BY_NAME",
    "NO_VALUE",
    "VALUES",
    "Delivery",
    "Item",
    "Jaws",
    "Message",
    "MessageStream",
    "Value",
    "delivered_mu",
    "device",
    "encode",
    "encode_device",
    "encode_item",
    "encode_message",
    "named",
    "split",
]
