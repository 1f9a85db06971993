"""Which message a conversation's folder shows under which name, as records of the store.

The key of a record may be guessed for as long as its conversation is there, and is not to tell the
name of a file that was deleted: so the names of one minute are together in pages. There is one page
until it is full, and another whenever one is full: whoever sends many messages of one date makes
many records, and no large one. In which page a name is follows from a salt that nobody foretells,
and nearly all pages have names: so which pages there are tells no name.

Page 0 is the record of ``Table.FILE_NAMES`` under conversation 16 | how the names begin; with the
others a number follows, u32. All of it is in ``Table.MESSAGES`` too, and can be made again from
there. What changes it belongs into the transaction that changes the messages: a crash leaves both
or neither.
"""

from dataclasses import dataclass

from cbfs.storage.encoding import number_of, pack, u32, u64, unpack, unpack_map
from cbfs.storage.store import Reader, Table, Writer
from cbfs_common.primitives import kdf

BEGINNING = 16
"""Characters of a name, ``2026-11-23T14.46``, that all names in its pages begin with."""

PAGE_MAX = 64
"""Names in a page that make it full."""


@dataclass(slots=True)
class _Page:
    """Names, each with the serial of its message. Page 0 also has the ``salt`` (8) by which names
    are in ``pages`` pages, and how many there are in all: ``count``."""

    names: dict[str, int]
    salt: bytes = b""
    pages: int = 1
    count: int = 0

    def encode(self) -> bytes:
        """salt | pages | count | {name: serial, ...}."""
        return pack(self.salt, self.pages, self.count, self.names)

    def number_for(self, name: str) -> int:
        """In which page a name is. One page more takes names from one page only."""
        drawn = number_of(kdf(self.salt, b"cbfs1 name page", name.encode(), 4))
        size = 1 << (self.pages - 1).bit_length()
        at = drawn % size
        return at if at < self.pages else at - size // 2


def _decode(data: bytes) -> _Page:
    salt, pages, count, names = unpack(data, bytes, int, int, dict)
    return _Page(unpack_map(names, str, int), salt, pages, count)


Read = dict[bytes, _Page]
"""Pages that were read already, by the keys of their records."""


def serial_of(
    reader: Reader, conversation: bytes, name: str, pages: Read | None = None
) -> int | None:
    """The serial of the message that a conversation's folder shows under this name. What is read
    for that comes into ``pages``, and is read once."""
    key = _key(conversation, name)
    pages = {} if pages is None else pages
    _number, page = _page_for(reader, key, _load(reader, key, 0, pages), name, pages)
    return page.names.get(name)


def name_file(
    writer: Writer, conversation: bytes, name: str, serial: int, pages: Read | None = None
) -> None:
    """The folder shows a message under this name. ``pages`` are of this transaction, in which
    nothing has changed them; they are of no use after this."""
    key = _key(conversation, name)
    pages = {} if pages is None else pages
    first = _load(writer, key, 0, pages)
    number, page = _page_for(writer, key, first, name, pages)
    first.count += name not in page.names
    page.names[name] = serial
    if len(page.names) > PAGE_MAX:
        _store(writer, key, number, page)
        _add_page(writer, key, first)
    elif number:
        _store(writer, key, number, page)
    _store(writer, key, 0, first)


def free_file_name(writer: Writer, conversation: bytes, name: str) -> None:
    """The folder shows nothing under this name any more."""
    key = _key(conversation, name)
    first = _load(writer, key, 0, {})
    number, page = _page_for(writer, key, first, name, {})
    if page.names.pop(name, None) is None:
        return
    first.count -= 1
    if number:
        _store(writer, key, number, page)
    _store(writer, key, 0, first)


def _add_page(writer: Writer, key: bytes, first: _Page) -> None:
    """Move those names into a new page that belong there then."""
    new, first.pages = first.pages, first.pages + 1
    first.salt = first.salt or u64(writer.random_number())
    source = new - (1 << (new.bit_length() - 1))
    page = _load(writer, key, source, {}) if source else first
    names = list(page.names.items())
    moved = _Page({name: serial for name, serial in names if first.number_for(name) == new})
    for name in moved.names:
        del page.names[name]
    _store(writer, key, new, moved)
    if source:
        _store(writer, key, source, page)


def _key(conversation: bytes, name: str) -> bytes:
    return conversation + name[:BEGINNING].encode()


def _page_for(
    reader: Reader, key: bytes, first: _Page, name: str, pages: Read
) -> tuple[int, _Page]:
    """The number of the page of a name, and that page."""
    number = first.number_for(name)
    return number, _load(reader, key, number, pages) if number else first


def _load(reader: Reader, key: bytes, number: int, pages: Read) -> _Page:
    where = key + (u32(number) if number else b"")
    page = pages.get(where)
    if page is None:
        data = reader.get(Table.FILE_NAMES, where)
        page = pages[where] = _Page({}) if data is None else _decode(data)
    return page


def _store(writer: Writer, key: bytes, number: int, page: _Page) -> None:
    """Page 0 is there as long as there are names, the others as long as names are in them."""
    where = key + (u32(number) if number else b"")
    if page.names or page.count:
        writer.put(Table.FILE_NAMES, where, page.encode())
    else:
        writer.delete(Table.FILE_NAMES, where)
