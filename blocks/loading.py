"""Loading a saved block by name, with None for one that is not there."""

from typing import TypeVar, cast

from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from linac.errors import SetupError

AnyBlock = TypeVar("AnyBlock", bound=Block)


def load(kind: type[AnyBlock], name: str) -> AnyBlock | None:
    """The saved block of that kind and name, or None. Raises `SetupError` where what is saved does not fit the form any more."""
    try:
        with get_client(sync_client=True) as client:
            client.read_block_document_by_name(name, kind.get_block_type_slug())
    except ObjectNotFound:
        return None
    try:
        return cast(AnyBlock, kind.load(name))
    except (ValidationError, RuntimeError) as error:  # Prefect makes the first the second's cause
        wrong = error if isinstance(error, ValidationError) else error.__cause__
        if not isinstance(wrong, ValidationError):
            raise
        raise SetupError(  # without its cause: a validation error repeats the values, secrets too
            f"The {kind.__name__} block {name!r} does not fit its form ({what_is_wrong(wrong)}). Open it in Prefect's UI, under "
            "Blocks, complete and save it."
        ) from None


def what_is_wrong(error: ValidationError) -> str:
    """The first thing that does not fit a form: the field and why, without what is in it, which may be a secret.

    A field that there is not comes before one that is missing: it is the same one, misspelt.
    """
    found = error.errors(include_input=False, include_url=False)
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    field = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "extra_forbidden":
            reason = "there is no such field; look how it is spelt"
        case "missing":
            reason = "it is missing"
        case "literal_error":
            reason = f"give {first['ctx']['expected']}"
        case _:
            reason = first["msg"].removeprefix("Value error, ")
    return f"{field}{': ' if field else ''}{reason}"


def load_all(kind: type[AnyBlock]) -> list[AnyBlock]:
    """All saved blocks of a kind, in order of their names."""
    return [block for _, block in named(kind)]


def named(kind: type[AnyBlock]) -> list[tuple[str, AnyBlock]]:
    """All saved blocks of a kind with their names, in order of these."""
    try:
        with get_client(sync_client=True) as client:
            documents = client.read_block_documents_by_type(kind.get_block_type_slug(), include_secrets=False)
    except ObjectNotFound:
        documents = []
    names = sorted(document.name for document in documents if document.name)
    blocks = [(name, load(kind, name)) for name in names]
    return [(name, block) for name, block in blocks if block is not None]
