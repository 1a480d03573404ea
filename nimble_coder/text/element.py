"""A text as Triton holds it: an element of a BYTES tensor."""


def text_of(element: object) -> str:
    """The element as text; raises `ValueError` where it is not UTF-8."""
    if not isinstance(element, bytes):
        return str(element)
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"the text is not valid UTF-8: {error.reason} at byte {error.start}") from None
