"""Contents as records of the store, and folders, which are contents with a table of their files.

A content is shared by its message and by the deliveries that are not finished, and goes with the
last of them. How many there are beside one is counted, so that of most contents nothing is.
"""

from cbfs.messages.model import Content, Message
from cbfs.messages.queues import blobs
from cbfs.storage.encoding import number_of, u32, u64
from cbfs.storage.store import Reader, Table, Writer
from cbfs_common.messages.folder import HEAD_SIZE, FolderTable, decode_table, table_end


def share_content(writer: Writer, content: int) -> None:
    """One more refers to a content, by its id, to which somebody refers already."""
    writer.put(Table.HELD, u64(content), u32(_others(writer, content) + 1))


def _others(reader: Reader, content: int) -> int:
    """How many refer to it beside one."""
    return number_of(reader.get(Table.HELD, u64(content)))


def drop_content(writer: Writer, content: int) -> None:
    """One less refers to a content, by its id; with the last one its bytes are deleted."""
    key = u64(content)
    others = _others(writer, content)
    if others > 1:
        writer.put(Table.HELD, key, u32(others - 1))
    elif others:
        writer.delete(Table.HELD, key)
    else:
        writer.delete_prefix(Table.CONTENT, key)
        blobs.left_behind(writer, content)


def read_content(reader: Reader, content: Content, offset: int, size: int) -> bytes:
    """``size`` bytes of a content from ``offset`` on, fewer at its end."""
    end = min(offset + size, content.size)
    if offset >= end:
        return b""
    first, last = offset // content.chunk, (end - 1) // content.chunk
    parts = [_chunk(reader, content, index) for index in range(first, last + 1)]
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    start = offset - first * content.chunk
    return data[start : start + end - offset]


def read_table(reader: Reader, content: Content) -> FolderTable:
    """The table of a content that is a folder. Raises DecodeError when it is none."""
    end = table_end(read_content(reader, content, 0, HEAD_SIZE))
    return decode_table(read_content(reader, content, 0, end), content.size)


def erase_content(writer: Writer, content: Content, start: int, end: int) -> None:
    """Make the bytes from ``start`` to ``end`` of a content zeros, so that what was there is
    nowhere any more."""
    for number in range(start // content.chunk, -(-end // content.chunk)):
        first = number * content.chunk
        chunk = bytearray(_chunk(writer, content, number))
        begin, stop = max(start - first, 0), min(end - first, len(chunk))
        chunk[begin:stop] = bytes(stop - begin)
        key = u64(content.id) + u32(number)
        if any(chunk):
            writer.put(Table.CONTENT, key, bytes(chunk))
        else:
            writer.delete(Table.CONTENT, key)


def _chunk(reader: Reader, content: Content, index: int) -> bytes:
    """One record of a content; what was never written of it is zeros."""
    data = reader.get(Table.CONTENT, u64(content.id) + u32(index)) or b""
    size = min(content.chunk, content.size - index * content.chunk)
    return data[:size] if len(data) >= size else data + bytes(size - len(data))


# Folders


def gone_key(message: Message) -> bytes:
    """What the keys begin with of the records of what was removed from a message that is a
    folder."""
    return message.conversation + u64(message.serial)


def gone_entries(reader: Reader, message: Message) -> set[int]:
    """The indexes of what somebody has removed from a message that is a folder."""
    keys = reader.keys(Table.GONE, gone_key(message))
    return {number_of(key[-4:]) for key in keys}


def remove_entry(writer: Writer, message: Message, at: int, start: int, size: int) -> None:
    """Take an entry out of a message that is a folder: ``size`` bytes from ``start`` on. Of one
    that was received they are erased at once; of one's own with the message, as somebody may ask
    for that again."""
    writer.put(Table.GONE, gone_key(message) + u32(at), b"")
    if size and not message.recipients:
        erase_content(writer, message.content, start, start + size)
